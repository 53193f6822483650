//! One file of a web server: how large it is and which version is there, learnt from a request for its first byte.

use reqwest::Url;
use wharf_api::source::{SourceUrl, WebSource};

use crate::error::FetchError;
use crate::http::{Get, Http, HttpError};
use crate::names::RelativeName;
use crate::object::{Object, WebObject};
use crate::remote::{Kind, Remote, RemoteFile};
use crate::secret::Authorization;
use crate::settings::Settings;

pub(crate) async fn open(source: &WebSource, settings: &Settings) -> Result<Remote, FetchError> {
    let text = SourceUrl::Web(source.clone());
    let wrong = |why: String| FetchError::Choice(format!("{}: {why}", text.shown()));
    let url: Url = text.to_string().parse().map_err(|_| wrong("it is no URL".to_owned()))?;
    let last = url.path_segments().and_then(|mut parts| parts.next_back()).unwrap_or_default();
    let name = RelativeName::new(&percent_decoded(last)).map_err(|error| wrong(error.to_string()))?;
    let auth = settings.token.clone().map(Authorization::Bearer);
    let object = WebObject::new(Http::new(settings, &[])?, Get::new(url, auth), true);
    let mut failures = 0;
    // A HEAD would do for most, but addresses that are signed are signed for GET.
    let (size, tag) = loop {
        match object.open(&(0..1), None).await {
            Ok(opened) => break (opened.total, opened.tag),
            // An empty file has no first byte.
            Err(HttpError::Changed { .. }) => break (Some(0), None),
            Err(error) if error.is_passing() => {
                failures += 1;
                let Some(pause) = settings.retry.pause(failures, error.asked_pause(), fastrand::f64()) else {
                    return Err(error.during(format!("look at {}", text.shown())));
                };
                tokio::time::sleep(pause).await;
            }
            Err(error) => return Err(error.during(format!("look at {}", text.shown()))),
        }
    };
    let file =
        RemoteFile { name, size, sha256: None, tag, kind: Kind::File, object: Object::Web(object.into()) };
    Ok(Remote::new(vec![file]))
}

/// URLs that were parsed are escaped correctly; what is no text stays as it is and is refused as a name.
fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        let digit = |c: u8| char::from(c).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        match (first, tail) {
            (b'%', [high, low, tail @ ..]) if digit(*high).is_some() && digit(*low).is_some() => {
                bytes.push(digit(*high).unwrap_or_default() * 16 + digit(*low).unwrap_or_default());
                rest = tail;
            }
            (byte, _) => bytes.push(*byte),
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_decoded_before_they_are_judged() {
        assert_eq!(percent_decoded("a%20b.gguf"), "a b.gguf");
        assert_eq!(percent_decoded("..%2Fx"), "../x");
        assert_eq!(percent_decoded("%zz%"), "%zz%");
    }
}
