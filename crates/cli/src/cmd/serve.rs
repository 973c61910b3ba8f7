//! `serve`: the API, the controllers and the node agent in one process; `agent`: the node agent alone; `teardown`: the
//! opposite.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kube::Client;
use multihome_agent::{Config as AgentConfig, Wish};
use multihome_apiserver::{
    Admission, AdmissionRequest, ApiServer, Cause, Denied, Operation, ResourceType, ServeOptions, View,
};
use multihome_control::World;
use multihome_control::admission::{Lookup, Refusal, Request, Rules, Verb};
use multihome_vmm::images::ImageStore;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

use crate::args::{AgentArgs, Cli, Dataplane, NodeArgs, Serve, Teardown};
use crate::{CliError, CliResult, client};

/// The admission rules as the embedded API calls them.
#[derive(Debug)]
struct Door(Rules);

struct Look<'a>(&'a dyn View);

impl Lookup for Look<'_> {
    fn get(&self, group: &str, plural: &str, namespace: Option<&str>, name: &str) -> Option<Arc<Value>> {
        self.0.get(group, plural, namespace, name)
    }
    fn list(&self, group: &str, plural: &str, namespace: Option<&str>) -> Vec<Arc<Value>> {
        self.0.list(group, plural, namespace)
    }
}

fn verb(op: Operation) -> Option<Verb> {
    match op {
        Operation::Create => Some(Verb::Create),
        Operation::Update => Some(Verb::Update),
        Operation::Delete => Some(Verb::Delete),
        Operation::UpdateStatus => None,
    }
}

impl Admission for Door {
    fn default(&self, req: &AdmissionRequest, object: &mut Value, _: &dyn View) -> Result<(), Denied> {
        if let Some(verb) = verb(req.operation) {
            self.0.fill_in(verb, &req.resource.group, &req.resource.plural, object);
        }
        Ok(())
    }

    fn validate(&self, req: &AdmissionRequest, view: &dyn View) -> Result<(), Denied> {
        let Some(verb) = verb(req.operation) else { return Ok(()) };
        let request = Request {
            verb,
            group: &req.resource.group,
            plural: &req.resource.plural,
            namespace: req.namespace.unwrap_or_default(),
            name: req.name,
            old: req.old,
            new: req.new,
        };
        self.0.validate(&request, &Look(view)).map_err(|r| match r {
            Refusal::Forbidden(text) => Denied::forbidden(text),
            Refusal::Invalid(list) => Denied::invalid(
                list.into_iter().map(|v| Cause::new(&v.field, "FieldValueInvalid", v.message)).collect(),
            ),
        })
    }
}

/// Opens the embedded API with all kinds and rules on a database file.
///
/// # Errors
/// When the database cannot be opened.
pub fn open_api(database: &Path, images: Option<ImageStore>) -> Result<ApiServer, CliError> {
    let mut types = multihome_model::crds().iter().map(ResourceType::from_crd).collect::<Result<Vec<_>, _>>()?;
    // A misspelt field of ours is refused; KubeVirt's kinds keep what they do not know.
    types.iter_mut().for_each(|t| t.strict = t.group == multihome_model::GROUP);
    let check = images.map(|store| {
        let check: Arc<multihome_control::admission::ImageCheck> =
            Arc::new(move |name: &str| store.lookup(name).map(drop).map_err(|e| e.to_string()));
        check
    });
    Ok(ApiServer::open(database, types, Arc::new(Door(Rules { images: check })))?)
}

/// Runs until a signal.
pub(super) async fn run(cli: &Cli, args: &Serve) -> CliResult {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let started = std::time::Instant::now();
    let agent = agent_config(cli, &args.node, None)?;
    let api = open_api(&cli.data_dir.join("multihome.db"), (!args.no_agent).then(|| agent.images()))?;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let options = ServeOptions {
        data_dir: cli.data_dir.clone(),
        listen: args.listen,
        advertise: args.advertise.or(agent.tunnel_address),
        socket: Some(cli.data_dir.join("multihome.sock")),
    };
    let serving = multihome_apiserver::serve(api.clone(), options, async {
        let _ = stopped.await;
    })
    .await?;
    eprintln!("API ready after {} ms on https://{}", started.elapsed().as_millis(), serving.address);
    eprintln!("kubeconfig: {}", serving.kubeconfig.display());
    if let Some(join) = &serving.join {
        eprintln!("other nodes join with a copy of {}: multihome agent --kubeconfig FILE", join.display());
    }
    let client = Client::new(api.clone(), "default");
    if !args.no_agent {
        multihome_agent::resume(&agent, &client).await?;
    }
    let world = World::watch(&client);
    let controllers = multihome_control::run(client.clone(), world.clone());
    let node = async {
        if args.no_agent {
            std::future::pending::<()>().await;
        }
        multihome_agent::run(agent, client, world).await
    };
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    let failed = tokio::select! {
        () = controllers => Some(CliError::new("the controllers ended")),
        r = node => Some(r.err().map_or_else(|| CliError::new("the node agent ended"), CliError::from)),
        _ = term.recv() => None,
        _ = int.recv() => None,
    };
    eprintln!("stopping; VMs run on");
    let _ = stop.send(());
    serving.ended().await;
    failed.map_or(Ok(0), Err)
}

