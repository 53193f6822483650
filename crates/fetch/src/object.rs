//! Bytes that can be read from any offset, wherever they are: behind a URL, in an object store, in a file of this machine.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use http::{HeaderMap, StatusCode, header};
use reqwest::{Response, Url};
use wharf_api::Digest;

use crate::error::FetchError;
use crate::http::{Answer, Get, Http, HttpError, network, shown};
use crate::oci::Login;
use crate::store::StoreObject;

/// All of a file whose size is not known.
pub(crate) const ALL: Range<u64> = 0..u64::MAX;

/// Where a file's bytes are.
#[derive(Clone, Debug)]
pub(crate) enum Object {
    Web(Arc<WebObject>),
    Store(Arc<StoreObject>),
    Local(PathBuf),
}

/// What opening a range gives.
pub(crate) struct Opened {
    pub(crate) body: Body,
    /// Where the body begins: the start of the range, or 0 when it is the whole file.
    pub(crate) start: u64,
    /// Whether the server sent the whole file, because it has no ranges or has another version than the one with the tag.
    pub(crate) whole: bool,
    /// The size of the whole file, if the server says it.
    pub(crate) total: Option<u64>,
    /// What changes with the bytes.
    pub(crate) tag: Option<String>,
    /// The digest of the whole file, if the answer names one.
    pub(crate) sha256: Option<Digest>,
}

/// Bytes as they come.
pub(crate) enum Body {
    Web { url: Url, response: Response },
    Stream { name: String, stream: BoxStream<'static, Result<Bytes, object_store::Error>> },
    File { file: std::fs::File, path: PathBuf, left: u64 },
}

impl Body {
    /// The next bytes; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, HttpError> {
        match self {
            Body::Web { url, response } => response.chunk().await.map_err(|error| network(url, error)),
            Body::Stream { name, stream } => match stream.next().await.transpose() {
                Ok(bytes) => Ok(bytes),
                Err(error) => {
                    Err(HttpError::Network { url: name.clone(), why: crate::store::reason(&error) })
                }
            },
            Body::File { file, path, left } => {
                let mut buffer = vec![0; usize::try_from((*left).min(1 << 20)).expect("a mebibyte fits")];
                let n = file.read(&mut buffer).map_err(|error| local(path, &error))?;
                *left -= n as u64;
                buffer.truncate(n);
                Ok((n > 0).then(|| buffer.into()))
            }
        }
    }
}

fn local(path: &std::path::Path, error: &std::io::Error) -> HttpError {
    HttpError::Protocol { url: path.display().to_string(), why: error.to_string() }
}

/// A file behind a URL.
#[derive(Debug)]
pub(crate) struct WebObject {
    pub(crate) http: Http,
    pub(crate) get: Get,
    /// Whether the server's ETag tells versions apart. Where the URL names a version or the bytes are known by their digest, it does not matter,
    /// and differs between the servers of a delivery network.
    pub(crate) compares_tags: bool,
    /// Where the last answer came from: signed addresses hold for a while, and save a redirect for every range.
    location: Mutex<Option<Url>>,
    /// How to be let in again: registries' tokens hold for minutes.
    login: Option<Arc<Login>>,
}

impl WebObject {
    pub(crate) fn new(http: Http, get: Get, compares_tags: bool) -> WebObject {
        WebObject { http, get, compares_tags, location: Mutex::new(None), login: None }
    }

    pub(crate) fn with_login(self, login: Arc<Login>) -> WebObject {
        WebObject { login: Some(login), ..self }
    }

