//! The subset of JSONPath that printer columns use: `.a.b`, `['a']`, `[0]`, `[-1]`, `[*]`, `[?(@.type=="Ready")]`.
//!
//! Parsing fails on what it does not know; evaluating never fails, it finds nothing.

use serde_json::Value;

/// A parsed path.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct JsonPath(Vec<Step>);

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Child(String),
    Index(i64),
    All,
    Filter { path: Vec<String>, op: Cmp, value: Option<Value> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cmp {
    Exists,
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
}

/// A path that this subset does not know.
#[derive(Debug, thiserror::Error)]
#[error("JSON path {path:?}: {why}")]
pub struct PathError {
    path: String,
    why: &'static str,
}

impl JsonPath {
    /// Parses a path as in `additionalPrinterColumns[].jsonPath`; surrounding braces are allowed.
    pub fn parse(path: &str) -> Result<Self, PathError> {
        let fail = |why| PathError { path: path.to_owned(), why };
        let mut rest = path.trim().trim_start_matches('{').trim_end_matches('}').trim_start_matches('$');
        let mut steps = Vec::new();
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix('[') {
                let (step, after) = bracket(after).map_err(fail)?;
                steps.push(step);
                rest = after;
                continue;
            }
            rest = rest.strip_prefix('.').unwrap_or(rest);
            if rest.starts_with('.') {
                return Err(fail("recursive descent is not supported"));
            }
            let (name, after) = name(rest);
            if !name.is_empty() {
                steps.push(if name == "*" { Step::All } else { Step::Child(name) });
            } else if after.len() == rest.len() && !rest.is_empty() && !rest.starts_with('[') {
                return Err(fail("a field name is missing"));
            }
            rest = after;
        }
        Ok(Self(steps))
    }

    /// Everything the path finds, in order.
    pub fn find<'a>(&self, root: &'a Value) -> Vec<&'a Value> {
        let mut found = vec![root];
        for step in &self.0 {
            let mut next = Vec::new();
            for value in found {
                match (step, value) {
                    (Step::Child(name), Value::Object(map)) => next.extend(map.get(name)),
                    (Step::Index(at), Value::Array(items)) => {
                        let at = if *at < 0 { *at + i64::try_from(items.len()).unwrap_or(0) } else { *at };
                        next.extend(usize::try_from(at).ok().and_then(|at| items.get(at)));
                    }
                    (Step::All, Value::Array(items)) => next.extend(items),
                    (Step::All, Value::Object(map)) => next.extend(map.values()),
                    (Step::Filter { path, op, value: wanted }, Value::Array(items)) => {
                        next.extend(items.iter().filter(|item| passes(item, path, *op, wanted.as_ref())));
                    }
                    _ => {}
                }
            }
            found = next;
        }
        found
    }
}

fn name(text: &str) -> (String, &str) {
    let (mut out, mut escaped) = (String::new(), false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => {
                out.push(c);
                escaped = false;
            }
            '\\' => escaped = true,
            '.' | '[' => return (out, &text[at..]),
            other => out.push(other),
        }
    }
    (out, "")
}

fn bracket(text: &str) -> Result<(Step, &str), &'static str> {
    if let Some(inner) = text.strip_prefix("?(") {
        let end = inner.find(")]").ok_or("a filter is not closed")?;
        return Ok((filter(inner[..end].trim())?, &inner[end + 2..]));
    }
    let end = text.find(']').ok_or("a bracket is not closed")?;
    let (inner, after) = (text[..end].trim(), &text[end + 1..]);
    let step = if inner == "*" {
        Step::All
    } else if let Some(quoted) = unquote(inner) {
        Step::Child(quoted)
    } else {
        Step::Index(inner.parse().map_err(|_| "a bracket holds neither a number, a name nor a filter")?)
    };
    Ok((step, after))
}

