//! The Hub's protocol: commits, trees in pages, weights behind a delivery network, and why something cannot be had.

use super::server::{Fault, Route, Server};
use super::{Case, bytes, manifest, names, sha256, told};
use crate::FetchError;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A hub with one repository, and the network that has its large file.
struct Hub {
    api: Server,
    cdn: Server,
}

impl Hub {
    async fn start() -> Hub {
        let hub = Hub { api: Server::start().await, cdn: Server::start().await };
        let api = &hub.api;
        for revision in ["main", "v1", COMMIT] {
            let path = format!("/api/models/acme/tiny/revision/{revision}");
            api.route(&path, Route::json(&format!(r#"{{"sha":"{COMMIT}","gated":false}}"#)));
        }
        let weights = bytes(5_500);
        let tree = format!("/api/models/acme/tiny/tree/{COMMIT}?recursive=true");
        // The rest of the list is on a second page, whose address is the Hub's own.
        let next = format!(
            "<https://huggingface.co/api/models/acme/tiny/tree/{COMMIT}?recursive=true&cursor=c2>; rel=\"next\""
        );
        let first = r#"[{"type":"directory","path":"original","oid":"d"},
             {"type":"file","path":"README.md","size":9,"oid":"r"},
             {"type":"file","path":"config.json","size":2,"oid":"c"},
             {"type":"file","path":"original/consolidated.pth","size":5500,"oid":"o"}]"#;
        api.route(&tree, Route::json(first).with("link", &next));
        let second = format!(
            r#"[{{"type":"file","path":"model.safetensors","size":5500,"oid":"p",
                  "lfs":{{"oid":"{}","size":5500,"pointerSize":134}}}},
                {{"type":"file","path":"tokenizer.json","size":4,"oid":"t"}}]"#,
            sha256(&weights).hex()
        );
        api.route(&format!("{tree}&cursor=c2"), Route::json(&second));
        let resolve = |name: &str| format!("/acme/tiny/resolve/{COMMIT}/{name}");
        api.route(&resolve("config.json"), Route::file(b"{}".to_vec()).with("etag", "\"c\""));
        api.route(&resolve("tokenizer.json"), Route::file(b"[{}]".to_vec()));
        let signed = format!("{}/blob?Expires=1&Signature=hunter2", hub.cdn.url());
        api.route(&resolve("model.safetensors"), Route::redirect(&signed).with("x-linked-size", "5500"));
        hub.cdn.route("/blob?Expires=1&Signature=hunter2", Route::file(weights).with("etag", "\"cdn\""));
        hub
    }

    fn case(&self) -> Case {
        Case::new(&[("HF_ENDPOINT", &self.api.url()), ("HF_TOKEN", "hf_secret")])
    }
}

#[tokio::test]
async fn a_repository_comes_at_its_commit_with_its_weights_verified() {
    let hub = Hub::start().await;
    let case = hub.case();
    let report = case.fetch("hf://acme/tiny").await.unwrap();
    assert_eq!(
        names(&case.target()),
        ["config.json", "manifest.json", "model.safetensors", "tokenizer.json"]
    );
    assert_eq!(case.read("model.safetensors"), bytes(5_500));
    assert_eq!(report.skipped, ["README.md", "original/consolidated.pth"]);
    let manifest = manifest(&case.target());
    assert_eq!(manifest.revision.as_deref(), Some(COMMIT));
    // The token is for the Hub and not for its delivery network.
    assert!(hub.api.seen().iter().all(|seen| seen.auth.as_deref() == Some("Bearer hf_secret")));
    assert!(!hub.cdn.seen().is_empty() && hub.cdn.seen().iter().all(|seen| seen.auth.is_none()));
    // Ranges after the first go straight to the network.
    let resolved = hub.api.seen().iter().filter(|seen| seen.path.ends_with("model.safetensors")).count();
    assert_eq!(resolved, 1);

    let list =
        [("config.json", &b"{}"[..]), ("model.safetensors", &bytes(5_500)), ("tokenizer.json", b"[{}]")];
    let list: String = list.iter().map(|(name, body)| format!("{}  {name}\n", sha256(body).hex())).collect();
    assert_eq!(manifest.digest, sha256(list.as_bytes()));
    let again = case.fetch("hf://acme/tiny").await.unwrap();
    assert!(again.already_there);
}

#[tokio::test]
async fn a_commit_that_is_here_is_not_asked_for() {
    let hub = Hub::start().await;
    let case = hub.case();
    let source = format!("hf://acme/tiny@{COMMIT}");
    case.fetch(&source).await.unwrap();
    let seen = hub.api.seen().len();
    assert!(case.fetch(&source).await.unwrap().already_there);
    assert_eq!(hub.api.seen().len(), seen);
}

#[tokio::test]
async fn a_named_file_comes_alone_under_its_own_name() {
    let hub = Hub::start().await;
    let case = hub.case();
    case.fetch("hf://acme/tiny@v1/model.safetensors").await.unwrap();
    assert_eq!(names(&case.target()), ["manifest.json", "model.safetensors"]);
    let error = hub.case().fetch("hf://acme/tiny/gone.gguf").await.unwrap_err();
    assert!(
        error.is_bad_input() && error.to_string().contains("hf://acme/tiny/model.safetensors"),
        "{error}"
    );
}

