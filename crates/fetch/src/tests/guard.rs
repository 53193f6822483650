//! Nobody is talked to who was not allowed, by whatever way one gets there.

use wharf_api::source::Scheme;

use super::server::{Route, Server};
use super::{Case, bytes, told};
use crate::{FetchError, Policy};

const PATH: &str = "/a.gguf";

/// As a cautious operator has it, but for plain HTTP.
fn guarded() -> Case {
    let mut case = Case::new(&[]);
    case.settings.policy = Policy { schemes: vec![Scheme::Http, Scheme::Https], ..Policy::default() };
    case
}

#[tokio::test]
async fn private_addresses_are_refused_by_number_and_by_name() {
    let (case, server) = (guarded(), Server::start().await);
    server.route(PATH, Route::file(bytes(10)));
    for host in ["127.0.0.1", "localhost", "0x7f.1", "[::ffff:127.0.0.1]"] {
        let url = format!("http://{host}:{}{PATH}", server.port());
        let Ok(source) = url.parse() else { panic!("{url}") };
        let request = crate::Request { source, target: case.target(), digest: None };
        let error = crate::fetch(&request, &case.settings, &case.progress).await.unwrap_err();
        assert!(told(&error).contains("--allow-private"), "{host}: {}", told(&error));
        assert!(error.is_bad_input(), "{host}");
    }
    assert!(server.seen().is_empty(), "{:?}", server.seen());
}

#[tokio::test]
async fn redirects_are_checked_as_the_first_address_was() {
    let (mut case, server) = (Case::new(&[]), Server::start().await);
    case.settings.policy.hosts = vec!["127.0.0.1".parse().unwrap()];
    let other = Server::start().await;
    other.route(PATH, Route::file(bytes(10)));
    for (to, problem) in [
        (format!("http://localhost:{}{PATH}", other.port()), "--allow-host localhost"),
        ("http://169.254.169.254/latest/meta-data/".to_owned(), "not allowed"),
        ("file:///etc/passwd".to_owned(), "is no web address"),
        ("gopher://127.0.0.1/x".to_owned(), "is no web address"),
    ] {
        server.route(PATH, Route::redirect(&to));
        let error = case.fetch(&format!("{}{PATH}", server.url())).await.unwrap_err();
        assert!(told(&error).contains(problem), "{to}: {}", told(&error));
        assert!(!error.is_bad_input(), "it is the server's doing, not the user's");
    }
    assert!(other.seen().is_empty());
    case.settings.policy.hosts.clear();
    server.route(PATH, Route::redirect("http://169.254.169.254/latest/meta-data/"));
    let error = told(&case.fetch(&format!("{}{PATH}", server.url())).await.unwrap_err());
    assert!(error.contains("hands out this machine's credentials"), "{error}");
}

#[tokio::test]
async fn redirects_end() {
    let (case, server) = (Case::new(&[]), Server::start().await);
    server.route(PATH, Route::redirect(PATH));
    let error = told(&case.fetch(&format!("{}{PATH}", server.url())).await.unwrap_err());
    assert!(error.contains("redirects more than"), "{error}");
}

#[tokio::test]
async fn schemes_that_are_not_allowed_are_not_even_tried() {
    let mut case = Case::new(&[]);
    case.settings.policy.schemes = vec![Scheme::Hf];
    for source in [
        "https://e.com/x",
        "s3://bucket/x",
        "gs://bucket/x",
        "oci://e.com/x",
        "file:///etc/passwd",
        "pvc://x/y",
    ] {
        let error = case.fetch(source).await.unwrap_err();
        assert!(matches!(error, FetchError::Refused { .. }) && error.is_bad_input(), "{source}: {error}");
        assert!(told(&error).contains("allowed: hf"), "{}", told(&error));
    }
    assert_eq!(case.left(), [""; 0]);
}

#[tokio::test]
async fn the_proxy_that_may_be_private_is_no_source() {
    let server = Server::start().await;
    let proxy = format!("http://localhost:{}", server.port());
    let mut case = Case::new(&[("HTTP_PROXY", &proxy), ("NO_PROXY", "localhost")]);
    case.settings.policy = guarded().settings.policy;
    let error = case.fetch(&format!("{proxy}{PATH}")).await.unwrap_err();
    assert!(told(&error).contains("the proxy itself"), "{}", told(&error));
    assert!(server.seen().is_empty());
}

/// A mirror of the Hub, a registry and a store are addresses like any other.
#[tokio::test]
async fn no_protocol_goes_around_the_policy() {
    let server = Server::start().await;
    let url = server.url();
    let env = [
        ("HF_ENDPOINT", url.as_str()),
        ("AWS_ENDPOINT_URL", &url),
        ("GOOGLE_BASE_URL", &url),
        ("AWS_SKIP_SIGNATURE", "true"),
        ("GOOGLE_SKIP_SIGNATURE", "true"),
    ];
    let mut case = Case::new(&env);
    case.settings.policy = Policy::default();
    let oci = format!("oci://127.0.0.1:{}/a/b", server.port());
    for source in ["hf://a/b", "s3://bucket/x", "gs://bucket/x", &oci] {
        let error = case.fetch(source).await.unwrap_err();
        assert!(told(&error).contains("--allow-private"), "{source}: {}", told(&error));
    }
    assert!(server.seen().is_empty(), "{:?}", server.seen());
}
