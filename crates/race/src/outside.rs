//! The world outside: routers of both networks and, where Multihome does not serve, DHCP servers that know of no plan.

use crate::machine::Machine;
use crate::{Result, networks};

/// Who serves DHCP out there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Foreign {
    /// Nobody.
    Nobody,
    /// One dnsmasq per network, each of which names a router.
    Dnsmasq,
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

/// Gives the routers their addresses, and starts servers. Renewals are due after `renew` seconds.
///
/// # Errors
/// When a server does not start.
pub fn serve(world: &mut Machine, foreign: Foreign, renew: u32) -> Result<()> {
    let mut programs = vec![];
    for i in 0..2 {
        let gateway = networks::gateway(i);
        world.run(&format!("ip address add {gateway}/24 dev far{i}; ip address add fe80::1/64 dev far{i} nodad"))?;
        if foreign == Foreign::Dnsmasq {
            let prefix = format!("10.{}.0", 100 + i);
            world.write(
                &format!("/etc/dnsmasq-race{i}.conf"),
                0o644,
                &format!(
                    "port=0\nno-ping\nno-hosts\nno-resolv\ndhcp-authoritative\nuser=root\nbind-interfaces\n\
                     interface=far{i}\nexcept-interface=lo\ndhcp-leasefile=/run/leases{i}\npid-file=\n\
                     dhcp-range={prefix}.50,{prefix}.99,255.255.255.0,{LEASE}\n\
                     dhcp-option-force=58,{renew}\ndhcp-option-force=59,{}\n\
                     dhcp-option=6,{gateway}\n",
                    renew * 2
                ),
            )?;
            let command = format!("dnsmasq --keep-in-foreground --log-facility=- -C /etc/dnsmasq-race{i}.conf");
            programs.push((format!("dnsmasq{i}"), command));
        }
    }
    world.start(&programs)?;
    for (name, _) in &programs {
        crate::wait_for(&format!("the start of {name}"), 10, || Ok(world.log(name).contains("started").then_some(())))?;
    }
    Ok(())
}

/// How often a dnsmasq acknowledged the address of its network's NIC.
pub fn acknowledgements(world: &Machine, nic: usize) -> usize {
    let mac = networks::mac(nic).to_string();
    world.log(&format!("dnsmasq{nic}")).lines().filter(|l| l.contains("DHCPACK") && l.contains(&mac)).count()
}
