//! Real clients in namespaces of their own, each on a port of a node. Needs root and curl.
#![allow(clippy::unwrap_used)]

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use multihome_guest::Guest;
use multihome_metadata::{Service, Told};
use multihome_model::checked::check_network;
use multihome_model::{IpFamilySpec, MacAddr, Mtu, NetworkSpec};
use multihome_netlink::{Netns, Rtnl};
use multihome_plan::route::{RoutePlan, VmNic, plan};

const SERVER: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

static NEXT: AtomicU32 = AtomicU32::new(0);

fn ip(arguments: &str) {
    let o = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(o.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&o.stderr));
}

/// The node's namespace and those of two guests, which both call themselves 10.0.0.2.
struct Lab {
    id: String,
    service: Service,
}

impl Lab {
    fn new(test: &str) -> Option<Self> {
        let here =
            Command::new("unshare").args(["--net", "curl", "--version"]).output().is_ok_and(|o| o.status.success());
        if !here {
            println!("SKIPPED {test}: needs root, namespaces and curl");
            return None;
        }
        let lab = Lab {
            id: format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)),
            service: Service::new(),
        };
        ip(&format!("netns add {}", lab.node()));
        for n in [1u8, 2] {
            let (node, guest) = (lab.node(), lab.guest(n));
            ip(&format!("netns add {guest}"));
            ip(&format!("-n {node} link add port{n} type veth peer name eth0 netns {guest}"));
            ip(&format!("-n {guest} link set eth0 address {} up", mac(n)));
            ip(&format!("-n {node} link set port{n} up"));
            ip(&format!("-n {guest} address add 10.0.0.2/24 dev eth0"));
            ip(&format!("-n {guest} address add fd00:1::2/64 dev eth0 nodad"));
            // By its gateway, whose MAC is no business of the service.
            ip(&format!("-n {guest} route add default via 10.0.0.1"));
            ip(&format!("-n {guest} neigh add 10.0.0.1 lladdr 02:00:00:00:00:99 dev eth0"));
            lab.put(n, &format!("vm{n}"));
        }
        Some(lab)
    }

    fn node(&self) -> String {
        format!("mhmn{}", self.id)
    }
    fn guest(&self, n: u8) -> String {
        format!("mhmg{}-{n}", self.id)
    }

    /// Says who is on a port.
    fn put(&self, n: u8, name: &str) {
        let runtime = tokio::runtime::Handle::current();
        let mut guest = Guest::new(name, format!("i-{name}"), one_nic(n));
        guest.user_data = Some("x".repeat(300_000));
        let told = Told { guest: Arc::new(guest), nic: "nic".into(), mac: mac(n), server_mac: SERVER };
        let put = || {
            let _inside = runtime.enter();
            let index = Rtnl::open().unwrap().index(&format!("port{n}")).unwrap();
            self.service.put(&format!("uid{n}"), index, told).unwrap();
        };
        Netns::open(&self.node()).unwrap().run(put).unwrap();
    }

    /// curl in a guest; its status and what it wrote.
    fn curl(&self, n: u8, arguments: &str) -> (bool, String) {
        let mut c = Command::new("nsenter");
        c.arg(format!("--net=/run/netns/{}", self.guest(n))).args(["--", "curl", "-sS", "--max-time", "10"]);
        let o = c.args(arguments.split(' ')).output().unwrap();
        (o.status.success(), String::from_utf8_lossy(&[o.stdout, o.stderr].concat()).into_owned())
    }

    fn get(&self, n: u8, path: &str) -> String {
        let (ok, text) = self.curl(n, &format!("http://169.254.169.254{path}"));
        assert!(ok, "{path}: {text}");
        text
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for ns in [self.guest(1), self.guest(2), self.node()] {
            let _ = Command::new("ip").args(["netns", "del", &ns]).output();
        }
    }
}

fn mac(n: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 1, n])
}

