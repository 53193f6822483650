//! HTTPS: serving, HTTP/2, reloading a changed certificate, keeping the old one when the new is broken.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use wharf_server::{ServeError, Server, TlsError};

use super::support::*;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tls").join(name)
}

/// Copies a fixture's pair to where the server reads it.
fn install(dir: &Path, name: &str) {
    for part in ["crt", "key"] {
        fs::copy(fixture(&format!("{name}.{part}")), dir.join(format!("tls.{part}"))).unwrap();
    }
}

/// The certificate that the server shows, and the protocol that it picks.
async fn handshake(at: SocketAddr) -> (CertificateDer<'static>, Vec<u8>) {
    let mut roots = rustls::RootCertStore::empty();
    for name in ["a.crt", "b.crt"] {
        roots.add(CertificateDer::from_pem_file(fixture(name)).unwrap()).unwrap();
    }
    let mut client = rustls::ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let stream = TcpStream::connect(at).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let stream = TlsConnector::from(Arc::new(client)).connect(name, stream).await.unwrap();
    let (_, connection) = stream.get_ref();
    let certificate = connection.peer_certificates().unwrap()[0].clone().into_owned();
    (certificate, connection.alpn_protocol().unwrap().to_vec())
}

#[tokio::test]
async fn a_changed_certificate_is_taken_over_and_a_broken_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    install(dir.path(), "a");
    let mut config = config();
    config.tls_cert = Some(dir.path().join("tls.crt"));
    config.tls_key = Some(dir.path().join("tls.key"));
    let server = start_with(config, engine_config()).await;
    let at = server.at.https.unwrap();
    let a = CertificateDer::from_pem_file(fixture("a.crt")).unwrap();
    let b = CertificateDer::from_pem_file(fixture("b.crt")).unwrap();
    assert_eq!(handshake(at).await, (a.clone(), b"h2".to_vec()));

    let failed =
        || async { server.get("/metrics").await.text().await.unwrap().contains("{result=\"error\"} 1") };
    fs::write(dir.path().join("tls.crt"), "-----BEGIN CERTIFICATE-----\nbroken").unwrap();
    until(failed).await;
    assert_eq!(handshake(at).await.0, a);

    install(dir.path(), "b");
    until(|| async { handshake(at).await.0 == b }).await;
}

#[tokio::test]
async fn the_api_answers_over_https() {
    let mut config = config();
    config.tls_cert = Some(fixture("a.crt"));
    config.tls_key = Some(fixture("a.key"));
    let server = start_with(config, engine_config()).await;
    let root = reqwest::Certificate::from_pem(&fs::read(fixture("a.crt")).unwrap()).unwrap();
    let client = reqwest::Client::builder().tls_certs_only([root]).build().unwrap();
    let port = server.at.https.unwrap().port();
    let response = client.get(format!("https://localhost:{port}/v1/models")).send().await.unwrap();
    assert_eq!((response.status().as_u16(), response.version()), (200, http::Version::HTTP_2));
}

#[tokio::test]
async fn http2_without_tls_is_understood() {
    let server = start().await;
    let client = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    let response = client.get(server.url("/v1/models")).send().await.unwrap();
    assert_eq!((response.status().as_u16(), response.version()), (200, http::Version::HTTP_2));
}

#[tokio::test]
async fn a_key_that_does_not_fit_is_refused_at_start() {
    let mut config = config();
    config.tls_cert = Some(fixture("a.crt"));
    config.tls_key = Some(fixture("b.key"));
    let result = Server::bind(config).await.map(drop);
    assert!(matches!(result, Err(ServeError::Tls(TlsError::Mismatch { .. }))), "{result:?}");
}
