#!/bin/sh
# What Alpine's script for udhcpc does to addresses and routes, and no more: a metric by device, classless routes before
# a router, and at a renewal only routers that are not there yet.
index=$(cat /sys/class/net/"$interface"/ifindex)

put() {
    ip -4 route add "$1" via "$2" dev "$interface" metric $((200 + index + count)) && count=$((count + 1))
}

routes() {
    count=0
    if [ -n "$staticroutes" ]; then
        set -- $staticroutes
        while [ $# -ge 2 ]; do
            [ "$2" = 0.0.0.0 ] || put "$1" "$2"
            shift 2
        done
    else
        for gateway in $router; do put 0.0.0.0/0 "$gateway"; done
    fi
}

resolver() {
    {
        [ -z "$domain" ] || echo "search $domain"
        for server in $dns; do echo "nameserver $server"; done
    } >/etc/resolv.conf
}

case $1 in
    deconfig)
        ip -4 address flush dev "$interface"
        ;;
    bound)
        ip -4 address add "$ip/$mask" ${broadcast:+broadcast $broadcast} dev "$interface"
        ip link set dev "$interface" up
        routes
        resolver
        ;;
    renew)
        if ! ip -4 address show dev "$interface" | grep -qF "$ip/$mask"; then
            ip -4 address flush dev "$interface"
            ip -4 address add "$ip/$mask" ${broadcast:+broadcast $broadcast} dev "$interface"
        fi
        for gateway in $router; do
            ip -4 route show | grep ^default | grep -qF "$gateway" || { routes; break; }
        done
        for server in $dns; do
            grep -qF "nameserver $server" /etc/resolv.conf || { resolver; break; }
        done
        ;;
esac
exit 0
