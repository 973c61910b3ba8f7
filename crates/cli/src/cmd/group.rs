//! `group …`.

use kube::Api;
use kube::api::PostParams;
use multihome_model::{RuleAction, RulePeer, SecurityGroup, SecurityGroupSpec, SecurityRule};

use super::{Context, delete, get};
use crate::args::{GroupCommand, GroupCreate};
use crate::kinds::by_name;
use crate::{CliError, CliResult, Output};

pub(super) async fn run(ctx: &Context, command: &GroupCommand, out: &mut Output) -> CliResult {
    match command {
        GroupCommand::List(args) => get::list(ctx, "securitygroups", args, out).await,
        GroupCommand::Create(args) => create(ctx, args, out).await,
        GroupCommand::Delete(args) => {
            out.line(delete::remove(ctx, &by_name("securitygroups")?, &args.name, &ctx.namespace, true).await?);
            Ok(0)
        }
    }
}

async fn create(ctx: &Context, args: &GroupCreate, out: &mut Output) -> CliResult {
    let rules = |list: &[String], word: &str| list.iter().map(|text| rule(text, word)).collect::<Result<Vec<_>, _>>();
    let spec = SecurityGroupSpec { ingress: rules(&args.ingress, "from")?, egress: rules(&args.egress, "to")? };
    let api: Api<SecurityGroup> = Api::namespaced(ctx.client.clone(), &ctx.namespace);
    api.create(&PostParams::default(), &SecurityGroup::new(&args.name, spec)).await?;
    out.line(format!("securitygroup.multihome.io/{} created", args.name));
    Ok(0)
}

/// A rule as it is written on the command line: `[allow|deny] PROTOCOL [PORTS] [from|to PEERS]`.
fn rule(text: &str, word: &str) -> Result<SecurityRule, CliError> {
    let wrong = |what: &str| {
        CliError::new(format!("rule {text:?} {what}"))
            .hint(format!("write it as \"allow tcp 22,8000-8100 {word} 10.0.0.0/8,group:web\" or \"deny any\""))
    };
    let mut words = text.split_whitespace().peekable();
    let mut rule = SecurityRule::default();
    match words.peek().map(|w| w.to_lowercase()).as_deref() {
        Some("allow") => drop(words.next()),
        Some("deny") => {
            words.next();
            rule.action = RuleAction::Deny;
        }
        _ => {}
    }
    let protocol = words.next().ok_or_else(|| wrong("names no protocol"))?;
    rule.protocol = Some(protocol.to_owned()).filter(|p| !p.eq_ignore_ascii_case("any"));
    if let Some(ports) = words.next_if(|w| *w != word) {
        rule.ports = ports.split(',').map(str::to_owned).collect();
    }
    if let Some(next) = words.next() {
        if next != word {
            return Err(wrong(&format!("has {next:?} where {word:?} belongs")));
        }
        let peers = words.next().ok_or_else(|| wrong(&format!("names nobody after {word:?}")))?;
        rule.peers = peers.split(',').map(peer).collect();
    }
    match words.next() {
        Some(more) => Err(wrong(&format!("has {more:?} at its end, which belongs nowhere"))),
        None => Ok(rule),
    }
}

fn peer(text: &str) -> RulePeer {
    match text.strip_prefix("group:") {
        Some(group) => RulePeer { group: Some(group.to_owned()), ..RulePeer::default() },
        None => RulePeer { cidr: Some(text.to_owned()), ..RulePeer::default() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_written_in_a_line() {
        let read = |text: &str| serde_json::to_string(&rule(text, "from").unwrap()).unwrap();
        assert_eq!(
            read("deny tcp 22,8000-8100 from 10.0.0.0/8,group:other/web"),
            r#"{"action":"Deny","protocol":"tcp","ports":["22","8000-8100"],"peers":[{"cidr":"10.0.0.0/8"},{"group":"other/web"}]}"#
        );
        assert_eq!(read("any"), r#"{"action":"Allow"}"#);
        assert_eq!(
            read("allow icmp from fd00::/8"),
            r#"{"action":"Allow","protocol":"icmp","peers":[{"cidr":"fd00::/8"}]}"#
        );
        for (text, said) in [
            ("deny", "names no protocol"),
            ("tcp 22 to 10.0.0.0/8", "has \"to\" where \"from\" belongs"),
            ("tcp 22 from", "names nobody after \"from\""),
            ("tcp 22 from 10.0.0.0/8 please", "has \"please\" at its end"),
        ] {
            let error = rule(text, "from").unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
