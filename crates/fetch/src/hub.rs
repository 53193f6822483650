//! The Hugging Face Hub, or a mirror of it: which commit a revision is, what is in it, where the bytes are.
//!
//! Three requests of its protocol are enough: `revision` names the commit, `tree` lists its files with their sizes and, for large ones, their SHA-256,
//! `resolve` leads to the bytes. Everything after the first is asked of the commit, so a branch that moves in between changes nothing.

use reqwest::Url;
use serde::Deserialize;
use wharf_api::Digest;
use wharf_api::source::HubSource;

use crate::error::FetchError;
use crate::http::{Get, Http};
use crate::names::RelativeName;
use crate::object::{Object, WebObject};
use crate::remote::{Kind, Remote, RemoteFile};
use crate::secret::Authorization;
use crate::select;
use crate::settings::Settings;

const MAX_ANSWER: usize = 64 << 20;
const MAX_PAGES: usize = 200;

#[derive(Deserialize)]
struct Revision {
    sha: String,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    #[serde(default)]
    size: Option<u64>,
    /// Git's own digest, which is no SHA-256.
    #[serde(default)]
    oid: Option<String>,
    #[serde(default)]
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    oid: String,
    size: u64,
}

impl Entry {
    fn size(&self) -> Option<u64> {
        self.lfs.as_ref().map(|lfs| lfs.size).or(self.size)
    }

    fn sha256(&self) -> Option<Digest> {
        let oid = &self.lfs.as_ref()?.oid;
        Digest::from_hex(oid.strip_prefix("sha256:").unwrap_or(oid))
    }
}

pub(crate) async fn open(source: &HubSource, settings: &Settings) -> Result<Remote, FetchError> {
    let hub = Hub::new(source, settings)?;
    let commit = hub.commit(source.revision.as_deref().unwrap_or("main")).await?;
    let entries = hub.tree(&commit).await?;
    let names: Vec<(String, Option<u64>)> =
        entries.iter().map(|entry| (entry.path.clone(), entry.size())).collect();
    let selection = match &source.path {
        Some(path) => select::named(&hub.id, path, &names)?,
        None => select::repository(&hub.id, &names)?,
    };
    // A folder that was named is the model's folder; of a file only its own name counts.
    let inner = source.path.as_ref().map(|path| match names.iter().any(|(name, _)| name == path) {
        true => path.rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/")),
        false => format!("{path}/"),
    });
    let mut files = Vec::new();
    for entry in entries.iter().filter(|entry| selection.take.contains(&entry.path)) {
        let name = entry.path.strip_prefix(inner.as_deref().unwrap_or_default()).unwrap_or(&entry.path);
        let get = Get::new(hub.url(&["resolve", &commit], &entry.path)?, hub.auth.clone());
        files.push(RemoteFile {
            name: RelativeName::new(name)?,
            size: entry.size(),
            sha256: entry.sha256(),
            tag: Some(entry.oid.clone().unwrap_or_else(|| commit.clone())),
            kind: Kind::File,
            object: Object::Web(WebObject::new(hub.http.clone(), get, false).into()),
        });
    }
    Ok(Remote { skipped: selection.skipped, revision: Some(commit), ..Remote::new(files) })
}

struct Hub {
    http: Http,
    endpoint: Url,
    auth: Option<Authorization>,
    id: String,
}

impl Hub {
    fn new(source: &HubSource, settings: &Settings) -> Result<Hub, FetchError> {
        let endpoint = settings.hub.clone();
        let plain: Vec<Url> =
            Some(endpoint.clone()).into_iter().filter(|url| url.scheme() == "http").collect();
        let token = settings.token.clone().or_else(|| settings.hub_token.clone());
        let auth = token.map(Authorization::Bearer);
        Ok(Hub { http: Http::new(settings, &plain)?, endpoint, auth, id: source.id() })
    }

    /// `owner/repo/what…/path`, each part of `what` as one, behind the endpoint's own path.
    fn url(&self, what: &[&str], path: &str) -> Result<Url, FetchError> {
        self.address(&[], what, path)
    }

    fn api(&self, what: &[&str]) -> Result<Url, FetchError> {
        self.address(&["api", "models"], what, "")
    }

