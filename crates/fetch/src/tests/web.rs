//! Single files: names, pins, nothing done twice, limits, tokens, the way there.

use super::server::{Fault, Route, Server};
use super::{Case, bytes, manifest, names, sha256, told};
use crate::{FetchError, Secret};

const PATH: &str = "/models/a.gguf";

async fn server() -> Server {
    let server = Server::start().await;
    server.route(PATH, Route::file(bytes(2_500)).with("etag", "\"one\""));
    server
}

fn source(server: &Server) -> String {
    format!("{}{PATH}", server.url())
}

#[tokio::test]
async fn what_is_there_already_is_not_fetched_again_until_it_changes() {
    let (case, server) = (Case::new(&[]), server().await);
    case.fetch(&source(&server)).await.unwrap();
    server.ranges(PATH);
    let again = case.fetch(&source(&server)).await.unwrap();
    assert!(again.already_there && again.downloaded == 0);
    assert_eq!(server.ranges(PATH), ["bytes=0-0"]);
    // A file that is gone, or is no longer whole, is not there.
    std::fs::write(case.target().join("a.gguf"), "x").unwrap();
    assert!(!case.fetch(&source(&server)).await.unwrap().already_there);
    assert_eq!(case.read("a.gguf"), bytes(2_500));
    server.route(PATH, Route::file(bytes(2_500).into_iter().rev().collect()).with("etag", "\"two\""));
    assert!(!case.fetch(&source(&server)).await.unwrap().already_there);
    assert_eq!(case.read("a.gguf"), bytes(2_500).into_iter().rev().collect::<Vec<_>>());
    assert_eq!(names(&case.target()), ["a.gguf", "manifest.json"]);
}

#[tokio::test]
async fn a_pin_is_checked_before_anything_has_its_name() {
    let (case, server) = (Case::new(&[]), server().await);
    let wrong = sha256(b"other");
    let error = case.fetch_pinned(&source(&server), wrong).await.unwrap_err();
    assert!(matches!(error, FetchError::Corrupt { expected, .. } if expected == wrong), "{error}");
    assert!(!case.target().exists());
    let right = sha256(&bytes(2_500));
    let report = case.fetch_pinned(&source(&server), right).await.unwrap();
    assert_eq!(report.manifest.digest, right);
    assert!(case.fetch_pinned(&source(&server), right).await.unwrap().already_there);
    assert!(case.fetch_pinned(&source(&server), wrong).await.is_err());
    assert_eq!(case.read("a.gguf"), bytes(2_500));
}

#[tokio::test]
async fn the_manifest_says_what_came_from_where_without_the_signature() {
    let (case, server) = (Case::new(&[]), Server::start().await);
    server.route(&format!("{PATH}?sig=hunter2"), Route::file(bytes(10)).with("etag", "\"one\""));
    case.fetch(&format!("{}?sig=hunter2", source(&server))).await.unwrap();
    let manifest = manifest(&case.target());
    assert_eq!(manifest.source, source(&server));
    let file = &manifest.files[0];
    assert_eq!((file.path.as_str(), file.size, file.sha256), ("a.gguf", 10, sha256(&bytes(10))));
    assert_eq!(file.tag.as_deref(), Some("\"one\""));
}

#[tokio::test]
async fn more_than_the_limit_is_refused_before_or_while_it_comes() {
    let (mut case, server) = (Case::new(&[]), server().await);
    case.settings.max_bytes = Some(2_499);
    let error = case.fetch(&source(&server)).await.unwrap_err();
    assert!(matches!(error, FetchError::TooLarge { limit: 2_499, .. }), "{error}");
    assert_eq!(server.ranges(PATH), ["bytes=0-0"], "nothing but the look");
    case.settings.max_bytes = Some(2_500);
    case.fetch(&source(&server)).await.unwrap();
}

