//! The Node that this agent is: what it can do and why not, and that it is alive.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, NodeCondition, NodeSpec, NodeStatus, NodeSystemInfo};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use multihome_control::node::{AGENT, AGENT_ID, TUNNEL_ADDRESS, is_ours_alone};
use multihome_netlink::Capabilities;
use multihome_vmm::{Acceleration, Accelerator};
use serde_json::json;

use crate::{Agent, Config, Error};

/// How often the node says that it is alive.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// The label that says how VMs are accelerated.
pub(crate) const ACCELERATOR: &str = "multihome.io/accelerator";

/// What tells this agent from others: made once, and kept in the data directory.
pub(crate) fn identity(config: &Config) -> Result<String, Error> {
    let path = config.data_dir.join("agent-id");
    let failed = |source| Error::File { path: path.clone(), source };
    match std::fs::read_to_string(&path) {
        Ok(text) if !text.trim().is_empty() => return Ok(text.trim().to_owned()),
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(e)),
        _ => {}
    }
    let fresh = std::fs::read_to_string("/proc/sys/kernel/random/uuid").map_err(failed)?.trim().to_owned();
    std::fs::create_dir_all(&config.data_dir).map_err(failed)?;
    std::fs::write(&path, &fresh).map_err(failed)?;
    Ok(fresh)
}

/// Makes sure that nobody else speaks for this node: two agents of one name would undo each other's work.
pub(crate) async fn claim_name(name: &str, identity: &str, client: &Client) -> Result<(), Error> {
    let api: Api<Node> = Api::all(client.clone());
    let taken = |n: &Node| {
        let conditions = n.status.as_ref().and_then(|s| s.conditions.as_ref());
        let speaks = conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
        speaks && is_ours_alone(n) && n.annotations().get(AGENT_ID).is_some_and(|other| other != identity)
    };
    match api.get_opt(name).await? {
        Some(node) if taken(&node) => Err(Error::NameTaken(name.to_owned())),
        _ => Ok(()),
    }
}

/// Keeps the Node up to date for as long as it is polled.
pub(crate) async fn report(agent: &Agent, kernel: &Capabilities, identity: &str) {
    let mut acceleration = agent.acceleration.subscribe();
    loop {
        let known = acceleration.borrow_and_update().clone();
        let pause = match register(agent, kernel, identity, known.as_ref()).await {
            Ok(()) => HEARTBEAT,
            Err(e) => {
                tracing::warn!("node status not reported: {e}");
                Duration::from_secs(1)
            }
        };
        let _ = tokio::time::timeout(pause, acceleration.changed()).await;
    }
}

async fn register(
    agent: &Agent,
    kernel: &Capabilities,
    identity: &str,
    acceleration: Option<&Acceleration>,
) -> Result<(), kube::Error> {
    let api: Api<Node> = Api::all(agent.client.clone());
    let name = &agent.config.node;
    let mut labels: BTreeMap<String, String> =
        [("kubernetes.io/hostname".to_owned(), name.clone()), ("kubernetes.io/os".to_owned(), "linux".to_owned())]
            .into();
    if let Some(a) = acceleration {
        labels.insert(ACCELERATOR.into(), a.accelerator.name().into());
    }
    let tunnel = agent.config.tunnel_address.map(|a| a.to_string());
    let old = api.get_opt(name).await?;
    if old.is_none() {
        let own = tunnel.clone().map(|a| (TUNNEL_ADDRESS.to_owned(), a));
        let annotations = Some(own.into_iter().chain([(AGENT_ID.to_owned(), identity.to_owned())]).collect());
        let node = Node {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                labels: Some(labels.clone()),
                annotations,
                ..Default::default()
            },
            spec: Some(NodeSpec::default()),
            status: None,
        };
        match api.create(&PostParams::default(), &node).await {
            Ok(_) => {}
            Err(kube::Error::Api(e)) if e.code == 409 => {}
            Err(e) => return Err(e),
        }
    } else {
        let patch =
            json!({"metadata": {"labels": labels, "annotations": {TUNNEL_ADDRESS: tunnel, AGENT_ID: identity}}});
        api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
    }
    // Where a kubelet speaks for the node, what it says stands beside what we say.
    let alone = old.as_ref().is_none_or(is_ours_alone);
    let before = old.and_then(|n| n.status).and_then(|s| s.conditions).unwrap_or_default();
    let mut status = NodeStatus {
        conditions: Some(conditions(kernel, agent.plumbing.engine(), acceleration, &before, alone)),
        ..Default::default()
    };
    if alone {
        status.capacity = Some(capacity());
        status.node_info = Some(system_info());
    }
    let mut patch = json!({"status": status});
    if alone {
        let internal = match tunnel {
            Some(address) => json!({"type": "InternalIP", "address": address}),
            None => json!({"type": "InternalIP", "$patch": "delete"}),
        };
        patch["status"]["addresses"] = json!([{"type": "Hostname", "address": name}, internal]);
    }
    api.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch)).await?;
    Ok(())
}

