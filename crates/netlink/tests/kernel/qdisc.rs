//! Shaping, against `tc` and against what really passes.

use super::*;

use std::collections::HashMap;

use multihome_netlink::{Error, Shape};

/// For the kernel to do what it does a moment later.
const PATIENCE: Duration = Duration::from_secs(20);
const PROBE: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// Runs a test in a namespace of its own, with pairs of veth devices `aN` and `bN` that are up, and the indices of `aN`.
fn with_pairs(test: &str, pairs: usize, body: impl FnOnce(&mut Rtnl, &[u32]) + Send) {
    let Some(netns) = namespace(test) else { return };
    netns
        .run(|| {
            let mut rtnl = Rtnl::open().unwrap();
            let mut near = vec![];
            for i in 0..pairs {
                let (a, b) = (format!("a{i}"), format!("b{i}"));
                let peer = VethPeer { name: &b, netns: None, mac: None, mtu: None };
                near.push(rtnl.create(&new(&a, LinkKind::Veth { peer })).unwrap());
                rtnl.change_named(&b, &LinkChange { up: Some(true), ..LinkChange::default() }).unwrap();
            }
            match rtnl.shape(near[0], Some(Shape { rate: 1_000_000, burst: 20_000 })) {
                Err(e) if e.is_unsupported() => return println!("SKIPPED {test}: {e}"),
                result => result.unwrap(),
            }
            rtnl.shape(near[0], None).unwrap();
            body(&mut rtnl, &near);
        })
        .unwrap();
}

fn tc(line: &str) {
    let said = out("tc", &line.split(' ').collect::<Vec<_>>());
    assert_eq!(said, "", "tc {line}");
}

fn shown(device: &str) -> String {
    out("tc", &["qdisc", "show", "dev", device])
}

/// A number that `tc` shows of a device's discipline, in bytes and seconds.
fn number(device: &str, key: &str) -> u64 {
    let json = out("tc", &["-j", "qdisc", "show", "dev", device]);
    let (_, rest) = json.split_once(&format!("\"{key}\":")).unwrap_or_else(|| panic!("no {key} in {json}"));
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or_else(|e| panic!("{key} in {json}: {e}"))
}

/// The handle of a device's root, which a replaced discipline does not keep.
fn handle(device: &str) -> String {
    let shown = shown(device);
    shown.split_whitespace().find(|w| w.ends_with(':')).unwrap_or_else(|| panic!("no handle in {shown}")).into()
}

fn frame(length: usize) -> Vec<u8> {
    let mut f = vec![0xff; 6];
    f.extend(PROBE);
    f.extend(0x88b5u16.to_be_bytes());
    f.resize(length, 0);
    f
}

