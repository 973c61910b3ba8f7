//! How VMs are accelerated: found out by trying when the first VM starts, with that VM's kernel, because only a kernel's
//! own word proves it; remembered until the machine boots again.

use std::path::PathBuf;

use multihome_vmm::{Acceleration, Accelerator, VmmConfig};
use serde_json::{Value, json};

use crate::{Agent, Config, Error};

fn file(config: &Config) -> PathBuf {
    config.data_dir.join("acceleration.json")
}

fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|s| s.trim().to_owned()).unwrap_or_default()
}

/// What was found before, since the machine booted.
pub(crate) fn remembered(config: &Config) -> Option<Acceleration> {
    let v: Value = serde_json::from_str(&std::fs::read_to_string(file(config)).ok()?).ok()?;
    if v.get("bootId")?.as_str()? != boot_id() {
        return None;
    }
    let accelerator = match v.get("accelerator")?.as_str()? {
        "kvm" => Accelerator::Kvm,
        _ => Accelerator::Tcg,
    };
    Some(Acceleration { accelerator, no_kvm: v.get("reason").and_then(Value::as_str).map(str::to_owned) })
}

impl Agent {
    /// How to run a VM that boots `kernel`.
    pub(crate) async fn vmm_config(&self, kernel: Option<PathBuf>) -> Result<VmmConfig, Error> {
        let known = self.acceleration.borrow().clone();
        let found = match known {
            Some(found) => found,
            None => {
                let (qemu, user) = (self.vmm.qemu.clone(), self.vmm.user);
                let probe = move || multihome_vmm::probe_accelerator(&qemu, user, kernel.as_deref());
                let found = tokio::task::spawn_blocking(probe).await??;
                let text = json!({
                    "bootId": boot_id(), "accelerator": found.accelerator.name(), "reason": found.no_kvm,
                });
                if let Err(e) = std::fs::write(file(&self.config), text.to_string()) {
                    tracing::warn!("acceleration not remembered: {e}");
                }
                self.acceleration.send_replace(Some(found.clone()));
                found
            }
        };
        Ok(VmmConfig { accelerator: found.accelerator, ..self.vmm.clone() })
    }
}
