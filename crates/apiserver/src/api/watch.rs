//! Watching: a stream of changes from a resource version on, with the present objects in front where they are wanted.
//!
//! A watcher holds only its position in the history; a slow one is told 410 when the history has moved on, and costs no memory.

use super::Request;
use super::filter::Filter;
use super::read::{self, too_old};
use super::render::{self, Render};
use super::reply::Reply;
use crate::error::{About, ApiError, Cause};
use crate::server::Server;
use crate::store::object::{Key, Object};
use crate::store::state::{Change, TypeId};
use bytes::Bytes;
use futures::stream;
use serde_json::json;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch as bell;
use tokio::time::Instant;

/// How often a watcher is told how far it is, though nothing happened.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// How long a watch lasts where the client does not say: between this and twice this.
const LASTS: Duration = Duration::from_secs(1800);
/// Events are sent together up to about this many bytes.
const CHUNK: usize = 64 << 10;

struct Watcher {
    server: Arc<Server>,
    render: Render,
    filter: Filter,
    ty: TypeId,
    namespace: Option<String>,
    bell: bell::Receiver<u64>,
    /// Everything up to here has been sent or does not concern this watcher.
    position: u64,
    /// The present objects, sent before anything else; with the version that marks their end, where that is wanted.
    initial: VecDeque<Arc<Object>>,
    end: Option<u64>,
    bookmarks: Option<Instant>,
    ends: Instant,
    headers_sent: bool,
    over: bool,
}

/// Answers a watch.
pub(crate) fn watch(request: Request, name: Option<&str>) -> Result<Reply, ApiError> {
    let mut filter = Filter::parse(request.render.served(), &request.found, &request.query)?;
    if let Some(name) = name {
        filter = filter.named(name);
    }
    let query = &request.query;
    let streamed_list = initial_events(&request)?;
    let from = query.get("resourceVersion").map(read::version).transpose()?.unwrap_or(0);
    let lasts = match query.number::<u64>("timeoutSeconds")?.filter(|s| *s > 0) {
        Some(seconds) => Duration::from_secs(seconds.min(24 * 3600)),
        None => LASTS + LASTS.mul_f64(f64::from(uuid::Uuid::new_v4().as_bytes()[0]) / 256.0),
    };
    let bookmarks = query.flag("allowWatchBookmarks").then(|| Instant::now() + BOOKMARK_EVERY);
    let ty = request.found.id;
    let mut watcher = Watcher {
        bell: request.server.store.bell(ty),
        render: request.render,
        filter,
        ty,
        namespace: request.namespace,
        position: from,
        initial: VecDeque::new(),
        end: None,
        bookmarks,
        ends: Instant::now() + lasts,
        headers_sent: false,
        over: false,
        server: request.server,
    };
    match streamed_list {
        Some(true) => watcher.begin_with_all(true),
        Some(false) if from == 0 => watcher.position = watcher.server.store.read().version,
        None if from == 0 => watcher.begin_with_all(false),
        _ => {}
    }
    Ok(Reply::stream(200, stream::unfold(watcher, |mut w| async move { w.next().await.map(|chunk| (chunk, w)) })))
}

