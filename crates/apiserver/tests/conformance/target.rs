//! The two servers, and how answers are written down so that they can be compared.

use http_body_util::BodyExt;
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use multihome_apiserver::{AdmitAll, ApiServer, ResourceType, ServeOptions, Serving, serve};
use multihome_testkit::Kubernetes;
use regex_lite::Regex;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use tempfile::TempDir;

pub const WIDGET: &str = include_str!("../widget.json");
pub const WIDGETS: &str = "/apis/conformance.multihome.io/v1";

/// A server that scenarios talk to.
pub struct Target {
    pub name: &'static str,
    pub client: Client,
    pub kubeconfig: PathBuf,
    pub dir: TempDir,
    /// The embedded server itself.
    pub api: Option<ApiServer>,
}

/// What a scenario was answered, step by step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Transcript(pub Vec<Value>);

/// One answer.
#[derive(Clone, Debug)]
pub struct Answer {
    pub code: u16,
    pub body: Value,
    pub warnings: Vec<String>,
}

impl Transcript {
    /// Writes an answer down.
    pub fn note(&mut self, step: &str, answer: &Answer) {
        self.0.push(json!({"step": step, "code": answer.code, "body": normalized(answer.body.clone())}));
    }

    /// Writes down anything else.
    pub fn say(&mut self, step: &str, what: impl Into<Value>) {
        self.0.push(json!({"step": step, "saw": normalized(what.into())}));
    }
}

impl Answer {
    pub fn version(&self) -> String {
        self.body["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned()
    }

    pub fn uid(&self) -> String {
        self.body["metadata"]["uid"].as_str().unwrap_or_default().to_owned()
    }

    /// The names of a list's items.
    pub fn names(&self) -> Vec<String> {
        let items = self.body["items"].as_array().cloned().unwrap_or_default();
        items.iter().map(|i| i["metadata"]["name"].as_str().unwrap_or("?").to_owned()).collect()
    }
}

impl Target {
    async fn new(
        name: &'static str,
        kubeconfig: PathBuf,
        dir: TempDir,
        api: Option<ApiServer>,
    ) -> Result<Self, String> {
        let read = Kubeconfig::read_from(&kubeconfig).map_err(|e| e.to_string())?;
        let config =
            Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await.map_err(|e| e.to_string())?;
        let client = Client::try_from(config).map_err(|e| e.to_string())?;
        Ok(Self { name, client, kubeconfig, dir, api })
    }

    pub async fn call(
        &self,
        method: &str,
        path: &str,
        content_type: &str,
        accept: &str,
        body: impl Into<Vec<u8>>,
    ) -> Answer {
        let mut request = http::Request::builder().method(method).uri(path).header("accept", accept);
        let body = body.into();
        if !body.is_empty() {
            request = request.header("content-type", content_type);
        }
        let request = request.body(Body::from(body)).expect("a request");
        let response = self.client.send(request).await.expect("an answer");
        let code = response.status().as_u16();
        let warnings =
            response.headers().get_all("warning").iter().filter_map(|w| w.to_str().ok().map(str::to_owned)).collect();
        let bytes = response.into_body().collect().await.expect("a body").to_bytes();
        let body = serde_json::from_slice(&bytes).unwrap_or_else(|_| Value::from(String::from_utf8_lossy(&bytes)));
        Answer { code, body, warnings }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, "", "application/json", "").await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.call("POST", path, "application/json", "application/json", body.to_string()).await
    }

    pub async fn put(&self, path: &str, body: Value) -> Answer {
        self.call("PUT", path, "application/json", "application/json", body.to_string()).await
    }

    pub async fn delete(&self, path: &str, options: Value) -> Answer {
        let body = if options.is_null() { String::new() } else { options.to_string() };
        self.call("DELETE", path, "application/json", "application/json", body).await
    }

    /// `kind` is `merge`, `json` or `strategic-merge`.
    pub async fn patch(&self, path: &str, kind: &str, body: Value) -> Answer {
        let content_type = if kind == "json" {
            "application/json-patch+json".into()
        } else {
            format!("application/{kind}-patch+json")
        };
        self.call("PATCH", path, &content_type, "application/json", body.to_string()).await
    }

