//! HTTP: which request means what. Every answer, the refusals included, is made here.

pub(crate) mod body;
pub(crate) mod discovery;
pub(crate) mod filter;
pub(crate) mod openapi;
mod protobuf;
mod read;
pub(crate) mod render;
pub(crate) mod reply;
pub(crate) mod request;
mod review;
mod table;
mod watch;
mod write;

use crate::error::ApiError;
use crate::registry::Found;
use crate::rules::update::Part;
use crate::server::Server;
use crate::store::object::{Key, Object};
use ::http::{Method, header};
use bytes::Bytes;
use render::Render;
use reply::Reply;
use request::{Accept, Query, ResourcePath, Target};
use std::sync::Arc;

/// A request for a resource, with everything about it looked up.
pub(crate) struct Request {
    pub server: Arc<Server>,
    pub found: Found,
    pub namespace: Option<String>,
    pub query: Query,
    pub render: Render,
}

impl Request {
    pub fn key(&self, name: &str) -> Key {
        Key::new(self.namespace.as_deref().unwrap_or_default(), name)
    }

    /// An answer with one object.
    pub fn one(&self, status: u16, object: &Object) -> Reply {
        let mut out = Vec::with_capacity(object.body.len() + 128);
        self.render.write_one(object, true, &mut out);
        Reply::json(status, out)
    }
}

/// Answers one request.
pub(crate) async fn answer<B>(server: Arc<Server>, request: ::http::Request<B>) -> ::http::Response<body::ResponseBody>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let accept = Accept::parse(request.headers().get(header::ACCEPT).and_then(|v| v.to_str().ok()));
    let yaml = accept.as_ref().is_some_and(|a| a.yaml);
    let reply = dispatch(server, request, accept).await.unwrap_or_else(|error| Reply::error(&error));
    if yaml { reply.into_yaml() } else { reply }.into_response()
}

async fn dispatch<B>(
    server: Arc<Server>,
    request: ::http::Request<B>,
    accept: Option<Accept>,
) -> Result<Reply, ApiError>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let target = Target::parse(request.uri().path()).ok_or_else(ApiError::no_such_path)?;
    if let Target::Resource(path) = target {
        return resource(server, path, request, accept.ok_or_else(ApiError::not_acceptable)?).await;
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Err(ApiError::method_not_allowed());
    }
    let aggregated = accept.as_ref().and_then(|a| a.aggregated);
    let raw = request.headers().get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    match target {
        Target::Root => Ok(Reply::value(200, &discovery::root(&server.registry))),
        Target::CoreVersions => Ok(discovery::core_versions(&server.registry, aggregated)),
        Target::Groups => Ok(discovery::groups(&server.registry, aggregated)),
        Target::Group(group) => discovery::group(&server.registry, &group),
        Target::Resources { group, version } => discovery::resources(&server.registry, &group, &version),
        Target::OpenApiV2 => openapi::v2(&server, raw),
        Target::OpenApiV3Index => Ok(openapi::index(&server)),
        Target::OpenApiV3(path) => openapi::v3(&server, &path, raw),
        Target::Health => Ok(Reply::text(200, "ok")),
        Target::Version => Ok(Reply::value(200, &discovery::version())),
        Target::Resource(_) => Err(ApiError::no_such_path()),
    }
}

async fn resource<B>(
    server: Arc<Server>,
    path: ResourcePath,
    request: ::http::Request<B>,
    accept: Accept,
) -> Result<Reply, ApiError>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let query = Query::parse(request.uri().query().unwrap_or_default())?;
    let method = request.method().clone();
    let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let content_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if review::is(&path) {
        let bytes = body::read(request.into_body()).await?;
        return if method == Method::POST {
            review::answer(&path, &content_type, &bytes)
        } else {
            Err(ApiError::method_not_allowed())
        };
    }
    let found = server.registry.lookup(&path.group, &path.version, &path.plural).ok_or_else(ApiError::no_such_path)?;
    let served = server.registry.get(found.id);
    // a cluster-wide kind has no place in a namespace; a namespaced one is named only inside one
    let misplaced =
        if served.spec.namespaced { path.namespace.is_none() && path.name.is_some() } else { path.namespace.is_some() };
    let part = match path.subresource.as_deref() {
        None => Some(Part::Main),
        Some("status") if served.has_status() => Some(Part::Status),
        Some("finalize") if served.is_core("Namespace") => Some(Part::Finalize),
        Some(_) => None,
    };
    let (Some(part), false) = (part, misplaced) else { return Err(ApiError::no_such_path()) };
    let render = Render::new(&server.registry, &found, accept.shape, &query)?;
    let inner = Request { server, found, namespace: path.namespace, query, render };
    let bytes = match method {
        Method::POST | Method::PUT | Method::PATCH | Method::DELETE => body::read(request.into_body()).await?,
        _ => Bytes::new(),
    };
    match (method, path.name, part) {
        (Method::GET | Method::HEAD, name, Part::Main) if inner.query.flag("watch") => {
            watch::watch(inner, name.as_deref())
        }
        (Method::GET | Method::HEAD, Some(name), Part::Main | Part::Status) => read::get(&inner, &name),
        (Method::GET | Method::HEAD, None, _) => read::list(&inner),
        (Method::POST, None, _) => {
            // a namespaced kind is created in a namespace; the plain path only lists
            let placed = inner.namespace.is_some() || !inner.render.served().spec.namespaced;
            if placed { write::create(inner, &content_type, bytes).await } else { Err(ApiError::method_not_allowed()) }
        }
        (Method::PUT, Some(name), part) => write::replace(inner, name, part, &content_type, bytes).await,
        (Method::PATCH, Some(name), part @ (Part::Main | Part::Status)) => {
            write::patch(inner, name, part, &content_type, bytes).await
        }
        (Method::DELETE, Some(name), Part::Main) => write::delete(inner, name, &content_type, bytes).await,
        // not across namespaces: too easily done by mistake
        (Method::DELETE, None, _) if inner.namespace.is_some() || !inner.render.served().spec.namespaced => {
            write::delete_collection(inner, &content_type, bytes).await
        }
        _ => Err(ApiError::method_not_allowed()),
    }
}
