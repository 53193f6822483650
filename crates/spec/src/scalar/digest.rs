//! Digests that pin what a source must be.

use super::{Form, text_scalar, wrong};

pub(super) const FORM: Form =
    Form { pattern: "^sha256:[0-9a-f]{64}$", expected: "sha256: and 64 lower-case hexadecimal digits" };

/// A SHA-256 with its prefix.
#[derive(Clone, Debug, PartialEq)]
pub struct Digest {
    text: String,
}

impl Digest {
    /// # Errors
    /// A sentence for the person who wrote the text.
    pub fn parse(text: &str) -> Result<Digest, String> {
        match text.parse::<wharf_api::Digest>() {
            // One way to write it, so that equal texts are equal digests.
            Ok(digest) if digest.to_string() == text => Ok(Digest { text: text.to_owned() }),
            _ => wrong(text, FORM),
        }
    }
}

text_scalar!(Digest, FORM);
