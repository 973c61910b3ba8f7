//! Creating, replacing, patching and deleting: from HTTP to the rules, and back.

use super::Request;
use super::body::{self, Decoded};
use super::filter::Filter;
use super::render::ListMeta;
use super::reply::Reply;
use super::request::{FieldValidation, Shape};
use crate::convert;
use crate::error::{About, ApiError, Cause, success};
use crate::meta;
use crate::patch::{self, PatchKind};
use crate::registry::{Found, Registry, api_version};
use crate::rules::delete::{Deleted, Options, Propagation};
use crate::rules::update::Part;
use crate::rules::{self, Context};
use crate::server::Server;
use crate::store::object::Object;
use crate::store::{Outcome, Txn};
use bytes::Bytes;
use serde_json::Value;
use std::sync::Arc;

/// The parts of a request that a write takes with it onto the writer thread.
#[derive(Clone)]
struct Job {
    server: Arc<Server>,
    found: Found,
    namespace: Option<String>,
    dry_run: bool,
    validation: FieldValidation,
}

/// What a write made.
enum Made {
    New(Arc<Object>),
    Changed(Arc<Object>),
}

impl Job {
    fn new(request: &Request) -> Result<Self, ApiError> {
        let strict = request.server.registry.get(request.found.id).spec.strict;
        Ok(Self {
            server: request.server.clone(),
            found: request.found.clone(),
            namespace: request.namespace.clone(),
            dry_run: request.query.dry_run()?,
            validation: request.query.field_validation(strict)?,
        })
    }

    fn registry(&self) -> &Registry {
        &self.server.registry
    }

    fn context(&self) -> Context<'_> {
        Context {
            registry: self.registry(),
            admission: &*self.server.admission,
            id: self.found.id,
            namespace: self.namespace.as_deref(),
            dry_run: self.dry_run,
        }
    }

    fn keep<T>(&self, value: T) -> Outcome<T> {
        if self.dry_run { Outcome::Discard(value) } else { Outcome::Keep(value) }
    }

    /// Checks that a decoded object is what the URL says, and brings it into stored shape. Returns unknown fields.
    fn shape(&self, object: &mut Value, name: Option<&str>) -> Result<Vec<String>, ApiError> {
        let served = self.registry().get(self.found.id);
        self.check_type(object)?;
        convert::inbound(&self.found.group, object);
        let unknown = rules::reshape(served, &self.found.version, object)?;
        meta::identify(object, self.namespace.as_deref(), name)?;
        Ok(unknown)
    }

    fn check_type(&self, object: &mut Value) -> Result<(), ApiError> {
        let served = self.registry().get(self.found.id);
        let expected = api_version(&self.found.group, &self.found.version);
        let kind = &served.spec.kind;
        for (field, wanted, label) in [("kind", kind, "Kind"), ("apiVersion", &expected, "apiVersion")] {
            match object.get(field).and_then(Value::as_str).unwrap_or_default() {
                "" if served.built_in => object[field] = wanted.as_str().into(),
                "" => {
                    let mut shown = object.to_string();
                    shown.truncate(shown.char_indices().nth(500).map_or(shown.len(), |(at, _)| at));
                    return Err(ApiError::bad_request(format!("Object '{label}' is missing in '{shown}'")));
                }
                given if given == wanted => {}
                given if field == "kind" => {
                    let name = meta::text(object, "name");
                    let cause = Cause::invalid("kind", &given.into(), format!("must be {kind}"));
                    return Err(ApiError::invalid(About::new(&served.spec.group, given, name), vec![cause]));
                }
                given => {
                    let why = format!(
                        "the API version in the data ({given}) does not match the expected API version ({expected})"
                    );
                    return Err(ApiError::bad_request(why));
                }
            }
        }
        Ok(())
    }

    /// What becomes of unknown and doubled fields: a refusal, warnings, or nothing.
    fn judge(&self, unknown: &[String], duplicates: &[String]) -> Result<Vec<String>, String> {
        let unknown = unknown.iter().map(|f| format!("unknown field {f:?}"));
        let duplicates = duplicates.iter().map(|f| format!("duplicate field {f:?}"));
        let found: Vec<String> = unknown.chain(duplicates).collect();
        match self.validation {
            FieldValidation::Strict if !found.is_empty() => Err(format!("strict decoding error: {}", found.join(", "))),
            FieldValidation::Warn => Ok(found),
            _ => Ok(Vec::new()),
        }
    }

    fn judge_body(&self, unknown: &[String], duplicates: &[String]) -> Result<Vec<String>, ApiError> {
        let kind = &self.registry().get(self.found.id).spec.kind;
        self.judge(unknown, duplicates).map_err(|why| rules::cannot_be_handled(kind, &self.found.version, &why))
    }

    async fn run<T, F>(self, work: F) -> Result<T, ApiError>
    where
        T: Send + 'static,
        F: FnOnce(&Self, &mut Txn) -> Result<T, ApiError> + Send + 'static,
    {
        let server = self.server.clone();
        let answer = server.store.write(move |txn| work(&self, txn).map(|value| self.keep(value)));
        answer.await.unwrap_or_else(|_| Err(ApiError::internal("the store is closed")))
    }
}

