//! What is between the guest and the world: a node with Multihome's data plane, servers and guard, in a namespace and on
//! a thread of its own; or nothing but cables.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use multihome_dataplane::Engine;
use multihome_dataplane::kernel::{Config, Kernel};
use multihome_dhcp::guard::Role;
use multihome_dhcp::guard::server::{Guard, Passage};
use multihome_dhcp::ra::Advertisement;
use multihome_dhcp::server::Server;
use multihome_dhcp::server6::{Said, Server6};
use multihome_dhcp::{v4, v6};
use multihome_model::checked::CheckedNetwork;
use multihome_model::{Family, IfName, names};
use multihome_netlink::{Capabilities, LinkChange, LinkKind, Netns, NewLink, Rtnl, VethPeer};
use multihome_plan::node::{NodeState, Port, Security, Step, build, diff, tap_name};
use multihome_plan::route::RoutePlan;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use crate::cable::{Cable, End};
use crate::machine::Machine;
use crate::{Result, networks};

/// What a node consists of. Touched by [`Node::call`] only.
pub struct Inside {
    rtnl: Rtnl,
    guest: Netns,
    /// The DHCPv4 server.
    pub server: Server,
    /// The DHCPv6 server and router advertiser.
    pub server6: Server6,
    /// The guard.
    pub guard: Guard,
    networks: Option<[CheckedNetwork; 2]>,
    /// What the DHCPv4 server calls itself on each network, where that is not to follow from the gateway.
    pub identifiers: Option<[Ipv4Addr; 2]>,
    doors: Option<Arc<Doors>>,
    far: [End; 2],
    cables: [Option<Cable>; 2],
}

type Job = Box<dyn FnOnce(&mut Inside) + Send>;

/// A node at work.
pub struct Node {
    jobs: Option<UnboundedSender<Job>>,
    thread: Option<JoinHandle<()>>,
    _state: tempfile::TempDir,
}

fn capabilities() -> Result<Capabilities> {
    static FOUND: OnceLock<Option<Capabilities>> = OnceLock::new();
    let found = FOUND.get_or_init(|| multihome_netlink::probe().ok()).clone();
    Ok(found.ok_or("the kernel's capabilities cannot be found out: that needs root")?)
}

fn up(yes: bool) -> LinkChange<'static> {
    LinkChange { up: Some(yes), ..LinkChange::default() }
}

impl Node {
    /// Cables the guest's `eth0` and `eth1` to the world's `far0` and `far1`: through a node that carries `networks`,
    /// or directly. The guest's NICs have no carrier yet.
    ///
    /// # Errors
    /// When something that it takes cannot be made: that needs root.
    pub fn new(guest: &Machine, world: &Machine, networks: Option<[CheckedNetwork; 2]>) -> Result<Self> {
        let state = tempfile::tempdir()?;
        let (guest, world, host) = (guest.netns()?, world.netns()?, Netns::anonymous()?);
        let (jobs, mut work) = unbounded_channel::<Job>();
        let (tell, told) = std::sync::mpsc::channel();
        let dir = state.path().to_owned();
        let body = move || -> Result<()> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                match Inside::new(host_handle()?, guest, &world, networks, &dir) {
                    Err(e) => drop(tell.send(Err(e))),
                    Ok(mut inside) => {
                        let _ = tell.send(Ok(()));
                        loop {
                            tokio::select! {
                                job = work.recv() => match job {
                                    Some(job) => job(&mut inside),
                                    None => break,
                                },
                                nics = inside.guard.changed() => inside.let_pass(&nics),
                            }
                        }
                    }
                }
                Ok(())
            })
        };
        let thread = std::thread::Builder::new().name("node".into()).spawn(move || {
            let _ = host.run(body);
        })?;
        told.recv().map_err(|_| "the node did not start")??;
        Ok(Self { jobs: Some(jobs), thread: Some(thread), _state: state })
    }

    /// Does something on the node, and waits for it.
    ///
    /// # Errors
    /// When the node has ended.
    pub fn call<T: Send + 'static>(&self, f: impl FnOnce(&mut Inside) -> T + Send + 'static) -> Result<T> {
        let (tell, told) = std::sync::mpsc::channel();
        let job: Job = Box::new(move |inside| drop(tell.send(f(inside))));
        self.jobs.as_ref().and_then(|j| j.send(job).ok()).ok_or("the node has ended")?;
        Ok(told.recv()?)
    }

    /// The networks are these from now on, as far as servers go: devices stay as they are.
    ///
    /// # Errors
    /// When the node has ended.
    pub fn change(&self, networks: [CheckedNetwork; 2]) -> Result<()> {
        self.call(move |inside| inside.networks = Some(networks))
    }

    /// Says what the guest is told from now on, as the agent does.
    ///
    /// # Errors
    /// When a port is gone.
    pub fn tell(&self, plan: &RoutePlan) -> Result<()> {
        let plan = plan.clone();
        self.call(move |inside| inside.tell(&plan))?
    }

    /// Plugs a NIC in, with a carrier or without; what comes from its network arrives `late`.
    ///
    /// # Errors
    /// When the device is there already.
    pub fn plug(&self, nic: usize, carrier: bool, late: Duration) -> Result<()> {
        self.call(move |inside| inside.plug(nic, carrier, late))?
    }

    /// Gives a NIC its carrier.
    ///
    /// # Errors
    /// When it is not plugged in.
    pub fn carrier(&self, nic: usize) -> Result<()> {
        self.call(move |inside| Ok(inside.rtnl.change_named(&format!("nic{nic}"), &up(true))?))?
    }

    /// Takes a NIC's carrier away, and gives it back after this long.
    ///
    /// # Errors
    /// When it is not plugged in.
    pub fn bounce(&self, nic: usize, down: Duration) -> Result<()> {
        let link = format!("nic{nic}");
        let again = link.clone();
        self.call(move |inside| inside.rtnl.change_named(&link, &up(false)))??;
        std::thread::sleep(down);
        self.call(move |inside| inside.rtnl.change_named(&again, &up(true)))??;
        Ok(())
    }

    /// Takes a NIC out: its device disappears from the guest.
    ///
    /// # Errors
    /// When it is not plugged in.
    pub fn unplug(&self, nic: usize) -> Result<()> {
        self.call(move |inside| {
            inside.cables[nic] = None;
            Ok(inside.rtnl.delete(&format!("nic{nic}"))?)
        })?
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(t) = self.thread.take() {
            let _ = t.join();
        }
    }
}

