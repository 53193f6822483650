//! Keys that follow their file: a change takes effect within the polling interval, a broken one changes nothing and is said once.
//!
//! Files are polled: mounted Secrets change by a link that is swapped, and network volumes tell nobody.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use super::source::Contents;
use super::{KeySet, KeySource, KeysError};

/// How long a change may take to be seen.
const INTERVAL: Duration = Duration::from_secs(1);

/// The keys of a source, as they are now.
#[derive(Clone, Debug)]
pub struct WatchedKeys(Arc<ArcSwap<KeySet>>);

/// What was seen last: decides whether a look has news.
struct Watch {
    source: KeySource,
    seen: Option<Contents>,
    /// What was last complained about.
    complaint: Option<String>,
}

/// What a look at the source found.
#[derive(Debug)]
enum Look {
    Same,
    New(KeySet),
    Broken(KeysError),
    /// As before, and complained about already.
    StillBroken,
}

impl WatchedKeys {
    /// Reads the keys, which must be there at the start, and follows them until the last clone is dropped.
    ///
    /// Call it within a tokio runtime.
    ///
    /// # Errors
    /// [`KeysError`]; [`KeysError::Empty`] if there is no key.
    pub fn follow(source: KeySource) -> Result<WatchedKeys, KeysError> {
        let contents = source.contents()?;
        let keys = source.parse(&contents)?;
        if keys.is_empty() {
            return Err(KeysError::Empty { path: source.path().to_owned() });
        }
        let watched = WatchedKeys::fixed(keys);
        let shared = Arc::downgrade(&watched.0);
        let mut watch = Watch { source, seen: Some(contents), complaint: None };
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(INTERVAL).await;
                // Reading may wait for a network volume, so it has a thread of its own.
                let looked = tokio::task::spawn_blocking(move || {
                    let look = watch.look();
                    (watch, look)
                });
                let (Ok((back, look)), Some(keys)) = (looked.await, shared.upgrade()) else { return };
                watch = back;
                take(&watch.source, look, &keys);
            }
        });
        Ok(watched)
    }

    /// Keys that never change.
    pub fn fixed(keys: KeySet) -> WatchedKeys {
        WatchedKeys(Arc::new(ArcSwap::from_pointee(keys)))
    }

    /// Takes other keys at once: for whoever watches something else than files.
    pub fn replace(&self, keys: KeySet) {
        self.0.store(Arc::new(keys));
    }

    /// The keys as they are now.
    pub fn current(&self) -> Arc<KeySet> {
        self.0.load_full()
    }
}

fn take(source: &KeySource, look: Look, keys: &ArcSwap<KeySet>) {
    let path = source.path().display();
    match look {
        Look::Same | Look::StillBroken => {}
        Look::New(new) if new.is_empty() => {
            tracing::warn!(%path, "the last API key is gone: nobody may call");
            keys.store(Arc::new(new));
        }
        Look::New(new) => {
            tracing::info!(%path, keys = new.len(), "API keys changed");
            keys.store(Arc::new(new));
        }
        Look::Broken(error) => {
            let source = std::error::Error::source(&error).map(ToString::to_string);
            tracing::error!(%error, source, "the API keys stay as they were");
        }
    }
}

impl Watch {
    fn look(&mut self) -> Look {
        let read = self.source.contents().and_then(|contents| {
            if self.seen.as_ref() == Some(&contents) {
                return Ok(None);
            }
            let keys = self.source.parse(&contents)?;
            self.seen = Some(contents);
            Ok(Some(keys))
        });
        match read {
            Ok(news) => {
                self.complaint = None;
                news.map_or(Look::Same, Look::New)
            }
            Err(error) => {
                let said = format!("{error:?}");
                if self.complaint.as_ref() == Some(&said) {
                    return Look::StillBroken;
                }
                self.complaint = Some(said);
                Look::Broken(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::denied::Denied;
    use crate::moment::Moment;

    fn write(dir: &std::path::Path, name: &str, text: &str) {
        // As kubelet and our own writer do it: whole or not at all.
        fs::write(dir.join(".part"), text).unwrap();
        fs::rename(dir.join(".part"), dir.join(name)).unwrap();
    }

    #[test]
    fn a_broken_change_is_said_once_and_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "a", "sk-a");
        let mut watch = Watch { source: KeySource::new(dir.path()), seen: None, complaint: None };
        assert!(matches!(watch.look(), Look::New(keys) if keys.len() == 1));
        assert!(matches!(watch.look(), Look::Same));
        write(dir.path(), "b", "sha256:12");
        assert!(matches!(watch.look(), Look::Broken(KeysError::Line { line: 1, .. })));
        assert!(matches!(watch.look(), Look::StillBroken));
        write(dir.path(), "b", "sha256:13 also");
        assert!(matches!(watch.look(), Look::StillBroken));
        write(dir.path(), "b", "sk-b");
        assert!(matches!(watch.look(), Look::New(keys) if keys.len() == 2));
        write(dir.path(), "b", "sha256:12");
        assert!(matches!(watch.look(), Look::Broken(_)));
    }

    #[test]
    fn a_source_that_is_gone_keeps_the_keys_and_one_that_is_emptied_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        write(dir.path(), "keys", "sk-a\n");
        let mut watch = Watch { source: KeySource::new(&path), seen: None, complaint: None };
        let keys = ArcSwap::from_pointee(KeySet::default());
        let mut step = || {
            take(&watch.source.clone(), watch.look(), &keys);
            keys.load().check_key("sk-a", Moment::now()).map(|_| ())
        };
        assert_eq!(step(), Ok(()));
        fs::remove_file(&path).unwrap();
        assert_eq!(step(), Ok(()));
        write(dir.path(), "keys", "# nobody\n");
        assert_eq!(step(), Err(Denied::UnknownKey));
    }

    #[tokio::test(start_paused = true)]
    async fn deleting_a_key_takes_effect() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "a", "sk-a");
        write(dir.path(), "b", "sk-b");
        let keys = WatchedKeys::follow(KeySource::new(dir.path())).unwrap();
        assert!(keys.current().check_key("sk-a", Moment::now()).is_ok());
        fs::remove_file(dir.path().join("a")).unwrap();
        while keys.current().check_key("sk-a", Moment::now()).is_ok() {
            tokio::time::sleep(INTERVAL).await;
        }
        assert!(keys.current().check_key("sk-b", Moment::now()).is_ok());
    }

    #[tokio::test]
    async fn nothing_starts_without_a_key() {
        let dir = tempfile::tempdir().unwrap();
        let source = KeySource::new(dir.path());
        assert!(matches!(WatchedKeys::follow(source), Err(KeysError::Empty { .. })));
    }
}
