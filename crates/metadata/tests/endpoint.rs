//! The endpoint against whatever bytes a guest may send.

use std::time::Duration;

use multihome_guest::metadata::Response;
use multihome_metadata::Endpoint;
use multihome_model::MacAddr;
use proptest::prelude::*;

fn answer() -> Response {
    Response { status: 200, content_type: "text/plain", body: "x".repeat(100_000) }
}

/// A TCP segment from a guest to the metadata address; its checksum is left to hardware, as virtio guests do.
fn segment(port: u16, flags: u8, sequence: u32, acknowledged: u32, payload: &[u8]) -> Vec<u8> {
    let mut ip = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 2, 169, 254, 169, 254];
    ip[2..4].copy_from_slice(&(40 + payload.len() as u16).to_be_bytes());
    let sum = ip.chunks(2).fold(0u32, |n, p| n + (u32::from(p[0]) << 8) + u32::from(p[1]));
    let folded = (sum & 0xffff) + (sum >> 16);
    ip[10..12].copy_from_slice(&(!(folded as u16)).to_be_bytes());
    ip.extend(port.to_be_bytes());
    ip.extend([0, 80]);
    ip.extend(sequence.to_be_bytes());
    ip.extend(acknowledged.to_be_bytes());
    ip.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    ip.extend_from_slice(payload);
    ip
}

const SYN: u8 = 2;
const RST: u8 = 4;

#[test]
fn connections_are_few_and_those_that_sleep_end() {
    let mut e = Endpoint::new(1, Duration::ZERO);
    assert!(e.is_idle());
    for port in 1000..1100 {
        e.receive(&segment(port, SYN, 7, 0, b""));
        let _ = e.poll(Duration::from_millis(1), &|_| answer());
    }
    // Eight are waiting for the guest's third step; the ninth was refused.
    e.receive(&segment(2000, SYN, 7, 0, b""));
    let refused = e.poll(Duration::from_millis(2), &|_| answer());
    assert!(refused.iter().any(|p| p[33] & RST != 0 && p[22..24] == 2000u16.to_be_bytes()), "{refused:?}");
    assert!(!e.is_idle());
    // None of them ever goes on.
    let mut now = Duration::ZERO;
    for _ in 0..200 {
        now += e.wait(now);
        let _ = e.poll(now, &|_| answer());
        if e.is_idle() {
            return;
        }
    }
    panic!("connections stay: {e:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_packets_make_it_panic_or_speak_without_end(
        packets in proptest::collection::vec(
            (any::<u16>(), any::<u8>(), 0u32..5000, 0u32..5000, proptest::collection::vec(any::<u8>(), 0..200), any::<bool>()),
            0..60,
        )
    ) {
        let mut e = Endpoint::new(3, Duration::ZERO);
        let mut now = Duration::ZERO;
        for (port, flags, sequence, acknowledged, payload, raw) in packets {
            if raw {
                e.receive(&payload);
            } else {
                e.receive(&segment(port % 4, flags, sequence, acknowledged, &payload));
            }
            now += Duration::from_millis(50);
            prop_assert!(e.poll(now, &|_| answer()).len() < 200);
        }
    }

    #[test]
    fn no_frame_makes_it_panic(mut frame in proptest::collection::vec(any::<u8>(), 0..120), kind in 0usize..3) {
        let mac = MacAddr([2, 0, 0, 0, 0, 7]);
        if frame.len() > 14 {
            frame[6..12].copy_from_slice(&mac.0);
            frame[12..14].copy_from_slice(&[[8, 6], [8, 0], [0x86, 0xdd]][kind]);
        }
        let _ = multihome_metadata::hear(&frame, mac, mac);
    }
}
