//! Boots guests with two NICs again and again, and counts which default routes they end with.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use clap::Parser;
use multihome_race::Result;
use multihome_race::boot::{Scenario, Servers, boot};
use multihome_race::client::Client;
use multihome_race::table::{Cell, Results};

/// Boots guests with two NICs again and again, and counts which default routes they end with.
#[derive(Debug, Parser)]
#[command(name = "race")]
struct Args {
    /// Boots in each cell of client, scenario and server.
    #[arg(long, env = "MULTIHOME_RACE_BOOTS", default_value_t = 3)]
    boots: usize,
    /// Where results are kept; boots that are there already are not made again.
    #[arg(long, default_value = "target/race")]
    results: PathBuf,
    /// Forget what is there.
    #[arg(long)]
    fresh: bool,
    /// Write the reference page here.
    #[arg(long)]
    page: Option<PathBuf>,
    /// Only these clients.
    #[arg(long)]
    client: Vec<Client>,
    /// Instead: measure which changes of a network a running guest follows: at a renewal by itself / at a renewal with
    /// Multihome / when its link goes and comes.
    #[arg(long)]
    live: bool,
    /// Boots at the same time; most of a boot is waiting. Default: three per processor.
    #[arg(long)]
    jobs: Option<usize>,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args) -> Result<bool> {
    let scratch = tempfile::Builder::new().prefix("race-").tempdir()?;
    let _ = tempfile::env::override_temp_dir(scratch.path());
    clean_up_when_interrupted(scratch.path().to_owned())?;
    if args.fresh {
        let _ = std::fs::remove_dir_all(&args.results);
    }
    let results = Results::open(&args.results)?;
    let clients = if args.client.is_empty() { Client::ALL.to_vec() } else { args.client.clone() };
    if let Some((c, program)) = clients.iter().find_map(|c| Some((c, c.lacks()?))) {
        return Err(format!("{} needs {program}, which is not here: scripts/setup bench installs it", c.name()).into());
    }
    if args.live {
        print!("{}", multihome_race::live::table(&clients)?);
        return Ok(true);
    }
    measure(args, &results, &clients);
    if let Some(page) = &args.page {
        let date = jiff::Zoned::now().strftime("%Y-%m-%d").to_string();
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
        std::fs::write(page, results.page(&Client::ALL, &date, kernel.trim()))?;
    }
    let mut right = true;
    for servers in Servers::ALL {
        let c = results.sum(&clients, servers);
        let [boot, renewal] = [c.boot, c.renewal].map(|n| n.map(|n| n.to_string()).join(" "));
        println!("{} {} {boot} {renewal} {}", servers.name(), c.boots, c.lost);
        right &= servers == Servers::Plain || c.right();
    }
    Ok(right)
}

/// Does every boot that is missing, several at the same time.
fn measure(args: &Args, results: &Results, clients: &[Client]) {
    let mut work = vec![];
    for number in 0..args.boots {
        for client in clients {
            for scenario in Scenario::ALL {
                for servers in Servers::ALL {
                    let cell = Cell { client: *client, scenario, servers };
                    if results.count(cell).boots <= number {
                        work.push((number, cell));
                    }
                }
            }
        }
    }
    let jobs = args.jobs.unwrap_or_else(|| 3 * std::thread::available_parallelism().map_or(2, usize::from)).max(1);
    eprintln!("race: {} boots to be made, {jobs} at the same time", work.len());
    let (next, writing) = (AtomicUsize::new(0), Mutex::new(()));
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some((number, cell)) = work.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = boot(cell.client, cell.scenario, cell.servers, *number);
                    let _one = writing.lock();
                    if let Err(e) = results.add(*cell, &outcome) {
                        eprintln!("race: a result was not written: {e}");
                    }
                    let (client, scenario, servers) = (cell.client.name(), cell.scenario.name(), cell.servers.name());
                    match outcome {
                        Ok(o) if o.boot.right() && o.renewal.right() => {}
                        Ok(_) if cell.servers == Servers::Plain => {}
                        Ok(o) => eprintln!("race: {client}, {scenario}, {servers}: {o:?}"),
                        Err(e) => eprintln!("race: {client}, {scenario}, {servers}: not judged: {e}"),
                    }
                }
            });
        }
    });
}

/// Machines end with this process; its files do not by themselves.
fn clean_up_when_interrupted(scratch: PathBuf) -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::spawn(move || {
        runtime.block_on(async {
            let (Ok(mut a), Ok(mut b)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) else {
                return;
            };
            tokio::select! { _ = a.recv() => {}, _ = b.recv() => {} }
            let _ = std::fs::remove_dir_all(&scratch);
            std::process::exit(130);
        });
    });
    Ok(())
}
