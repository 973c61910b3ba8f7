//! The questions `kubectl auth can-i` and `kubectl auth whoami` ask. Whoever got in holds the one credential: may do everything.

use super::body;
use super::reply::Reply;
use super::request::ResourcePath;
use crate::error::ApiError;
use serde_json::{Value, json};

/// Group, version, plural, kind.
pub(crate) const REVIEWS: &[(&str, &str, &str, &str)] = &[
    ("authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview"),
    ("authentication.k8s.io", "v1", "selfsubjectreviews", "SelfSubjectReview"),
];

fn kind_of(path: &ResourcePath) -> Option<&'static str> {
    let same = |r: &&(&str, &str, &str, &str)| r.0 == path.group && r.1 == path.version && r.2 == path.plural;
    REVIEWS.iter().find(same).map(|r| r.3)
}

/// Whether a path asks one of these questions.
pub(crate) fn is(path: &ResourcePath) -> bool {
    path.name.is_none() && path.namespace.is_none() && kind_of(path).is_some()
}

pub(crate) fn answer(path: &ResourcePath, content_type: &str, bytes: &[u8]) -> Result<Reply, ApiError> {
    let asked = body::decode(content_type, bytes)?.value;
    let kind = kind_of(path).ok_or_else(ApiError::no_such_path)?;
    let mut review = json!({"apiVersion": format!("{}/{}", path.group, path.version), "kind": kind, "metadata": {"creationTimestamp": Value::Null}});
    if kind == "SelfSubjectReview" {
        review["status"] =
            json!({"userInfo": {"username": "multihome:admin", "groups": ["system:masters", "system:authenticated"]}});
    } else {
        review["spec"] = asked["spec"].clone();
        review["status"] = json!({"allowed": true, "reason": "holders of the server's credential may do everything"});
    }
    Ok(Reply::value(201, &review))
}
