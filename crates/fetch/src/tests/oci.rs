//! A registry: tokens, manifests that are what their digest says, layers with titles, archives.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use wharf_api::Digest;

use super::server::{Route, Server};
use super::{Case, bytes, manifest, names, sha256, told};
use crate::{FetchError, Secret};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

struct Registry {
    server: Server,
}

impl Registry {
    async fn start() -> Registry {
        Registry { server: Server::start().await }
    }

    fn source(&self, reference: &str) -> String {
        format!("oci://127.0.0.1:{}/acme/tiny{reference}", self.server.port())
    }

    /// Puts a blob there and gives its descriptor.
    fn layer(&self, body: &[u8], media: &str, annotations: &str) -> String {
        let digest = sha256(body);
        self.server.route(&format!("/v2/acme/tiny/blobs/{digest}"), Route::file(body.to_vec()));
        let size = body.len();
        format!(
            r#"{{"mediaType":"{media}","digest":"{digest}","size":{size},"annotations":{{{annotations}}}}}"#
        )
    }

    fn file(&self, title: &str, body: &[u8]) -> String {
        self.layer(
            body,
            "application/octet-stream",
            &format!(r#""org.opencontainers.image.title":"{title}""#),
        )
    }

    fn manifest(&self, tag: &str, layers: &[String]) -> Digest {
        let text =
            format!(r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","layers":[{}]}}"#, layers.join(","));
        self.put(tag, &text)
    }

    fn put(&self, tag: &str, text: &str) -> Digest {
        let digest = sha256(text.as_bytes());
        for reference in [tag.to_owned(), digest.to_string()] {
            self.server.route(&format!("/v2/acme/tiny/manifests/{reference}"), Route::json(text));
        }
        digest
    }

    /// Lets in only those who ask the registry's own service for a token first.
    fn lock(&self, path: &str) {
        let realm = format!("{}/token", self.server.url());
        let challenge = format!(r#"Bearer realm="{realm}",service="tiny",scope="repository:acme/tiny:pull""#);
        let state = self.server.clone();
        let mut route = state.current(path).guarded("Bearer granted");
        route.challenge = Some(challenge);
        state.route(path, route);
        let query = "/token?scope=repository%3Aacme%2Ftiny%3Apull&service=tiny";
        state.route(query, Route::json(r#"{"token":"granted"}"#));
    }
}

#[tokio::test]
async fn layers_with_titles_are_files_and_the_pin_is_the_manifests() {
    let (case, registry) = (Case::new(&[]), Registry::start().await);
    let layers = [registry.file("model.gguf", &bytes(3_500)), registry.file("config/a.json", b"{}")];
    let digest = registry.manifest("7b", &layers);
    let report = case.fetch_pinned(&registry.source(":7b"), digest).await.unwrap();
    assert_eq!(case.read("model.gguf"), bytes(3_500));
    assert_eq!(case.read("config/a.json"), b"{}");
    assert_eq!(report.manifest.digest, digest);
    assert_eq!(manifest(&case.target()).revision, Some(digest.to_string()));
    assert!(case.fetch(&registry.source(":7b")).await.unwrap().already_there);
}

#[tokio::test]
async fn a_pin_that_is_wrong_costs_no_layer() {
    let (case, registry) = (Case::new(&[]), Registry::start().await);
    registry.manifest("7b", &[registry.file("model.gguf", &bytes(3_500))]);
    let error = case.fetch_pinned(&registry.source(":7b"), sha256(b"x")).await.unwrap_err();
    assert!(matches!(error, FetchError::Corrupt { .. }), "{error}");
    assert!(registry.server.seen().iter().all(|seen| !seen.path.contains("/blobs/")));
    // A registry that answers another manifest than the one that was asked for by its digest.
    let asked = sha256(b"y");
    registry.server.route(&format!("/v2/acme/tiny/manifests/{asked}"), Route::json("{}"));
    let error = case.fetch(&registry.source(&format!("@{asked}"))).await.unwrap_err();
    assert!(matches!(error, FetchError::Corrupt { expected, .. } if expected == asked), "{error}");
}

#[tokio::test]
async fn a_layer_that_is_not_what_its_digest_says_is_not_kept() {
    let (case, registry) = (Case::new(&[]), Registry::start().await);
    registry.manifest("7b", &[registry.file("model.gguf", &bytes(3_500))]);
    let path = format!("/v2/acme/tiny/blobs/{}", sha256(&bytes(3_500)));
    registry.server.route(&path, Route::file(vec![7; 3_500]));
    let error = case.fetch(&registry.source(":7b")).await.unwrap_err();
    assert!(matches!(error, FetchError::Corrupt { .. }), "{error}");
    assert!(!case.target().exists());
}

#[tokio::test]
async fn archives_are_unpacked_and_those_that_climb_are_refused() {
    let (case, registry) = (Case::new(&[]), Registry::start().await);
    let tar = |name: &str| {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(5);
        header.set_mode(0o644);
        header.set_cksum();
        let mut builder = tar::Builder::new(Vec::new());
        builder.append(&header, &b"hello"[..]).unwrap();
        builder.into_inner().unwrap()
    };
    let archive = |name: &str| {
        let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
        packer.write_all(&tar(name)).unwrap();
        packer.finish().unwrap()
    };
    let layer = "application/vnd.oci.image.layer.v1.tar+gzip";
    registry.manifest("good", &[registry.layer(&archive("models/a.gguf"), layer, "")]);
    registry.manifest("bad", &[registry.layer(&archive("../evil"), layer, "")]);
    case.fetch(&registry.source(":good")).await.unwrap();
    assert_eq!(case.read("models/a.gguf"), b"hello");
    assert_eq!(names(&case.target()), ["manifest.json", "models"]);

    let case = Case::new(&[]);
    let zstd = compress_to_vec(&tar("b.gguf")[..], CompressionLevel::Fastest);
    let layer_of_zstd = "application/vnd.oci.image.layer.v1.tar+zstd";
    registry.manifest("zstd", &[registry.layer(&zstd, layer_of_zstd, "")]);
    case.fetch(&registry.source(":zstd")).await.unwrap();
    assert_eq!(case.read("b.gguf"), b"hello");

    let case = Case::new(&[]);
    let error = case.fetch(&registry.source(":bad")).await.unwrap_err();
    assert!(matches!(error, FetchError::BadName { .. }), "{error}");
    assert!(!case.folder.path().join("evil").exists() && !case.target().exists());

    let mut case = Case::new(&[]);
    registry.manifest("bomb", &[registry.layer(&archive("a"), layer, "")]);
    case.settings.max_bytes = Some(4);
    let error = case.fetch(&registry.source(":bomb")).await.unwrap_err();
    assert!(matches!(error, FetchError::TooLarge { .. }), "{error}");
}

#[tokio::test]
async fn titles_that_climb_are_refused() {
    let registry = Registry::start().await;
    for title in ["../evil", "/evil", "a/../../evil"] {
        registry.manifest("7b", &[registry.file(title, b"x")]);
        let case = Case::new(&[]);
        let error = case.fetch(&registry.source(":7b")).await.unwrap_err();
        assert!(matches!(error, FetchError::BadName { .. }), "{error}");
        assert_eq!(case.left(), [""; 0]);
    }
}

#[tokio::test]
async fn a_registrys_token_service_is_asked_with_what_docker_knows() {
    let registry = Registry::start().await;
    registry.manifest("7b", &[registry.file("model.gguf", &bytes(1_500))]);
    registry.lock("/v2/acme/tiny/manifests/7b");
    registry.lock(&format!("/v2/acme/tiny/blobs/{}", sha256(&bytes(1_500))));
    // Without credentials: what anybody may have.
    Case::new(&[]).fetch(&registry.source(":7b")).await.unwrap();

    let docker = tempfile::tempdir().unwrap();
    let config =
        format!(r#"{{"auths":{{"127.0.0.1:{}":{{"auth":"dTpodW50ZXIy"}}}}}}"#, registry.server.port());
    std::fs::write(docker.path().join("config.json"), config).unwrap();
    let query = "/token?scope=repository%3Aacme%2Ftiny%3Apull&service=tiny";
    registry.server.route(query, Route::json(r#"{"token":"granted"}"#).guarded("Basic dTpodW50ZXIy"));
    let case = Case::new(&[("DOCKER_CONFIG", docker.path().to_str().unwrap())]);
    case.fetch(&registry.source(":7b")).await.unwrap();
    assert_eq!(case.read("model.gguf"), bytes(1_500));

    let error = told(&Case::new(&[]).fetch(&registry.source(":7b")).await.unwrap_err());
    assert!(error.contains("docker login 127.0.0.1"), "{error}");
    let mut case = Case::new(&[]);
    case.settings.token = Some(Secret::new("u:hunter3"));
    let error = told(&case.fetch(&registry.source(":7b")).await.unwrap_err());
    assert!(error.contains("do not allow it") && !error.contains("hunter3"), "{error}");
    case.settings.token = Some(Secret::new("u:hunter2"));
    case.fetch(&registry.source(":7b")).await.unwrap();
}

#[tokio::test]
async fn a_token_that_has_expired_is_renewed() {
    let (case, registry) = (Case::new(&[]), Registry::start().await);
    registry.manifest("7b", &[registry.file("model.gguf", &bytes(1_500))]);
    registry.lock("/v2/acme/tiny/manifests/7b");
    let blob = format!("/v2/acme/tiny/blobs/{}", sha256(&bytes(1_500)));
    let mut route = registry.server.current(&blob).guarded("Bearer renewed");
    route.challenge = Some(format!(r#"Bearer realm="{}/later",scope="x""#, registry.server.url()));
    registry.server.route(&blob, route);
    registry.server.route("/later?scope=x", Route::json(r#"{"access_token":"renewed"}"#));
    case.fetch(&registry.source(":7b")).await.unwrap();
    assert_eq!(case.read("model.gguf"), bytes(1_500));
}

#[tokio::test]
async fn of_an_index_the_fitting_manifest_is_taken() {
    let (case, registry) = (Case::new(&[]), Registry::start().await);
    let image = registry.manifest("image", &[registry.file("model.gguf", &bytes(100))]);
    let index = registry.put(
        "multi",
        &format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json",
                "manifests":[{{"mediaType":"{MANIFEST}","digest":"{image}","size":1}}]}}"#
        ),
    );
    let report = case.fetch(&registry.source(":multi")).await.unwrap();
    assert_eq!(report.manifest.digest, index);
    assert_eq!(case.read("model.gguf"), bytes(100));
}
