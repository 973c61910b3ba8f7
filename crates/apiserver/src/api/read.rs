//! Getting one object, and listing many: by selectors, in pages that show one moment, at a demanded resource version.

use super::Request;
use super::filter::Filter;
use super::render::ListMeta;
use super::reply::Reply;
use crate::error::{ApiError, Cause};
use crate::rules;
use crate::store::object::{Key, Object};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Where the next page begins.
#[derive(Debug, Serialize, Deserialize, PartialEq, Eq)]
struct Continue {
    /// The moment that all pages show.
    rv: u64,
    ns: String,
    name: String,
}

impl Continue {
    fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).expect("strings and a number always serialize"))
    }

    fn decode(token: &str) -> Result<Self, ApiError> {
        let bytes = URL_SAFE_NO_PAD.decode(token).ok();
        bytes.and_then(|b| serde_json::from_slice(&b).ok()).ok_or_else(|| {
            ApiError::bad_request("continue key is not valid: the token was not given out by this server")
        })
    }
}

pub(crate) fn get(request: &Request, name: &str) -> Result<Reply, ApiError> {
    let served = request.render.served();
    let object = request.server.store.read().get(request.found.id, &request.key(name)).cloned();
    let object = object.ok_or_else(|| ApiError::not_found(rules::about(served, name)))?;
    Ok(request.one(200, &object))
}

pub(crate) fn list(request: &Request) -> Result<Reply, ApiError> {
    let filter = Filter::parse(request.render.served(), &request.found, &request.query)?;
    let (meta, objects) = select(request, &filter)?;
    Ok(Reply::json(200, request.render.list(&meta, &objects)))
}

fn select(request: &Request, filter: &Filter) -> Result<(ListMeta, Vec<Arc<Object>>), ApiError> {
    let ty = request.found.id;
    let namespace = request.namespace.as_deref();
    let limit = request.query.number::<usize>("limit")?.filter(|n| *n > 0);
    let token = request.query.get("continue").map(Continue::decode).transpose()?;
    let wanted = request.query.get("resourceVersion");
    let exactly = matching(request, wanted, token.is_some())?;

    let state = request.server.store.read();
    let demanded = wanted.map(version).transpose()?.unwrap_or(0);
    if demanded > state.version {
        return Err(too_new(demanded, state.version));
    }
    let moment = match &token {
        Some(token) => token.rv,
        None if exactly => demanded,
        None => state.version,
    };
    let undo = if moment == state.version {
        BTreeMap::new()
    } else {
        state.undo(ty, moment).map_err(|_| gone(token.is_some(), moment, state.floor(ty)))?
    };
    let after = token.as_ref().map(|t| Key::new(&t.ns, &t.name));
    let mut rest = state.range_at(ty, namespace, after.as_ref(), &undo).filter(|o| filter.matches(o));
    let objects: Vec<Arc<Object>> = rest.by_ref().take(limit.unwrap_or(usize::MAX)).cloned().collect();
    let mut meta = ListMeta { version: moment, ..ListMeta::default() };
    if let (Some(_), Some(last), Some(_)) = (limit, objects.last(), rest.next()) {
        meta.next =
            Some(Continue { rv: moment, ns: last.key.namespace.to_string(), name: last.key.name.to_string() }.encode());
        // with a selector Kubernetes does not count either
        meta.remaining = filter.is_empty().then(|| rest.count() + 1);
    }
    Ok((meta, objects))
}

/// Whether a list must show exactly the demanded version.
fn matching(request: &Request, wanted: Option<&str>, continued: bool) -> Result<bool, ApiError> {
    let refuse =
        |cause: Cause| Err(ApiError::invalid(crate::error::About::new("meta.k8s.io", "ListOptions", ""), vec![cause]));
    let Some(rule) = request.query.get("resourceVersionMatch") else {
        if continued && wanted.is_some_and(|w| w != "0") {
            return Err(ApiError::bad_request("specifying resource version is not allowed when using continue"));
        }
        return Ok(false);
    };
    if continued {
        return refuse(Cause::forbidden(
            "resourceVersionMatch",
            "resourceVersionMatch is forbidden when continue is provided",
        ));
    }
    match (rule, wanted) {
        (_, None) => refuse(Cause::forbidden(
            "resourceVersionMatch",
            "resourceVersionMatch is forbidden unless resourceVersion is provided",
        )),
        ("Exact", Some("0")) => refuse(Cause::forbidden(
            "resourceVersionMatch",
            "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
        )),
        ("Exact", Some(_)) => Ok(true),
        ("NotOlderThan", Some(_)) => Ok(false),
        (other, Some(_)) => {
            let allowed = ["Exact", "NotOlderThan", ""].map(serde_json::Value::from);
            refuse(Cause::not_supported("resourceVersionMatch", &other.into(), &allowed))
        }
    }
}

/// Parses a resource version that a client sends.
pub(crate) fn version(text: &str) -> Result<u64, ApiError> {
    text.parse().map_err(|_| {
        let why = format!("strconv.ParseUint: parsing {text:?}: invalid syntax");
        ApiError::invalid(crate::error::About::default(), vec![Cause::invalid("resourceVersion", &text.into(), why)])
    })
}

fn too_new(demanded: u64, current: u64) -> ApiError {
    let message = format!("Too large resource version: {demanded}, current: {current}");
    let cause = Cause::new("", "ResourceVersionTooLarge", "Too large resource version");
    ApiError { retry_after: Some(1), ..ApiError::new(504, "Timeout", format!("Timeout: {message}")) }
        .with_causes(vec![cause])
}

fn gone(continued: bool, moment: u64, floor: u64) -> ApiError {
    if continued {
        return ApiError::expired(
            "The provided continue parameter is too old to display a consistent list result. You must start a new list without the continue parameter.",
        );
    }
    too_old(moment, floor)
}

/// A version that the history no longer reaches.
pub(crate) fn too_old(asked: u64, floor: u64) -> ApiError {
    ApiError::expired(format!("too old resource version: {asked} ({floor})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens() {
        let token = Continue { rv: 7, ns: "a".into(), name: "b".into() };
        assert_eq!(Continue::decode(&token.encode()).unwrap(), token);
        assert_eq!(Continue::decode("nonsense!").unwrap_err().code, 400);
    }
}
