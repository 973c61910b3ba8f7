//! The guest's DHCP clients, set up and started as distributions do it.

use std::process::Command;

use crate::Result;
use crate::machine::Machine;

/// A DHCP client, with the script or service around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Client {
    /// busybox udhcpc, one process per NIC, with the script of Debian's package.
    UdhcpcDebian,
    /// The same with what Alpine's script does.
    UdhcpcAlpine,
    /// The same with what CirrOS's script does.
    UdhcpcCirros,
    /// ISC dhclient, one process per NIC, as ifupdown starts it.
    Dhclient,
    /// dhcpcd, one process for all NICs.
    Dhcpcd,
    /// systemd-networkd.
    Networkd,
    /// NetworkManager with nothing configured: it makes its own connections.
    NetworkManager,
}

/// Which families a guest asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asks {
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
}

const NETWORKD: &str = "/lib/systemd/systemd-networkd";
const DEBIAN: &str = "/etc/udhcpc/default.script";
const BUS: &str = "<busconfig><type>system</type><listen>unix:path=/run/dbus/system_bus_socket</listen>\
    <auth>EXTERNAL</auth><policy context='default'><allow user='*'/><allow own='*'/><allow send_type='method_call'/>\
    <allow send_type='signal'/><allow receive_type='signal'/><allow receive_type='method_call'/>\
    <allow receive_type='method_return'/><allow receive_type='error'/></policy></busconfig>";

