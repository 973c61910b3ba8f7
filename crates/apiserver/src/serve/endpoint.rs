//! JSON over TLS for whoever asks: what a webhook is to a Kubernetes API.

use super::{Credentials, ServeError, accept_tls};
use crate::api::body;
use crate::api::reply::Reply;
use crate::error::ApiError;
use bytes::Bytes;
use http::{Method, Request};
use hyper::body::Incoming;
use serde_json::Value;
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// What answers, and by which authority callers know it.
#[derive(Debug)]
pub struct Endpoint {
    /// The certificate authority, in PEM.
    pub authority: String,
    /// The address that is listened on.
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Endpoint {
    /// Waits until it has ended.
    pub async fn ended(self) {
        // a listener task that panicked has ended, too
        let _ = self.task.await;
    }
}

/// Answers POST requests over TLS, whoever asks, until `shutdown` resolves: `answer` gets the path and the body; what it refuses is
/// answered as 400 with its sentence, and `None` as 404. The certificate is kept in `dir`, made with mode 0700 if it is absent, and
/// names `names` (addresses or DNS names) and loopback.
///
/// # Errors
/// When the address is taken, or the certificate cannot be kept.
pub async fn endpoint<F, A>(
    answer: F,
    dir: &Path,
    listen: SocketAddr,
    names: &[String],
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<Endpoint, ServeError>
where
    F: Fn(String, Bytes) -> A + Send + Sync + 'static,
    A: Future<Output = Option<Result<Value, String>>> + Send + 'static,
{
    let credentials = Credentials::load_or_make(dir, names)?;
    let tls = TlsAcceptor::from(Arc::new(credentials.tls()?));
    let failed = |source| ServeError::Listen { address: listen.to_string(), source };
    let tcp = TcpListener::bind(listen).await.map_err(failed)?;
    let address = tcp.local_addr().map_err(failed)?;
    let answer = Arc::new(answer);
    let service = tower::service_fn(move |request: Request<Incoming>| {
        let answer = answer.clone();
        async move {
            let reply = respond(request, &*answer).await.unwrap_or_else(|e| Reply::error(&e));
            Ok::<_, Infallible>(reply.into_response())
        }
    });
    let stop = CancellationToken::new();
    let task = tokio::spawn(async move {
        let listener = tokio::spawn(accept_tls(tcp, tls, service, None, stop.clone()));
        shutdown.await;
        stop.cancel();
        // one that panicked has ended, too
        let _ = listener.await;
    });
    Ok(Endpoint { authority: credentials.authority().to_owned(), address, task })
}

async fn respond<F, A>(request: Request<Incoming>, answer: &F) -> Result<Reply, ApiError>
where
    F: Fn(String, Bytes) -> A,
    A: Future<Output = Option<Result<Value, String>>>,
{
    let path = request.uri().path().to_owned();
    if request.method() != Method::POST {
        return Err(ApiError::method_not_allowed());
    }
    let whole = body::read(request.into_body()).await?;
    match answer(path, whole).await {
        None => Err(ApiError::no_such_path()),
        Some(Err(sentence)) => Err(ApiError::bad_request(sentence)),
        Some(Ok(value)) => Ok(Reply::value(200, &value)),
    }
}
