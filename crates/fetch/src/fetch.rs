//! From a source to a whole folder: find out what there is, bring every file, unpack archives, compare with the pin, give everything its name.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::StreamExt as _;
use serde::Serialize;
use tokio::sync::Semaphore;
use wharf_api::Digest;
use wharf_api::source::SourceUrl;

use crate::error::FetchError;
use crate::journal;
use crate::manifest::{Manifest, ManifestFile};
use crate::object::Object;
use crate::place::{Found, Place};
use crate::progress::Progress;
use crate::remote::{Kind, Packing, Remote, RemoteFile, open};
use crate::settings::Settings;
use crate::transfer::{Budget, Transfer, Whole, hash};
use crate::unpack::unpack;

/// What to fetch, and where to.
#[derive(Clone, Debug)]
pub struct Request {
    /// The source.
    pub source: SourceUrl,
    /// The folder that will hold it.
    pub target: PathBuf,
    /// What it must be: see [`Manifest::digest`].
    pub digest: Option<Digest>,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The folder.
    pub path: PathBuf,
    /// What it consists of.
    #[serde(flatten)]
    pub manifest: Manifest,
    /// Whether everything was there already, so that nothing was done.
    pub already_there: bool,
    /// Bytes that were read from the source in this run.
    pub downloaded: u64,
    /// Names that the source has and that were left there.
    pub skipped: Vec<String>,
}

/// Brings the source into the folder. Dropping the future stops it where the next call goes on.
pub async fn fetch(
    request: &Request,
    settings: &Settings,
    progress: &Progress,
) -> Result<Report, FetchError> {
    let before_this = progress.snapshot().downloaded;
    loop {
        let place = Place::new(&request.target)?;
        let found = place.look()?;
        progress.at(format!("looking at {}", request.source.shown()));
        if let (Found::Whole(manifest), SourceUrl::Oci(_) | SourceUrl::Hub(_)) = (&found, &request.source)
            && is_pinned(&request.source)
            && serves(manifest, request, None)
            && manifest.missing(&request.target).is_none()
        {
            // The name cannot mean anything else than what is here: no need to ask anyone.
            settings
                .policy
                .check_scheme(request.source.scheme())
                .map_err(|source| FetchError::Refused { source_: request.source.shown(), source })?;
            return Ok(already(request, manifest.clone(), Vec::new()));
        }
        let remote = open(&request.source, settings).await?;
        check_artifact(request, &remote)?;
        let before = match found {
            Found::Free => None,
            Found::Whole(manifest) => {
                if manifest.source != request.source.shown() {
                    let why = format!("holds {}; choose another folder with -o", manifest.source);
                    return Err(FetchError::Occupied { path: request.target.clone(), why });
                }
                let unpinned = Request { digest: None, ..request.clone() };
                if serves(&manifest, &unpinned, Some(&remote)) && manifest.missing(&request.target).is_none()
                {
                    return match request.digest.filter(|digest| *digest != manifest.digest) {
                        // The same files would come again.
                        Some(expected) => Err(FetchError::Corrupt {
                            what: request.target.display().to_string(),
                            expected,
                            found: manifest.digest,
                        }),
                        None => Ok(already(request, manifest, remote.skipped)),
                    };
                }
                Some(manifest)
            }
        };
        let held = place.lock(progress).await?;
        if !place.is_current(&held) || matches!((place.look()?, &before), (Found::Whole(_), None)) {
            // Another process has finished while we waited.
            continue;
        }
        let manifest = bring(request, settings, progress, &remote, &place).await?;
        place.finish(&manifest, before.as_ref(), held)?;
        return Ok(Report {
            path: request.target.clone(),
            manifest,
            already_there: false,
            downloaded: progress.snapshot().downloaded - before_this,
            skipped: remote.skipped,
        });
    }
}

/// Whether the source's name means the same for ever.
fn is_pinned(source: &SourceUrl) -> bool {
    match source {
        SourceUrl::Oci(oci) => matches!(oci.reference, wharf_api::source::OciReference::Digest(_)),
        SourceUrl::Hub(hub) => {
            let revision = hub.revision.as_deref().unwrap_or_default();
            revision.len() == 40 && revision.bytes().all(|byte| byte.is_ascii_hexdigit())
        }
        SourceUrl::Web(_) | SourceUrl::Bucket(_) | SourceUrl::File(_) | SourceUrl::Volume(_) => false,
    }
}

/// Whether what is here is what was asked for: by the pin, by the revision, and as far as `remote` knows the files, by those.
fn serves(manifest: &Manifest, request: &Request, remote: Option<&Remote>) -> bool {
    if manifest.source != request.source.shown()
        || request.digest.is_some_and(|digest| digest != manifest.digest)
    {
        return false;
    }
    let Some(remote) = remote else { return true };
    if remote.revision.is_some() {
        return remote.revision == manifest.revision;
    }
    // Without a revision, the files' names, sizes and versions decide.
    let same = |file: &RemoteFile| {
        let there = manifest.files.iter().find(|there| there.path == file.name);
        there.is_some_and(|there| file.size.is_none_or(|size| size == there.size) && file.tag == there.tag)
    };
    remote.files().len() == manifest.files.len() && remote.files().iter().all(same)
}

