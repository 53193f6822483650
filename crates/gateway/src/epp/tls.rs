//! The certificate of the ext-proc port: given, made at the start, or none.

use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use wharf_listen::{Certificate, TlsError};

use super::{EppError, EppTls};
use crate::serve::count_reload;
use crate::shared::Shared;

/// Name in a certificate that nobody checks.
const NAME: &str = "wharf-epp";

/// How connections are accepted.
pub(super) enum Tls {
    SelfSigned(Arc<ServerConfig>),
    Files(Arc<Certificate>),
    Plaintext,
}

impl Tls {
    pub(super) fn new(config: &EppTls) -> Result<Tls, EppError> {
        match config {
            EppTls::SelfSigned => Ok(Tls::SelfSigned(Arc::new(self_signed()?))),
            EppTls::Files { cert, key } => Ok(Tls::Files(Certificate::load(cert, key)?)),
            EppTls::Plaintext => Ok(Tls::Plaintext),
        }
    }

    pub(super) fn acceptor(&self) -> Result<Option<TlsAcceptor>, EppError> {
        match self {
            Tls::SelfSigned(config) => Ok(Some(TlsAcceptor::from(Arc::clone(config)))),
            Tls::Files(certificate) => Ok(Some(TlsAcceptor::from(certificate.server_config()?))),
            Tls::Plaintext => Ok(None),
        }
    }

    /// Follows the certificate's files, if there are some.
    pub(super) async fn watch(self, shared: Arc<Shared>) {
        match self {
            Tls::Files(certificate) => certificate.watch(move |reload| count_reload(&shared, reload)).await,
            Tls::SelfSigned(_) | Tls::Plaintext => {}
        }
    }
}

fn self_signed() -> Result<ServerConfig, EppError> {
    let rcgen::CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed([NAME.to_owned()])?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Setup)?
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .map_err(TlsError::Setup)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}
