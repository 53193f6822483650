//! The page: a few files in the binary, and the headers under which a browser takes them.
//!
//! They are few and small, so a browser asks each time whether they have changed, and a new `wharf` is seen at once.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::LazyLock;

use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, LOCATION, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use crate::answer::Answer;

/// Scripts, styles and connections of this origin only, and nothing inline: text of a model can never become code.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                      connect-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'";

const HTML: &str = "text/html; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const IMAGE: &str = "image/svg+xml";

/// One file of the page.
struct Asset {
    path: &'static str,
    media_type: &'static str,
    content: &'static [u8],
}

macro_rules! assets {
    ($($path:literal $file:literal $media_type:expr),* $(,)?) => {
        &[$(Asset {
            path: $path,
            media_type: $media_type,
            content: include_bytes!(concat!("../../console/", $file)),
        }),*]
    };
}

/// All of them, by their paths below `/console`.
static ASSETS: &[Asset] = assets![
    "/" "index.html" HTML,
    "/base.css" "base.css" STYLE,
    "/views.css" "views.css" STYLE,
    "/theme.js" "theme.js" SCRIPT,
    "/icon.svg" "icon.svg" IMAGE,
    "/app.js" "app.js" SCRIPT,
    "/api.js" "api.js" SCRIPT,
    "/store.js" "store.js" SCRIPT,
    "/dom.js" "dom.js" SCRIPT,
    "/format.js" "format.js" SCRIPT,
    "/markdown.js" "markdown.js" SCRIPT,
    "/chart.js" "chart.js" SCRIPT,
    "/chat.js" "chat.js" SCRIPT,
    "/turn.js" "turn.js" SCRIPT,
    "/services.js" "services.js" SCRIPT,
    "/service.js" "service.js" SCRIPT,
    "/replicas.js" "replicas.js" SCRIPT,
    "/cards.js" "cards.js" SCRIPT,
    "/definition.js" "definition.js" SCRIPT,
    "/keys.js" "keys.js" SCRIPT,
    "/requests.js" "requests.js" SCRIPT,
];

/// Tags of the files: the same for the same bytes.
static TAGS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let tag = |asset: &Asset| {
        let mut hasher = DefaultHasher::new();
        asset.content.hash(&mut hasher);
        format!("\"{:016x}\"", hasher.finish())
    };
    ASSETS.iter().map(tag).collect()
});

/// The file at this path, if there is one.
pub(super) fn answer(path: &str, headers: &HeaderMap) -> Option<Response<Answer>> {
    if path.is_empty() {
        return Some(redirect());
    }
    let (asset, tag) = ASSETS.iter().zip(TAGS.iter()).find(|(asset, _)| asset.path == path)?;
    let known = headers.get(IF_NONE_MATCH).and_then(|value| value.to_str().ok()).is_some_and(|tags| {
        tags.split(',').any(|known| known.trim().trim_start_matches("W/") == tag || known.trim() == "*")
    });
    let mut response = if known {
        let mut response = Response::new(Answer::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        Response::new(Answer::whole(Bytes::from_static(asset.content)))
    };
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(asset.media_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    if let Ok(tag) = HeaderValue::from_str(tag) {
        headers.insert(ETAG, tag);
    }
    Some(response)
}

/// Headers of everything that the console answers.
pub(super) fn protect(headers: &mut HeaderMap) {
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
}

/// To the folder: files name each other without a path. It is relative, for proxies that serve the gateway below a prefix.
fn redirect() -> Response<Answer> {
    let mut response = Response::new(Answer::empty());
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    response.headers_mut().insert(LOCATION, HeaderValue::from_static("console/"));
    response
}
