//! The metadata service's answers, in EC2's and OpenStack's layouts. Pure: the caller knows by the port that a request came
//! in on which guest and NIC ask, and puts the bytes on the wire.

use std::collections::BTreeSet;

use base64::Engine;
use serde_json::{Map, json};

use crate::cloudinit::left_out_by_openstack;
use crate::ec2::{self, Leaf};
use crate::network_data::network_data;
use crate::{Guest, vendor, yaml};

/// The IPv4 address that guests ask, on every NIC.
pub const ADDRESS: std::net::Ipv4Addr = std::net::Ipv4Addr::new(169, 254, 169, 254);

/// EC2's versions that are answered, all alike. cloud-init asks for the first that it knows of these.
const EC2_VERSIONS: [&str; 6] = ["2009-04-04", "2016-09-02", "2018-09-24", "2021-03-23", "2024-04-11", "latest"];
/// OpenStack's (nova/api/metadata/base.py, `OPENSTACK_VERSIONS`).
const OPENSTACK_VERSIONS: [&str; 9] = [
    "2012-08-10",
    "2013-04-04",
    "2013-10-17",
    "2015-10-15",
    "2016-06-30",
    "2016-10-06",
    "2017-02-22",
    "2018-08-27",
    "latest",
];
/// Longest life of an IMDSv2 token, in seconds.
const TOKEN_MAX_TTL: u32 = 21600;

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// HTTP status.
    pub status: u16,
    /// `Content-Type`.
    pub content_type: &'static str,
    /// The body.
    pub body: String,
}

impl Response {
    fn text(body: impl Into<String>) -> Self {
        Self { status: 200, content_type: "text/plain", body: body.into() }
    }
    fn json(value: &serde_json::Value) -> Self {
        Self { status: 200, content_type: "application/json", body: yaml::json(value) }
    }
    fn error(status: u16, text: &str) -> Self {
        Self { status, content_type: "text/plain", body: format!("{status} - {text}\n") }
    }
    fn not_found() -> Self {
        Self::error(404, "Not Found")
    }
}

/// Answers one request of `guest`, asked through its NIC of the name `nic`. `path` may have a query, which is ignored;
/// header names are compared without regard to case.
pub fn respond(guest: &Guest, nic: &str, method: &str, path: &str, headers: &[(&str, &str)]) -> Response {
    if guest.plan.nic(nic).is_none() {
        return Response::not_found();
    }
    let header = |name: &str| headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.trim());
    // Somebody's proxy: what it forwards is not the guest's own question.
    if header("x-forwarded-for").is_some() {
        return Response::error(403, "Forbidden");
    }
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
    match (method, parts.as_slice()) {
        ("PUT", ["latest", "api", "token"]) => token(guest, &header),
        ("GET" | "HEAD", _) => {
            if header("x-aws-ec2-metadata-token").is_some_and(|t| t != token_text(guest)) {
                return Response::error(401, "Unauthorized");
            }
            let mut r = get(guest, &parts);
            if method == "HEAD" {
                r.body.clear();
            }
            r
        }
        _ => Response::error(405, "Method Not Allowed"),
    }
}

/// IMDSv2's token. It keeps requests that were forged with GET alone from reading on; who may ask at all is decided by the
/// port.
fn token<'a>(guest: &Guest, header: &impl Fn(&str) -> Option<&'a str>) -> Response {
    let ttl = header("x-aws-ec2-metadata-token-ttl-seconds").and_then(|t| t.parse::<u32>().ok());
    match ttl {
        Some(1..=TOKEN_MAX_TTL) => Response::text(token_text(guest)),
        _ => Response::error(400, "Bad Request"),
    }
}

fn token_text(guest: &Guest) -> String {
    base64::engine::general_purpose::URL_SAFE.encode(format!("token of {}", guest.instance_id))
}

