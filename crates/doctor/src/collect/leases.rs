//! Leases that DHCP clients wrote down, each in its own format.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use super::kernel::Indexes;
use super::{bytes, names, text};
use crate::machine::{Lease, MachineObservation};

pub(super) fn read(root: &Path, indexes: &Indexes, o: &mut MachineObservation) {
    let mut found = vec![];
    for (index, link) in indexes {
        let path = format!("/run/systemd/netif/leases/{index}");
        found.extend(text(root, &path).map(|t| assignments(&t, link, "systemd-networkd", &path)));
    }
    for dir in ["/var/lib/dhcp", "/var/lib/dhclient", "/var/lib/NetworkManager", "/var/db"] {
        for name in names(root, dir) {
            let path = format!("{dir}/{name}");
            if name.starts_with("dhclient") && name.contains(".lease") {
                found.extend(dhclient(&text(root, &path).unwrap_or_default(), &path));
            }
            let internal = name.strip_prefix("internal-").and_then(|n| n.strip_suffix(".lease"));
            let link = internal.and_then(|n| indexes.values().find(|l| n.ends_with(&format!("-{l}"))));
            if let (Some(link), Some(t)) = (link, text(root, &path)) {
                found.push(assignments(&t, link, "NetworkManager", &path));
            }
        }
    }
    for dir in ["/var/lib/dhcpcd", "/var/lib/dhcpcd5", "/run/dhcpcd"] {
        for name in names(root, dir) {
            let stem = name.strip_suffix(".lease").unwrap_or_default();
            let link = indexes.values().find(|l| stem == *l || stem.starts_with(&format!("{l}-")));
            if let Some(link) = link {
                let path = format!("{dir}/{name}");
                found.extend(bytes(root, &path).and_then(|b| packet(&b, link, &path)));
            }
        }
    }
    keep(found, o);
}

/// Leases in files that running clients name on their command lines.
pub(super) fn of_clients(root: &Path, o: &mut MachineObservation) {
    let mut found = vec![];
    for c in o.clients.iter().filter(|c| c.program == "dhclient") {
        let mut words = c.command.split_whitespace().skip_while(|w| *w != "-lf");
        let Some(path) = words.nth(1) else { continue };
        if !o.leases.iter().any(|l| path.ends_with(&l.source)) {
            let content = text(root, path).or_else(|| text(Path::new("/"), path));
            found.extend(dhclient(&content.unwrap_or_default(), path));
        }
    }
    keep(found, o);
}

/// Old leases stay in files; only those whose address is still there are leases.
fn keep(found: Vec<Lease>, o: &mut MachineObservation) {
    for lease in found {
        let held = o.addresses.iter().any(|a| a.link == lease.link && Some(a.net.addr()) == lease.address);
        if held && !o.leases.contains(&lease) {
            o.leases.retain(|l| (&l.link, &l.client) != (&lease.link, &lease.client));
            o.leases.push(lease);
        }
    }
}

fn ips(list: &str) -> Vec<IpAddr> {
    list.split([',', ' ']).filter_map(|w| w.trim().parse().ok()).collect()
}

/// `KEY=VALUE` lines, as networkd and NetworkManager's own client write them.
fn assignments(content: &str, link: &str, client: &str, path: &str) -> Lease {
    let mut l = Lease { link: link.into(), client: client.into(), source: path.into(), ..Lease::default() };
    for (key, value) in content.lines().filter_map(|line| line.split_once('=')) {
        match key {
            "ADDRESS" => l.address = value.parse().ok(),
            "SERVER_ADDRESS" => l.server = value.parse().ok(),
            "ROUTER" => l.routers = ips(value),
            "DNS" => l.dns = ips(value),
            "MTU" => l.mtu = value.parse().ok(),
            "ROUTES" | "CLASSLESS_ROUTES" => {
                let default = value.split_whitespace().find_map(|r| r.strip_prefix("0.0.0.0/0,"));
                l.classless_default = default.and_then(|g| g.parse().ok());
            }
            _ => {}
        }
    }
    l
}

/// dhclient's file: blocks in braces, of which the last one of a link counts.
pub(super) fn dhclient(content: &str, path: &str) -> Vec<Lease> {
    let mut all: Vec<Lease> = vec![];
    for block in content.split("lease {").skip(1) {
        let block = block.split('}').next().unwrap_or_default();
        let mut l = Lease { client: "dhclient".into(), source: path.into(), ..Lease::default() };
        for statement in block.split(';').map(str::trim) {
            let (key, value) =
                statement.strip_prefix("option ").unwrap_or(statement).split_once(' ').unwrap_or_default();
            let value = value.trim();
            match key {
                "interface" => value.trim_matches('"').clone_into(&mut l.link),
                "fixed-address" => l.address = value.parse().ok(),
                "dhcp-server-identifier" => l.server = value.parse().ok(),
                "routers" => l.routers = ips(value),
                "domain-name-servers" => l.dns = ips(value),
                "interface-mtu" => l.mtu = value.parse().ok(),
                "rfc3442-classless-static-routes" => {
                    let numbers: Vec<u8> = value.split([',', '.']).filter_map(|n| n.trim().parse().ok()).collect();
                    l.classless_default = classless_default(&numbers);
                }
                _ => {}
            }
        }
        all.retain(|o| o.link != l.link);
        all.push(l);
    }
    all
}

