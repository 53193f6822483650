//! Names of Kubernetes objects that must do as labels and as Services, and port numbers.

use super::{Form, text_scalar, wrong};

pub(super) const FORM: Form = Form {
    pattern: "^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$",
    expected: "lower-case letters, digits and hyphens, at most 63 of them, a letter first and no hyphen last",
};

/// A name as RFC 1035 has labels: what a Service may be called.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LabelName {
    text: String,
}

impl LabelName {
    /// # Errors
    /// A sentence for the person who wrote the text.
    pub fn parse(text: &str) -> Result<LabelName, String> {
        let ok = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
        let bytes = text.as_bytes();
        match (bytes.first(), bytes.last()) {
            (Some(first), Some(last))
                if first.is_ascii_lowercase()
                    && *last != b'-'
                    && bytes.len() <= 63
                    && text.bytes().all(ok) =>
            {
                Ok(LabelName { text: text.to_owned() })
            }
            _ => wrong(text, FORM),
        }
    }
}

text_scalar!(LabelName, FORM);

/// A TCP or UDP port.
pub type PortNumber = std::num::NonZeroU16;
