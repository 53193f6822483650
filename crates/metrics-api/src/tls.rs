//! How connections are accepted: with the certificate of the moment, and from clients that have none, or one that the cluster's front proxy has.

use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme,
};

use crate::keys::Keys;

/// What cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    #[error("failed to read the certificate")]
    Pem(#[source] rustls::pki_types::pem::Error),
    #[error("failed to use the certificate with its key")]
    Mismatch(#[source] rustls::Error),
    #[error("failed to use the front proxy's certificate authority")]
    Authority(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("failed to set up TLS")]
    Setup(#[source] rustls::Error),
}

/// The certificate of the moment, and whose certificates are believed.
#[derive(Debug)]
pub(crate) struct Tls {
    provider: Arc<CryptoProvider>,
    current: ArcSwapOption<CertifiedKey>,
    front_proxy: ArcSwapOption<Verifier>,
    /// The authorities that it was made of.
    believed: ArcSwap<String>,
}

/// Of the front proxy's certificates.
type Verifier = Arc<dyn ClientCertVerifier>;

impl Tls {
    pub(crate) fn new() -> Arc<Tls> {
        Arc::new(Tls {
            provider: Arc::new(aws_lc_rs::default_provider()),
            current: ArcSwapOption::empty(),
            front_proxy: ArcSwapOption::empty(),
            believed: ArcSwap::default(),
        })
    }

    /// What connections are accepted with, from now on and whatever is set later.
    pub(crate) fn server_config(self: &Arc<Self>) -> Result<Arc<ServerConfig>, TlsError> {
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Setup)?
            .with_client_cert_verifier(Arc::new(Believes(Arc::clone(self))))
            .with_cert_resolver(Arc::new(Shows(Arc::clone(self))));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }

    /// Shows this certificate from now on.
    pub(crate) fn show(&self, keys: &Keys) -> Result<(), TlsError> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(keys.certificate.as_bytes()).collect();
        let key = PrivateKeyDer::from_pem_slice(keys.key.as_bytes()).map_err(TlsError::Pem)?;
        let chain = chain.map_err(TlsError::Pem)?;
        let pair = CertifiedKey::from_der(chain, key, &self.provider).map_err(TlsError::Mismatch)?;
        self.current.store(Some(Arc::new(pair)));
        Ok(())
    }

    /// Believes certificates of these authorities, in PEM, from now on.
    pub(crate) fn believe(&self, authorities: &str) -> Result<(), TlsError> {
        if **self.believed.load() == authorities && self.front_proxy.load().is_some() {
            return Ok(());
        }
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(authorities.as_bytes()) {
            let certificate = certificate.map_err(TlsError::Pem)?;
            roots.add(certificate).map_err(|error| TlsError::Authority(Box::new(error)))?;
        }
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider))
                .build()
                .map_err(|error| TlsError::Authority(Box::new(error)))?;
        self.front_proxy.store(Some(Arc::new(verifier)));
        self.believed.store(Arc::new(authorities.to_owned()));
        Ok(())
    }
}

#[derive(Debug)]
struct Shows(Arc<Tls>);

impl ResolvesServerCert for Shows {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.current.load_full()
    }
}

/// Asks every client for a certificate, and takes none too: such a client says who it is by its token.
#[derive(Debug)]
struct Believes(Arc<Tls>);

impl ClientCertVerifier for Believes {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    /// No hints: they would be out of date when the authority changes, and clients send their certificate without.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        match &*self.0.front_proxy.load() {
            Some(verifier) => verifier.verify_client_cert(end_entity, intermediates, now),
            None => Err(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.provider.signature_verification_algorithms.supported_schemes()
    }
}
