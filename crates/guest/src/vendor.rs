//! Vendor-data for cloud-init: what network-config cannot say, in a form that does not depend on who renders it.
//!
//! It is a MIME message of two parts: cloud-config that has the network configuration read again at every boot and after a
//! hot-plug, and a boothook, which cloud-init runs at every boot (user-data's `write_files` would run at the first one
//! only). The boothook writes a small program of POSIX sh and iproute2 that keeps tables and rules, and starts it.
//! See docs/decisions/0004.

use std::fmt::Write;

use base64::Engine;
use ipnet::IpNet;

use crate::Guest;
use crate::cloudinit::{Left, left_out_by_ec2};
use crate::state::MAIN;

/// Keeps routes and rules.
pub(crate) const PROGRAM: &str = include_str!("routes.sh");

const UPDATES: &str = "#cloud-config\nupdates:\n  network:\n    when: [boot, hotplug]\n";

/// cloud-config that asks for nothing.
pub(crate) const NOTHING: &str = "#cloud-config\n{}\n";

/// What cloud-init looks into to find out what it is.
const FOREIGN: &str = "text/plain";

const UNIT: &str = "[Unit]
Description=Routes and rules of the planned network
After=network-pre.target

[Service]
ExecStart=/bin/sh /etc/multihome/routes watch
Restart=on-failure

[Install]
WantedBy=multi-user.target
";

/// The whole message.
pub(crate) fn data(guest: &Guest, left_out: &[Left]) -> String {
    multipart(&[("text/cloud-config", UPDATES), ("text/cloud-boothook", &boothook(guest, left_out))])
}

/// The same with the user's own data as its first part, for metadata that has no place for a vendor's. cloud-init finds
/// out by itself what the user's part is.
pub(crate) fn with_user_data(guest: &Guest) -> String {
    let hook = boothook(guest, &left_out_by_ec2(guest));
    let mut parts = vec![];
    if let Some(own) = &guest.user_data {
        parts.push((FOREIGN, own.as_str()));
    }
    parts.extend([("text/cloud-config", UPDATES), ("text/cloud-boothook", &hook)]);
    multipart(&parts)
}

/// What network-config does not say, one line each:
/// - `MAC FAMILY route TABLE DESTINATION GATEWAY`, the gateway `-` where the destination is on the link
/// - `MAC FAMILY rule PRIORITY FROM TABLE`
/// - `MAC FAMILY address ADDRESS/LENGTH`
/// - `MAC 0 link MTU`: the link is up
fn conf(guest: &Guest, left_out: &[Left]) -> String {
    let mut out = String::new();
    for left in left_out {
        let _ = match left {
            Left::Route(mac, to, via) => writeln!(out, "{mac} {} route {MAIN} {to} {via}", digit(to)),
            Left::Link(mac, mtu) => writeln!(out, "{mac} 0 link {mtu}"),
            Left::Address(mac, a) => writeln!(out, "{mac} {} address {a}", digit(a)),
        };
    }
    for nic in guest.nics() {
        let mac = nic.plan.mac;
        for s in nic.stacks() {
            let Some(t) = s.own_table() else { continue };
            let digit = s.digit();
            let _ = writeln!(out, "{mac} {digit} route {} {} -", t.id, t.prefix);
            let _ = writeln!(out, "{mac} {digit} route {} default {}", t.id, t.gateway);
            let _ = writeln!(out, "{mac} {digit} rule {} {} {}", t.priority, t.from, t.id);
        }
    }
    out
}

fn digit(net: &IpNet) -> u8 {
    if net.addr().is_ipv4() { 4 } else { 6 }
}

/// Idempotent, and takes away what an earlier boot needed and this one does not.
fn boothook(guest: &Guest, left_out: &[Left]) -> String {
    let lines = conf(guest, left_out);
    if lines.is_empty() {
        return "#cloud-boothook\n#!/bin/sh\n\
                # There is nothing to add to the network configuration.\n\
                rm -rf /etc/multihome /etc/network/if-up.d/multihome\n\
                rm -f /etc/systemd/system/multihome-routes.service \
                /etc/systemd/system/multi-user.target.wants/multihome-routes.service\n"
            .into();
    }
    format!(
        "#cloud-boothook
#!/bin/sh
mkdir -p /etc/multihome
cat >/etc/multihome/routes <<'END'
{PROGRAM}END
cat >/etc/multihome/routes.conf <<'END'
{lines}END
if [ -d /run/systemd/system ]; then
    cat >/etc/systemd/system/multihome-routes.service <<'END'
{UNIT}END
    systemctl daemon-reload
    systemctl enable multihome-routes.service
    systemctl restart --no-block multihome-routes.service
elif [ -d /etc/network/if-up.d ]; then
    printf '#!/bin/sh\\nexec /bin/sh /etc/multihome/routes apply\\n' >/etc/network/if-up.d/multihome
    chmod 755 /etc/network/if-up.d/multihome
fi
/bin/sh /etc/multihome/routes apply
"
    )
}

/// A MIME message (RFC 2046 section 5.1.3). What is not ours is in base64, so that nothing in it can end it.
fn multipart(parts: &[(&str, &str)]) -> String {
    let boundary = "==multihome==";
    let mut out = format!("Content-Type: multipart/mixed; boundary=\"{boundary}\"\nMIME-Version: 1.0\n\n");
    for (kind, text) in parts {
        let (encoding, body) = match *kind {
            FOREIGN => ("base64", base64_lines(text)),
            _ => ("7bit", (*text).to_owned()),
        };
        let _ = write!(
            out,
            "--{boundary}\nContent-Type: {kind}; charset=\"utf-8\"\nContent-Transfer-Encoding: {encoding}\n\n{body}\n"
        );
    }
    let _ = writeln!(out, "--{boundary}--");
    out
}

/// 76 characters a line (RFC 2045 section 6.8).
fn base64_lines(text: &str) -> String {
    let encoded = base64::engine::general_purpose::STANDARD.encode(text);
    encoded.as_bytes().chunks(76).map(|line| String::from_utf8_lossy(line) + "\n").collect()
}
