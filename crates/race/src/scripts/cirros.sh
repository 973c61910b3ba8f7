#!/bin/sh
# What CirrOS's script for udhcpc does to addresses and routes, and no more: routers and classless routes side by side,
# and nothing is taken back but the default route of a router that is replaced.
case $1 in
    deconfig)
        busybox ifconfig "$interface" 0.0.0.0
        ;;
    bound | renew)
        busybox ifconfig "$interface" "$ip" ${broadcast:+broadcast $broadcast} ${subnet:+netmask $subnet} ${mtu:+mtu $mtu}
        if [ -n "$router" ]; then
            busybox route del default gw 0.0.0.0 dev "$interface" 2>/dev/null
            for gateway in $router; do busybox route add default gw "$gateway" dev "$interface"; done
        fi
        {
            [ -z "$domain" ] || echo "search $domain"
            for server in $dns; do echo "nameserver $server"; done
        } >/etc/resolv.conf
        set -- $staticroutes
        while [ $# -ge 2 ]; do
            busybox route add -net "$1" gw "$2"
            shift 2
        done
        ;;
esac
exit 0
