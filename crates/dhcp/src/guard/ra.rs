//! Router advertisements of somebody else, rewritten (RFC 4861 section 4.2, RFC 4191, RFC 8106).

use super::{Dropped, Role};
use crate::ra::ADVERTISEMENT;

const PREFIX: u8 = 3;
const MTU: u8 = 5;
/// CGA and RSA signature of SEND (RFC 3971): a rewritten message would not match them.
const SIGNATURES: [u8; 2] = [11, 12];
const ROUTE: u8 = 24;
const RDNSS: u8 = 25;
const DNSSL: u8 = 31;

/// An advertisement as it is handed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advertisement {
    /// The ICMPv6 message; its checksum is filled in by whoever sends it.
    pub message: Vec<u8>,
    /// Whether the router that spoke wants to be a default router.
    pub offers: bool,
    /// The prefixes that guests form addresses from, 64 bits each.
    pub autonomous: Vec<u64>,
}

/// An option of which the lifetime, at octet 4, is over.
fn over(option: &[u8]) -> Result<Vec<u8>, Dropped> {
    let mut option = option.to_vec();
    option.get_mut(4..8).ok_or(Dropped::Malformed("an option without lifetime"))?.fill(0);
    Ok(option)
}

/// Rewrites an advertisement for the NIC that `role` is of: on a secondary no default router, no route that stands for
/// everything and no name servers (their lifetimes are 0); prefixes and specific routes stay.
///
/// # Errors
/// When it cannot be read.
pub fn rewrite(message: &[u8], role: &Role) -> Result<Advertisement, Dropped> {
    let (head, mut rest) = message.split_at_checked(16).ok_or(Dropped::Malformed("too short"))?;
    if head[0] != ADVERTISEMENT || head[1] != 0 {
        return Err(Dropped::NotAnAnswer("not a router advertisement"));
    }
    let mut out = head.to_vec();
    out[2..4].fill(0);
    let offers = head[6..8] != [0, 0];
    if !role.default6 {
        // No preference either: it says nothing about a router that is none (RFC 4191 section 2.2).
        out[5] &= !0x18;
        out[6..8].fill(0);
    }
    let mut autonomous = vec![];
    let mut mtu = None;
    while !rest.is_empty() {
        let len = usize::from(*rest.get(1).ok_or(Dropped::Malformed("an option without length"))?) * 8;
        if len == 0 {
            return Err(Dropped::Malformed("an option of length 0"));
        }
        let (option, after) =
            rest.split_at_checked(len).ok_or(Dropped::Malformed("an option reaches beyond the end"))?;
        rest = after;
        match option[0] {
            PREFIX => {
                if len != 32 {
                    return Err(Dropped::Malformed("a prefix option of a wrong length"));
                }
                if option[3] & 0x40 != 0 && option[2] == 64 {
                    autonomous.extend(option[16..24].try_into().map(u64::from_be_bytes));
                }
                out.extend_from_slice(option);
            }
            MTU if len == 8 => {
                let said = option[4..8].try_into().map_or(u32::MAX, u32::from_be_bytes);
                mtu = Some(said.min(role.mtu.get()));
            }
            // With lifetime 0 rather than left out, so that what the guest was told before its NIC's role changed is
            // taken back (RFC 4191 section 2.3, RFC 8106 section 5.1).
            ROUTE if option[2] <= 1 && !role.default6 => out.extend(over(option)?),
            RDNSS | DNSSL if !role.dns6 => out.extend(over(option)?),
            code if SIGNATURES.contains(&code) => {}
            _ => out.extend_from_slice(option),
        }
    }
    if let Some(mtu) = mtu.or((role.mtu.get() < 1500).then_some(role.mtu.get())) {
        out.extend_from_slice(&[MTU, 1, 0, 0]);
        out.extend_from_slice(&mtu.to_be_bytes());
    }
    Ok(Advertisement { message: out, offers, autonomous })
}
