//! Answers of somebody else's DHCPv6 server, rewritten (RFC 8415, RFC 3646).

use std::net::Ipv6Addr;

use super::{Dropped, Role};
use crate::v6::message::{option, options};
use crate::v6::record::put;

/// An answer as it is handed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The UDP payload.
    pub payload: Vec<u8>,
    /// Addresses that it gives, with their valid lifetime in seconds; 0 takes one away. An ADVERTISE gives none.
    pub given: Vec<(Ipv6Addr, u32)>,
}

/// Rewrites an answer for the NIC that `role` is of: a secondary is told no name servers.
///
/// # Errors
/// When it cannot be read, or is not an answer to a client.
pub fn rewrite(payload: &[u8], role: &Role) -> Result<Answer, Dropped> {
    let (head, rest) = payload.split_at_checked(4).ok_or(Dropped::Malformed("too short"))?;
    let final_answer = match head[0] {
        2 => false,
        7 => true,
        _ => return Err(Dropped::NotAnAnswer("neither ADVERTISE nor REPLY")),
    };
    let mut answer = Answer { payload: head.to_vec(), given: vec![] };
    for one in options(rest) {
        let (code, body) = one.map_err(|_| Dropped::Malformed("an option reaches beyond the end"))?;
        if !role.dns6 && [option::DNS, option::DOMAINS].contains(&code) {
            continue;
        }
        if code == option::IA_NA && final_answer {
            addresses(body.get(12..), &mut answer.given)?;
        }
        if code == option::IA_TA && final_answer {
            addresses(body.get(4..), &mut answer.given)?;
        }
        put(&mut answer.payload, code, body);
    }
    Ok(answer)
}

fn addresses(inner: Option<&[u8]>, given: &mut Vec<(Ipv6Addr, u32)>) -> Result<(), Dropped> {
    const CUT: Dropped = Dropped::Malformed("an identity association is cut short");
    for one in options(inner.ok_or(CUT)?) {
        let (code, body) = one.map_err(|_| CUT)?;
        if code == option::IA_ADDRESS {
            let (octets, times) = body.split_first_chunk::<16>().ok_or(CUT)?;
            let valid = times.get(4..8).and_then(|b| b.try_into().ok()).map(u32::from_be_bytes).ok_or(CUT)?;
            given.push(((*octets).into(), valid));
        }
    }
    Ok(())
}
