//! The main job, end to end, told step by step: what `make demo` shows once the server runs.

mod seen;

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use multihome_model::kubevirt::VirtualMachineInstance;
use multihome_model::{Family, NetworkInterface};
use multihome_vmm::GuestAgent;

use self::seen::Seen;
use super::{Context, apply, doctor, nic, vm};
use crate::args::{Apply, Demo, Doctor, Format, NameArg, NicCommand, NicCreate};
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
    bar.wait("every NIC has its addresses in the guest", 60, || async {
        Ok(Seen::read(ctx, &agent, false).await?.addressed(3).then_some(()))
    })
    .await?;
    bar.wait("a default route of each family is there", 30, || async {
        let seen = Seen::read(ctx, &agent, false).await?;
        Ok((!seen.holders(Family::IPv4).is_empty() && !seen.holders(Family::IPv6).is_empty()).then_some(()))
    })
    .await?;
    bar.done();
    let boot = boot.elapsed();
    let seen = Seen::with_pings(ctx, &agent).await?;
    out.line(format!("\nRead from inside the guest, {:.1} s after the manifest was applied:\n", boot.as_secs_f32()));
    seen.print(&mut out);
    seen.check("web-mgmt")?;

    out.line("\n3. Plugging a fourth NIC into the running VM: multihome nic create --network storage --vm web");
    plug(ctx, &agent, "storage", 4, &mut out).await?;

    out.line("\n4. A network that was there before: its DHCP server and its router are somebody else's, and offer a default route each");
    apply::run(ctx, &Apply { filename: vec![args.foreign.clone()], dry_run: false }, &mut out).await?;
    out.line("   A fifth NIC, on that network: multihome nic create --network office --vm web");
    plug(ctx, &agent, "office", 5, &mut out).await?;

    out.line("\n5. Moving the default routes: multihome nic set-primary web-storage");
    move_default(ctx, &agent, &mut out).await?;

    out.line("\n6. multihome doctor vm/web");
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

/// Plugs a NIC into the running VM, and shows that it came up without a second default route.
async fn plug(
    ctx: &Context,
    agent: &GuestAgent,
    network: &str,
    count: usize,
    out: &mut Output,
) -> Result<(), CliError> {
    let plugged = Instant::now();
    let create = NicCreate {
        policies: vec![],
        name: None,
        network: network.into(),
        vm: Some(VM.into()),
        mac: None,
        address: None,
        primary: false,
        promiscuous: false,
        ingress: None,
        egress: None,
        wait: None,
    };
    nic::run(ctx, &NicCommand::Create(create), out).await?;
    let bar = Bar::new(1);
    bar.wait(&format!("the guest has the NIC on {network} with its addresses"), 60, || async {
        Ok(Seen::read(ctx, agent, false).await?.addressed(count).then_some(()))
    })
    .await?;
    bar.done();
    let plugged = plugged.elapsed();
    let seen = Seen::with_pings(ctx, agent).await?;
    out.line(format!("\nIt came up with its addresses {:.1} s after it was asked for:\n", plugged.as_secs_f32()));
    seen.print(out);
    seen.check("web-mgmt")
}

async fn move_default(ctx: &Context, agent: &GuestAgent, out: &mut Output) -> Result<(), CliError> {
    let moved = Instant::now();
    nic::run(ctx, &NicCommand::SetPrimary(NameArg { name: "web-storage".into() }), out).await?;
    let bar = Bar::new(3);
    // Nothing is known while another reader has the agent.
    let holds = |family, wanted: &'static str| async move {
        let seen = Seen::read(ctx, agent, false).await?;
        Ok::<_, CliError>((!seen.is_empty()).then(|| seen.holders(family) == [wanted]))
    };
    bar.wait("the IPv6 default route moved", 60, || async {
        Ok((holds(Family::IPv6, "web-storage").await? == Some(true)).then_some(()))
    })
    .await?;
    let six = moved.elapsed();
    bar.wait("the old IPv4 default route is gone from the guest", 120, || async {
        Ok((holds(Family::IPv4, "web-mgmt").await? == Some(false)).then_some(()))
    })
    .await?;
    let gone = moved.elapsed();
    bar.wait("the new one is there", 120, || async {
        Ok((holds(Family::IPv4, "web-storage").await? == Some(true)).then_some(()))
    })
    .await?;
    bar.done();
    let seen = Seen::with_pings(ctx, agent).await?;
    out.line(format!(
        "\nIPv6 followed after {:.1} s. The old IPv4 default route went after {:.1} s, the new one was there after {:.1} s (guests ask every 30 s on these networks):\n",
        six.as_secs_f32(),
        gone.as_secs_f32(),
        moved.elapsed().as_secs_f32(),
    ));
    seen.print(out);
    seen.check("web-storage")
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
