//! The main job, end to end, told step by step: what `make demo` shows once the server runs.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use multihome_model::kubevirt::VirtualMachineInstance;
use multihome_model::{MacAddr, NetworkInterface};
use multihome_vmm::{GuestAgent, GuestRoute};

use super::{Context, apply, doctor, nic, vm};
use crate::args::{Apply, Demo, Doctor, Format, NameArg, NicCommand, NicCreate};
use crate::output::{cells, table};
use crate::{CliError, CliResult, Output};

const VM: &str = "web";

pub(super) async fn run(ctx: &Context, args: &Demo) -> CliResult {
    let mut out = Output::stdout();
    out.line("");
    out.line(format!("1. Applying {}", args.manifest.display()));
    apply::run(ctx, &Apply { filename: vec![args.manifest.clone()], dry_run: false }, &mut out).await?;

    out.line("");
    out.line("2. Booting VM web: a stock Debian kernel, stock udhcpc on all NICs at the same time");
    let boot = Instant::now();
    let bar = Bar::new(5);
    bar.wait("addresses claimed for three NICs", 60, || async {
        let nics = nics(ctx).await?;
        Ok((nics.len() >= 3 && nics.iter().all(|n| n.status.as_ref().is_some_and(|s| s.ipv4.is_some()))).then_some(()))
    })
    .await?;
    bar.wait("QEMU runs", 60, || async { Ok((instance(ctx).await? == "Running").then_some(())) }).await?;
    let agent = bar
        .wait("the guest agent answers", 120, || async {
            let Ok(agent) = vm::guest(ctx, VM).await else { return Ok(None) };
            let answers = agent.ping().await;
            agent.disconnect().await;
            Ok(answers.then_some(agent))
        })
        .await?;
    bar.wait("every NIC has its address in the guest", 60, || async {
        let seen = Seen::read(ctx, &agent, false).await?;
        Ok((seen.nics.len() >= 3 && seen.nics.iter().all(|n| n.address.is_some())).then_some(()))
    })
    .await?;
    bar.wait("a default route is there", 30, || async {
        let seen = Seen::read(ctx, &agent, false).await?;
        Ok((!seen.holders().is_empty()).then_some(()))
    })
    .await?;
    bar.done();
    let boot = boot.elapsed();
    let seen = Seen::read(ctx, &agent, true).await?;
    out.line(format!("\nRead from inside the guest, {:.1} s after the manifest was applied:\n", boot.as_secs_f32()));
    seen.print(&mut out);
    seen.check("web-mgmt")?;

    out.line("\n3. Plugging a fourth NIC into the running VM: multihome nic create --network storage --vm web");
    let plugged = Instant::now();
    let create = NicCreate {
        name: None,
        network: "storage".into(),
        vm: Some(VM.into()),
        mac: None,
        address: None,
        primary: false,
        promiscuous: false,
        wait: None,
    };
    nic::run(ctx, &NicCommand::Create(create), &mut out).await?;
    let bar = Bar::new(1);
    bar.wait("the guest has the fourth NIC with its address", 60, || async {
        let seen = Seen::read(ctx, &agent, false).await?;
        Ok(seen.nics.iter().any(|n| n.name == "web-storage" && n.address.is_some()).then_some(()))
    })
    .await?;
    bar.done();
    let plugged = plugged.elapsed();
    let seen = Seen::read(ctx, &agent, true).await?;
    out.line(format!("\nIt came up with an address {:.1} s after it was asked for:\n", plugged.as_secs_f32()));
    seen.print(&mut out);
    seen.check("web-mgmt")?;

    out.line("\n4. Moving the default route: multihome nic set-primary web-storage");
    let moved = Instant::now();
    nic::run(ctx, &NicCommand::SetPrimary(NameArg { name: "web-storage".into() }), &mut out).await?;
    let bar = Bar::new(2);
    bar.wait("the old default route is gone from the guest", 120, || async {
        let seen = Seen::read(ctx, &agent, false).await?;
        Ok((seen.holders() != ["web-mgmt"]).then_some(()))
    })
    .await?;
    let gone = moved.elapsed();
    bar.wait("the new one is there", 120, || async {
        let seen = Seen::read(ctx, &agent, false).await?;
        Ok((seen.holders() == ["web-storage"]).then_some(()))
    })
    .await?;
    bar.done();
    let seen = Seen::read(ctx, &agent, true).await?;
    out.line(format!(
        "\nThe old default route went after {:.1} s, the new one was there after {:.1} s (guests ask every {} s on these networks):\n",
        gone.as_secs_f32(),
        moved.elapsed().as_secs_f32(),
        30
    ));
    seen.print(&mut out);
    seen.check("web-storage")?;

    out.line("\n5. multihome doctor vm/web");
    // The agent looks every few seconds; the doctor is to see what is true now.
    let mut code = 1;
    for attempt in 0..20 {
        let last = attempt == 19;
        let mut quiet = if last { Output::stdout() } else { Output::to(std::io::sink(), std::io::sink()) };
        let args = Doctor {
            target: Some(format!("vm/{VM}")),
            output: Format::Table,
            machine: crate::args::DoctorMachine::default(),
        };
        code = doctor::run(ctx, &args, &mut quiet).await?;
        if code == 0 {
            doctor::run(ctx, &args, &mut out).await?;
            break;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    Ok(code)
}

async fn nics(ctx: &Context) -> Result<Vec<NetworkInterface>, CliError> {
    let api: Api<NetworkInterface> = Api::namespaced(ctx.client.clone(), &ctx.namespace);
    let mut list = api.list(&ListParams::default().fields(&format!("spec.vm={VM}"))).await?.items;
    list.sort_by_key(|n| (n.spec.order(), n.name_any()));
    Ok(list)
}

/// The phase of the VM's instance; a failure ends the demo with its reason.
async fn instance(ctx: &Context) -> Result<String, CliError> {
    let api: Api<VirtualMachineInstance> = Api::namespaced(ctx.client.clone(), &ctx.namespace);
    let status = api.get_opt(VM).await?.and_then(|v| v.status).unwrap_or_default();
    if status.phase == "Failed" {
        return Err(CliError::new(format!("VM {VM} failed: {}", status.reason.unwrap_or_default())));
    }
    Ok(status.phase)
}

/// One NIC as the guest shows it.
struct SeenNic {
    name: String,
    network: String,
    guest: String,
    mac: String,
    address: Option<String>,
    gateway: Option<String>,
    default_route: bool,
    ping: Option<bool>,
}

/// The guest as it shows itself. Only names and networks come from the API, found by MAC.
struct Seen {
    nics: Vec<SeenNic>,
    routes: Vec<GuestRoute>,
}

impl Seen {
    async fn read(ctx: &Context, agent: &GuestAgent, ping: bool) -> Result<Self, CliError> {
        let ours: BTreeMap<String, NetworkInterface> =
            nics(ctx).await?.into_iter().filter_map(|n| Some((n.status.as_ref()?.mac.clone()?, n))).collect();
        let read = async {
            let interfaces = agent.interfaces().await?;
            let routes = agent.routes().await?;
            Ok::<_, multihome_vmm::Error>((interfaces, routes))
        };
        let (interfaces, routes) = match read.await {
            Ok(r) => r,
            // Another reader has the agent for a moment.
            Err(_) => {
                agent.disconnect().await;
                return Ok(Self { nics: vec![], routes: vec![] });
            }
        };
        let mut seen = vec![];
        for i in &interfaces {
            let Some(mac) = i.mac.map(|m| MacAddr(m).to_string()) else { continue };
            let Some(nic) = ours.get(&mac) else { continue };
            let v4 = i.addresses.iter().find(|(a, _)| a.is_ipv4());
            let gateway = nic.status.as_ref().and_then(|s| s.ipv4.as_ref()).and_then(|a| a.gateway.clone());
            let answers = match (&gateway, ping) {
                (Some(g), true) => {
                    let p = agent.run("ping", &["-c", "1", "-W", "2", g], Duration::from_secs(10)).await;
                    Some(p.is_ok_and(|o| o.status == Some(0)))
                }
                _ => None,
            };
            seen.push(SeenNic {
                name: nic.name_any(),
                network: nic.spec.network.clone(),
                guest: i.name.clone(),
                mac,
                address: v4.map(|(a, len)| format!("{a}/{len}")),
                gateway,
                default_route: routes
                    .iter()
                    .any(|r| r.is_default() && r.destination.is_ipv4() && r.interface == i.name),
                ping: answers,
            });
        }
        agent.disconnect().await;
        seen.sort_by(|a, b| a.guest.cmp(&b.guest));
        Ok(Self { nics: seen, routes })
    }

    fn holders(&self) -> Vec<&str> {
        self.nics.iter().filter(|n| n.default_route).map(|n| n.name.as_str()).collect()
    }

    fn print(&self, out: &mut Output) {
        let rows: Vec<Vec<String>> = self
            .nics
            .iter()
            .map(|n| {
                vec![
                    n.name.clone(),
                    n.guest.clone(),
                    n.network.clone(),
                    n.mac.clone(),
                    n.address.clone().unwrap_or_else(|| "none".into()),
                    n.gateway.clone().unwrap_or_else(|| "none".into()),
                    if n.default_route { "YES" } else { "no" }.into(),
                    match n.ping {
                        Some(true) => "answers".into(),
                        Some(false) => "silent".into(),
                        None => "-".into(),
                    },
                ]
            })
            .collect();
        let header =
            cells(["NIC", "IN GUEST", "NETWORK", "MAC", "ADDRESS", "GATEWAY", "DEFAULT ROUTE", "GATEWAY PING"]);
        table(&header, &rows).into_iter().for_each(|l| out.line(format!("   {l}")));
    }

    /// The promise: exactly one default route, on the NIC that is to hold it, and every gateway answers.
    fn check(&self, primary: &str) -> Result<(), CliError> {
        let defaults: Vec<String> = self
            .routes
            .iter()
            .filter(|r| r.is_default() && r.destination.is_ipv4())
            .map(|r| format!("via {} by {}", r.gateway.unwrap_or(IpAddr::from([0, 0, 0, 0])), r.interface))
            .collect();
        if defaults.len() != 1 {
            return Err(CliError::new(format!(
                "the guest has {} default routes instead of one: {}",
                defaults.len(),
                defaults.join(", ")
            )));
        }
        if self.holders() != [primary] {
            return Err(CliError::new(format!(
                "the guest's default route is by {}, and should be by {primary}",
                self.holders().join(", ")
            )));
        }
        if let Some(n) = self.nics.iter().find(|n| n.ping == Some(false)) {
            return Err(CliError::new(format!(
                "gateway {} of {} does not answer ping from the guest",
                n.gateway.clone().unwrap_or_default(),
                n.name
            )));
        }
        Ok(())
    }
}

/// A progress bar on standard error, one tick per step; without a terminal, a line per step.
struct Bar {
    bar: ProgressBar,
    plain: bool,
}

impl Bar {
    fn new(steps: u64) -> Self {
        let bar = ProgressBar::new(steps);
        if let Ok(style) = ProgressStyle::with_template("   [{bar:24}] {pos}/{len} {elapsed_precise} {msg}") {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.enable_steady_tick(Duration::from_millis(200));
        Self { plain: bar.is_hidden(), bar }
    }

    /// Waits for something; the error says what did not happen.
    async fn wait<T, F, Fut>(&self, what: &str, seconds: u64, probe: F) -> Result<T, CliError>
    where
        F: Fn() -> Fut,
        Fut: Future<Output = Result<Option<T>, CliError>>,
    {
        self.bar.set_message(what.to_owned());
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(seconds) {
            if let Some(v) = probe().await? {
                self.bar.inc(1);
                if self.plain {
                    eprintln!("   {what}: {:.1} s", start.elapsed().as_secs_f32());
                }
                return Ok(v);
            }
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
        self.bar.abandon();
        Err(CliError::new(format!("did not happen within {seconds} s: {what}"))
            .hint("multihome doctor vm/web; multihome describe vmi web"))
    }

    fn done(&self) {
        self.bar.finish_and_clear();
    }
}
