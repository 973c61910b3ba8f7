//! The command line of Multihome: every command is a function from a client and arguments to text.
//!
//! Data goes to standard output, everything else to standard error, so that commands can be piped.

mod args;
mod client;
pub mod cmd;
mod error;
mod kinds;
mod output;

pub use args::{Cli, Command};
pub use error::CliError;
pub use output::Output;

/// The result of a command: its exit code.
pub type CliResult = Result<u8, CliError>;

/// Sends the program's own messages to standard error; `RUST_LOG` overrides the level.
pub fn init_logging(verbose: u8) {
    let level = match verbose {
        // What kube's client logs as it fails is said again, better, as the command's error.
        0 => "multihome=info,multihome_agent=info,multihome_control=info,multihome_apiserver=info,kube_client=off,warn",
        1 => "multihome=debug,multihome_agent=debug,multihome_control=debug,multihome_dhcp=debug,info",
        _ => "debug",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_target(false)
        .try_init();
}

/// Runs one command.
///
/// # Errors
/// With a sentence and, where there is one, a hint.
pub async fn run(cli: Cli, out: &mut Output) -> CliResult {
    cmd::run(cli, out).await
}