#[tokio::test]
async fn an_empty_file_is_a_file() {
    let (case, server) = (Case::new(&[]), Server::start().await);
    server.route(PATH, Route::file(Vec::new()));
    case.fetch(&source(&server)).await.unwrap();
    assert_eq!(case.read("a.gguf"), b"");
}

#[tokio::test]
async fn names_that_lead_elsewhere_are_refused() {
    let (case, server) = (Case::new(&[]), Server::start().await);
    for name in ["manifest.json", "%2e%2e%2fx", "a%5Cb", "a%3Ab"] {
        server.route(&format!("/x/{name}"), Route::file(bytes(10)));
        let url = format!("{}/x/{name}", server.url());
        if let Ok(source) = url.parse() {
            let request = crate::Request { source, target: case.target(), digest: None };
            let error = crate::fetch(&request, &case.settings, &case.progress).await.unwrap_err();
            assert!(error.is_bad_input(), "{name}: {error}");
        }
    }
    assert_eq!(case.left(), [""; 0]);
}

#[tokio::test]
async fn a_token_goes_to_its_host_and_to_no_other() {
    let (mut case, server, other) = (Case::new(&[]), server().await, Server::start().await);
    case.settings.token = Some(Secret::new("hunter2"));
    server.route(PATH, Route::file(bytes(2_500)).guarded("Bearer hunter2"));
    case.fetch(&source(&server)).await.unwrap();

    other.route("/b.gguf", Route::file(bytes(2_500)));
    server.route(PATH, Route::redirect(&format!("{}/b.gguf", other.url())));
    case.fetch(&source(&server)).await.unwrap();
    assert!(!other.seen().is_empty() && other.seen().iter().all(|seen| seen.auth.is_none()));

    // Not even when the other sends us back.
    server.route("/back.gguf", Route::file(bytes(10)));
    other.route("/b.gguf", Route::redirect(&format!("{}/back.gguf", server.url())));
    case.fetch(&source(&server)).await.unwrap();
    let back: Vec<_> = server.seen().into_iter().filter(|seen| seen.path == "/back.gguf").collect();
    assert!(!back.is_empty() && back.iter().all(|seen| seen.auth.is_none()));

    server.route(PATH, Route::status(401));
    let error = told(&case.fetch(&source(&server)).await.unwrap_err());
    assert!(error.contains("--token-file") && !error.contains("hunter2"), "{error}");
}

#[tokio::test]
async fn a_signed_address_is_used_until_it_expires() {
    let (mut case, server, cdn) = (Case::new(&[]), Server::start().await, Server::start().await);
    case.settings.connections = 1;
    server.route(PATH, Route::redirect(&format!("{}/x?sig=1", cdn.url())));
    cdn.route("/x?sig=1", Route::file(bytes(5_000)).with("etag", "\"one\""));
    for _ in 0..3 {
        cdn.fault("/x?sig=1", Fault::Answer(Route::file(bytes(5_000)).with("etag", "\"one\"")));
    }
    cdn.fault("/x?sig=1", Fault::Answer(Route::status(403)));
    case.fetch(&source(&server)).await.unwrap();
    assert_eq!(case.read("a.gguf"), bytes(5_000));
    // At first, and after it had expired.
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test]
async fn a_proxy_is_used_but_not_where_it_should_not_be() {
    let (proxy, server) = (Server::start().await, server().await);
    proxy.route(PATH, Route::file(bytes(100)));
    let env = [("HTTP_PROXY", proxy.url()), ("NO_PROXY", "127.0.0.1".to_owned())];
    let env = env.each_ref().map(|(name, value)| (*name, value.as_str()));
    // A name that only the proxy could find.
    Case::new(&env).fetch(&format!("http://models.invalid{PATH}")).await.unwrap();
    let through = proxy.seen().len();
    assert!(through > 0);
    Case::new(&env).fetch(&source(&server)).await.unwrap();
    assert_eq!(proxy.seen().len(), through);
}
