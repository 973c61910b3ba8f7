//! The rules as a Kubernetes API asks for them: `AdmissionReview` of `admission.k8s.io/v1`, in and out.

use multihome_model::{Violation, Violations};
use serde_json::{Map, Value, json};

use super::{Lookup, Refusal, Request, Rules, Verb};

/// What an API asks.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    uid: String,
    verb: Option<Verb>,
    group: String,
    plural: String,
    kind: String,
    namespace: String,
    name: String,
    old: Option<Value>,
    new: Option<Value>,
}

impl Question {
    /// Reads an `AdmissionReview`.
    ///
    /// # Errors
    /// A sentence that says what is missing.
    pub fn parse(body: &[u8]) -> Result<Self, String> {
        let review: Value = serde_json::from_slice(body).map_err(|e| format!("the body is not JSON: {e}"))?;
        if review["apiVersion"] != "admission.k8s.io/v1" || review["kind"] != "AdmissionReview" {
            return Err(format!(
                "expected an AdmissionReview of admission.k8s.io/v1, got {} of {}",
                review["kind"], review["apiVersion"]
            ));
        }
        let asked = &review["request"];
        let text = |at: &str| asked.pointer(at).and_then(Value::as_str).unwrap_or_default().to_owned();
        let object = |at: &str| asked.get(at).filter(|o| o.is_object()).cloned();
        if text("/uid").is_empty() {
            return Err("the review has no request.uid".into());
        }
        let verb = match (text("/operation").as_str(), text("/subResource").as_str()) {
            ("CREATE", "") => Some(Verb::Create),
            ("UPDATE", "") => Some(Verb::Update),
            ("DELETE", "") => Some(Verb::Delete),
            _ => None,
        };
        let new = object("object");
        let name = match (text("/name"), &new) {
            (name, Some(new)) if name.is_empty() => {
                new.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned()
            }
            (name, _) => name,
        };
        Ok(Self {
            uid: text("/uid"),
            verb,
            group: text("/resource/group"),
            plural: text("/resource/resource"),
            kind: text("/kind/kind"),
            namespace: text("/namespace"),
            name,
            old: object("oldObject"),
            new,
        })
    }

    /// Judges the write. `Err` is the refusal.
    ///
    /// # Errors
    /// What [`Rules::validate`] refuses.
    pub fn judge(&self, rules: &Rules, look: &dyn Lookup) -> Result<(), Refusal> {
        let Some(verb) = self.verb else { return Ok(()) };
        let request = Request {
            verb,
            group: &self.group,
            plural: &self.plural,
            namespace: &self.namespace,
            name: &self.name,
            old: self.old.as_ref(),
            new: self.new.as_ref(),
        };
        rules.validate(&request, look)
    }

    /// The answer of a validating webhook.
    pub fn verdict(&self, verdict: Result<(), Refusal>) -> Value {
        let mut response = json!({"uid": self.uid, "allowed": verdict.is_ok()});
        match verdict {
            Ok(()) => {}
            Err(Refusal::Forbidden(text)) => {
                response["status"] = json!({"code": 403, "reason": "Forbidden", "message": text});
            }
            Err(Refusal::Invalid(list)) => {
                let cause =
                    |v: &Violation| json!({"reason": "FieldValueInvalid", "field": v.field, "message": v.message});
                let causes: Vec<Value> = list.iter().map(cause).collect();
                response["status"] = json!({
                    "code": 422,
                    "reason": "Invalid",
                    "message": Violations(list).to_string(),
                    "details": {"name": self.name, "group": self.group, "kind": self.kind, "causes": causes},
                });
            }
        }
        answer(response)
    }

