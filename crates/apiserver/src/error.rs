//! What a client is told when a request fails: Kubernetes' `Status` objects with their reasons, codes and wording.
//!
//! Every failure on the request path is an [`ApiError`]; it never carries what only an operator should read
//! (paths, SQL): that goes to the log where it happens.

use serde_json::{Map, Value, json};

/// One field that is wrong, as listed under `details.causes` of a `Status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// The field's path, `spec.vlan.id`.
    pub field: String,
    /// What is wrong with it, `Invalid value: 5000: must be between 1 and 4094`.
    pub message: String,
    /// Kubernetes' cause type, `FieldValueInvalid`.
    pub reason: String,
}

impl Cause {
    /// A field whose value is not acceptable. `shown` is the value as it appears in the message.
    pub fn invalid(field: impl Into<String>, shown: &Value, why: impl std::fmt::Display) -> Self {
        Self::new(field, "FieldValueInvalid", format!("Invalid value: {}: {why}", show(shown)))
    }

    /// A field that must be present.
    pub fn required(field: impl Into<String>, why: &str) -> Self {
        let message = if why.is_empty() { "Required value".to_owned() } else { format!("Required value: {why}") };
        Self::new(field, "FieldValueRequired", message)
    }

    /// A field that must not be set or changed.
    pub fn forbidden(field: impl Into<String>, why: impl std::fmt::Display) -> Self {
        Self::new(field, "FieldValueForbidden", format!("Forbidden: {why}"))
    }

    /// A value outside an enumeration.
    pub fn not_supported<'a>(
        field: impl Into<String>,
        shown: &Value,
        allowed: impl IntoIterator<Item = &'a Value>,
    ) -> Self {
        let list: Vec<String> = allowed.into_iter().map(show).collect();
        let message = format!("Unsupported value: {}: supported values: {}", show(shown), list.join(", "));
        Self::new(field, "FieldValueNotSupported", message)
    }

    /// A value that occurs twice where it may occur once.
    pub fn duplicate(field: impl Into<String>, shown: &Value) -> Self {
        Self::new(field, "FieldValueDuplicate", format!("Duplicate value: {}", show(shown)))
    }

    /// A cause with any of Kubernetes' cause types.
    pub fn new(field: impl Into<String>, reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into(), reason: reason.into() }
    }

    fn sentence(&self) -> String {
        if self.field.is_empty() { self.message.clone() } else { format!("{}: {}", self.field, self.message) }
    }
}

/// A value the way Kubernetes prints it inside an error message: strings quoted, the rest as JSON.
pub(crate) fn show(value: &Value) -> String {
    value.to_string()
}

/// The object that a failure is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct About {
    pub group: String,
    /// The plural for most failures, the kind for `Invalid`.
    pub kind: String,
    pub name: String,
    pub uid: String,
}

impl About {
    pub fn new(group: &str, kind: &str, name: &str) -> Self {
        Self { group: group.into(), kind: kind.into(), name: name.into(), uid: String::new() }
    }

    /// `widgets.conformance.multihome.io`, or `namespaces` in the core group.
    fn qualified(&self) -> String {
        if self.group.is_empty() { self.kind.clone() } else { format!("{}.{}", self.kind, self.group) }
    }
}

/// A refusal, ready to be sent as a `Status`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct ApiError {
    pub code: u16,
    pub reason: String,
    pub message: String,
    pub about: Option<Box<About>>,
    pub causes: Vec<Cause>,
    pub retry_after: Option<u32>,
}

