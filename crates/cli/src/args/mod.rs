//! The command line.

mod networks;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use multihome_guest::Dialect;

pub use self::networks::*;

/// Any number of networks per virtual machine, exactly one default route.
#[derive(Debug, Parser)]
#[command(name = "multihome", version, about, propagate_version = true, arg_required_else_help = true)]
pub struct Cli {
    /// Kubeconfig of the API. Default: $KUBECONFIG, else `kubeconfig` in the data directory
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Where `serve` keeps its database, credentials, images and running VMs
    #[arg(long, global = true, value_name = "DIR", env = "MULTIHOME_DATA_DIR", hide_env_values = true, default_value = crate::client::DATA_DIR)]
    pub data_dir: PathBuf,
    /// Namespace of the objects
    #[arg(short, long, global = true, default_value = "default")]
    pub namespace: String,
    /// Put before the names of routing domains' namespaces, where several nodes share a machine
    #[arg(long, global = true, hide = true, env = "MULTIHOME_NETNS_PREFIX", default_value = "")]
    pub netns_prefix: String,
    /// Say more on standard error; twice for everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the API, the controllers and this machine's node agent, all in one process
    Serve(Serve),
    /// Run this machine's node agent alone, for the API of another `serve` or of a Kubernetes cluster (--kubeconfig)
    Agent(AgentArgs),
    /// Run the controllers alone, for the API of a Kubernetes cluster (--kubeconfig), and the admission webhook
    Controller(Controller),
    /// Create or change what manifests describe
    Apply(Apply),
    /// List objects
    Get(Get),
    /// Show one object with what happened to it
    Describe(Named),
    /// Remove objects; says which
    Delete(Delete),
    /// Networks
    #[command(subcommand)]
    Network(NetworkCommand),
    /// NICs
    #[command(subcommand)]
    Nic(NicCommand),
    /// Security groups: what NICs may open, and what may be opened towards them
    #[command(subcommand)]
    Group(GroupCommand),
    /// Virtual machines
    #[command(subcommand)]
    Vm(VmCommand),
    /// What a guest's own configuration should say
    #[command(subcommand)]
    Guest(GuestCommand),
    /// Images in this node's store
    #[command(subcommand)]
    Image(ImageCommand),
    /// Say what is wrong, and how to mend it. Exit code 0: nothing; 1: findings; 2: could not look
    Doctor(Doctor),
    /// Show how one NIC came to be what it is, with times
    Trace(Trace),
    /// Compute what manifests would lead to, without a server and without root
    Plan(Plan),
    /// Show what manifests would change on each node, and which NICs of which VMs that reaches, before it is done
    Diff(Diff),
    /// Print a completion script for a shell
    Completion(Completion),
    /// Print the CustomResourceDefinitions, for Kubernetes
    Crds,
    /// Remove everything from this node: VMs, devices, namespaces, tables. Not while `serve` runs
    Teardown(Teardown),
    /// Run the main job end to end: a VM on three networks, with one default route
    #[command(hide = true)]
    Demo(Demo),
    /// Print the reference pages
    #[command(hide = true)]
    ReferenceDocs(ReferenceDocs),
}

/// `serve`
#[derive(Debug, Args)]
pub struct Serve {
    /// Address to listen on, with TLS. On loopback it is for this machine alone; on 0.0.0.0 or [::] other nodes can join
    #[arg(long, default_value = "127.0.0.1:7443")]
    pub listen: SocketAddr,
    /// The address that other nodes reach the API by, named in the kubeconfig for them. Default: the one listened on, or
    /// the tunnel address
    #[arg(long, value_name = "ADDRESS")]
    pub advertise: Option<IpAddr>,
    /// Run the API and the controllers without a node agent (no root needed)
    #[arg(long)]
    pub no_agent: bool,
    /// How the node takes part
    #[command(flatten)]
    pub node: NodeArgs,
}

/// `agent`
#[derive(Debug, Args)]
pub struct AgentArgs {
    /// How the node takes part
    #[command(flatten)]
    pub node: NodeArgs,
}

/// `controller`
#[derive(Debug, Args)]
pub struct Controller {
    /// Create or update in the API what Multihome needs there first: the CustomResourceDefinitions, and with --webhook the
    /// webhook's registration. Definitions that somebody else installed stay as they are
    #[arg(long)]
    pub install: bool,
    /// Address that the admission webhook listens on, with TLS; without it, what cannot work is not refused but shown in
    /// conditions
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub webhook: Option<SocketAddr>,
    /// How the API reaches the webhook: an address, a DNS name, or NAME.NAMESPACE.svc for a Service. Default: the address
    /// listened on, or the one that the API is reached from
    #[arg(long, value_name = "HOST", requires = "webhook")]
    pub webhook_host: Option<String>,
}

/// What moves the frames of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Dataplane {
    /// The kernel where it has VLANs, else Open vSwitch where it runs, else the kernel
    Auto,
    /// The kernel's bridges
    Kernel,
    /// Open vSwitch
    Ovs,
}