    fn address(&self, before: &[&str], what: &[&str], path: &str) -> Result<Url, FetchError> {
        let mut url = self.endpoint.clone();
        let mut parts =
            url.path_segments_mut().map_err(|()| FetchError::answer("HF_ENDPOINT", "it has no path"))?;
        let path = path.split('/').filter(|part| !part.is_empty());
        parts.pop_if_empty().extend(before).extend(self.id.split('/')).extend(what).extend(path);
        drop(parts);
        Ok(url)
    }

    async fn json<T: serde::de::DeserializeOwned>(
        &self,
        url: Url,
        what: &str,
    ) -> Result<(http::HeaderMap, T), FetchError> {
        let get = Get::new(url, self.auth.clone());
        let doing = format!("read {what} of hf://{}", self.id);
        let (headers, body) =
            self.http.bytes(&get, MAX_ANSWER).await.map_err(|error| match error.status() {
                // The Hub does not tell strangers what is there.
                Some(status) if status == 401 && self.auth.is_none() => error.hinted(
                    &doing,
                    "check the name; if it is private or gated, set HF_TOKEN to a token that may read it",
                ),
                _ => error.during(&doing),
            })?;
        let parsed = serde_json::from_slice(&body);
        Ok((
            headers,
            parsed.map_err(|error| FetchError::answer(format!("{what} of hf://{}", self.id), error))?,
        ))
    }

    async fn commit(&self, revision: &str) -> Result<String, FetchError> {
        let (_, Revision { sha }) = self.json(self.api(&["revision", revision])?, "the revision").await?;
        let is_commit = (7..=64).contains(&sha.len()) && sha.bytes().all(|byte| byte.is_ascii_hexdigit());
        match is_commit {
            true => Ok(sha),
            false => Err(FetchError::answer(format!("the revision of hf://{}", self.id), "it is no commit")),
        }
    }

    async fn tree(&self, commit: &str) -> Result<Vec<Entry>, FetchError> {
        let mut url = self.api(&["tree", commit])?;
        url.set_query(Some("recursive=true"));
        let mut entries = Vec::new();
        for _ in 0..MAX_PAGES {
            let (headers, page) = self.json::<Vec<Entry>>(url.clone(), "the list of files").await?;
            entries.extend(page.into_iter().filter(|entry| entry.kind == "file"));
            let Some(query) = next_page(&headers) else { return Ok(entries) };
            // Mirrors hand on the Hub's own address: only where the list goes on is taken from it.
            url.set_query(Some(&query));
        }
        Err(FetchError::answer(format!("the list of files of hf://{}", self.id), "it does not end"))
    }
}

/// The query of the next page, from `Link: <…>; rel="next"`.
fn next_page(headers: &http::HeaderMap) -> Option<String> {
    let link = headers.get(http::header::LINK)?.to_str().ok()?;
    let next = link.split(',').find(|link| link.contains("rel=\"next\""))?;
    let address = next.split_once('<')?.1.split_once('>')?.0;
    Some(address.split_once('?')?.1.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_a_query_whatever_its_host() {
        let mut headers = http::HeaderMap::new();
        assert_eq!(next_page(&headers), None);
        let link = r#"<https://elsewhere.example.com/api/x/tree/y?recursive=true&cursor=abc>; rel="next""#;
        headers.insert("link", link.parse().unwrap());
        assert_eq!(next_page(&headers).as_deref(), Some("recursive=true&cursor=abc"));
    }

    #[test]
    fn addresses_keep_the_mirrors_path_and_escape_revisions() {
        let env = [("HF_ENDPOINT".to_owned(), "https://mirror.example.com/hf/".to_owned())];
        let settings = Settings::from_env(&env.into()).unwrap();
        let Ok(wharf_api::SourceUrl::Hub(source)) = "hf://a/b".parse() else { panic!() };
        let hub = Hub::new(&source, &settings).unwrap();
        let api = hub.api(&["revision", "refs/pr/1"]).unwrap();
        assert_eq!(api.as_str(), "https://mirror.example.com/hf/api/models/a/b/revision/refs%2Fpr%2F1");
        let file = hub.url(&["resolve", "abc"], "sub/a b?.json").unwrap();
        assert_eq!(file.as_str(), "https://mirror.example.com/hf/a/b/resolve/abc/sub/a%20b%3F.json");
    }
}
