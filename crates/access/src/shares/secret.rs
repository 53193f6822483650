//! Who may exchange usage: those who know one secret.
//!
//! Both sides prove that they do, and neither sends it: whoever asks signs a number that it never used before, whoever answers signs its
//! report together with that number (HMAC-SHA256, RFC 2104). A bearer token would be told to whatever answers at an address, which may be
//! another pod by now, and would prove nothing of the report. Reports are not encrypted: they have the ids of callers and what they used.

use std::fmt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, crypto};

/// Fewest bytes of a secret: as many as the digest has, so that guessing it is no easier than guessing a signature.
pub const MIN_SECRET: usize = 32;

/// Random bytes of a number that is used once.
const NONCE: usize = 24;

/// What gateways that share limits know and nobody else.
#[derive(Clone)]
pub struct PeerSecret {
    sign: EncodingKey,
    verify: DecodingKey,
}

/// Why a secret cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be read.
    #[error("failed to read the gateways' secret {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It could be guessed.
    #[error("the gateways' secret {path} has {length} bytes, it must have at least {MIN_SECRET}")]
    Short {
        /// The file.
        path: PathBuf,
        /// How many it has.
        length: usize,
    },
    /// The operating system gives no random numbers.
    #[error("failed to get random bytes from the operating system")]
    Random,
}

/// What is signed: the same number means one thing when it is asked and another when it is answered.
#[derive(Clone, Copy)]
enum Says {
    Ask,
    Report,
}

impl PeerSecret {
    /// Reads the secret; white space around it does not count.
    ///
    /// # Errors
    /// [`SecretError::Read`], [`SecretError::Short`].
    pub fn read(path: &Path) -> Result<PeerSecret, SecretError> {
        let bytes =
            std::fs::read(path).map_err(|source| SecretError::Read { path: path.to_owned(), source })?;
        let bytes = bytes.trim_ascii();
        if bytes.len() < MIN_SECRET {
            return Err(SecretError::Short { path: path.to_owned(), length: bytes.len() });
        }
        Ok(PeerSecret::of(bytes))
    }

    fn of(bytes: &[u8]) -> PeerSecret {
        PeerSecret { sign: EncodingKey::from_secret(bytes), verify: DecodingKey::from_secret(bytes) }
    }

    /// A number that was never used before.
    ///
    /// # Errors
    /// [`SecretError::Random`].
    pub fn nonce() -> Result<String, SecretError> {
        let mut bytes = [0; NONCE];
        let random = rustls::crypto::aws_lc_rs::default_provider().secure_random;
        random.fill(&mut bytes).map_err(|_| SecretError::Random)?;
        Ok(URL_SAFE_NO_PAD.encode(bytes))
    }

    /// The signature of whoever asks for a report.
    pub fn sign_ask(&self, nonce: &str) -> String {
        self.sign(&message(Says::Ask, nonce, b""))
    }

    /// The signature of whoever answers with this body.
    pub fn sign_report(&self, nonce: &str, body: &[u8]) -> String {
        self.sign(&message(Says::Report, nonce, body))
    }

    /// Whether whoever asks knows the secret. Takes as long for a signature that is nearly right.
    pub fn asks(&self, nonce: &str, signature: &str) -> bool {
        is_nonce(nonce) && self.verify(&message(Says::Ask, nonce, b""), signature)
    }

    /// Whether whoever made this body for this number knows the secret.
    pub fn reports(&self, nonce: &str, body: &[u8], signature: &str) -> bool {
        self.verify(&message(Says::Report, nonce, body), signature)
    }

    fn sign(&self, message: &[u8]) -> String {
        crypto::sign(message, &self.sign, Algorithm::HS256).expect("any bytes are a key of HMAC")
    }

    fn verify(&self, message: &[u8], signature: &str) -> bool {
        crypto::verify(signature, message, &self.verify, Algorithm::HS256).unwrap_or(false)
    }
}

impl fmt::Debug for PeerSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Its parts end in line feeds, which a nonce cannot have, so no two sets of parts make one message.
fn message(says: Says, nonce: &str, body: &[u8]) -> Vec<u8> {
    let says = match says {
        Says::Ask => "wharf usage ask",
        Says::Report => "wharf usage report",
    };
    [says.as_bytes(), b"\n", nonce.as_bytes(), b"\n", body].concat()
}

/// What others send is looked at only if it can be one of our numbers.
fn is_nonce(text: &str) -> bool {
    let symbol = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    text.len() == NONCE.div_ceil(3) * 4 && text.bytes().all(symbol)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &[u8] = b"0123456789abcdef0123456789abcdef";

    #[test]
    fn signatures_are_hmac_sha256() {
        // RFC 4231, test case 2: its key is shorter than what a file may have.
        let signed = PeerSecret::of(b"Jefe").sign(b"what do ya want for nothing?");
        assert_eq!(signed, "W9zBRr9gdU5qBCQmCJV1x1oAPwidJzmDnexYuWTsOEM");
    }

    #[test]
    fn each_side_proves_that_it_knows_the_secret() {
        let (ours, theirs) = (PeerSecret::of(OURS), PeerSecret::of(&OURS.repeat(2)));
        let (nonce, other) = (PeerSecret::nonce().unwrap(), PeerSecret::nonce().unwrap());
        assert_ne!(nonce, other);
        let ask = ours.sign_ask(&nonce);
        assert!(ours.asks(&nonce, &ask));
        assert!(!theirs.asks(&nonce, &ask) && !ours.asks(&other, &ask) && !ours.asks(&nonce, ""));
        let report = ours.sign_report(&nonce, b"{}");
        assert!(ours.reports(&nonce, b"{}", &report));
        for (secret, nonce, body) in [(&theirs, &nonce, "{}"), (&ours, &other, "{}"), (&ours, &nonce, "{ }")]
        {
            assert!(!secret.reports(nonce, body.as_bytes(), &report), "{nonce} {body}");
        }
        // What was signed to ask does not pass for an answer.
        assert!(!ours.reports(&nonce, b"", &ask));
    }

    #[test]
    fn only_our_numbers_are_signed_for() {
        let ours = PeerSecret::of(OURS);
        for nonce in ["", "short", &"a\n".repeat(16), &"a".repeat(33)] {
            assert!(!ours.asks(nonce, &ours.sign_ask(nonce)), "{nonce:?}");
        }
    }

    #[test]
    fn a_secret_that_could_be_guessed_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            PeerSecret::read(&path).map_err(|error| error.to_string())
        };
        let error = read(&format!("  {}\n\n", "x".repeat(31))).unwrap_err();
        assert!(error.ends_with("has 31 bytes, it must have at least 32"), "{error}");
        let secret = read(&format!("{}\n", "x".repeat(32))).unwrap();
        assert_eq!(format!("{secret:?}"), "***");
        assert!(PeerSecret::read(&folder.path().join("none")).is_err());
    }
}
