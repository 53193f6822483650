//! How a registry learns who asks: the file that `docker login` writes, and the registry's own challenge.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use reqwest::Url;
use serde::Deserialize;

use crate::error::FetchError;
use crate::http::{Get, Http};
use crate::secret::{Authorization, Secret};
use crate::settings::Settings;

const MAX_ANSWER: usize = 1 << 20;

/// Credentials for one repository.
#[derive(Debug)]
pub(crate) struct Login {
    registry: String,
    repository: String,
    /// The registry itself. Where that is spoken to without encryption, so may its token service be.
    base: Url,
    /// What the user has.
    own: Option<Authorization>,
    /// The configuration names a program that has the credentials, which we do not run.
    helper: Option<String>,
    /// What the registry has given, or takes.
    current: Mutex<Option<Authorization>>,
}

/// `Bearer realm="…",service="…",scope="…"`, taken apart.
#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

#[derive(Deserialize, Default)]
struct DockerConfig {
    #[serde(default)]
    auths: std::collections::BTreeMap<String, DockerAuth>,
    #[serde(default, rename = "credHelpers")]
    helpers: std::collections::BTreeMap<String, String>,
    #[serde(default, rename = "credsStore")]
    store: Option<String>,
}

#[derive(Deserialize, Default)]
struct DockerAuth {
    #[serde(default)]
    auth: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default, rename = "registrytoken")]
    registry_token: String,
}

impl Login {
    pub(super) fn new(
        registry: &str,
        repository: &str,
        base: &Url,
        settings: &Settings,
    ) -> Result<Login, FetchError> {
        let (mut own, mut helper) = (None, None);
        for folder in &settings.docker {
            let path = folder.join("config.json");
            let Ok(text) = std::fs::read(&path) else { continue };
            let config: DockerConfig =
                serde_json::from_slice(&text).map_err(|error| FetchError::Setting {
                    what: path.display().to_string(),
                    // The parser quotes no values, only where it stopped.
                    why: format!(
                        "line {}, column {} is not as Docker writes it",
                        error.line(),
                        error.column()
                    ),
                })?;
            (own, helper) =
                (find(&config, registry, &path)?, config.helpers.get(registry).cloned().or(config.store));
            break;
        }
        if let Some(token) = &settings.token {
            own = Some(match token.reveal().split_once(':') {
                Some((user, password)) => {
                    Authorization::Basic { user: user.to_owned(), password: Secret::new(password) }
                }
                None => Authorization::Bearer(token.clone()),
            });
        }
        Ok(Login {
            registry: registry.to_owned(),
            repository: repository.to_owned(),
            base: base.clone(),
            current: Mutex::new(None),
            own,
            helper,
        })
    }

    pub(crate) fn current(&self) -> Option<Authorization> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What to do when the registry says no.
    pub(super) fn hint(&self) -> String {
        match (&self.own, &self.helper) {
            (Some(_), _) => format!("the credentials for {} do not allow it", self.registry),
            (None, Some(helper)) => format!(
                "credentials are kept by docker-credential-{helper}, which is not run; put user:password into a file and give --token-file"
            ),
            (None, None) => format!(
                "run `docker login {}`, or set DOCKER_CONFIG to the folder of its config.json",
                self.registry
            ),
        }
    }

    /// Does what a challenge asks for.
    pub(crate) async fn answer(&self, http: &Http, challenge: &str) -> Result<(), FetchError> {
        let odd = |why: &str| FetchError::answer(format!("what {} asks for", self.registry), why);
        let given = match parse(challenge).ok_or_else(|| odd("an unknown kind of authentication"))? {
            Challenge::Basic => self.own.clone(),
            Challenge::Bearer { realm, service, scope } => match &self.own {
                Some(Authorization::Bearer(token)) => Some(Authorization::Bearer(token.clone())),
                own => {
                    let mut url: Url = realm.parse().map_err(|_| odd("its realm is no URL"))?;
                    if url.scheme() != "https" && url.origin() != self.base.origin() {
                        return Err(odd("its realm is not encrypted"));
                    }
                    let scope = scope.unwrap_or_else(|| format!("repository:{}:pull", self.repository));
                    url.query_pairs_mut().append_pair("scope", &scope);
                    if let Some(service) = service {
                        url.query_pairs_mut().append_pair("service", &service);
                    }
                    Some(Authorization::Bearer(self.token(http, Get::new(url, own.clone())).await?))
                }
            },
        };
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = given;
        Ok(())
    }

