//! A prober that hears anything at all from its network.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use multihome_model::MacAddr;
use multihome_probe::{Prober, Reply, Subject, Want};

use crate::engines::messages;

/// Several frames, one per second. What is answered is for one, and not larger than what was asked; no server, router or
/// node makes the prober send much of itself.
pub(crate) fn frames(bytes: &[u8]) {
    // Numbers that are found by chance.
    let subject = Subject {
        device: "eth1".into(),
        network: 1,
        node: 2,
        mac: MacAddr([0x0e, 0x6d, 0, 0, 0, 1]),
        mtu: 1500,
        peers: BTreeMap::from([(3, "peer".to_owned())]),
        ipv4: Want::Expect,
        ipv6: Want::Expect,
        gateway4: None,
        gateway6: None,
        address4: None,
        routed: [true; 2],
    };
    let mut prober = Prober::new(subject, Duration::ZERO);
    let (mut sent, mut sequence) = (0, 0);
    for (second, frame) in (2..).zip(messages(bytes)) {
        let now = Duration::from_secs(second);
        sent += prober.poll(now).len();
        if let Some(answer) = prober.frame(frame, second % 2 == 0, now) {
            assert!(answer[0] & 1 == 0, "an answer is for one");
            assert!(answer.len() <= frame.len().max(86), "{} bytes answer {}", answer.len(), frame.len());
        }
        sent += prober.poll_routed(now, &mut sequence).len();
        // The same bytes as what a raw socket hears.
        for ipv6 in [false, true] {
            if let Some(reply) = Reply::parse(frame, ipv6) {
                prober.echo_heard(Ipv4Addr::new(10, 0, 0, 1).into(), reply.sequence, now);
            }
        }
        let v = prober.verdict();
        assert!(v.results().all(|r| !r.reason.is_empty() && !r.message.is_empty()), "every result has its words");
    }
    // Sixteen seconds: a question each of eight kinds, two of a visit, and a search of 15 sizes a second at the most.
    assert!(sent <= 16 * (8 + 15), "{sent} frames in 16 s");
}
