//! Cures: what to do about a finding, in the machine's own configuration language, as steps that a
//! program can carry out and as text for the person at the keyboard. Pure.

mod others;
mod show;
mod sysconfig;
mod systemd;

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use others::netplan_kind;

use super::config::{self, Dialect, NicConfig};
use super::observation::{Link, MAIN, MachineObservation, Route, Rule};

/// One step of a cure. Every step can be undone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Action {
    /// Writes a file as a whole.
    WriteFile {
        /// Path on the machine.
        path: String,
        /// Its new text.
        content: String,
        /// Permission bits.
        mode: u32,
    },
    /// Changes lines of a file; a file that is not there is created.
    EditFile {
        /// Path on the machine.
        path: String,
        /// The changes, in order.
        edits: Vec<Edit>,
        /// Permission bits if it is created.
        mode: u32,
    },
    /// Sets a kernel parameter.
    Sysctl {
        /// Path below `/proc/sys`.
        key: String,
        /// Value.
        value: String,
    },
    /// Adds a route.
    AddRoute {
        /// The route.
        route: Route,
    },
    /// Deletes a route.
    DeleteRoute {
        /// The route.
        route: Route,
    },
    /// Adds a routing policy rule.
    AddRule {
        /// The rule.
        rule: Rule,
    },
    /// Sets the MTU of a link.
    SetMtu {
        /// The link.
        link: String,
        /// MTU in bytes.
        mtu: u32,
    },
    /// Runs a program so that it reads its configuration again; after an undo it is run again.
    Run {
        /// Program and arguments.
        argv: Vec<String>,
    },
}

/// A change of one line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "edit", rename_all = "kebab-case")]
pub enum Edit {
    /// Sets `KEY=VALUE`, in a section of an ini file if one is named.
    Set {
        /// Section without brackets.
        section: Option<String>,
        /// Key.
        key: String,
        /// Value.
        value: String,
    },
    /// Removes lines that are this one but for white space around them.
    Remove {
        /// The line.
        line: String,
    },
    /// Replaces a text wherever it stands.
    Replace {
        /// What stands there.
        from: String,
        /// What is to stand there.
        to: String,
    },
    /// Appends lines at the end.
    Append {
        /// The text, without the last line's end.
        text: String,
    },
}

/// A cure.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Remedy {
    /// What to do, in words.
    pub say: Vec<String>,
    /// What a program can do of it.
    pub actions: Vec<Action>,
}

impl Remedy {
    /// Words alone, for what nobody but a person can decide.
    pub fn words(text: impl Into<String>) -> Self {
        Self { say: vec![text.into()], actions: vec![] }
    }

    /// The same with more steps at its end.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.say.extend(other.say);
        self.actions.extend(other.actions);
        self
    }

    /// The whole as text: words, then the steps.
    pub fn text(&self) -> String {
        let steps = self.actions.iter().map(show::action);
        self.say.iter().cloned().chain(steps).collect::<Vec<_>>().join("\n")
    }
}

/// A routing table of a NIC's own, with the rules that lead to it.
#[derive(Debug, Clone, PartialEq)]
pub struct OwnTable {
    /// Its number.
    pub number: u32,
    /// Default gateway in it.
    pub gateway: Option<IpAddr>,
    /// Subnets on the link.
    pub subnets: Vec<IpNet>,
    /// Addresses whose packets it is for.
    pub from: Vec<IpAddr>,
    /// Priority of the rules.
    pub priority: u32,
}

/// What is to be said of one NIC in the machine's own language.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Piece {
    /// Names the file.
    pub purpose: &'static str,
    /// Ask for an IPv4 address by DHCP.
    pub dhcp: bool,
    /// Static addresses.
    pub addresses: Vec<IpNet>,
    /// Default gateway in the main table.
    pub gateway: Option<IpAddr>,
    /// Never hold a default route.
    pub no_default: bool,
    /// Gateways whose lines are to go.
    pub forget: Vec<IpAddr>,
    /// Take no name servers from here.
    pub no_dns: bool,
    /// MTU in bytes.
    pub mtu: Option<u32>,
    /// A table of its own.
    pub table: Option<OwnTable>,
}

