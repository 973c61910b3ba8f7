//! The names of the dialects.

use std::fmt;
use std::str::FromStr;

/// A way to write a guest's network configuration down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dialect {
    /// A NoCloud seed with network-config version 1
    CloudInitV1,
    /// A NoCloud seed with network-config version 2
    CloudInitV2,
    /// netplan, Ubuntu
    Netplan,
    /// systemd-networkd
    Networkd,
    /// NetworkManager keyfiles
    NetworkManager,
    /// ifcfg-, route- and rule- files: RHEL up to 9 and its relatives
    IfcfgRhel,
    /// ifcfg-, ifroute- and ifrule- files: SUSE with wicked
    IfcfgSuse,
    /// /etc/network/interfaces, Debian
    Ifupdown,
    /// network_data.json of OpenStack's metadata
    OpenStack,
    /// Paths and values of EC2's metadata
    Ec2,
    /// Commands of iproute2, to paste; gone after a reboot
    Ip,
}

/// A dialect that nobody speaks; the text names those that there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownDialect(String);

impl Dialect {
    /// All of them.
    pub const ALL: [Dialect; 11] = [
        Dialect::CloudInitV1,
        Dialect::CloudInitV2,
        Dialect::Netplan,
        Dialect::Networkd,
        Dialect::NetworkManager,
        Dialect::IfcfgRhel,
        Dialect::IfcfgSuse,
        Dialect::Ifupdown,
        Dialect::OpenStack,
        Dialect::Ec2,
        Dialect::Ip,
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Dialect::CloudInitV1 => "cloud-init-v1",
            Dialect::CloudInitV2 => "cloud-init-v2",
            Dialect::Netplan => "netplan",
            Dialect::Networkd => "networkd",
            Dialect::NetworkManager => "networkmanager",
            Dialect::IfcfgRhel => "ifcfg-rhel",
            Dialect::IfcfgSuse => "ifcfg-suse",
            Dialect::Ifupdown => "ifupdown",
            Dialect::OpenStack => "openstack",
            Dialect::Ec2 => "ec2",
            Dialect::Ip => "ip",
        }
    }

    /// Whether it is one text rather than a set of files.
    pub fn is_single(self) -> bool {
        matches!(self, Dialect::Netplan | Dialect::OpenStack | Dialect::Ec2 | Dialect::Ip)
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Dialect {
    type Err = UnknownDialect;
    fn from_str(s: &str) -> Result<Self, UnknownDialect> {
        Self::ALL.into_iter().find(|d| d.name() == s).ok_or_else(|| UnknownDialect(s.to_owned()))
    }
}

impl fmt::Display for UnknownDialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known: Vec<&str> = Dialect::ALL.iter().map(|d| d.name()).collect();
        write!(f, "dialect {:?} is not known: use {}", self.0, known.join(", "))
    }
}

impl std::error::Error for UnknownDialect {}
