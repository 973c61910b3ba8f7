//! What a write means, inside its transaction: the semantics of create, update and delete that Kubernetes' clients rely on.
//!
//! Works on values and a [`Txn`]; knows nothing of HTTP. Writes by clients and by the garbage collector go through the same rules.

pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod special;
pub(crate) mod update;

use crate::admission::{Admission, AdmissionRequest, Operation, TxnView};
use crate::error::{About, ApiError, Cause};
use crate::meta;
use crate::registry::{Registry, Served};
use crate::schema::{shape, validate};
use crate::store::Txn;
use crate::store::object::Key;
use crate::store::state::TypeId;
use serde_json::Value;

/// What stays the same during one write.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    pub registry: &'a Registry,
    pub admission: &'a dyn Admission,
    pub id: TypeId,
    pub namespace: Option<&'a str>,
    pub dry_run: bool,
}

impl<'a> Context<'a> {
    pub fn served(&self) -> &'a Served {
        self.registry.get(self.id)
    }

    pub fn key(&self, name: &str) -> Key {
        Key::new(self.namespace.unwrap_or_default(), name)
    }

    /// Names an object by its plural, as most refusals do.
    pub fn about(&self, name: &str) -> About {
        about(self.served(), name)
    }

    /// Names an object by its kind, as `Invalid` does.
    pub fn about_kind(&self, name: &str) -> About {
        About::new(&self.served().spec.group, &self.served().spec.kind, name)
    }

    fn request<'r>(
        &self,
        operation: Operation,
        name: &'r str,
        old: Option<&'r Value>,
        new: Option<&'r Value>,
    ) -> AdmissionRequest<'r>
    where
        'a: 'r,
    {
        AdmissionRequest {
            operation,
            resource: &self.served().spec,
            namespace: self.namespace,
            name,
            old,
            new,
            dry_run: self.dry_run,
        }
    }

    /// Lets admission fill in an object.
    pub fn admit_defaults(
        &self,
        txn: &Txn,
        operation: Operation,
        name: &str,
        old: Option<&Value>,
        object: &mut Value,
    ) -> Result<(), ApiError> {
        let view = TxnView { registry: self.registry, txn };
        let request = self.request(operation, name, old, None);
        self.admission.default(&request, object, &view).map_err(|denied| denied.into_error(&self.served().spec, name))
    }

    /// Lets admission refuse a write.
    pub fn admit(
        &self,
        txn: &Txn,
        operation: Operation,
        name: &str,
        old: Option<&Value>,
        new: Option<&Value>,
    ) -> Result<(), ApiError> {
        let view = TxnView { registry: self.registry, txn };
        let request = self.request(operation, name, old, new);
        self.admission.validate(&request, &view).map_err(|denied| denied.into_error(&self.served().spec, name))
    }
}

/// Names an object by its plural.
pub(crate) fn about(served: &Served, name: &str) -> About {
    About::new(&served.spec.group, &served.spec.plural, name)
}

/// Brings a decoded object into stored shape: metadata in order, unknown fields out, schema defaults in.
/// Returns the paths of unknown fields.
pub(crate) fn reshape(served: &Served, version: &str, object: &mut Value) -> Result<Vec<String>, ApiError> {
    let kind = &served.spec.kind;
    let mut unknown = meta::normalize(object).map_err(|why| cannot_be_handled(kind, version, &why))?;
    unknown.extend(shape::prune(&served.schema, object));
    shape::default(&served.schema, object);
    Ok(unknown)
}

/// Kubernetes' sentence for a body that does not decode into its kind.
pub(crate) fn cannot_be_handled(kind: &str, version: &str, why: &str) -> ApiError {
    ApiError::bad_request(format!("{kind} in version {version:?} cannot be handled as a {kind}: {why}"))
}

/// What metadata rules and the schema have against an object.
fn causes(served: &Served, object: &Value) -> Vec<Cause> {
    let mut causes = meta::validate(object, served.rules.name);
    causes.extend(validate::validate(&served.schema, object, ""));
    causes
}

/// Everything but metadata, and but the status where that is written apart, is the same.
fn same_wish(served: &Served, a: &Value, b: &Value) -> bool {
    let wish = |v: &Value| -> Vec<(String, Value)> {
        let ignored =
            |k: &str| matches!(k, "metadata" | "apiVersion" | "kind") || (k == "status" && served.has_status());
        let mut members: Vec<_> = v
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(k, _)| !ignored(k))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        members.sort_by(|x, y| x.0.cmp(&y.0));
        members
    };
    wish(a) == wish(b)
}

/// The present moment as Kubernetes writes it.
pub(crate) fn now() -> String {
    meta::timestamp(chrono::Utc::now())
}
