//! What configuration files say about NICs, in each dialect. Pure: text in, facts out.
//!
//! Readers take what the rules need and pass over the rest; a file that cannot be understood says
//! nothing and is no fault.

mod ifcfg;
mod ifupdown;
mod ini;
mod netplan;

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize;

use super::observation::{ConfigFile, Link, MachineObservation};

/// Who manages the network of a machine, by the language that it is configured in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Dialect {
    /// netplan.io; networkd or NetworkManager behind it.
    Netplan,
    /// systemd-networkd.
    Networkd,
    /// NetworkManager with keyfiles.
    NetworkManager,
    /// `/etc/sysconfig/network-scripts` (RHEL up to 9).
    Ifcfg,
    /// `/etc/sysconfig/network` (SUSE).
    Wicked,
    /// `/etc/network/interfaces` (Debian, Alpine).
    Ifupdown,
    /// dhcpcd alone.
    Dhcpcd,
    /// Nothing that is known: a container, or a script.
    Plain,
}

impl Dialect {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Netplan => "netplan",
            Self::Networkd => "systemd-networkd",
            Self::NetworkManager => "NetworkManager",
            Self::Ifcfg => "ifcfg (network-scripts)",
            Self::Wicked => "wicked",
            Self::Ifupdown => "ifupdown",
            Self::Dhcpcd => "dhcpcd",
            Self::Plain => "nothing known",
        }
    }
}

/// What one piece of configuration says about the NICs that it matches.
#[derive(Debug, Clone, PartialEq)]
pub struct NicConfig {
    /// The language.
    pub dialect: Dialect,
    /// The file.
    pub path: String,
    /// Line where it begins, from 1.
    pub line: usize,
    /// Its id: netplan's key, a connection's name, the file's stem.
    pub id: String,
    /// Names that it matches, with `*` and `?`.
    pub names: Vec<String>,
    /// MAC addresses that it matches, in lower case, with their lines.
    pub macs: Vec<(String, usize)>,
    /// Whether it asks for IPv4 by DHCP.
    pub dhcp4: Option<bool>,
    /// Static addresses.
    pub addresses: Vec<IpAddr>,
    /// Gateways of default routes in the main table.
    pub gateways: Vec<IpAddr>,
    /// It says that the NIC is never to hold a default route.
    pub never_default: bool,
    /// It says that the NIC is to have no address.
    pub bare: bool,
    /// Bridge, bond or VRF that it puts the NIC into.
    pub master: bool,
}

impl NicConfig {
    fn new(dialect: Dialect, file: &ConfigFile, line: usize) -> Self {
        let stem = file.path.rsplit('/').next().unwrap_or_default();
        Self {
            dialect,
            path: file.path.clone(),
            line,
            id: stem.to_owned(),
            names: vec![],
            macs: vec![],
            dhcp4: None,
            addresses: vec![],
            gateways: vec![],
            never_default: false,
            bare: false,
            master: false,
        }
    }

    /// Whether it matches a link: by MAC, current or permanent, if it names any; else by name.
    pub fn matches(&self, l: &Link) -> bool {
        if !self.macs.is_empty() {
            return self.macs.iter().any(|(m, _)| Some(m) == l.mac.as_ref() || Some(m) == l.permanent_mac.as_ref());
        }
        self.names.iter().any(|n| glob(n, &l.name))
    }

    /// `FILE:LINE`.
    pub fn place(&self) -> String {
        format!("{}:{}", self.path, self.line)
    }
}

/// The language of a file, by its path; none if it says nothing about NICs.
pub fn language(path: &str) -> Option<Dialect> {
    let name = path.rsplit('/').next().unwrap_or_default();
    let in_dir = |dir: &str| path.contains(dir);
    if in_dir("/netplan/") && name.ends_with(".yaml") {
        return Some(Dialect::Netplan);
    }
    if in_dir("/systemd/network/") && name.ends_with(".network") {
        return Some(Dialect::Networkd);
    }
    if in_dir("/NetworkManager/system-connections/") {
        return Some(Dialect::NetworkManager);
    }
    if in_dir("/sysconfig/network-scripts/") && name.starts_with("ifcfg-") {
        return Some(Dialect::Ifcfg);
    }
    if in_dir("/sysconfig/network/") && name.starts_with("ifcfg-") {
        return Some(Dialect::Wicked);
    }
    if in_dir("/etc/network/interfaces") {
        return Some(Dialect::Ifupdown);
    }
    (path == "/etc/dhcpcd.conf").then_some(Dialect::Dhcpcd)
}

/// What all files say.
pub fn nics(files: &[ConfigFile]) -> Vec<NicConfig> {
    files
        .iter()
        .flat_map(|f| match language(&f.path) {
            Some(Dialect::Netplan) => netplan::read(f),
            Some(Dialect::Networkd) => ini::networkd(&with_dropins(f, files)),
            Some(Dialect::NetworkManager) => ini::keyfile(f),
            Some(d @ (Dialect::Ifcfg | Dialect::Wicked)) => ifcfg::read(f, files, d),
            Some(Dialect::Ifupdown) => ifupdown::read(f),
            _ => vec![],
        })
        .collect()
}