impl ApiError {
    pub fn new(code: u16, reason: &str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason: reason.into(),
            message: message.into(),
            about: None,
            causes: Vec::new(),
            retry_after: None,
        }
    }

    fn about(mut self, about: About) -> Self {
        self.about = Some(Box::new(about));
        self
    }

    pub fn with_causes(mut self, causes: Vec<Cause>) -> Self {
        self.causes = causes;
        self
    }

    pub fn no_such_path() -> Self {
        Self::new(404, "NotFound", "the server could not find the requested resource").about(About::default())
    }

    pub fn not_found(about: About) -> Self {
        Self::new(404, "NotFound", format!("{} {:?} not found", about.qualified(), about.name)).about(about)
    }

    pub fn already_exists(about: About) -> Self {
        Self::new(409, "AlreadyExists", format!("{} {:?} already exists", about.qualified(), about.name)).about(about)
    }

    pub fn conflict(about: About, why: impl std::fmt::Display) -> Self {
        let message = format!("Operation cannot be fulfilled on {} {:?}: {why}", about.qualified(), about.name);
        Self::new(409, "Conflict", message).about(about)
    }

    pub fn stale(about: About) -> Self {
        Self::conflict(
            about,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    pub fn forbidden(about: About, why: impl std::fmt::Display) -> Self {
        let message = if about.name.is_empty() {
            format!("{} is forbidden: {why}", about.qualified())
        } else {
            format!("{} {:?} is forbidden: {why}", about.qualified(), about.name)
        };
        Self::new(403, "Forbidden", message).about(about)
    }

    /// `about.kind` is the kind here, not the plural: `Widget.conformance.multihome.io "a" is invalid: …`.
    pub fn invalid(about: About, causes: Vec<Cause>) -> Self {
        let mut sentences: Vec<String> = Vec::new();
        for sentence in causes.iter().map(Cause::sentence) {
            if !sentences.contains(&sentence) {
                sentences.push(sentence);
            }
        }
        let why = match sentences.as_slice() {
            [] => "<nil>".to_owned(),
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        Self::new(422, "Invalid", format!("{} {:?} is invalid: {why}", about.qualified(), about.name))
            .about(about)
            .with_causes(causes)
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    pub fn method_not_allowed() -> Self {
        Self::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
            .about(About::default())
    }

    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    pub fn unsupported_media_type(accepted: &str) -> Self {
        let message =
            format!("the body of the request was in an unknown format - accepted media types include: {accepted}");
        Self::new(415, "UnsupportedMediaType", message)
    }

    pub fn not_acceptable() -> Self {
        Self::new(
            406,
            "NotAcceptable",
            "only the following media types are accepted: application/json, application/yaml",
        )
    }

    pub fn too_large(limit: usize) -> Self {
        Self::new(413, "RequestEntityTooLarge", format!("Request entity too large: limit is {limit}"))
    }

    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    pub fn internal(message: impl std::fmt::Display) -> Self {
        Self::new(500, "InternalError", format!("Internal error occurred: {message}"))
    }

    /// The `Status` object, without apiVersion and kind where it is embedded in a watch event they are present too.
    pub fn status(&self) -> Value {
        let mut details = Map::new();
        if let Some(about) = &self.about {
            for (key, value) in
                [("name", &about.name), ("group", &about.group), ("kind", &about.kind), ("uid", &about.uid)]
            {
                if !value.is_empty() {
                    details.insert(key.into(), value.as_str().into());
                }
            }
        }
        if !self.causes.is_empty() {
            let causes = self.causes.iter().map(|c| {
                let mut cause = Map::new();
                for (key, value) in [("reason", &c.reason), ("message", &c.message), ("field", &c.field)] {
                    if !value.is_empty() {
                        cause.insert(key.into(), value.as_str().into());
                    }
                }
                Value::Object(cause)
            });
            details.insert("causes".into(), causes.collect());
        }
        if let Some(seconds) = self.retry_after {
            details.insert("retryAfterSeconds".into(), seconds.into());
        }
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message,
        });
        if !self.reason.is_empty() {
            status["reason"] = self.reason.as_str().into();
        }
        if self.about.is_some() || !details.is_empty() {
            status["details"] = Value::Object(details);
        }
        status["code"] = self.code.into();
        status
    }
}

/// The answer to a deletion that took effect at once.
pub(crate) fn success(about: &About) -> Value {
    let mut details = Map::new();
    for (key, value) in [("name", &about.name), ("group", &about.group), ("kind", &about.kind), ("uid", &about.uid)] {
        if !value.is_empty() {
            details.insert(key.into(), value.as_str().into());
        }
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wording_is_kubernetes_own() {
        let about = About::new("multihome.io", "Network", "x");
        let one = ApiError::invalid(
            about.clone(),
            vec![Cause::invalid("spec.vlan.id", &json!(5000), "must be at most 4094")],
        );
        assert_eq!(
            one.message,
            r#"Network.multihome.io "x" is invalid: spec.vlan.id: Invalid value: 5000: must be at most 4094"#
        );
        let two = ApiError::invalid(about, vec![Cause::required("spec.type", ""), Cause::required("spec.a", "why")]);
        assert_eq!(
            two.message,
            r#"Network.multihome.io "x" is invalid: [spec.type: Required value, spec.a: Required value: why]"#
        );
        let core = ApiError::not_found(About::new("", "namespaces", "n"));
        assert_eq!(core.message, r#"namespaces "n" not found"#);
        assert_eq!(core.status()["details"], json!({"name": "n", "kind": "namespaces"}));
        let enums = Cause::not_supported("spec.c", &json!("x"), &[json!("a"), json!("b")]);
        assert_eq!(enums.message, r#"Unsupported value: "x": supported values: "a", "b""#);
    }
}