/// What a node agent is told.
#[derive(Debug, Args)]
pub struct NodeArgs {
    /// This node's name. Default: the host name
    #[arg(long)]
    pub node_name: Option<String>,
    /// This node's address that tunnels to other nodes start from. Default: the one that the default route leaves by, or
    /// the API is reached from
    #[arg(long, value_name = "ADDRESS")]
    pub tunnel_address: Option<IpAddr>,
    /// What moves the frames of this node: the kernel's bridges, or Open vSwitch. auto takes the kernel where it has VLANs, else
    /// Open vSwitch where it runs, else the kernel
    #[arg(long, value_enum, default_value_t = Dataplane::Auto, value_name = "ENGINE")]
    pub dataplane: Dataplane,
    /// The socket of Open vSwitch's database; those of its bridges are in the same directory
    #[arg(long, value_name = "PATH", default_value = "/var/run/openvswitch/db.sock")]
    pub ovs_database: PathBuf,
    /// QEMU's program
    #[arg(long, default_value = "qemu-system-x86_64")]
    pub qemu: PathBuf,
}

/// `apply`
#[derive(Debug, Args)]
pub struct Apply {
    /// Manifest, YAML or JSON, several documents allowed; - for standard input
    #[arg(short, long, required = true, value_name = "FILE")]
    pub filename: Vec<PathBuf>,
    /// Ask the server what it would do, and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A table
    Table,
    /// A table with more columns
    Wide,
    /// JSON
    Json,
    /// YAML
    Yaml,
    /// Names only
    Name,
}

/// `get`
#[derive(Debug, Args)]
pub struct Get {
    /// Kinds, comma-separated: net, nic, vm, vmi, vpc, sg, cn, claim, node, ns, events …
    pub kind: String,
    /// One object by name
    pub name: Option<String>,
    /// Objects of all namespaces
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    /// How to print
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Format,
    /// Only objects with these labels
    #[arg(short = 'l', long)]
    pub selector: Option<String>,
}

/// An object by kind and name: `nic web-mgmt` or `nic/web-mgmt`.
#[derive(Debug, Args)]
pub struct Named {
    /// Kind, or KIND/NAME
    pub kind: String,
    /// Name
    pub name: Option<String>,
}

/// `delete`
#[derive(Debug, Args)]
pub struct Delete {
    /// Kind, or KIND/NAME
    #[arg(required_unless_present = "filename")]
    pub kind: Option<String>,
    /// Names
    pub names: Vec<String>,
    /// Remove what a manifest describes, last document first
    #[arg(short, long, value_name = "FILE", conflicts_with = "kind")]
    pub filename: Vec<PathBuf>,
    /// Do not wait until they are gone
    #[arg(long)]
    pub no_wait: bool,
}

/// `vm …`
#[derive(Debug, Subcommand)]
pub enum VmCommand {
    /// List VMs
    List(ListArgs),
    /// Start a VM
    Start(NameArg),
    /// Stop a VM; its NICs keep MAC and addresses
    Stop(NameArg),
    /// Let the guest reboot; reset it if it does not
    Reboot(NameArg),
    /// Reset a VM, as by its reset button
    Reset(NameArg),
    /// Run a program in the guest by its agent (on the VM's node, as root)
    Exec(VmExec),
    /// Remove a VM and the NICs that came with it
    Delete(NameArg),
}

/// `vm exec`
#[derive(Debug, Args)]
pub struct VmExec {
    /// VM
    pub name: String,
    /// Program and arguments, after --
    #[arg(last = true, required = true)]
    pub command: Vec<String>,
}

/// `guest …`
#[derive(Debug, Subcommand)]
pub enum GuestCommand {
    /// Print a VM's network configuration in the dialect of what configures its guest
    Config(GuestConfig),
}

/// `guest config`
#[derive(Debug, Args)]
pub struct GuestConfig {
    /// vm/NAME. With --filename, default: the only VM there
    #[arg(required_unless_present = "filename")]
    pub target: Option<String>,
    /// What configures the guest's network
    #[arg(long, value_parser = dialects())]
    pub dialect: Dialect,
    /// Take the VM from a manifest instead of the API; - for standard input
    #[arg(short, long, value_name = "FILE")]
    pub filename: Vec<PathBuf>,
    /// How to print
    #[arg(short, long, value_enum, default_value = "text")]
    pub output: TextFormat,
    /// Write the files below this directory instead of printing them
    #[arg(long, value_name = "DIR")]
    pub write_to: Option<PathBuf>,
}

/// How to print files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TextFormat {
    /// As they are, each below its path
    Text,
    /// JSON
    Json,
}

fn dialects() -> impl TypedValueParser<Value = Dialect> {
    PossibleValuesParser::new(Dialect::ALL.map(Dialect::name)).try_map(|s| s.parse::<Dialect>())
}

