//! Bytes come in parallel, again where they were lost, and never twice.

use std::collections::BTreeSet;

use super::server::{Fault, Route, Server};
use super::{Case, bytes, names, sha256, told};
use crate::{FetchError, fetch};

const PATH: &str = "/models/a.gguf";

async fn server(length: usize) -> Server {
    let server = Server::start().await;
    server.route(PATH, Route::file(bytes(length)).with("etag", "\"one\""));
    server
}

fn source(server: &Server) -> String {
    format!("{}{PATH}", server.url())
}

/// Stops a fetch once the server has stopped answering, as a kill would.
async fn interrupted(case: &Case, server: &Server, hangs: usize) {
    let request = case.request(&source(server));
    let mut work = Box::pin(fetch(&request, &case.settings, &case.progress));
    tokio::select! {
        outcome = &mut work => panic!("it was to be interrupted: {outcome:?}"),
        () = server.hung(hangs) => {}
    }
}

#[tokio::test]
async fn a_large_file_comes_in_ranges_that_cover_it_once() {
    let (case, server) = (Case::new(&[]), server(10_500).await);
    let report = case.fetch(&source(&server)).await.unwrap();
    assert_eq!(case.read("a.gguf"), bytes(10_500));
    assert_eq!(report.manifest.digest, sha256(&bytes(10_500)));
    assert_eq!((report.downloaded, report.already_there), (10_500, false));
    let asked: BTreeSet<String> = server.ranges(PATH).into_iter().collect();
    let mut expected: BTreeSet<String> =
        (0..11).map(|i| format!("bytes={}-{}", i * 1000, (i * 1000 + 999).min(10_499))).collect();
    // The look at its size.
    expected.insert("bytes=0-0".into());
    assert_eq!(asked, expected);
    assert_eq!(case.left(), ["model"]);
    assert_eq!(names(&case.target()), ["a.gguf", "manifest.json"]);
}

#[tokio::test]
async fn several_ranges_are_under_way_at_a_time() {
    let (case, server) = (Case::new(&[]), server(10_000).await);
    // The look and the first range are answered; then four hang, which takes four connections.
    for _ in 0..2 {
        server.fault(PATH, Fault::Answer(Route::file(bytes(10_000)).with("etag", "\"one\"")));
    }
    for _ in 0..4 {
        server.fault(PATH, Fault::Hang(10));
    }
    interrupted(&case, &server, 4).await;
}

#[tokio::test]
async fn a_kill_costs_only_what_was_under_way() {
    let (mut case, server) = (Case::new(&[]), server(10_000).await);
    case.settings.connections = 1;
    for _ in 0..6 {
        server.fault(PATH, Fault::Answer(Route::file(bytes(10_000)).with("etag", "\"one\"")));
    }
    server.fault(PATH, Fault::Hang(10));
    interrupted(&case, &server, 1).await;
    assert_eq!(case.left(), ["model.partial"], "nothing has its final name");
    server.ranges(PATH);
    let report = case.fetch(&source(&server)).await.unwrap();
    assert_eq!(case.read("a.gguf"), bytes(10_000));
    // One look and five ranges went through before the one that hung.
    let ranges = server.ranges(PATH);
    assert_eq!(
        ranges[1..],
        (5..10).map(|i| format!("bytes={}-{}", i * 1000, i * 1000 + 999)).collect::<Vec<_>>()
    );
    assert_eq!(report.downloaded, 5000);
    assert_eq!(case.left(), ["model"]);
}

#[tokio::test]
async fn a_file_that_has_changed_since_starts_over() {
    let (mut case, server) = (Case::new(&[]), server(10_000).await);
    case.settings.connections = 1;
    for _ in 0..6 {
        server.fault(PATH, Fault::Answer(Route::file(bytes(10_000)).with("etag", "\"one\"")));
    }
    server.fault(PATH, Fault::Hang(10));
    interrupted(&case, &server, 1).await;
    let new: Vec<u8> = bytes(10_000).into_iter().rev().collect();
    server.route(PATH, Route::file(new.clone()).with("etag", "\"two\""));
    let report = case.fetch(&source(&server)).await.unwrap();
    assert_eq!(case.read("a.gguf"), new);
    assert_eq!(report.downloaded, 10_000);
}

#[tokio::test]
async fn a_file_that_changes_while_it_comes_is_never_mixed() {
    let (case, server) = (Case::new(&[]), server(10_000).await);
    let old = || Route::file(bytes(10_000)).with("etag", "\"one\"");
    let new: Vec<u8> = bytes(9_000).into_iter().rev().collect();
    for _ in 0..4 {
        server.fault(PATH, Fault::Answer(old()));
    }
    server.route(PATH, Route::file(new.clone()).with("etag", "\"two\""));
    case.fetch(&source(&server)).await.unwrap();
    assert_eq!(case.read("a.gguf"), new);
}

