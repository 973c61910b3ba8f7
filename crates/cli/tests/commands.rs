//! Every command's output, against the embedded API with its controllers and no node.
#![allow(clippy::unwrap_used)]

mod support;

use clap::Parser;
use multihome::{Cli, Output};
use support::{Server, Shared};

const NETWORKS: &str = "
apiVersion: multihome.io/v1alpha1
kind: Network
metadata: {name: mgmt}
spec: {type: Management, ipv4: {cidr: 10.1.0.0/24, gateway: 10.1.0.1, dns: [10.1.0.53]}}
---
apiVersion: multihome.io/v1alpha1
kind: Network
metadata: {name: tiny}
spec: {type: Management, ipv4: {cidr: 10.2.0.0/30, gateway: 10.2.0.1}}
---
apiVersion: multihome.io/v1alpha1
kind: Network
metadata: {name: vlan}
spec: {type: Vlan, vlan: {id: 100}, ipv4: {cidr: 10.3.0.0/24, gateway: 10.3.0.1, dhcp: None}}
---
apiVersion: kubevirt.io/v1
kind: VirtualMachine
metadata: {name: web}
spec:
  running: false
  template:
    spec:
      domain: {devices: {interfaces: [{name: mgmt, bridge: {}}, {name: vlan, bridge: {}}]}}
      networks: [{name: mgmt, pod: {}}, {name: vlan, multus: {networkName: vlan}}]
";

/// One management network only, so that `pod` means it.
fn networks() -> String {
    NETWORKS
        .replace("metadata: {name: mgmt}", "metadata: {name: mgmt, annotations: {multihome.io/pod-network: \"true\"}}")
}

