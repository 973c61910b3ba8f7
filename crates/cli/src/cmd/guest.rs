//! `guest config`: a VM's network configuration in the dialect of what configures its guest.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use kube::api::ListParams;
use kube::{Api, ResourceExt};
use multihome_control::Key;
use multihome_control::vm::{self, VmNicView};
use multihome_control::world::Tables;
use multihome_guest::{File, Guest, render};
use multihome_model::kubevirt::VirtualMachine;
use multihome_model::{ClusterNetwork, Network, NetworkInterface};
use multihome_plan::route::RoutePlan;
use serde_json::json;

use super::Context;
use super::apply::read_documents;
use super::plan::Planned;
use crate::args::{GuestConfig, TextFormat};
use crate::{CliError, CliResult, Output};

/// From the API.
pub(super) async fn run(ctx: &Context, args: &GuestConfig, out: &mut Output) -> CliResult {
    let name = vm_name(args.target.as_deref().unwrap_or_default())?;
    let key = Key::new(ctx.namespace.clone(), name);
    let vms: Api<VirtualMachine> = Api::namespaced(ctx.client.clone(), &ctx.namespace);
    let machine = vms.get_opt(name).await?.ok_or_else(|| missing(&key))?;
    let views = vm::nics(&tables(ctx, name).await?, &key);
    let plan = vm::route_plan(&views);
    let guest = guest(&key, &machine.uid().unwrap_or_default(), &views, plan);
    finish(&key, &guest, args, out)
}

/// From manifests.
pub(super) fn offline(args: &GuestConfig, out: &mut Output) -> CliResult {
    let planned = Planned::from_documents(&read_documents(&args.filename)?)?;
    let key = match (args.target.as_deref().map(vm_name).transpose()?, planned.vms.as_slice()) {
        (None, [one]) => one.clone(),
        (None, all) => {
            let names: Vec<String> = all.iter().map(|k| format!("vm/{}", k.name)).collect();
            let found = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            return Err(CliError::new(format!("name one VM of the manifest: it has {found}")));
        }
        (Some(name), all) => match all.iter().find(|k| k.name == name) {
            Some(key) => key.clone(),
            None => return Err(CliError::new(format!("VM {name:?} is not in the manifest"))),
        },
    };
    let (views, plan) = planned.plan_of(&key);
    finish(&key, &guest(&key, &key.to_string(), &views, plan), args, out)
}

fn vm_name(target: &str) -> Result<&str, CliError> {
    match target.split_once('/') {
        Some(("vm" | "vmi" | "virtualmachine", name)) if !name.is_empty() => Ok(name),
        _ => Err(CliError::new(format!("{target:?} has no guest: use vm/NAME"))),
    }
}

fn missing(key: &Key) -> CliError {
    CliError::new(format!("VM {:?} does not exist in namespace {}", key.name, key.namespace))
}

/// What the route plan of one VM depends on.
async fn tables(ctx: &Context, name: &str) -> Result<Tables, CliError> {
    let mut out = Tables::default();
    let all = ListParams::default();
    let fabrics: Api<ClusterNetwork> = Api::all(ctx.client.clone());
    fabrics.list(&all).await?.items.into_iter().for_each(|f| out.put_fabric(f));
    let networks: Api<Network> = Api::all(ctx.client.clone());
    networks.list(&all).await?.items.into_iter().for_each(|n| out.put_network(n));
    let nics: Api<NetworkInterface> = Api::namespaced(ctx.client.clone(), &ctx.namespace);
    let of_vm = ListParams::default().fields(&format!("spec.vm={name}"));
    nics.list(&of_vm).await?.items.into_iter().for_each(|n| out.put_nic(n));
    Ok(out)
}

fn guest(key: &Key, uid: &str, views: &[VmNicView], plan: RoutePlan) -> Guest {
    let seen = |v: &VmNicView| Some((v.nic.name_any(), v.nic.status.as_ref()?.guest_name.clone()?));
    let devices: BTreeMap<String, String> = views.iter().filter_map(seen).collect();
    Guest { devices, ..Guest::new(&key.name, uid, plan) }
}

fn finish(key: &Key, guest: &Guest, args: &GuestConfig, out: &mut Output) -> CliResult {
    let files = render(args.dialect, guest);
    if let Some(dir) = &args.write_to {
        for f in &files {
            out.line(write(dir, f)?);
        }
        return Ok(0);
    }
    match args.output {
        TextFormat::Json => {
            let list: Vec<_> = files
                .iter()
                .map(|f| json!({"path": f.path, "mode": format!("{:04o}", f.mode), "content": f.content}))
                .collect();
            out.json(&json!({"vm": key.to_string(), "dialect": args.dialect.name(), "files": list}))?;
        }
        TextFormat::Text => {
            for (i, f) in files.iter().enumerate() {
                if !args.dialect.is_single() {
                    out.line(format!("{}# {}", if i > 0 { "\n" } else { "" }, f.path));
                }
                out.line(f.content.trim_end());
            }
        }
    }
    Ok(0)
}

/// Writes a file below a directory; says where it is.
fn write(dir: &Path, file: &File) -> Result<String, CliError> {
    let path = dir.join(file.path.trim_start_matches('/'));
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    std::fs::write(&path, &file.content)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(file.mode))?;
    Ok(path.display().to_string())
}
