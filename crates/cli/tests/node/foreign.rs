//! Networks whose DHCP server and router are somebody else's.

use multihome_testkit::{Lan, Node, eventually, network, vm};

use super::node;

#[test]
fn a_foreign_server_is_guarded() {
    let Some(node) = node("a_foreign_server_is_guarded") else { return };
    let mut lan = Lan::new(&node, "lan0", &["10.77.0.1/24", "fd77::1/64"]);
    lan.serve_dhcp(&[
        "--log-dhcp",
        "--dhcp-range=10.77.0.50,10.77.0.99,255.255.255.0,1h",
        "--dhcp-option=3,10.77.0.1",
        "--dhcp-option=6,10.77.0.53",
        "--dhcp-option-force=121,10.50.0.0/16,10.77.0.1,0.0.0.0/0,10.77.0.1",
        "--enable-ra",
        "--dhcp-range=fd77::,ra-only,64,1h",
        "--ra-param=wire,4,1800",
    ]);
    lan.serve("tcpdump", &["-l", "-n", "-e", "-i", "wire", "--immediate-mode", "rarp"]);
    let fabric = "apiVersion: multihome.io/v1alpha1\nkind: ClusterNetwork\nmetadata: {name: lan}\nspec: {uplinks: [{nics: [lan0]}]}\n---\n";
    let untagged = "apiVersion: multihome.io/v1alpha1\nkind: Network\nmetadata: {name: lan}\nspec: {type: Untagged, clusterNetwork: lan, ipv4: {leaseSeconds: 60}}\n---\n";
    let ours = network("ours", "Management", 91, 60);
    node.apply(&(fabric.to_owned() + untagged + &ours + &vm("web", &["ours", "lan"])));
    node.ready("web-ours");
    let nic = node.ready("web-lan");
    let text = |p: &str| nic.pointer(p).and_then(|x| x.as_str()).unwrap_or_default().to_owned();
    assert!(
        text("/status/ipv4/address").starts_with("10.77.0.") && text("/status/ipv4/address").ends_with("/24"),
        "{nic}"
    );
    assert_eq!(text("/status/ipv4/source"), "Guard");
    let announced = format!("{} > ff:ff:ff:ff:ff:ff, ethertype Reverse ARP", text("/status/mac"));
    assert!(lan.log().contains(&announced), "switches are told where the NIC is: {}", lan.log());
    assert!(nic.pointer("/status/addresses").unwrap().to_string().contains("\"source\":\"Guard\""), "{nic}");
    // The server names a router in options 3 and 121; the guest does not hear of it, but of the specific route it may.
    let only = |via: &str| {
        let routes = node.default_routes("web");
        (routes.len() == 1 && routes[0].contains(&format!("via {via}"))).then_some(())
    };
    eventually("one default route, by the primary", 20, || only("10.90.91.1"));
    assert!(node.guest_sh("web", "ping -c 2 -W 1 10.77.0.1").0, "the guarded address passes port security");
    // IPv6: the prefix and no default route.
    eventually("the guest formed an address of the announced prefix, and it passes", 30, || {
        node.guest_sh("web", "ping -6 -c 1 -W 1 fd77::1").0.then_some(())
    });
    assert_eq!(node.default_routes6("web"), Vec::<String>::new());
    what_is_dropped_is_told(&node, &lan, &text("/status/mac"));
    // The primary moves to the network of the foreign server, and back: its guest follows at the next renewal.
    node.cli(&["nic", "set-primary", "web-lan"]);
    eventually("the IPv6 default route is by the foreign router", 15, || {
        (node.default_routes6("web").len() == 1).then_some(())
    });
    eventually("the default route moved to the foreign router", 100, || only("10.77.0.1"));
    node.cli(&["nic", "set-primary", "web-ours"]);
    eventually("the IPv6 default route is gone", 15, || node.default_routes6("web").is_empty().then_some(()));
    eventually("the default route moved back", 100, || only("10.90.91.1"));
    what_a_change_touches_is_shown_first(&node, fabric);
    a_guest_cannot_use_up_the_addresses(&node, &lan);
}

