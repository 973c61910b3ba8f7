//! Multihome on a real Kubernetes API: controllers and webhook beside it, an agent that joins it, kubectl in front.

use std::process::{Child, Command, Output};

use multihome_testkit::{Kubernetes, Node, eventually, network, skipped, vm};
use serde_json::Value;

struct Cluster {
    // Dropped in this order: the agent before the API that it asks.
    node: Node,
    controller: Child,
    kubernetes: Kubernetes,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = self.controller.kill();
        let _ = self.controller.wait();
    }
}

impl Cluster {
    fn start() -> Result<Self, String> {
        let mut node = Node::alone(env!("CARGO_BIN_EXE_multihome"));
        let kubernetes = Kubernetes::start(Some(&node))?;
        let kubeconfig = kubernetes.kubeconfig();
        let controller = node.beside(&kubeconfig, &["controller", "--install", "--webhook", "127.0.0.1:9443"]);
        eventually("the controllers run", 60, || node.log().contains("\nready\n").then_some(()));
        node.join(kubeconfig);
        Ok(Self { node, controller, kubernetes })
    }

    fn kubectl(&self, args: &[&str]) -> Output {
        let netns = format!("--net=/run/netns/{}", self.node.netns());
        let mut c = Command::new("nsenter");
        c.args([netns.as_str(), "--", "kubectl", "--cache-dir"]).arg(self.node.data_dir().join("kubectl")).args(args);
        c.env("KUBECONFIG", self.kubernetes.kubeconfig()).output().expect("kubectl runs")
    }

    /// Applies with kubectl; what it said on standard error, if it failed.
    fn apply(&self, manifest: &str) -> Result<(), String> {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), manifest).expect("the manifest can be written");
        let out = self.kubectl(&["apply", "-f", &file.path().to_string_lossy()]);
        if out.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&out.stderr).into_owned()) }
    }

    fn refused(&self, manifest: &str, sentence: &str) {
        let said = self.apply(manifest).expect_err(manifest);
        assert!(said.contains(sentence), "{said}");
    }
}

fn nic(name: &str, network: &str, more: &str) -> String {
    format!(
        "apiVersion: multihome.io/v1alpha1\nkind: NetworkInterface\nmetadata: {{name: {name}}}\nspec: {{network: {network}{more}}}\n---\n"
    )
}

#[test]
fn a_vm_gets_its_networks_from_a_kubernetes_api_and_what_cannot_work_is_refused_there() {
    let name = "a_vm_gets_its_networks_from_a_kubernetes_api_and_what_cannot_work_is_refused_there";
    if skipped(name) {
        return;
    }
    let cluster = match Cluster::start() {
        Ok(c) => c,
        Err(why) => return println!("SKIPPED {name}: {why}"),
    };
    // Networks and a NIC of one in one file: the webhook must know the ones when it judges the other.
    let lan = network("lan", "Management", 61, 600);
    let spare = nic("spare", "lan", "");
    cluster.apply(&(lan + &network("san", "Management", 62, 600) + &spare)).expect("all are taken");
    cluster.apply(&vm("web", &["lan", "san"])).expect("a VM with two NICs is taken");
    let node = &cluster.node;
    for of in ["web-lan", "web-san"] {
        node.ready(of);
    }
    let routes = eventually("the guest has its default route", 60, || {
        Some(node.default_routes("web")).filter(|r| !r.is_empty())
    });
    assert_eq!(routes.len(), 1, "{routes:?}");
    assert!(routes[0].contains("via 10.90.61.1"), "{routes:?}");

    // What the platform fills in, it fills in here as well.
    let stored: Value =
        serde_json::from_slice(&cluster.kubectl(&["get", "nic", "spare", "-o", "json"]).stdout).expect("JSON");
    assert!(stored["metadata"]["finalizers"].to_string().contains("multihome.io/"), "{}", stored["metadata"]);

    // Refused as the embedded API does, by the same sentence.
    cluster.refused(
        &nic("c", "gone", ""),
        "spec.network: Network default/gone does not exist: create it first, or name another",
    );
    cluster.refused(&nic("c", "lan", ", ipv4: {address: 10.90.61.1}"), "10.90.61.1");
    let taken = stored["status"]["ipv4"]["address"].as_str().expect("an address");
    let taken = taken.split('/').next().unwrap_or_default();
    cluster.refused(&nic("c", "lan", &format!(", ipv4: {{address: {taken}}}")), "is taken by NIC default/spare");
    let deletion = cluster.kubectl(&["delete", "net", "lan", "--wait=false"]);
    let said = String::from_utf8_lossy(&deletion.stderr);
    assert!(said.contains("Network \"lan\" is used by NICs spare"), "{said}");

    // Nothing that is refused leaves a trace, and what is deleted is deleted.
    assert_eq!(cluster.kubectl(&["get", "nic", "c"]).status.code(), Some(1));
    assert!(cluster.kubectl(&["delete", "vm", "web"]).status.success());
    assert!(cluster.kubectl(&["delete", "nic", "spare", "--timeout=60s"]).status.success());
    // The VM's own NICs are collected a moment after it; until then they are users of the networks.
    eventually("the networks can be deleted", 60, || {
        cluster.kubectl(&["delete", "net", "lan", "san", "--ignore-not-found"]).status.success().then_some(())
    });
    eventually("the node is empty", 30, || node.devices().is_empty().then_some(()));
}