fn refuse_read_only(request: &Request) -> Result<(), ApiError> {
    if request.render.served().rules.read_only { Err(ApiError::method_not_allowed()) } else { Ok(()) }
}

pub(crate) async fn create(request: Request, content_type: &str, bytes: Bytes) -> Result<Reply, ApiError> {
    refuse_read_only(&request)?;
    let job = Job::new(&request)?;
    let Decoded { value: mut object, duplicates } = body::decode(content_type, &bytes)?;
    let unknown = job.shape(&mut object, None)?;
    let warnings = job.judge_body(&unknown, &duplicates)?;
    let dry_run = job.dry_run;
    let made = job.run(move |job, txn| rules::create::create(job.context(), txn, object)).await?;
    let reply = if dry_run && request.render.shape == Shape::Plain {
        // what was not stored has no version
        let mut value = request.render.value(&made);
        meta::of_mut(&mut value).shift_remove("resourceVersion");
        Reply::value(201, &value)
    } else {
        request.one(201, &made)
    };
    Ok(reply.warn(warnings))
}

pub(crate) async fn replace(
    request: Request,
    name: String,
    part: Part,
    content_type: &str,
    bytes: Bytes,
) -> Result<Reply, ApiError> {
    refuse_read_only(&request)?;
    let job = Job::new(&request)?;
    let Decoded { value: mut object, duplicates } = body::decode(content_type, &bytes)?;
    let unknown = job.shape(&mut object, Some(&name))?;
    let warnings = job.judge_body(&unknown, &duplicates)?;
    let made = job
        .run(move |job, txn| {
            let ctx = job.context();
            match txn.get(ctx.id, &ctx.key(&name)) {
                Some(old) => {
                    rules::update::same_uid(ctx, &old, &object)?;
                    rules::update::update(ctx, txn, &old, object, part).map(Made::Changed)
                }
                None if ctx.served().rules.create_on_update && part == Part::Main => {
                    rules::create::create(ctx, txn, object).map(Made::New)
                }
                None => Err(ApiError::not_found(ctx.about(&name))),
            }
        })
        .await?;
    Ok(match made {
        Made::New(object) => request.one(201, &object),
        Made::Changed(object) => request.one(200, &object),
    }
    .warn(warnings))
}

pub(crate) async fn patch(
    request: Request,
    name: String,
    part: Part,
    content_type: &str,
    bytes: Bytes,
) -> Result<Reply, ApiError> {
    refuse_read_only(&request)?;
    let kind = PatchKind::parse(content_type, request.render.served().rules.strategic_patch)?;
    let job = Job::new(&request)?;
    let patch =
        body::json(&bytes).map_err(|e| ApiError::bad_request(format!("error decoding patch: {}", e.message)))?;
    let (object, warnings) = job
        .run(move |job, txn| {
            let ctx = job.context();
            let old = txn.get(ctx.id, &ctx.key(&name)).ok_or_else(|| ApiError::not_found(ctx.about(&name)))?;
            let mut before =
                old.typed_value(&api_version(&job.found.group, &job.found.version), &ctx.served().spec.kind);
            convert::outbound(&job.found.group, &mut before);
            let mut after = patch::apply(kind, &patch.value, &before)?;
            let unknown = job.shape(&mut after, Some(&name))?;
            let warnings = job.judge(&unknown, &patch.duplicates).map_err(|why| {
                let cause = Cause::invalid("patch", &patch.value.to_string().into(), why);
                ApiError::invalid(ctx.about_kind(&name), vec![cause])
            })?;
            if meta::text(&after, "resourceVersion").is_empty() {
                meta::of_mut(&mut after).insert("resourceVersion".into(), old.version.to_string().into());
            }
            rules::update::update(ctx, txn, &old, after, part).map(|object| (object, warnings))
        })
        .await?;
    Ok(request.one(200, &object).warn(warnings))
}

