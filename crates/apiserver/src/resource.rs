//! What the server is told to serve: resource types, handed in as data or read from a CustomResourceDefinition.
//!
//! Knows nothing of any particular kind; the kinds that are always served are in `builtin`.

use serde_json::Value;

/// One served resource type.
#[derive(Clone, Debug)]
pub struct ResourceType {
    /// API group; empty for the core group.
    pub group: String,
    /// Served versions, preferred first. They share one schema; objects are answered with the version that was asked for.
    pub versions: Vec<String>,
    /// `NetworkInterface`.
    pub kind: String,
    /// `networkinterfaces`, as in the URL.
    pub plural: String,
    /// `networkinterface`.
    pub singular: String,
    /// What kubectl accepts besides the names, `nic`.
    pub short_names: Vec<String>,
    /// Groups of kinds that kubectl lists together, `all`.
    pub categories: Vec<String>,
    /// Whether objects live in a namespace.
    pub namespaced: bool,
    /// Whether `/status` is a subresource of its own.
    pub status_subresource: bool,
    /// OpenAPI v3 structural schema of the whole object, as in a CustomResourceDefinition.
    pub schema: Value,
    /// Printer columns beside the name.
    pub columns: Vec<Column>,
    /// Unknown fields are refused unless the client asks for less (`fieldValidation=Warn` or `Ignore`), instead of being
    /// dropped with a warning, which is what Kubernetes does unless the client asks for more.
    pub strict: bool,
}

/// One printer column of a resource type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Heading.
    pub name: String,
    /// `string`, `integer`, `number`, `boolean` or `date` (shown as an age).
    pub r#type: String,
    /// Where the value is, `.spec.x` or `.status.conditions[?(@.type=="Ready")].status`.
    pub json_path: String,
    /// What the column shows.
    pub description: String,
    /// 0 is always shown, more only with `-o wide`.
    pub priority: i32,
}

/// A CustomResourceDefinition that cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum CrdError {
    /// A field is absent or has the wrong type.
    #[error("CustomResourceDefinition: {0} is missing or of the wrong type")]
    Field(&'static str),
    /// No version is served.
    #[error("CustomResourceDefinition: no version is served")]
    NoVersion,
}

impl ResourceType {
    /// Reads an `apiextensions.k8s.io/v1` CustomResourceDefinition. The schema and columns are those of the storage version;
    /// served versions keep their order, with the storage version first.
    pub fn from_crd(crd: &Value) -> Result<Self, CrdError> {
        let text = |path: &'static str| {
            let value = path.split('.').try_fold(crd, |v, key| v.get(key));
            value.and_then(Value::as_str).map(str::to_owned).ok_or(CrdError::Field(path))
        };
        let texts = |value: &Value| -> Vec<String> {
            value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let versions = crd["spec"]["versions"].as_array().ok_or(CrdError::Field("spec.versions"))?;
        let served = |v: &&Value| v["served"].as_bool() == Some(true);
        let stored = |v: &&Value| v["storage"].as_bool() == Some(true);
        let main = versions
            .iter()
            .filter(served)
            .find(stored)
            .or_else(|| versions.iter().find(served))
            .ok_or(CrdError::NoVersion)?;
        let name = |v: &Value| v["name"].as_str().map(str::to_owned).ok_or(CrdError::Field("spec.versions[].name"));
        let mut names = vec![name(main)?];
        for version in versions.iter().filter(served) {
            let name = name(version)?;
            if !names.contains(&name) {
                names.push(name);
            }
        }
        let kind = text("spec.names.kind")?;
        let mut columns: Vec<Column> = main["additionalPrinterColumns"]
            .as_array()
            .into_iter()
            .flatten()
            .map(Column::from_crd)
            .collect::<Result<_, _>>()?;
        if columns.is_empty() {
            columns.push(Column::age());
        }
        let singular = text("spec.names.singular").unwrap_or_default();
        Ok(Self {
            group: text("spec.group")?,
            versions: names,
            singular: if singular.is_empty() { kind.to_lowercase() } else { singular },
            kind,
            plural: text("spec.names.plural")?,
            short_names: texts(&crd["spec"]["names"]["shortNames"]),
            categories: texts(&crd["spec"]["names"]["categories"]),
            namespaced: text("spec.scope")? == "Namespaced",
            status_subresource: main["subresources"]["status"].is_object(),
            schema: main["schema"]
                .get("openAPIV3Schema")
                .cloned()
                .ok_or(CrdError::Field("spec.versions[].schema.openAPIV3Schema"))?,
            columns,
            strict: false,
        })
    }
}

impl Column {
    fn from_crd(value: &Value) -> Result<Self, CrdError> {
        let text = |key: &str| value[key].as_str().map(str::to_owned);
        Ok(Self {
            name: text("name").ok_or(CrdError::Field("additionalPrinterColumns[].name"))?,
            r#type: text("type").ok_or(CrdError::Field("additionalPrinterColumns[].type"))?,
            json_path: text("jsonPath").ok_or(CrdError::Field("additionalPrinterColumns[].jsonPath"))?,
            description: text("description").unwrap_or_default(),
            priority: value["priority"].as_i64().and_then(|p| i32::try_from(p).ok()).unwrap_or(0),
        })
    }

    /// The column that every kind without columns of its own gets.
    pub fn age() -> Self {
        Self::new("Age", "date", ".metadata.creationTimestamp")
    }

    /// A column that is always shown and needs no description.
    pub fn new(name: &str, r#type: &str, json_path: &str) -> Self {
        Self {
            name: name.into(),
            r#type: r#type.into(),
            json_path: json_path.into(),
            description: String::new(),
            priority: 0,
        }
    }

    /// The same column, shown only with `-o wide`.
    #[must_use]
    pub fn wide(mut self) -> Self {
        self.priority = 1;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn crd() -> Value {
        json!({
            "spec": {
                "group": "g.io", "scope": "Namespaced",
                "names": {"kind": "Thing", "plural": "things", "shortNames": ["th"]},
                "versions": [
                    {"name": "v1alpha1", "served": true, "storage": false, "schema": {"openAPIV3Schema": {"type": "object"}}},
                    {"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}, "subresources": {"status": {}}},
                    {"name": "v0", "served": false, "storage": false},
                ],
            }
        })
    }

    #[test]
    fn reads_a_crd() {
        let t = ResourceType::from_crd(&crd()).unwrap();
        assert_eq!(
            (t.versions, t.singular.as_str(), t.namespaced, t.status_subresource),
            (vec!["v1".into(), "v1alpha1".into()], "thing", true, true)
        );
        assert_eq!(t.columns, vec![Column::age()]);
    }

    #[test]
    fn says_what_is_missing() {
        let mut broken = crd();
        broken["spec"]["versions"] = json!([]);
        assert!(matches!(ResourceType::from_crd(&broken), Err(CrdError::NoVersion)));
        broken["spec"]["names"] = json!({});
        broken["spec"]["versions"] = crd()["spec"]["versions"].clone();
        assert_eq!(
            ResourceType::from_crd(&broken).unwrap_err().to_string(),
            "CustomResourceDefinition: spec.names.kind is missing or of the wrong type"
        );
    }
}