/// The gateway of the default route in option 121 (RFC 3442): prefix length, significant octets, gateway.
fn classless_default(mut data: &[u8]) -> Option<IpAddr> {
    while let Some((len, rest)) = data.split_first() {
        let significant = usize::from(len.div_ceil(8));
        let gateway: [u8; 4] = rest.get(significant..significant + 4)?.try_into().ok()?;
        if *len == 0 {
            return Some(Ipv4Addr::from(gateway).into());
        }
        data = &rest[significant + 4..];
    }
    None
}

/// A DHCP packet as dhcpcd keeps it (RFC 2131, section 2; options after the magic cookie).
fn packet(data: &[u8], link: &str, path: &str) -> Option<Lease> {
    let ip = |d: &[u8]| Some(IpAddr::from(<[u8; 4]>::try_from(d.get(..4)?).ok()?));
    if data.get(236..240)? != [99, 130, 83, 99] {
        return None;
    }
    let mut l = Lease { link: link.into(), client: "dhcpcd".into(), source: path.into(), ..Lease::default() };
    l.address = ip(&data[16..20]);
    let mut rest = &data[240..];
    while let Some((code, tail)) = rest.split_first() {
        if *code == 255 {
            break;
        }
        if *code == 0 {
            rest = tail;
            continue;
        }
        let (len, body) = tail.split_first()?;
        let value = body.get(..usize::from(*len))?;
        match code {
            3 => l.routers = value.chunks_exact(4).filter_map(ip).collect(),
            6 => l.dns = value.chunks_exact(4).filter_map(ip).collect(),
            26 => l.mtu = value.try_into().ok().map(|b| u32::from(u16::from_be_bytes(b))),
            54 => l.server = ip(value),
            121 | 249 => l.classless_default = l.classless_default.or(classless_default(value)),
            _ => {}
        }
        rest = &body[usize::from(*len)..];
    }
    Some(l)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DHCLIENT: &str = r#"
lease {
  interface "eth1";
  fixed-address 10.1.0.9;
  option routers 10.1.0.9;
}
lease {
  interface "eth1";
  fixed-address 10.1.0.5;
  option subnet-mask 255.255.255.0;
  option routers 10.1.0.1, 10.1.0.2;
  option interface-mtu 1400;
  option dhcp-server-identifier 10.1.0.253;
  option rfc3442-classless-static-routes 16,10,50,10,1,0,1,0,10,1,0,3;
  option domain-name-servers 10.1.0.53;
  renew 6 2026/11/21 15:00:00;
}
"#;

    #[test]
    fn the_last_lease_of_dhclient_counts() {
        let all = dhclient(DHCLIENT, "/var/lib/dhcp/dhclient.leases");
        assert_eq!(all.len(), 1);
        let l = &all[0];
        assert_eq!(l.address, Some([10, 1, 0, 5].into()));
        assert_eq!(l.server, Some([10, 1, 0, 253].into()));
        assert_eq!(l.routers.len(), 2);
        assert_eq!((l.mtu, l.classless_default), (Some(1400), Some([10, 1, 0, 3].into())));
    }

    #[test]
    fn networkd_leases_are_read() {
        let l = assignments(
            "ADDRESS=10.1.0.5\nROUTER=10.1.0.1\nSERVER_ADDRESS=10.1.0.253\nMTU=1400\nDNS=10.1.0.53 10.1.0.54\n\
             ROUTES=10.50.0.0/16,10.1.0.1 0.0.0.0/0,10.1.0.3\n",
            "eth1",
            "systemd-networkd",
            "x",
        );
        assert_eq!((l.mtu, l.dns.len()), (Some(1400), 2));
        assert_eq!(l.classless_default, Some([10, 1, 0, 3].into()));
    }

    #[test]
    fn a_packet_is_read_and_a_cut_one_is_not() {
        let mut p = vec![0; 236];
        p[16..20].copy_from_slice(&[10, 1, 0, 5]);
        p.extend([99, 130, 83, 99, 0, 54, 4, 10, 1, 0, 253, 26, 2, 5, 120, 3, 4, 10, 1, 0, 1, 255]);
        let l = packet(&p, "eth1", "x").unwrap();
        assert_eq!((l.address, l.mtu), (Some([10, 1, 0, 5].into()), Some(1400)));
        assert_eq!(l.server, Some([10, 1, 0, 253].into()));
        for cut in 0..p.len() - 1 {
            let _ = packet(&p[..cut], "eth1", "x");
        }
        assert!(packet(&p[..250], "eth1", "x").is_none());
    }
}