/// Knows how a machine is configured.
#[derive(Debug)]
pub struct Fixer<'a> {
    /// What was seen.
    pub o: &'a MachineObservation,
    /// What its files say.
    pub said: Vec<NicConfig>,
    /// Who manages it.
    pub dialect: Dialect,
}

impl<'a> Fixer<'a> {
    /// Reads the configuration.
    pub fn new(o: &'a MachineObservation) -> Self {
        Self { o, said: config::nics(&o.configs), dialect: config::dialect(o) }
    }

    /// What configures a link; the most specific language first.
    pub fn config(&self, link: &Link) -> Option<&NicConfig> {
        let mut all: Vec<&NicConfig> = self.said.iter().filter(|c| c.matches(link)).collect();
        all.sort_by_key(|c| c.dialect);
        all.first().copied()
    }

    /// Says a piece in the language of a link.
    pub fn write(&self, link: &str, piece: &Piece) -> Remedy {
        let Some(link) = self.o.link(link) else { return Remedy::default() };
        let config = self.config(link);
        match config.map_or(self.dialect, |c| c.dialect) {
            Dialect::Netplan => others::netplan(self, link, config, piece),
            Dialect::Networkd => systemd::networkd(link, config, piece),
            Dialect::NetworkManager => systemd::network_manager(link, config, piece),
            Dialect::Ifcfg => sysconfig::rhel(link, config, piece),
            Dialect::Wicked => sysconfig::suse(self, link, config, piece),
            Dialect::Ifupdown => others::ifupdown(self, link, config, piece),
            Dialect::Dhcpcd => others::dhcpcd(link, piece),
            Dialect::Plain => others::plain(self, link, piece),
        }
    }

    /// Takes default routes of a link away, now and for good.
    pub fn no_default(&self, link: &str, routes: &[&Route]) -> Remedy {
        let forget = routes.iter().filter_map(|r| r.via).collect();
        let piece = Piece { purpose: "default", no_default: true, forget, ..Piece::default() };
        let delete = routes.iter().map(|r| Action::DeleteRoute { route: (*r).clone() }).collect();
        let mut all = Remedy { say: vec![], actions: delete };
        // Where the kernel itself takes router advertisements, only the kernel can leave the default route out.
        let by_kernel = !matches!(self.language(link), Dialect::Netplan | Dialect::Networkd | Dialect::NetworkManager);
        if by_kernel && routes.iter().any(|r| r.protocol == 9) {
            all = all.and(sysctls("ra", &[(format!("net/ipv6/conf/{link}/accept_ra_defrtr"), "0".into())]));
            if routes.iter().all(|r| r.protocol == 9) {
                return all;
            }
        }
        self.write(link, &piece).and(all)
    }

    /// The language that configures a link.
    pub fn language(&self, link: &str) -> Dialect {
        self.o.link(link).and_then(|l| self.config(l)).map_or(self.dialect, |c| c.dialect)
    }

    /// A number for a table of a link's own: the one that it has, else a free one from 101 on.
    pub fn table_for(&self, link: &str) -> u32 {
        let mine =
            |r: &&Route| r.dev.as_deref() == Some(link) && r.to.prefix_len() == 0 && r.table < 253 && r.table > 0;
        if let Some(r) = self.o.routes.iter().find(mine) {
            return r.table;
        }
        let used = |n: &u32| self.o.routes.iter().any(|r| r.table == *n) || self.o.rules.iter().any(|r| r.table == *n);
        let index = self.o.link(link).map_or(1, |l| l.index.clamp(1, 99));
        (100 + index..252).chain(101..).find(|n| !used(n) && *n != MAIN).unwrap_or(101)
    }

