//! Several nodes on one underlay: one serves the API, the others join it.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::wire::{Delay, Wire};
use crate::{NEXT, Node, capture, eventually, run};

/// Nodes on a switch.
#[derive(Debug)]
pub struct Cluster {
    /// The nodes; the first one serves the API. Their tunnel addresses are 192.0.2.1, 192.0.2.2 and so on.
    pub nodes: Vec<Node>,
    switch: String,
    /// What they are connected by, where that takes time.
    wires: Vec<Wire>,
}

/// What the cables of a far cluster's nodes take, each: there and back between two nodes are four of these.
pub const FAR: Delay = Delay { mean: Duration::from_millis(5), jitter: Duration::from_millis(2) };

impl Cluster {
    /// Starts `count` nodes, called node1, node2 and so on, each with the demo guest as image `guest`.
    ///
    /// # Panics
    /// If anything of that fails.
    pub fn start(binary: &str, count: usize) -> Self {
        Self::with(binary, count, None)
    }

    /// The same, with cables that take [`FAR`].
    ///
    /// # Panics
    /// If anything of that fails.
    pub fn start_far(binary: &str, count: usize) -> Self {
        Self::with(binary, count, Some(FAR))
    }

    fn with(binary: &str, count: usize, delay: Option<Delay>) -> Self {
        let switch = format!("mhswitch-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::SeqCst));
        run("ip", &["netns", "add", &switch]);
        run("ip", &["-n", &switch, "link", "add", "switch", "type", "bridge"]);
        run("ip", &["-n", &switch, "link", "set", "switch", "up"]);
        let mut cluster = Self { nodes: vec![], switch, wires: vec![] };
        for i in 1..=count {
            let name = format!("node{i}");
            let role: &[&str] = match i {
                1 => &["serve", "--node-name", &name, "--listen", "0.0.0.0:7443"],
                _ => &["agent", "--node-name", &name],
            };
            let mut node = Node::new(binary, role);
            node.kubeconfig = (i > 1).then(|| cluster.nodes[0].data_dir().join("join.kubeconfig"));
            cluster.plug(&node, i, delay);
            node.serve();
            node.import_guest();
            cluster.nodes.push(node);
        }
        cluster
    }

    /// Connects a node's `eth0` to the switch.
    fn plug(&mut self, node: &Node, i: usize, delay: Option<Delay>) {
        let (port, netns) = (format!("port{i}"), node.netns());
        match delay {
            Some(delay) => {
                self.wires.push(Wire::lay([(netns, "eth0"), (&self.switch, &port)], delay, i as u64));
            }
            None => {
                let pair = ["link", "add", "eth0", "type", "veth", "peer", "name", &port, "netns", &self.switch];
                run("ip", &[&["-n", netns][..], &pair].concat());
            }
        }
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

    /// Makes each cable of a far cluster lose five frames of a thousand, so that of those between two nodes one of a hundred is lost.
    pub fn lossy(&self) {
        self.wires.iter().for_each(|w| w.lose(5));
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
