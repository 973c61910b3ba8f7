//! Manifests for tests.

use std::fmt::Write;

/// A network with a gateway of ours and a short lease; `kind` is `Management`, `Overlay` or `Vlan`.
pub fn network(name: &str, kind: &str, third_octet: u8, lease_seconds: u32) -> String {
    let mut text = String::new();
    let extra = match kind {
        "Vlan" => {
            let _ = write!(
                text,
                "apiVersion: multihome.io/v1alpha1\nkind: Vpc\nmetadata: {{name: {name}}}\nspec: {{}}\n---\n"
            );
            format!("  vlan: {{id: {}}}\n  vpc: {name}\n", 100 + u32::from(third_octet))
        }
        _ => String::new(),
    };
    let _ = write!(
        text,
        "apiVersion: multihome.io/v1alpha1
kind: Network
metadata: {{name: {name}}}
spec:
  type: {kind}
{extra}  ipv4:
    cidr: 10.90.{third_octet}.0/24
    gateway: 10.90.{third_octet}.1
    leaseSeconds: {lease_seconds}
---
"
    );
    text
}

/// The same with IPv6 beside it, of which guests form their addresses themselves.
pub fn dual_stack(name: &str, kind: &str, third_octet: u8, lease_seconds: u32) -> String {
    let text = network(name, kind, third_octet, lease_seconds);
    let six = format!(
        "  ipv6: {{cidr: \"fd90:{third_octet}::/64\", gateway: \"fd90:{third_octet}::1\", addressing: Slaac}}\n---\n"
    );
    match text.strip_suffix("---\n") {
        Some(body) => format!("{body}{six}"),
        None => text,
    }
}

/// A running VM with the guest of the testkit, one NIC per network.
pub fn vm(name: &str, networks: &[&str]) -> String {
    let mut text = format!(
        "apiVersion: kubevirt.io/v1
kind: VirtualMachine
metadata: {{name: {name}}}
spec:
  running: true
  template:
    spec:
      terminationGracePeriodSeconds: 10
      domain:
        memory: {{guest: 160Mi}}
        firmware: {{kernelBoot: {{container: {{image: guest}}}}}}
        devices:
          interfaces:
"
    );
    for n in networks {
        let _ = writeln!(text, "            - {{name: {n}, bridge: {{}}}}");
    }
    text.push_str("      networks:\n");
    for n in networks {
        let _ = writeln!(text, "        - {{name: {n}, multus: {{networkName: {n}}}}}");
    }
    text.push_str("---\n");
    text
}