/// Deletion options from the body, overlaid by the query.
fn options(request: &Request, content_type: &str, bytes: &Bytes) -> Result<(Options, bool, bool), ApiError> {
    let mut dry_run = request.query.dry_run()?;
    let mut accepted = false;
    let mut options = Options::default();
    if !bytes.is_empty() {
        let body = body::decode(content_type, bytes)?.value;
        options = Options::parse(&body)?;
        accepted = body["orphanDependents"] == false;
        match &body["dryRun"] {
            Value::Null => {}
            Value::Array(items) if items.iter().all(|i| i == "All") => dry_run |= !items.is_empty(),
            other => {
                let cause = Cause::not_supported("dryRun", other, &["All".into()]);
                return Err(ApiError::invalid(About::new("meta.k8s.io", "DeleteOptions", ""), vec![cause]));
            }
        }
    }
    if let Some(policy) = request.query.get("propagationPolicy") {
        options.propagation = Some(Propagation::parse(policy)?);
    } else if request.query.get("orphanDependents").is_some() {
        accepted = !request.query.flag("orphanDependents");
        options.propagation = Some(if accepted { Propagation::Background } else { Propagation::Orphan });
    }
    Ok((options, dry_run, accepted))
}

pub(crate) async fn delete(
    request: Request,
    name: String,
    content_type: &str,
    bytes: Bytes,
) -> Result<Reply, ApiError> {
    refuse_read_only(&request)?;
    let (options, dry_run, accepted) = options(&request, content_type, &bytes)?;
    let mut job = Job::new(&request)?;
    job.dry_run = dry_run;
    let deleted = job
        .run(move |job, txn| {
            let ctx = job.context();
            let old = txn.get(ctx.id, &ctx.key(&name)).ok_or_else(|| ApiError::not_found(ctx.about(&name)))?;
            rules::delete::delete(ctx, txn, &old, &options)
        })
        .await?;
    Ok(match deleted {
        Deleted::Gone(object) => {
            let mut about = rules::about(request.render.served(), &object.key.name);
            about.uid = object.uid.to_string();
            Reply::value(200, &success(&about))
        }
        Deleted::Marked(object) => request.one(if accepted { 202 } else { 200 }, &object),
    })
}

/// Deletes what a selection finds, each object on its own, and answers with what was found.
pub(crate) async fn delete_collection(request: Request, content_type: &str, bytes: Bytes) -> Result<Reply, ApiError> {
    refuse_read_only(&request)?;
    let (options, dry_run, _) = options(&request, content_type, &bytes)?;
    let filter = Filter::parse(request.render.served(), &request.found, &request.query)?;
    let (found, version): (Vec<Arc<Object>>, u64) = {
        let state = request.server.store.read();
        let namespace = request.namespace.as_deref();
        (state.range(request.found.id, namespace, None).filter(|o| filter.matches(o)).cloned().collect(), state.version)
    };
    let deletions = found.iter().map(|object| {
        let mut job = Job::new(&request)?;
        // across namespaces, each object brings its own
        job.namespace = Some(object.key.namespace.to_string()).filter(|n| !n.is_empty());
        job.dry_run = dry_run;
        let (key, options) = (object.key.clone(), options.clone());
        Ok(job.run(move |job, txn| match txn.get(job.found.id, &key) {
            Some(old) => rules::delete::delete(job.context(), txn, &old, &options).map(|_| ()),
            None => Ok(()),
        }))
    });
    let deletions = deletions.collect::<Result<Vec<_>, ApiError>>()?;
    for outcome in futures::future::join_all(deletions).await {
        outcome?;
    }
    let meta = ListMeta { version, ..ListMeta::default() };
    Ok(Reply::json(200, request.render.list(&meta, &found)))
}
