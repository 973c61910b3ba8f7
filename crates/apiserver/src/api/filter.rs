//! Which objects of a type a request is about: namespace, label selector, field selector.

use super::request::Query;
use crate::convert;
use crate::error::ApiError;
use crate::registry::{Found, Served};
use crate::selector::{Fields, Labels};
use crate::store::object::Object;

/// A parsed selection.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filter {
    pub labels: Labels,
    pub fields: Fields,
}

impl Filter {
    pub fn parse(served: &Served, found: &Found, query: &Query) -> Result<Self, ApiError> {
        let labels = Labels::parse(query.get("labelSelector").unwrap_or_default()).map_err(ApiError::bad_request)?;
        let mut fields =
            Fields::parse(query.get("fieldSelector").unwrap_or_default()).map_err(ApiError::bad_request)?;
        for term in &mut fields.0 {
            let stored = convert::stored_path(&found.group, &term.path);
            let known = matches!(stored.as_str(), "metadata.name" | "metadata.namespace")
                || (!stored.starts_with("metadata.") && served.schema.has_path(&stored));
            if !known {
                return Err(ApiError::bad_request(format!("field label not supported: {}", term.path)));
            }
            term.path = stored;
        }
        Ok(Self { labels, fields })
    }

    /// Nothing is selected away.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// Adds the demand that the object has this name.
    pub fn named(mut self, name: &str) -> Self {
        self.fields.0.push(crate::selector::FieldTerm {
            path: "metadata.name".into(),
            equal: true,
            value: name.into(),
        });
        self
    }

    pub fn matches(&self, object: &Object) -> bool {
        if !self.labels.matches(|name| object.label(name)) {
            return false;
        }
        if self.fields.only_identity() {
            return self.fields.matches_with(|path| {
                if path == "metadata.name" { object.key.name.to_string() } else { object.key.namespace.to_string() }
            });
        }
        self.fields.matches(&object.value())
    }
}