#[tokio::test]
async fn a_file_that_never_stays_the_same_is_given_up() {
    let (case, server) = (Case::new(&[]), server(3_000).await);
    for i in 0..100 {
        server.fault(PATH, Fault::Answer(Route::file(bytes(3_000)).with("etag", &format!("\"{i}\""))));
    }
    let error = case.fetch(&source(&server)).await.unwrap_err();
    assert!(matches!(error, FetchError::Unstable(_)), "{error}");
    assert_eq!(case.left(), ["model.partial"]);
}

#[tokio::test]
async fn a_server_without_ranges_is_read_in_one_stream() {
    let (case, server) = (Case::new(&[]), Server::start().await);
    server.route(PATH, Route::file(bytes(10_000)).without_ranges());
    let report = case.fetch(&source(&server)).await.unwrap();
    assert_eq!(case.read("a.gguf"), bytes(10_000));
    assert_eq!(report.downloaded, 10_000);
    // A look, and one answer for everything.
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test]
async fn a_broken_stream_without_ranges_is_read_again() {
    let (case, server) = (Case::new(&[]), Server::start().await);
    server.route(PATH, Route::file(bytes(10_000)).without_ranges());
    server.fault(PATH, Fault::Cut(1));
    for after in [5_000, 9_999] {
        server.fault(PATH, Fault::Cut(after));
    }
    case.fetch(&source(&server)).await.unwrap();
    assert_eq!(case.read("a.gguf"), bytes(10_000));
}

#[tokio::test]
async fn broken_connections_are_gone_on_with_from_the_last_byte() {
    let (mut case, server) = (Case::new(&[]), server(900).await);
    case.settings.connections = 1;
    server.fault(PATH, Fault::Answer(Route::file(bytes(900)).with("etag", "\"one\"")));
    // More often than there are tries, but each brings something.
    for _ in 0..8 {
        server.fault(PATH, Fault::Cut(100));
    }
    case.fetch(&source(&server)).await.unwrap();
    assert_eq!(case.read("a.gguf"), bytes(900));
    let starts: Vec<String> = server.ranges(PATH)[1..].to_vec();
    assert_eq!(starts, (0..9).map(|i| format!("bytes={}-899", i * 100)).collect::<Vec<_>>());
}

#[tokio::test]
async fn failures_that_pass_are_tried_again_and_those_that_do_not_end() {
    let (case, server) = (Case::new(&[]), server(500).await);
    for status in [500, 503, 429] {
        server.fault(PATH, Fault::Answer(Route::status(status).with("retry-after", "0")));
    }
    case.fetch(&source(&server)).await.unwrap();
    assert_eq!(case.read("a.gguf"), bytes(500));

    let (case, server) = (Case::new(&[]), Server::start().await);
    server.route(PATH, Route::status(503));
    let error = case.fetch(&source(&server)).await.unwrap_err();
    assert_eq!(server.seen().len(), 4, "as often as the settings say");
    assert!(told(&error).contains("503") && told(&error).contains("later"), "{}", told(&error));
    server.route(PATH, Route::status(404));
    let error = case.fetch(&source(&server)).await.unwrap_err();
    assert_eq!(server.seen().len(), 5, "once");
    assert!(told(&error).contains("check the URL"), "{}", told(&error));
}

#[tokio::test]
async fn a_server_that_asks_for_patience_gets_it() {
    let (case, server) = (Case::new(&[]), server(500).await);
    server.fault(PATH, Fault::Answer(Route::status(429).with("retry-after", "1")));
    let before = std::time::Instant::now();
    case.fetch(&source(&server)).await.unwrap();
    assert!(before.elapsed() >= std::time::Duration::from_secs(1));
    server.route("/b.gguf", Route::status(429).with("retry-after", "86400"));
    let error = case.fetch(&format!("{}/b.gguf", server.url())).await.unwrap_err();
    assert!(told(&error).contains("429"), "{}", told(&error));
}

#[tokio::test]
async fn parts_of_a_file_are_read_without_the_rest() {
    let (case, server) = (Case::new(&[]), server(10_000).await);
    let remote = crate::open(&source(&server).parse().unwrap(), &case.settings).await.unwrap();
    let file = &remote.files()[0];
    assert_eq!((file.name().as_str(), file.size()), ("a.gguf", Some(10_000)));
    server.ranges(PATH);
    server.fault(PATH, Fault::Cut(300));
    assert_eq!(remote.read_range(file, 5_000, 700).await.unwrap(), bytes(10_000)[5_000..5_700]);
    assert_eq!(server.ranges(PATH), ["bytes=5000-5699", "bytes=5300-5699"]);
    assert_eq!(remote.read_range(file, 9_990, 700).await.unwrap(), bytes(10_000)[9_990..]);
    assert!(remote.read_range(file, 10_000, 1).await.unwrap().is_empty());

    let plain = Server::start().await;
    plain.route(PATH, Route::file(bytes(10_000)).without_ranges());
    let remote = crate::open(&source(&plain).parse().unwrap(), &case.settings).await.unwrap();
    assert_eq!(remote.read_range(&remote.files()[0], 5_000, 700).await.unwrap(), bytes(10_000)[5_000..5_700]);
}
