//! A server that is killed at any moment has lost nothing that it answered.
//!
//! The server is a process of its own: this program once more. Many clients write to it; it gets SIGKILL at a random moment and
//! is started again on the same data. Every write that was answered must be there, and nothing that was never sent.

use kube::api::{Api, ApiResource, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use multihome_apiserver::{AdmitAll, ApiServer, ResourceType, ServeOptions, serve};
use serde_json::json;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

const ROUNDS: u64 = 15;
const CLIENTS: u32 = 8;
/// Tells this program that it is the server, and where its data is.
const ROLE: &str = "KILL_TEST_SERVES";

#[tokio::main]
async fn main() {
    if let Some(data) = std::env::var_os(ROLE) {
        return server(PathBuf::from(data)).await;
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut memory = Memory::default();
    for round in 0..ROUNDS {
        let server = Running::start(dir.path());
        let client = server.client().await;
        memory.check(&client).await;
        // a different moment in every round, from the first write to long after
        let moment = Duration::from_micros(3_000 + round * round * 2_500 + u64::from(std::process::id()) % 1_000);
        let clients = (0..CLIENTS).map(|n| tokio::spawn(write(client.clone(), n, round, memory.part(n))));
        let clients: Vec<_> = clients.collect();
        tokio::time::sleep(moment).await;
        server.kill();
        for (n, writer) in clients.into_iter().enumerate() {
            memory.take(n, writer.await.expect("a client ends when its server is gone"));
        }
    }
    let server = Running::start(dir.path());
    memory.check(&server.client().await).await;
    server.kill();
    let writes: u64 = memory.parts.iter().map(|p| p.answered).sum();
    assert!(writes > 100, "there was a load: {writes} writes were answered");
    println!("test nothing_answered_is_lost ... ok ({ROUNDS} kills, {writes} answered writes)\n");
    println!("test result: ok. 1 passed; 0 failed; 0 ignored");
}

async fn server(data: PathBuf) {
    let widget = serde_json::from_str(include_str!("widget.json")).expect("JSON");
    let types = vec![ResourceType::from_crd(&widget).expect("a definition")];
    let api =
        ApiServer::open(&data.join("store.db"), types, Arc::new(AdmitAll)).expect("the store opens after any end");
    let options = ServeOptions { data_dir: data, listen: ([127, 0, 0, 1], 0).into(), advertise: None, socket: None };
    let serving = serve(api, options, std::future::pending()).await.expect("the server listens");
    println!("{}", serving.kubeconfig.display());
    serving.ended().await;
}

struct Running {
    child: Child,
    kubeconfig: PathBuf,
}

impl Running {
    fn start(data: &Path) -> Self {
        let program = std::env::current_exe().expect("this program");
        let mut child = Command::new(program).env(ROLE, data).stdout(Stdio::piped()).spawn().expect("it starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("it says where it is");
        assert!(!line.is_empty(), "the server did not start");
        Self { child, kubeconfig: line.trim().into() }
    }

    async fn client(&self) -> Client {
        let read = Kubeconfig::read_from(&self.kubeconfig).expect("a kubeconfig");
        let config =
            Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await.expect("a configuration");
        Client::try_from(config).expect("a client")
    }

    /// SIGKILL.
    fn kill(mut self) {
        self.child.kill().expect("it is there to be killed");
        self.child.wait().expect("it ends");
    }
}

fn widgets(client: &Client) -> Api<DynamicObject> {
    let resource = ApiResource {
        group: "conformance.multihome.io".into(),
        version: "v1".into(),
        api_version: "conformance.multihome.io/v1".into(),
        kind: "Widget".into(),
        plural: "widgets".into(),
    };
    Api::namespaced_with(client.clone(), "default", &resource)
}

/// One object as a client knows it: the states it may be in. None: it may be absent.
type States = Vec<Option<i64>>;

/// What one client knows.
#[derive(Clone, Debug, Default)]
struct Part {
    objects: BTreeMap<String, States>,
    answered: u64,
}

#[derive(Default)]
struct Memory {
    parts: Vec<Part>,
    version: u64,
}

impl Memory {
    fn part(&self, n: u32) -> Part {
        self.parts.get(n as usize).cloned().unwrap_or_default()
    }

    fn take(&mut self, n: usize, part: Part) {
        if self.parts.len() <= n {
            self.parts.resize(n + 1, Part::default());
        }
        self.parts[n] = part;
    }

    /// Compares what is stored with what was answered, and takes over which of the unanswered writes came through.
    async fn check(&mut self, client: &Client) {
        let list = widgets(client).list(&ListParams::default()).await.expect("a list");
        let version: u64 = list.metadata.resource_version.expect("a version").parse().expect("a number");
        assert!(version >= self.version, "versions never go back: {version} after {}", self.version);
        self.version = version;
        let mut stored: BTreeMap<String, i64> = list
            .items
            .into_iter()
            .map(|o| (o.metadata.name.clone().expect("a name"), o.data["spec"]["size"].as_i64().expect("a size")))
            .collect();
        for part in &mut self.parts {
            for (name, states) in &mut part.objects {
                let found = stored.remove(name);
                assert!(states.contains(&found), "{name} is {found:?}, and can only be one of {states:?}");
                *states = vec![found];
            }
        }
        assert!(stored.is_empty(), "nobody wrote {stored:?}");
    }
}

/// Creates, changes and deletes objects of its own until the server is gone.
async fn write(client: Client, n: u32, round: u64, mut part: Part) -> Part {
    let api = widgets(&client);
    let deadline = Instant::now() + Duration::from_secs(30);
    for step in 0_i64.. {
        assert!(Instant::now() < deadline, "the server was to be killed");
        let name = format!("w{n}-{}", (step * 7 + round as i64) % 5);
        let states = part.objects.entry(name.clone()).or_insert_with(|| vec![None]);
        let now = states[0];
        let size = step % 100 + 1;
        let wanted = if now.is_some() && step % 3 == 2 { None } else { Some(size) };
        states.push(wanted);
        let outcome = match (now, wanted) {
            (Some(_), None) => api.delete(&name, &Default::default()).await.map(drop),
            (Some(_), Some(size)) => api
                .patch(&name, &PatchParams::default(), &Patch::Merge(json!({"spec": {"size": size}})))
                .await
                .map(drop),
            (None, _) => {
                let body = json!({"apiVersion": "conformance.multihome.io/v1", "kind": "Widget", "metadata": {"name": name}, "spec": {"color": "red", "size": size}});
                api.create(&PostParams::default(), &serde_json::from_value(body).expect("a widget")).await.map(drop)
            }
        };
        match outcome {
            Ok(()) => {
                *states = vec![wanted];
                part.answered += 1;
            }
            Err(kube::Error::Api(status)) => panic!("{name}: {status}"),
            // the server is gone; whether this write came through is seen later
            Err(_) => return part,
        }
    }
    part
}
