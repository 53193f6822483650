//! Certificates at the start, and the end.

use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use wharf_gateway::epp::{Epp, EppConfig, EppTls};

use crate::support::{Running, chat, config, engines, until};

/// Believes every certificate, as gateways do, and keeps it.
#[derive(Debug)]
struct Believer(Arc<CryptoProvider>);

impl ServerCertVerifier for Believer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// The certificate of a picker with this configuration, which must offer HTTP/2.
async fn certificate(config: EppConfig) -> Vec<u8> {
    let epp = Epp::bind(config).unwrap();
    let address = epp.addresses().grpc;
    let task = tokio::spawn(epp.serve(std::future::pending()));
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Believer(provider)))
        .with_no_client_auth();
    client.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("picker").unwrap();
    let stream = TlsConnector::from(Arc::new(client)).connect(name, stream).await.unwrap();
    let (_, connection) = stream.get_ref();
    assert_eq!(connection.alpn_protocol(), Some(&b"h2"[..]));
    let certificate = connection.peer_certificates().unwrap()[0].to_vec();
    task.abort();
    certificate
}

#[tokio::test]
async fn without_a_certificate_one_is_made_and_one_that_is_given_is_shown() {
    let engines = engines(1).await;
    let own = EppConfig { tls: EppTls::SelfSigned, ..config(&engines) };
    assert_ne!(certificate(own.clone()).await, certificate(own).await, "every start makes its own");
    let folder = tempfile::tempdir().unwrap();
    let given = rcgen::generate_simple_self_signed(["picker".to_owned()]).unwrap();
    let (cert, key) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
    std::fs::write(&cert, given.cert.pem()).unwrap();
    std::fs::write(&key, given.signing_key.serialize_pem()).unwrap();
    let files = EppConfig { tls: EppTls::Files { cert, key }, ..config(&engines) };
    assert_eq!(certificate(files).await, given.cert.der().to_vec());
}

#[tokio::test]
async fn a_picker_that_stops_takes_nothing_new_and_lets_running_requests_end() {
    let engines = engines(1).await;
    let epp = Running::start(config(&engines)).await;
    let (mut running, _) = epp.ask(&chat("long")).await;
    running.answer_head(200, &[], None).await;
    let channel = tonic::transport::Channel::from_shared(format!("http://{}", epp.addresses.health)).unwrap();
    let mut health = HealthClient::new(channel.connect().await.unwrap());
    let handle = epp.handle.clone();
    let (mut late, stop) = (epp.open().await, tokio::spawn(epp.stop()));
    let readiness = || HealthCheckRequest { service: "readiness".to_owned() };
    while health.check(readiness()).await.unwrap().into_inner().status != 2 {}
    let liveness = HealthCheckRequest { service: "liveness".to_owned() };
    assert_eq!(health.check(liveness).await.unwrap().into_inner().status, 1);
    late.head(&[], envoy_types::pb::envoy::config::core::v3::Metadata::default(), true).await;
    assert_eq!(late.picked(false).await.refusal().0, 503);
    running.answer_piece("{}", true).await;
    until("it ends", || handle.in_flight() == 0).await;
    drop((running, late));
    stop.await.unwrap();
}

#[test]
fn a_configuration_is_short_and_what_is_wrong_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("epp.yaml");
    let read = |text: &str| {
        std::fs::write(&path, text).unwrap();
        EppConfig::read(&path).map_err(|error| error.to_string())
    };
    let config =
        read("pool: demo/pool\nendpoints: ['10.0.0.1:80']\ntls: {files: {cert: a, key: b}}").unwrap();
    assert_eq!((config.port, config.tls != EppTls::SelfSigned), (9002, true));
    assert_eq!(read("tls: plaintext").unwrap().tls, EppTls::Plaintext);
    assert!(read("endpoints: [nowhere]").unwrap_err().contains("write host:port"));
    assert!(read("pool: ''").unwrap_err().contains("no name"));
    assert!(read("prot: 1").unwrap_err().contains("prot"));
}
