//! What the owner of the server's kinds decides about a write, besides what their schemas say.

use crate::error::{About, ApiError, Cause};
use crate::registry::Registry;
use crate::resource::ResourceType;
use crate::store::Txn;
use crate::store::object::Key;
use serde_json::Value;
use std::sync::Arc;

/// What a write does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A new object.
    Create,
    /// A new state of everything but the status.
    Update,
    /// A new status.
    UpdateStatus,
    /// A deletion, or its first step where finalizers hold the object.
    Delete,
}

/// A write that is about to happen. Objects carry `apiVersion` and `kind`.
#[derive(Debug)]
pub struct AdmissionRequest<'a> {
    /// What the write does.
    pub operation: Operation,
    /// The type of the object.
    pub resource: &'a ResourceType,
    /// The object's namespace, where its type has one.
    pub namespace: Option<&'a str>,
    /// The object's name. While defaults are set it is empty for an object whose name is still to be generated.
    pub name: &'a str,
    /// The stored object, except for a creation.
    pub old: Option<&'a Value>,
    /// The object to be stored, except for a deletion. None while defaults are set: there it is the object itself.
    pub new: Option<&'a Value>,
    /// Whether the write will be forgotten after it was answered.
    pub dry_run: bool,
}

/// Read access to the store, inside the same transaction as the write that is judged: nothing can change in between.
pub trait View {
    /// One object, with `apiVersion` (the preferred one) and `kind`.
    fn get(&self, group: &str, plural: &str, namespace: Option<&str>, name: &str) -> Option<Arc<Value>>;
    /// All objects of a type, of one namespace or of all, by namespace and name.
    fn list(&self, group: &str, plural: &str, namespace: Option<&str>) -> Vec<Arc<Value>>;
    /// The objects whose field at a dotted path (`spec.vm`) is this string, number or boolean, of one namespace or of all.
    ///
    /// The server keeps an index for every path that was ever asked for, so that the cost is that of what is found;
    /// [`View::list`] reads every object.
    fn find(&self, group: &str, plural: &str, namespace: Option<&str>, field: &str, value: &str) -> Vec<Arc<Value>> {
        let mut all = self.list(group, plural, namespace);
        all.retain(|object| crate::store::index::field(object, field).as_deref() == Some(value));
        all
    }
}

/// Decides about writes. Both functions run on the one writer thread: they must be quick and must not wait for anything.
/// They are called for objects of every type, the built-in ones included.
pub trait Admission: Send + Sync + 'static {
    /// Fills in what the client left out, after the schema's own defaults and before validation. Not called for deletions.
    fn default(&self, req: &AdmissionRequest, object: &mut Value, view: &dyn View) -> Result<(), Denied>;
    /// Refuses what cannot work. The object has passed its schema.
    fn validate(&self, req: &AdmissionRequest, view: &dyn View) -> Result<(), Denied>;
}

/// Admits everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct AdmitAll;

impl Admission for AdmitAll {
    fn default(&self, _: &AdmissionRequest, _: &mut Value, _: &dyn View) -> Result<(), Denied> {
        Ok(())
    }

    fn validate(&self, _: &AdmissionRequest, _: &dyn View) -> Result<(), Denied> {
        Ok(())
    }
}

/// A refusal by admission. It becomes a `Status` in Kubernetes' words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    /// HTTP status: 403, 409, 422, …
    pub code: u16,
    /// Kubernetes' reason: `Forbidden`, `Conflict`, `Invalid`, …
    pub reason: String,
    /// The sentence for the user. Not used where there are causes and the reason is `Invalid`: they make the sentence.
    pub message: String,
    /// The fields that are wrong.
    pub causes: Vec<Cause>,
}

impl Denied {
    /// 422 `Invalid`: the named fields are wrong.
    pub fn invalid(causes: Vec<Cause>) -> Self {
        Self { code: 422, reason: "Invalid".into(), message: String::new(), causes }
    }

    /// 403 `Forbidden`.
    pub fn forbidden(why: impl Into<String>) -> Self {
        Self { code: 403, reason: "Forbidden".into(), message: why.into(), causes: Vec::new() }
    }

    /// 409 `Conflict`.
    pub fn conflict(why: impl Into<String>) -> Self {
        Self { code: 409, reason: "Conflict".into(), message: why.into(), causes: Vec::new() }
    }

    pub(crate) fn into_error(self, resource: &ResourceType, name: &str) -> ApiError {
        let by_plural = || About::new(&resource.group, &resource.plural, name);
        let by_kind = About::new(&resource.group, &resource.kind, name);
        let error = match self.reason.as_str() {
            "Invalid" if !self.causes.is_empty() => ApiError::invalid(by_kind, self.causes.clone()),
            "Invalid" => {
                let mut error = ApiError::invalid(by_kind, vec![Cause::new("", "FieldValueInvalid", self.message)]);
                error.causes.clear();
                error
            }
            "Forbidden" => ApiError::forbidden(by_plural(), self.message),
            "Conflict" => ApiError::conflict(by_plural(), self.message),
            reason => ApiError { about: Some(Box::new(by_plural())), ..ApiError::new(self.code, reason, self.message) },
        };
        let code = if (400..600).contains(&self.code) { self.code } else { 500 };
        ApiError { code, ..error }.with_causes(self.causes)
    }
}

/// The view that admission gets: a transaction, with the registry to name types.
pub(crate) struct TxnView<'a, 'b> {
    pub registry: &'a Registry,
    pub txn: &'a Txn<'b>,
}

impl View for TxnView<'_, '_> {
    fn get(&self, group: &str, plural: &str, namespace: Option<&str>, name: &str) -> Option<Arc<Value>> {
        let id = self.registry.find(group, plural)?;
        let served = self.registry.get(id);
        let object = self.txn.get(id, &Key::new(namespace.unwrap_or_default(), name))?;
        Some(Arc::new(object.typed_value(&served.api_version(), &served.spec.kind)))
    }

    fn list(&self, group: &str, plural: &str, namespace: Option<&str>) -> Vec<Arc<Value>> {
        let Some(id) = self.registry.find(group, plural) else { return Vec::new() };
        let served = self.registry.get(id);
        let objects = self.txn.list(id, namespace);
        objects.iter().map(|o| Arc::new(o.typed_value(&served.api_version(), &served.spec.kind))).collect()
    }

    fn find(&self, group: &str, plural: &str, namespace: Option<&str>, field: &str, value: &str) -> Vec<Arc<Value>> {
        let Some(id) = self.registry.find(group, plural) else { return Vec::new() };
        let served = self.registry.get(id);
        let objects = self.txn.find(id, namespace, field, value);
        objects.iter().map(|o| Arc::new(o.typed_value(&served.api_version(), &served.spec.kind))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn denials_speak_kubernetes() {
        let t = crate::builtin::types().remove(0).spec;
        let invalid = Denied::invalid(vec![Cause::invalid("spec.x", &json!(1), "must be 2")]).into_error(&t, "n");
        assert_eq!(invalid.message, r#"Namespace "n" is invalid: spec.x: Invalid value: 1: must be 2"#);
        let forbidden = Denied::forbidden("it is in use by a and b").into_error(&t, "n");
        assert_eq!(
            (forbidden.code, forbidden.message.as_str()),
            (403, r#"namespaces "n" is forbidden: it is in use by a and b"#)
        );
        let other =
            Denied { code: 418, reason: "Teapot".into(), message: "short and stout".into(), causes: Vec::new() }
                .into_error(&t, "n");
        assert_eq!((other.code, other.reason.as_str(), other.message.as_str()), (418, "Teapot", "short and stout"));
    }
}
