//! Several nodes on one underlay: one serves the API, the others join it.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::Ordering;

use crate::{NEXT, Node, capture, eventually, run};

/// Nodes on a switch.
#[derive(Debug)]
pub struct Cluster {
    /// The nodes; the first one serves the API. Their tunnel addresses are 192.0.2.1, 192.0.2.2 and so on.
    pub nodes: Vec<Node>,
    switch: String,
}

impl Cluster {
    /// Starts `count` nodes, called node1, node2 and so on, each with the demo guest as image `guest`.
    ///
    /// # Panics
    /// If anything of that fails.
    pub fn start(binary: &str, count: usize) -> Self {
        let switch = format!("mhswitch-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::SeqCst));
        run("ip", &["netns", "add", &switch]);
        run("ip", &["-n", &switch, "link", "add", "switch", "type", "bridge"]);
        run("ip", &["-n", &switch, "link", "set", "switch", "up"]);
        let mut cluster = Self { nodes: vec![], switch };
        for i in 1..=count {
            let name = format!("node{i}");
            let role: &[&str] = match i {
                1 => &["serve", "--node-name", &name, "--listen", "0.0.0.0:7443"],
                _ => &["agent", "--node-name", &name],
            };
            let mut node = Node::new(binary, role);
            node.kubeconfig = (i > 1).then(|| cluster.nodes[0].data_dir().join("join.kubeconfig"));
            cluster.plug(&node, i);
            node.serve();
            node.import_guest();
            cluster.nodes.push(node);
        }
        cluster
    }

    /// Connects a node's `eth0` to the switch.
    fn plug(&self, node: &Node, i: usize) {
        let (port, netns) = (format!("port{i}"), node.netns());
        let pair = ["link", "add", "eth0", "type", "veth", "peer", "name", &port, "netns", &self.switch];
        run("ip", &[&["-n", netns][..], &pair].concat());
        run("ip", &["-n", &self.switch, "link", "set", &port, "master", "switch", "up"]);
        run("ip", &["-n", netns, "addr", "add", &format!("192.0.2.{i}/24"), "dev", "eth0"]);
        run("ip", &["-n", netns, "link", "set", "eth0", "up"]);
        run("ip", &["-n", netns, "route", "add", "default", "via", "192.0.2.254"]);
    }

    /// Pulls or plugs the cable of a node, counted from 1.
    ///
    /// # Panics
    /// If there is no such node.
    pub fn cable(&self, node: usize, plugged: bool) {
        let state = if plugged { "up" } else { "down" };
        run("ip", &["-n", &self.switch, "link", "set", &format!("port{node}"), state]);
    }

    /// Makes the switch lose one frame of a hundred, at random.
    ///
    /// # Panics
    /// If it cannot.
    pub fn lossy(&self) {
        let rules = "table bridge loss {
            chain forward {
                type filter hook forward priority 0
                numgen random mod 100 < 1 drop
            }
        }";
        self.on_switch("nft", &[rules]);
    }

    fn on_switch(&self, program: &str, args: &[&str]) {
        let netns = format!("--net=/run/netns/{}", self.switch);
        run("nsenter", &[&[netns.as_str(), "--", program][..], args].concat());
    }

    /// The API as the first node's command line sees it.
    pub fn api(&self) -> &Node {
        &self.nodes[0]
    }

    /// Waits until so many nodes are ready.
    ///
    /// # Panics
    /// If they do not become so within half a minute.
    pub fn wait_for_nodes(&self, count: usize) {
        eventually(&format!("{count} nodes are ready"), 30, || {
            let table = self.api().cli(&["get", "nodes"]);
            (table.lines().filter(|l| l.split_whitespace().nth(1) == Some("Ready")).count() == count).then_some(())
        });
    }

    /// Captures what passes a node's `eth0` for as long as `work` takes; one line of tcpdump per frame.
    ///
    /// # Panics
    /// If tcpdump cannot be run.
    pub fn capture(&self, node: usize, expression: &str, work: impl FnOnce()) -> String {
        let node = &self.nodes[node - 1];
        capture(node.netns(), "eth0", &node.dir.path().join("capture"), expression, work)
    }

    /// Where the first node's server keeps the kubeconfig for others.
    pub fn join_file(&self) -> PathBuf {
        self.nodes[0].data_dir().join("join.kubeconfig")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Nodes that join end before the one that serves.
        while let Some(node) = self.nodes.pop() {
            drop(node);
        }
        let _ = Command::new("ip").args(["netns", "del", &self.switch]).status();
    }
}