    async fn token(&self, http: &Http, get: Get) -> Result<Secret, FetchError> {
        #[derive(Deserialize)]
        struct Token {
            #[serde(default)]
            token: String,
            #[serde(default)]
            access_token: String,
        }
        let doing = format!("get a token for {}", self.registry);
        let (_, body) = http.bytes(&get, MAX_ANSWER).await.map_err(|error| match error.status() {
            Some(status) if status == 401 || status == 403 => error.hinted(&doing, self.hint()),
            _ => error.during(&doing),
        })?;
        // What is wrong with it is not quoted: it may be a token.
        let Ok(Token { token, access_token }) = serde_json::from_slice(&body) else {
            return Err(FetchError::answer(doing, "it is no token"));
        };
        match [token, access_token].into_iter().find(|token| !token.is_empty()) {
            Some(token) => Ok(Secret::new(&token)),
            None => Err(FetchError::answer(doing, "it is no token")),
        }
    }
}

/// The entry for the registry, by any of the names that Docker has used for it.
fn find(config: &DockerConfig, registry: &str, path: &Path) -> Result<Option<Authorization>, FetchError> {
    let bare = |key: &str| {
        let key = key.split_once("://").map_or(key, |(_, rest)| rest);
        key.split('/').next().unwrap_or_default().to_ascii_lowercase()
    };
    let wanted = |key: &str| {
        let key = bare(key);
        key == registry
            || (registry == "docker.io"
                && ["index.docker.io", "registry-1.docker.io"].contains(&key.as_str()))
    };
    let Some((key, entry)) = config.auths.iter().find(|(key, _)| wanted(key)) else { return Ok(None) };
    let DockerAuth { auth, username, password, registry_token } = entry;
    if !registry_token.is_empty() {
        return Ok(Some(Authorization::Bearer(Secret::new(registry_token))));
    }
    if !username.is_empty() {
        return Ok(Some(Authorization::Basic { user: username.clone(), password: Secret::new(password) }));
    }
    if auth.is_empty() {
        return Ok(None);
    }
    let decoded = BASE64_STANDARD.decode(auth).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let pair = decoded.as_deref().and_then(|text| text.split_once(':'));
    let (user, password) = pair.ok_or_else(|| FetchError::Setting {
        what: path.display().to_string(),
        why: format!("the entry for {key} is not user and password in base64"),
    })?;
    Ok(Some(Authorization::Basic { user: user.to_owned(), password: Secret::new(password) }))
}

fn parse(challenge: &str) -> Option<Challenge> {
    let (kind, rest) = challenge.trim().split_once(' ').unwrap_or((challenge.trim(), ""));
    if kind.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !kind.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let (mut realm, mut service, mut scope) = (None, None, None);
    let mut rest = rest.trim();
    while !rest.is_empty() {
        let (name, tail) = rest.split_once('=')?;
        // A value in quotes may hold commas: scopes do.
        let (value, tail) = match tail.strip_prefix('"') {
            Some(tail) => tail.split_once('"')?,
            None => tail.find(',').map_or((tail, ""), |at| tail.split_at(at)),
        };
        match name.trim().to_ascii_lowercase().as_str() {
            "realm" => realm = Some(value.to_owned()),
            "service" => service = Some(value.to_owned()),
            "scope" => scope = Some(value.to_owned()),
            _ => {}
        }
        rest = tail.trim_start_matches([',', ' ']);
    }
    Some(Challenge::Bearer { realm: realm?, service, scope })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_taken_apart() {
        let text =
            r#"Bearer realm="https://auth.e.com/token",service="e.com",scope="repository:a/b:pull,push""#;
        let expected = Challenge::Bearer {
            realm: "https://auth.e.com/token".into(),
            service: Some("e.com".into()),
            scope: Some("repository:a/b:pull,push".into()),
        };
        assert_eq!(parse(text), Some(expected));
        assert_eq!(parse("Basic realm=\"x\""), Some(Challenge::Basic));
        assert_eq!(parse("Negotiate"), None);
        assert_eq!(parse("Bearer service=x"), None);
    }

    #[test]
    fn dockers_file_is_searched_by_every_name_of_a_registry() {
        let config: DockerConfig = serde_json::from_str(
            r#"{"auths": {
                "https://index.docker.io/v1/": {"auth": "dTpw"},
                "ghcr.io": {"username": "u", "password": "p"},
                "broken.io": {"auth": "!"},
                "token.io:5000": {"registrytoken": "t"}}}"#,
        )
        .unwrap();
        let found = |registry: &str| find(&config, registry, Path::new("config.json"));
        for registry in ["docker.io", "ghcr.io"] {
            let Some(Authorization::Basic { user, password }) = found(registry).unwrap() else { panic!() };
            assert_eq!((user.as_str(), password.reveal()), ("u", "p"));
        }
        assert!(matches!(found("token.io:5000").unwrap(), Some(Authorization::Bearer(_))));
        assert!(found("other.io").unwrap().is_none());
        assert!(found("broken.io").unwrap_err().to_string().contains("broken.io"));
    }
}