/// `image …`
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Copy a disk, or a kernel with its initramfs, into the store
    Import(ImageImport),
    /// List images
    List {
        /// How to print
        #[arg(short, long, value_enum, default_value = "table")]
        output: Format,
    },
    /// Remove an image
    Rm(NameArg),
}

/// `image import`
#[derive(Debug, Args)]
pub struct ImageImport {
    /// Name, as a container image's: quay.io/containerdisks/debian:12
    pub name: String,
    /// A disk, qcow2 or raw
    #[arg(long, conflicts_with = "kernel", required_unless_present = "kernel")]
    pub disk: Option<PathBuf>,
    /// A kernel
    #[arg(long)]
    pub kernel: Option<PathBuf>,
    /// Its initramfs
    #[arg(long, requires = "kernel")]
    pub initramfs: Option<PathBuf>,
    /// Its command line
    #[arg(long, default_value = "", requires = "kernel")]
    pub cmdline: String,
}

/// `doctor`
#[derive(Debug, Args)]
pub struct Doctor {
    /// vm/NAME, vm for every VM of the namespace, net/NAME, or node/NAME. Default: this machine itself, without a server
    pub target: Option<String>,
    /// How to print: table or json
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Format,
    /// This machine: how to look at it and what to do about it
    #[command(flatten)]
    pub machine: DoctorMachine,
}

/// `doctor` without a target, and `doctor node/NAME`
#[derive(Debug, Default, Args)]
pub struct DoctorMachine {
    /// The NIC that is to hold the default route
    #[arg(long, value_name = "IFACE")]
    pub primary: Option<String>,
    /// NICs that share a subnet on purpose, such as iSCSI ports; may be given several times
    #[arg(long, value_name = "IFACE,IFACE")]
    pub bound: Vec<String>,
    /// Send nothing: do not ask gateways, and do not look for doubled addresses and path MTU
    #[arg(long)]
    pub no_probe: bool,
    /// Read configuration, leases and run files below this directory
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub root: PathBuf,
    /// Judge an observation that was saved, instead of this machine
    #[arg(long, value_name = "FILE", conflicts_with_all = ["fix", "undo", "save"])]
    pub from: Option<PathBuf>,
    /// Save what was observed, without secrets, for somebody else to judge
    #[arg(long, value_name = "FILE")]
    pub save: Option<PathBuf>,
    /// Show each cure and apply it; taken back if the machine loses its gateway
    #[arg(long)]
    pub fix: bool,
    /// Apply without asking
    #[arg(long, requires = "fix")]
    pub yes: bool,
    /// Take back everything that --fix did
    #[arg(long, conflicts_with = "fix")]
    pub undo: bool,
    /// How long --fix watches the gateway, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30, requires = "fix")]
    pub watch: u64,
    /// Print a layout with one routing table per role: management=eth0,storage=eth1,iscsi=eth2:eth3
    #[arg(long, value_name = "ROLE=IFACE,…", conflicts_with_all = ["fix", "undo"])]
    pub layout: Option<String>,
    /// How the layout keeps roles apart. Default: VRFs where kernel and dialect have them, else rules
    #[arg(long, value_enum, requires = "layout")]
    pub style: Option<LayoutStyle>,
}

/// How routing tables are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LayoutStyle {
    /// A VRF device per role
    Vrf,
    /// Rules on source addresses
    Rules,
}

/// `trace`
#[derive(Debug, Args)]
pub struct Trace {
    /// nic/NAME
    pub target: String,
}

/// `plan`
#[derive(Debug, Args)]
pub struct Plan {
    /// Manifest; - for standard input
    #[arg(short, long, required = true, value_name = "FILE")]
    pub filename: Vec<PathBuf>,
    /// Also print the steps on a node of this name that carries all of it
    #[arg(long)]
    pub node: Option<String>,
    /// How to print: table or json
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Format,
}

/// `diff`
#[derive(Debug, Args)]
pub struct Diff {
    /// Manifest; - for standard input
    #[arg(short, long, required = true, value_name = "FILE")]
    pub filename: Vec<PathBuf>,
    /// Only this node
    #[arg(long)]
    pub node: Option<String>,
    /// How to print: table or json
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Format,
}

/// `completion`
#[derive(Debug, Args)]
pub struct Completion {
    /// The shell
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

/// `teardown`
#[derive(Debug, Args)]
pub struct Teardown {
    /// Remove the data directory, too: database, credentials, images
    #[arg(long)]
    pub purge: bool,
}

/// `demo`
#[derive(Debug, Args)]
pub struct Demo {
    /// The manifest of the demo
    #[arg(long, default_value = "examples/three-networks.yaml")]
    pub manifest: PathBuf,
    /// The manifest of a network whose DHCP server and router are somebody else's
    #[arg(long, default_value = "examples/foreign-network.yaml")]
    pub foreign: PathBuf,
}

/// `reference-docs`
#[derive(Debug, Args)]
pub struct ReferenceDocs {
    /// Where to write them
    pub dir: PathBuf,
}
