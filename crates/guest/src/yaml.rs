//! Writes JSON values as YAML that YAML 1.1 readers, PyYAML among them, understand as they were meant.
//!
//! Whatever is not plainly a word is quoted: `52:54:00:00:00:10` is a number to base 60 in YAML 1.1, `off` is false.

use serde_json::Value;

/// A document in block style, with a newline at its end.
pub(crate) fn yaml(value: &Value) -> String {
    let mut out = String::new();
    block(value, 0, &mut out);
    out
}

/// Indented JSON with a newline at its end.
pub(crate) fn json(value: &Value) -> String {
    format!("{value:#}\n")
}

fn block(value: &Value, depth: usize, out: &mut String) {
    let pad = "  ".repeat(depth);
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, v) in map {
                out.push_str(&format!("{pad}{}:", text(key)));
                nested(v, depth, out);
            }
        }
        Value::Array(list) if !list.is_empty() => {
            for v in list {
                match v {
                    Value::Object(m) if !m.is_empty() => {
                        let mut inner = String::new();
                        block(v, depth + 1, &mut inner);
                        // The first key stands beside the dash.
                        out.push_str(&format!("{pad}- {}", &inner[2 * (depth + 1)..]));
                    }
                    v => out.push_str(&format!("{pad}- {}\n", flow(v))),
                }
            }
        }
        v => out.push_str(&format!("{pad}{}\n", flow(v))),
    }
}

fn nested(v: &Value, depth: usize, out: &mut String) {
    let simple_list = |l: &Vec<Value>| l.iter().all(|x| !x.is_object() && !x.is_array());
    match v {
        Value::Object(m) if !m.is_empty() => {
            out.push('\n');
            block(v, depth + 1, out);
        }
        Value::Array(l) if !simple_list(l) => {
            out.push('\n');
            block(v, depth + 1, out);
        }
        v => out.push_str(&format!(" {}\n", flow(v))),
    }
}

fn flow(v: &Value) -> String {
    match v {
        Value::String(s) => text(s),
        Value::Array(l) => format!("[{}]", l.iter().map(flow).collect::<Vec<_>>().join(", ")),
        Value::Object(m) => {
            format!("{{{}}}", m.iter().map(|(k, v)| format!("{}: {}", text(k), flow(v))).collect::<Vec<_>>().join(", "))
        }
        v => v.to_string(),
    }
}

fn text(s: &str) -> String {
    let word = s.starts_with(|c: char| c.is_ascii_alphabetic())
        && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./".contains(&b));
    let other_meaning = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"];
    if word && !other_meaning.contains(&s.to_ascii_lowercase().as_str()) {
        s.to_owned()
    } else {
        // A JSON string is a YAML double-quoted string.
        Value::from(s).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn macs_and_words_of_truth_are_quoted() {
        let v = json!({"mac": "52:54:00:00:00:10", "on": "off", "name": "eth0", "n": 9000, "b": true, "list": ["10.0.0.1", "a"]});
        assert_eq!(
            yaml(&v),
            "mac: \"52:54:00:00:00:10\"\n\"on\": \"off\"\nname: eth0\n\"n\": 9000\nb: true\nlist: [\"10.0.0.1\", a]\n"
        );
    }

    fn values() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::from),
            any::<u32>().prop_map(Value::from),
            "[ -~]{0,12}".prop_map(Value::from)
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map("[a-z0-9:]{1,6}", inner, 0..4).prop_map(|m| json!(m)),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_back(v in values()) {
            // Lists directly in lists are never written by us.
            prop_assume!(!list_in_list(&v));
            let back: serde_json::Value = serde_saphyr::from_str(&yaml(&v)).unwrap();
            prop_assert_eq!(back, v);
        }
    }

    fn list_in_list(v: &Value) -> bool {
        match v {
            Value::Array(l) => l.iter().any(|x| x.is_array() || list_in_list(x)),
            Value::Object(m) => m.values().any(list_in_list),
            _ => false,
        }
    }
}
