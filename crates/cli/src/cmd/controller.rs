//! `controller`: the controllers for an API that is not ours, and the admission webhook beside it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kube::api::{DynamicObject, ListParams, PostParams};
use kube::core::GroupVersionKind;
use kube::discovery::ApiResource;
use kube::{Api, Client, ResourceExt};
use multihome_apiserver::endpoint;
use multihome_control::World;
use multihome_control::admission::lookup::{Asked, Seen};
use multihome_control::admission::review::Question;
use multihome_control::admission::{Refusal, Rules};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;

use crate::args::{Cli, Controller};
use crate::{CliError, CliResult, client};

/// The name of both webhook configurations, and the label by which objects are known as ours.
const NAME: &str = "multihome";
const MANAGED: &str = "app.kubernetes.io/managed-by";
/// How many refusals may be asked of the API again at one time.
const SECOND_LOOKS: usize = 4;
/// How often it is asked whether the definitions are served, and how long apart.
const TRIES: u32 = 100;
const BETWEEN: std::time::Duration = std::time::Duration::from_millis(300);

pub(super) async fn run(cli: &Cli, args: &Controller) -> CliResult {
    let client = client::connect(cli).await?;
    let api = client::server(cli).await?;
    let version = client.apiserver_version().await.map_err(|e| {
        CliError::from(e).hint(format!("{} names the API {api}", client::kubeconfig_path(cli).display()))
    })?;
    eprintln!("controllers for {api} (version {})", version.git_version);
    if args.install {
        definitions(&client).await?;
    }
    served(&client).await?;
    let world = World::watch(&client);
    world.synced().await;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let stopped = async {
        let _ = stopped.await;
    };
    let hook = match args.webhook {
        Some(listen) => {
            let host = match &args.webhook_host {
                Some(host) => host.clone(),
                None => own_host(listen, &api)?,
            };
            let door = Arc::new(Door::new(client.clone(), world.clone()));
            let answer = move |path: String, body: bytes::Bytes| {
                let door = door.clone();
                async move { door.answer(&path, &body).await }
            };
            let dir = cli.data_dir.join("webhook");
            let hook = endpoint(answer, &dir, listen, std::slice::from_ref(&host), stopped).await?;
            eprintln!("admission webhook on https://{} as {host}", hook.address);
            if args.install {
                register(&client, &host, hook.address.port(), &hook.authority).await?;
            }
            Some(hook)
        }
        None => None,
    };
    eprintln!("ready");
    let controllers = multihome_control::run(client, world);
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    let failed = tokio::select! {
        () = controllers => Some(CliError::new("the controllers ended")),
        _ = term.recv() => None,
        _ = int.recv() => None,
    };
    let _ = stop.send(());
    if let Some(hook) = hook {
        hook.ended().await;
    }
    failed.map_or(Ok(0), Err)
}

/// The address that the API reaches this machine by.
fn own_host(listen: SocketAddr, api: &http::Uri) -> Result<String, CliError> {
    if !listen.ip().is_unspecified() {
        return Ok(listen.ip().to_string());
    }
    client::source_towards(api.host().unwrap_or_default()).map(|a| a.to_string()).ok_or_else(|| {
        CliError::new(format!("it is not known by which address {api} reaches this machine"))
            .hint("give one with --webhook-host")
    })
}

/// What the webhook decides with.
struct Door {
    rules: Rules,
    client: Client,
    world: World,
    again: Semaphore,
}

impl Door {
    fn new(client: Client, world: World) -> Self {
        Self { rules: Rules::default(), client, world, again: Semaphore::new(SECOND_LOOKS) }
    }

    async fn answer(&self, path: &str, body: &[u8]) -> Option<Result<Value, String>> {
        let question = match (path, Question::parse(body)) {
            ("/validate" | "/mutate", Err(e)) => return Some(Err(e)),
            ("/mutate", Ok(q)) => return Some(Ok(q.filled(&self.rules, |bytes| STANDARD.encode(bytes)))),
            ("/validate", Ok(q)) => q,
            _ => return None,
        };
        let verdict = match question.judge(&self.rules, &Seen(&self.world)) {
            Ok(()) => Ok(()),
            // What was watched may be a moment old: only the API itself is a reason to refuse.
            Err(_) => self.second_look(&question).await,
        };
        Some(Ok(question.verdict(verdict)))
    }

    async fn second_look(&self, question: &Question) -> Result<(), Refusal> {
        let failed =
            |e: &dyn std::fmt::Display| Refusal::Forbidden(format!("the API could not be asked: {e}; try again"));
        let _turn = self.again.acquire().await.map_err(|e| failed(&e))?;
        let (rules, question) = (self.rules.clone(), question.clone());
        let asked = Asked::new(self.client.clone());
        let work = move || {
            let verdict = question.judge(&rules, &asked);
            asked
                .failure()
                .map_or(verdict, |e| Err(Refusal::Forbidden(format!("the API could not be asked: {e}; try again"))))
        };
        tokio::task::spawn_blocking(work).await.map_err(|e| failed(&e))?
    }
}

fn cluster_api(client: &Client, group: &str, kind: &str) -> Api<DynamicObject> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, "v1", kind));
    Api::all_with(client.clone(), &resource)
}

