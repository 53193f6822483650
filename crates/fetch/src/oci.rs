//! Artifacts of OCI registries: a manifest names layers by their digests, a layer's title is its file's name. Follows the OCI distribution and image
//! specifications, version 1.1; the layers of ordinary images, which are archives, are unpacked.

mod auth;

use std::collections::BTreeMap;
use std::sync::Arc;

use http::header;
use reqwest::Url;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use wharf_api::Digest;
use wharf_api::source::{OciReference, OciSource, Scheme};

use crate::error::FetchError;
use crate::http::{Get, Http, HttpError};
use crate::names::RelativeName;
use crate::object::{Object, WebObject};
use crate::remote::{Kind, Packing, Remote, RemoteFile};
use crate::settings::Settings;

pub(crate) use auth::Login;

/// The specification asks registries to take manifests of this size.
const MAX_MANIFEST: usize = 4 << 20;

const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_IMAGE: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

const TITLE: &str = "org.opencontainers.image.title";
/// The name of a file in CNCF's model specification.
const FILE_PATH: &str = "org.cncf.model.filepath";
/// ORAS's mark of a folder that it has packed.
const UNPACK: &str = "io.deis.oras.content.unpack";

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    manifests: Vec<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    platform: Option<Platform>,
}

#[derive(Debug, Deserialize)]
struct Platform {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
}

pub(crate) async fn open(source: &OciSource, settings: &Settings) -> Result<Remote, FetchError> {
    let registry = Registry::new(source, settings)?;
    let (mut digest, mut document) = registry.manifest(&source.reference).await?;
    if is_index(&document) {
        let chosen = choose(&document.manifests).ok_or_else(|| {
            FetchError::answer(registry.name(), "it has nothing for this machine's platform")
        })?;
        let chosen: Digest =
            chosen.digest.parse().map_err(|error| FetchError::answer(registry.name(), error))?;
        // A pin is of what the reference named.
        (_, document) = registry.manifest(&OciReference::Digest(chosen)).await?;
        if is_index(&document) {
            return Err(FetchError::answer(registry.name(), "an index within an index"));
        }
    }
    if let OciReference::Digest(asked) = &source.reference {
        digest = *asked;
    }
    let mut files = Vec::new();
    for (i, layer) in document.layers.iter().enumerate() {
        files.extend(registry.layer(i, layer)?);
    }
    if files.is_empty() {
        return Err(FetchError::Choice(format!("{} has no layers with files", registry.name())));
    }
    Ok(Remote { revision: Some(digest.to_string()), artifact: Some(digest), ..Remote::new(files) })
}

fn is_index(document: &Document) -> bool {
    let named = document.media_type.as_deref().is_some_and(|kind| kind == INDEX || kind == DOCKER_INDEX);
    named || (document.layers.is_empty() && !document.manifests.is_empty())
}

/// The entry for this machine, or the only one.
fn choose(manifests: &[Descriptor]) -> Option<&Descriptor> {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let fits = |entry: &&Descriptor| {
        entry
            .platform
            .as_ref()
            .is_some_and(|p| p.architecture == architecture && p.os == std::env::consts::OS)
    };
    match manifests {
        [only] => Some(only),
        several => {
            several.iter().find(fits).or_else(|| several.iter().find(|entry| entry.platform.is_none()))
        }
    }
}

/// What a layer's media type and annotations make of it: a title means a file, whatever the media type, unless ORAS has packed a folder.
fn kind(layer: &Descriptor) -> Kind {
    let (media, has) = (layer.media_type.as_str(), |name| layer.annotations.contains_key(name));
    let packed = layer.annotations.get(UNPACK).is_some_and(|value| value == "true");
    let archive = [".tar", ".layer.", "rootfs"].iter().any(|word| media.contains(word));
    if !packed && (has(TITLE) || !archive) {
        return Kind::File;
    }
    // ORAS packs folders with gzip and does not always say so.
    let gzip = media.contains("gzip") || (packed && !media.ends_with(".tar"));
    Kind::Tar(match media.contains("zstd") {
        true => Packing::Zstd,
        false if gzip => Packing::Gzip,
        false => Packing::None,
    })
}

/// One repository of a registry.
struct Registry {
    http: Http,
    base: Url,
    shown: String,
    login: Arc<Login>,
    /// What may be asked for by name alone.
    reference: String,
}

impl Registry {
    fn new(source: &OciSource, settings: &Settings) -> Result<Registry, FetchError> {
        let shown = format!("oci://{}/{}", source.registry, source.repository);
        // Docker's own registry has another name for machines.
        let host = if source.registry == "docker.io" { "registry-1.docker.io" } else { &source.registry };
        let repository = match source.repository.contains('/') || source.registry != "docker.io" {
            true => source.repository.clone(),
            false => format!("library/{}", source.repository),
        };
        // As Docker has it, a registry on this machine is spoken to without encryption; others where nothing else is allowed.
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        let allows = |scheme| settings.policy.schemes.contains(&scheme);
        let plain = ["localhost", "127.0.0.1", "[::1]"].contains(&name)
            || (allows(Scheme::Http) && !allows(Scheme::Https));
        let scheme = if plain { "http" } else { "https" };
        let base: Url = format!("{scheme}://{host}/v2/{repository}/")
            .parse()
            .map_err(|_| FetchError::Choice(format!("{shown} names no registry")))?;
        let origins = if plain { vec![base.clone()] } else { Vec::new() };
        let http = Http::new(settings, &origins)?;
        let login = Login::new(&source.registry, &repository, &base, settings)?;
        Ok(Registry { http, base, shown, login: login.into(), reference: source.reference.to_string() })
    }