/// How many bytes a device of this thread's namespace has received.
fn received(device: &str) -> u64 {
    let all = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    let line = all.lines().find_map(|l| l.trim_start().strip_prefix(device)?.strip_prefix(':')).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn a_shape_is_what_tc_shows_and_is_changed_in_place() {
    with_pairs("a_shape_is_what_tc_shows_and_is_changed_in_place", 1, |rtnl, near| {
        // 100 Mbit/s, 40 Gbit/s, the last rate of 32 bits and the first beyond, 800 Gbit/s, and bytes by the second.
        let rates = [12_500_000, 5_000_000_000, u64::from(u32::MAX), 1 << 32, 100_000_000_000, 1];
        let mut first = None;
        for rate in rates {
            for burst in [1_518, 100_003, 5_000_000] {
                let shape = Shape { rate, burst };
                rtnl.shape(near[0], Some(shape)).unwrap();
                assert_eq!(rtnl.shapes().unwrap(), HashMap::from([(near[0], shape)]), "{}", shown("a0"));
                assert_eq!(number("a0", "rate"), rate);
                assert_eq!(first.get_or_insert_with(|| handle("a0")), &handle("a0"), "the same one");
            }
        }
        rtnl.shape(near[0], Some(Shape { rate: 12_500_000, burst: 100_000 })).unwrap();
        assert!(shown("a0").contains(" root ") && shown("a0").contains(" rate 100Mbit "), "{}", shown("a0"));
        let burst = number("a0", "burst");
        assert!((99_000..=101_000).contains(&burst), "{burst}");
        rtnl.shape(near[0], Some(Shape { rate: 5_000_000_000, burst: 5_000_000 })).unwrap();
        assert!(shown("a0").contains(" rate 40Gbit "), "{}", shown("a0"));
        let burst = number("a0", "burst");
        assert!((4_950_000..=5_050_000).contains(&burst), "{burst}");

        for _ in 0..2 {
            rtnl.shape(near[0], None).unwrap();
            assert!(rtnl.shapes().unwrap().is_empty());
            assert!(!shown("a0").contains("tbf"), "{}", shown("a0"));
        }
    });
}

#[test]
fn what_cannot_be_shaped_is_told() {
    with_pairs("what_cannot_be_shaped_is_told", 1, |rtnl, near| {
        let shape = Shape { rate: 1_000_000, burst: 20_000 };
        for nowhere in [0, 99_999, u32::MAX] {
            assert!(rtnl.shape(nowhere, Some(shape)).unwrap_err().is_missing());
            assert!(rtnl.shape(nowhere, None).unwrap_err().is_missing());
        }
        for bad in [Shape { rate: 0, ..shape }, Shape { burst: 0, ..shape }, Shape { burst: 1 << 31, ..shape }] {
            assert!(matches!(rtnl.shape(near[0], Some(bad)), Err(Error::Invalid { .. })), "{bad:?}");
        }
        // A device that was never up has no discipline yet.
        let down = NewLink { name: "down", kind: BRIDGE, change: LinkChange::default() };
        let down = rtnl.create(&down).unwrap();
        rtnl.shape(down, None).unwrap();
        rtnl.shape(down, Some(shape)).unwrap();
        assert_eq!(rtnl.shapes().unwrap(), HashMap::from([(down, shape)]));
    });
}

#[test]
fn devices_with_a_shape_are_listed_and_others_are_not() {
    with_pairs("devices_with_a_shape_are_listed_and_others_are_not", 5, |rtnl, near| {
        let slow = Shape { rate: 125_000, burst: 3_000 };
        let fast = Shape { rate: 5_000_000_000, burst: 1_234_567 };
        rtnl.shape(near[0], Some(slow)).unwrap();
        // Another filter inside is not the root.
        tc(&format!("qdisc add dev a0 parent {}1 tbf rate 8mbit burst 9000 limit 100000", handle("a0")));
        rtnl.shape(near[1], Some(fast)).unwrap();
        tc("qdisc add dev a2 root pfifo limit 10");
        tc("qdisc add dev a3 root tbf rate 8mbit burst 20000 limit 100000");
        let mut all = HashMap::from([(near[0], slow), (near[1], fast)]);
        all.insert(near[3], Shape { rate: 1_000_000, burst: 20_000 });
        assert_eq!(rtnl.shapes().unwrap(), all);

        // What is of another kind stays, unless a shape comes in its place.
        rtnl.shape(near[2], None).unwrap();
        assert!(shown("a2").contains("pfifo"), "{}", shown("a2"));
        rtnl.shape(near[2], Some(fast)).unwrap();
        rtnl.shape(near[3], None).unwrap();
        all.remove(&near[3]);
        all.insert(near[2], fast);
        assert_eq!(rtnl.shapes().unwrap(), all);

        // Many more than one message holds.
        for i in 0..300 {
            let name = format!("x{i}");
            let index = rtnl.create(&NewLink { name: &name, kind: BRIDGE, change: LinkChange::default() }).unwrap();
            rtnl.shape(index, Some(slow)).unwrap();
            all.insert(index, slow);
        }
        let start = Instant::now();
        assert_eq!(rtnl.shapes().unwrap(), all);
        println!("list {} shapes: {:?}", all.len(), start.elapsed());
        let start = Instant::now();
        for _ in 0..100 {
            rtnl.shape(near[1], Some(fast)).unwrap();
        }
        println!("change a shape: {:?}", start.elapsed() / 100);
    });
}

#[test]
fn no_more_passes_than_the_shape_lets_through() {
    with_pairs("no_more_passes_than_the_shape_lets_through", 1, |rtnl, near| {
        let shape = Shape { rate: 1_000_000, burst: 20_000 };
        rtnl.shape(near[0], Some(shape)).unwrap();
        let socket = PacketSocket::open(near[0], &filter::all()).unwrap();
        let frame = frame(1400);
        let before = received("b0");
        let start = Instant::now();
        let mut refused = false;
        let mut passed = 0;
        while start.elapsed() < Duration::from_millis(500) || !refused || passed < u64::from(shape.burst) / 2 {
            // What fills the queue, or the socket, is not taken any more.
            if socket.send(&frame).is_err() {
                refused = true;
                std::thread::sleep(Duration::from_millis(1));
            }
            passed = received("b0") - before;
            assert!(start.elapsed() < PATIENCE, "{passed} bytes passed, refused: {refused}");
        }
        let most = f64::from(shape.burst) + shape.rate as f64 * start.elapsed().as_secs_f64() * 1.5;
        assert!(passed as f64 <= most, "{passed} of at most {most} bytes in {:?}", start.elapsed());

        // Without it much more does than would in all that time.
        rtnl.shape(near[0], None).unwrap();
        let (before, start) = (received("b0"), Instant::now());
        while received("b0") - before < 50_000_000 {
            for _ in 0..100 {
                let _ = socket.send(&frame);
            }
            assert!(start.elapsed() < PATIENCE, "{} bytes in {:?}", received("b0") - before, start.elapsed());
        }
        println!("{passed} bytes with the shape, 50,000,000 in {:?} without", start.elapsed());
    });
}

#[test]
fn what_waits_survives_a_change_of_the_shape() {
    with_pairs("what_waits_survives_a_change_of_the_shape", 1, |rtnl, near| {
        const FRAMES: usize = 60;
        rtnl.shape(near[0], Some(Shape { rate: 1_000_000_000, burst: 100_000 })).unwrap();
        let handle_before = handle("a0");
        let socket = PacketSocket::open(near[0], &filter::all()).unwrap();
        let far = PacketSocket::open(rtnl.index("b0").unwrap(), &filter::probes(PROBE)).unwrap();
        let frame = frame(1_000);
        let mut batch = FrameBatch::new(64, 2048);
        let start = Instant::now();
        // The kernel may yet have to make the discipline the one in use.
        while far.receive(&mut batch).is_err() {
            let _ = socket.send(&frame);
            std::thread::sleep(Duration::from_millis(1));
            assert!(start.elapsed() < PATIENCE, "nothing passes");
        }
        while far.receive(&mut batch).is_ok() {}
        // At this rate they would take a minute.
        rtnl.shape(near[0], Some(Shape { rate: 1_000, burst: 2_000 })).unwrap();
        let backlog = || out("tc", &["-s", "qdisc", "show", "dev", "a0"]);
        let start = Instant::now();
        for _ in 0..FRAMES {
            socket.send(&frame).unwrap();
        }
        if start.elapsed() < Duration::from_secs(10) {
            assert!(!backlog().contains("backlog 0b"), "{}", backlog());
        }
        rtnl.shape(near[0], Some(Shape { rate: 1_000_000_000, burst: 100_000 })).unwrap();
        let mut arrived = 0;
        while arrived < FRAMES {
            match far.receive(&mut batch) {
                Ok(n) => arrived += n,
                Err(_) => std::thread::sleep(Duration::from_millis(1)),
            }
            assert!(start.elapsed() < PATIENCE, "{arrived} of {FRAMES}: {}", backlog());
        }
        assert!(backlog().contains("dropped 0"), "{}", backlog());
        assert_eq!(handle("a0"), handle_before);
    });
}
