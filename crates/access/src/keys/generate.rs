//! New keys: random bits in a form that people, scanners of leaked secrets and typing errors can be told apart by.
//!
//! `wk-`, 32 random bytes, then the first 4 bytes of a SHA-256 over all before it; both parts in base64url without padding.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};

use super::KeysError;

const PREFIX: &str = "wk-";
/// 32 bytes in base64.
const BODY: usize = 43;
/// 4 bytes in base64.
const CHECKSUM: usize = 6;

/// A key that was just made. It is shown once; nothing but its digest is kept.
#[derive(Clone, PartialEq, Eq)]
pub struct NewSecret(String);

impl NewSecret {
    /// Takes 32 bytes from the operating system, through the provider that TLS has its own from.
    ///
    /// # Errors
    /// [`KeysError::Random`].
    pub fn generate() -> Result<NewSecret, KeysError> {
        let mut bytes = [0; 32];
        rustls::crypto::aws_lc_rs::default_provider()
            .secure_random
            .fill(&mut bytes)
            .map_err(|_| KeysError::Random)?;
        Ok(NewSecret::of(&bytes))
    }

    fn of(bytes: &[u8; 32]) -> NewSecret {
        let mut key = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes));
        key.push_str(&checksum(&key));
        NewSecret(key)
    }

    /// The key itself, to be shown once.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for NewSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Whether the key's checksum is right; nothing for keys that do not look like ours.
pub fn checksum_fits(key: &str) -> Option<bool> {
    let body = key.strip_prefix(PREFIX)?;
    if !body.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
        return None;
    }
    // Users' own keys may begin alike; one that lost or gained a character is still meant to be ours.
    if body.len().abs_diff(BODY + CHECKSUM) > 1 {
        return None;
    }
    let (start, sum) = key.split_at(key.len() - CHECKSUM);
    Some(body.len() == BODY + CHECKSUM && checksum(start) == sum)
}

fn checksum(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(&Sha256::digest(text.as_bytes())[..4])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_a_known_form() {
        let key = NewSecret::of(&[7; 32]);
        expect_test::expect!["wk-BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcT7wv2A"].assert_eq(key.reveal());
        assert_eq!(format!("{key:?}"), "***");
    }

    #[test]
    fn no_two_keys_are_alike() {
        assert_ne!(NewSecret::generate().unwrap(), NewSecret::generate().unwrap());
    }

    #[test]
    fn one_wrong_character_is_seen_and_foreign_keys_are_not_judged() {
        let key = NewSecret::of(&[7; 32]).0;
        assert_eq!(checksum_fits(&key), Some(true));
        for at in 3..key.len() {
            let mut typo = key.clone();
            let other = if typo.as_bytes()[at] == b'x' { "y" } else { "x" };
            typo.replace_range(at..=at, other);
            assert_eq!(checksum_fits(&typo), Some(false), "{typo}");
        }
        assert_eq!(checksum_fits(&key[..key.len() - 1]), Some(false));
        for foreign in ["", "wk-", "wk-mine", "sk-abc", "wk-ä", &key.replace("wk-", "")] {
            assert_eq!(checksum_fits(foreign), None, "{foreign}");
        }
    }
}
