//! The metadata service's answers on loopback, and cloud-init's readers of them.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::process::Command;

use multihome_guest::{Guest, metadata};
use serde_json::Value;

use super::lab::output;

/// A server on loopback that answers as `guest`'s port would; its address.
pub fn serve(guest: Guest) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    // Ends with the test's process.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
            let Some(first) = lines.next() else { continue };
            let headers: Vec<String> = lines.take_while(|l| !l.is_empty()).collect();
            let pairs: Vec<(&str, &str)> = headers.iter().filter_map(|h| h.split_once(':')).collect();
            let mut words = first.split(' ');
            let (method, path) = (words.next().unwrap(), words.next().unwrap());
            let r = metadata::respond(&guest, &guest.plan.nics[0].name, method, path, &pairs);
            let (status, kind, length) = (r.status, r.content_type, r.body.len());
            let head = format!(
                "HTTP/1.1 {status} x\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
            );
            let _ = stream.write_all((head + &r.body).as_bytes());
        }
    });
    address
}

/// Runs Debian's Python, which has cloud-init's modules, and reads the JSON that it prints.
pub fn python(script: &str, arguments: &[&str]) -> Value {
    let text = output(Command::new("/usr/bin/python3").args(["-c", script]).args(arguments));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// cloud-init's EC2 source: ADDRESS VERSION MACS, the last a JSON object of MACs and device names, or empty.
pub const EC2: &str = r#"
import json, sys
from cloudinit.sources import DataSourceEc2 as source
from cloudinit.sources.helpers import ec2
base = sys.argv[1]
tree = ec2.get_instance_metadata(sys.argv[2], base)
macs = json.loads(sys.argv[3]) or {m: "eth%d" % i for i, m in enumerate(sorted(tree["network"]["interfaces"]["macs"]))}
class Dhcp:
    # What a secondary's lease says: no router.
    def dhcp_discovery(self, *a, **k): return {"fixed-address": "10.101.0.50"}
class Distro:
    dhcp_client = Dhcp()
    from cloudinit.net import netplan
    network_renderer = netplan.Renderer()
import inspect
extra = {"distro": Distro()} if "distro" in inspect.signature(source.convert_ec2_metadata_network_config).parameters else {}
config = source.convert_ec2_metadata_network_config(tree["network"], macs_to_nics=macs, **extra)
print(json.dumps({"tree": tree, "config": config, "user": ec2.get_instance_userdata(sys.argv[2], base).decode()}))
"#;
