//! One instance: its NICs on this node, its QEMU, and what became of it.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use kube::api::{Api, Patch, PatchParams};
use kube::{Resource, ResourceExt};
use multihome_control::queue::Next;
use multihome_control::vm::{self, VmNicView};
use multihome_control::world::vm_key;
use multihome_control::{Key, status};
use multihome_model::condition::{self, Condition, find};
use multihome_model::kubevirt::VirtualMachineInstance;
use multihome_model::{DhcpMode, FINALIZER_AGENT, Family, LinkState, NetworkInterface};
use multihome_plan::node::tap_name;
use multihome_vmm::{NicAttachment, NicSpec, Vm};
use serde_json::json;

use crate::running::{Plugged, Running};
use crate::{Agent, Error, Work, changes, dhcp, metadata, mirrors, observe, policies, seed, settle, spec};

/// How long a guest may take to let go of a NIC before it is asked again.
const UNPLUG: Duration = Duration::from_secs(5);
/// How long a guest may take to shut down where its manifest does not say.
const GRACE_SECONDS: i64 = 30;
/// Annotation on an instance: `reboot/ID` or `reset/ID`, to be done once.
pub(crate) const ANNOTATION_ACTION: &str = "multihome.io/action";
/// Annotation on an instance: the last of those that was done.
pub(crate) const ANNOTATION_ACTION_DONE: &str = "multihome.io/action-done";

/// Finds the VMs that were started before this process, and ends those whose instance is gone.
pub(crate) async fn find_running(agent: &Arc<Agent>) {
    let ids = match agent.vmm.list() {
        Ok(ids) => ids,
        Err(e) => return tracing::error!("running VMs cannot be listed: {e}"),
    };
    for id in ids {
        let dir = agent.vmm.dir(&id);
        let instance = {
            let t = agent.world.read();
            t.vmis.values().find(|v| v.uid().as_deref() == Some(&id)).map(|v| Key::of(v.as_ref()))
        };
        match (Vm::attach(&dir).await, instance) {
            (Ok(vm), Some(key)) => {
                // Killed between starting QEMU and letting the guest run: NICs are plugged below, in reconcile.
                adopt(agent, key, vm).await;
            }
            (Ok(vm), None) => {
                tracing::warn!(%id, "ending a VM whose instance is gone");
                if let Err(e) = vm.kill().await {
                    tracing::error!(%id, "cannot be ended: {e}");
                }
                let _ = multihome_vmm::remove(&dir).await;
            }
            (Err(_), None) => {
                let _ = multihome_vmm::remove(&dir).await;
            }
            (Err(e), Some(key)) => tracing::info!(vm = %key, "does not run any more: {e}"),
        }
    }
}

/// Takes charge of a running QEMU: its NICs, its events, its guest.
async fn adopt(agent: &Arc<Agent>, key: Key, vm: Vm) -> Arc<Running> {
    let nics = vm.nics().await.unwrap_or_default();
    let plugged = nics.into_iter().filter_map(|n| Some((n.id, Plugged { slot: n.slot?, link_up: None }))).collect();
    let id = vm.spec().id.clone();
    let running = Arc::new(Running::new(vm, plugged));
    agent.running().insert(id, running.clone());
    tokio::spawn(observe::follow(agent.clone(), key.clone(), running.clone()));
    tokio::spawn(follow_events(agent.clone(), key, running.clone()));
    running
}

async fn follow_events(agent: Arc<Agent>, key: Key, running: Arc<Running>) {
    let mut events = running.vm.events();
    loop {
        tokio::select! {
            event = events.recv() => match event {
                Ok(e) if e.name == "SHUTDOWN" => {
                    let by_guest = e.data.get("guest").and_then(serde_json::Value::as_bool) == Some(true);
                    running.shut_down.store(by_guest, Ordering::SeqCst);
                }
                // The seed may be changed now; and stays in.
                Ok(e) if e.is_tray_opened() => agent.queue.push(Work::Instance(key.clone())),
                Ok(e) if e.name == "RESET" => {
                    // A guest that starts anew has forgotten its leases, and asks for them.
                    let nics = agent.world.read().nics_of_vm(&key);
                    for uid in nics.iter().filter_map(|n| n.uid()) {
                        agent.dhcp.forget_told(&uid);
                        agent.guard.forget_told(&uid);
                    }
                    agent.queue.push(Work::Instance(key.clone()));
                    running.look.notify_one();
                }
                Ok(_) | Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {}
                Err(tokio::sync::broadcast::error::RecvError::Closed) => break,
            },
            () = running.vm.ended() => break,
        }
    }
    running.vm.ended().await;
    agent.queue.push(Work::Instance(key));
}

