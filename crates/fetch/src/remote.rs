//! A source that was found: its files, and any bytes of them without fetching the rest.

use bytes::Bytes;
use wharf_api::Digest;
use wharf_api::source::SourceUrl;

use crate::error::FetchError;
use crate::http::HttpError;
use crate::names::RelativeName;
use crate::object::Object;
use crate::settings::Settings;
use crate::{hub, local, oci, store, web};

/// What a source consists of.
#[derive(Debug)]
pub struct Remote {
    pub(crate) files: Vec<RemoteFile>,
    pub(crate) skipped: Vec<String>,
    pub(crate) revision: Option<String>,
    /// The digest of an OCI manifest.
    pub(crate) artifact: Option<Digest>,
}

/// One file of it.
#[derive(Clone, Debug)]
pub struct RemoteFile {
    pub(crate) name: RelativeName,
    pub(crate) size: Option<u64>,
    pub(crate) sha256: Option<Digest>,
    pub(crate) tag: Option<String>,
    pub(crate) kind: Kind,
    pub(crate) object: Object,
}

/// What becomes of a file once it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    /// An archive whose files take its place.
    Tar(Packing),
}

/// How an archive is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    None,
    Gzip,
    Zstd,
}

impl RemoteFile {
    /// Where it will lie.
    pub fn name(&self) -> &RelativeName {
        &self.name
    }

    /// In bytes; `None` when the server does not say.
    pub fn size(&self) -> Option<u64> {
        self.size
    }

    /// The digest that its server promises.
    pub fn sha256(&self) -> Option<Digest> {
        self.sha256
    }

    /// Whether it is an archive that is unpacked once it is fetched, so that its bytes are not yet those of a model's file.
    pub fn is_archive(&self) -> bool {
        match self.kind {
            Kind::File => false,
            Kind::Tar { .. } => true,
        }
    }
}

/// Most bytes that are read and dropped to get to an offset on a server without ranges.
const MOST_SKIPPED: u64 = 64 << 20;

impl Remote {
    pub(crate) fn new(files: Vec<RemoteFile>) -> Remote {
        Remote { files, skipped: Vec::new(), revision: None, artifact: None }
    }

    /// What would be fetched.
    pub fn files(&self) -> &[RemoteFile] {
        &self.files
    }

    /// Names that are there and would not be fetched.
    pub fn skipped(&self) -> &[String] {
        &self.skipped
    }

    /// What the source's name stands for now: a commit, or the digest of an artifact's manifest.
    pub fn revision(&self) -> Option<&str> {
        self.revision.as_deref()
    }

    /// `length` bytes from `offset` on, fewer where the file ends.
    pub async fn read_range(
        &self,
        file: &RemoteFile,
        offset: u64,
        length: usize,
    ) -> Result<Bytes, FetchError> {
        let end = offset.saturating_add(length as u64).min(file.size.unwrap_or(u64::MAX));
        if offset >= end {
            return Ok(Bytes::new());
        }
        let retry = file.object.retry();
        let mut bytes: Vec<u8> = Vec::new();
        let mut failures = 0;
        loop {
            let before = bytes.len();
            match read(file, offset, end, &mut bytes).await {
                Ok(()) => return Ok(bytes.into()),
                Err(error) if error.is_passing() => {
                    failures = if bytes.len() > before { 1 } else { failures + 1 };
                    let Some(pause) = retry.pause(failures, error.asked_pause(), fastrand::f64()) else {
                        return Err(error.during(format!("read {}", file.name)));
                    };
                    tokio::time::sleep(pause).await;
                }
                Err(error) => return Err(error.during(format!("read {}", file.name))),
            }
        }
    }
}

/// Adds what is missing to `bytes`, which begin at `offset`.
async fn read(file: &RemoteFile, offset: u64, end: u64, bytes: &mut Vec<u8>) -> Result<(), HttpError> {
    let at = offset + bytes.len() as u64;
    let mut opened = file.object.open(&(at..end), file.tag.as_deref()).await?;
    let end = opened.total.map_or(end, |total| end.min(total));
    let mut skip = at - opened.start;
    if skip > MOST_SKIPPED {
        let why = format!("it has no ranges, and {skip} bytes would be read for nothing");
        return Err(HttpError::Protocol { url: file.object.shown(), why });
    }
    while offset + (bytes.len() as u64) < end {
        let Some(chunk) = opened.body.next().await? else {
            // Where the size is not known, the end of the answer is the end of the file.
            let missing = end - offset - bytes.len() as u64;
            return match opened.total {
                Some(_) => Err(HttpError::Short { url: file.object.shown(), missing }),
                None => Ok(()),
            };
        };
        let from = usize::try_from(skip.min(chunk.len() as u64)).expect("no longer than the chunk");
        skip -= from as u64;
        let left = end - offset - bytes.len() as u64;
        let to = chunk.len().min(from + usize::try_from(left).unwrap_or(usize::MAX - from));
        bytes.extend_from_slice(&chunk[from..to]);
    }
    Ok(())
}

/// Finds out what a source consists of. Reads no more than lists and manifests.
pub async fn open(source: &SourceUrl, settings: &Settings) -> Result<Remote, FetchError> {
    let refused = |source_: String| move |source| FetchError::Refused { source_, source };
    settings.policy.check_scheme(source.scheme()).map_err(refused(source.shown()))?;
    let remote = match source {
        SourceUrl::Hub(source) => hub::open(source, settings).await,
        SourceUrl::Web(source) => web::open(source, settings).await,
        SourceUrl::Bucket(source) => store::open(source, settings).await,
        SourceUrl::Oci(source) => oci::open(source, settings).await,
        SourceUrl::File(source) => local::open(&source.path),
        SourceUrl::Volume(source) => local::volume(source, settings),
    }?;
    crate::names::distinct(remote.files.iter().filter(|file| !file.is_archive()).map(|file| &file.name))?;
    Ok(remote)
}
