//! S3 and Google's storage, as far as reading goes: listings, objects, versions, checksums, refusals.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::server::{Fault, Route, Server};
use super::{Case, bytes, names, told};
use crate::FetchError;

const DATE: &str = "Wed, 21 Oct 2026 07:28:00 GMT";

fn object(body: Vec<u8>) -> Route {
    Route::file(body).with("etag", "\"e1\"").with("last-modified", DATE)
}

fn listing(keys: &[(&str, usize)]) -> Route {
    let contents: String = keys
        .iter()
        .map(|(key, size)| {
            format!(
                "<Contents><Key>{key}</Key><LastModified>2026-10-21T07:28:00.000Z</LastModified>\
                 <ETag>&quot;e1&quot;</ETag><Size>{size}</Size></Contents>"
            )
        })
        .collect();
    let text = format!("<ListBucketResult><IsTruncated>false</IsTruncated>{contents}</ListBucketResult>");
    Route::json(&text).with("content-type", "application/xml")
}

/// A bucket with one model below `qwen/7b`.
async fn bucket() -> Server {
    let server = Server::start().await;
    let keys = [
        ("qwen/7b/", 0),
        ("qwen/7b/config.json", 2),
        ("qwen/7b/model.safetensors", 5_500),
        ("qwen/7b/optimizer.pt", 9),
    ];
    server.route("/models?list-type=2&prefix=qwen%2F7b%2F", listing(&keys));
    server.route("/models?list-type=2&prefix=gone%2F", listing(&[]));
    server.route("/models/qwen/7b/config.json", object(b"{}".to_vec()));
    server.route("/models/qwen/7b/model.safetensors", object(bytes(5_500)));
    server
}

fn s3(server: &Server) -> Case {
    Case::new(&[
        ("AWS_ENDPOINT_URL", &server.url()),
        ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"),
        ("AWS_SECRET_ACCESS_KEY", "hunter2"),
        ("AWS_REGION", "eu-central-1"),
    ])
}

#[tokio::test]
async fn a_prefix_is_a_folder_in_signed_ranges() {
    let server = bucket().await;
    let case = s3(&server);
    let report = case.fetch("s3://models/qwen/7b").await.unwrap();
    assert_eq!(names(&case.target()), ["config.json", "manifest.json", "model.safetensors"]);
    assert_eq!(case.read("model.safetensors"), bytes(5_500));
    assert_eq!(report.skipped, ["optimizer.pt"]);
    let ranges: Vec<_> =
        server.seen().into_iter().filter(|seen| seen.path.ends_with("safetensors")).collect();
    assert_eq!(ranges.len(), 6);
    for seen in ranges {
        let auth = seen.auth.unwrap();
        assert!(
            auth.starts_with("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/") && auth.contains("eu-central-1"),
            "{auth}"
        );
    }
    assert!(case.fetch("s3://models/qwen/7b").await.unwrap().already_there);
}

#[tokio::test]
async fn a_key_is_one_file_and_a_public_bucket_needs_no_signature() {
    let server = bucket().await;
    let case = Case::new(&[("AWS_ENDPOINT_URL_S3", &server.url()), ("AWS_SKIP_SIGNATURE", "true")]);
    case.fetch("s3://models/qwen/7b/model.safetensors").await.unwrap();
    assert_eq!(names(&case.target()), ["manifest.json", "model.safetensors"]);
    assert!(server.seen().iter().all(|seen| seen.auth.is_none()));
    let error = case.fetch("s3://models/gone").await.unwrap_err();
    assert!(error.is_bad_input() && error.to_string().contains("nothing is at s3://models/gone"), "{error}");
}

#[tokio::test]
async fn broken_connections_and_busy_stores_are_gone_on_with() {
    let server = bucket().await;
    let case = s3(&server);
    let path = "/models/qwen/7b/model.safetensors";
    server.fault(path, Fault::Cut(500));
    server.fault(path, Fault::Answer(Route::status(503).with("retry-after", "0")));
    server.fault(path, Fault::Cut(10));
    case.fetch("s3://models/qwen/7b").await.unwrap();
    assert_eq!(case.read("model.safetensors"), bytes(5_500));
}

#[tokio::test]
async fn the_stores_own_checksum_is_compared() {
    let server = bucket().await;
    let case = s3(&server);
    let wrong = BASE64_STANDARD.encode([7; 32]);
    let route = object(bytes(5_500)).with("x-amz-checksum-sha256", &wrong);
    server.route("/models/qwen/7b/model.safetensors", route);
    let error = case.fetch("s3://models/qwen/7b").await.unwrap_err();
    assert!(matches!(error, FetchError::Corrupt { .. }), "{error}");
    assert!(!case.target().exists());
}

#[tokio::test]
async fn refusals_name_the_variables_and_no_secret() {
    let server = bucket().await;
    let case = s3(&server);
    server.route("/models/private", Route::status(403));
    let error = told(&case.fetch("s3://models/private").await.unwrap_err());
    assert!(error.contains("AWS_ACCESS_KEY_ID") && !error.contains("hunter2"), "{error}");
    let missing =
        "<?xml version=\"1.0\"?><Error><Code>NoSuchBucket</Code><Message>no bucket</Message></Error>";
    let missing = Route { status: 404, ..Route::json(missing) };
    server.route("/models?list-type=2&prefix=nobody%2F", missing);
    let error = told(&case.fetch("s3://models/nobody").await.unwrap_err());
    assert!(error.contains("check the bucket and the prefix: "), "{error}");
    assert!(error.contains("no bucket") && !error.contains("xml"), "{error}");
}

#[tokio::test]
async fn googles_storage_is_read_the_same_way() {
    let server = Server::start().await;
    let case = Case::new(&[("GOOGLE_BASE_URL", &server.url()), ("GOOGLE_SKIP_SIGNATURE", "true")]);
    server.route("/models/a%2Egguf", object(bytes(2_500)));
    case.fetch("gs://models/a.gguf").await.unwrap();
    assert_eq!(case.read("a.gguf"), bytes(2_500));
}