/// Brings one instance to what is wished.
pub(crate) async fn reconcile(agent: &Arc<Agent>, key: &Key) -> Next {
    let vmi = agent.world.read().vmis.get(key).cloned();
    let result = match vmi {
        Some(vmi) if agent.is_mine(vmi.status.as_ref().and_then(|s| s.node_name.as_deref())) => {
            drive(agent, key, &vmi).await
        }
        other => end_strays(agent, key, other.as_deref()).await,
    };
    settle(&format!("instance {key}"), result)
}

/// What runs here of an instance that is not this node's, or not the same any more: a node that was given up for lost comes back.
async fn end_strays(agent: &Arc<Agent>, key: &Key, now: Option<&VirtualMachineInstance>) -> Result<Next, Error> {
    let name = key.to_string();
    let strays: Vec<_> = agent
        .running()
        .iter()
        .filter(|(_, r)| r.vm.spec().name == name)
        .map(|(id, r)| (id.clone(), r.clone()))
        .collect();
    for (id, stray) in strays {
        let elsewhere = now.and_then(|v| v.status.as_ref()?.node_name.clone());
        tracing::warn!(vm = %key, ?elsewhere, "ending a VM that is not this node's any more");
        stray.vm.kill().await?;
        agent.running().remove(&id);
        multihome_vmm::remove(&agent.vmm.dir(&id)).await?;
        agent.queue.push(Work::Node);
    }
    release_strays(agent, key).await
}

/// NICs that say they are on this node although no instance is: given back.
async fn release_strays(agent: &Arc<Agent>, key: &Key) -> Result<Next, Error> {
    let nics = agent.world.read().nics_of_vm(key);
    for nic in nics {
        if agent.is_mine(nic.status.as_ref().and_then(|s| s.node.as_deref())) {
            release_nic(agent, &nic, "Detached", "its VM does not run").await?;
        }
    }
    Ok(Next::Wait)
}

async fn drive(agent: &Arc<Agent>, key: &Key, vmi: &Arc<VirtualMachineInstance>) -> Result<Next, Error> {
    let uid = vmi.uid().unwrap_or_default();
    let running = agent.running().get(&uid).cloned();
    if vmi.meta().deletion_timestamp.is_some() {
        return stop(agent, key, vmi, running).await;
    }
    let phase = vmi.status.as_ref().map(|s| s.phase.as_str()).unwrap_or_default();
    if matches!(phase, "Succeeded" | "Failed") {
        return release_strays(agent, key).await;
    }
    if !vmi.finalizers().iter().any(|f| f == FINALIZER_AGENT) {
        let mut finalizers = vmi.finalizers().to_vec();
        finalizers.push(FINALIZER_AGENT.into());
        return patch_finalizers(agent, vmi, finalizers).await;
    }
    match running {
        Some(r) if r.vm.is_running() => maintain(agent, key, vmi, &r).await,
        Some(r) => ended(agent, key, vmi, &r).await,
        None if phase == "Running" => {
            let text = "QEMU ended while nobody watched";
            finish(agent, key, vmi, "Failed", text).await
        }
        None => start(agent, key, vmi).await,
    }
}