/// A `.network` file with its drop-ins behind it, in the order in which systemd reads them (systemd.network(5)): by name,
/// from any of the directories.
fn with_dropins(file: &ConfigFile, files: &[ConfigFile]) -> ConfigFile {
    let name = file.path.rsplit('/').next().unwrap_or_default();
    let dir = format!("/systemd/network/{name}.d/");
    let mut dropins: Vec<(&str, &str)> = files
        .iter()
        .filter_map(|f| Some((f.path.split_once(&dir)?.1, f.text.as_str())))
        .filter(|(name, _)| name.ends_with(".conf"))
        .collect();
    dropins.sort_by_key(|(name, _)| *name);
    let text = std::iter::once(file.text.as_str()).chain(dropins.into_iter().map(|(_, t)| t)).collect::<Vec<_>>();
    ConfigFile { path: file.path.clone(), text: text.join("\n"), mode: file.mode }
}

/// Who manages a machine: the most specific language that names a NIC, else what runs.
pub fn dialect(o: &MachineObservation) -> Dialect {
    let said = nics(&o.configs);
    let configured = |d| said.iter().any(|c| c.dialect == d && c.names.iter().all(|n| n != "lo"));
    let runs = |m: &str| o.managers.iter().any(|r| r == m);
    let order = [Dialect::Netplan, Dialect::Wicked, Dialect::Ifcfg];
    if let Some(d) = order.into_iter().find(|d| configured(*d)) {
        return d;
    }
    let running = [
        ("NetworkManager", Dialect::NetworkManager),
        ("systemd-networkd", Dialect::Networkd),
        ("wickedd", Dialect::Wicked),
    ];
    if let Some((_, d)) =
        running.into_iter().find(|(m, d)| runs(m) && (configured(*d) || !configured(Dialect::Ifupdown)))
    {
        return d;
    }
    let rest = [Dialect::Ifupdown, Dialect::NetworkManager, Dialect::Networkd];
    if let Some(d) = rest.into_iter().find(|d| configured(*d)) {
        return d;
    }
    // The package brings a file that says nothing of any NIC, which proves nothing where the program does not run.
    let names_a_nic = |f: &ConfigFile| {
        let words = ["interface", "static", "denyinterfaces", "allowinterfaces"];
        f.text.lines().any(|l| l.split_whitespace().next().is_some_and(|w| words.contains(&w)))
    };
    if runs("dhcpcd") || o.configs.iter().any(|f| f.path == "/etc/dhcpcd.conf" && names_a_nic(f)) {
        Dialect::Dhcpcd
    } else {
        Dialect::Plain
    }
}

/// The line of a file, from 1, that contains a word by itself: not as a part of a longer number or name.
pub fn find_word<'a>(files: &'a [ConfigFile], word: &str) -> Option<(&'a str, usize, &'a str)> {
    let inside = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == ':';
    files.iter().find_map(|f| {
        f.text.lines().enumerate().find_map(|(i, line)| {
            let code = line.trim_start();
            if code.starts_with('#') || code.starts_with(';') {
                return None;
            }
            let hit = line
                .match_indices(word)
                .any(|(at, _)| !line[..at].ends_with(inside) && !line[at + word.len()..].starts_with(inside));
            hit.then_some((f.path.as_str(), i + 1, line))
        })
    })
}

/// `*` and `?`, as in networkd's and netplan's matches; `[…]` is taken as any one character.
fn glob(pattern: &str, name: &str) -> bool {
    fn go(p: &[u8], n: &[u8]) -> bool {
        match p.first() {
            None => n.is_empty(),
            Some(b'*') => (0..=n.len()).any(|i| go(&p[1..], &n[i..])),
            Some(b'?') => !n.is_empty() && go(&p[1..], &n[1..]),
            Some(b'[') => {
                let end = p.iter().position(|c| *c == b']').unwrap_or(p.len() - 1);
                !n.is_empty() && go(&p[end + 1..], &n[1..])
            }
            Some(c) => n.first() == Some(c) && go(&p[1..], &n[1..]),
        }
    }
    go(pattern.as_bytes(), name.as_bytes())
}

/// The bare address of `A`, `A/LEN` or `A,…`.
fn bare_ip(text: &str) -> Option<IpAddr> {
    text.trim().trim_matches(['"', '\'']).split(['/', ',', ' ', ';']).next()?.parse().ok()
}

fn is_any(destination: &str) -> bool {
    let d = destination.trim();
    ["default", "0.0.0.0/0", "::/0"].contains(&d) || d.parse::<IpNet>().is_ok_and(|n| n.prefix_len() == 0)
}

fn mac(text: &str) -> Option<String> {
    let m = text.trim().trim_matches(['"', '\'']).to_ascii_lowercase().replace('-', ":");
    let good = m.len() == 17 && m.split(':').all(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()));
    (good && m.split(':').count() == 6).then_some(m)
}

/// Whether a word is a MAC address, however it is written.
pub fn same_mac(word: &str, of: &str) -> bool {
    mac(word).is_some_and(|m| m == of)
}

fn truth(text: &str) -> bool {
    ["yes", "true", "on", "1"].contains(&text.trim().trim_matches(['"', '\'']).to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests;
