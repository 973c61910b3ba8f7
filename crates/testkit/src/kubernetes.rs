//! A real kube-apiserver with etcd, built from source by scripts that lie beside the repository.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::Node;

/// A kube-apiserver with etcd and Kubernetes' own controllers, ended when dropped.
#[derive(Debug)]
pub struct Kubernetes {
    dir: tempfile::TempDir,
    tools: PathBuf,
}

impl Kubernetes {
    /// Builds it if need be, which takes minutes, and starts it on loopback: the machine's, or a node's.
    ///
    /// # Errors
    /// Why it cannot be had here.
    pub fn start(node: Option<&Node>) -> Result<Self, String> {
        let tools = tools()?;
        eprintln!("building the real kube-apiserver where it is not built yet (minutes, once), then starting it");
        let built = Command::new(tools.join("build"))
            .args(["kube-apiserver", "kube-controller-manager", "kube-scheduler"])
            .stdout(Stdio::null())
            .status()
            .map_err(|e| format!("the build script does not start: {e}"))?;
        if !built.success() {
            return Err("the real kube-apiserver could not be built".into());
        }
        let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
        let (api, etcd) = (free_ports(3)?, free_ports(2)?);
        let mut up = match node {
            Some(node) => {
                let mut c = Command::new("nsenter");
                c.arg(format!("--net=/run/netns/{}", node.netns())).arg("--").arg(tools.join("up"));
                c
            }
            None => Command::new(tools.join("up")),
        };
        let up = up
            .arg(dir.path().join("cluster"))
            .args([api.to_string(), etcd.to_string()])
            .env("CONTROLLERS", "1")
            .output()
            .map_err(|e| format!("the start script does not start: {e}"))?;
        // From here on it is ended, whatever became of it.
        let cluster = Self { dir, tools };
        if !up.status.success() {
            return Err(format!("the real kube-apiserver does not start: {}", String::from_utf8_lossy(&up.stderr)));
        }
        Ok(cluster)
    }

    /// The file that gives access.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("cluster/kubeconfig")
    }
}

impl Drop for Kubernetes {
    fn drop(&mut self) {
        let _ = Command::new(self.tools.join("down")).arg(self.dir.path().join("cluster")).status();
    }
}

/// The scripts that build and start the real server lie beside the repository, or where the environment says.
fn tools() -> Result<PathBuf, String> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/tools/kube");
    let place = std::env::var_os("MULTIHOME_KUBE_TOOLS").map_or(beside, PathBuf::from);
    if place.join("up").is_file() {
        return Ok(place);
    }
    Err("the scripts that build and start a real kube-apiserver are not in ../shared/tools/kube, or where $MULTIHOME_KUBE_TOOLS says".into())
}

/// The first of `count` free ports in a row.
fn free_ports(count: u16) -> Result<u16, String> {
    for _ in 0..50 {
        let first = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).map_err(|e| e.to_string())?.port();
        let row: Vec<_> =
            (0..count).map_while(|n| TcpListener::bind(("127.0.0.1", first.checked_add(n)?)).ok()).collect();
        if row.len() == usize::from(count) {
            return Ok(first);
        }
    }
    Err("no free ports".into())
}