/// Puts an object that is ours; one of that name that somebody else made stays.
async fn put(api: &Api<DynamicObject>, mut object: Value) -> Result<bool, CliError> {
    let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned();
    object["metadata"]["labels"][MANAGED] = json!(NAME);
    let ours = |o: &DynamicObject| o.labels().get(MANAGED).is_some_and(|v| v == NAME);
    match api.get_opt(&name).await? {
        None => {
            api.create(&PostParams::default(), &serde_json::from_value(object)?).await?;
        }
        Some(there) if ours(&there) => {
            object["metadata"]["resourceVersion"] = json!(there.resource_version());
            api.replace(&name, &PostParams::default(), &serde_json::from_value(object)?).await?;
        }
        Some(_) => return Ok(false),
    }
    Ok(true)
}

async fn definitions(client: &Client) -> Result<(), CliError> {
    let api = cluster_api(client, "apiextensions.k8s.io", "CustomResourceDefinition");
    for crd in multihome_model::crds() {
        let name = crd.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned();
        if !put(&api, crd).await? {
            eprintln!("CustomResourceDefinition {name} is somebody else's and stays as it is");
        }
    }
    Ok(())
}

/// Waits until every kind of ours is served.
async fn served(client: &Client) -> Result<(), CliError> {
    let mut missing = String::new();
    for _ in 0..TRIES {
        missing.clear();
        for kind in crate::kinds::all() {
            let api: Api<DynamicObject> = Api::all_with(client.clone(), &kind.resource);
            match api.list_metadata(&ListParams::default().limit(1)).await {
                Ok(_) => {}
                Err(kube::Error::Api(s)) if s.code == 404 || s.code == 503 => missing = kind.resource.kind.clone(),
                Err(e) => return Err(e.into()),
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        tokio::time::sleep(BETWEEN).await;
    }
    Err(CliError::new(format!("the API does not serve kind {missing}"))
        .hint("run with --install, or apply what «multihome crds» prints"))
}

/// The registration of the webhook: what it is asked about, and how it is reached.
fn registration(kind: &str, path: &str, host: &str, port: u16, authority: &str, operations: &[&str]) -> Value {
    let config = match host.strip_suffix(".svc").and_then(|h| h.split_once('.')) {
        Some((name, namespace)) => {
            json!({"service": {"name": name, "namespace": namespace, "path": path, "port": port}})
        }
        None if host.contains(':') => json!({"url": format!("https://[{host}]:{port}{path}")}),
        None => json!({"url": format!("https://{host}:{port}{path}")}),
    };
    let mut config = config;
    config["caBundle"] = json!(STANDARD.encode(authority));
    let mut rules: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (group, plural) in multihome_model::served_types() {
        rules.entry(group).or_default().push(plural);
    }
    let rules: Vec<Value> = rules
        .into_iter()
        .map(|(group, plurals)| {
            json!({"apiGroups": [group], "apiVersions": ["*"], "operations": operations, "resources": plurals, "scope": "*"})
        })
        .collect();
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": kind,
        "metadata": {"name": NAME},
        "webhooks": [{
            "name": format!("{}.multihome.io", path.trim_start_matches('/')),
            "clientConfig": config,
            "rules": rules,
            "admissionReviewVersions": ["v1"],
            "sideEffects": "None",
            "failurePolicy": "Fail",
            "matchPolicy": "Equivalent",
            "timeoutSeconds": 10,
        }],
    })
}

async fn register(client: &Client, host: &str, port: u16, authority: &str) -> Result<(), CliError> {
    for (kind, path, operations) in [
        ("MutatingWebhookConfiguration", "/mutate", &["CREATE"][..]),
        ("ValidatingWebhookConfiguration", "/validate", &["CREATE", "UPDATE", "DELETE"][..]),
    ] {
        let api = cluster_api(client, "admissionregistration.k8s.io", kind);
        if !put(&api, registration(kind, path, host, port, authority, operations)).await? {
            return Err(CliError::new(format!(
                "{kind} {NAME:?} is somebody else's: it does not carry {MANAGED}={NAME}"
            ))
            .hint("remove it, or register by hand and leave --install out"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_named_and_anything_else_is_a_url() {
        let config = |host: &str| {
            let all = registration("ValidatingWebhookConfiguration", "/validate", host, 9443, "CA", &["CREATE"]);
            all["webhooks"][0]["clientConfig"].clone()
        };
        let service = config("hook.multihome-system.svc");
        assert_eq!(service["service"]["namespace"], "multihome-system");
        assert_eq!(config("192.0.2.1")["url"], "https://192.0.2.1:9443/validate");
        assert_eq!(config("2001:db8::1")["url"], "https://[2001:db8::1]:9443/validate");
        assert_eq!(config("hook.example.org")["caBundle"], "Q0E=");
    }

    #[test]
    fn every_kind_is_asked_about() {
        let all = registration("ValidatingWebhookConfiguration", "/validate", "h", 1, "CA", &["CREATE"]);
        let rules = all["webhooks"][0]["rules"].as_array().unwrap();
        let of = |group: &str| rules.iter().find(|r| r["apiGroups"][0] == group).unwrap()["resources"].to_string();
        assert!(of("multihome.io").contains("networkinterfaces"));
        assert!(of("kubevirt.io").contains("virtualmachines"));
    }
}