    fn location(&self) -> std::sync::MutexGuard<'_, Option<Url>> {
        self.location.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) async fn open(&self, range: &Range<u64>, tag: Option<&str>) -> Result<Opened, HttpError> {
        let kept = self.location().clone();
        if let Some(url) = kept {
            // The address was reached by a redirect that dropped credentials, if it is another host.
            match self.ask(&Get { url, auth: None, headers: HeaderMap::new() }, range, tag).await {
                Err(HttpError::Status { status, .. }) if status.is_client_error() && status != 429 => {
                    // It has expired: a new one is asked for.
                    self.location().take();
                }
                outcome => return outcome,
            }
        }
        let Some(login) = &self.login else { return self.ask(&self.get, range, tag).await };
        let get = || Get { auth: login.current(), ..self.get.clone() };
        match self.ask(&get(), range, tag).await {
            Err(HttpError::Status { url, status, challenge: Some(challenge), .. }) if status == 401 => {
                let refused = |error: FetchError| HttpError::Protocol { url, why: error.to_string() };
                login.answer(&self.http, &challenge).await.map_err(refused)?;
                self.ask(&get(), range, tag).await
            }
            outcome => outcome,
        }
    }

    async fn ask(&self, get: &Get, range: &Range<u64>, tag: Option<&str>) -> Result<Opened, HttpError> {
        let mut get = get.clone();
        if *range != ALL {
            get = get.with(header::RANGE, &format!("bytes={}-{}", range.start, range.end - 1));
        }
        let strong = tag.filter(|tag| self.compares_tags && tag.starts_with('"'));
        if let Some(tag) = strong {
            get = get.with(header::IF_RANGE, tag);
        }
        let answer = match self.http.once(&get).await {
            Err(HttpError::Status { url, status: StatusCode::RANGE_NOT_SATISFIABLE, .. }) => {
                // There is less than there was. An empty file has no range at all, not even its first.
                return Err(HttpError::Changed { url });
            }
            outcome => outcome?,
        };
        if crate::policy::origin(&answer.url) != crate::policy::origin(&get.url) {
            *self.location() = Some(answer.url.clone());
        }
        self.opened(answer, range)
    }

    fn opened(
        &self,
        Answer { response, url, linked }: Answer,
        range: &Range<u64>,
    ) -> Result<Opened, HttpError> {
        let headers = response.headers();
        let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let tag = text(header::ETAG).or_else(|| text(header::LAST_MODIFIED)).map(str::to_owned);
        let odd = |why: &str| HttpError::Protocol { url: shown(&url), why: why.to_owned() };
        let whole = response.status() != StatusCode::PARTIAL_CONTENT;
        let (start, total) = match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                let said = text(header::CONTENT_RANGE).ok_or_else(|| odd("a part without Content-Range"))?;
                let (start, total) = content_range(said).ok_or_else(|| odd("an unreadable Content-Range"))?;
                if start != range.start {
                    return Err(odd("another range than the one that was asked for"));
                }
                (start, total)
            }
            _ => (0, text(header::CONTENT_LENGTH).and_then(|length| length.parse().ok())),
        };
        let tag = tag.filter(|_| self.compares_tags);
        Ok(Opened { start, whole, total, tag, sha256: linked, body: Body::Web { url, response } })
    }
}

/// `bytes 0-9/100`: the first byte and the whole size.
fn content_range(value: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = value.strip_prefix("bytes ")?.split_once('/')?;
    let (start, _) = range.split_once('-')?;
    Some((start.trim().parse().ok()?, total.trim().parse().ok()))
}

impl Object {
    /// Asks for `range`, which is not empty, of the version with `tag`. A server may send more or less of it than that.
    pub(crate) async fn open(&self, range: &Range<u64>, tag: Option<&str>) -> Result<Opened, HttpError> {
        match self {
            Object::Web(object) => object.open(range, tag).await,
            Object::Store(object) => object.open(range, tag).await,
            Object::Local(path) => {
                let failed = |error| local(path, &error);
                let mut file = std::fs::File::open(path).map_err(failed)?;
                let total = file.metadata().map_err(failed)?;
                file.seek(SeekFrom::Start(range.start)).map_err(failed)?;
                Ok(Opened {
                    start: range.start,
                    whole: false,
                    total: Some(total.len()),
                    tag: crate::local::tag(&total),
                    sha256: None,
                    body: Body::File { file, path: path.clone(), left: range.end - range.start },
                })
            }
        }
    }

    /// For messages.
    pub(crate) fn shown(&self) -> String {
        match self {
            Object::Web(object) => shown(&object.get.url),
            Object::Store(object) => object.shown(),
            Object::Local(path) => path.display().to_string(),
        }
    }

    /// How failures are tried again.
    pub(crate) fn retry(&self) -> crate::retry::Retry {
        match self {
            Object::Web(object) => object.http.retry,
            Object::Store(object) => object.retry(),
            Object::Local(_) => crate::retry::Retry::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_are_read() {
        assert_eq!(content_range("bytes 5-9/100"), Some((5, Some(100))));
        assert_eq!(content_range("bytes 5-9/*"), Some((5, None)));
        assert_eq!(content_range("bytes */100"), None);
        assert_eq!(content_range("items 5-9/100"), None);
    }
}