fn get(guest: &Guest, parts: &[&str]) -> Response {
    match parts {
        [] => Response::text(EC2_VERSIONS.join("\n")),
        ["openstack"] => Response::text(OPENSTACK_VERSIONS.join("\n")),
        ["openstack", v, rest @ ..] if OPENSTACK_VERSIONS.contains(v) => openstack(guest, rest),
        [v, rest @ ..] if EC2_VERSIONS.contains(v) => ec2(guest, rest),
        _ => Response::not_found(),
    }
}

fn openstack(guest: &Guest, rest: &[&str]) -> Response {
    match rest {
        [] => {
            let user = guest.user_data.is_some().then_some("user_data");
            let names = ["meta_data.json"].into_iter().chain(user);
            let all: Vec<&str> = names.chain(["vendor_data.json", "network_data.json"]).collect();
            Response::text(all.join("\n"))
        }
        ["meta_data.json"] => Response::json(&meta_data(guest)),
        ["network_data.json"] => Response::json(&network_data(guest)),
        // cloud-init takes what stands under its own name.
        ["vendor_data.json"] => {
            Response::json(&json!({"cloud-init": vendor::data(guest, &left_out_by_openstack(guest))}))
        }
        ["user_data"] => guest.user_data.clone().map_or_else(Response::not_found, Response::text),
        _ => Response::not_found(),
    }
}

fn meta_data(guest: &Guest) -> serde_json::Value {
    let keys: Map<String, serde_json::Value> =
        guest.ssh_keys.iter().enumerate().map(|(i, k)| (format!("key-{i}"), json!(k))).collect();
    json!({
        "uuid": guest.instance_id,
        "name": guest.name,
        "hostname": guest.name,
        "launch_index": 0,
        "public_keys": keys,
        "devices": [],
        "meta": {},
    })
}

fn ec2(guest: &Guest, rest: &[&str]) -> Response {
    match rest {
        [] => Response::text("meta-data\nuser-data"),
        // This layout has no vendor data.
        ["user-data"] => Response::text(vendor::with_user_data(guest)),
        ["meta-data", "public-keys"] if !guest.ssh_keys.is_empty() => {
            // The one list that names its entries.
            let lines: Vec<String> = (0..guest.ssh_keys.len()).map(|i| format!("{i}=key-{i}")).collect();
            Response::text(lines.join("\n"))
        }
        ["meta-data", inner @ ..] => leaf_or_list(guest, &inner.join("/")),
        _ => Response::not_found(),
    }
}

fn leaf_or_list(guest: &Guest, path: &str) -> Response {
    let tree = ec2::tree(guest);
    if let Some(leaf) = tree.get(path) {
        return Response::text(&leaf.value);
    }
    let prefix = if path.is_empty() { String::new() } else { format!("{path}/") };
    let below = |leaf: &(&String, &Leaf)| leaf.0.starts_with(&prefix);
    let names: BTreeSet<String> =
        tree.iter().filter(below).filter(|(_, l)| l.listed).map(|(p, _)| entry(&p[prefix.len()..])).collect();
    if names.is_empty() && !tree.iter().any(|l| below(&l)) {
        return Response::not_found();
    }
    if names.is_empty() {
        // Not listed above, and asked for by its name: everything is shown.
        let all: BTreeSet<String> = tree.iter().filter(below).map(|(p, _)| entry(&p[prefix.len()..])).collect();
        return Response::text(all.into_iter().collect::<Vec<_>>().join("\n"));
    }
    Response::text(names.into_iter().collect::<Vec<_>>().join("\n"))
}