    fn name(&self) -> String {
        format!("{} {}", self.shown, self.reference)
    }

    fn url(&self, path: &str) -> Result<Url, FetchError> {
        self.base.join(path).map_err(|error| FetchError::answer(&self.shown, error))
    }

    /// The manifest behind a reference, and its digest, which is always computed and never believed.
    async fn manifest(&self, reference: &OciReference) -> Result<(Digest, Document), FetchError> {
        let url = self.url(&format!("manifests/{reference}"))?;
        let doing = || format!("read the manifest {reference} of {}", self.shown);
        let accept = [IMAGE, INDEX, DOCKER_IMAGE, DOCKER_INDEX].join(", ");
        let mut tried = false;
        let body = loop {
            let get = Get::new(url.clone(), self.login.current()).with(header::ACCEPT, &accept);
            match self.http.bytes(&get, MAX_MANIFEST).await {
                Ok((_, body)) => break body,
                Err(HttpError::Status { status, challenge: Some(challenge), .. })
                    if status == 401 && !tried =>
                {
                    tried = true;
                    self.login.answer(&self.http, &challenge).await?;
                }
                Err(error) => {
                    let code = error.status().map_or(0, |status| status.as_u16());
                    return Err(match code {
                        401 | 403 => error.hinted(doing(), self.login.hint()),
                        404 => error.hinted(doing(), "check the repository and the tag"),
                        _ => error.during(doing()),
                    });
                }
            }
        };
        let digest = Digest::new(Sha256::digest(&body).into());
        if let OciReference::Digest(expected) = reference
            && *expected != digest
        {
            return Err(FetchError::Corrupt { what: self.name(), expected: *expected, found: digest });
        }
        let document =
            serde_json::from_slice(&body).map_err(|error| FetchError::answer(self.name(), error))?;
        Ok((digest, document))
    }

    /// A layer as a file; `None` for one that stands for nothing.
    fn layer(&self, index: usize, layer: &Descriptor) -> Result<Option<RemoteFile>, FetchError> {
        if layer.media_type == "application/vnd.oci.empty.v1+json" {
            return Ok(None);
        }
        let what = || format!("layer {} of {}", index + 1, self.name());
        let sha256: Digest = layer.digest.parse().map_err(|error| FetchError::answer(what(), error))?;
        let kind = kind(layer);
        let title = layer.annotations.get(TITLE).or_else(|| layer.annotations.get(FILE_PATH));
        let name = match (kind, title) {
            (Kind::File, Some(title)) => RelativeName::new(title)?,
            (Kind::File, None) => {
                let why = format!("it has no name ({TITLE}), so it is no artifact of files");
                return Err(FetchError::answer(what(), why));
            }
            (Kind::Tar(_), _) => RelativeName::new(&format!("layer-{}", sha256.hex()))?,
        };
        let get = Get::new(self.url(&format!("blobs/{sha256}"))?, None);
        let object = WebObject::new(self.http.clone(), get, false).with_login(Arc::clone(&self.login));
        Ok(Some(RemoteFile {
            name,
            size: Some(layer.size),
            sha256: Some(sha256),
            tag: None,
            kind,
            object: Object::Web(object.into()),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(media: &str, annotations: &[(&str, &str)]) -> Descriptor {
        Descriptor {
            media_type: media.to_owned(),
            digest: String::new(),
            size: 0,
            annotations: annotations.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            platform: None,
        }
    }

    #[test]
    fn layers_are_files_or_archives() {
        let file = Kind::File;
        let [tar, gzip, zstd] = [Packing::None, Packing::Gzip, Packing::Zstd].map(Kind::Tar);
        for (media, annotations, expected) in [
            ("application/octet-stream", &[(TITLE, "a.gguf")][..], file),
            ("application/vnd.oci.image.layer.v1.tar", &[(TITLE, "a.gguf")], file),
            ("application/vnd.oci.image.layer.v1.tar", &[], tar),
            ("application/vnd.oci.image.layer.v1.tar+gzip", &[], gzip),
            ("application/vnd.oci.image.layer.v1.tar+gzip", &[(TITLE, "model"), (UNPACK, "true")], gzip),
            ("application/vnd.docker.image.rootfs.diff.tar.gzip", &[], gzip),
            ("application/vnd.oci.image.layer.v1.tar+zstd", &[], zstd),
            ("application/vnd.oci.image.layer.v1.tar+zstd", &[(TITLE, "model"), (UNPACK, "true")], zstd),
            ("application/vnd.cncf.model.weight.v1.tar", &[(FILE_PATH, "a")], tar),
            ("application/vnd.cncf.model.weight.v1.raw", &[(FILE_PATH, "a")], file),
        ] {
            assert_eq!(kind(&layer(media, annotations)), expected, "{media} {annotations:?}");
        }
    }

    #[test]
    fn of_an_index_the_entry_for_this_machine_is_taken() {
        let entry = |digest: &str, platform: Option<(&str, &str)>| Descriptor {
            digest: digest.to_owned(),
            platform: platform
                .map(|(os, architecture)| Platform { os: os.into(), architecture: architecture.into() }),
            ..layer(IMAGE, &[])
        };
        let here = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let entries = [entry("a", Some(("linux", "s390x"))), entry("b", Some((std::env::consts::OS, here)))];
        assert_eq!(choose(&entries).unwrap().digest, "b");
        assert_eq!(choose(&entries[..1]).unwrap().digest, "a");
        assert!(choose(&[entry("a", Some(("x", "y"))), entry("b", Some(("x", "z")))]).is_none());
    }
}
