//! Where a model comes from, as users write it: `hf://`, `https://`, `s3://`, `gs://`, `oci://`, `file://`, `pvc://`.
//!
//! A [`SourceUrl`] is parsed once and cannot be wrong afterwards; it says nothing about whether anything is there. No network, no
//! file, no environment: the object's validation and the command line share this parser.

mod parse;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

pub use parse::SourceError;

/// A model's source.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum SourceUrl {
    /// A repository of the Hugging Face Hub, or a part of one.
    Hub(HubSource),
    /// One file of a web server.
    Web(WebSource),
    /// An object, or all objects below a prefix.
    Bucket(BucketSource),
    /// An artifact of an OCI registry.
    Oci(OciSource),
    /// A file or folder of this machine.
    File(FileSource),
    /// A file or folder of a PersistentVolumeClaim, wherever that is mounted.
    Volume(VolumeSource),
}

/// What a source begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scheme {
    /// `hf://`
    Hf,
    /// `https://`
    Https,
    /// `http://`: nothing on the way is secret or safe from change.
    Http,
    /// `s3://`
    S3,
    /// `gs://`
    Gs,
    /// `oci://`
    Oci,
    /// `file://`
    File,
    /// `pvc://`
    Pvc,
}

/// All schemes, in the order in which they are listed to people.
pub const SCHEMES: [Scheme; 8] =
    [Scheme::Hf, Scheme::Https, Scheme::Http, Scheme::S3, Scheme::Gs, Scheme::Oci, Scheme::File, Scheme::Pvc];

impl Scheme {
    /// The word before `://`.
    pub fn name(self) -> &'static str {
        match self {
            Scheme::Hf => "hf",
            Scheme::Https => "https",
            Scheme::Http => "http",
            Scheme::S3 => "s3",
            Scheme::Gs => "gs",
            Scheme::Oci => "oci",
            Scheme::File => "file",
            Scheme::Pvc => "pvc",
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Scheme {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let found = SCHEMES.into_iter().find(|scheme| scheme.name() == name);
        found.ok_or_else(|| format!("expected one of {}", SCHEMES.map(Scheme::name).join(", ")))
    }
}

/// `hf://owner/repo[@revision][/path]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct HubSource {
    /// Who owns the repository.
    pub owner: String,
    /// Its name.
    pub repo: String,
    /// A branch, tag or commit; the main branch without one.
    pub revision: Option<String>,
    /// A file or folder in it.
    pub path: Option<String>,
}

impl HubSource {
    /// `owner/repo`.
    pub fn id(&self) -> String {
        format!("{}/{}", self.owner, self.repo)
    }

    /// The same repository and revision with this path in it.
    pub fn with_path(&self, path: &str) -> HubSource {
        HubSource { path: Some(path.to_owned()), ..self.clone() }
    }
}

/// `https://host/path/file`, with or without a query.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct WebSource {
    /// Whether the connection is encrypted.
    pub secure: bool,
    /// Host, and port if there is one.
    pub authority: String,
    /// Begins with a slash, percent-encoded as it was written.
    pub path: String,
    /// What follows the question mark: may hold a signature, so it is not shown.
    pub query: Option<String>,
}

impl WebSource {
    /// The last part of the path, which names the file.
    pub fn file_name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }
}

/// Which kind of object storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Store {
    /// Amazon S3, and what speaks its protocol.
    S3,
    /// Google Cloud Storage.
    Gs,
}

/// `s3://bucket/prefix` or `gs://bucket/prefix`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct BucketSource {
    /// The kind of storage.
    pub store: Store,
    /// The bucket's name.
    pub bucket: String,
    /// An object's key or the beginning of several, without a slash at either end; empty for the whole bucket.
    pub prefix: String,
}

/// `oci://registry/repository[:tag|@sha256:…]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct OciSource {
    /// Host, and port if there is one.
    pub registry: String,
    /// The artifact's name there.
    pub repository: String,
    /// Which one of that name.
    pub reference: OciReference,
}

/// What picks one artifact of a repository.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum OciReference {
    /// A name that its owner can move.
    Tag(String),
    /// The digest of the manifest.
    Digest(Digest),
}

impl fmt::Display for OciReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OciReference::Tag(tag) => f.write_str(tag),
            OciReference::Digest(digest) => digest.fmt(f),
        }
    }
}

/// `file:///path`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct FileSource {
    /// An absolute path.
    pub path: PathBuf,
}

impl FileSource {
    /// Of an absolute path; `None` for any other, and for one that is not text.
    pub fn new(path: &Path) -> Option<FileSource> {
        (path.is_absolute() && path.to_str().is_some()).then(|| FileSource { path: path.to_owned() })
    }
}

/// `pvc://claim/path`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct VolumeSource {
    /// The PersistentVolumeClaim's name.
    pub claim: String,
    /// Below the volume's root, without a slash at either end; empty for all of it.
    pub path: String,
}

impl SourceUrl {
    /// What it begins with.
    pub fn scheme(&self) -> Scheme {
        match self {
            SourceUrl::Hub(_) => Scheme::Hf,
            SourceUrl::Web(web) if web.secure => Scheme::Https,
            SourceUrl::Web(_) => Scheme::Http,
            SourceUrl::Bucket(BucketSource { store: Store::S3, .. }) => Scheme::S3,
            SourceUrl::Bucket(BucketSource { store: Store::Gs, .. }) => Scheme::Gs,
            SourceUrl::Oci(_) => Scheme::Oci,
            SourceUrl::File(_) => Scheme::File,
            SourceUrl::Volume(_) => Scheme::Pvc,
        }
    }

    /// As text for logs, errors and manifests: without a query, which may hold a signature.
    pub fn shown(&self) -> String {
        match self {
            SourceUrl::Web(web) => SourceUrl::Web(WebSource { query: None, ..web.clone() }).to_string(),
            other => other.to_string(),
        }
    }
}

impl fmt::Display for SourceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://", self.scheme())?;
        match self {
            SourceUrl::Hub(HubSource { owner, repo, revision, path }) => {
                write!(f, "{owner}/{repo}")?;
                if let Some(revision) = revision {
                    write!(f, "@{}", parse::encode(revision, b"/"))?;
                }
                path.as_ref().map_or(Ok(()), |path| write!(f, "/{}", parse::encode(path, b"")))
            }
            SourceUrl::Web(WebSource { secure: _, authority, path, query }) => {
                write!(f, "{authority}{path}")?;
                query.as_ref().map_or(Ok(()), |query| write!(f, "?{query}"))
            }
            SourceUrl::Bucket(BucketSource { store: _, bucket, prefix }) => match prefix.as_str() {
                "" => f.write_str(bucket),
                prefix => write!(f, "{bucket}/{}", parse::encode(prefix, b"")),
            },
            SourceUrl::Oci(OciSource { registry, repository, reference }) => {
                let sign = if matches!(reference, OciReference::Tag(_)) { ':' } else { '@' };
                write!(f, "{registry}/{repository}{sign}{reference}")
            }
            SourceUrl::File(FileSource { path }) => {
                f.write_str(&parse::encode(path.to_str().expect("paths of sources are text"), b""))
            }
            SourceUrl::Volume(VolumeSource { claim, path }) => match path.as_str() {
                "" => f.write_str(claim),
                path => write!(f, "{claim}/{}", parse::encode(path, b"")),
            },
        }
    }
}

impl TryFrom<String> for SourceUrl {
    type Error = SourceError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<SourceUrl> for String {
    fn from(source: SourceUrl) -> String {
        source.to_string()
    }
}

#[cfg(test)]
mod tests;