impl Client {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::UdhcpcDebian,
        Self::UdhcpcAlpine,
        Self::UdhcpcCirros,
        Self::Dhclient,
        Self::Dhcpcd,
        Self::Networkd,
        Self::NetworkManager,
    ];

    /// A short name, as results carry it.
    pub fn name(self) -> &'static str {
        match self {
            Self::UdhcpcDebian => "udhcpc-debian",
            Self::UdhcpcAlpine => "udhcpc-alpine",
            Self::UdhcpcCirros => "udhcpc-cirros",
            Self::Dhclient => "dhclient",
            Self::Dhcpcd => "dhcpcd",
            Self::Networkd => "networkd",
            Self::NetworkManager => "NetworkManager",
        }
    }

    /// What it needs, as paths.
    fn programs(self) -> &'static [&'static str] {
        match self {
            Self::UdhcpcDebian => &["/bin/busybox", DEBIAN],
            Self::UdhcpcAlpine | Self::UdhcpcCirros => &["/bin/busybox"],
            Self::Dhclient => &["/sbin/dhclient"],
            Self::Dhcpcd => &["/usr/sbin/dhcpcd"],
            Self::Networkd => &[NETWORKD],
            Self::NetworkManager => &["/usr/sbin/NetworkManager", "/usr/bin/dbus-daemon"],
        }
    }

    /// A program that it needs and that is not here.
    pub fn lacks(self) -> Option<&'static str> {
        self.programs().iter().find(|p| !std::path::Path::new(p).exists()).copied()
    }

    /// Its version, as it says itself.
    pub fn version(self) -> String {
        let (program, argument) = match self {
            Self::UdhcpcDebian | Self::UdhcpcAlpine | Self::UdhcpcCirros => ("/bin/busybox", "--help"),
            Self::Dhclient => ("/sbin/dhclient", "--version"),
            Self::Dhcpcd => ("/usr/sbin/dhcpcd", "--version"),
            Self::Networkd => (NETWORKD, "--version"),
            Self::NetworkManager => ("/usr/sbin/NetworkManager", "--version"),
        };
        let Ok(o) = Command::new(program).arg(argument).output() else { return "not here".into() };
        let text = String::from_utf8_lossy(&[o.stdout, o.stderr].concat()).into_owned();
        let first = text.lines().next().unwrap_or_default();
        let version =
            first.split([' ', '-']).find(|w| w.trim_start_matches('v').starts_with(|c: char| c.is_ascii_digit()));
        version.unwrap_or(first).trim_start_matches('v').to_owned()
    }

    /// Whether one process serves one NIC only, so that a NIC that comes back needs a new one, as udev and ifupdown see to.
    pub fn is_per_nic(self) -> bool {
        matches!(self, Self::UdhcpcDebian | Self::UdhcpcAlpine | Self::UdhcpcCirros | Self::Dhclient)
    }

    /// Writes its configuration.
    ///
    /// # Errors
    /// When the guest has ended.
    pub fn install(self, guest: &Machine, asks: Asks) -> Result<()> {
        match self {
            Self::UdhcpcDebian | Self::Dhclient => Ok(()),
            // There is no udev in a namespace that could say that devices are ready.
            Self::Dhcpcd => guest.run("echo nodev >>/etc/dhcpcd.conf").map(drop),
            Self::UdhcpcAlpine => guest.write("/etc/race/alpine.sh", 0o755, include_str!("scripts/alpine.sh")),
            Self::UdhcpcCirros => guest.write("/etc/race/cirros.sh", 0o755, include_str!("scripts/cirros.sh")),
            Self::Networkd => {
                let network = match asks {
                    Asks::V4 => "DHCP=ipv4\nIPv6AcceptRA=no",
                    Asks::V6 => "IPv6AcceptRA=yes",
                };
                let text = format!("[Match]\nName=eth*\n\n[Network]\n{network}\n");
                // What it knows is kept below.
                guest.run("mkdir -p /run/systemd")?;
                guest.write("/etc/systemd/network/80-race.network", 0o644, &text)
            }
            Self::NetworkManager => {
                let main = "[main]\nplugins=keyfile\nauth-polkit=false\ndhcp=internal\nrc-manager=file\n";
                guest.run("rm -rf /etc/NetworkManager/conf.d /etc/NetworkManager/system-connections")?;
                guest.write("/etc/NetworkManager/NetworkManager.conf", 0o644, main)?;
                guest.write("/etc/dbus-1/race.conf", 0o644, BUS)
            }
        }
    }

    /// Starts it for both NICs at once, `first` a moment before the other one where there is a process for each.
    ///
    /// # Errors
    /// When the guest has ended.
    pub fn start(self, guest: &mut Machine, first: usize, asks: Asks) -> Result<()> {
        let order = [first, 1 - first];
        guest.run("ip link set eth0 up; ip link set eth1 up")?;
        match self {
            Self::Networkd => guest.start(&[("networkd".into(), NETWORKD.into())]),
            Self::Dhcpcd => {
                let family = if asks == Asks::V4 { "-4" } else { "-6" };
                guest.start(&[("dhcpcd".into(), format!("dhcpcd --nobackground {family}"))])
            }
            Self::NetworkManager => {
                let bus = "dbus-daemon --config-file=/etc/dbus-1/race.conf --nofork --nopidfile";
                guest.start(&[("dbus".into(), bus.into())])?;
                guest.run(
                    "n=0; until [ -S /run/dbus/system_bus_socket ] || [ $n = 100 ]; do n=$((n+1)); sleep 0.05; done",
                )?;
                guest.start(&[("NetworkManager".into(), "NetworkManager --no-daemon".into())])
            }
            _ => guest.start(&order.map(|n| self.process(n, asks))),
        }
    }

    fn process(self, nic: usize, asks: Asks) -> (String, String) {
        let udhcpc = |script: &str| format!("busybox udhcpc -f -R -t 5 -T 3 -A 5 -i eth{nic} -s {script}");
        let command = match self {
            Self::UdhcpcAlpine => udhcpc("/etc/race/alpine.sh"),
            Self::UdhcpcCirros => udhcpc("/etc/race/cirros.sh"),
            Self::Dhclient => {
                let family = if asks == Asks::V4 { "-4" } else { "-6" };
                format!(
                    "dhclient {family} -d -v -pf /run/dhclient.eth{nic}.pid -lf /var/lib/dhcp/dhclient.eth{nic}.leases eth{nic}"
                )
            }
            _ => udhcpc(DEBIAN),
        };
        (format!("client{nic}"), command)
    }

    /// A NIC's device is there again: what starts a client then, where it does not see so itself.
    ///
    /// # Errors
    /// When the guest has ended.
    pub fn came_back(self, guest: &mut Machine, nic: usize, asks: Asks) -> Result<()> {
        if self.is_per_nic() {
            guest.signal(&format!("client{nic}"), "KILL")?;
            guest.run(&format!("ip link set eth{nic} up"))?;
            guest.start(&[self.process(nic, asks)])?;
        }
        Ok(())
    }

    /// Has it renew its leases where it can be told to; the others do it when half of the lease is over.
    ///
    /// # Errors
    /// When the guest has ended.
    pub fn renew(self, guest: &Machine) -> Result<()> {
        if self.is_per_nic() && self != Self::Dhclient {
            guest.signal("client0", "USR1")?;
            guest.signal("client1", "USR1")?;
        }
        Ok(())
    }
}

impl std::str::FromStr for Client {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let all = Self::ALL.map(Self::name).join(", ");
        Self::ALL.into_iter().find(|c| c.name() == s).ok_or(format!("there is no client {s:?}: they are {all}"))
    }
}
