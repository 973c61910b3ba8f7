//! Opening the API to others: a unix socket for root, and TLS for who holds the token, on loopback unless told otherwise.
//!
//! Certificate, token and kubeconfig lie in the data directory, readable by their owner alone.

mod credentials;
mod endpoint;

use crate::api::body::ResponseBody;
use crate::api::reply::Reply;
use crate::error::ApiError;
use crate::server::ApiServer;
use bytes::Bytes;
use credentials::Credentials;
use http::{Request, Response, header};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use std::convert::Infallible;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::Service;

/// How long connections may take to finish once the server is to end.
const GRACE: Duration = Duration::from_secs(2);
/// How long a client may take for the TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long to wait before accepting again, where the system is out of descriptors.
const EXHAUSTED: Duration = Duration::from_millis(50);

pub use endpoint::{Endpoint, endpoint};

/// What answers requests: the API, or an endpoint.
trait Answers:
    Service<Request<Incoming>, Response = Response<ResponseBody>, Error = Infallible, Future: Send> + Clone + Send + 'static
{
}

impl<S> Answers for S where
    S: Service<Request<Incoming>, Response = Response<ResponseBody>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + 'static
{
}

/// Where to listen, and where the credentials are kept.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Certificate, token and kubeconfig go here; made with mode 0700 if it is absent.
    pub data_dir: PathBuf,
    /// On loopback it is for this machine alone. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// The address that other machines reach the API by, where `listen` is not on loopback. Default: the one in `listen`.
    pub advertise: Option<IpAddr>,
    /// A unix socket, mode 0600, for its owner and root.
    pub socket: Option<PathBuf>,
}

/// Why the API cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Other machines may reach it, and nobody knows by which address.
    #[error(
        "the API is to listen on {0}, and no address is known that other machines reach it by: give one with --advertise"
    )]
    NoAddress(SocketAddr),
    /// The address is taken, or may not be used.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address or the socket's path.
        address: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// A file of the data directory cannot be read or written.
    #[error("cannot keep the server's credentials in {}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A certificate cannot be made or used.
    #[error("cannot use the server's certificate: {0}")]
    Certificate(String),
}

/// A server that listens.
#[derive(Debug)]
pub struct Serving {
    /// The file that gives `kubectl` access.
    pub kubeconfig: PathBuf,
    /// The file that gives other machines access, where they can reach it.
    pub join: Option<PathBuf>,
    /// The address that is listened on.
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Serving {
    /// Waits until the server has ended.
    pub async fn ended(self) {
        // a listener task that panicked has ended, too
        let _ = self.task.await;
    }
}

/// Serves the API until `shutdown` resolves. Returns as soon as it listens and the kubeconfig is written.
pub async fn serve(
    api: ApiServer,
    options: ServeOptions,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<Serving, ServeError> {
    let ip = options.listen.ip();
    let outside = match options.advertise.or((!ip.is_unspecified()).then_some(ip)) {
        _ if ip.is_loopback() => None,
        Some(address) => Some(address),
        None => return Err(ServeError::NoAddress(options.listen)),
    };
    let names: Vec<String> =
        outside.into_iter().chain((!ip.is_unspecified()).then_some(ip)).map(|a| a.to_string()).collect();
    let credentials = Credentials::load_or_make(&options.data_dir, &names)?;
    let tls = TlsAcceptor::from(Arc::new(credentials.tls()?));
    let failed = |source| ServeError::Listen { address: options.listen.to_string(), source };
    let tcp = TcpListener::bind(options.listen).await.map_err(failed)?;
    let address = tcp.local_addr().map_err(failed)?;
    let unix = options.socket.as_deref().map(bind_socket).transpose()?;
    let near = if ip.is_unspecified() { SocketAddr::new(loopback(ip), address.port()) } else { address };
    let kubeconfig = credentials.write_kubeconfig("kubeconfig", near)?;
    let far = outside.map(|a| credentials.write_kubeconfig("join.kubeconfig", SocketAddr::new(a, address.port())));
    let join = far.transpose()?;

    let stop = CancellationToken::new();
    let token: Arc<str> = credentials.token.into();
    let task = tokio::spawn(async move {
        let mut listeners = JoinSet::new();
        listeners.spawn(accept_tls(tcp, tls, api.clone(), Some(token), stop.clone()));
        if let Some(unix) = unix {
            listeners.spawn(accept_unix(unix, api.clone(), stop.clone()));
        }
        shutdown.await;
        api.end_watches();
        stop.cancel();
        while listeners.join_next().await.is_some() {}
        if let Some(path) = options.socket {
            // somebody else may have removed it
            let _ = std::fs::remove_file(path);
        }
    });
    Ok(Serving { kubeconfig, join, address, task })
}

fn loopback(like: IpAddr) -> IpAddr {
    if like.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() }
}

fn bind_socket(path: &Path) -> Result<UnixListener, ServeError> {
    let failed = |source| ServeError::Listen { address: path.display().to_string(), source };
    if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        crate::store::db::private_directory(parent).map_err(failed)?;
    }
    // what an ended server left behind; a living one still answers
    if std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket()) {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(failed(std::io::ErrorKind::AddrInUse.into()));
        }
        std::fs::remove_file(path).map_err(failed)?;
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