fn filter(text: &str) -> Result<Step, &'static str> {
    let body = text.strip_prefix('@').ok_or("a filter must begin with @")?;
    let ops = [("==", Cmp::Eq), ("!=", Cmp::Ne), ("<=", Cmp::Le), (">=", Cmp::Ge), ("<", Cmp::Lt), (">", Cmp::Gt)];
    let cut = ops
        .iter()
        .filter_map(|(token, op)| body.find(token).map(|at| (at, *token, *op)))
        .min_by_key(|(at, token, _)| (*at, 2 - token.len()));
    let (path, op, value) = match cut {
        None => (body, Cmp::Exists, None),
        Some((at, token, op)) => {
            let literal = body[at + token.len()..].trim();
            let value = match unquote(literal) {
                Some(text) => Value::String(text),
                None => {
                    serde_json::from_str(literal).map_err(|_| "a filter compares with something that is not a value")?
                }
            };
            (&body[..at], op, Some(value))
        }
    };
    let path = path.trim().split('.').filter(|p| !p.is_empty()).map(str::to_owned).collect();
    Ok(Step::Filter { path, op, value })
}

fn unquote(text: &str) -> Option<String> {
    let quote = text.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    text.strip_prefix(quote)?.strip_suffix(quote).map(str::to_owned)
}

fn passes(item: &Value, path: &[String], op: Cmp, wanted: Option<&Value>) -> bool {
    let Some(found) = path.iter().try_fold(item, |v, key| v.get(key)) else { return false };
    let Some(wanted) = wanted else { return op == Cmp::Exists };
    let order = match (found, wanted) {
        (Value::Number(a), Value::Number(b)) => a.as_f64().zip(b.as_f64()).and_then(|(a, b)| a.partial_cmp(&b)),
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        (a, b) => (a == b).then_some(std::cmp::Ordering::Equal),
    };
    match op {
        Cmp::Exists => true,
        Cmp::Eq => order.is_some_and(|o| o.is_eq()),
        Cmp::Ne => order.is_none_or(|o| o.is_ne()),
        Cmp::Lt => order.is_some_and(|o| o.is_lt()),
        Cmp::Le => order.is_some_and(|o| o.is_le()),
        Cmp::Gt => order.is_some_and(|o| o.is_gt()),
        Cmp::Ge => order.is_some_and(|o| o.is_ge()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn find(path: &str) -> Value {
        let root = json!({
            "spec": {"x": 1, "list": [{"a": "p"}, {"a": "q"}], "dotted.key": "d"},
            "status": {"conditions": [{"type": "Ready", "status": "True", "n": 1}, {"type": "Other", "status": "False", "n": 2}]},
        });
        JsonPath::parse(path).unwrap().find(&root).into_iter().cloned().collect()
    }

    #[test]
    fn paths() {
        assert_eq!(find(".spec.x"), json!([1]));
        assert_eq!(find("{.spec.x}"), json!([1]));
        assert_eq!(find(r#".status.conditions[?(@.type=="Ready")].status"#), json!(["True"]));
        assert_eq!(find(".status.conditions[?(@.type=='Other')].status"), json!(["False"]));
        assert_eq!(find(".status.conditions[?(@.n>1)].type"), json!(["Other"]));
        assert_eq!(find(".status.conditions[?(@.n)].n"), json!([1, 2]));
        assert_eq!(find(".spec.list[*].a"), json!(["p", "q"]));
        assert_eq!(find(".spec.list[-1].a"), json!(["q"]));
        assert_eq!(find(r".spec.dotted\.key"), json!(["d"]));
        assert_eq!(find(".spec['dotted.key']"), json!(["d"]));
        assert_eq!(find(".spec.none.deeper"), json!([]));
        for bad in [".a[", ".a[?(x)]", ".a[b]", "..a", ".a[?(@.x==y)]"] {
            assert!(JsonPath::parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_answered(path in r"[.a\[\]?@()='*0-9\\-]{0,20}") {
            if let Ok(path) = JsonPath::parse(&path) {
                path.find(&json!({"a": [{"a": 1}]}));
            }
        }
    }
}
