//! Removes everything that an agent made on a node: VMs, devices, namespaces, tables, settings.

use multihome_vmm::{Vm, VmmConfig};

use crate::engine::{Holds, forget, holds, open_kernel, open_ovs};
use crate::{Config, Error};

/// Ends the VMs below the data directory and removes all devices of ours, whoever made them. To be called while no
/// agent runs. Says in sentences what could not be removed.
///
/// # Errors
/// When the node cannot even be looked at.
pub async fn teardown(config: &Config) -> Result<Vec<String>, Error> {
    let mut left = vec![];
    let vmm = VmmConfig {
        qemu: config.qemu.clone(),
        run_root: config.run_root(),
        user: None,
        accelerator: multihome_vmm::Accelerator::Tcg,
    };
    for id in vmm.list()? {
        let dir = vmm.dir(&id);
        if let Ok(vm) = Vm::attach(&dir).await
            && let Err(e) = vm.kill().await
        {
            left.push(format!("VM {id} still runs: {e}"));
            continue;
        }
        if let Err(e) = multihome_vmm::remove(&dir).await {
            left.push(e.to_string());
        }
    }
    let config = config.clone();
    let devices = tokio::task::spawn_blocking(move || -> Result<Vec<String>, Error> {
        let capabilities = multihome_netlink::probe()?;
        let mut left = vec![];
        if let Some(Holds::Ovs(socket)) = holds(&config) {
            left = open_ovs(&config, &socket, &capabilities)?.teardown();
        }
        left.extend(open_kernel(&config, &capabilities)?.teardown());
        if left.is_empty() {
            forget(&config)?;
        }
        Ok(left.iter().map(ToString::to_string).collect())
    })
    .await??;
    left.extend(devices);
    Ok(left)
}
