//! Connecting to the API.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use crate::CliError;
use crate::args::Cli;

/// Where `multihome serve` keeps its data unless told otherwise.
pub const DATA_DIR: &str = "/var/lib/multihome";

/// The kubeconfig to use: `--kubeconfig`, else `$KUBECONFIG`, else the one in the data directory.
pub fn kubeconfig_path(cli: &Cli) -> PathBuf {
    if let Some(path) = &cli.kubeconfig {
        return path.clone();
    }
    match std::env::var_os("KUBECONFIG").filter(|v| !v.is_empty()) {
        Some(path) => PathBuf::from(path),
        None => cli.data_dir.join("kubeconfig"),
    }
}

/// A client for the API.
pub async fn connect(cli: &Cli) -> Result<Client, CliError> {
    // More than one crypto provider may be compiled in; ours is ring.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Ok(Client::try_from(config(cli).await?)?)
}

/// Where the API is.
pub async fn server(cli: &Cli) -> Result<http::Uri, CliError> {
    Ok(config(cli).await?.cluster_url)
}

async fn config(cli: &Cli) -> Result<Config, CliError> {
    let path = kubeconfig_path(cli);
    let kubeconfig = Kubeconfig::read_from(&path).map_err(|e| {
        CliError::new(format!("kubeconfig {} cannot be read: {e}", path.display()))
            .hint("start «multihome serve», or name the file with --kubeconfig")
    })?;
    Ok(Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?)
}

/// The address of this machine that packets to a host leave from. Nothing is sent to find it.
pub fn source_towards(host: &str) -> Option<IpAddr> {
    let host = host.trim_matches(['[', ']']);
    let any: SocketAddr = if host.contains(':') { "[::]:0".parse().ok()? } else { "0.0.0.0:0".parse().ok()? };
    let socket = std::net::UdpSocket::bind(any).ok()?;
    socket.connect((host, 9)).ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|own| !own.is_unspecified())
}
