//! Reading a request: what its path addresses, what its query asks, what its `Accept` header wants. Pure parsing.

use crate::error::{About, ApiError, Cause};
use serde_json::json;

/// What a path addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Root,
    CoreVersions,
    Groups,
    Group(String),
    Resources { group: String, version: String },
    OpenApiV2,
    OpenApiV3Index,
    OpenApiV3(String),
    Health,
    Version,
    Resource(ResourcePath),
}

/// A resource's path, split up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ResourcePath {
    pub group: String,
    pub version: String,
    pub namespace: Option<String>,
    pub plural: String,
    pub name: Option<String>,
    pub subresource: Option<String>,
}

impl Target {
    pub fn parse(path: &str) -> Option<Self> {
        let decoded =
            path.trim_matches('/').split('/').map(|s| percent_decode(s, false)).collect::<Option<Vec<_>>>()?;
        let parts: Vec<&str> = decoded.iter().map(String::as_str).collect();
        Some(match parts.as_slice() {
            [""] => Self::Root,
            ["api"] => Self::CoreVersions,
            ["apis"] => Self::Groups,
            ["api", version] => Self::Resources { group: String::new(), version: (*version).into() },
            ["apis", group] => Self::Group((*group).into()),
            ["apis", group, version] => Self::Resources { group: (*group).into(), version: (*version).into() },
            ["api", version, rest @ ..] => Self::Resource(resource("", version, rest)?),
            ["apis", group, version, rest @ ..] => Self::Resource(resource(group, version, rest)?),
            ["openapi", "v2"] => Self::OpenApiV2,
            ["openapi", "v3"] => Self::OpenApiV3Index,
            ["openapi", "v3", rest @ ..] => Self::OpenApiV3(rest.join("/")),
            ["healthz" | "livez" | "readyz", ..] => Self::Health,
            ["version"] => Self::Version,
            _ => return None,
        })
    }
}

fn resource(group: &str, version: &str, rest: &[&str]) -> Option<ResourcePath> {
    let base = ResourcePath { group: group.into(), version: version.into(), ..ResourcePath::default() };
    let (namespace, rest) = match rest {
        // a namespace's own subresources are no resources inside it
        ["namespaces", _, "status" | "finalize"] => (None, rest),
        ["namespaces", namespace, inner @ ..] if !inner.is_empty() => (Some((*namespace).to_owned()), inner),
        _ => (None, rest),
    };
    let (plural, name, subresource) = match rest {
        [plural] => (*plural, None, None),
        [plural, name] => (*plural, Some(*name), None),
        [plural, name, sub] => (*plural, Some(*name), Some(*sub)),
        _ => return None,
    };
    if plural.is_empty() || name.is_some_and(str::is_empty) {
        return None;
    }
    Some(ResourcePath {
        namespace,
        plural: plural.into(),
        name: name.map(Into::into),
        subresource: subresource.map(Into::into),
        ..base
    })
}

/// Decodes `%41`, and `+` as a space in queries. None where it is not UTF-8 or cut short.
fn percent_decode(text: &str, plus: bool) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        out.push(match b {
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            b'+' if plus => b' ',
            other => other,
        });
    }
    String::from_utf8(out).ok()
}

/// How unknown fields are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) enum FieldValidation {
    Ignore,
    #[default]
    Warn,
    Strict,
}

/// The query of a request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub fn parse(query: &str) -> Result<Self, ApiError> {
        let pairs = query.split('&').filter(|p| !p.is_empty()).map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((percent_decode(key, true)?, percent_decode(value, true)?))
        });
        pairs
            .collect::<Option<Vec<_>>>()
            .map(Self)
            .ok_or_else(|| ApiError::bad_request("the query of the request is malformed"))
    }

    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str()).filter(|v| !v.is_empty())
    }

    pub fn flag(&self, key: &str) -> bool {
        // Kubernetes: present is true, unless it says otherwise
        self.0
            .iter()
            .find(|(k, _)| k == key)
            .is_some_and(|(_, v)| !matches!(v.to_ascii_lowercase().as_str(), "false" | "0"))
    }

    pub fn number<T: std::str::FromStr>(&self, key: &str) -> Result<Option<T>, ApiError> {
        self.get(key)
            .map(|v| v.parse().map_err(|_| ApiError::bad_request(format!("{key}: {v:?} is not a number"))))
            .transpose()
    }

    pub fn dry_run(&self) -> Result<bool, ApiError> {
        let mut all = false;
        for (_, value) in self.0.iter().filter(|(k, v)| k == "dryRun" && !v.is_empty()) {
            if value != "All" {
                let cause = Cause::not_supported("dryRun", &json!([value]), &[json!("All")]);
                return Err(ApiError::invalid(About::new("meta.k8s.io", "CreateOptions", ""), vec![cause]));
            }
            all = true;
        }
        Ok(all)
    }

    /// How unknown fields are taken; `strict` says what holds where the client does not.
    pub fn field_validation(&self, strict: bool) -> Result<FieldValidation, ApiError> {
        match self.get("fieldValidation") {
            None if strict => Ok(FieldValidation::Strict),
            None | Some("Warn") => Ok(FieldValidation::Warn),
            Some("Ignore") => Ok(FieldValidation::Ignore),
            Some("Strict") => Ok(FieldValidation::Strict),
            Some(other) => {
                let cause = Cause::not_supported(
                    "fieldValidation",
                    &json!(other),
                    &[json!("Ignore"), json!("Strict"), json!("Warn")],
                );
                Err(ApiError::invalid(About::new("meta.k8s.io", "CreateOptions", ""), vec![cause]))
            }
        }
    }
}