    /// Lets replies from an address leave by its own NIC: a table and a rule, now and for good.
    pub fn own_table(&self, link: &str, net: IpNet, gateway: Option<IpAddr>) -> Remedy {
        let number = self.table_for(link);
        let (ip, subnet) = (net.addr(), net.trunc());
        let table =
            OwnTable { number, gateway, subnets: vec![subnet], from: vec![ip], priority: 1000 + number.min(30_000) };
        let mut actions = vec![];
        let is_there =
            |r: &Route| self.o.routes.iter().any(|o| (o.to, o.via, &o.dev, o.table) == (r.to, r.via, &r.dev, r.table));
        for route in table.routes(link) {
            if !is_there(&route) {
                actions.push(Action::AddRoute { route });
            }
        }
        actions.extend(table.rules().into_iter().map(|rule| Action::AddRule { rule }));
        let piece = Piece { purpose: "replies", table: Some(table), ..Piece::default() };
        self.write(link, &piece).and(Remedy { say: vec![], actions })
    }

    /// Sets the MTU of a link, now and for good.
    pub fn mtu(&self, link: &str, mtu: u32) -> Remedy {
        let piece = Piece { purpose: "mtu", mtu: Some(mtu), ..Piece::default() };
        let now = Remedy { say: vec![], actions: vec![Action::SetMtu { link: link.into(), mtu }] };
        self.write(link, &piece).and(now)
    }
}

impl OwnTable {
    /// Its routes; the subnets first, because the gateway must be on the link.
    pub fn routes(&self, link: &str) -> Vec<Route> {
        let route = |to: IpNet, via| Route {
            to,
            via,
            dev: Some(link.into()),
            hops: vec![],
            table: self.number,
            metric: 0,
            source: None,
            protocol: 4,
            kind: "unicast".into(),
            onlink: false,
            mtu: None,
            dead: false,
        };
        let default = |gw: IpAddr| {
            let any = if gw.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
            any.parse().ok().map(|any| route(any, Some(gw)))
        };
        let subnets = self.subnets.iter().map(|s| route(*s, None));
        subnets.chain(self.gateway.and_then(default)).collect()
    }

    /// Its rules.
    pub fn rules(&self) -> Vec<Rule> {
        let rule = |ip: &IpAddr| Rule {
            priority: self.priority,
            from: IpNet::from(*ip),
            to: None,
            iif: None,
            oif: None,
            mark: None,
            table: self.number,
            action: "lookup".into(),
            invert: false,
            l3mdev: false,
            suppress_prefix: None,
            protocol: 4,
        };
        self.from.iter().map(rule).collect()
    }
}

/// Sets kernel parameters, now and for good.
pub fn sysctls(name: &str, pairs: &[(String, String)]) -> Remedy {
    let content = pairs.iter().map(|(k, v)| format!("{} = {v}\n", dotted(k))).collect();
    let path = format!("/etc/sysctl.d/90-multihome-{name}.conf");
    let mut actions = vec![Action::WriteFile { path, content, mode: 0o644 }];
    actions.extend(pairs.iter().map(|(k, v)| Action::Sysctl { key: k.clone(), value: v.clone() }));
    Remedy { say: vec![], actions }
}

/// A path below `/proc/sys` as sysctl.conf(5) writes it: with slashes where a name contains a dot.
fn dotted(key: &str) -> String {
    if key.contains('.') { key.to_owned() } else { key.replace('/', ".") }
}

/// The steps that are commands or changes of the kernel's state, as lines to paste.
pub fn commands(actions: &[Action]) -> Vec<String> {
    actions
        .iter()
        .filter(|a| !matches!(a, Action::WriteFile { .. } | Action::EditFile { .. }))
        .map(show::action)
        .collect()
}

fn run(words: &[&str]) -> Action {
    Action::Run { argv: words.iter().map(ToString::to_string).collect() }
}

fn set(section: Option<&str>, key: impl Into<String>, value: impl Into<String>) -> Edit {
    Edit::Set { section: section.map(str::to_owned), key: key.into(), value: value.into() }
}

#[cfg(test)]
mod tests;
