//! What can go wrong when a node plan is applied.

use multihome_plan::node::Step;

/// The result of an operation of an engine.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an engine could not do something.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel, or `nft`, refused.
    #[error(transparent)]
    Kernel(#[from] multihome_netlink::Error),
    /// Open vSwitch refused, or is not there.
    #[error(transparent)]
    Vswitch(#[from] multihome_ovsdb::Error),
    /// This machine's kernel lacks what the step needs; the reason is its own.
    #[error("this node cannot do {what}: {reason}")]
    Unsupported {
        /// What was asked for.
        what: String,
        /// The kernel's own reason.
        reason: String,
    },
    /// Another device than ours has the name.
    #[error("device {name} is there, but it is a {kind} and not ours; rename or remove it")]
    Foreign {
        /// The device.
        name: String,
        /// What it is.
        kind: String,
    },
    /// A state file cannot be read or written.
    #[error("cannot {op} {path}")]
    Io {
        /// What was being done.
        op: &'static str,
        /// The file.
        path: String,
        /// The system's error.
        source: std::io::Error,
    },
}

impl Error {
    /// Whether trying again, with nothing changed, is of no use.
    pub fn is_permanent(&self) -> bool {
        matches!(self, Self::Unsupported { .. } | Self::Foreign { .. })
    }
}

/// A step that failed, and why.
#[derive(Debug, thiserror::Error)]
#[error("{}", describe(.step))]
pub struct StepError {
    /// The step.
    pub step: Step,
    /// Why it failed.
    #[source]
    pub error: Error,
}

/// What a step does, in a few words.
fn describe(step: &Step) -> String {
    match step {
        Step::CreateDomain(ns) => format!("cannot make routing domain {ns}"),
        Step::DeleteDomain(ns) => format!("cannot remove routing domain {ns}"),
        Step::PutBond(name, b) => format!("cannot set up bond {name} ({})", b.alias),
        Step::DeleteBond(name) => format!("cannot remove bond {name}"),
        Step::PutFabric(name, b) => format!("cannot set up bridge {name} ({}) for trunks", b.alias),
        Step::DeleteFabric(name) => format!("cannot remove bridge {name}"),
        Step::PutBridge(name, b) => format!("cannot set up bridge {name} ({})", b.alias),
        Step::DeleteBridge(name) => format!("cannot remove bridge {name}"),
        Step::PutUplink(name, u) => format!("cannot set up uplink {name} ({})", u.alias),
        Step::DeleteUplink(name) => format!("cannot remove uplink {name}"),
        Step::PutLeg(ns, name, l) => format!("cannot set up leg {name} ({}) of {ns}", l.alias),
        Step::DeleteLeg(ns, name) => format!("cannot remove leg {name} of {ns}"),
        Step::PutEgress(ns, e) => format!("cannot set up the way out of {ns} ({})", e.alias),
        Step::DeleteEgress(ns, name) => format!("cannot remove the way out {name} of {ns}"),
        Step::PutPort(name, _) => format!("cannot set the port security of {name}"),
        Step::DeletePort(name) => format!("cannot forget the port security of {name}"),
        Step::PutTap(name, t) => format!("cannot set up tap {name} ({})", t.alias),
        Step::PutFlood(name, _) => format!("cannot tell {name} where broadcasts go"),
        Step::PutRemote(name, mac, remote) => format!("cannot tell {name} that {mac} is on node {}", remote.via),
        Step::DeleteRemote(name, mac) => format!("cannot make {name} forget {mac}"),
        Step::PutRouter(ns, r) => format!("cannot set up tunnel {} ({}) of {ns}", r.device, r.alias),
        Step::DeleteRouter(ns, name) => format!("cannot remove tunnel {name} of {ns}"),
        Step::PutPeering(p) => format!("cannot link {} and {}", p.ends[0].0, p.ends[1].0),
        Step::DeletePeering(ns, name) => format!("cannot remove link {name} of {ns}"),
        Step::PutFloating(_, _, f) => format!("cannot set up {} ({})", f.alias, f.address),
        Step::DeleteFloating(ns, name) => format!("cannot remove floating address {name} of {ns}"),
        Step::PutReturns(ns, _) => format!("cannot set the ways back to floating addresses of other nodes of {ns}"),
        Step::PutRoute(ns, to, _) => format!("cannot set the route to {to} of {ns}"),
        Step::DeleteRoute(ns, to) => format!("cannot remove the route to {to} of {ns}"),
        Step::PutPolicyRoutes(ns, _) => format!("cannot set the policy routes of {ns}"),
        Step::PutMembers(group, _) => format!("cannot set the members of group {group}"),
        Step::DeleteMembers(group) => format!("cannot forget group {group}"),
        Step::PutPolicy(name, _) => format!("cannot set the policies of {name}"),
        Step::DeletePolicy(name) => format!("cannot forget the policies of {name}"),
        Step::DeleteTap(name) => format!("cannot remove tap {name}"),
        Step::PutMirror(name, m) => format!("cannot copy {name} to {}", m.to),
        Step::DeleteMirror(name) => format!("cannot end the copying of {name}"),
    }
}