fn host_handle() -> Result<Netns> {
    Ok(Netns::current()?)
}

impl Inside {
    fn new(
        host: Netns,
        guest: Netns,
        world: &Netns,
        networks: Option<[CheckedNetwork; 2]>,
        dir: &std::path::Path,
    ) -> Result<Self> {
        let mut rtnl = Rtnl::open()?;
        let mut outside = Rtnl::open_in(world)?;
        for i in 0..2 {
            let (near, far) = (format!("up{i}"), format!("far{i}"));
            let peer =
                VethPeer { name: &far, netns: Some(std::os::fd::AsFd::as_fd(world)), mac: None, mtu: Some(9216) };
            let change = LinkChange { mtu: Some(9216), ..up(true) };
            rtnl.create(&NewLink { name: &near, kind: LinkKind::Veth { peer }, change })?;
            outside.change_named(&far, &up(true))?;
        }
        let (guard, far, doors) = match &networks {
            None => {
                let end = |i: u32| -> Result<End> { End::device(Rtnl::open()?.index(&format!("up{i}"))?) };
                (Guard::new(Arc::new(|_, _| {})), [end(0)?, end(1)?], None)
            }
            Some(n) => {
                let (guard, far, doors) = data_plane(host, n, dir)?;
                (guard, far, Some(doors))
            }
        };
        if let Some(n) = &networks {
            for i in (0..2).filter(|i| n[*i].dhcp.contains(&multihome_model::DhcpMode::Guard)) {
                guard.put_ear(&networks::key(i), rtnl.index(&format!("up{i}"))?)?;
            }
        }
        Ok(Self {
            rtnl,
            guest,
            server: Server::new(),
            server6: Server6::new(),
            guard,
            networks,
            identifiers: None,
            doors,
            far,
            cables: [None, None],
        })
    }

    fn plug(&mut self, nic: usize, carrier: bool, late: Duration) -> Result<()> {
        let (near, name) = (format!("nic{nic}"), format!("eth{nic}"));
        let peer = VethPeer {
            name: &name,
            netns: Some(std::os::fd::AsFd::as_fd(&self.guest)),
            mac: Some(networks::mac(nic).0),
            mtu: None,
        };
        let index = self.rtnl.create(&NewLink { name: &near, kind: LinkKind::Veth { peer }, change: up(carrier) })?;
        self.cables[nic] = Some(Cable::new(End::device(index)?, self.far[nic].clone(), late));
        Ok(())
    }

