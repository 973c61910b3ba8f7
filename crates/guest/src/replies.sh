#!/bin/sh
# Keeps replies on the NIC of their address: a table and a rule for each line of replies.conf.
#   replies apply    once
#   replies watch    now, and whenever a link or an address changes
# Routes and rules say that they are the kernel's own: networkd removes what others put there when it starts.
PATH=/usr/sbin:/usr/bin:/sbin:/bin
conf=${0%/*}/replies.conf

device() {
    ip -o link show | sed -n "/link\/ether $1 /s/^[0-9]*: \([^:@]*\).*/\1/p" | head -n 1
}

rule() { # FAMILY PRIORITY FROM TABLE
    ip "$1" rule show | grep -q "^$2:.* from $3 lookup $4\( \|\$\)" && return
    ip "$1" rule del pref "$2"
    ip "$1" rule add pref "$2" from "$3" lookup "$4" protocol kernel || ip "$1" rule add pref "$2" from "$3" lookup "$4"
}

apply() {
    while read -r mac family table priority from prefix gateway; do
        case $mac in ''|'#'*) continue ;; esac
        d=$(device "$mac")
        [ -n "$d" ] || continue
        ip "-$family" route replace "$prefix" dev "$d" table "$table" proto kernel
        # Its gateway may be out of reach until the NIC has its address.
        ip "-$family" route replace default via "$gateway" dev "$d" table "$table" onlink proto kernel
        rule "-$family" "$priority" "$from" "$table"
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
