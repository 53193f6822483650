//! Streams of changes.
//!
//! This file decides which events a watcher sees, from where on, and when it is told that it has fallen behind.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::Shared;
use super::failure::Failure;
use super::kinds::Kind;
use super::selector::Selector;
use super::store::{Change, Id, Store};
use super::view::{self, View};
use crate::wire::{Body, lock};

/// A watch without a timeout of its own ends after this.
const LONGEST: Duration = Duration::from_secs(1800);

/// What moves watchers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Signals {
    /// Writes so far.
    pub(crate) writes: u64,
    /// Times that all watches were cut.
    pub(crate) cuts: u64,
    /// Times that watchers were told how far they are.
    pub(crate) bookmarks: u64,
}

/// What a client wants to watch.
pub(crate) struct Wish {
    pub(crate) kind: Kind,
    pub(crate) version: String,
    pub(crate) namespace: String,
    pub(crate) selector: Selector,
    pub(crate) view: View,
    pub(crate) bookmarks: bool,
    pub(crate) start: Start,
    pub(crate) timeout: Option<Duration>,
}

/// Where a watch starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// With what there is; a bookmark says when that is over, if it is wanted.
    Everything { then_bookmark: bool },
    /// With what changes after this version.
    After(u64),
}

impl Wish {
    fn shows(&self, change: &Change) -> Option<(&'static str, Arc<Value>)> {
        let here = self.is_here(&change.id);
        let was = change.before.as_ref().is_some_and(|before| self.selector.matches(before));
        let is = !change.deleted && self.selector.matches(&change.object);
        match (here, was, is) {
            (false, ..) | (_, false, false) => None,
            (_, false, true) => Some(("ADDED", Arc::clone(&change.object))),
            (_, true, true) => Some(("MODIFIED", Arc::clone(&change.object))),
            (_, true, false) => Some(("DELETED", Arc::clone(&change.object))),
        }
    }

    fn is_here(&self, id: &Id) -> bool {
        id.kind == self.kind.key() && (self.namespace.is_empty() || id.namespace == self.namespace)
    }

    fn event(&self, kind: &str, object: &Value) -> Bytes {
        line(kind, &view::one(object, &self.kind, &self.version, self.view))
    }

    fn bookmark(&self, version: u64, ends_initial: bool) -> Bytes {
        let mut metadata = json!({"resourceVersion": version.to_string(), "creationTimestamp": null});
        if ends_initial {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let (api_version, kind) = match self.view {
            View::Metadata => ("meta.k8s.io/v1".to_owned(), "PartialObjectMetadata"),
            View::Whole | View::Table => (self.kind.api_version(&self.version), self.kind.kind.as_str()),
        };
        line("BOOKMARK", &json!({"apiVersion": api_version, "kind": kind, "metadata": metadata}))
    }
}

fn line(kind: &str, object: &Value) -> Bytes {
    format!("{}\n", json!({"type": kind, "object": object})).into()
}

/// A watch under way.
struct Watching {
    shared: Arc<Shared>,
    wish: Wish,
    /// Changes up to this version have been shown.
    shown: u64,
    ready: VecDeque<Bytes>,
    signals: watch::Receiver<Signals>,
    seen: Signals,
    ends: Instant,
    over: bool,
}

/// Starts a watch.
pub(crate) fn start(shared: &Arc<Shared>, wish: Wish) -> Body {
    let mut ready = VecDeque::new();
    let mut signals = shared.signals.subscribe();
    let seen = *signals.borrow_and_update();
    let shown = {
        let store = lock(&shared.store);
        match wish.start {
            Start::After(version) => version,
            Start::Everything { then_bookmark } => {
                for (_, object) in store.list(&wish.kind.key(), &wish.namespace, &wish.selector) {
                    ready.push_back(wish.event("ADDED", &object));
                }
                if then_bookmark {
                    ready.push_back(wish.bookmark(store.version(), true));
                }
                store.version()
            }
        }
    };
    let ends = Instant::now() + wish.timeout.unwrap_or(LONGEST);
    let watching =
        Watching { shared: Arc::clone(shared), wish, shown, ready, signals, seen, ends, over: false };
    let frames = stream::unfold(watching, |mut watching| async move {
        let next = watching.next().await?;
        Some((next.map(Frame::data), watching))
    });
    StreamBody::new(frames).boxed_unsync()
}

impl Watching {
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(Ok(event));
            }
            if self.over {
                return None;
            }
            self.catch_up();
            if !self.ready.is_empty() || self.over {
                continue;
            }
            tokio::select! {
                changed = self.signals.changed() => if changed.is_err() {
                    return None;
                },
                () = sleep_until(self.ends) => {
                    if self.wish.bookmarks {
                        self.ready.push_back(self.wish.bookmark(self.shown, false));
                    }
                    self.over = true;
                }
            }
            let signals = *self.signals.borrow_and_update();
            if signals.cuts != self.seen.cuts {
                return Some(Err(io::Error::other("the watch was cut")));
            }
            let bookmark = signals.bookmarks != self.seen.bookmarks && self.wish.bookmarks;
            self.seen = signals;
            self.catch_up();
            if bookmark {
                self.ready.push_back(self.wish.bookmark(self.shown, false));
            }
        }
    }

    /// Reads what has changed since the last time.
    fn catch_up(&mut self) {
        let store: &Store = &lock(&self.shared.store);
        if !store.kinds.iter().any(|kind| kind.key() == self.wish.kind.key()) {
            self.over = true;
        }
        match store.since(self.shown) {
            Some(changes) => {
                let shown = changes.filter_map(|change| self.wish.shows(change));
                self.ready.extend(shown.map(|(kind, object)| self.wish.event(kind, &object)));
                self.shown = self.shown.max(store.version());
            }
            None => {
                let message = format!("too old resource version: {} ({})", self.shown, store.version());
                self.ready.push_back(line("ERROR", &Failure::expired(&message).body()));
                self.over = true;
            }
        }
    }
}