async fn accept_tls<S: Answers>(
    listener: TcpListener,
    tls: TlsAcceptor,
    service: S,
    token: Option<Arc<str>>,
    stop: CancellationToken,
) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(EXHAUSTED).await;
            continue;
        };
        // small answers must not wait for the client's acknowledgement
        let _ = stream.set_nodelay(true);
        let (tls, service, token, stop) = (tls.clone(), service.clone(), token.clone(), stop.clone());
        connections.spawn(async move {
            match tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
                Ok(Ok(stream)) => connection(stream, service, token, stop).await,
                Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
                Err(_) => tracing::debug!("a TLS handshake took too long"),
            }
        });
    }
    finish(connections).await;
}

async fn accept_unix(listener: UnixListener, api: ApiServer, stop: CancellationToken) {
    let owner = std::fs::metadata("/proc/self").map_or(0, |m| m.uid());
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(EXHAUSTED).await;
            continue;
        };
        // the mode of the socket already says so; a socket that was handed on does not
        if !stream.peer_cred().is_ok_and(|peer| peer.uid() == 0 || peer.uid() == owner) {
            continue;
        }
        connections.spawn(connection(stream, api.clone(), None, stop.clone()));
    }
    finish(connections).await;
}

async fn finish(mut connections: JoinSet<()>) {
    let all = async { while connections.join_next().await.is_some() {} };
    // what is still open after the grace is dropped with the set
    let _ = tokio::time::timeout(GRACE, all).await;
}

/// Serves one connection; where there is a token, every request must carry it.
async fn connection<T, S>(stream: T, service: S, token: Option<Arc<str>>, stop: CancellationToken)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Answers,
{
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let mut service = service.clone();
        let admitted = token.as_ref().is_none_or(|token| carries(&request, token));
        async move {
            if admitted {
                service.call(request).await
            } else {
                Ok(Reply::error(&ApiError::unauthorized()).into_response())
            }
        }
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    let serving = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(serving);
    tokio::select! {
        // a client that goes away in the middle of an answer is no event
        _ = serving.as_mut() => return,
        () = stop.cancelled() => serving.as_mut().graceful_shutdown(),
    }
    let _ = serving.await;
}

/// Whether a request carries the token. Takes the same time wherever the first difference is.
fn carries<B>(request: &Request<B>, token: &str) -> bool {
    let given = request.headers().get(header::AUTHORIZATION).map(|v| v.as_bytes()).unwrap_or_default();
    let Some(given) = given.strip_prefix(b"Bearer ") else { return false };
    given.len() == token.len()
        && given.iter().zip(Bytes::copy_from_slice(token.as_bytes())).fold(0, |acc, (a, b)| acc | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_token_opens() {
        let request = |value: Option<&str>| {
            let builder = Request::builder();
            value.map_or_else(Request::builder, |v| builder.header(header::AUTHORIZATION, v)).body(()).unwrap()
        };
        assert!(carries(&request(Some("Bearer secret")), "secret"));
        for wrong in
            [None, Some("Bearer secreT"), Some("Bearer secret1"), Some("Bearer "), Some("secret"), Some("Basic secret")]
        {
            assert!(!carries(&request(wrong), "secret"), "{wrong:?}");
        }
    }
}
