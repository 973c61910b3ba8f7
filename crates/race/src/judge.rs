//! What the guest's kernel says of its default route.

use serde_json::Value;

use crate::Result;
use crate::machine::Machine;

/// An address that is on none of the networks (RFC 5737), to ask the kernel how it would get there.
pub const AWAY: &str = "198.51.100.1";
/// The same for IPv6 (RFC 3849).
pub const AWAY6: &str = "2001:db8::1";

/// What is wrong with a guest's default route; several things may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Verdict {
    /// What leaves the networks leaves by a secondary NIC.
    pub wrong: bool,
    /// There is more than one default route.
    pub doubled: bool,
    /// There is none.
    pub missing: bool,
}

impl Verdict {
    /// Whether nothing is.
    pub fn right(self) -> bool {
        self == Self::default()
    }
}

/// What a guest's kernel holds of one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Routes {
    /// The devices of default routes in the table main, one for each next hop; halves of everything count as well.
    pub defaults: Vec<String>,
    /// All routes of the table main but those of the kernel itself, as `TO VIA DEVICE`.
    pub all: Vec<String>,
    /// The device by which packets leave for an address elsewhere.
    pub leaves_by: Option<String>,
    /// The addresses of both NICs that are not link-local.
    pub addresses: [Vec<String>; 2],
}

impl Routes {
    /// What is wrong with them, where `primary` is to hold the default route.
    pub fn verdict(&self, primary: &str) -> Verdict {
        Verdict {
            wrong: self.leaves_by.as_deref().is_some_and(|d| d != primary),
            doubled: self.defaults.len() > 1,
            missing: self.defaults.is_empty(),
        }
    }
}

/// Asks the kernel of a guest.
///
/// # Errors
/// When the guest has ended.
pub fn look(guest: &Machine, ipv6: bool) -> Result<Routes> {
    let (flag, away) = if ipv6 { ("-6", AWAY6) } else { ("-4", AWAY) };
    let text = guest.run(&format!(
        "ip -j {flag} route show table main; echo; ip -j {flag} route get {away} 2>/dev/null || true; echo
         ip -j {flag} address show dev eth0 2>/dev/null || true; echo
         ip -j {flag} address show dev eth1 2>/dev/null || true"
    ))?;
    let mut parts = text.split('\n').map(str::trim).filter(|l| !l.is_empty());
    let mut rest: Vec<Vec<Value>> = vec![];
    let routes: Vec<Value> = serde_json::from_str(parts.next().unwrap_or("[]"))?;
    for p in parts {
        rest.push(serde_json::from_str(p)?);
    }
    let word = |v: &Value, key: &str| v[key].as_str().map(str::to_owned);
    let mut out = Routes { defaults: vec![], all: vec![], leaves_by: None, addresses: [vec![], vec![]] };
    for r in &routes {
        let to = word(r, "dst").unwrap_or_default();
        let whole = ["default", "0.0.0.0/1", "128.0.0.0/1", "::/1", "8000::/1"].contains(&to.as_str());
        let hops = r["nexthops"].as_array().cloned().unwrap_or_else(|| vec![r.clone()]);
        for hop in hops {
            let device = word(&hop, "dev").unwrap_or_default();
            if whole {
                out.defaults.push(device.clone());
            }
            if word(r, "protocol").as_deref() != Some("kernel") || whole {
                out.all.push(format!("{to} {} {device}", word(&hop, "gateway").unwrap_or_else(|| "link".into())));
            }
        }
    }
    for part in rest {
        let Some(first) = part.first() else { continue };
        if let Some(addresses) = first["addr_info"].as_array() {
            let nic = usize::from(first["ifname"] == "eth1");
            let global = addresses.iter().filter(|a| a["scope"] == "global" && a["tentative"] != true);
            out.addresses[nic] = global.filter_map(|a| word(a, "local")).collect();
        } else if first.get("dst").is_some() {
            out.leaves_by = word(first, "dev");
        }
    }
    out.all.sort();
    Ok(out)
}
