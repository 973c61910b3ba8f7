//! Objects as the rows of a Table: what `kubectl get` prints.

use crate::meta;
use crate::registry::Served;
use chrono::{DateTime, Utc};
use serde_json::{Value, json};

const NAME_HELP: &str = "Name must be unique within a namespace. Is required when creating resources, although some resources may allow a client to \
    request the generation of an appropriate name automatically. Name is primarily intended for creation idempotence and configuration definition. \
    Cannot be updated. More info: http://kubernetes.io/docs/user-guide/identifiers#names";

/// Whether the name stands in a column of its own in front, as it does for every kind but events.
fn leading_name(served: &Served) -> bool {
    !served.is_core("Event")
}

/// The `columnDefinitions` of a type.
pub(crate) fn definitions(served: &Served) -> Vec<Value> {
    let name = json!({"name": "Name", "type": "string", "format": "name", "description": NAME_HELP, "priority": 0});
    let columns = served.spec.columns.iter().map(|c| {
        let description = match (c.description.as_str(), c.r#type.as_str()) {
            ("", _) => format!("Custom resource definition column (in JSONPath format): {}", c.json_path),
            (text, _) => text.to_owned(),
        };
        json!({"name": c.name, "type": c.r#type, "format": "", "description": description, "priority": c.priority})
    });
    leading_name(served).then_some(name).into_iter().chain(columns).collect()
}

/// The cells of one object's row.
pub(crate) fn cells(served: &Served, object: &Value, now: DateTime<Utc>) -> Vec<Value> {
    let name = leading_name(served).then(|| Value::from(meta::text(object, "name")));
    let columns = served.spec.columns.iter().zip(&served.paths);
    let cells = columns.map(|(column, path)| {
        if let Some(cell) =
            served.built_in.then(|| built_in_cell(&served.spec.kind, &column.name, object, now)).flatten()
        {
            return cell;
        }
        cell(&column.r#type, &path.find(object), now)
    });
    name.into_iter().chain(cells).collect()
}

fn cell(kind: &str, found: &[&Value], now: DateTime<Utc>) -> Value {
    let Some(first) = found.first() else { return Value::Null };
    match kind {
        "date" => first.as_str().map_or(Value::Null, |t| age(t, now).into()),
        "integer" => match first {
            Value::Number(n) => {
                n.as_i64().map(Value::from).or_else(|| n.as_f64().map(|f| json!(f.trunc()))).unwrap_or(Value::Null)
            }
            _ => Value::Null,
        },
        "number" => {
            if first.is_number() {
                (*first).clone()
            } else {
                Value::Null
            }
        }
        "boolean" => {
            if first.is_boolean() {
                (*first).clone()
            } else {
                Value::Null
            }
        }
        _ => {
            let texts: Vec<String> = found.iter().map(|v| plain(v)).collect();
            texts.join(" ").into()
        }
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "<nil>".into(),
        other => other.to_string(),
    }
}

/// Cells of built-in kinds that are more than the value at a path.
fn built_in_cell(kind: &str, column: &str, object: &Value, now: DateTime<Utc>) -> Option<Value> {
    let count = |field: &str| match &object[field] {
        Value::Object(map) => map.len(),
        Value::Array(items) => items.len(),
        _ => 0,
    };
    Some(match (kind, column) {
        (_, "Age") => age(meta::text(object, "creationTimestamp"), now).into(),
        ("CustomResourceDefinition", "Created At") => meta::text(object, "creationTimestamp").into(),
        ("Secret" | "ConfigMap", "Data") => (count("data") + count("binaryData")).into(),
        ("ServiceAccount", "Secrets") => count("secrets").into(),
        ("Node", "Status") => node_status(object).into(),
        ("Node", "Roles") => node_roles(object).into(),
        ("Node", "Internal-IP" | "OS-Image" | "Kernel-Version") => {
            let value = match column {
                "OS-Image" => object["status"]["nodeInfo"]["osImage"].as_str(),
                "Kernel-Version" => object["status"]["nodeInfo"]["kernelVersion"].as_str(),
                _ => object["status"]["addresses"]
                    .as_array()
                    .and_then(|a| a.iter().find(|a| a["type"] == "InternalIP"))
                    .and_then(|a| a["address"].as_str()),
            };
            value
                .filter(|v| !v.is_empty())
                .unwrap_or(if column == "Internal-IP" { "<none>" } else { "<unknown>" })
                .into()
        }
        ("Event", column) => event_cell(column, object, now),
        _ => return None,
    })
}

fn node_status(node: &Value) -> String {
    let ready = node["status"]["conditions"].as_array().into_iter().flatten().find(|c| c["type"] == "Ready");
    let mut status = match ready.map(|c| c["status"] == "True") {
        Some(true) => "Ready".to_owned(),
        Some(false) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if node["spec"]["unschedulable"] == true {
        status.push_str(",SchedulingDisabled");
    }
    status
}

fn node_roles(node: &Value) -> String {
    let labels = meta::of(node).get("labels").and_then(Value::as_object);
    let mut roles: Vec<&str> = labels
        .into_iter()
        .flatten()
        .filter_map(|(k, v)| match k.strip_prefix("node-role.kubernetes.io/") {
            Some(role) if !role.is_empty() => Some(role),
            _ if k == "kubernetes.io/role" => v.as_str(),
            _ => None,
        })
        .collect();
    roles.sort_unstable();
    if roles.is_empty() { "<none>".into() } else { roles.join(",") }
}

fn event_cell(column: &str, event: &Value, now: DateTime<Utc>) -> Value {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let first = [&event["firstTimestamp"], &event["eventTime"]].into_iter().find_map(Value::as_str).unwrap_or_default();
    let series = &event["series"];
    match column {
        "Last Seen" => {
            let since = |t: &str| age(t, now);
            let last = event["lastTimestamp"].as_str();
            match (series["count"].as_i64(), event["count"].as_i64()) {
                (Some(n), _) => format!(
                    "{} (x{n} over {})",
                    since(series["lastObservedTime"].as_str().unwrap_or_default()),
                    since(first)
                ),
                (None, Some(n)) if n > 1 => format!("{} (x{n} over {})", since(last.unwrap_or(first)), since(first)),
                _ => since(last.unwrap_or(first)),
            }
            .into()
        }
        "First Seen" => age(first, now).into(),
        "Type" => text(&event["type"]).into(),
        "Reason" => text(&event["reason"]).into(),
        "Object" => {
            let object = &event["involvedObject"];
            let kind = text(&object["kind"]).to_lowercase();
            if text(&object["name"]).is_empty() {
                kind.into()
            } else {
                format!("{kind}/{}", text(&object["name"])).into()
            }
        }
        "Subobject" => text(&event["involvedObject"]["fieldPath"]).into(),
        "Source" => {
            let component = [&event["source"]["component"], &event["reportingComponent"]]
                .into_iter()
                .find_map(|v| v.as_str().filter(|t| !t.is_empty()))
                .unwrap_or_default();
            let host = [&event["source"]["host"], &event["reportingInstance"]]
                .into_iter()
                .find_map(|v| v.as_str().filter(|t| !t.is_empty()))
                .unwrap_or_default();
            if host.is_empty() { component.into() } else { format!("{component}, {host}").into() }
        }
        "Message" => text(&event["message"]).trim().into(),
        "Count" => series["count"].as_i64().or_else(|| event["count"].as_i64()).unwrap_or(1).to_string().into(),
        "Name" => meta::text(event, "name").into(),
        _ => Value::Null,
    }
}

/// How long ago, in kubectl's short form: `45s`, `3m12s`, `4d2h`.
fn age(time: &str, now: DateTime<Utc>) -> String {
    let Ok(then) = DateTime::parse_from_rfc3339(time) else { return "<unknown>".into() };
    let passed = now.signed_duration_since(then);
    human(passed.num_seconds())
}

fn human(seconds: i64) -> String {
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let two = |a: i64, unit: &str, b: i64, small: &str| {
        if b == 0 { format!("{a}{unit}") } else { format!("{a}{unit}{b}{small}") }
    };
    match () {
        () if seconds < -1 => "<invalid>".into(),
        () if seconds < 0 => "0s".into(),
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => two(minutes, "m", seconds % 60, "s"),
        () if minutes < 180 => format!("{minutes}m"),
        () if hours < 8 => two(hours, "h", minutes % 60, "m"),
        () if hours < 48 => format!("{hours}h"),
        () if hours < 24 * 8 => two(hours / 24, "d", hours % 24, "h"),
        () if hours < 24 * 365 * 2 => format!("{}d", hours / 24),
        () if hours < 24 * 365 * 8 => two(hours / 24 / 365, "y", hours / 24 % 365, "d"),
        () => format!("{}y", hours / 24 / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_kubectls() {
        let cases = [
            (-5, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (185, "3m5s"),
            (700, "11m"),
            (3 * 3600 + 60, "3h1m"),
            (9 * 3600, "9h"),
            (50 * 3600, "2d2h"),
            (10 * 86400, "10d"),
            (800 * 86400, "2y70d"),
            (3000 * 86400, "8y"),
        ];
        for (seconds, text) in cases {
            assert_eq!(human(seconds), text, "{seconds}");
        }
    }

    #[test]
    fn nodes_and_events() {
        let types = crate::builtin::types();
        let of = |kind: &str| types.iter().find(|t| t.spec.kind == kind).unwrap();
        let now = "2020-01-01T00:01:00Z".parse().unwrap();
        let node = json!({"metadata": {"name": "n", "creationTimestamp": "2020-01-01T00:00:00Z", "labels": {"node-role.kubernetes.io/gateway": ""}},
            "spec": {"unschedulable": true}, "status": {"conditions": [{"type": "Ready", "status": "True"}], "nodeInfo": {"kubeletVersion": "v1"}}});
        assert_eq!(
            cells(of("Node"), &node, now)[..5],
            ["n", "Ready,SchedulingDisabled", "gateway", "60s", "v1"].map(Value::from)
        );
        let event = json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Network", "name": "x"}, "eventTime": "2020-01-01T00:00:30Z", "reason": "R", "type": "Normal", "message": "m"});
        let row = cells(of("Event"), &event, now);
        assert_eq!((&row[0], &row[3], &row[6]), (&json!("30s"), &json!("network/x"), &json!("m")));
        assert_eq!(definitions(of("Event"))[0]["name"], "Last Seen");
        assert_eq!(definitions(of("Secret"))[0]["name"], "Name");
    }
}
