//! The world outside: routers of both networks and, where Multihome does not serve, DHCP servers that know of no plan.

use serde_json::{Value, json};

use crate::machine::Machine;
use crate::{Result, networks};

/// Who serves DHCP, and advertises itself as a router, out there. All of them name a router on both networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Foreign {
    /// Nobody.
    Nobody,
    /// dnsmasq, IPv4, as it does where nothing is configured.
    Dnsmasq,
    /// Kea, IPv4, which sends options 3, 6, 121 and 249 to whoever asks for anything.
    Kea4,
    /// radvd: guests form their addresses.
    Radvd,
    /// Kea, IPv6, and radvd, which sends guests there.
    Kea6,
    /// dnsmasq, IPv6: router and DHCPv6 server.
    DnsmasqRa,
}

impl Foreign {
    /// A program that it needs and that is not here.
    pub fn lacks(self) -> Option<&'static str> {
        let programs: &[&str] = match self {
            Self::Nobody => &[],
            Self::Dnsmasq | Self::DnsmasqRa => &["/usr/sbin/dnsmasq"],
            Self::Kea4 => &["/usr/sbin/kea-dhcp4"],
            Self::Radvd => &["/usr/sbin/radvd"],
            Self::Kea6 => &["/usr/sbin/radvd", "/usr/sbin/kea-dhcp6"],
        };
        programs.iter().find(|p| !std::path::Path::new(p).exists()).copied()
    }
}

/// How long leases of foreign servers last, in seconds: the shortest that dnsmasq gives.
pub const LEASE: u32 = 120;

/// Makes the world; its devices `far0` and `far1` are cabled afterwards.
///
/// # Errors
/// When namespaces cannot be made here.
pub fn world() -> Result<Machine> {
    let world = Machine::new()?;
    // A router forwards, or its neighbour advertisements say that it is none; and has its addresses at once.
    world.run(
        "mount -o remount,rw,bind /proc/sys 2>/dev/null || true
         cd /proc/sys/net; echo 1 >ipv4/ip_forward; echo 1 >ipv6/conf/all/forwarding
         echo 0 >ipv6/conf/default/accept_dad; echo 0 >ipv6/conf/all/accept_dad",
    )?;
    Ok(world)
}

/// Gives the routers their addresses, and starts servers. IPv4 renewals are due after `renew` seconds.
///
/// # Errors
/// When a server does not start.
pub fn serve(world: &mut Machine, foreign: Foreign, renew: u32) -> Result<()> {
    for i in 0..2 {
        let gateway = networks::gateway(i);
        world.run(&format!(
            "ip address add {gateway}/24 dev far{i}; ip address add fe80::1/64 dev far{i} nodad
             ip address add fd00:{:x}::1/64 dev far{i} nodad",
            0x100 + i
        ))?;
    }
    let each = |text: fn(usize) -> String| [0, 1].map(text).join("\n");
    // The name of its log, its command, and what it says when it serves.
    let mut programs: Vec<(String, String, &str)> = vec![];
    match foreign {
        Foreign::Nobody => {}
        Foreign::Dnsmasq | Foreign::DnsmasqRa => {
            for i in 0..2 {
                let text = if foreign == Foreign::Dnsmasq { dnsmasq4(i, renew) } else { dnsmasq6(i) };
                world.write(&format!("/etc/dnsmasq-race{i}.conf"), 0o644, &text)?;
                let command = format!("dnsmasq --keep-in-foreground --log-facility=- -C /etc/dnsmasq-race{i}.conf");
                programs.push((format!("dnsmasq{i}"), command, "started"));
            }
        }
        Foreign::Kea4 => {
            world.write("/etc/kea4.json", 0o644, &kea4(renew).to_string())?;
            programs.push(("kea4".into(), kea("kea-dhcp4 -c /etc/kea4.json"), "DHCP4_STARTED"));
        }
        Foreign::Radvd | Foreign::Kea6 => {
            let text = if foreign == Foreign::Radvd { each(|i| radvd(i, false)) } else { each(|i| radvd(i, true)) };
            world.write("/etc/radvd.conf", 0o644, &text)?;
            programs.push(("radvd".into(), "radvd -n -m stderr -d 1 -p /run/radvd.pid".into(), "started"));
            if foreign == Foreign::Kea6 {
                world.write("/etc/kea6.json", 0o644, &kea6().to_string())?;
                programs.push(("kea6".into(), kea("kea-dhcp6 -c /etc/kea6.json"), "DHCP6_STARTED"));
            }
        }
    }
    world.start(&programs.iter().map(|(name, command, _)| (name.clone(), command.clone())).collect::<Vec<_>>())?;
    for (name, _, sign) in &programs {
        crate::wait_for(&format!("the start of {name}"), 10, || Ok(world.log(name).contains(sign).then_some(())))
            .map_err(|e| format!("{e}\n{}", world.log(name)))?;
    }
    Ok(())
}