    /// Makes a namespace for a scenario and returns the path of widgets in it.
    pub async fn namespace(&self, name: &str) -> String {
        let made = self
            .post("/api/v1/namespaces", json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}))
            .await;
        assert_eq!(made.code, 201, "{}", made.body);
        format!("{WIDGETS}/namespaces/{name}/widgets")
    }

    /// Asks again until an answer is as it should be.
    pub async fn until(&self, path: &str, fine: impl Fn(&Answer) -> bool) -> Answer {
        let mut last = self.get(path).await;
        for _ in 0..600 {
            if fine(&last) {
                return last;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
            last = self.get(path).await;
        }
        panic!("{}: {path} never became what it should be; last: {} {}", self.name, last.code, last.body);
    }

    /// The events of a watch, until there are `count` or it ends.
    pub async fn watch(&self, path: &str, count: usize) -> Vec<Value> {
        use futures::{AsyncBufReadExt, StreamExt};
        let request = http::Request::get(path).body(Vec::new()).expect("a request");
        let stream = self.client.request_stream(request).await.expect("a watch");
        let mut lines = stream.lines();
        let mut events = Vec::new();
        while events.len() < count {
            match tokio::time::timeout(Duration::from_secs(20), lines.next()).await.expect("an event in time") {
                Some(Ok(line)) => events.push(serde_json::from_str(&line).expect("an event is JSON")),
                _ => break,
            }
        }
        events
    }

    /// Runs kubectl; standard output and standard error, as they are.
    pub fn kubectl(&self, args: &[&str], stdin: &str) -> (bool, String, String) {
        self.kubectl_with(args, stdin, &[])
    }

    pub fn kubectl_with(&self, args: &[&str], stdin: &str, env: &[(&str, &str)]) -> (bool, String, String) {
        let mut child = Command::new("kubectl")
            .arg("--cache-dir")
            .arg(self.dir.path().join("kubectl-cache"))
            .args(args)
            .env("KUBECONFIG", &self.kubeconfig)
            .env("HOME", self.dir.path())
            .envs(env.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl is installed");
        use std::io::Write;
        child.stdin.take().expect("piped").write_all(stdin.as_bytes()).expect("kubectl reads its input");
        let output = child.wait_with_output().expect("kubectl ends");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.success(), text(&output.stdout), text(&output.stderr))
    }
}

/// The embedded server, over TLS like any other.
pub struct Embedded {
    pub target: Target,
    _serving: Serving,
}

impl Embedded {
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let data = dir.path().join("data");
        let widget = ResourceType::from_crd(&serde_json::from_str(WIDGET).expect("JSON")).expect("a definition");
        let api = ApiServer::open(&data.join("store.db"), vec![widget], Arc::new(AdmitAll)).expect("the store opens");
        let options = ServeOptions {
            socket: Some(data.join("api.sock")),
            data_dir: data,
            listen: ([127, 0, 0, 1], 0).into(),
            advertise: None,
        };
        let serving = serve(api.clone(), options, std::future::pending()).await.expect("the server listens");
        let target = Target::new("embedded", serving.kubeconfig.clone(), dir, Some(api)).await.expect("a client");
        Self { target, _serving: serving }
    }
}

/// A kube-apiserver with etcd and controllers, ended when dropped.
pub struct Real {
    pub target: Target,
    _cluster: Kubernetes,
}

impl Real {
    /// Builds it if need be, which takes minutes, and starts it.
    pub async fn start() -> Result<Self, String> {
        let cluster = Kubernetes::start(None)?;
        let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
        let target = Target::new("real", cluster.kubeconfig(), dir, None).await?;
        let real = Self { target, _cluster: cluster };
        real.prepare().await;
        Ok(real)
    }

    /// Sends the definition of the suite's kind, and waits until everything that scenarios rely on is there.
    async fn prepare(&self) {
        let target = &self.target;
        let crd: Value = serde_json::from_str(WIDGET).expect("JSON");
        let made = target.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", crd).await;
        assert_eq!(made.code, 201, "{}", made.body);
        target.until(&format!("{WIDGETS}/widgets"), |a| a.code == 200).await;
        target.until("/api/v1/namespaces/default/serviceaccounts/default", |a| a.code == 200).await;
    }
}

static UUID: LazyLock<Regex> =
    LazyLock::new(|| Regex::new("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}").expect("a pattern"));
static TIME: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z").expect("a pattern"));

/// Replaces what differs from run to run: uids, times, resource versions.
pub fn normalized(value: Value) -> Value {
    match value {
        Value::String(text) => {
            let text = UUID.replace_all(&text, "<uid>");
            Value::from(TIME.replace_all(&text, "<time>"))
        }
        Value::Array(items) => items.into_iter().map(normalized).collect(),
        Value::Object(map) => {
            let kept = map.into_iter().filter(|(k, _)| !matches!(k.as_str(), "managedFields" | "selfLink"));
            kept.map(|(key, value)| {
                let value = match (key.as_str(), &value) {
                    ("resourceVersion" | "continue", Value::String(text)) if !text.is_empty() => {
                        format!("<{key}>").into()
                    }
                    _ => normalized(value),
                };
                (key, value)
            })
            .collect::<serde_json::Map<_, _>>()
            .into()
        }
        other => other,
    }
}
