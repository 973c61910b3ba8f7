//! The commands, one module each.

mod apply;
mod controller;
mod delete;
mod demo;
mod describe;
mod diff;
mod docs;
mod doctor;
mod get;
mod group;
mod guest;
mod image;
mod machine;
mod network;
mod nic;
mod plan;
pub mod serve;
mod trace;
mod vm;

use clap::CommandFactory;
use kube::Client;

use crate::args::{Cli, Command, GuestCommand};
use crate::{CliError, CliResult, Output, client};

pub use plan::plan_text;

/// What most commands need.
#[derive(Clone)]
pub struct Context {
    /// The API.
    pub client: Client,
    /// The namespace that was asked for.
    pub namespace: String,
    /// The node's data directory.
    pub data_dir: std::path::PathBuf,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

/// Runs a command, connecting to the API where it needs one.
///
/// # Errors
/// With a sentence for the user.
pub async fn run(cli: Cli, out: &mut Output) -> CliResult {
    match &cli.command {
        Command::Serve(args) => return serve::run(&cli, args).await,
        Command::Agent(args) => return serve::agent(&cli, args).await,
        Command::Controller(args) => return controller::run(&cli, args).await,
        Command::Plan(args) => return plan::run(args, out),
        Command::Guest(GuestCommand::Config(args)) if !args.filename.is_empty() => return guest::offline(args, out),
        Command::Image(args) => return image::run(&cli, args, out),
        Command::Teardown(args) => return serve::teardown(&cli, args).await,
        Command::ReferenceDocs(args) => return docs::run(&args.dir),
        Command::Doctor(args) if args.target.is_none() => return machine::run(args, out).await,
        Command::Completion(args) => {
            let mut text = vec![];
            clap_complete::generate(args.shell, &mut Cli::command(), "multihome", &mut text);
            out.line(String::from_utf8_lossy(&text).trim_end());
            return Ok(0);
        }
        Command::Crds => {
            for crd in multihome_model::crds() {
                out.line("---");
                out.yaml(&crd)?;
            }
            return Ok(0);
        }
        _ => {}
    }
    let ctx = Context {
        client: client::connect(&cli).await?,
        namespace: cli.namespace.clone(),
        data_dir: cli.data_dir.clone(),
    };
    run_with(&cli.command, &ctx, out).await
}

/// Runs a command that works on the API.
///
/// # Errors
/// With a sentence for the user.
pub async fn run_with(command: &Command, ctx: &Context, out: &mut Output) -> CliResult {
    match command {
        Command::Apply(args) => apply::run(ctx, args, out).await,
        Command::Diff(args) => diff::run(ctx, args, out).await,
        Command::Get(args) => get::run(ctx, args, out).await,
        Command::Describe(args) => describe::run(ctx, args, out).await,
        Command::Delete(args) => delete::run(ctx, args, out).await,
        Command::Network(c) => network::run(ctx, c, out).await,
        Command::Nic(c) => nic::run(ctx, c, out).await,
        Command::Group(c) => group::run(ctx, c, out).await,
        Command::Vm(c) => vm::run(ctx, c, out).await,
        Command::Guest(GuestCommand::Config(args)) => guest::run(ctx, args, out).await,
        Command::Doctor(args) => doctor::run(ctx, args, out).await,
        Command::Trace(args) => trace::run(ctx, args, out).await,
        Command::Demo(args) => demo::run(ctx, args).await,
        _ => Err(CliError::new("this command does not work on the API")),
    }
}

/// `KIND/NAME`, or KIND and NAME.
pub(crate) fn kind_and_name(kind: &str, name: Option<&str>) -> Result<(String, String), CliError> {
    match (kind.split_once('/'), name) {
        (Some((k, n)), None) => Ok((k.to_owned(), n.to_owned())),
        (None, Some(n)) => Ok((kind.to_owned(), n.to_owned())),
        _ => Err(CliError::new("name one object: KIND NAME or KIND/NAME, such as nic/web-mgmt")),
    }
}
