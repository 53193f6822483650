//! What can happen to a request, told without anything secret, and what to do about it.

use std::error::Error as _;
use std::time::{Duration, SystemTime};

use http::StatusCode;
use reqwest::{Response, Url};

use super::{body, shown};
use crate::error::FetchError;
use crate::policy::PolicyError;
use crate::retry::{passing, retry_after};

/// Of an error's body; more is not shown to people anyway.
const MAX_ERROR_BYTES: usize = 16 << 10;

/// What happened to one request. Addresses are without their queries.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The address is not allowed.
    #[error("{url} was refused")]
    Refused {
        /// The address.
        url: String,
        /// Why.
        source: PolicyError,
    },
    /// A server sent us to an address that is not allowed.
    #[error("{url} redirects to {to}, which was refused")]
    RefusedRedirect {
        /// Who sent us.
        url: String,
        /// Where to.
        to: String,
        /// Why.
        source: PolicyError,
    },
    /// Redirects without end.
    #[error("{url} redirects more than {} times", super::MAX_REDIRECTS)]
    Redirects {
        /// Where it began.
        url: String,
    },
    /// A status that is no success.
    #[error("{url} answered {status}{}", if message.is_empty() { String::new() } else { format!(": {message}") })]
    Status {
        /// The address.
        url: String,
        /// The status.
        status: StatusCode,
        /// What the server says about it.
        message: String,
        /// A word of the server's for programs.
        code: String,
        /// What `Retry-After` says.
        after: Option<Duration>,
        /// What `WWW-Authenticate` says.
        challenge: Option<String>,
    },
    /// No connection, a broken one, or none in time.
    #[error("failed to reach {url}: {why}")]
    Network {
        /// The address.
        url: String,
        /// The innermost reason.
        why: String,
    },
    /// The answer ended early.
    #[error("{url} ended its answer {missing} bytes early")]
    Short {
        /// The address.
        url: String,
        /// What did not come.
        missing: u64,
    },
    /// What is there now is not what was there before.
    #[error("{url} has changed")]
    Changed {
        /// The address.
        url: String,
    },
    /// An answer that makes no sense.
    #[error("{url} gave an answer that makes no sense: {why}")]
    Protocol {
        /// The address.
        url: String,
        /// What is wrong.
        why: String,
    },
}

impl HttpError {
    pub(crate) fn is_refused(&self) -> bool {
        matches!(self, HttpError::Refused { .. })
    }

    pub(crate) fn status(&self) -> Option<StatusCode> {
        match self {
            HttpError::Status { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Whether another try may succeed.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            HttpError::Network { .. } | HttpError::Short { .. } => true,
            HttpError::Status { status, .. } => passing(*status),
            HttpError::Refused { .. }
            | HttpError::RefusedRedirect { .. }
            | HttpError::Redirects { .. }
            | HttpError::Changed { .. }
            | HttpError::Protocol { .. } => false,
        }
    }

    pub(crate) fn asked_pause(&self) -> Option<Duration> {
        match self {
            HttpError::Status { after, .. } => *after,
            _ => None,
        }
    }

    /// With what the request was for.
    pub(crate) fn during(self, doing: impl Into<String>) -> FetchError {
        let hint = self.hint();
        FetchError::Request { doing: doing.into(), hint, source: Box::new(self) }
    }

    /// What to do next. The words are the Hub's, which has one status for several reasons.
    fn hint(&self) -> Option<String> {
        let HttpError::Status { status, code, .. } = self else { return None };
        let hint = match (code.as_str(), status.as_u16()) {
            ("GatedRepo", _) => {
                "accept the licence on the model's page, then set HF_TOKEN to a token of that account"
            }
            ("RepoNotFound", _) => {
                "there is no such repository, or it is private: check the name, or set HF_TOKEN to a token that may read it"
            }
            ("RevisionNotFound", _) => "check the revision after the @",
            ("EntryNotFound", _) => "check the path of the file",
            (_, 401) => "credentials are missing or wrong: give --token-file, or HF_TOKEN for the Hub",
            (_, 403) => "the credentials do not allow it",
            (_, 404) => "check the URL",
            (_, 429) => "the server asks for patience: run the same command again later, it goes on",
            (_, 500..) => "the server has a problem: run the same command again later, it goes on",
            _ => return None,
        };
        Some(hint.to_owned())
    }

    pub(crate) fn hinted(self, doing: impl Into<String>, hint: impl Into<String>) -> FetchError {
        FetchError::Request { doing: doing.into(), hint: Some(hint.into()), source: Box::new(self) }
    }
}

/// What the client says about a connection, with the policy's refusal found among the reasons.
pub(crate) fn network(url: &Url, error: reqwest::Error) -> HttpError {
    let mut source = error.source();
    while let Some(inner) = source {
        if let Some(refusal) = inner.downcast_ref::<PolicyError>() {
            return HttpError::Refused { url: shown(url), source: refusal.clone() };
        }
        source = inner.source();
    }
    let why = match error.is_timeout() {
        true => "it took too long to answer".to_owned(),
        false => innermost(&error),
    };
    HttpError::Network { url: shown(url), why }
}

/// The reason at the bottom, which says the most; outer ones repeat the address.
pub(super) fn innermost(error: &reqwest::Error) -> String {
    let mut inner: &dyn std::error::Error = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}

pub(super) async fn status(url: &Url, response: Response) -> HttpError {
    let status = response.status();
    let text = |name: &str| {
        let value = response.headers().get(name).and_then(|value| value.to_str().ok());
        value.map(str::to_owned)
    };
    let (code, message) = (text("x-error-code").unwrap_or_default(), text("x-error-message"));
    let challenge = text("www-authenticate");
    let after = retry_after(response.headers(), SystemTime::now());
    let message = match message {
        Some(message) => message,
        None => message_of(&body(url, response, MAX_ERROR_BYTES).await.unwrap_or_default()),
    };
    HttpError::Status { url: shown(url), status, message: one_line(&message), code, after, challenge }
}

/// What a JSON error says, by the several names that protocols have for it. Other bodies are pages for people.
fn message_of(body: &[u8]) -> String {
    let Ok(json) = serde_json::from_slice::<serde_json::Value>(body) else { return String::new() };
    let places = ["/error/message", "/errors/0/message", "/error", "/message"];
    let found = places.iter().find_map(|place| json.pointer(place)?.as_str());
    found.unwrap_or_default().to_owned()
}

/// Foreign text on one line of bearable length.
fn one_line(text: &str) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect();
    line.trim().trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_the_known_protocols_are_found() {
        for (body, message) in [
            (r#"{"error":"Repository not found"}"#, "Repository not found"),
            (r#"{"errors":[{"code":"DENIED","message":"no"}]}"#, "no"),
            (r#"{"error":{"message":"x"}}"#, "x"),
            ("<html>", ""),
        ] {
            assert_eq!(message_of(body.as_bytes()), message);
        }
        assert_eq!(one_line("a\nb.\n"), "a b");
    }
}
