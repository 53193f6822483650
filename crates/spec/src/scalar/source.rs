//! Where a model or a text comes from: the sources of `wharf fetch`, as they were written.

use wharf_api::source::{Scheme, SourceUrl};

use super::{Form, text_scalar, wrong};

pub(super) const FORM: Form = Form {
    pattern: "^(hf|https|s3|gs|oci|pvc|file)://.+$",
    expected: "a URL that begins with hf://, https://, s3://, gs://, oci://, pvc:// or file://",
};

/// A URL that `wharf fetch` understands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    text: String,
    url: SourceUrl,
}

impl Source {
    /// # Errors
    /// A sentence for the person who wrote the text.
    pub fn parse(text: &str) -> Result<Source, String> {
        match text.parse::<SourceUrl>() {
            // Nothing on the way would be safe from change.
            Ok(url) if url.scheme() == Scheme::Http => wrong(text, FORM),
            Ok(url) => Ok(Source { text: text.to_owned(), url }),
            Err(error) => Err(error.to_string()),
        }
    }

    /// In its parts.
    pub fn url(&self) -> &SourceUrl {
        &self.url
    }

    /// What it begins with.
    pub fn scheme(&self) -> Scheme {
        self.url.scheme()
    }

    /// The claim and the path in it, of a `pvc://` source.
    pub fn claim(&self) -> Option<(&str, &str)> {
        match &self.url {
            SourceUrl::Volume(volume) => Some((&volume.claim, &volume.path)),
            SourceUrl::Hub(_)
            | SourceUrl::Web(_)
            | SourceUrl::Bucket(_)
            | SourceUrl::Oci(_)
            | SourceUrl::File(_) => None,
        }
    }

    /// Whether something has to be fetched over a network.
    pub fn is_remote(&self) -> bool {
        !matches!(self.scheme(), Scheme::Pvc | Scheme::File)
    }

    /// The last part of the path, which names a file or a repository.
    pub fn last_segment(&self) -> &str {
        let path = self.text.split_once("://").map_or("", |(_, rest)| rest);
        let path = path.split('?').next().unwrap_or_default().trim_end_matches('/');
        path.rsplit('/').next().unwrap_or_default()
    }
}

text_scalar!(Source, FORM);