fn dnsmasq(nic: usize) -> String {
    format!(
        "port=0\nno-ping\nno-hosts\nno-resolv\ndhcp-authoritative\nuser=root\nbind-interfaces\ninterface=far{nic}\n\
         except-interface=lo\ndhcp-leasefile=/run/leases{nic}\npid-file=\n"
    )
}

fn dnsmasq4(nic: usize, renew: u32) -> String {
    let (prefix, gateway) = (format!("10.{}.0", 100 + nic), networks::gateway(nic));
    let times = format!("dhcp-option-force=58,{renew}\ndhcp-option-force=59,{}\n", renew * 2);
    let range = format!("dhcp-range={prefix}.50,{prefix}.99,255.255.255.0,{LEASE}\n");
    format!("{}{times}{range}dhcp-option=6,{gateway}\n", dnsmasq(nic))
}

fn dnsmasq6(nic: usize) -> String {
    let prefix = format!("fd00:{:x}::", 0x100 + nic);
    let dns = format!("dhcp-option=option6:dns-server,[{prefix}1]\n");
    format!("{}enable-ra\ndhcp-range={prefix}50,{prefix}99,64,{LEASE}\n{dns}", dnsmasq(nic))
}

fn radvd(nic: usize, managed: bool) -> String {
    let (on, form) = if managed { ("on", "off") } else { ("off", "on") };
    let prefix = format!("fd00:{:x}::", 0x100 + nic);
    format!(
        "interface far{nic} {{ AdvSendAdvert on; MinRtrAdvInterval 3; MaxRtrAdvInterval 4; AdvManagedFlag {on}; \
         prefix {prefix}/64 {{ AdvAutonomous {form}; }}; route fd50:{nic}::/32 {{ AdvRouteLifetime 3600; }}; \
         AdvDefaultLifetime 3600; RDNSS {prefix}1 {{ AdvRDNSSLifetime 3600; }}; }};"
    )
}

fn kea(command: &str) -> String {
    format!("env KEA_PIDFILE_DIR=/run KEA_LOCKFILE_DIR=/run KEA_LOGGER_DESTINATION=stdout {command}")
}

/// Routes of option 121 to 10.50.0.0/16 or 10.51.0.0/16 and to everything, as hexadecimal digits (RFC 3442).
fn classless(nic: usize) -> String {
    let via: String = networks::gateway(nic).octets().iter().map(|b| format!("{b:02x}")).collect();
    format!("100a{:02x}{via}00{via}", 50 + nic)
}

fn kea4(renew: u32) -> Value {
    let subnet = |i: usize| {
        let always = |code: u8, data: String, csv: bool| json!({"code": code, "data": data, "csv-format": csv, "always-send": true});
        let gateway = networks::gateway(i).to_string();
        let options = [
            always(3, gateway.clone(), true),
            always(6, gateway, true),
            always(121, classless(i), false),
            always(249, classless(i), false),
        ];
        json!({"id": i + 1, "subnet": format!("10.{}.0.0/24", 100 + i), "interface": format!("far{i}"),
               "pools": [{"pool": format!("10.{0}.0.50 - 10.{0}.0.99", 100 + i)}], "option-data": options})
    };
    let binary = |code: u8| json!({"name": format!("routes{code}"), "code": code, "type": "binary", "space": "dhcp4"});
    json!({"Dhcp4": {
        "interfaces-config": {"interfaces": ["far0", "far1"]},
        "lease-database": {"type": "memfile", "persist": false},
        "valid-lifetime": LEASE, "renew-timer": renew, "rebind-timer": renew * 2,
        "option-def": [binary(121), binary(249)],
        "subnet4": [subnet(0), subnet(1)],
        "loggers": [{"name": "kea-dhcp4", "severity": "INFO", "output_options": [{"output": "stdout"}]}],
    }})
}

fn kea6() -> Value {
    let subnet = |i: usize| {
        let prefix = format!("fd00:{:x}::", 0x100 + i);
        let dns = json!({"name": "dns-servers", "data": format!("{prefix}1"), "always-send": true});
        json!({"id": i + 1, "subnet": format!("{prefix}/64"), "interface": format!("far{i}"),
               "pools": [{"pool": format!("{prefix}50 - {prefix}99")}], "option-data": [dns]})
    };
    json!({"Dhcp6": {
        "interfaces-config": {"interfaces": ["far0", "far1"]},
        "server-id": {"type": "EN", "enterprise-id": 32473, "identifier": "0001", "persist": false},
        "lease-database": {"type": "memfile", "persist": false},
        "valid-lifetime": LEASE, "preferred-lifetime": LEASE,
        "subnet6": [subnet(0), subnet(1)],
        "loggers": [{"name": "kea-dhcp6", "severity": "INFO", "output_options": [{"output": "stdout"}]}],
    }})
}

/// How often a dnsmasq acknowledged the address of its network's NIC.
pub fn acknowledgements(world: &Machine, nic: usize) -> usize {
    let mac = networks::mac(nic).to_string();
    world.log(&format!("dnsmasq{nic}")).lines().filter(|l| l.contains("DHCPACK") && l.contains(&mac)).count()
}