async fn patch_finalizers(agent: &Agent, vmi: &VirtualMachineInstance, list: Vec<String>) -> Result<Next, Error> {
    let api: Api<VirtualMachineInstance> = Api::namespaced(agent.client.clone(), &vmi.namespace().unwrap_or_default());
    let patch = json!({"metadata": {"finalizers": list, "resourceVersion": vmi.resource_version()}});
    match api.patch(&vmi.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await {
        Ok(_) => Ok(Next::Wait),
        Err(kube::Error::Api(e)) if e.code == 409 || e.code == 404 => Ok(Next::Failed),
        Err(e) => Err(e.into()),
    }
}

async fn drop_finalizer(agent: &Agent, vmi: &VirtualMachineInstance) -> Result<(), Error> {
    if vmi.finalizers().iter().any(|f| f == FINALIZER_AGENT) {
        let rest = vmi.finalizers().iter().filter(|f| *f != FINALIZER_AGENT).cloned().collect();
        patch_finalizers(agent, vmi, rest).await?;
    }
    Ok(())
}

/// The NICs of an instance that are ready to be plugged, or why they are not all.
fn nics_of(agent: &Agent, key: &Key, vmi: &VirtualMachineInstance) -> (Vec<VmNicView>, Option<String>) {
    let t = agent.world.read();
    let views = vm::nics(&t, key);
    for m in vm::manifest_nics(&vmi.spec) {
        let name = vm::nic_name(&key.name, &m.interface.name);
        if !views.iter().any(|v| v.nic.name_any() == name) {
            return (views, Some(format!("NIC {name} does not exist yet, or its network is missing")));
        }
    }
    let mut why = None;
    for v in &views {
        let conditions = v.nic.status.as_ref().map(|s| s.conditions.as_slice()).unwrap_or_default();
        match find(conditions, status::CLAIMED) {
            Some(c) if c.is_true() => {}
            Some(c) => why = Some(format!("NIC {}: {}", v.nic.name_any(), c.message)),
            None => why = Some(format!("NIC {} has no address yet", v.nic.name_any())),
        }
        if !agent.is_mine(v.nic.status.as_ref().and_then(|s| s.node.as_deref())) && why.is_none() {
            why = Some(format!("NIC {} is not bound to this node yet", v.nic.name_any()));
        }
    }
    (views, why)
}

/// Gives a NIC its devices on the node.
async fn plumb(agent: &Arc<Agent>, v: &VmNicView) -> Result<(), Error> {
    let (network, policed, mirrors) = {
        let t = agent.world.read();
        (spec::node_network(&t, &v.network_key), policies::policed(&t, &v.nic), mirrors::around(&t, &v.nic))
    };
    let Some(network) = network else {
        return Err(Error::Dataplane(format!("network {} is not ready", v.network_key)));
    };
    let all = agent.clone();
    let everything = move || spec::node_input(&all.world.read(), &all.config.node);
    let mirrored = !mirrors.is_empty();
    if agent.plumbing.attach(spec::node_nic(&v.nic), network, (policed, mirrors), everything).await? {
        agent.queue.push(Work::Node);
    }
    if mirrored {
        agent.queue.push(Work::Mirrors);
    }
    Ok(())
}

fn host_name(key: &Key, vmi: &VirtualMachineInstance) -> String {
    vmi.spec.hostname.clone().unwrap_or_else(|| key.name.clone())
}

fn queue_count(v: &VmNicView) -> usize {
    v.nic.spec.queues.unwrap_or(1).clamp(1, 8) as usize
}

async fn open_queues(agent: &Agent, v: &VmNicView) -> Result<Vec<OwnedFd>, Error> {
    let name = tap_name(&v.nic.uid().unwrap_or_default());
    agent.plumbing.open_tap(name, queue_count(v) as u32).await
}

fn nic_spec(v: &VmNicView, slot: u8) -> NicSpec {
    NicSpec {
        id: v.nic.uid().unwrap_or_default(),
        mac: v.mac.0,
        model: spec::nic_model(v.nic.spec.model),
        mtu: u16::try_from(v.mtu.get()).ok(),
        link_up: v.nic.spec.link_state != Some(LinkState::Down),
        slot,
        acpi_index: None,
    }
}

/// Slots: those that NICs had before where they are still free, the lowest free ones for the others.
fn assign_slots(views: &[VmNicView], plugged: &BTreeMap<String, Plugged>, ports: u8) -> BTreeMap<String, u8> {
    let mut out: BTreeMap<String, u8> = BTreeMap::new();
    let uid = |v: &VmNicView| v.nic.uid().unwrap_or_default();
    for v in views {
        if let Some(p) = plugged.get(&uid(v)) {
            out.insert(uid(v), p.slot);
        }
    }
    // A NIC that is being unplugged keeps its slot until it is out.
    let mut taken: Vec<u8> = plugged.values().map(|p| p.slot).collect();
    for v in views {
        if out.contains_key(&uid(v)) {
            continue;
        }
        let had = v.nic.status.as_ref().and_then(|s| s.slot).and_then(|s| u8::try_from(s).ok());
        let slot = had.filter(|s| *s < ports && !taken.contains(s)).or_else(|| (0..ports).find(|s| !taken.contains(s)));
        if let Some(slot) = slot {
            taken.push(slot);
            out.insert(uid(v), slot);
        }
    }
    out
}

async fn start(agent: &Arc<Agent>, key: &Key, vmi: &Arc<VirtualMachineInstance>) -> Result<Next, Error> {
    let (views, why) = nics_of(agent, key, vmi);
    if let Some(why) = why {
        set_phase(agent, key, "Scheduled", Some(&why), Condition::new(status::READY, false, "WaitingForNics", &*why))
            .await?;
        return Ok(Next::Again(Duration::from_millis(500)));
    }
    let told = match seed::told(agent, vmi, &views, &host_name(key, vmi)).await {
        Ok(g) => g,
        Err(why) => {
            // A Secret may come later.
            let ready = Condition::new(status::READY, false, "WaitingForSeed", &*why);
            set_phase(agent, key, "Scheduled", Some(&why), ready).await?;
            return Ok(Next::Again(Duration::from_secs(2)));
        }
    };
    let own_network = told.network_config.is_some();
    let asked = told.clone();
    let uid = vmi.uid().unwrap_or_default();
    let dir = agent.vmm.dir(&uid);
    let prepared = {
        let (vmi, images, dir) = (vmi.clone(), agent.config.images(), dir.clone());
        tokio::task::spawn_blocking(move || {
            std::fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
            let s = spec::vm_spec(&vmi, &images, &dir)?;
            if let Some(path) = &s.cdrom {
                seed::write(path, &told).map_err(|e| format!("{}: {e}", path.display()))?;
            }
            Ok::<_, String>(s)
        })
        .await?
    };
    let vm_spec = match prepared {
        Ok(s) => s,
        Err(text) => {
            agent.events.warning(vmi.as_ref(), "NotStarted", &*text).await;
            return finish(agent, key, vmi, "Failed", &text).await;
        }
    };
    for v in &views {
        plumb(agent, v).await?;
    }
    dhcp::sync(agent, &views, &host_name(key, vmi))?;
    metadata::sync(agent, asked, &views)?;
    let slots = assign_slots(&views, &BTreeMap::new(), vm_spec.ports);
    let mut nics = vec![];
    for v in &views {
        let Some(slot) = slots.get(&v.nic.uid().unwrap_or_default()) else {
            let text = format!("a VM has room for {} NICs, and this one has {}", vm_spec.ports, views.len());
            return finish(agent, key, vmi, "Failed", &text).await;
        };
        nics.push(NicAttachment {
            spec: nic_spec(v, *slot),
            queues: agent.plumbing.open_tap(tap_name(&v.nic.uid().unwrap_or_default()), queue_count(v) as u32).await?,
        });
    }
    let config = agent.vmm_config(vm_spec.kernel.as_ref().map(|k| k.kernel.clone())).await?;
    let vm = match Vm::start(&config, &vm_spec, nics).await {
        Ok(vm) => vm,
        Err(e) => {
            let text = format!("QEMU was not started: {e}");
            agent.events.warning(vmi.as_ref(), "NotStarted", &*text).await;
            return finish(agent, key, vmi, "Failed", &text).await;
        }
    };
    let how = vm.accelerator().name();
    adopt(agent, key.clone(), vm).await;
    let ready = Condition::new(status::READY, true, "Running", "QEMU runs");
    set_phase(agent, key, "Running", None, ready).await?;
    agent.events.normal(vmi.as_ref(), "Started", format!("QEMU runs ({how}) with {} NICs", views.len())).await;
    if own_network {
        let text = "the seed hands on the manifest's own networkData: routes, tables and static addresses are as written there";
        agent.events.normal(vmi.as_ref(), "OwnNetworkData", text).await;
    }
    for v in &views {
        let slot = slots.get(&v.nic.uid().unwrap_or_default()).copied().unwrap_or_default();
        attached(agent, v, slot, "plugged in when the VM started").await?;
    }
    Ok(Next::Wait)
}

async fn set_phase(agent: &Agent, key: &Key, phase: &str, reason: Option<&str>, ready: Condition) -> Result<(), Error> {
    let api: Api<VirtualMachineInstance> = Api::namespaced(agent.client.clone(), &key.namespace);
    let known = agent.world.read().vmis.get(key).cloned();
    status::update(&api, &key.name, known.as_deref(), |o| {
        let s = o.status.get_or_insert_default();
        s.phase = phase.into();
        s.reason = reason.map(str::to_owned);
        condition::set(&mut s.conditions, ready.clone(), &status::now());
    })
    .await?;
    Ok(())
}

/// The NIC's status while the running VM has it.
async fn attached(agent: &Agent, v: &VmNicView, slot: u8, how: &str) -> Result<(), Error> {
    let api: Api<NetworkInterface> = Api::namespaced(agent.client.clone(), &v.nic.namespace().unwrap_or_default());
    let device = tap_name(&v.nic.uid().unwrap_or_default()).as_str().to_owned();
    let waiting = match v.spec.dhcp(Family::IPv4) {
        DhcpMode::Server => Some("the guest has not asked for its address yet"),
        DhcpMode::Guard => Some("no DHCP server of the network has given the guest an address yet"),
        DhcpMode::None => None,
    };
    let was = v.nic.status.as_ref().is_some_and(|s| find(&s.conditions, status::ATTACHED).is_some_and(|c| c.is_true()));
    status::update(&api, &v.nic.name_any(), Some(&v.nic), |o| {
        let s = o.status.get_or_insert_default();
        s.device = Some(device.clone());
        s.slot = Some(slot.into());
        let leased = find(&s.conditions, status::LEASED).is_some();
        status::set_nic_condition(o, Condition::new(status::ATTACHED, true, "Plugged", how));
        if let Some(text) = waiting.filter(|_| !leased) {
            status::set_nic_condition(o, Condition::new(status::LEASED, false, "WaitingForGuest", text));
        }
    })
    .await?;
    if !was {
        agent.events.normal(v.nic.as_ref(), "Attached", format!("{how}: device {device}, slot {slot}")).await;
    }
    Ok(())
}

/// Keeps a running VM's NICs as wished.
async fn maintain(
    agent: &Arc<Agent>,
    key: &Key,
    vmi: &Arc<VirtualMachineInstance>,
    r: &Arc<Running>,
) -> Result<Next, Error> {
    if r.vm.status().await.is_ok_and(|s| s == "prelaunch") {
        // Started by a process that was killed before it could plug the NICs in: the guest has not run yet.
        r.vm.kill().await?;
        agent.running().remove(&vmi.uid().unwrap_or_default());
        return Ok(Next::Again(Duration::from_millis(100)));
    }
    if vmi.status.as_ref().is_none_or(|s| s.phase != "Running") {
        set_phase(agent, key, "Running", None, Condition::new(status::READY, true, "Running", "QEMU runs")).await?;
    }
    act(agent, key, vmi, r).await?;
    // A guest that does not let go of one NIC hinders no other.
    let unplugged = unplug_others(agent, key, r).await;
    let (views, _) = nics_of(agent, key, vmi);
    let usable: Vec<VmNicView> = views
        .into_iter()
        .filter(|v| {
            let s = v.nic.status.as_ref();
            agent.is_mine(s.and_then(|s| s.node.as_deref())) && s.is_some_and(|s| s.mac.is_some())
        })
        .collect();
    let before = r.plugged().clone();
    let slots = assign_slots(&usable, &before, r.vm.spec().ports);
    for v in &usable {
        plumb(agent, v).await?;
    }
    dhcp::sync(agent, &usable, &host_name(key, vmi))?;
    // Before NICs are plugged: cloud-init reads seed or metadata again when it sees a new one. A seed that cannot be changed
    // now hinders no NIC.
    let told_again = tell(agent, key, vmi, r, &usable).await;
    for v in &usable {
        let uid = v.nic.uid().unwrap_or_default();
        let up = v.nic.spec.link_state != Some(LinkState::Down);
        let Some(slot) = slots.get(&uid).copied() else {
            let text = format!("all {} slots of the VM are taken: detach another NIC first", r.vm.spec().ports);
            not_attached(agent, &v.nic, "NoSlot", &text).await?;
            continue;
        };
        match before.get(&uid) {
            Some(p) if p.link_up != Some(up) => {
                r.set_link(&uid, up).await?;
            }
            Some(_) => {}
            None => {
                let queues = match open_queues(agent, v).await {
                    // QEMU holds it for a NIC that it has not: a process of ours was killed at that moment.
                    Err(Error::Netlink(e)) if e.is_busy() => {
                        r.vm.clear_half_plugged(&uid, queue_count(v)).await?;
                        agent
                            .plumbing
                            .open_tap(tap_name(&v.nic.uid().unwrap_or_default()), queue_count(v) as u32)
                            .await?
                    }
                    other => other?,
                };
                let nic = NicAttachment { spec: nic_spec(v, slot), queues };
                if let Err(e) = r.vm.plug_nic(nic).await {
                    not_attached(agent, &v.nic, "NotPlugged", &e.to_string()).await?;
                    return Err(e.into());
                }
                r.plugged().insert(uid, Plugged { slot, link_up: Some(up) });
                r.look.notify_one();
            }
        }
        let how = if before.contains_key(&v.nic.uid().unwrap_or_default()) {
            "plugged in"
        } else {
            "plugged into the running VM"
        };
        let known = v.nic.status.as_ref().is_some_and(|s| {
            s.slot == Some(slot.into()) && find(&s.conditions, status::ATTACHED).is_some_and(|c| c.is_true())
        });
        if !known {
            attached(agent, v, slot, how).await?;
        }
    }
    changes::hasten(agent, r, &usable).await?;
    unplugged?;
    told_again?;
    Ok(Next::Wait)
}

/// Makes the metadata service speak of the NICs as they are now, and the seed, where the VM has one.
async fn tell(
    agent: &Agent,
    key: &Key,
    vmi: &VirtualMachineInstance,
    r: &Running,
    views: &[VmNicView],
) -> Result<(), Error> {
    let told = seed::told(agent, vmi, views, &host_name(key, vmi)).await.map_err(Error::Seed)?;
    metadata::sync(agent, told.clone(), views)?;
    if seed::refresh(&r.vm, &told).await? {
        agent.events.normal(vmi, "Reseeded", format!("the seed now describes {} NICs", views.len())).await;
    }
    Ok(())
}

async fn not_attached(agent: &Agent, nic: &NetworkInterface, reason: &str, text: &str) -> Result<(), Error> {
    let api: Api<NetworkInterface> = Api::namespaced(agent.client.clone(), &nic.namespace().unwrap_or_default());
    status::update(&api, &nic.name_any(), Some(nic), |o| {
        status::set_nic_condition(o, Condition::new(status::ATTACHED, false, reason, text));
    })
    .await?;
    agent.events.warning(nic, reason, text).await;
    Ok(())
}

/// Takes out what the VM has and should not: NICs that are going, were detached, or moved to another VM.
async fn unplug_others(agent: &Arc<Agent>, key: &Key, r: &Arc<Running>) -> Result<(), Error> {
    let plugged: Vec<String> = r.plugged().keys().cloned().collect();
    for uid in plugged {
        let nic = agent.world.read().nic_of_uid(&uid);
        let stays =
            nic.as_ref().is_some_and(|n| vm_key(n).as_ref() == Some(key) && n.meta().deletion_timestamp.is_none());
        if stays {
            continue;
        }
        if let Err(e) = r.vm.unplug_nic(&uid, UNPLUG).await {
            if let Some(nic) = &nic {
                agent
                    .events
                    .warning(nic.as_ref(), "UnplugIgnored", format!("the guest has not let go of it yet: {e}"))
                    .await;
            }
            return Err(e.into());
        }
        r.plugged().remove(&uid);
        r.look.notify_one();
        agent.forget_nic(&uid);
        if let Some(nic) = nic {
            release_nic(agent, &nic, "Detached", "unplugged from the running VM").await?;
        } else {
            agent.queue.push(Work::Node);
        }
    }
    // NICs that were to go before QEMU ever had them.
    let waiting: Vec<Arc<NetworkInterface>> = {
        let t = agent.world.read();
        let mine = t.nics_of_vm(key);
        let mine = mine.into_iter().filter(|n| n.meta().deletion_timestamp.is_some());
        mine.filter(|n| agent.is_mine(n.status.as_ref().and_then(|s| s.node.as_deref()))).collect()
    };
    for nic in waiting {
        let uid = nic.uid().unwrap_or_default();
        if !r.plugged().contains_key(&uid) {
            agent.forget_nic(&uid);
            release_nic(agent, &nic, "Detached", "it was not plugged in").await?;
        }
    }
    Ok(())
}

/// Says that no node has the NIC any more. Its devices go with the next node plan.
async fn release_nic(agent: &Agent, nic: &NetworkInterface, reason: &str, text: &str) -> Result<(), Error> {
    let uid = nic.uid().unwrap_or_default();
    agent.forget_nic(&uid);
    let api: Api<NetworkInterface> = Api::namespaced(agent.client.clone(), &nic.namespace().unwrap_or_default());
    status::update(&api, &nic.name_any(), Some(nic), |o| status::release_nic(o, reason, text)).await?;
    agent.events.normal(nic, reason, text).await;
    Ok(())
}

/// Reboots or resets once per request.
async fn act(agent: &Arc<Agent>, key: &Key, vmi: &VirtualMachineInstance, r: &Arc<Running>) -> Result<(), Error> {
    let Some(wish) = vmi.annotations().get(ANNOTATION_ACTION) else { return Ok(()) };
    if vmi.annotations().get(ANNOTATION_ACTION_DONE) == Some(wish) {
        return Ok(());
    }
    let api: Api<VirtualMachineInstance> = Api::namespaced(agent.client.clone(), &key.namespace);
    let done = json!({"metadata": {"annotations": {ANNOTATION_ACTION_DONE: wish}}});
    api.patch(&key.name, &PatchParams::default(), &Patch::Merge(done)).await?;
    if wish.starts_with("reboot/") {
        let by_guest = r.vm.reboot(grace(vmi)).await?;
        let how = if by_guest { "by the guest itself" } else { "by a reset, because the guest did not" };
        agent.events.normal(vmi, "Rebooted", how).await;
    } else if wish.starts_with("reset/") {
        r.vm.reset().await?;
        agent.events.normal(vmi, "Reset", "as by the reset button").await;
    }
    Ok(())
}

fn grace(vmi: &VirtualMachineInstance) -> Duration {
    let seconds = vmi.spec.termination_grace_period_seconds.unwrap_or(GRACE_SECONDS).clamp(0, 3600);
    Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
}

async fn stop(
    agent: &Arc<Agent>,
    key: &Key,
    vmi: &Arc<VirtualMachineInstance>,
    running: Option<Arc<Running>>,
) -> Result<Next, Error> {
    let uid = vmi.uid().unwrap_or_default();
    if let Some(r) = running {
        let ending = r.vm.stop(grace(vmi)).await?;
        agent.running().remove(&uid);
        agent.events.normal(vmi.as_ref(), "Stopped", format!("QEMU ended: {ending:?}")).await;
    }
    multihome_vmm::remove(&agent.vmm.dir(&uid)).await?;
    release_strays(agent, key).await?;
    drop_finalizer(agent, vmi).await?;
    agent.queue.push(Work::Node);
    Ok(Next::Wait)
}

/// QEMU ended by itself: the guest shut down, or something went wrong.
async fn ended(
    agent: &Arc<Agent>,
    key: &Key,
    vmi: &Arc<VirtualMachineInstance>,
    r: &Arc<Running>,
) -> Result<Next, Error> {
    agent.running().remove(&vmi.uid().unwrap_or_default());
    if r.shut_down.load(Ordering::SeqCst) {
        agent.events.normal(vmi.as_ref(), "ShutDown", "the guest shut itself down").await;
        finish(agent, key, vmi, "Succeeded", "the guest shut itself down").await
    } else {
        let text = "QEMU ended without the guest having shut down";
        agent.events.warning(vmi.as_ref(), "Crashed", text).await;
        finish(agent, key, vmi, "Failed", text).await
    }
}

async fn finish(
    agent: &Arc<Agent>,
    key: &Key,
    vmi: &VirtualMachineInstance,
    phase: &str,
    text: &str,
) -> Result<Next, Error> {
    let _ = multihome_vmm::remove(&agent.vmm.dir(&vmi.uid().unwrap_or_default())).await;
    set_phase(agent, key, phase, Some(text), Condition::new(status::READY, false, phase, text)).await?;
    release_strays(agent, key).await?;
    agent.queue.push(Work::Node);
    Ok(Next::Wait)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_kept_and_holes_are_filled() {
        assert!(assign_slots(&[], &BTreeMap::new(), 4).is_empty());
    }
}