macro_rules! snapshot {
    ($name:expr, $text:expr) => {{
        let text: String = $text;
        insta::with_settings!({filters => vec![
            // First: its last part may look like a MAC.
            (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "<UID>"),
            (r"02(:[0-9a-f]{2}){5}", "<MAC>"),
            (r"02[0-9a-f]{10}", "<MAC>"),
            (r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}(\.[0-9]+)?Z", "<TIME>"),
            (r"resourceVersion: \S+", "resourceVersion: <VERSION>"),
            (r#""resourceVersion": "[0-9]+""#, r#""resourceVersion": "<VERSION>""#),
            // Columns are as wide as what stands in them.
            (r"\b[0-9]+(s|ms|m)\b  +", "<AGE> "),
            (r"\b[0-9]+(s|ms|m)\b", "<AGE>"),
        ], prepend_module_to_snapshot => false}, { insta::assert_snapshot!($name, text) });
    }};
}

#[tokio::test(flavor = "multi_thread")]
async fn the_life_of_networks_and_nics() {
    let s = Server::start().await;
    let mut text = s.apply(&networks()).await;
    text += &s.apply(&networks()).await;
    snapshot!("apply", text);
    s.until("multihome get nic web-vlan -o yaml", "address: 10.3.0.2").await;
    s.until("multihome get nic web-mgmt -o yaml", "address: 10.1.0.2").await;
    snapshot!("get-net", s.run("multihome get net").await);
    snapshot!("get-nic-name", s.run("multihome get nic -o name").await);
    snapshot!("get-several", s.run("multihome get vm,vmi").await);
    snapshot!("get-json", s.run("multihome get claim mgmt.10-1-0-2 -o json").await);
    snapshot!("network-create", s.run("multihome network create backup --cidr 10.9.0.0/24 --lease 600").await);
    s.until("multihome get net backup -o yaml", "mtu: 1500").await;
    snapshot!("network-list", s.run("multihome network list -A").await);
    snapshot!("nic-create", s.run("multihome nic create --network backup --vm web --address 10.9.0.9").await);
    s.until("multihome get nic web-backup -o yaml", "address: 10.9.0.9/24").await;
    snapshot!("set-primary", s.run("multihome nic set-primary web-backup").await);
    s.until("multihome get nic web-backup -o yaml", "- IPv4").await;
    snapshot!("nic-on-change", s.run("multihome nic on-change web-backup bounce-link").await);
    snapshot!("nic-link", s.run("multihome nic link web-backup down").await);
    snapshot!("nic-list", s.run("multihome nic list").await);
    snapshot!("nic-yaml", s.run("multihome get nic web-backup -o yaml").await);
    snapshot!("get-wide", s.run("multihome get net -o wide").await);
    snapshot!("describe", s.run("multihome describe nic web-vlan").await);
    snapshot!("trace", s.run("multihome trace nic/web-vlan").await);
    snapshot!("vm-list", s.run("multihome vm list").await);
    let mut text = String::new();
    for line in [
        "vm/web --dialect networkd",
        "vm/web --dialect ifcfg-suse -o json",
        "vm/nobody --dialect ip",
        "web --dialect ip",
    ] {
        text += &format!("$ multihome guest config {line}\n");
        text += &s.run(&format!("multihome guest config {line}")).await;
    }
    snapshot!("guest-config", text);
    snapshot!("vm-exec-stopped", s.run("multihome vm exec web -- true").await);
    snapshot!("vm-reset-stopped", s.run("multihome vm reset web").await);
    snapshot!("vm-reboot-stopped", s.run("multihome vm reboot web").await);
    snapshot!("doctor-stopped", s.run("multihome doctor vm").await);
    snapshot!("doctor-json", s.run("multihome doctor vm/web -o json").await);
    snapshot!("doctor-nobody", s.run("multihome doctor vm/nobody").await);
    snapshot!("network-delete-used", s.run("multihome network delete backup").await);
    snapshot!("nic-detach", s.run("multihome nic detach web-backup").await);
    snapshot!("nic-attach", s.run("multihome nic attach web-backup --vm web").await);
    snapshot!("nic-delete", s.run("multihome nic delete web-backup").await);
    snapshot!("network-delete", s.run("multihome network delete backup").await);
    // What no node can do yet says so.
    s.apply("apiVersion: multihome.io/v1alpha1\nkind: Network\nmetadata: {name: other}\nspec: {type: Cni}\n").await;
    s.until("multihome get net other -o wide", "NotOffered").await;
    // A trunk has no subnet of its own, and a NIC on it no address.
    s.run("multihome network create trunk --type vlantrunk --vlan 5 --trunk 100-200,300").await;
    s.until("multihome get net-attach-def trunk -o yaml", "network.harvesterhci.io/ready: \"true\"").await;
    s.run("multihome nic create carries --network trunk").await;
    s.until("multihome get nic carries -o yaml", "reason: Claimed").await;
    snapshot!("nic-of-trunk", s.run("multihome get nic carries").await);
    snapshot!("vm-start", s.run("multihome vm start web").await);
    s.until("multihome get vm web -o yaml", "printableStatus: Starting").await;
    s.until("multihome get vmi web -o yaml", "Unschedulable").await;
    snapshot!("doctor-not-running", s.run("multihome doctor vm/web").await);
    snapshot!("vm-stop", s.run("multihome vm stop web").await);
    s.until("multihome get vmi", "no virtualmachineinstances").await;
    snapshot!("delete-dry", s.run("multihome delete nic").await);
    snapshot!("vm-delete", s.run("multihome vm delete web").await);
    snapshot!("get-nothing", s.run("multihome get vm").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_life_of_groups() {
    let s = Server::start().await;
    s.apply(include_str!("../../../examples/security-groups.yaml")).await;
    s.until("multihome get sg no-mail -o yaml", "nics: 2").await;
    let mut text = String::new();
    for line in [
        "group create admins",
        "group create ssh --ingress \"tcp 22 from 10.50.0.0/16,group:admins\" --egress \"deny udp 53 to 10.0.0.0/8\"",
        "group create wrong --ingress \"tcp 22 of me\"",
        "group create wrong --ingress \"http 80\"",
        "nic policies web-shop front ssh",
        "nic policies web-shop nowhere",
        "nic create loud --network shop --promiscuous --policy ssh",
        "network create strict --cidr 10.61.0.0/24 --policy no-mail --default-egress deny",
        "network create trunk --type vlantrunk --trunk 100 --policy no-mail",
        "group delete front",
        "delete sg ssh",
    ] {
        text += &format!("$ multihome {line}\n{}\n", s.run(&format!("multihome {line}")).await);
    }
    snapshot!("groups", text);
    s.until("multihome get sg ssh -o yaml", "nics: 2").await;
    s.until("multihome get sg no-mail -o yaml", "nics: 3").await;
    for group in ["admins", "database", "front"] {
        s.until(&format!("multihome get sg {group} -o yaml"), "type: Ready").await;
    }
    snapshot!("group-list", s.run("multihome group list").await);
    s.until("multihome get nic loud -o yaml", "type: PortSecured").await;
    s.until("multihome describe nic loud", "PortOpened").await;
    // A group whose peer is missing says so, and is ready once that is there.
    s.run("multihome group create later --ingress \"any from group:sooner\"").await;
    s.until("multihome get sg later -o yaml", "SecurityGroup default/sooner does not exist, so that nobody is in it")
        .await;
    s.run("multihome group create sooner").await;
    s.until("multihome get sg later -o yaml", "its rules are enforced at every NIC that is in it").await;
    s.run("multihome nic policies loud").await;
    s.run("multihome nic policies web-shop front").await;
    s.until("multihome get sg ssh -o yaml", "nics: 0").await;
    snapshot!("group-delete", s.run("multihome group delete ssh").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_says_which_groups_its_nics_are_in() {
    let s = Server::start().await;
    s.apply(include_str!("../../../examples/security-groups.yaml")).await;
    let machine = |annotations: &str| {
        format!(
            "apiVersion: kubevirt.io/v1
kind: VirtualMachine
metadata: {{name: app, annotations: {{{annotations}}}}}
spec:
  running: false
  template:
    spec:
      domain: {{devices: {{interfaces: [{{name: eth1, bridge: {{}}}}]}}, resources: {{requests: {{memory: 128Mi}}}}}}
      networks: [{{name: eth1, multus: {{networkName: shop}}}}]
"
        )
    };
    s.apply(&machine("multihome.io/policies: 'front, no-mail'")).await;
    s.until("multihome get nic app-eth1 -o yaml", "  - front\n  - no-mail").await;
    s.apply(&machine("multihome.io/policies: front, policies.multihome.io/eth1: database")).await;
    s.until("multihome get nic app-eth1 -o yaml", "policies:\n  - database\n").await;
    s.apply(&machine("policies.multihome.io/eth1: ''")).await;
    s.until("multihome get sg database -o yaml", "nics: 1").await;
    // And rates, by the names that pods have.
    s.apply(&machine("kubernetes.io/egress-bandwidth: 10M, kubernetes.io/ingress-bandwidth: 1G")).await;
    s.until("multihome get nic app-eth1 -o yaml", "bandwidth:\n    ingress: 1G\n    egress: 10M\n").await;
    s.apply(&machine("kubernetes.io/egress-bandwidth: 10M, egress-bandwidth.multihome.io/eth1: 20M")).await;
    s.until("multihome get nic app-eth1 -o yaml", "bandwidth:\n    ingress: 1G\n    egress: 20M\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused() {
    let s = Server::start().await;
    s.apply(&networks()).await;
    s.until("multihome get nic web-mgmt -o yaml", "address: 10.1.0.2").await;
    s.until("multihome get nic web-mgmt -o yaml", "mac: ").await;
    s.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: other}\n").await;
    let mut text = String::new();
    for line in [
        "network create v --type vlan --vlan 4095",
        "network create v --type vlan --vlan 100",
        "network create v --type vlantrunk",
        "network create v --type vlantrunk --vlan 150 --trunk 100-200",
        "network create v --type vlantrunk --trunk 200-100",
        "network create v --type vlantrunk --trunk 100-all",
        "network create v --type vlantrunk --trunk 100 --cidr 10.0.0.0/24",
        "network create n --cidr 10.0.0.1/24",
        "network create n --cidr 10.0.0/24",
        "network create n --cidr 10.0.0.0/24 --gateway 10.0.1.1",
        "network create n --cidr 10.0.0.0/24 --mtu 500",
        "network create n --cidr fd00::/64 --mtu 1000",
        "network create n --cidr 10.0.0.0/24 --mtu 9000",
        "network create Not_A_Label --cidr 10.0.0.0/24",
        "network create n --type tunnel",
        "nic create x --network nowhere",
        "nic create x --network mgmt --vm nobody",
        "nic create x --network mgmt --vm web",
        "nic create x --network mgmt --address 10.7.0.1",
        "nic create x --network mgmt --address 10.1.0.1",
        "nic create x --network mgmt --address 10.1.0.0",
        "nic create x --network mgmt --address 10.1.0.255",
        "nic create x --network mgmt --address 10.1.0.2",
        "nic create x --network mgmt --address somewhere",
        "nic create x --network mgmt --mac 01:00:5e:00:00:01",
        "nic create x --network mgmt --mac 02:00",
        "nic create UPPER --network mgmt",
        "nic create --network mgmt",
        "nic set-primary nobody",
        "delete net mgmt",
        "delete cn mgmt",
        "delete net nowhere",
        "get pods",
        "doctor node/x",
        "doctor web",
        "trace vm/web",
    ] {
        text += &format!("$ multihome {line}\n{}\n", s.run(&format!("multihome {line}")).await);
    }
    // The VLAN of another namespace.
    let there = "apiVersion: multihome.io/v1alpha1\nkind: Network\nmetadata: {name: v, namespace: other}\nspec: {type: Vlan, vlan: {id: 100}}\n";
    text += &format!("$ multihome apply -f -\n{}\n", s.apply(there).await);
    // An exhausted pool says how many addresses there are and who could be freed.
    s.run("multihome nic create only --network tiny").await;
    s.until("multihome get nic only -o yaml", "address: 10.2.0.2").await;
    text += &format!(
        "$ multihome nic create more --network tiny\n{}\n",
        s.run("multihome nic create more --network tiny").await
    );
    // A copy is not copied again, whichever of both mirrors comes first; one whose target is missing is taken.
    for line in [
        "nic mirror only --to only",
        "nic mirror only --to other/nic",
        "nic mirror only --to later",
        "nic create later --network mgmt",
        "nic mirror later --to web-mgmt",
        "nic mirror web-mgmt --to only",
        "nic mirror only --to later --direction egress",
        "nic mirror only --off",
        "nic mirror later --to web-mgmt",
    ] {
        text += &format!("$ multihome {line}\n{}\n", s.run(&format!("multihome {line}")).await);
    }
    // Two primaries, and a MAC that is taken.
    s.run("multihome nic create a --network tiny --mac 02:00:00:00:00:aa").await;
    snapshot!("refused", text);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_manifests_are_refused() {
    let s = Server::start().await;
    s.apply(&networks()).await;
    s.until("multihome get nic web-mgmt -o yaml", "address: 10.1.0.2").await;
    let nic = |name: &str, spec: &str| {
        format!(
            "apiVersion: multihome.io/v1alpha1\nkind: NetworkInterface\nmetadata: {{name: {name}}}\nspec: {spec}\n---\n"
        )
    };
    let net = |name: &str, spec: &str| {
        format!("apiVersion: multihome.io/v1alpha1\nkind: Network\nmetadata: {{name: {name}}}\nspec: {spec}\n---\n")
    };
    let vm = |interfaces: &str, networks: &str| {
        format!(
            "apiVersion: kubevirt.io/v1\nkind: VirtualMachine\nmetadata: {{name: other}}\nspec: {{running: false, template: {{spec: {{domain: {{devices: {{interfaces: {interfaces}}}}}, networks: {networks}}}}}}}\n---\n"
        )
    };
    s.apply(&net("extra", "{type: Management, ipv4: {cidr: 10.5.0.0/24, gateway: 10.5.0.1}}")).await;
    s.apply(&nic("first", "{network: extra, vm: web, primary: true, mac: \"02:00:00:00:00:01\"}")).await;
    let mut text = String::new();
    for (what, manifest) in [
        ("a misspelt field", nic("x", "{network: mgmt, primry: true}")),
        ("a wrong type", nic("x1", "{network: mgmt, primary: maybe}")),
        ("a second primary", nic("x2", "{network: tiny, vm: web, primary: true}")),
        ("a MAC that is taken", nic("x3", "{network: extra, mac: \"02:00:00:00:00:01\"}")),
        (
            "overlapping subnets in one VM",
            net("overlap", "{type: Management, ipv4: {cidr: 10.5.0.0/25, gateway: 10.5.0.1}}")
                + &nic("x4", "{network: overlap, vm: web}"),
        ),
        (
            "a default route as a route",
            net("x", "{type: Management, ipv4: {cidr: 10.6.0.0/24, gateway: 10.6.0.1, routes: [{to: 0.0.0.0/0}]}}"),
        ),
        (
            "an address outside the pools",
            net(
                "pooled",
                "{type: Management, ipv4: {cidr: 10.8.0.0/24, gateway: 10.8.0.1, pools: [10.8.0.10-10.8.0.20], exclude: [10.8.0.15]}}",
            ) + &nic("x5", "{network: pooled, ipv4: {address: 10.8.0.30}}")
                + &nic("x6", "{network: pooled, ipv4: {address: 10.8.0.15}}"),
        ),
        ("an interface without a network", vm("[{name: a, bridge: {}}]", "[]")),
        ("a network without an interface", vm("[]", "[{name: a, pod: {}}]")),
        ("a network that does not exist", vm("[{name: a, bridge: {}}]", "[{name: a, multus: {networkName: nowhere}}]")),
        (
            "two NICs on one network",
            vm(
                "[{name: a, bridge: {}}, {name: b, bridge: {}}]",
                "[{name: a, multus: {networkName: vlan}}, {name: b, multus: {networkName: vlan}}]",
            ),
        ),
        ("another binding", vm("[{name: a, sriov: {}}]", "[{name: a, multus: {networkName: vlan}}]")),
        ("a kind that is not served", "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\n".to_owned()),
    ] {
        text += &format!("# {what}\n{}\n", s.apply(&manifest).await);
    }
    snapshot!("refused-manifests", text);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_of_floating_addresses() {
    let s = Server::start().await;
    let street = "apiVersion: multihome.io/v1alpha1\nkind: Network\nmetadata: {name: street}\nspec: {type: Untagged, clusterNetwork: mgmt, ipv4: {cidr: 198.18.0.0/24, gateway: 198.18.0.1, pools: [198.18.0.50-198.18.0.60]}}\n---\n";
    s.apply(street).await;
    let fip = |name: &str, rest: &str| {
        format!(
            "apiVersion: multihome.io/v1alpha1\nkind: FloatingIP\nmetadata: {{name: {name}}}\nspec: {{network: street, {rest}}}\n---\n"
        )
    };
    let many: Vec<String> = (0..33).map(|i| format!("web-{i}")).collect();
    let mut text = String::new();
    for (what, spec) in [
        ("no NIC at all", String::new()),
        ("a port that leads nowhere", "forwards: [{port: 80, nics: [a]}, {port: 81}]".into()),
        ("a NIC that is named twice", "forwards: [{port: 80, nics: [a, b, a]}]".into()),
        ("names and labels", "forwards: [{port: 80, nics: [a], nicSelector: {app: web}}]".into()),
        ("what is no label", "forwards: [{port: 80, nicSelector: {app: \"a b\"}}]".into()),
        ("more NICs than there may be", format!("forwards: [{{port: 80, nics: [{}]}}]", many.join(", "))),
        ("several NICs for a whole address", "nic: a, nics: [b]".into()),
        ("UDP without a port to ask", "nic: a, forwards: [{protocol: UDP, port: 53}], healthCheck: {}".into()),
        ("a whole address without a port to ask", "nic: a, healthCheck: {}".into()),
        (
            "numbers out of range",
            "nic: a, healthCheck: {port: 70000, interval: 0, timeout: 61, failures: 101, successes: 0}".into(),
        ),
        ("another algorithm", "nic: a, algorithm: LeastConnections".into()),
    ] {
        text += &format!("# {what}\n{}\n", s.apply(&fip("x", &spec)).await);
    }
    let good = "forwards: [{port: 80, nicSelector: {app: web}}, {port: 443, nics: [a, b]}], algorithm: Source, healthCheck: {interval: 1}";
    text += &format!("# what can be\n{}\n", s.apply(&fip("web", good)).await);
    s.until("multihome get fip web -o wide", "none of its 2 NICs").await;
    text += &s.run("multihome get fip web -o wide").await;
    snapshot!("refused-floating", text);
}

/// Runs a command that needs no API.
fn offline(line: &str) -> String {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let cli = Cli::try_parse_from(line.split_whitespace()).unwrap();
    let (data, rest) = (Shared::default(), Shared::default());
    let result = runtime.block_on(multihome::run(cli, &mut Output::to(data.clone(), rest.clone())));
    let mut text = String::from_utf8(data.0.lock().unwrap().clone()).unwrap();
    text += &String::from_utf8(rest.0.lock().unwrap().clone()).unwrap();
    match result {
        Ok(code) => text + &format!("(exit code {code})\n"),
        Err(e) => text + &format!("{e}\n(exit code {})\n", e.code()),
    }
}

#[test]
fn images() {
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk.img");
    std::fs::write(&disk, vec![7u8; 3 << 20]).unwrap();
    let (data, disk) = (dir.path().join("data"), disk.display().to_string());
    let mut text = String::new();
    for line in [
        "list".to_owned(),
        format!("import debian:12 --disk {disk}"),
        format!("import guest --kernel {disk} --initramfs {disk} --cmdline quiet"),
        "list".to_owned(),
        "list -o json".to_owned(),
        "rm guest".to_owned(),
        "rm guest".to_owned(),
        format!("import Not/A:Name! --disk {disk}"),
        "import other --disk /nowhere/disk.img".to_owned(),
    ] {
        text += &format!("$ multihome image {line}\n");
        text += &offline(&format!("multihome --data-dir {} image {line}", data.display()));
    }
    snapshot!("images", text.replace(&dir.path().display().to_string(), "DIR"));
}

#[test]
fn what_needs_no_server() {
    let completion = offline("multihome completion bash");
    assert!(completion.contains("_multihome()") && completion.contains("set-primary"));
    let crds = offline("multihome crds");
    let kinds: Vec<&str> = crds.lines().filter(|l| l.starts_with("  name: ")).collect();
    snapshot!("crds", kinds.join("\n"));
    let help = Cli::try_parse_from(["multihome", "--help"]).unwrap_err().to_string();
    snapshot!("help", help);
    snapshot!("no-kubeconfig", offline("multihome --kubeconfig /nowhere/kubeconfig get net"));
}

#[test]
fn guest_config_without_a_server() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/three-networks.yaml");
    let dir = tempfile::tempdir().unwrap();
    let below = dir.path().display().to_string();
    let mut text = String::new();
    for options in [
        "--dialect netplan".to_owned(),
        "--dialect cloud-init-v2".to_owned(),
        "vm/nobody --dialect netplan".to_owned(),
        format!("--dialect networkmanager --write-to {below}"),
    ] {
        text += &format!("$ multihome guest config {options}\n");
        text += &offline(&format!("multihome guest config {options} -f {path}"));
    }
    snapshot!("guest-config-offline", text.replace(&below, "DIR"));
    let keyfile = std::fs::read_dir(dir.path().join("etc/NetworkManager/system-connections")).unwrap().next().unwrap();
    let mode = std::os::unix::fs::PermissionsExt::mode(&keyfile.unwrap().metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let refused = Cli::try_parse_from(["multihome", "guest", "config", "vm/web", "--dialect", "systemd"]).unwrap_err();
    assert!(refused.to_string().contains("cloud-init-v1, cloud-init-v2, netplan, networkd"), "{refused}");
}

#[test]
fn plan_without_a_server() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/three-networks.yaml");
    let groups = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/security-groups.yaml");
    snapshot!("plan-policies", offline(&format!("multihome plan -f {groups} --node node1")));
    let lines = [format!("multihome plan -f {path} --node node1"), format!("multihome plan -f {path} -o json")];
    let text = lines.map(|l| offline(&l)).concat();
    insta::with_settings!({prepend_module_to_snapshot => false}, { insta::assert_snapshot!("plan", text) });
}

/// Which uplink a node has follows from its labels; one that nobody has described has none of those.
#[test]
fn plan_of_a_fabric_on_three_nodes() {
    let path = format!("{}/tests/fixtures/bond.yaml", env!("CARGO_MANIFEST_DIR"));
    let mut text = String::new();
    for node in ["bonded", "plain", "unknown"] {
        let said = offline(&format!("multihome plan -f {path} --node {node}"));
        text += said.split_once("Steps on").map(|(_, steps)| steps).unwrap();
    }
    insta::with_settings!({prepend_module_to_snapshot => false}, { insta::assert_snapshot!("plan-fabric", text) });
}

/// An observation of a guest that races: two DHCP NICs, two default routes with the same metric.
const TWO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/two-default-routes.json");

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_is_judged_from_its_observation() {
    let s = Server::start().await;
    let run = |args: &str| {
        let line = format!("multihome doctor --from {TWO} {args}");
        let s = &s;
        async move { s.run(&line).await.replace(TWO, "FILE") }
    };
    snapshot!("doctor-machine", run("").await);
    snapshot!("doctor-machine-json", run("-o json").await);
    snapshot!("doctor-machine-primary", run("--primary eth1").await);
    let mut text = String::new();
    for roles in
        ["management=eth0,storage=eth1", "management=eth0,storage=eth1 --style rules", "storage=eth7", "storage"]
    {
        text += &format!("$ multihome doctor --layout {roles}\n{}\n", run(&format!("--layout {roles}")).await);
    }
    snapshot!("doctor-layout", text);
    let refused = format!("{}{}", run("--primary eth9").await, s.run("multihome doctor --from /nonexistent").await);
    snapshot!("doctor-machine-refused", refused);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_node_cannot_be_examined_from_here() {
    use k8s_openapi::api::core::v1::Node;
    let s = Server::start().await;
    let api: kube::Api<Node> = kube::Api::all(s.ctx.client.clone());
    let node: Node = serde_json::from_value(serde_json::json!({"metadata": {"name": "far"}})).unwrap();
    api.create(&Default::default(), &node).await.unwrap();
    let status = serde_json::json!({"status": {
        "nodeInfo": {"bootID": "11111111-2222-3333-4444-555555555555", "architecture": "", "containerRuntimeVersion": "",
            "kernelVersion": "", "kubeProxyVersion": "", "kubeletVersion": "", "machineID": "", "operatingSystem": "",
            "osImage": "", "systemUUID": ""},
        "conditions": [
            {"type": "Ready", "status": "True", "message": "the agent runs and watches"},
            {"type": "Vlan", "status": "False", "message": "create vlan device probe-vl: Operation not supported"}]}});
    api.patch_status("far", &Default::default(), &kube::api::Patch::Merge(status)).await.unwrap();
    snapshot!("doctor-node-elsewhere", s.run("multihome doctor node/far").await);
    // This machine, by its boot id: it is examined, and what its kernel lacks is said.
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let here = serde_json::json!({"status": {"nodeInfo": {"bootID": boot.trim()}}});
    api.patch_status("far", &Default::default(), &kube::api::Patch::Merge(here)).await.unwrap();
    let said = s.run("multihome doctor node/far --no-probe").await;
    assert!(said.contains("network managed by"), "{said}");
    assert!(said.contains("this node's kernel: Vlan: create vlan device probe-vl: Operation not supported"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_are_summed_up_in_one_word_and_those_that_are_gone_are_forgotten() {
    use k8s_openapi::api::core::v1::Node;
    use multihome_model::{Connectivity, Network, ProbeResult};
    let s = Server::start().await;
    s.apply(NETWORKS).await;
    let nodes: kube::Api<Node> = kube::Api::all(s.ctx.client.clone());
    let networks: kube::Api<Network> = kube::Api::default_namespaced(s.ctx.client.clone());
    for (name, ok, reason) in [("near", true, "InPlace"), ("far", false, "NoCarrier")] {
        let node: Node = serde_json::from_value(serde_json::json!({"metadata": {"name": name}})).unwrap();
        nodes.create(&Default::default(), &node).await.unwrap();
        let layer2 = Some(ProbeResult::new(ok, reason, "eth1 has no carrier"));
        let seen = Connectivity { layer2, ..Connectivity::default() };
        let put = |o: &mut Network| {
            drop(o.status.get_or_insert_default().connectivity.insert(name.to_owned(), seen.clone()));
        };
        multihome_control::status::update(&networks, "mgmt", None, put).await.unwrap();
    }
    s.until("multihome get net mgmt", "NoCarrier").await;
    s.until("multihome get net mgmt -o wide", "on node far: eth1 has no carrier").await;
    nodes.delete("far", &Default::default()).await.unwrap();
    s.until("multihome get net mgmt -o wide", "nothing wrong on node near").await;
    s.until("multihome get net mgmt", "Connected").await;
    let left = networks.get("mgmt").await.unwrap().status.unwrap().connectivity;
    assert_eq!(left.keys().collect::<Vec<_>>(), ["near"]);
}