fn already(request: &Request, manifest: Manifest, skipped: Vec<String>) -> Report {
    Report { path: request.target.clone(), manifest, already_there: true, downloaded: 0, skipped }
}

/// An artifact's digest is known before any of its bytes.
fn check_artifact(request: &Request, remote: &Remote) -> Result<(), FetchError> {
    match (request.digest, remote.artifact) {
        (Some(expected), Some(found)) if expected != found => {
            Err(FetchError::Corrupt { what: request.source.shown(), expected, found })
        }
        _ => Ok(()),
    }
}

async fn bring(
    request: &Request,
    settings: &Settings,
    progress: &Progress,
    remote: &Remote,
    place: &Place,
) -> Result<Manifest, FetchError> {
    let budget = Arc::new(Budget::new(settings.max_bytes));
    for file in remote.files() {
        let size = file.size.unwrap_or_default();
        budget.take(size, &|| request.source.shown())?;
        progress.expect(size);
    }
    let transfer = Transfer {
        source: request.source.shown(),
        chunk: settings.chunk,
        connections: settings.connections.max(1),
        permits: Arc::new(Semaphore::new(settings.connections.max(1))),
        budget,
        progress: progress.clone(),
    };
    // The pin of a single file is known before its bytes are kept.
    let pinned = match remote.files() {
        [only] if only.kind == Kind::File && remote.artifact.is_none() => request.digest,
        _ => None,
    };
    let mut parts = Vec::new();
    for file in remote.files() {
        parts.push((file, place.part(&file.name)?));
    }
    let work = parts.iter().map(|(file, part)| one(&transfer, file, part, pinned));
    let mut running = futures_util::stream::iter(work).buffered(transfer.connections);
    let mut wholes = Vec::with_capacity(parts.len());
    while let Some(whole) = running.next().await {
        wholes.push(whole?);
    }
    drop(running);
    let folder = place.clear()?;
    let (mut files, mut unpacked): (Vec<ManifestFile>, Vec<ManifestFile>) = (Vec::new(), Vec::new());
    let unpacking = Arc::new(Budget::new(settings.max_bytes));
    for ((file, part), whole) in parts.iter().zip(&wholes) {
        match file.kind {
            Kind::File => {
                let Whole { size, sha256 } = *whole;
                files.push(ManifestFile { path: file.name.clone(), size, sha256, tag: file.tag.clone() });
            }
            Kind::Tar(packing) => {
                progress.at(format!("unpacking {}", file.name));
                let made = in_background(part, packing, &folder, &unpacking).await?;
                // A later layer may replace a file of an earlier one.
                unpacked.retain(|there| made.iter().all(|made| made.path != there.path));
                unpacked.extend(made);
            }
        }
    }
    files.extend(unpacked);
    crate::names::distinct(files.iter().map(|file| &file.path))?;
    let manifest = Manifest::new(request.source.shown(), remote.revision.clone(), remote.artifact, files);
    if let Some(expected) = request.digest.filter(|expected| *expected != manifest.digest) {
        return Err(FetchError::Corrupt { what: request.source.shown(), expected, found: manifest.digest });
    }
    for (file, part) in parts.iter().filter(|(file, _)| file.kind == Kind::File) {
        place.keep(part, &file.name)?;
    }
    Ok(manifest)
}

async fn one(
    transfer: &Transfer,
    file: &RemoteFile,
    part: &Path,
    pinned: Option<Digest>,
) -> Result<Whole, FetchError> {
    if let (Object::Local(path), Some(size)) = (&file.object, file.size)
        && link(path, part)
    {
        transfer.progress.at(format!("verifying {}", file.name));
        let sha256 = hash(part, size).await?;
        transfer.progress.found(size);
        return match pinned {
            Some(expected) if expected != sha256 => {
                Err(FetchError::Corrupt { what: path.display().to_string(), expected, found: sha256 })
            }
            _ => Ok(Whole { size, sha256 }),
        };
    }
    transfer.bring(file, part, pinned).await
}

/// A second name costs no bytes; it works only within a file system. Half a copy of an earlier run is gone on with instead.
fn link(path: &Path, part: &Path) -> bool {
    if journal::path_of(part).exists() {
        return false;
    }
    let _ = std::fs::remove_file(part);
    std::fs::hard_link(path, part).is_ok()
}

async fn in_background(
    archive: &Path,
    packing: Packing,
    folder: &Path,
    budget: &Arc<Budget>,
) -> Result<Vec<ManifestFile>, FetchError> {
    let (archive, folder, budget) = (archive.to_owned(), folder.to_owned(), Arc::clone(budget));
    match tokio::task::spawn_blocking(move || unpack(&archive, packing, &folder, &budget)).await {
        Ok(outcome) => outcome,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(FetchError::answer("the archive", "the runtime is ending")),
    }
}
