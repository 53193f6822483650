//! Tokens and passwords: kept out of every text that a person or a log may see.

use std::fmt;

/// A token or password.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// White space at either end is never a part of it: files end in newlines.
    pub fn new(text: &str) -> Secret {
        Secret(text.trim().to_owned())
    }

    /// For the header that carries it.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// What a request says about who asks.
#[derive(Clone, Debug)]
pub(crate) enum Authorization {
    Bearer(Secret),
    Basic { user: String, password: Secret },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_shown() {
        let secret = Secret::new("hf_abc\n");
        assert_eq!(secret.reveal(), "hf_abc");
        let shown = format!("{secret:?} {:?}", Authorization::Bearer(secret.clone()));
        assert!(!shown.contains("abc"), "{shown}");
    }
}
