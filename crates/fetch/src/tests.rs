//! Behaviour over real sockets: small servers on loopback that speak the protocols, misbehave on demand and write down what they were asked.

mod guard;
mod hub;
mod oci;
mod place;
mod ranges;
mod server;
mod store;
mod tls;
mod web;

use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use wharf_api::Digest;
use wharf_api::source::Scheme;

use crate::{FetchError, Manifest, Progress, Report, Request, Settings, fetch};

/// A folder to fetch into, and settings that reach this machine.
struct Case {
    folder: TempDir,
    settings: Settings,
    progress: Progress,
}

impl Case {
    fn new(env: &[(&str, &str)]) -> Case {
        // The provider of the whole process; every test may be the first.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mut settings = Settings::from_env(&env).unwrap();
        settings.policy.allow_private = true;
        settings.policy.schemes.push(Scheme::Http);
        settings.retry.first = Duration::from_millis(1);
        settings.retry.attempts = 4;
        settings.chunk = 1000;
        Case { folder: tempfile::tempdir().unwrap(), settings, progress: Progress::default() }
    }

    fn target(&self) -> PathBuf {
        self.folder.path().join("model")
    }

    fn request(&self, source: &str) -> Request {
        Request { source: source.parse().unwrap(), target: self.target(), digest: None }
    }

    async fn fetch(&self, source: &str) -> Result<Report, FetchError> {
        fetch(&self.request(source), &self.settings, &self.progress).await
    }

    async fn fetch_pinned(&self, source: &str, digest: Digest) -> Result<Report, FetchError> {
        let request = Request { digest: Some(digest), ..self.request(source) };
        fetch(&request, &self.settings, &self.progress).await
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.target().join(name)).unwrap()
    }

    /// Names in the folder that holds the target.
    fn left(&self) -> Vec<String> {
        names(self.folder.path())
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// An error with all that it stands on, as the command shows it.
fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text += &format!(" | {inner}");
        source = inner.source();
    }
    text
}

/// Bytes that differ from place to place.
fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i.wrapping_mul(31) ^ (i >> 8)) as u8).collect()
}

fn sha256(bytes: &[u8]) -> Digest {
    Digest::new(Sha256::digest(bytes).into())
}

fn manifest(folder: &Path) -> Manifest {
    Manifest::read(folder).unwrap().unwrap()
}
