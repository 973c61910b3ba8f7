//! The binary `multihome`: parses the command line and runs the command.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use multihome::{Cli, Output};

fn main() -> ExitCode {
    let cli = Cli::parse();
    multihome::init_logging(cli.verbose);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(r) => r,
        Err(e) => {
            eprintln!("error: no runtime: {e}");
            return ExitCode::from(2);
        }
    };
    let mut out = Output::stdout();
    let result = runtime.block_on(multihome::run(cli, &mut out));
    let _ = std::io::stdout().flush();
    match result {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            e.print();
            ExitCode::from(e.code())
        }
    }
}