/// A guest that asks under ever new identifiers gets a few addresses, and then none; it is told of in an Event.
fn a_guest_cannot_use_up_the_addresses(node: &Node, lan: &Lan) {
    let held = || {
        let text = std::fs::read_to_string(lan.dir().join("leases")).expect("the server's leases");
        text.lines().filter(|l| l.contains(" 10.77.0.")).count()
    };
    let asks = "for i in 1 2 3 4 5 6 7 8 9 a b c d e; do \
        busybox udhcpc -i eth1 -n -q -t 2 -T 1 -C -x 0x3d:010$i -s /bin/true; done; true";
    let (_, said) = node.guest_sh("web", asks);
    eventually("what the guest did is told", 30, || {
        let list = node.cli(&["get", "events", "-o", "json"]);
        list.contains("\"reason\": \"TooManyAddresses\"").then_some(())
    });
    assert!((6..=9).contains(&held()), "{} of 50 addresses are taken: {said}", held());
}

/// Another device and another MTU of a fabric: shown with the NICs that it reaches, and nothing of it done.
fn what_a_change_touches_is_shown_first(node: &Node, fabric: &str) {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let diff = |manifest: &str, more: &[&str]| {
        std::fs::write(file.path(), manifest).expect("the manifest can be written");
        let path = file.path().to_string_lossy().into_owned();
        node.cli(&[&["diff", "-f", path.as_str()], more].concat())
    };
    assert_eq!(diff(fabric, &[]), "nothing changes on any node\n");
    let changed = fabric.replace("uplinks: [{nics: [lan0]}]", "mtu: 1400, uplinks: [{nics: [lan1]}]");
    let text = diff(&changed, &[]);
    let row = text.lines().find(|l| l.contains("default/web-lan ")).unwrap_or_else(|| panic!("{text}"));
    let words: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(words, ["default/web-lan", "web", "1500", "->", "1400", "lan0", "->", "lan1", "-", "-"], "{text}");
    assert!(!text.contains("web-ours"), "{text}");
    let json: serde_json::Value = serde_json::from_str(&diff(&changed, &["-o", "json"])).expect("JSON");
    assert_eq!(json["nodes"][0]["nics"][0]["change"]["mtu"], serde_json::json!([1500, 1400]), "{json}");
    assert_eq!(diff(fabric, &[]), "nothing changes on any node\n", "it was only asked");
}

/// Sends the first fragment of a DHCP answer to a MAC, by the host's own wire.
const FRAGMENT: &str = r#"
import socket, struct, sys
mac = bytes.fromhex(sys.argv[1].replace(":", ""))
bootp = bytes([2, 1, 6, 0]) + bytes(24) + mac + bytes(200)
udp = struct.pack("!HHHH", 67, 68, 8 + 900, 0) + bootp
ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 7, 0x2000, 64, 17, 0, bytes([10, 77, 0, 1]), bytes([255] * 4))
total = sum(struct.unpack("!10H", ip))
total = (total & 0xffff) + (total >> 16)
ip = ip[:10] + struct.pack("!H", ~(total + (total >> 16)) & 0xffff) + ip[12:]
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
wire.bind(("wire", 0))
wire.send(mac + bytes([2, 0, 0, 0, 0, 1, 8, 0]) + ip + udp)
"#;

/// What cannot be handed on, and a guest that speaks as a DHCP server, are told of in Events.
fn what_is_dropped_is_told(node: &Node, lan: &Lan, mac: &str) {
    let event = |reason: &str| {
        eventually(reason, 30, || {
            let list: serde_json::Value = serde_json::from_str(&node.cli(&["get", "events", "-o", "json"])).ok()?;
            let of = |e: &&serde_json::Value| e["reason"] == reason;
            Some(list["items"].as_array()?.iter().find(of)?["message"].as_str()?.to_owned())
        })
    };
    assert!(lan.command("python3", &["-c", FRAGMENT, mac]).status().expect("python3 runs").success());
    let note = event("AnswerDropped");
    assert!(note.contains("(1 so far): it comes in fragments"), "{note}");
    // A real server in the guest, asked by a real client on the wire.
    let server = "printf 'start 10.77.0.200\nend 10.77.0.210\ninterface eth1\nlease_file /tmp/leases\n' >/tmp/udhcpd.conf\n\
        touch /tmp/leases; busybox udhcpd /tmp/udhcpd.conf";
    let (started, said) = node.guest_sh("web", server);
    assert!(started, "{said}");
    let mut client =
        lan.command("busybox", &["udhcpc", "-i", "wire", "-n", "-q", "-t", "3", "-T", "1", "-s", "/bin/true"]);
    let answer = client.output().expect("udhcpc runs");
    let heard = String::from_utf8_lossy(&answer.stderr).into_owned();
    assert!(!heard.contains("10.77.0.2"), "the guest's server is silenced: {heard}");
    let note = event("RogueDhcpServer");
    let who = "VM default/web speaks as a DHCP server on Network default/lan by its NIC web-lan";
    assert!(note.contains(who), "{note}");
}