/// `sendInitialEvents`, where it is said.
fn initial_events(request: &Request) -> Result<Option<bool>, ApiError> {
    let query = &request.query;
    let rule = query.get("resourceVersionMatch");
    let said = query.get("sendInitialEvents").map(|_| query.flag("sendInitialEvents"));
    let refuse = |cause: Cause| Err(ApiError::invalid(About::new("meta.k8s.io", "ListOptions", ""), vec![cause]));
    match (said, rule) {
        (None, None) => Ok(None),
        (None, Some(_)) => refuse(Cause::forbidden(
            "resourceVersionMatch",
            "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
        )),
        (Some(_), None) => refuse(Cause::forbidden(
            "resourceVersionMatch",
            "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        )),
        (Some(said), Some("NotOlderThan")) => {
            if said && !query.flag("allowWatchBookmarks") {
                return refuse(Cause::forbidden(
                    "allowWatchBookmarks",
                    "sendInitialEvents requires allowWatchBookmarks",
                ));
            }
            Ok(Some(said))
        }
        (Some(_), Some(other)) => {
            refuse(Cause::not_supported("resourceVersionMatch", &json!(other), &[json!("NotOlderThan")]))
        }
    }
}

impl Watcher {
    /// Puts the present objects in front, and goes on from there.
    fn begin_with_all(&mut self, mark_end: bool) {
        let state = self.server.store.read();
        let present = state.range(self.ty, self.namespace.as_deref(), None);
        self.initial = present.filter(|o| self.filter.matches(o)).cloned().collect();
        self.position = state.version;
        self.end = mark_end.then_some(state.version);
    }

    /// The next of the present objects, as far as they fit into one chunk; empty when all are sent.
    fn present(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        while out.len() < CHUNK
            && let Some(object) = self.initial.pop_front()
        {
            self.render.event("ADDED", &object, !self.headers_sent, &mut out);
            self.headers_sent = true;
        }
        if self.initial.is_empty()
            && let Some(version) = self.end.take()
        {
            self.render.bookmark(version, true, &mut out);
        }
        out
    }

    async fn next(&mut self) -> Option<Result<http_body::Frame<Bytes>, std::convert::Infallible>> {
        let present = self.present();
        if !present.is_empty() {
            return Some(Ok(http_body::Frame::data(present.into())));
        }
        loop {
            if self.over {
                return None;
            }
            self.bell.mark_unchanged();
            let chunk = self.collect();
            if !chunk.is_empty() {
                return Some(Ok(http_body::Frame::data(chunk.into())));
            }
            let closing = self.server.closing.clone();
            let bookmark = self.bookmarks.unwrap_or(self.ends).min(self.ends);
            tokio::select! {
                rung = self.bell.changed() => if rung.is_err() { return None },
                () = tokio::time::sleep_until(bookmark) => {
                    self.over = Instant::now() >= self.ends;
                    let mut out = Vec::new();
                    if let Some(at) = &mut self.bookmarks {
                        *at = Instant::now() + BOOKMARK_EVERY;
                        self.render.bookmark(self.position, false, &mut out);
                    }
                    if !out.is_empty() {
                        return Some(Ok(http_body::Frame::data(out.into())));
                    }
                }
                () = closing.cancelled() => return None,
            }
        }
    }

    /// The events since the position, as far as they fit into one chunk.
    fn collect(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        let (changes, reached): (Vec<Change>, u64) = {
            let state = self.server.store.read();
            match state.since(self.ty, self.position) {
                Ok(changes) => {
                    let mut weight = 0;
                    let mut cut = None;
                    let mut taken = Vec::new();
                    for change in
                        changes.filter(|c| self.namespace.as_deref().is_none_or(|n| *c.new.key.namespace == *n))
                    {
                        weight += change.new.body.len();
                        taken.push(change.clone());
                        if weight > CHUNK {
                            cut = Some(change.version);
                            break;
                        }
                    }
                    (taken, cut.unwrap_or(state.version.max(self.position)))
                }
                Err(_) => {
                    self.over = true;
                    render::error_event(&too_old(self.position, state.floor(self.ty)), &mut out);
                    return out;
                }
            }
        };
        for change in &changes {
            if let Some((kind, object)) = event(&self.filter, change) {
                self.render.event(kind, &object, !self.headers_sent, &mut out);
                self.headers_sent = true;
            }
        }
        self.position = reached;
        out
    }
}

/// What a change is to somebody who sees only what the filter lets through.
fn event(filter: &Filter, change: &Change) -> Option<(&'static str, Arc<Object>)> {
    let had = change.old.as_ref().is_some_and(|old| filter.matches(old));
    if change.deleted {
        return had.then(|| ("DELETED", change.new.clone()));
    }
    match (had, filter.matches(&change.new)) {
        (false, true) => Some(("ADDED", change.new.clone())),
        (true, true) => Some(("MODIFIED", change.new.clone())),
        (true, false) => {
            // it left the selection: its last state inside, at the version at which it left
            let old = change.old.as_ref()?;
            Some(("DELETED", Arc::new(Object::new(Key::clone(&old.key), change.version, &mut old.value()))))
        }
        (false, false) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::selector::Labels;

    #[test]
    fn leaving_a_selection_is_a_deletion() {
        let object = |version, label: &str| {
            Arc::new(Object::new(
                Key::new("", "n"),
                version,
                &mut json!({"metadata": {"name": "n", "labels": {"a": label}}}),
            ))
        };
        let filter = Filter { labels: Labels::parse("a=1").unwrap(), ..Filter::default() };
        let change = |old: Option<&str>, new: &str, deleted| Change {
            ty: 0,
            version: 9,
            deleted,
            new: object(9, new),
            old: old.map(|l| object(8, l)),
        };
        let kind = |c: Change| event(&filter, &c).map(|(kind, o)| (kind, o.version));
        assert_eq!(kind(change(None, "1", false)), Some(("ADDED", 9)));
        assert_eq!(kind(change(Some("1"), "1", false)), Some(("MODIFIED", 9)));
        assert_eq!(kind(change(Some("2"), "1", false)), Some(("ADDED", 9)));
        assert_eq!(kind(change(Some("1"), "2", false)), Some(("DELETED", 9)));
        assert_eq!(kind(change(Some("1"), "1", true)), Some(("DELETED", 9)));
        assert_eq!(kind(change(Some("2"), "2", true)), None);
    }
}