fn conditions(
    kernel: &Capabilities,
    (engine, datapath, why): (&str, &str, &str),
    acceleration: Option<&Acceleration>,
    before: &[NodeCondition],
    alone: bool,
) -> Vec<NodeCondition> {
    let now = Time(jiff::Timestamp::now());
    let make = |kind: &str, ok: bool, reason: &str, message: String| {
        let status = if ok { "True" } else { "False" };
        let same = before.iter().find(|c| c.type_ == kind && c.status == status);
        NodeCondition {
            type_: kind.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(message),
            last_heartbeat_time: Some(now.clone()),
            last_transition_time: same.and_then(|c| c.last_transition_time.clone()).or(Some(now.clone())),
        }
    };
    let ready = || make("Ready", true, "AgentRunning", "the agent runs and watches".into());
    let mut out: Vec<_> = alone.then(ready).into_iter().collect();
    out.push(match acceleration.map(|a| (a.accelerator, a.no_kvm.as_deref())) {
        Some((Accelerator::Kvm, _)) => make("KVM", true, "Works", "VMs run with hardware virtualisation".into()),
        Some((_, why)) => make(
            "KVM",
            false,
            "SoftwareEmulation",
            format!("VMs run in software emulation: {}", why.unwrap_or("KVM was not tried")),
        ),
        None => make("KVM", false, "NotTried", "tried when the first VM starts".into()),
    });
    let (reason, by) = match engine {
        "openvswitch" => ("OpenVSwitch", format!("Open vSwitch, data path {datapath}")),
        _ => ("Kernel", "the kernel's bridges".to_owned()),
    };
    out.push(make("Dataplane", true, reason, format!("frames are moved by {by}: {why}")));
    for (name, finding) in kernel.iter() {
        let name = name.name();
        let camel: String = name
            .split(['-', '_', ' ', '.'])
            .map(|w| w[..w.len().min(1)].to_uppercase() + w.get(1..).unwrap_or_default())
            .collect();
        out.push(match finding {
            None => make(&camel, true, "Works", "tried and found to work".into()),
            Some(why) => make(&camel, false, "NotOffered", why.to_string()),
        });
    }
    out
}

fn capacity() -> BTreeMap<String, Quantity> {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find(|l| l.starts_with("MemTotal:"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    });
    let mut map = BTreeMap::from([("cpu".to_owned(), Quantity(cpus.to_string()))]);
    if let Some(kib) = memory {
        map.insert("memory".into(), Quantity(format!("{kib}Ki")));
    }
    map
}

fn system_info() -> NodeSystemInfo {
    let read = |path: &str| std::fs::read_to_string(path).map(|s| s.trim().to_owned()).unwrap_or_default();
    let os = read("/etc/os-release");
    let pretty =
        os.lines().find_map(|l| l.strip_prefix("PRETTY_NAME=")).unwrap_or("Linux").trim_matches('"').to_owned();
    NodeSystemInfo {
        architecture: std::env::consts::ARCH.into(),
        boot_id: read("/proc/sys/kernel/random/boot_id"),
        kernel_version: read("/proc/sys/kernel/osrelease"),
        machine_id: read("/etc/machine-id"),
        operating_system: "linux".into(),
        os_image: pretty,
        kubelet_version: format!("{AGENT}{}", env!("CARGO_PKG_VERSION")),
        ..Default::default()
    }
}
