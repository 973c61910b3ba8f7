//! For benchmarks: the DHCP server with records for the MACs that perfdhcp generates, at a gateway in a namespace.
//!
//!     serve_load NETNS DEVICE GATEWAY RELAY COUNT
//!
//! perfdhcp counts up from 00:0c:01:02:03:04 and acts as a relay. Prints `ready` and serves until it is ended.

use std::net::{IpAddr, Ipv4Addr};

use multihome_dhcp::server::{Gateway, Server};
use multihome_dhcp::v4::Record;
use multihome_model::checked::check_network;
use multihome_model::{IpFamilySpec, MacAddr, Mtu, NetworkSpec};
use multihome_plan::route::{VmNic, plan};

fn usage() -> ! {
    eprintln!("usage: serve_load NETNS DEVICE GATEWAY RELAY COUNT");
    std::process::exit(2)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [netns, device, gateway, relay, count] = args.as_slice() else { usage() };
    let gateway: Ipv4Addr = gateway.parse()?;
    let count: u32 = count.parse()?;
    let spec = NetworkSpec {
        ipv4: Some(IpFamilySpec {
            cidr: Some(format!("{}.0.0.0/8", gateway.octets()[0])),
            gateway: Some(gateway.to_string()),
            dns: vec![gateway.to_string()],
            ..Default::default()
        }),
        ..Default::default()
    };
    let network = check_network("load", &spec)?;
    let server = Server::new();
    let base: u64 = 0x000c_0102_0304;
    for i in 0..=count {
        let mac = (base + u64::from(i)).to_be_bytes();
        let address = Ipv4Addr::from(u32::from(gateway) + 65_536 + i);
        let name = format!("nic{i}");
        let nic = VmNic {
            name: &name,
            order: 0,
            wants_primary: true,
            mac: MacAddr([mac[2], mac[3], mac[4], mac[5], mac[6], mac[7]]),
            network: &network,
            mtu: Mtu::ETHERNET,
            ipv4: Some(IpAddr::V4(address)),
            ipv6: None,
        };
        let plan = plan(&[nic]);
        if let Some(record) = plan.nic(&name).and_then(|p| Record::new(p, Some(&name), gateway)) {
            server.put_record(&name, "load", record, None);
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        let settings = Gateway {
            netns: netns.clone(),
            device: device.clone(),
            address: gateway,
            relays: [relay.parse::<Ipv4Addr>()?].into(),
        };
        server.put_gateway("load", &settings)?;
        println!("ready");
        // As the agent does: somebody always follows what happened.
        loop {
            server.changed().await;
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    })
}