    /// Guests may use the addresses that they form.
    fn let_pass(&self, nics: &BTreeSet<Arc<str>>) {
        for nic in nics {
            if let (Some(doors), Some(view)) = (&self.doors, self.guard.view(nic)) {
                doors.open(nic, &view.formed.iter().map(|a| IpAddr::V6(*a)).collect());
            }
        }
    }

    fn tell(&mut self, plan: &RoutePlan) -> Result<()> {
        let Some(networks) = &self.networks else { return Ok(()) };
        for (i, spec) in networks.iter().enumerate() {
            let (nic, key) = (networks::NICS[i], networks::key(i));
            let p = plan.nic(nic).ok_or("no plan for the NIC")?;
            let tap = self.rtnl.index(tap_name(nic).as_str())?;
            let mac = names::derived_mac(&format!("gateway {}", networks::uid(i)), 0);
            let (server, answers_arp) = match spec.ipv4.as_ref().and_then(|s| s.gateway) {
                Some(IpAddr::V4(a)) => (a, false),
                _ => (Ipv4Addr::new(169, 254, 169, 253), true),
            };
            let server = self.identifiers.map_or(server, |a| a[i]);
            match v4::Record::new(p, Some("race"), server) {
                Some(record) => {
                    self.server.put_record(nic, &key, record, None);
                    self.server.put_port(nic, tap, mac, answers_arp)?;
                }
                None => self.server.remove_record(nic),
            }
            let router = match spec.ipv6.as_ref().and_then(|s| s.gateway) {
                Some(IpAddr::V6(a)) => a,
                _ => mac.link_local(),
            };
            if let Some(advertisement) = Advertisement::new(p, None) {
                let record = v6::Record::new(p, mac);
                self.server6.put(nic, Said { record, advertisement, router, server_mac: mac });
                self.server6.put_port(nic, tap)?;
            }
            let on_secondary = [Family::IPv4, Family::IPv6].map(|f| spec.subnet(f).is_some_and(|s| s.dns_on_secondary));
            if let Some(role) = Role::new(p, on_secondary) {
                self.guard.put_nic(nic, &key, role, None);
                self.guard.put_tap(nic, tap)?;
            }
        }
        Ok(())
    }
}

/// Bridges, taps and port security as the node plan has them, and a guard that opens ports in it.
fn data_plane(
    host: Netns,
    networks: &[CheckedNetwork; 2],
    dir: &std::path::Path,
) -> Result<(Guard, [End; 2], Arc<Doors>)> {
    let config = Config {
        host,
        netns_prefix: String::new(),
        state_dir: dir.join("state"),
        tap_owner: None,
        capabilities: capabilities()?,
    };
    let mut kernel = Kernel::open(config)?;
    let wanted = build(&networks::node_input(networks));
    let failures = kernel.apply(&diff(&NodeState::default(), &wanted));
    if let Some(f) = failures.first() {
        return Err(format!("{f}: {}", f.error).into());
    }
    // A program that another thread starts at this moment holds what made the tap a little longer.
    let open = |kernel: &Kernel, i: usize| -> Result<End> {
        let taps = crate::wait_for("an open tap", 5, || Ok(kernel.open_tap(&tap_name(networks::NICS[i]), 1).ok()))?;
        End::tap(taps.into_iter().next().ok_or("a tap without a queue")?)
    };
    let far = [open(&kernel, 0)?, open(&kernel, 1)?];
    let doors = Arc::new(Doors(Mutex::new((kernel, wanted.ports))));
    let keeper = doors.clone();
    let guard = Guard::new(Arc::new(move |nic: &str, passage: &Passage| keeper.open(nic, &passage.addresses)));
    Ok((guard, far, doors))
}

/// Port security, which lets more addresses pass when guests get them from others or form them.
struct Doors(Mutex<(Kernel, BTreeMap<IfName, Port>)>);

impl Doors {
    /// Lets a NIC have these addresses besides those that it has.
    fn open(&self, nic: &str, addresses: &BTreeSet<IpAddr>) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (kernel, ports) = &mut *inner;
        let tap = tap_name(nic);
        let Some(port) = ports.get_mut(&tap) else { return };
        let Security::Strict { ipv4, ipv6, .. } = &mut port.security else { return };
        for a in addresses {
            match a {
                IpAddr::V4(a) => ipv4.insert(*a),
                IpAddr::V6(a) => ipv6.insert(*a),
            };
        }
        for f in kernel.apply(&[Step::PutPort(tap, port.clone())]) {
            eprintln!("race: {f}: {}", f.error);
        }
    }
}