/// Runs the node agent alone until a signal.
pub(super) async fn agent(cli: &Cli, args: &AgentArgs) -> CliResult {
    let path = client::kubeconfig_path(cli);
    let api = client::server(cli).await?;
    let config = agent_config(cli, &args.node, Some(&api))?;
    let client = client::connect(cli).await?;
    multihome_agent::resume(&config, &client).await?;
    // Whether it answers is said at once; later it may come and go.
    let version = client.apiserver_version().await.map_err(|e| {
        let refused = matches!(&e, kube::Error::Api(s) if s.code == 401 || s.code == 403);
        let hint = match refused {
            true => format!("the API {api} does not take the credential in {}: copy the file anew", path.display()),
            false => format!("{} names the API {api}: is «multihome serve» running there?", path.display()),
        };
        CliError::from(e).hint(hint)
    })?;
    eprintln!("node {} joins {api} (version {})", config.node, version.git_version);
    match config.tunnel_address {
        Some(address) => eprintln!("tunnels start from {address}"),
        None => eprintln!("no tunnel address was found: overlays reach this node only; give one with --tunnel-address"),
    }
    let world = World::watch(&client);
    let node = multihome_agent::run(config, client, world);
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    tokio::select! {
        r = node => Err(r.err().map_or_else(|| CliError::new("the node agent ended"), CliError::from)),
        _ = term.recv() => Ok(0),
        _ = int.recv() => Ok(0),
    }
}

/// What the agent of this node is told. `api` is where the API is, if elsewhere.
fn agent_config(cli: &Cli, args: &NodeArgs, api: Option<&http::Uri>) -> Result<AgentConfig, CliError> {
    if let Some(a) = args.tunnel_address
        && (a.is_loopback() || a.is_unspecified() || a.is_multicast())
    {
        let text = format!("the tunnel address {a} is none that other nodes can reach");
        return Err(CliError::new(text).hint("use an address of this node on the network between the nodes"));
    }
    Ok(AgentConfig {
        node: args.node_name.clone().map_or_else(host_name, Ok)?,
        data_dir: cli.data_dir.clone(),
        qemu: args.qemu.clone(),
        netns_prefix: cli.netns_prefix.clone(),
        tunnel_address: args.tunnel_address.or_else(|| own_address(api)),
        remote_api: api.is_some(),
        dataplane: match args.dataplane {
            Dataplane::Auto => Wish::Auto,
            Dataplane::Kernel => Wish::Kernel,
            Dataplane::Ovs => Wish::Ovs,
        },
        ovs_database: Some(args.ovs_database.clone()),
    })
}

/// This node's address towards the API, or towards the rest of the world. Nothing is sent to find it.
fn own_address(api: Option<&http::Uri>) -> Option<IpAddr> {
    let host = api.and_then(|u| u.host());
    // Documentation addresses (RFC 5737, RFC 3849): routed like any other that is not near.
    let all = host.into_iter().chain(["192.0.2.1", "2001:db8::1"]);
    all.filter_map(client::source_towards).find(|own| !own.is_loopback())
}

fn host_name() -> Result<String, CliError> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname")?.trim().to_lowercase();
    let label: String = name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect();
    let label = label.trim_matches(['-', '.']).to_owned();
    if label.is_empty() {
        return Err(
            CliError::new(format!("the host name {name:?} cannot name a node")).hint("name the node with --node-name")
        );
    }
    Ok(label)
}

/// Removes everything from this node.
pub(super) async fn teardown(cli: &Cli, args: &Teardown) -> CliResult {
    let socket = cli.data_dir.join("multihome.sock");
    if tokio::net::UnixStream::connect(&socket).await.is_ok() {
        return Err(CliError::new("«multihome serve» runs with this data directory").hint("stop it first"));
    }
    let config = AgentConfig {
        node: String::new(),
        data_dir: cli.data_dir.clone(),
        qemu: PathBuf::from("qemu-system-x86_64"),
        netns_prefix: cli.netns_prefix.clone(),
        tunnel_address: None,
        remote_api: false,
        dataplane: Wish::Auto,
        ovs_database: None,
    };
    eprintln!("removing all VMs, devices, namespaces and tables of Multihome from this node");
    let mut left = multihome_agent::teardown(&config).await?;
    if args.purge {
        eprintln!("removing {}", cli.data_dir.display());
        match std::fs::remove_dir_all(&cli.data_dir) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => left.push(format!("{}: {e}", cli.data_dir.display())),
            _ => {}
        }
    }
    if left.is_empty() {
        return Ok(0);
    }
    Err(CliError::new(format!("not removed: {}", left.join("; "))))
}
