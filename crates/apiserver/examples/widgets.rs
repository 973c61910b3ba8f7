//! Serves the conformance suite's Widget kind: `widgets DATA_DIR [PORT]`. Prints the kubeconfig's path and serves until it is killed.
//!
//! The suite starts it to be killed at random moments; by hand it is a server to try `kubectl` on.

use multihome_apiserver::{AdmitAll, ApiServer, ResourceType, ServeOptions, serve};
use std::path::PathBuf;
use std::sync::Arc;

/// The definition that the embedded server is handed and the real one is sent.
const WIDGET: &str = include_str!("../tests/widget.json");

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let started = std::time::Instant::now();
    let mut args = std::env::args().skip(1);
    let data_dir = PathBuf::from(args.next().ok_or("usage: widgets DATA_DIR [PORT]")?);
    let port: u16 = args.next().map_or(Ok(0), |p| p.parse())?;
    let widget = ResourceType::from_crd(&serde_json::from_str(WIDGET)?)?;
    let api = ApiServer::open(&data_dir.join("store.db"), vec![widget], Arc::new(AdmitAll))?;
    let options = ServeOptions {
        socket: Some(data_dir.join("api.sock")),
        data_dir,
        listen: ([127, 0, 0, 1], port).into(),
        advertise: None,
    };
    let serving = serve(api, options, std::future::pending()).await?;
    eprintln!("ready in {:.1} ms", started.elapsed().as_secs_f64() * 1000.0);
    println!("KUBECONFIG={}", serving.kubeconfig.display());
    serving.ended().await;
    Ok(())
}