#[tokio::test]
async fn weights_that_are_not_what_the_hub_promised_are_not_kept() {
    let hub = Hub::start().await;
    let case = hub.case();
    let mut wrong = bytes(5_500);
    wrong[4_000] ^= 1;
    hub.cdn.route("/blob?Expires=1&Signature=hunter2", Route::file(wrong).with("etag", "\"cdn\""));
    let error = case.fetch("hf://acme/tiny").await.unwrap_err();
    assert!(matches!(error, FetchError::Corrupt { .. }), "{error}");
    assert!(!told(&error).contains("hunter2"), "{}", told(&error));
    assert!(!case.target().exists());
}

#[tokio::test]
async fn a_mirror_without_digests_in_its_lists_is_held_to_those_of_its_redirects() {
    let hub = Hub::start().await;
    let tree = format!("/api/models/acme/tiny/tree/{COMMIT}?recursive=true");
    hub.api
        .route(&tree, Route::json(r#"[{"type":"file","path":"model.safetensors","size":5500,"oid":"p"}]"#));
    let resolve = format!("/acme/tiny/resolve/{COMMIT}/model.safetensors");
    let redirect = || Route::redirect(&format!("{}/blob?Expires=1&Signature=hunter2", hub.cdn.url()));
    let wrong = sha256(b"other").hex();
    hub.api.route(&resolve, redirect().with("x-linked-etag", &format!("\"{wrong}\"")));
    let error = hub.case().fetch("hf://acme/tiny").await.unwrap_err();
    assert!(matches!(&error, FetchError::Corrupt { expected, .. } if expected.hex() == wrong), "{error}");
    let right = sha256(&bytes(5_500)).hex();
    hub.api.route(&resolve, redirect().with("x-linked-etag", &format!("\"{right}\"")));
    hub.case().fetch("hf://acme/tiny").await.unwrap();
}

#[tokio::test]
async fn what_an_earlier_run_has_left_wrong_is_fetched_anew() {
    let hub = Hub::start().await;
    let mut case = hub.case();
    case.settings.connections = 1;
    let path = "/blob?Expires=1&Signature=hunter2";
    hub.cdn.fault(path, Fault::Answer(Route::file(bytes(5_500).into_iter().rev().collect())));
    hub.cdn.fault(path, Fault::Hang(10));
    let request = case.request("hf://acme/tiny/model.safetensors");
    let mut work = Box::pin(crate::fetch(&request, &case.settings, &case.progress));
    tokio::select! {
        outcome = &mut work => panic!("{outcome:?}"),
        () = hub.cdn.hung(1) => {}
    }
    drop(work);
    case.fetch("hf://acme/tiny/model.safetensors").await.unwrap();
    assert_eq!(case.read("model.safetensors"), bytes(5_500));
}

#[tokio::test]
async fn the_hubs_refusals_say_what_to_do() {
    let hub = Hub::start().await;
    let resolve = format!("/acme/tiny/resolve/{COMMIT}/config.json");
    let revision = "/api/models/acme/tiny/revision/main";
    for (path, route, words) in [
        (resolve.as_str(), Route::status(403).with("x-error-code", "GatedRepo"), "accept the licence"),
        (revision, Route::status(401).with("x-error-code", "RepoNotFound"), "set HF_TOKEN"),
        (revision, Route::status(404).with("x-error-code", "RevisionNotFound"), "revision after the @"),
    ] {
        hub.api.fault(path, Fault::Answer(route));
        let case = hub.case();
        let error = told(&case.fetch("hf://acme/tiny").await.unwrap_err());
        assert!(error.contains(words) && !error.contains("hf_secret"), "{error}");
    }
    let case = Case::new(&[("HF_ENDPOINT", &hub.api.url())]);
    hub.api.route(revision, Route::status(401));
    let error = told(&case.fetch("hf://acme/tiny").await.unwrap_err());
    assert!(error.contains("private or gated, set HF_TOKEN"), "{error}");
}

#[tokio::test]
async fn names_that_lead_out_of_the_folder_are_refused() {
    let hub = Hub::start().await;
    let tree = format!("/api/models/acme/tiny/tree/{COMMIT}?recursive=true");
    for name in ["../evil.safetensors", "/etc/evil.safetensors", "a/../../evil.safetensors"] {
        let list = format!(r#"[{{"type":"file","path":"{name}","size":1,"oid":"x"}}]"#);
        hub.api.route(&tree, Route::json(&list));
        let case = hub.case();
        let error = case.fetch("hf://acme/tiny").await.unwrap_err();
        assert!(matches!(error, FetchError::BadName { .. } | FetchError::Choice(_)), "{name}: {error}");
        assert_eq!(case.left(), [""; 0]);
    }
}

#[tokio::test]
async fn a_header_is_read_without_the_weights() {
    let hub = Hub::start().await;
    let case = hub.case();
    let remote = crate::open(&"hf://acme/tiny".parse().unwrap(), &case.settings).await.unwrap();
    let file = remote.files().iter().find(|file| file.name().as_str() == "model.safetensors").unwrap();
    assert_eq!((file.size(), file.sha256()), (Some(5_500), Some(sha256(&bytes(5_500)))));
    assert_eq!(remote.read_range(file, 0, 8).await.unwrap(), bytes(5_500)[..8]);
    assert_eq!(remote.revision(), Some(COMMIT));
    assert_eq!(
        hub.cdn.seen().iter().filter_map(|seen| seen.range.clone()).collect::<Vec<_>>(),
        ["bytes=0-7"]
    );
}
