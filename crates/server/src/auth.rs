//! API keys: known by their SHA-256, compared in constant time.

use std::io;
use std::path::{Path, PathBuf};

use http::HeaderMap;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};
use wharf_api::ApiError;

type Hash = [u8; 32];

/// The keys that may call. None at all means that everybody may.
#[derive(Clone, Default)]
pub(crate) struct Keys(Vec<Hash>);

/// Why the keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The file cannot be read.
    #[error("failed to read the API keys in {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line is no key.
    #[error("failed to read the API keys in {path}: line {line} is not 64 hex digits after sha256:")]
    Line {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
    },
    /// No key in the file would open the server to everybody, which nobody means who names a file.
    #[error("failed to read the API keys in {path}: it has no key")]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

impl Keys {
    /// Reads the file, if any, and adds the single key, if any.
    pub(crate) fn load(file: Option<&Path>, single: Option<&str>) -> Result<Keys, KeysError> {
        let mut keys = Vec::new();
        if let Some(path) = file {
            let text = std::fs::read_to_string(path)
                .map_err(|source| KeysError::Read { path: path.to_owned(), source })?;
            keys = parse(&text).map_err(|line| KeysError::Line { path: path.to_owned(), line })?;
            if keys.is_empty() {
                return Err(KeysError::Empty { path: path.to_owned() });
            }
        }
        keys.extend(single.map(|key| hash(key.trim())));
        Ok(Keys(keys))
    }

    /// Accepts `Authorization: Bearer <key>`.
    pub(crate) fn check(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        if self.0.is_empty() {
            return Ok(());
        }
        let header = headers.get(http::header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let Some((scheme, key)) = header.and_then(|value| value.split_once(' ')) else {
            return Err(ApiError::InvalidApiKey(
                "no API key was given; send it as the header Authorization: Bearer <key>",
            ));
        };
        if scheme.eq_ignore_ascii_case("bearer") && self.knows(key.trim()) {
            Ok(())
        } else {
            Err(ApiError::InvalidApiKey("the API key is not known to this server"))
        }
    }

    /// Looks at every key, so that the time tells neither how many match nor where.
    fn knows(&self, key: &str) -> bool {
        let given = hash(key);
        self.0.iter().fold(Choice::from(0), |found, known| found | known.ct_eq(&given)).into()
    }
}

fn hash(key: &str) -> Hash {
    Sha256::digest(key.as_bytes()).into()
}

/// Keys of a file's text, or the number of a line that is none.
fn parse(text: &str) -> Result<Vec<Hash>, usize> {
    let lines = text.lines().enumerate().map(|(i, line)| (i + 1, line.trim()));
    let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|(number, line)| match line.strip_prefix("sha256:") {
            // What follows the digest, after a space, is the key's name.
            Some(rest) => hex(rest.split_whitespace().next().unwrap_or("")).ok_or(number),
            None => Ok(hash(line)),
        })
        .collect()
}

fn hex(digits: &str) -> Option<Hash> {
    let digits = digits.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let mut hash = Hash::default();
    for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |b: u8| (b as char).to_digit(16);
        *byte = (digit(pair[0])? * 16 + digit(pair[1])?) as u8;
    }
    Some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(http::header::AUTHORIZATION, value.parse().unwrap())])
    }

    #[test]
    fn keys_are_known_in_clear_and_by_digest() {
        let digest = "sha256:2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b ci";
        let keys = Keys(parse(&format!("# team\n\nsk-one\n{digest}\n")).unwrap());
        for good in ["Bearer sk-one", "bearer secret", "Bearer  secret "] {
            assert!(keys.check(&headers(good)).is_ok(), "{good}");
        }
        for bad in ["Bearer sk-two", "Basic sk-one", "sk-one", "Bearer ", digest] {
            let error = keys.check(&headers(bad)).unwrap_err();
            assert_eq!((error.status(), error.code()), (401, Some("invalid_api_key")), "{bad}");
        }
        assert!(keys.check(&HeaderMap::new()).is_err());
    }

    #[test]
    fn without_keys_everybody_may_call() {
        assert!(Keys::load(None, None).unwrap().check(&HeaderMap::new()).is_ok());
    }

    #[test]
    fn broken_lines_are_named() {
        assert_eq!(parse("a\nsha256:12").err(), Some(2));
        assert_eq!(parse(&format!("sha256:{}", "g".repeat(64))).err(), Some(1));
    }

    #[test]
    fn an_empty_key_file_does_not_open_the_server() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(matches!(Keys::load(Some(file.path()), None), Err(KeysError::Empty { .. })));
        assert!(matches!(
            Keys::load(Some(Path::new("/nonexistent/keys")), None),
            Err(KeysError::Read { .. })
        ));
    }
}
