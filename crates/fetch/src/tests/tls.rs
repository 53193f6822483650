//! Certificates: those of the user's own authority are trusted when they are named, and only then.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::{Case, told};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../server/tests/fixtures/tls").join(name)
}

/// A server that answers everything with `hello`, encrypted with the certificate of the server's own tests.
async fn server() -> u16 {
    let chain: Vec<_> =
        CertificateDer::pem_file_iter(fixture("a.crt")).unwrap().collect::<Result<_, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_file(fixture("a.key")).unwrap();
    let config = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            // One who does not trust us hangs up during the handshake.
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.unwrap());
            }
            let answer = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello";
            stream.write_all(answer.as_bytes()).await.unwrap();
            let _ = stream.shutdown().await;
        }
    });
    port
}

#[tokio::test]
async fn a_private_authority_is_trusted_when_it_is_named() {
    let mut case = Case::new(&[]);
    case.settings.retry.attempts = 1;
    let source = format!("https://localhost:{}/a.gguf", server().await);
    let error = told(&case.fetch(&source).await.unwrap_err());
    assert!(error.contains("certificate"), "{error}");

    case.settings.add_certificates("--ca", &fixture("a.crt")).unwrap();
    case.fetch(&source).await.unwrap();
    assert_eq!(case.read("a.gguf"), b"hello");

    let path = fixture("a.crt");
    let mut case = Case::new(&[("SSL_CERT_FILE", path.to_str().unwrap())]);
    case.settings.retry.attempts = 1;
    case.fetch(&source).await.unwrap();

    case.settings.add_certificates("--ca", &fixture("README.md")).unwrap();
    let error = case.fetch(&source).await.unwrap_err();
    assert!(error.is_bad_input() && told(&error).contains("no certificate"), "{}", told(&error));
}