/// A name in a list; directories end with a slash.
fn entry(rest: &str) -> String {
    rest.split_once('/').map_or_else(|| rest.to_owned(), |(dir, _)| format!("{dir}/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{guest, three};

    fn ask(method: &str, path: &str, headers: &[(&str, &str)]) -> (u16, String) {
        let r = respond(&guest(three()), "web-mgmt", method, path, headers);
        (r.status, r.body)
    }
    fn get(path: &str) -> (u16, String) {
        ask("GET", path, &[])
    }
    fn text(t: &str) -> (u16, String) {
        (200, t.to_owned())
    }

    #[test]
    fn lists_name_what_is_below_and_directories_end_with_a_slash() {
        assert_eq!(get("/latest"), text("meta-data\nuser-data"));
        let top = "hostname\ninstance-id\nlocal-hostname\nlocal-ipv4\nmac\nnetwork/\npublic-keys/";
        assert_eq!(get("/latest/meta-data/"), text(top));
        assert_eq!(get("/2021-03-23/meta-data"), text(top));
        assert_eq!(get("/latest/meta-data/network/interfaces/macs/"), text("52:54:00:00:00:10/\n52:54:00:00:00:11/"));
        assert_eq!(get("/latest/meta-data/public-keys/"), text("0=key-0"));
        assert_eq!(get("/latest/meta-data/public-keys/0/"), text("openssh-key"));
        assert!(get("/").1.contains("2018-09-24") && get("/openstack").1.ends_with("2018-08-27\nlatest"));
        assert_eq!(get("/openstack/latest/"), text("meta_data.json\nvendor_data.json\nnetwork_data.json"));
    }

    #[test]
    fn values_are_answered_whether_lists_name_them_or_not() {
        let mac = "/latest/meta-data/network/interfaces/macs/52:54:00:00:00:1";
        assert_eq!(get("/latest/meta-data/local-ipv4"), text("10.100.0.50"));
        assert_eq!(get(&format!("{mac}1/subnet-ipv4-cidr-block")), text("10.101.0.0/24"));
        assert!(!get(&format!("{mac}1/")).1.contains("device-number"));
        assert_eq!(get(&format!("{mac}1/device-number")), text("1"));
        assert_eq!(get(&format!("{mac}0/device-number?x=1")), text("0"));
        // The static NIC is known to whoever asks for it by name.
        assert_eq!(get(&format!("{mac}2/ipv6s")), text("fd00:102::50"));
        assert!(get(&format!("{mac}2/")).1.contains("device-number"));
    }

    #[test]
    fn what_is_not_there_is_404_and_what_is_not_done_405() {
        for path in ["/nowhere", "/latest/meta-data/nothing", "/1999-01-01/meta-data", "/openstack/latest/password"] {
            assert_eq!(get(path).0, 404, "{path}");
        }
        assert_eq!(get("/openstack/latest/user_data").0, 404);
        assert_eq!(ask("POST", "/latest/meta-data", &[]).0, 405);
        assert_eq!(ask("HEAD", "/latest/meta-data", &[]), (200, String::new()));
        assert_eq!(respond(&guest(three()), "db-mgmt", "GET", "/latest/meta-data/mac", &[]).status, 404);
    }

    #[test]
    fn tokens_are_given_by_put_and_wrong_ones_refused() {
        const TTL: &str = "X-aws-ec2-metadata-token-ttl-seconds";
        let token = |headers: &[(&str, &str)]| ask("PUT", "/latest/api/token", headers);
        let (status, good) = token(&[(TTL, "21600")]);
        assert_eq!(status, 200);
        assert_eq!((token(&[]).0, token(&[(TTL, "0")]).0, token(&[(TTL, "21601")]).0), (400, 400, 400));
        assert_eq!(token(&[(TTL, "60"), ("X-Forwarded-For", "10.0.0.1")]).0, 403);
        assert_eq!(ask("GET", "/latest/meta-data/mac", &[("x-forwarded-for", "10.0.0.1")]).0, 403);
        let with = |t: &str| ask("GET", "/latest/meta-data/mac", &[("x-aws-EC2-metadata-token", t)]).0;
        assert_eq!((with(&good), with("forged"), get("/latest/meta-data/mac").0), (200, 401, 200));
    }
}
