//! Writing status without losing what somebody else wrote meanwhile: read, change, put with the resource version, and
//! again on a conflict. Nothing is written where nothing differs.

use std::fmt::Debug;

use kube::Resource;
use kube::api::{Api, PostParams};
use multihome_model::condition::{self, find};
use multihome_model::{Condition, NetworkInterface};
use serde::Serialize;
use serde::de::DeserializeOwned;

const TRIES: usize = 8;

/// Changes an object's status. `known` saves the first read where the caller has a recent copy. Returns the object as
/// it then is; `None` if it is gone.
///
/// # Errors
/// The API's own, also when others keep changing the object.
pub async fn update<K>(api: &Api<K>, name: &str, known: Option<&K>, change: impl Fn(&mut K)) -> kube::Result<Option<K>>
where
    K: Resource + Clone + Debug + PartialEq + Serialize + DeserializeOwned,
{
    let mut current = known.cloned();
    for attempt in 0..TRIES {
        let before = match current.take() {
            Some(o) => o,
            None => match api.get_opt(name).await? {
                Some(o) => o,
                None => return Ok(None),
            },
        };
        let mut after = before.clone();
        change(&mut after);
        if after == before {
            return Ok(Some(before));
        }
        match api.replace_status(name, &PostParams::default(), &after).await {
            Ok(o) => return Ok(Some(o)),
            Err(kube::Error::Api(e)) if e.code == 409 && attempt + 1 < TRIES => {}
            Err(kube::Error::Api(e)) if e.code == 404 => return Ok(None),
            Err(e) => return Err(e),
        }
    }
    Ok(None)
}

/// The time as conditions carry it.
pub fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Condition of a NIC: its MAC and addresses are its own.
pub const CLAIMED: &str = "Claimed";
/// Condition of a NIC: the running VM has it.
pub const ATTACHED: &str = "Attached";
/// Condition of a NIC: the guest took what DHCP offered.
pub const LEASED: &str = "Leased";
/// Condition of a NIC: the guest's default route is where the plan says.
pub const DEFAULT_ROUTE: &str = "DefaultRouteCorrect";
/// Condition of a NIC: the security groups that it is in are enforced.
pub const POLICED: &str = "Policed";
/// Condition of a NIC that is to be mirrored: what it says and hears is copied.
pub const MIRRORED: &str = "Mirrored";
/// Condition of a NIC that may send anything: false, with what that opens.
pub const PORT_SECURED: &str = "PortSecured";
/// Condition of most kinds: all is as wished.
pub const READY: &str = "Ready";

/// Sets a NIC's condition and, from all of them, Ready.
pub fn set_nic_condition(nic: &mut NetworkInterface, new: Condition) {
    let generation = nic.meta().generation;
    let status = nic.status.get_or_insert_default();
    let now = now();
    condition::set(&mut status.conditions, Condition { observed_generation: generation, ..new }, &now);
    let ready = nic_ready(&status.conditions);
    condition::set(&mut status.conditions, Condition { observed_generation: generation, ..ready }, &now);
}

/// Removes a NIC's condition, and judges Ready anew.
pub fn clear_nic_condition(nic: &mut NetworkInterface, kind: &str) {
    if let Some(status) = &mut nic.status
        && find(&status.conditions, kind).is_some()
    {
        status.conditions.retain(|c| c.r#type != kind);
        let ready = nic_ready(&status.conditions);
        condition::set(&mut status.conditions, ready, &now());
    }
}

/// Ready is the first of the others that is not true.
fn nic_ready(conditions: &[Condition]) -> Condition {
    for kind in [CLAIMED, ATTACHED, LEASED, DEFAULT_ROUTE] {
        match find(conditions, kind) {
            Some(c) if !c.is_true() => return Condition::new(READY, false, &c.reason, c.message.clone()),
            Some(_) => {}
            // A network without our DHCP has no lease to speak of, and a guest without agent tells no routes.
            None if kind == LEASED || kind == DEFAULT_ROUTE => {}
            None => return Condition::new(READY, false, "Detached", "no running VM has it"),
        }
    }
    Condition::new(READY, true, "Ready", "the guest has what was planned")
}

/// Makes a NIC be on no node: what was seen of it there is forgotten, and Attached says why.
pub fn release_nic(nic: &mut NetworkInterface, reason: &str, text: &str) {
    let s = nic.status.get_or_insert_default();
    s.node = None;
    s.device = None;
    s.guest_name = None;
    s.guest = None;
    s.lease = None;
    s.lease6 = None;
    s.addresses.clear();
    s.policies = None;
    clear_nic_condition(nic, LEASED);
    clear_nic_condition(nic, DEFAULT_ROUTE);
    clear_nic_condition(nic, POLICED);
    clear_nic_condition(nic, MIRRORED);
    set_nic_condition(nic, Condition::new(ATTACHED, false, reason, text));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_follows_the_first_that_is_not() {
        let mut nic = NetworkInterface::default();
        let ready = |nic: &NetworkInterface| {
            let c = find(&nic.status.as_ref().unwrap().conditions, READY).unwrap().clone();
            (c.is_true(), c.reason)
        };
        set_nic_condition(&mut nic, Condition::new(CLAIMED, true, "Claimed", ""));
        assert_eq!(ready(&nic), (false, "Detached".into()));
        set_nic_condition(&mut nic, Condition::new(ATTACHED, true, "Plugged", ""));
        assert_eq!(ready(&nic), (true, "Ready".into()));
        set_nic_condition(&mut nic, Condition::new(LEASED, false, "WaitingForGuest", ""));
        assert_eq!(ready(&nic), (false, "WaitingForGuest".into()));
        clear_nic_condition(&mut nic, LEASED);
        assert_eq!(ready(&nic), (true, "Ready".into()));
    }
}
