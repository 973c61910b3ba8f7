//! Whether the node's own network is routed to a gateway: echo requests by the node's ordinary routing, apart from what is
//! asked inside the network.

use std::net::IpAddr;
use std::time::Duration;

use multihome_model::ProbeResult;
use multihome_model::connectivity::{ANSWERS, NOT_ROUTED};

use crate::watch::{APART, Time, Watch};

/// An echo request that is to be sent from the node's own network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EchoRequest {
    /// Who is asked.
    pub to: IpAddr,
    /// The sequence number, which the answer repeats.
    pub sequence: u16,
}

/// How soon after one request another gateway is asked: a foreign server may name another one with each frame.
const APART_BY: Duration = Duration::from_secs(1);

/// Asks the gateway of one network, of one address family.
#[derive(Debug, Clone, Default)]
pub(crate) struct Routed {
    gateway: Option<Gateway>,
    /// When another gateway may be asked.
    free: Time,
}

#[derive(Debug, Clone)]
struct Gateway {
    address: IpAddr,
    watch: Watch,
    /// The sequence numbers of this round.
    asked: Vec<u16>,
}

impl Routed {
    /// Keeps to the gateway that is wanted now; a new one is asked from `at` on.
    pub(crate) fn follow(&mut self, wanted: Option<IpAddr>, at: Time) {
        let wanted = wanted.filter(|a| is_elsewhere(*a));
        if self.gateway.as_ref().map(|g| g.address) != wanted {
            let watch = Watch::new(APART, at.max(self.free));
            self.gateway = wanted.map(|address| Gateway { address, watch, asked: vec![] });
        }
    }

    /// What is to be sent now. `sequence` is the number of the last request of the node, whatever network it was for.
    pub(crate) fn due(&mut self, now: Time, sequence: &mut u16) -> Option<EchoRequest> {
        let g = self.gateway.as_mut()?;
        let due = g.watch.due(now);
        if g.watch.open() == usize::from(due) {
            // This is the first question of a round, or none is open: what comes now comes too late.
            g.asked.clear();
        }
        if !due {
            return None;
        }
        *sequence = sequence.wrapping_add(1);
        g.asked.push(*sequence);
        self.free = now + APART_BY;
        Some(EchoRequest { to: g.address, sequence: *sequence })
    }

    /// There was an echo reply to a request of this node. Returns whether it answers one that is open here.
    pub(crate) fn heard(&mut self, from: IpAddr, sequence: u16, now: Time) -> bool {
        let open = |g: &&mut Gateway| g.address == from && g.asked.contains(&sequence);
        let Some(g) = self.gateway.as_mut().filter(open) else { return false };
        g.watch.heard(now);
        g.asked.clear();
        true
    }

    /// When something is due next; `None` where nobody is asked.
    pub(crate) fn next(&self) -> Option<Time> {
        self.gateway.as_ref().map(|g| g.watch.next())
    }

    /// Whether somebody is asked of whom nothing is known yet.
    pub(crate) fn is_unknown(&self) -> bool {
        self.gateway.as_ref().is_some_and(|g| g.watch.answers().is_none())
    }

    /// What was found; `None` where nobody knows yet.
    pub(crate) fn result(&self) -> Option<ProbeResult> {
        let Gateway { address, watch, .. } = self.gateway.as_ref()?;
        Some(if watch.answers()? {
            let text = format!("{address} answers from the node's own network: management is routed to it");
            ProbeResult::new(true, ANSWERS, text)
        } else {
            let text = format!(
                "{address} does not answer from the node's own network: no route leads from management to it, or it does not answer ping there"
            );
            ProbeResult::new(false, NOT_ROUTED, text)
        })
    }
}

