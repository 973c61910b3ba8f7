//! Conditions as Kubernetes' API conventions define them (sig-architecture, "Typical status properties").

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One observed aspect of an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Which aspect, in CamelCase.
    pub r#type: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// Why, in one CamelCase word that programs can compare.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Why, in one sentence for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// When `status` last changed (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_transition_time: Option<String>,
    /// The generation of the spec that this was observed for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

impl Condition {
    /// A condition with no time yet; [`set`] fills it in.
    pub fn new(kind: &str, status: bool, reason: &str, message: impl Into<String>) -> Self {
        Self {
            r#type: kind.into(),
            status: if status { "True" } else { "False" }.into(),
            reason: reason.into(),
            message: message.into(),
            last_transition_time: None,
            observed_generation: None,
        }
    }
    /// Whether the status is `True`.
    pub fn is_true(&self) -> bool {
        self.status == "True"
    }
}

/// Puts `new` into `list`, keeping the time of the last transition where the status is the same.
/// `now` is an RFC 3339 time. Returns whether anything but the time differs.
pub fn set(list: &mut Vec<Condition>, mut new: Condition, now: &str) -> bool {
    match list.iter_mut().find(|c| c.r#type == new.r#type) {
        Some(old) => {
            new.last_transition_time =
                if old.status == new.status { old.last_transition_time.clone() } else { Some(now.to_owned()) };
            let changed = *old != new;
            *old = new;
            changed
        }
        None => {
            new.last_transition_time = Some(now.to_owned());
            list.push(new);
            true
        }
    }
}

/// The condition of one type.
pub fn find<'a>(list: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    list.iter().find(|c| c.r#type == kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_moves_only_when_the_status_changes() {
        let mut list = vec![];
        assert!(set(&mut list, Condition::new("Ready", false, "Starting", "one"), "t1"));
        assert!(set(&mut list, Condition::new("Ready", false, "Waiting", "two"), "t2"));
        assert_eq!(list[0].last_transition_time.as_deref(), Some("t1"));
        assert!(!set(&mut list, Condition::new("Ready", false, "Waiting", "two"), "t3"));
        assert!(set(&mut list, Condition::new("Ready", true, "Up", "three"), "t4"));
        assert_eq!(list[0].last_transition_time.as_deref(), Some("t4"));
    }
}