/// The shape in which objects are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Plain,
    Table,
    Metadata,
}

/// What an `Accept` header settles on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Accept {
    pub shape: Shape,
    pub yaml: bool,
    /// `v2` or `v2beta1` where aggregated discovery is wanted.
    pub aggregated: Option<&'static str>,
}

impl Accept {
    pub fn plain() -> Self {
        Self { shape: Shape::Plain, yaml: false, aggregated: None }
    }

    /// The first media type of the header that this server can answer with. None: there is none.
    pub fn parse(header: Option<&str>) -> Option<Self> {
        let Some(header) = header.filter(|h| !h.trim().is_empty()) else { return Some(Self::plain()) };
        header.split(',').find_map(|part| {
            let mut params = part.split(';').map(str::trim);
            let media = params.next()?.to_ascii_lowercase();
            let yaml = match media.as_str() {
                "application/json" | "*/*" | "application/*" | "text/plain" => false,
                "application/yaml" => true,
                _ => return None,
            };
            let mut accept = Self { yaml, ..Self::plain() };
            let (mut kind, mut group, mut version) = ("", "", "");
            for param in params {
                match param.split_once('=') {
                    Some(("as", v)) => kind = v,
                    Some(("g", v)) => group = v,
                    Some(("v", v)) => version = v,
                    _ => {}
                }
            }
            match (kind, group, version) {
                ("", ..) => {}
                ("Table", "meta.k8s.io", "v1") => accept.shape = Shape::Table,
                ("PartialObjectMetadata" | "PartialObjectMetadataList", "meta.k8s.io", "v1") => {
                    accept.shape = Shape::Metadata
                }
                ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2") => accept.aggregated = Some("v2"),
                ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2beta1") => accept.aggregated = Some("v2beta1"),
                _ => return None,
            }
            Some(accept)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn path(p: &str) -> ResourcePath {
        match Target::parse(p) {
            Some(Target::Resource(r)) => r,
            other => panic!("{p}: {other:?}"),
        }
    }

    #[test]
    fn paths() {
        assert_eq!(Target::parse("/"), Some(Target::Root));
        assert_eq!(Target::parse("/readyz/ping"), Some(Target::Health));
        assert_eq!(Target::parse("/openapi/v3/apis/a/v1"), Some(Target::OpenApiV3("apis/a/v1".into())));
        assert_eq!(Target::parse("/nonsense"), None);
        let r = path("/apis/g.io/v1/namespaces/ns/widgets/w%2D1/status");
        assert_eq!(
            (r.group.as_str(), r.namespace.as_deref(), r.name.as_deref(), r.subresource.as_deref()),
            ("g.io", Some("ns"), Some("w-1"), Some("status"))
        );
        let ns = path("/api/v1/namespaces/x/finalize");
        assert_eq!(
            (ns.plural.as_str(), ns.name.as_deref(), ns.subresource.as_deref()),
            ("namespaces", Some("x"), Some("finalize"))
        );
        let ns = path("/api/v1/namespaces/x");
        assert_eq!((ns.namespace, ns.name.as_deref()), (None, Some("x")));
        let list = path("/api/v1/namespaces/x/events");
        assert_eq!((list.namespace.as_deref(), list.plural.as_str(), list.name), (Some("x"), "events", None));
        assert_eq!(Target::parse("/api/v1/a/b/c/d"), None);
    }

    #[test]
    fn queries() {
        let q = Query::parse("labelSelector=a%3Db%2Cc&watch&limit=5&allow=false&dryRun=All").unwrap();
        assert_eq!(
            (q.get("labelSelector"), q.flag("watch"), q.flag("allow"), q.dry_run().unwrap()),
            (Some("a=b,c"), true, false, true)
        );
        assert_eq!(q.number::<u32>("limit").unwrap(), Some(5));
        assert_eq!(Query::parse("dryRun=Some").unwrap().dry_run().unwrap_err().code, 422);
        assert!(Query::parse("a=%zz").is_err());
    }

    #[test]
    fn accepts() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(Accept::parse(Some(kubectl)).unwrap().shape, Shape::Table);
        assert_eq!(Accept::parse(Some("application/vnd.kubernetes.protobuf,application/json")), Some(Accept::plain()));
        assert_eq!(Accept::parse(Some("application/vnd.kubernetes.protobuf")), None);
        assert!(Accept::parse(Some("application/yaml")).unwrap().yaml);
        let discovery = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
        assert_eq!(Accept::parse(Some(discovery)).unwrap().aggregated, Some("v2"));
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in ".*") {
            Target::parse(&text);
            let _ = Query::parse(&text);
            Accept::parse(Some(&text));
        }
    }
}