    /// The answer of a mutating webhook: what the platform fills in, as a JSON patch (RFC 6902). `encode` is base64.
    pub fn filled(&self, rules: &Rules, encode: impl Fn(&[u8]) -> String) -> Value {
        let mut response = json!({"uid": self.uid, "allowed": true});
        if let (Some(verb), Some(new)) = (self.verb, &self.new) {
            let mut full = new.clone();
            rules.fill_in(verb, &self.group, &self.plural, &mut full);
            let steps = top_fields("/metadata", new.get("metadata"), full.get("metadata"));
            if !steps.is_empty() {
                response["patchType"] = json!("JSONPatch");
                response["patch"] = json!(encode(Value::Array(steps).to_string().as_bytes()));
            }
        }
        answer(response)
    }
}

fn answer(response: Value) -> Value {
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
}

/// Steps that set the fields of one object that differ. Nothing is ever taken away by what is filled in.
fn top_fields(at: &str, old: Option<&Value>, new: Option<&Value>) -> Vec<Value> {
    let empty = Map::new();
    let fields = |v: Option<&Value>| v.and_then(Value::as_object).cloned().unwrap_or_else(|| empty.clone());
    let (old, new) = (fields(old), fields(new));
    let differs = new.iter().filter(|(k, v)| old.get(*k) != Some(v));
    differs.map(|(k, v)| json!({"op": "add", "path": format!("{at}/{k}"), "value": v})).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    struct Nothing;
    impl Lookup for Nothing {
        fn get(&self, _: &str, _: &str, _: Option<&str>, _: &str) -> Option<Arc<Value>> {
            None
        }
        fn list(&self, _: &str, _: &str, _: Option<&str>) -> Vec<Arc<Value>> {
            vec![]
        }
    }

    fn asked(operation: &str, sub: &str) -> Question {
        let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
            "uid": "u1", "operation": operation, "subResource": sub, "namespace": "lab", "name": "a",
            "kind": {"group": "multihome.io", "version": "v1alpha1", "kind": "NetworkInterface"},
            "resource": {"group": "multihome.io", "version": "v1alpha1", "resource": "networkinterfaces"},
            "object": {"metadata": {"name": "a", "namespace": "lab", "finalizers": ["x/y"]}, "spec": {"network": "gone"}},
        }});
        Question::parse(review.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn a_refusal_says_field_and_sentence() {
        let question = asked("CREATE", "");
        let answer = question.verdict(question.judge(&Rules::default(), &Nothing));
        let response = &answer["response"];
        assert_eq!((&response["uid"], &response["allowed"]), (&json!("u1"), &json!(false)));
        assert_eq!(response["status"]["code"], 422);
        assert_eq!(
            response["status"]["message"],
            "spec.network: Network lab/gone does not exist: create it first, or name another"
        );
        assert_eq!(response["status"]["details"]["causes"][0]["field"], "spec.network");
    }

    #[test]
    fn a_status_is_nobodys_business() {
        let question = asked("UPDATE", "status");
        assert_eq!(question.judge(&Rules::default(), &Nothing), Ok(()));
        assert_eq!(question.verdict(Ok(()))["response"]["allowed"], true);
    }

    #[test]
    fn what_is_filled_in_keeps_what_was_there() {
        let answer = asked("CREATE", "").filled(&Rules::default(), |b| String::from_utf8_lossy(b).into_owned());
        let steps: Value = serde_json::from_str(answer["response"]["patch"].as_str().unwrap()).unwrap();
        assert_eq!(
            steps,
            json!([{"op": "add", "path": "/metadata/finalizers", "value": ["x/y", multihome_model::FINALIZER_CLAIMS]}])
        );
        let update = asked("UPDATE", "").filled(&Rules::default(), |_| String::new());
        assert!(update["response"].get("patch").is_none());
    }

    #[test]
    fn what_is_no_review_is_said() {
        assert!(Question::parse(b"{").unwrap_err().starts_with("the body is not JSON"));
        let other = Question::parse(br#"{"apiVersion": "admission.k8s.io/v1beta1", "kind": "AdmissionReview"}"#);
        assert!(other.unwrap_err().starts_with("expected an AdmissionReview of admission.k8s.io/v1"));
    }
}
