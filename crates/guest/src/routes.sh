#!/bin/sh
# Keeps the links, addresses, routes and rules of routes.conf, which cloud-init cannot hand to every network manager.
#   routes apply    once
#   routes watch    now, and whenever a link or an address changes
# They say that they are the kernel's own: networkd removes what others put there when it starts.
PATH=/usr/sbin:/usr/bin:/sbin:/bin
conf=${0%/*}/routes.conf

device() { # MAC
    ip -o link show | sed -n "/link\/ether $1 /s/^[0-9]*: \([^:@]*\).*/\1/p" | head -n 1
}

route() { # FAMILY DEVICE TABLE DESTINATION GATEWAY
    if [ "$5" = - ]; then
        ip "$1" route replace "$4" dev "$2" table "$3" proto kernel
    else
        # Its gateway may be out of reach until the NIC has its address.
        ip "$1" route replace "$4" via "$5" dev "$2" table "$3" onlink proto kernel
    fi
}

rule() { # FAMILY PRIORITY FROM TABLE
    ip "$1" rule show | grep -q "^$2:[[:space:]]*from $3 lookup $4\( \|\$\)" && return
    ip "$1" rule del pref "$2"
    ip "$1" rule add pref "$2" from "$3" lookup "$4" protocol kernel || ip "$1" rule add pref "$2" from "$3" lookup "$4"
}

apply() {
    while read -r mac family kind a b c; do
        case $mac in ''|'#'*) continue ;; esac
        d=$(device "$mac")
        [ -n "$d" ] || continue
        case $kind in
            route) route "-$family" "$d" "$a" "$b" "$c" ;;
            address) ip "-$family" address replace "$a" dev "$d" ;;
            link) ip link set dev "$d" mtu "$a" up ;;
            rule) rule "-$family" "$a" "$b" "$c" ;;
        esac
    done <"$conf" 2>/dev/null
}

case ${1:-apply} in
    apply) apply ;;
    watch)
        apply
        # The line after a second stands for what happened before the monitor listened.
        { ip monitor link address & sleep 1; echo; wait; } | while read -r _; do apply; done
        ;;
esac
