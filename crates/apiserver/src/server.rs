//! The server's state, shared by every request, and its face as a `tower::Service`.

use crate::admission::Admission;
use crate::api::{self, body::ResponseBody, openapi};
use crate::builtin::{self, OWN_NAMESPACES};
use crate::gc;
use crate::registry::{Registry, RegistryError};
use crate::resource::ResourceType;
use crate::rules::{self, Context};
use crate::store::db::OpenError;
use crate::store::object::{Key, Object};
use crate::store::{Outcome, Store, StoredType};
use bytes::Bytes;
use serde_json::json;
use std::convert::Infallible;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context as TaskContext, Poll};
use tokio_util::sync::CancellationToken;

/// Why a server cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The handed-in types do not make a server.
    #[error(transparent)]
    Types(#[from] RegistryError),
    /// The database cannot be opened.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// What every server has could not be created.
    #[error("cannot prepare the store: {0}")]
    Prepare(String),
}

pub(crate) struct Server {
    pub registry: Arc<Registry>,
    pub store: Store,
    pub admission: Arc<dyn Admission>,
    /// Cancelled when watches are to end.
    pub closing: CancellationToken,
    pub openapi: OnceLock<openapi::Documents>,
}

/// The embedded API. Cheap to clone; all clones are one server.
///
/// It is a [`tower::Service`], so `kube::Client::new(server.clone(), "default")` talks to it inside the process, without
/// credentials: who holds an `ApiServer` may do everything. [`serve`](crate::serve) opens it to others.
#[derive(Clone)]
pub struct ApiServer {
    pub(crate) inner: Arc<Server>,
}

impl ApiServer {
    /// Opens the database at `path`, making it and its directory if they are absent, and loads it.
    /// Blocks while it does: milliseconds for an empty store, about four for every thousand objects.
    ///
    /// Objects of types that are not in `types` stay in the database, unseen.
    pub fn open(path: &Path, types: Vec<ResourceType>, admission: Arc<dyn Admission>) -> Result<Self, Error> {
        let registry = Arc::new(Registry::new(types)?);
        let stored = registry.all().map(|(_, t)| StoredType {
            group: t.spec.group.clone(),
            plural: t.spec.plural.clone(),
            api_version: t.api_version(),
            volatile: t.rules.read_only,
        });
        let collector = gc::Collector::new();
        let store = Store::open(path, stored.collect(), collector.listener(registry.clone()))?;
        seed_definitions(&registry, &store);
        let server = Arc::new(Server {
            registry,
            store,
            admission,
            closing: CancellationToken::new(),
            openapi: OnceLock::new(),
        });
        prepare(&server).map_err(Error::Prepare)?;
        collector.start(&server).map_err(|e| Error::Prepare(e.to_string()))?;
        Ok(Self { inner: server })
    }

    /// Ends all watches, so that connections can close. Everything else goes on working.
    pub fn end_watches(&self) {
        self.inner.closing.cancel();
    }
}

/// The handed-in types are listed as CustomResourceDefinitions, in memory only.
fn seed_definitions(registry: &Registry, store: &Store) {
    let Some(definitions) = registry.find("apiextensions.k8s.io", "customresourcedefinitions") else { return };
    let (version, created) = (store.read().version, rules::now());
    for (_, served) in registry.all().filter(|(_, t)| !t.built_in) {
        let mut value = builtin::definition_of(&served.spec, &created);
        let key = Key::new("", &format!("{}.{}", served.spec.plural, served.spec.group));
        store.seed(definitions, Object::new(key, version, &mut value));
    }
}

/// Creates the namespaces that every server has.
fn prepare(server: &Arc<Server>) -> Result<(), String> {
    let id = server.registry.find("", "namespaces").ok_or("namespaces are not served")?;
    for name in OWN_NAMESPACES {
        if server.store.read().get(id, &Key::new("", name)).is_some() {
            continue;
        }
        let registry = server.registry.clone();
        let answer = server.store.write(move |txn| {
            let ctx = Context {
                registry: &registry,
                admission: &crate::admission::AdmitAll,
                id,
                namespace: None,
                dry_run: false,
            };
            rules::create::create(ctx, txn, json!({"metadata": {"name": name}})).map(Outcome::Keep)
        });
        futures::executor::block_on(answer).map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
    }
    Ok(())
}

impl<B> tower::Service<http::Request<B>> for ApiServer
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = http::Response<ResponseBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let server = self.inner.clone();
        Box::pin(async move { Ok(api::answer(server, request).await) })
    }
}
