//! The embedded API for tests of the command line.
#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clap::Parser;
use kube::Client;
use multihome::cmd::{Context, run_with, serve};
use multihome::{Cli, Output};
use multihome_control::World;

/// A writer whose text can be read afterwards.
#[derive(Clone, Default)]
pub struct Shared(pub Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The embedded API with its controllers and no node.
/// The words of a line, as a shell takes them: what stands between double quotes is one.
pub fn words(line: &str) -> Vec<String> {
    let parts = line.split('"').enumerate();
    parts
        .flat_map(|(i, part)| match i % 2 {
            0 => part.split_whitespace().map(str::to_owned).collect(),
            _ => vec![part.to_owned()],
        })
        .collect()
}

pub struct Server {
    /// What commands run with.
    pub ctx: Context,
    /// Its files.
    pub dir: tempfile::TempDir,
}

impl Server {
    /// Starts it.
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let api = serve::open_api(&dir.path().join("test.db"), None).unwrap();
        let client = Client::new(api, "default");
        let world = World::watch(&client);
        tokio::spawn(multihome_control::run(client.clone(), world));
        let ctx = Context { client, namespace: "default".into(), data_dir: dir.path().to_owned() };
        Self { ctx, dir }
    }

    /// Runs a command line; everything that it wrote, data first, and its error.
    pub async fn run(&self, line: &str) -> String {
        let cli = Cli::try_parse_from(words(line)).unwrap_or_else(|e| panic!("{line}: {e}"));
        let (data, rest) = (Shared::default(), Shared::default());
        let mut out = Output::to(data.clone(), rest.clone());
        let result = run_with(&cli.command, &self.ctx, &mut out).await;
        let mut text = String::from_utf8(data.0.lock().unwrap().clone()).unwrap();
        text += &String::from_utf8(rest.0.lock().unwrap().clone()).unwrap();
        match result {
            Ok(0) => {}
            Ok(code) => text += &format!("(exit code {code})\n"),
            Err(e) => text += &format!("{e}\n(exit code {})\n", e.code()),
        }
        text
    }

    /// Applies a manifest.
    pub async fn apply(&self, manifest: &str) -> String {
        let path = self.dir.path().join("manifest.yaml");
        std::fs::write(&path, manifest).unwrap();
        self.run(&format!("multihome apply -f {}", path.display())).await.replace(&path.display().to_string(), "FILE")
    }

    /// Waits until a command's output contains something.
    pub async fn until(&self, line: &str, what: &str) {
        for _ in 0..200 {
            if self.run(line).await.contains(what) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{line} never said {what:?}: {}", self.run(line).await);
    }
}
