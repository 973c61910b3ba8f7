//! Packet sockets, and what their filters let through.

use super::*;

fn frame(ethertype: u16, protocol: u8, port: u16) -> Vec<u8> {
    let mut f = vec![0xff; 6];
    f.extend([2, 0, 0, 0, 0, 1]);
    f.extend(ethertype.to_be_bytes());
    f.extend([0x45, 0, 0, 40, 0, 0, 0, 0, 64, protocol, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255]);
    f.extend([0, 68]);
    f.extend(port.to_be_bytes());
    f.resize(64, 0);
    f
}

#[test]
fn icmp_sockets_hear_echo_replies_alone() {
    let Some(netns) = namespace("icmp_sockets_hear_echo_replies_alone") else { return };
    netns
        .run(|| {
            let sockets = [false, true].map(|ipv6| IcmpSocket::open(ipv6).unwrap());
            let mut buf = [0; 128];
            let four = [8, 0, 0xe5, 0xca, 0x12, 0x34, 0, 1];
            let here: [IpAddr; 2] = ["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()];
            let unreachable = sockets[0].send(&four, "192.0.2.1".parse().unwrap()).unwrap_err();
            assert_eq!(unreachable.raw_os_error(), Some(101), "no route leads there");
            let lo = LinkChange { up: Some(true), ..LinkChange::default() };
            Rtnl::open().unwrap().change_named("lo", &lo).unwrap();
            // The question comes in by the same sockets, and is kept back.
            sockets[0].send(&four, here[0]).unwrap();
            assert_eq!(sockets[0].receive(&mut buf).unwrap(), (28, here[0]));
            assert_eq!((buf[0], buf[9], &buf[20..28]), (0x45, 1, &[0, 0, 0xed, 0xca, 0x12, 0x34, 0, 1][..]));
            sockets[1].send(&[128, 0, 0, 0, 0x12, 0x34, 0, 1], here[1]).unwrap();
            assert_eq!(sockets[1].receive(&mut buf).unwrap(), (8, here[1]));
            assert_eq!((&buf[..2], &buf[4..8]), (&[129, 0][..], &[0x12, 0x34, 0, 1][..]));
            for socket in sockets {
                assert_eq!(socket.receive(&mut buf).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
            }
        })
        .unwrap();
}

#[test]
fn packet_sockets_see_what_their_filter_lets_through() {
    let test = "packet_sockets_see_what_their_filter_lets_through";
    let Some(netns) = namespace(test) else { return };
    netns
        .run(|| {
            let mut rtnl = Rtnl::open().unwrap();
            let tap = Tap { name: "tap0", multi_queue: false, vnet_hdr: false };
            assert!(tap.open().unwrap_err().is_missing());
            tap.create(Some(12345)).unwrap();
            assert!(tap.create(None).unwrap_err().is_exists());
            rtnl.change_named("tap0", &LinkChange { up: Some(true), ..LinkChange::default() }).unwrap();
            assert!(!rtnl.link("tap0").unwrap().unwrap().carrier);
            let mut guest = std::fs::File::from(tap.open().unwrap());
            assert_eq!(tap.open().unwrap_err().errno(), Some(16));
            let index = rtnl.index("tap0").unwrap();
            let dhcp = PacketSocket::open(index, &filter::dhcp4_requests()).unwrap();
            let both = PacketSocket::open(index, &filter::dhcp4_requests_or_arp()).unwrap();
            for f in [
                frame(0x0806, 0, 0),
                frame(0x0800, 17, 67),
                frame(0x0800, 17, 53),
                frame(0x0800, 6, 67),
                frame(0x86dd, 17, 67),
            ] {
                guest.write_all(&f).unwrap();
            }
            let mut batch = FrameBatch::new(16, 2048);
            assert_eq!(dhcp.receive(&mut batch).unwrap(), 1);
            assert_eq!(batch.iter().next().unwrap().data, frame(0x0800, 17, 67));
            assert_eq!(both.receive(&mut batch).unwrap(), 2);
            assert_eq!(both.receive(&mut batch).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
            let reply = frame(0x0800, 17, 68);
            assert_eq!(dhcp.send_all(&[&reply, &reply]).unwrap(), 2);
            dhcp.send(&reply).unwrap();
            // Its own frames come back to no socket of ours, but they reach the guest.
            assert!(both.receive(&mut batch).is_err());
            let mut buf = [0; 2048];
            let mut replies = 0;
            while replies < 3 {
                let n = std::io::Read::read(&mut guest, &mut buf).unwrap();
                replies += u32::from(buf[..n] == reply[..]);
            }
        })
        .unwrap();
}

/// An IPv6 packet: its next header, and what follows the header.
fn frame6(next: u8, body: &[u8]) -> Vec<u8> {
    let mut f = vec![0u8; 54];
    f[12..14].copy_from_slice(&0x86ddu16.to_be_bytes());
    f[14] = 0x60;
    f[18..20].copy_from_slice(&(body.len() as u16).to_be_bytes());
    f[20] = next;
    f[21] = 255;
    f.extend_from_slice(body);
    f.resize(f.len().max(80), 0);
    f
}

#[test]
fn what_a_prober_waits_for_passes_its_filter() {
    let Some(netns) = namespace("what_a_prober_waits_for_passes_its_filter") else { return };
    const MAC: [u8; 6] = [0x0e, 0x6d, 1, 2, 3, 4];
    let to = |mac: [u8; 6], mut f: Vec<u8>| {
        f[..6].copy_from_slice(&mac);
        f
    };
    let all = [0xff; 6];
    let cases: Vec<(&str, Vec<u8>, bool)> = vec![
        ("a probe to all", to(all, frame(0x88b5, 0, 0)), true),
        ("another experiment", to(all, frame(0x88b6, 0, 0)), false),
        ("ARP to all", to(all, frame(0x0806, 0, 0)), false),
        ("ARP to the prober", to(MAC, frame(0x0806, 0, 0)), true),
        ("ARP to one like it", to([0x0e, 0x6d, 1, 2, 3, 5], frame(0x0806, 0, 0)), false),
        ("a DHCP answer to all", to(all, frame(0x0800, 17, 68)), true),
        ("a DHCP request to all", to(all, frame(0x0800, 17, 67)), false),
        ("TCP to all", to(all, frame(0x0800, 6, 68)), false),
        ("an advertisement", to([0x33, 0x33, 0, 0, 0, 1], frame6(58, &[134, 0, 0, 0])), true),
        ("a solicitation of routers", to([0x33, 0x33, 0, 0, 0, 2], frame6(58, &[133, 0, 0, 0])), false),
        ("a question about the prober", to([0x33, 0x33, 0xff, 2, 3, 4], frame6(58, &[135, 0, 0, 0])), true),
        ("a question about another", to([0x33, 0x33, 0xff, 2, 3, 5], frame6(58, &[135, 0, 0, 0])), false),
        ("a DHCPv6 answer", to(MAC, frame6(17, &[2, 35, 2, 34, 0, 8, 0, 0])), true),
    ];
    netns
        .run(|| {
            let mut rtnl = Rtnl::open().unwrap();
            Tap { name: "tap0", multi_queue: false, vnet_hdr: false }.create(None).unwrap();
            rtnl.change_named("tap0", &LinkChange { up: Some(true), ..LinkChange::default() }).unwrap();
            let mut wire =
                std::fs::File::from(Tap { name: "tap0", multi_queue: false, vnet_hdr: false }.open().unwrap());
            let ear = PacketSocket::open(rtnl.index("tap0").unwrap(), &filter::probes(MAC)).unwrap();
            let mut batch = FrameBatch::new(4, 2048);
            for (what, f, passes) in &cases {
                wire.write_all(f).unwrap();
                let heard = ear.receive(&mut batch).map_or(0, |n| n);
                assert_eq!(heard, usize::from(*passes), "{what}");
            }
        })
        .unwrap();
}

#[test]
fn what_servers_and_routers_say_passes_its_filter() {
    let Some(netns) = namespace("what_servers_and_routers_say_passes_its_filter") else { return };
    let fragment = |next: u8, offset: u16, body: &[u8]| {
        let at = (offset | 1).to_be_bytes();
        frame6(44, &[&[next, 0, at[0], at[1], 0, 0, 0, 7], body].concat())
    };
    let (to546, to547) = ([2, 35, 2, 34, 0, 8, 0, 0], [2, 34, 2, 35, 0, 8, 0, 0]);
    let mut first4 = frame(0x0800, 17, 68);
    first4[20] = 0x20;
    let mut later4 = first4.clone();
    later4[21] = 9;
    let cases: Vec<(&str, Vec<u8>, bool)> = vec![
        ("a DHCP answer", frame(0x0800, 17, 68), true),
        ("a DHCP request", frame(0x0800, 17, 67), false),
        ("TCP", frame(0x0800, 6, 68), false),
        ("an answer's first fragment", first4, true),
        ("a later fragment", later4, false),
        ("ARP", frame(0x0806, 0, 0), false),
        ("a DHCPv6 answer", frame6(17, &to546), true),
        ("a DHCPv6 request", frame6(17, &to547), false),
        ("an advertisement", frame6(58, &[134, 0, 0, 0]), true),
        ("a solicitation", frame6(58, &[133, 0, 0, 0]), false),
        ("TCP over IPv6", frame6(6, &[134, 0, 2, 34]), false),
        ("options first", frame6(0, &[58, 0, 5, 2, 0, 0, 1, 0, 134, 0, 0, 0]), true),
        ("options for the destination first", frame6(60, &[58, 0, 1, 4, 0, 0, 0, 0, 134, 0, 0, 0]), true),
        ("an advertisement's first fragment", fragment(58, 0, &[134, 0, 0, 0]), true),
        ("a solicitation's first fragment", fragment(58, 0, &[133, 0, 0, 0]), false),
        ("a DHCPv6 answer's first fragment", fragment(17, 0, &to546), true),
        ("a DHCPv6 request's first fragment", fragment(17, 0, &to547), false),
        ("a later fragment of it", fragment(17, 8, &to546), false),
        ("a fragment of TCP", fragment(6, 0, &to546), false),
    ];
    netns
        .run(|| {
            let mut rtnl = Rtnl::open().unwrap();
            let tap = Tap { name: "tap0", multi_queue: false, vnet_hdr: false };
            tap.create(None).unwrap();
            rtnl.change_named("tap0", &LinkChange { up: Some(true), ..LinkChange::default() }).unwrap();
            let mut wire = std::fs::File::from(tap.open().unwrap());
            let filter = filter::dhcp_replies_or_router_advertisements();
            let ear = PacketSocket::open(rtnl.index("tap0").unwrap(), &filter).unwrap();
            let everything = PacketSocket::open(rtnl.index("tap0").unwrap(), &filter::all()).unwrap();
            let mut batch = FrameBatch::new(4, 2048);
            for (what, frame, passes) in &cases {
                wire.write_all(frame).unwrap();
                let heard = ear.receive(&mut batch).unwrap_or(0);
                assert_eq!(heard == 1, *passes, "{what}");
                // In a VLAN it is not said here.
                everything.receive(&mut batch).unwrap();
                wire.write_all(&[&frame[..12], &[0x81, 0, 0, 100], &frame[12..]].concat()).unwrap();
                assert_eq!(ear.receive(&mut batch).unwrap_or(0), 0, "{what} in a VLAN");
                assert_eq!(everything.receive(&mut batch).unwrap(), 1);
                assert_eq!(batch.iter().next().unwrap().vlan, Some(100));
            }
        })
        .unwrap();
}
