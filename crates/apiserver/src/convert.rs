//! Events under their two groups: the same stored object, in the core group's shape or in that of `events.k8s.io`.

use crate::builtin::EVENTS_GROUP;
use serde_json::{Map, Value};

/// Core name, `events.k8s.io` name; in the order of the core shape.
const RENAMED: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

/// Whether a type under this group is stored in another shape.
pub(crate) fn needed(group: &str) -> bool {
    group == EVENTS_GROUP
}

/// From the shape that clients of `group` see to the stored one.
pub(crate) fn inbound(group: &str, object: &mut Value) {
    if needed(group) {
        rename(object, |name| RENAMED.iter().find(|(_, new)| *new == name).map(|(core, _)| *core));
    }
}

/// From the stored shape to the one that clients of `group` see.
pub(crate) fn outbound(group: &str, object: &mut Value) {
    if needed(group) {
        rename(object, |name| RENAMED.iter().find(|(core, _)| *core == name).map(|(_, new)| *new));
    }
}

/// The stored name of a dotted path that a client of `group` uses in a field selector.
pub(crate) fn stored_path(group: &str, path: &str) -> String {
    let (first, rest) = path.split_once('.').map_or((path, None), |(first, rest)| (first, Some(rest)));
    let first = RENAMED.iter().find(|(_, new)| needed(group) && *new == first).map_or(first, |(core, _)| core);
    rest.map_or_else(|| first.to_owned(), |rest| format!("{first}.{rest}"))
}

fn rename(object: &mut Value, other: impl Fn(&str) -> Option<&'static str>) {
    let Value::Object(map) = object else { return };
    *map = std::mem::take(map)
        .into_iter()
        .map(|(name, value)| (other(&name).map_or(name, str::to_owned), value))
        .collect::<Map<_, _>>();
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn there_and_back() {
        let core = json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "X"}, "message": "m", "count": 2, "reason": "R", "reportingComponent": "c"});
        let mut event = core.clone();
        outbound(EVENTS_GROUP, &mut event);
        assert_eq!(
            event,
            json!({"metadata": {"name": "e"}, "regarding": {"kind": "X"}, "note": "m", "deprecatedCount": 2, "reason": "R", "reportingController": "c"})
        );
        inbound(EVENTS_GROUP, &mut event);
        assert_eq!(event, core);
        inbound("", &mut event);
        assert_eq!(event, core);
    }
}