/// Whether an address means the same host wherever it is asked. A foreign server may name any as the gateway: the node's own
/// loopback would answer, and so might all neighbours.
fn is_elsewhere(a: IpAddr) -> bool {
    let local = match a {
        IpAddr::V4(a) => a.is_link_local() || a.is_broadcast() || a.octets()[0] == 0,
        IpAddr::V6(a) => a.is_unicast_link_local() || a.to_ipv4_mapped().is_some(),
    };
    !(local || a.is_unspecified() || a.is_loopback() || a.is_multicast())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(n: u64) -> Time {
        Duration::from_secs(n)
    }

    fn asking(address: &str) -> Routed {
        let mut r = Routed::default();
        r.follow(Some(address.parse().unwrap()), seconds(1));
        r
    }

    /// Lets it ask for some seconds, and says at which, and what was asked last.
    fn run(r: &mut Routed, from: u64, to: u64, answered: bool) -> (Vec<u64>, Option<EchoRequest>) {
        let (mut asked, mut sequence, mut last) = (vec![], u16::MAX - 1, None);
        for t in from..to {
            if let Some(echo) = r.due(seconds(t), &mut sequence) {
                asked.push(t);
                last = Some(echo);
                if answered {
                    assert!(r.heard(echo.to, echo.sequence, seconds(t)));
                }
            }
        }
        (asked, last)
    }

    #[test]
    fn a_gateway_that_answers_is_asked_once_a_minute_and_a_silent_one_thrice() {
        let mut r = asking("10.7.0.1");
        assert_eq!((r.result(), run(&mut r, 0, 4, false).0), (None, vec![1, 2, 3]));
        assert_eq!(r.result(), None, "not before the last question's time is over");
        assert!(run(&mut r, 4, 64, false).0.is_empty());
        let found = r.result().unwrap();
        assert_eq!((found.ok, found.reason.as_str()), (false, NOT_ROUTED));
        assert!(found.message.starts_with("10.7.0.1 does not answer from the node's own network: "), "{found:?}");
        assert_eq!(run(&mut r, 64, 130, true).0, [64, 124]);
        let found = r.result().unwrap();
        assert_eq!((found.ok, found.reason.as_str()), (true, ANSWERS));
        assert_eq!(found.message, "10.7.0.1 answers from the node's own network: management is routed to it");
        // Silence is told by the next round's end, within 63 seconds.
        assert_eq!(run(&mut r, 130, 187, false).0, [184, 185, 186]);
        assert!(r.result().unwrap().ok);
        run(&mut r, 187, 188, false);
        assert!(!r.result().unwrap().ok);
    }

    #[test]
    fn only_the_answer_to_an_open_question_counts() {
        let mut r = asking("fd07::1");
        let echo = run(&mut r, 0, 3, false).1.unwrap();
        assert_eq!(echo, EchoRequest { to: "fd07::1".parse().unwrap(), sequence: 0 }, "sequence numbers begin anew");
        let now = seconds(3);
        assert!(!r.heard("fd07::2".parse().unwrap(), echo.sequence, now), "somebody else");
        assert!(!r.heard(echo.to, 1, now), "what nobody has asked");
        assert_eq!(r.due(seconds(2), &mut 7), None, "the next question waits, and this one stays open");
        assert!(r.clone().heard(echo.to, u16::MAX, now), "the first question of the round");
        assert!(r.heard(echo.to, echo.sequence, now));
        assert!(!r.heard(echo.to, echo.sequence, now), "an answer comes once");
        let last = run(&mut r, 60, 67, false).1.unwrap();
        assert!(!r.heard(last.to, last.sequence, seconds(67)), "too late");
    }

    #[test]
    fn addresses_that_mean_another_host_elsewhere_are_not_asked() {
        for a in ["0.0.0.0", "0.1.2.3", "127.0.0.1", "169.254.1.1", "224.0.0.1", "255.255.255.255"] {
            assert!(asking(a).next().is_none(), "{a}");
        }
        for a in ["::", "::1", "fe80::1", "ff02::1", "::ffff:127.0.0.1"] {
            assert!(asking(a).next().is_none(), "{a}");
        }
        assert!(["192.168.1.1", "fd00::1", "2001:db8::1"].iter().all(|a| asking(a).is_unknown()));
        let mut r = asking("10.7.0.1");
        run(&mut r, 0, 5, true);
        r.follow(Some("10.7.0.1".parse().unwrap()), seconds(9));
        assert!(r.result().is_some(), "the same gateway keeps what was found");
        r.follow(Some("10.7.0.2".parse().unwrap()), seconds(9));
        assert!(r.result().is_none() && r.is_unknown());
        r.follow(None, seconds(9));
        assert!(r.next().is_none() && !r.is_unknown());
    }

    #[test]
    fn a_server_that_names_another_gateway_each_moment_makes_no_flood() {
        let (mut r, mut sequence, mut sent) = (Routed::default(), 0, 0);
        for ms in 0..10_000 {
            let now = Duration::from_millis(ms);
            r.follow((ms % 3 > 0).then(|| IpAddr::from([10, 7, (ms >> 8) as u8, ms as u8])), now);
            sent += usize::from(r.due(now, &mut sequence).is_some());
        }
        assert!((1..=10).contains(&sent), "{sent} in 10 s");
    }
}
