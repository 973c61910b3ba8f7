//! `vm …`.

use std::time::Duration;

use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use multihome_model::kubevirt::{VirtualMachine, VirtualMachineInstance};
use multihome_vmm::{Files, GuestAgent};
use serde_json::json;

use super::{Context, delete, get};
use crate::args::{VmCommand, VmExec};
use crate::kinds::by_name;
use crate::{CliError, CliResult, Output};

pub(super) async fn run(ctx: &Context, command: &VmCommand, out: &mut Output) -> CliResult {
    match command {
        VmCommand::List(args) => return get::list(ctx, "virtualmachines", args, out).await,
        VmCommand::Start(args) => switch(ctx, &args.name, true, out).await?,
        VmCommand::Stop(args) => switch(ctx, &args.name, false, out).await?,
        VmCommand::Reboot(args) => act(ctx, &args.name, "reboot", out).await?,
        VmCommand::Reset(args) => act(ctx, &args.name, "reset", out).await?,
        VmCommand::Exec(args) => return exec(ctx, args, out).await,
        VmCommand::Delete(args) => {
            out.line(delete::remove(ctx, &by_name("virtualmachines")?, &args.name, &ctx.namespace, true).await?);
        }
    }
    Ok(0)
}

async fn switch(ctx: &Context, name: &str, on: bool, out: &mut Output) -> Result<(), CliError> {
    let api: Api<VirtualMachine> = Api::namespaced(ctx.client.clone(), &ctx.namespace);
    let vm = api.get(name).await?;
    let spec = if vm.spec.run_strategy.is_some() {
        json!({"runStrategy": if on { "Always" } else { "Halted" }})
    } else {
        json!({"running": on})
    };
    api.patch(name, &PatchParams::default(), &Patch::Merge(json!({"spec": spec}))).await?;
    out.line(format!("virtualmachine.kubevirt.io/{name} {}", if on { "started" } else { "stopped" }));
    Ok(())
}

async fn act(ctx: &Context, name: &str, action: &str, out: &mut Output) -> Result<(), CliError> {
    let api: Api<VirtualMachineInstance> = Api::namespaced(ctx.client.clone(), &ctx.namespace);
    let Some(_) = api.get_opt(name).await? else {
        return Err(CliError::new(format!("VM {name:?} does not run")).hint(format!("multihome vm start {name}")));
    };
    let id = jiff::Timestamp::now().as_microsecond();
    let patch = json!({"metadata": {"annotations": {"multihome.io/action": format!("{action}/{id}")}}});
    api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
    out.line(format!("virtualmachine.kubevirt.io/{name} {action} asked for"));
    Ok(())
}

/// The agent of a VM that runs on this machine.
pub(super) async fn guest(ctx: &Context, name: &str) -> Result<GuestAgent, CliError> {
    let api: Api<VirtualMachineInstance> = Api::namespaced(ctx.client.clone(), &ctx.namespace);
    let vmi = api
        .get_opt(name)
        .await?
        .ok_or_else(|| CliError::new(format!("VM {name:?} does not run")).hint(format!("multihome vm start {name}")))?;
    let files = Files { dir: ctx.data_dir.join("vms").join(vmi.uid().unwrap_or_default()) };
    if !files.agent().exists() {
        return Err(CliError::new(format!(
            "VM {name:?} does not run on this machine, or not with data directory {}",
            ctx.data_dir.display()
        )));
    }
    Ok(GuestAgent::new(files.agent()).with_timeout(Duration::from_secs(15)))
}

async fn exec(ctx: &Context, args: &VmExec, out: &mut Output) -> CliResult {
    let agent = guest(ctx, &args.name).await?;
    let arguments: Vec<&str> = args.command[1..].iter().map(String::as_str).collect();
    let output = agent.run(&args.command[0], &arguments, Duration::from_secs(60)).await?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !text.is_empty() {
        out.line(text.trim_end_matches('\n'));
    }
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
    Ok(output.status.and_then(|s| u8::try_from(s).ok()).unwrap_or(1))
}