fn one_nic(n: u8) -> RoutePlan {
    let ipv4 =
        IpFamilySpec { cidr: Some("10.0.0.0/24".into()), gateway: Some("10.0.0.1".into()), ..Default::default() };
    let network = check_network("n", &NetworkSpec { ipv4: Some(ipv4), ..Default::default() }).unwrap();
    plan(&[VmNic {
        name: "nic",
        order: 0,
        wants_primary: false,
        mac: mac(n),
        network: &network,
        mtu: Mtu::ETHERNET,
        ipv4: Some([10, 0, 0, 2].into()),
        ipv6: None,
    }])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_port_has_its_own_answer() {
    let Some(lab) = Lab::new("each_port_has_its_own_answer") else { return };
    for n in [1, 2] {
        assert_eq!(lab.get(n, "/latest/meta-data/instance-id"), format!("i-vm{n}"));
        assert_eq!(lab.get(n, "/latest/meta-data/mac"), mac(n).to_string());
    }
    // A lie about the address changes nothing but who hears it.
    ip(&format!("-n {} address add 10.0.0.77/32 dev eth0", lab.guest(2)));
    let (ok, text) = lab.curl(2, "--interface 10.0.0.77 http://169.254.169.254/latest/meta-data/instance-id");
    assert_eq!((ok, text.as_str()), (true, "i-vm2"));
    // By a route on the link, for which the guest asks by ARP; and by IPv6, for which it solicits.
    ip(&format!("-n {} route add 169.254.169.254/32 dev eth0", lab.guest(1)));
    assert_eq!(lab.get(1, "/latest/meta-data/instance-id"), "i-vm1");
    ip(&format!("-n {} route add fd00:ec2::254/128 dev eth0", lab.guest(1)));
    for address in ["[fd00:ec2::254]", "[fe80::a9fe:a9fe%25eth0]"] {
        let (ok, text) = lab.curl(1, &format!("-g http://{address}/openstack/latest/meta_data.json"));
        assert!(ok && text.contains("\"i-vm1\""), "{address}: {text}");
    }
    // What is said changes with the record, at once.
    lab.put(1, "other");
    assert_eq!(lab.get(1, "/latest/meta-data/instance-id"), "i-other");
    lab.service.remove("uid1");
    assert!(!lab.curl(1, "--connect-timeout 1 http://169.254.169.254/").0);
    assert_eq!(lab.get(2, "/latest/meta-data/instance-id"), "i-vm2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_every_kind_are_served() {
    let Some(lab) = Lab::new("clients_of_every_kind_are_served") else { return };
    let url = "http://169.254.169.254";
    // Many answers over one connection, and one that is far larger than any buffer.
    let list = format!("{url}/latest/meta-data/mac ").repeat(20);
    let (ok, text) = lab.curl(1, &format!("-w [%{{num_connects}}] {}", list.trim()));
    assert!(ok && text.matches("[0]").count() == 19 && text.starts_with("02:00:00:00:01:01[1]"), "{text}");
    let (ok, text) = lab.curl(1, &format!("{url}/openstack/latest/user_data"));
    assert!(ok && text.len() == 300_000, "{} bytes", text.len());
    let (ok, text) = lab.curl(1, &format!("--http1.0 -i {url}/nothing"));
    assert!(ok && text.starts_with("HTTP/1.1 404 Not Found\r\n") && text.contains("Connection: close"), "{text}");
    let (ok, text) = lab.curl(1, &format!("-I {url}/latest/meta-data/mac"));
    assert!(ok && text.contains("Content-Length: 17\r\n") && text.ends_with("\r\n\r\n"), "{text}");
    assert!(lab.curl(1, &format!("-i -H X-Forwarded-For:10.0.0.9 {url}/")).1.starts_with("HTTP/1.1 403 "));
    let (_, token) = lab.curl(1, &format!("-X PUT -H X-aws-ec2-metadata-token-ttl-seconds:60 {url}/latest/api/token"));
    let (ok, text) = lab.curl(1, &format!("-H X-aws-ec2-metadata-token:{token} {url}/latest/meta-data/instance-id"));
    assert_eq!((ok, text.as_str()), (true, "i-vm1"), "{token}");
    // More at once than there are connections: who is refused tries again.
    let parallel = format!(
        "--parallel --parallel-max 20 --retry 20 --retry-connrefused --retry-delay 1 {}",
        format!("{url}/latest/meta-data/mac ").repeat(20).trim()
    );
    let (ok, text) = lab.curl(1, &parallel);
    assert!(ok && text.matches("02:00:00:00:01:01").count() == 20, "{text}");
}
