//! The HTTPS certificate: read once at start, read again when its files change.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use wharf_telemetry::log::chain;

/// How often the files are compared with what is in use. They are small and local.
const POLL: Duration = Duration::from_secs(1);

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("failed to read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is no PEM, or lacks what it should hold.
    #[error("failed to find a {wanted} in {path}")]
    Pem {
        /// What should be there.
        wanted: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: pem::Error,
    },
    /// The certificate has no entry.
    #[error("failed to find a certificate in {path}")]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// Certificate and key do not belong together, or are of an unknown kind.
    #[error("failed to use the certificate in {cert} with the key in {key}")]
    Mismatch {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// The TLS library refused its own defaults.
    #[error("failed to set up TLS")]
    Setup(#[source] rustls::Error),
}

/// The certificate in use and the files it came from.
pub struct Certificate {
    cert: PathBuf,
    key: PathBuf,
    current: ArcSwap<CertifiedKey>,
    /// Bytes of both files when they were last read, whether they were good or not.
    seen: ArcSwap<Files>,
}

#[derive(PartialEq, Eq)]
struct Files {
    cert: Vec<u8>,
    key: Vec<u8>,
}

impl Certificate {
    /// Reads both files.
    ///
    /// # Errors
    /// [`TlsError`], when they are not there, no PEM, or do not belong together.
    pub fn load(cert: &Path, key: &Path) -> Result<Arc<Certificate>, TlsError> {
        let files = read(cert, key)?;
        let parsed = parse(&files, cert, key)?;
        Ok(Arc::new(Certificate {
            cert: cert.to_owned(),
            key: key.to_owned(),
            current: ArcSwap::from_pointee(parsed),
            seen: ArcSwap::from_pointee(files),
        }))
    }

    /// What connections are accepted with.
    ///
    /// # Errors
    /// [`TlsError::Setup`].
    pub fn server_config(self: &Arc<Self>) -> Result<Arc<ServerConfig>, TlsError> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Setup)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Resolver(Arc::clone(self))));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }

    /// Takes over changed files; `Ok(false)` when they have not changed. A broken pair changes nothing, and is
    /// reported once.
    fn refresh(&self) -> Result<bool, TlsError> {
        let files = read(&self.cert, &self.key)?;
        if files == **self.seen.load() {
            return Ok(false);
        }
        let parsed = parse(&files, &self.cert, &self.key);
        self.seen.store(Arc::new(files));
        self.current.store(Arc::new(parsed?));
        Ok(true)
    }

    /// Follows the files for as long as the server runs and tells of every change, and of every new reason why a change is no good.
    pub async fn watch(self: Arc<Self>, on_reload: impl Fn(Reload)) {
        let mut reported = String::new();
        loop {
            tokio::time::sleep(POLL).await;
            let this = Arc::clone(&self);
            let refreshed = tokio::task::spawn_blocking(move || this.refresh()).await;
            match refreshed {
                Ok(Ok(false)) => {}
                Ok(Ok(true)) => {
                    reported.clear();
                    on_reload(Reload::Taken);
                    tracing::info!(path = %self.cert.display(), "the certificate was reloaded");
                }
                Ok(Err(error)) => {
                    let chain = chain(&error);
                    if chain != reported {
                        on_reload(Reload::Refused);
                        tracing::error!(
                            error = chain,
                            "the new certificate is broken; the old one stays in use"
                        );
                        reported = chain;
                    }
                }
                // The runtime is ending.
                Err(_) => return,
            }
        }
    }
}

/// What became of changed files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reload {
    /// They are in use.
    Taken,
    /// They are broken; those before stay in use.
    Refused,
}

struct Resolver(Arc<Certificate>);

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resolver").field("cert", &self.0.cert).finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.current.load_full())
    }
}

fn read(cert: &Path, key: &Path) -> Result<Files, TlsError> {
    let read =
        |path: &Path| std::fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source });
    Ok(Files { cert: read(cert)?, key: read(key)? })
}

fn parse(files: &Files, cert_path: &Path, key_path: &Path) -> Result<CertifiedKey, TlsError> {
    let pem = |wanted, path: &Path| {
        let path = path.to_owned();
        move |source| TlsError::Pem { wanted, path, source }
    };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&files.cert)
        .collect::<Result<_, _>>()
        .map_err(pem("certificate", cert_path))?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate { path: cert_path.to_owned() });
    }
    let key = PrivateKeyDer::from_pem_slice(&files.key).map_err(pem("private key", key_path))?;
    CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider()).map_err(|source| TlsError::Mismatch {
        cert: cert_path.to_owned(),
        key: key_path.to_owned(),
        source,
    })
}
