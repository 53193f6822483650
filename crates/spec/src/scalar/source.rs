//! Where a model or a text comes from.

use super::{Form, text_scalar, wrong};

pub(super) const FORM: Form = Form {
    pattern: "^(hf|https|s3|gs|oci|pvc|file)://.+$",
    expected: "a URL that begins with hf://, https://, s3://, gs://, oci://, pvc:// or file://",
};

/// A URL that `wharf fetch` understands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    text: String,
    scheme: &'static str,
}

const SCHEMES: &[&str] = &["hf", "https", "s3", "gs", "oci", "pvc", "file"];

impl Source {
    /// # Errors
    /// A sentence for the person who wrote the text.
    pub fn parse(text: &str) -> Result<Source, String> {
        let Some((scheme, rest)) = text.split_once("://") else { return wrong(text, FORM) };
        match SCHEMES.iter().find(|known| **known == scheme) {
            Some(scheme) if !rest.is_empty() => Ok(Source { text: text.to_owned(), scheme }),
            _ => wrong(text, FORM),
        }
    }

    /// `hf`, `https`, `s3`, `gs`, `oci`, `pvc` or `file`.
    pub fn scheme(&self) -> &'static str {
        self.scheme
    }

    /// The claim and the path in it, of a `pvc://` source.
    pub fn claim(&self) -> Option<(&str, &str)> {
        let rest = self.text.strip_prefix("pvc://")?;
        Some(rest.split_once('/').unwrap_or((rest, "")))
    }

    /// Whether something has to be fetched over a network.
    pub fn is_remote(&self) -> bool {
        !matches!(self.scheme, "pvc" | "file")
    }

    /// The last part of the path, which names a file or a repository.
    pub fn last_segment(&self) -> &str {
        let path = self.text.split_once("://").map_or("", |(_, rest)| rest).trim_end_matches('/');
        path.rsplit('/').next().unwrap_or_default()
    }
}

text_scalar!(Source, FORM);
