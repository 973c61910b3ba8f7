//! Label and field selectors: parsing and matching. Which field paths a kind supports is the caller's to say.

use serde_json::Value;
use std::collections::BTreeSet;

/// A parsed label selector; empty matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Labels(Vec<Requirement>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    op: Op,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Op {
    In(BTreeSet<String>),
    NotIn(BTreeSet<String>),
    Exists,
    Absent,
    Greater(i64),
    Less(i64),
}

impl Labels {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Parses `a=b,c!=d,e in (x,y),f notin (z),g,!h,i>1,j<2`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parser = Parser { rest: text };
        let mut all = Vec::new();
        parser.space();
        while !parser.rest.is_empty() {
            all.push(parser.requirement().map_err(|why| format!("unable to parse requirement: {why}"))?);
            parser.space();
            if parser.rest.is_empty() {
                break;
            }
            if !parser.take(",") {
                return Err(format!("found '{}', expected: ',' or 'end of string'", parser.rest));
            }
            parser.space();
            if parser.rest.is_empty() {
                return Err("found '', expected: identifier after ','".into());
            }
        }
        Ok(Self(all))
    }

    pub fn matches<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.0.iter().all(|r| {
            let value = label(&r.key);
            let number = || value.and_then(|v| v.parse::<i64>().ok());
            match &r.op {
                Op::In(set) => value.is_some_and(|v| set.contains(v)),
                Op::NotIn(set) => value.is_none_or(|v| !set.contains(v)),
                Op::Exists => value.is_some(),
                Op::Absent => value.is_none(),
                Op::Greater(than) => number().is_some_and(|n| n > *than),
                Op::Less(than) => number().is_some_and(|n| n < *than),
            }
        })
    }
}

struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn take(&mut self, token: &str) -> bool {
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn word(&mut self) -> &'a str {
        self.space();
        let end = self.rest.find(|c: char| c.is_whitespace() || "=!,()<>".contains(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let absent = self.take("!");
        let key = self.word();
        if key.is_empty() {
            return Err(format!("found '{}', expected: identifier", self.rest));
        }
        crate::meta::label_key(key).map_err(|why| format!("key: Invalid value: {key:?}: {why}"))?;
        let key = key.to_owned();
        if absent {
            return Ok(Requirement { key, op: Op::Absent });
        }
        self.space();
        let op = if self.take("==") || self.take("=") {
            Op::In([self.value()?].into())
        } else if self.take("!=") {
            Op::NotIn([self.value()?].into())
        } else if self.take(">") {
            Op::Greater(self.integer()?)
        } else if self.take("<") {
            Op::Less(self.integer()?)
        } else if self.rest.is_empty() || self.rest.starts_with(',') {
            Op::Exists
        } else {
            match self.word() {
                "in" => Op::In(self.values()?),
                "notin" => Op::NotIn(self.values()?),
                other => return Err(format!("found '{other}', expected: in, notin, =, ==, !=, gt, lt")),
            }
        };
        Ok(Requirement { key, op })
    }

    fn value(&mut self) -> Result<String, String> {
        let value = self.word();
        crate::meta::label_value(value).map_err(|why| format!("values[0]: Invalid value: {value:?}: {why}"))?;
        Ok(value.to_owned())
    }

    fn integer(&mut self) -> Result<i64, String> {
        let word = self.word();
        word.parse().map_err(|_| {
            format!("values[0]: Invalid value: {word:?}: for 'Gt', 'Lt' operators, the value must be an integer")
        })
    }

    fn values(&mut self) -> Result<BTreeSet<String>, String> {
        self.space();
        if !self.take("(") {
            return Err(format!("found '{}', expected: '('", self.rest));
        }
        let mut values = BTreeSet::new();
        loop {
            values.insert(self.value()?);
            self.space();
            if self.take(")") {
                return Ok(values);
            }
            if !self.take(",") {
                return Err(format!("found '{}', expected: ',' or ')'", self.rest));
            }
        }
    }
}

/// A parsed field selector; empty matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fields(pub Vec<FieldTerm>);

/// `path=value`, or `path!=value` where `equal` is false.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FieldTerm {
    pub path: String,
    pub equal: bool,
    pub value: String,
}

