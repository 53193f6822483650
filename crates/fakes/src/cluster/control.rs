//! What a test does with a cluster beside objects: waits, reads calls, makes things go wrong.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::time::timeout;

use super::FakeCluster;
use super::calls::{Call, Injected};
use crate::wire::lock;

/// An object did not become what was waited for.
#[derive(Debug, thiserror::Error)]
#[error("{kind} {name} did not become what was waited for within {deadline:?}; last it was {last}")]
pub struct NotReached {
    /// The kind waited for.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// How long the wait was.
    pub deadline: Duration,
    /// The object as it last was, null where there was none.
    pub last: Value,
}

impl FakeCluster {
    /// Returns the object when it satisfies `reached`, which gets nothing while there is no object; where that is what was waited
    /// for, null is returned.
    ///
    /// # Errors
    /// When that does not happen within `deadline`.
    pub async fn await_object(
        &self,
        kind: &str,
        name: &str,
        deadline: Duration,
        reached: impl Fn(Option<&Value>) -> bool,
    ) -> Result<Value, NotReached> {
        let mut signals = self.0.shared.signals.subscribe();
        let wait = async {
            loop {
                signals.borrow_and_update();
                let object = self.get(kind, name);
                if reached(object.as_ref()) {
                    return object.unwrap_or_default();
                }
                // The sender lives as long as `self`.
                let _ = signals.changed().await;
            }
        };
        timeout(deadline, wait).await.map_err(|_| NotReached {
            kind: kind.to_owned(),
            name: name.to_owned(),
            deadline,
            last: self.get(kind, name).unwrap_or_default(),
        })
    }

    /// Returns when a condition of several objects holds, and says whether it did within `deadline`.
    pub async fn until(&self, deadline: Duration, reached: impl Fn(&FakeCluster) -> bool) -> bool {
        let mut signals = self.0.shared.signals.subscribe();
        let wait = async {
            loop {
                signals.borrow_and_update();
                if reached(self) {
                    return;
                }
                let _ = signals.changed().await;
            }
        };
        timeout(deadline, wait).await.is_ok()
    }

    /// Returns when nobody has written anything for `quiet`, and says whether that happened within `deadline`.
    pub async fn settle(&self, quiet: Duration, deadline: Duration) -> bool {
        let version = || lock(&self.0.shared.store).version();
        let wait = async {
            loop {
                let before = version();
                tokio::time::sleep(quiet).await;
                if version() == before {
                    return;
                }
            }
        };
        timeout(deadline, wait).await.is_ok()
    }

    /// The version of the last write.
    pub fn version(&self) -> u64 {
        lock(&self.0.shared.store).version()
    }

    /// Every call since the start or [`FakeCluster::forget_calls`].
    pub fn calls(&self) -> Vec<Call> {
        lock(&self.0.shared.calls).all().to_vec()
    }

    /// Drops what was recorded of calls.
    pub fn forget_calls(&self) {
        lock(&self.0.shared.calls).forget();
    }

    /// The next `times` calls with this verb, of this kind (`Deployment`, `Deployment/status`), go wrong so. `*` is any. kube's client
    /// tries again by itself after 429, 503 and 504.
    pub fn fail_next(&self, times: usize, verb: &str, kind: &str, how: Injected) {
        let (verb, kind) = (verb.to_owned(), kind.to_owned());
        self.fail_when(times, how, move |call| {
            let part = format!("{}/{}", call.kind, call.part);
            (verb == "*" || verb == call.verb)
                && (kind == "*" || if call.part.is_empty() { kind == call.kind } else { kind == part })
        });
    }

    /// The next `times` calls that `fits` picks go wrong so. It sees every call that no earlier rule has taken, once.
    pub fn fail_when(&self, times: usize, how: Injected, fits: impl FnMut(&Call) -> bool + Send + 'static) {
        lock(&self.0.shared.calls).fail_when(times, how, Box::new(fits));
    }

    /// Ends every failure that [`FakeCluster::fail_next`] asked for.
    pub fn heal(&self) {
        lock(&self.0.shared.calls).heal();
    }

    /// Answers TokenReviews and SubjectAccessReviews: gets the kind and the spec, returns the status.
    pub fn on_review(&self, answer: impl Fn(&str, &Value) -> Value + Send + Sync + 'static) {
        *lock(&self.0.shared.reviews) = Arc::new(answer);
    }

    /// Cuts every watch, as a server that restarts does.
    pub fn cut_watches(&self) {
        self.0.shared.signals.send_modify(|signals| signals.cuts += 1);
    }

    /// Sends a bookmark to every watcher that wants them.
    pub fn send_bookmarks(&self) {
        self.0.shared.signals.send_modify(|signals| signals.bookmarks += 1);
    }

    /// Forgets all changes so far: a watch that starts at an older version is told 410 Gone.
    pub fn forget_history(&self) {
        lock(&self.0.shared.store).forget();
    }

    /// Remembers so many changes from now on.
    pub fn remember_at_most(&self, changes: usize) {
        lock(&self.0.shared.store).remember_at_most(changes);
    }

    /// Holds back the collection of what deleted objects owned.
    pub fn pause_collection(&self) {
        lock(&self.0.shared.store).collects = false;
    }

    /// Collects again, and what is due.
    pub fn resume_collection(&self) {
        {
            let mut store = lock(&self.0.shared.store);
            store.collects = true;
            store.collect_all();
        }
        self.0.shared.changed();
    }

    /// The server stops answering: connections are reset and new ones refused. Objects stay.
    pub async fn go_down(&self) {
        self.0.port.refuse().await;
        self.0.port.reset_all();
        self.0.port.all_ended().await;
    }

    /// The server answers again, where it did before.
    ///
    /// # Errors
    /// When the port cannot be had again.
    pub async fn come_back(&self) -> io::Result<()> {
        self.0.port.reopen().await
    }
}
