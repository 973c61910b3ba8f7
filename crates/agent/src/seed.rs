//! The NoCloud seed of an instance that asks for one: made from its NICs, kept in its run directory, changed with them.

use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use kube::api::Api;
use multihome_control::vm::{VmNicView, route_plan};
use multihome_guest::{Guest, seed};
use multihome_model::kubevirt::{CloudInitNoCloud, Source, VirtualMachineInstance};
use multihome_vmm::Vm;

use crate::{Agent, Error};

/// The image's name in the run directory.
pub(crate) const FILE: &str = "seed.iso";

/// An instance as its guest is told of it.
pub(crate) fn guest(vmi: &VirtualMachineInstance, views: &[VmNicView], host_name: &str) -> Guest {
    // The VM's identity outlives the instance, which is another one after every start.
    let owner = vmi.owner_references().first().map(|o| o.uid.clone());
    Guest::new(host_name, owner.or_else(|| vmi.uid()).unwrap_or_default(), route_plan(views))
}

/// The same with what the user wrote for cloud-init. The error is a sentence for the user.
pub(crate) async fn told(
    agent: &Agent,
    vmi: &VirtualMachineInstance,
    views: &[VmNicView],
    host_name: &str,
) -> Result<Guest, String> {
    let mut guest = guest(vmi, views, host_name);
    if let Some(volume) = vmi.spec.seed() {
        let (user, network) = own(agent, vmi, volume).await?;
        guest.user_data = user;
        guest.network_config = network;
    }
    Ok(guest)
}

async fn own(
    agent: &Agent,
    vmi: &VirtualMachineInstance,
    volume: &CloudInitNoCloud,
) -> Result<(Option<String>, Option<String>), String> {
    let namespace = vmi.namespace().unwrap_or_default();
    let user = text(agent, &namespace, volume.user_data()?, ["userdata", "userData"]).await?;
    let network = text(agent, &namespace, volume.network_data()?, ["networkdata", "networkData"]).await?;
    Ok((user, network))
}

/// KubeVirt takes either spelling of a key.
async fn text(agent: &Agent, namespace: &str, source: Source, keys: [&str; 2]) -> Result<Option<String>, String> {
    let name = match source {
        Source::None => return Ok(None),
        Source::Text(text) => return Ok(Some(text)),
        Source::Secret(name) => name,
    };
    let api: Api<Secret> = Api::namespaced(agent.client.clone(), namespace);
    let secret = api.get_opt(&name).await.map_err(|e| format!("Secret {name} cannot be read: {e}"))?;
    let secret = secret.ok_or_else(|| format!("Secret {name} does not exist in namespace {namespace}: create it"))?;
    let data = secret.data.unwrap_or_default();
    let bytes = keys.iter().find_map(|k| data.get(*k));
    let bytes = bytes.ok_or_else(|| format!("Secret {name} has no key {}: add it", keys[0]))?;
    let text = String::from_utf8(bytes.0.clone());
    text.map(Some).map_err(|_| format!("key {} of Secret {name} is not UTF-8 text", keys[0]))
}

/// Writes the image that a VM is started with.
pub(crate) fn write(path: &Path, guest: &Guest) -> std::io::Result<()> {
    let image = seed::image(guest);
    let mut file = fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(path)?;
    std::io::Write::write_all(&mut file, &image)
}

/// Puts the seed of the NICs as they are now into the running VM's drive, if it is another one. The file that says what the
/// guest has is replaced last: whoever is killed before that does it again. A guest that ejects its seed gets it back.
pub(crate) async fn refresh(vm: &Vm, guest: &Guest) -> Result<bool, Error> {
    let Some(path) = vm.spec().cdrom.clone() else { return Ok(false) };
    let io = |e: std::io::Error| Error::Seed(format!("{}: {e}", path.display()));
    if fs::read(&path).is_ok_and(|there| there == seed::image(guest)) {
        vm.close_tray().await?;
        return Ok(false);
    }
    let new = path.with_extension("new");
    write(&new, guest).map_err(io)?;
    let file = fs::File::open(&new).map_err(io)?;
    vm.change_medium(&file).await?;
    fs::rename(&new, &path).map_err(io)?;
    Ok(true)
}