impl Fields {
    /// Parses `a=b,c==d,e!=f`; a backslash escapes a comma, an equals sign or itself in a value.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut terms = Vec::new();
        for part in split_escaped(text) {
            if part.is_empty() {
                continue;
            }
            let wrong = || format!("invalid selector: '{part}'; can't understand '{part}'");
            let at = part.find('=').ok_or_else(wrong)?;
            let (path, equal) = match part[..at].strip_suffix('!') {
                Some(path) => (path, false),
                None => (&part[..at], true),
            };
            let value = &part[at + 1..];
            let value = if equal { value.strip_prefix('=').unwrap_or(value) } else { value };
            terms.push(FieldTerm { path: path.to_owned(), equal, value: unescape(value).ok_or_else(wrong)? });
        }
        Ok(Self(terms))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether anything beyond the object's own name and namespace has to be read.
    pub fn only_identity(&self) -> bool {
        self.0.iter().all(|t| matches!(t.path.as_str(), "metadata.name" | "metadata.namespace"))
    }

    pub fn matches(&self, object: &Value) -> bool {
        self.matches_with(|path| text_at(object, path))
    }

    pub fn matches_with(&self, field: impl Fn(&str) -> String) -> bool {
        self.0.iter().all(|t| (field(&t.path) == t.value) == t.equal)
    }
}

/// The value at a dotted path as text; absent is empty.
fn text_at(object: &Value, path: &str) -> String {
    match path.split('.').try_fold(object, |v, key| v.get(key)) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

fn split_escaped(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut escaped) = (Vec::new(), 0, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn unescape(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => out.push(chars.next().filter(|c| matches!(c, '\\' | ',' | '='))?),
            ',' | '=' => return None,
            other => out.push(other),
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn hit(selector: &str, labels: &[(&str, &str)]) -> bool {
        Labels::parse(selector).unwrap().matches(|k| labels.iter().find(|(n, _)| *n == k).map(|(_, v)| *v))
    }

    #[test]
    fn labels() {
        let l = [("a", "b"), ("n", "5"), ("x.io/y", "")];
        for yes in [
            "",
            "a=b",
            "a==b",
            "a!=c",
            "zz!=c",
            "a in (b, c)",
            "a notin (c)",
            "zz notin (c)",
            "a",
            "!zz",
            "n>4",
            "n<6",
            "x.io/y=",
            "a=b,n=5",
            " a = b , n ",
        ] {
            assert!(hit(yes, &l), "{yes}");
        }
        for no in ["a=c", "a!=b", "a in (c)", "a notin (b)", "zz", "!a", "n>5", "a>1", "a=b,n=6"] {
            assert!(!hit(no, &l), "{no}");
        }
        for bad in ["a=b,", "=b", "a in b", "a in (b", "a ~ b", "a=b c", "a>x", "-a", "a=-"] {
            assert!(Labels::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn fields() {
        let o = json!({"metadata": {"name": "n"}, "spec": {"x": 1, "b": true}});
        for yes in [
            "",
            "metadata.name=n",
            "metadata.name==n",
            "metadata.name!=m",
            "spec.x=1,spec.b=true",
            "spec.none=",
            "spec.none!=a",
        ] {
            assert!(Fields::parse(yes).unwrap().matches(&o), "{yes}");
        }
        assert!(!Fields::parse("metadata.name=m").unwrap().matches(&o));
        assert!(Fields::parse("metadata.name").is_err());
        assert_eq!(Fields::parse(r"a=x\,y\\z").unwrap().0[0].value, r"x,y\z");
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in ".*") {
            let _ = Labels::parse(&text);
            let _ = Fields::parse(&text);
        }
    }
}
