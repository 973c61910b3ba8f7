//! How much a NIC carries, each way, and that it changes while the guest runs.

use super::*;

/// Large frames that one guest says to another.
const FRAMES: u16 = 600;
/// What a NIC of the lowest rate lets pass of them at once is a hundred; right after that, what has come together since.
const FEW: std::ops::Range<usize> = 5..200;
/// And one without a limit, on a busy machine.
const MOST: std::ops::RangeInclusive<usize> = 450..=FRAMES as usize;

/// How many of them are heard until a second after the last was said.
fn carried(from: &mut Guest, to: &Guest) -> usize {
    to.forget();
    let word = b"so much to say";
    let frame = ethernet(to.mac, from.mac, 0x0800, &ipv4(from.ip, to.ip, 253, &word.repeat(100)));
    for n in 0..FRAMES {
        from.send(&frame);
        // Whoever carries them reads them in between.
        if n % 10 == 0 {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }
    let until = Instant::now() + std::time::Duration::from_secs(1);
    let mut heard = 0;
    while Instant::now() < until && to.sees(SILENCE, |f| f.ends_with(word)).is_some() {
        heard += 1;
    }
    heard
}

#[test]
fn a_nic_carries_what_it_may_each_way() {
    let Some(host) = host("a_nic_carries_what_it_may_each_way") else { return };
    let mut engine = host.engine();
    let plain = plan();
    let tap = name(names::TAP, "nic1.10");
    let slow = BitRate::parse("64k").ok();
    let limited = |bandwidth| {
        let mut state = plain.clone();
        state.taps.get_mut(&tap).unwrap().bandwidth = bandwidth;
        state
    };
    reach(&mut engine, &plain);
    let (mut a, mut b) = (guest(&host, &engine, 1, 10), guest(&host, &engine, 1, 11));
    assert!(a.ping(b.ip, b.ip));
    let index = || Rtnl::open_in(&host.netns).unwrap().index(tap.as_str()).unwrap();
    let before = index();
    let mut check =
        |engine: &mut AnyEngine, state: &NodeState, out: &dyn Fn(usize) -> bool, into: &dyn Fn(usize) -> bool| {
            reach(engine, state);
            let (said, heard) = (carried(&mut a, &b), carried(&mut b, &a));
            println!("{:?}: {said} out, {heard} in, of {FRAMES}", state.taps[&tap].bandwidth);
            assert!(out(said) && into(heard), "{said} out, {heard} in");
            assert_eq!(index(), before, "the guest's tap stays");
        };
    let (few, most) = (|n: usize| FEW.contains(&n), |n: usize| MOST.contains(&n));
    check(&mut engine, &plain, &most, &most);
    check(&mut engine, &limited(Bandwidth { ingress: None, egress: slow }), &few, &most);
    check(&mut engine, &limited(Bandwidth { ingress: slow, egress: None }), &most, &few);
    let fast = BitRate::parse("10G").ok();
    check(&mut engine, &limited(Bandwidth { ingress: fast, egress: fast }), &most, &most);
    // What somebody took away is put back.
    let slowly = limited(Bandwidth { ingress: slow, egress: slow });
    check(&mut engine, &slowly, &few, &few);
    let spoil = |args: &[&str]| {
        let run = || std::process::Command::new(args[0]).args(&args[1..]).status();
        host.netns.run(run).unwrap().unwrap().success()
    };
    assert!(spoil(&["tc", "qdisc", "del", "dev", tap.as_str(), "root"]));
    assert_eq!(spoil(&["nft", "delete", "table", "bridge", "multihome-bandwidth"]), !OVS);
    assert_ne!(engine.observe().unwrap(), slowly);
    check(&mut engine, &slowly, &few, &few);
    check(&mut engine, &limited(Bandwidth { ingress: fast, egress: fast }), &most, &most);
    // A restart finds it as it is, and takes it back.
    let mut again = host.engine();
    let observed = again.observe().unwrap();
    assert_eq!(observed.taps[&tap].bandwidth, Bandwidth { ingress: fast, egress: fast });
    let mut nobody = plain.clone();
    nobody.taps.values_mut().for_each(|t| t.bandwidth = Bandwidth::default());
    check(&mut again, &nobody, &most, &most);
    // Nothing is left of what no NIC has any more.
    let list = host.netns.run(|| std::process::Command::new("nft").args(["list", "tables"]).output()).unwrap().unwrap();
    assert!(!String::from_utf8_lossy(&list.stdout).contains("bandwidth"));
}
