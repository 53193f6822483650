//! Everything that the environment and the command line say about fetching, read once into types.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::{NoProxy, Proxy, Url};

use crate::error::FetchError;
use crate::policy::Policy;
use crate::retry::Retry;
use crate::secret::Secret;

/// Names and values as the process has them, handed in.
pub type Env = BTreeMap<String, String>;

const HUB: &str = "https://huggingface.co";

/// How to fetch. [`Settings::from_env`] reads the variables; flags are set on top.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Whom we talk to.
    pub policy: Policy,
    /// Most bytes of all files together; none if it is not set.
    pub max_bytes: Option<u64>,
    /// Requests at a time.
    pub connections: usize,
    /// Bytes of one request. Large files are cut into as many as it takes.
    pub chunk: u64,
    /// How failures are tried again.
    pub retry: Retry,
    /// For a connection to be there.
    pub connect_timeout: Duration,
    /// For the next byte to come.
    pub idle_timeout: Duration,
    /// A token for the source that is fetched, before any that the environment has.
    pub token: Option<Secret>,
    /// Where PersistentVolumeClaims are mounted.
    pub volumes: BTreeMap<String, PathBuf>,
    /// Where the Hub is: itself, or a mirror (`HF_ENDPOINT`).
    pub(crate) hub: Url,
    pub(crate) hub_token: Option<Secret>,
    pub(crate) proxies: Proxies,
    /// Certificates in PEM form, each with what named it.
    pub(crate) certificates: Vec<(String, Vec<u8>)>,
    /// Folders in which a `config.json` of Docker may be.
    pub(crate) docker: Vec<PathBuf>,
    /// `AWS_*` and `GOOGLE_*`.
    pub(crate) clouds: Env,
}

impl Settings {
    /// What the environment says; everything else as it is by default.
    pub fn from_env(env: &Env) -> Result<Settings, FetchError> {
        let set = |name: &str| env.get(name).map(|value| value.trim()).filter(|value| !value.is_empty());
        let hub = set("HF_ENDPOINT").unwrap_or(HUB);
        let mut settings = Settings {
            policy: Policy::default(),
            max_bytes: None,
            connections: 8,
            chunk: 32 << 20,
            retry: Retry::default(),
            connect_timeout: Duration::from_secs(15),
            idle_timeout: Duration::from_secs(60),
            token: None,
            volumes: BTreeMap::new(),
            hub: web_address("HF_ENDPOINT", hub)?,
            hub_token: hub_token(env)?,
            proxies: Proxies::from_env(env)?,
            certificates: Vec::new(),
            docker: set("DOCKER_CONFIG")
                .map(PathBuf::from)
                .into_iter()
                .chain(set("HOME").map(|home| Path::new(home).join(".docker")))
                .collect(),
            clouds: env
                .iter()
                .filter(|(name, _)| ["AWS_", "GOOGLE_"].iter().any(|prefix| name.starts_with(prefix)))
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
        };
        if let Some(path) = set("SSL_CERT_FILE") {
            settings.add_certificates("SSL_CERT_FILE", Path::new(path))?;
        }
        Ok(settings)
    }

    /// Trusts the certificates of a file too; `what` named it.
    pub fn add_certificates(&mut self, what: &str, path: &Path) -> Result<(), FetchError> {
        let pem = read(what, path)?;
        self.certificates.push((format!("{what} {}", path.display()), pem));
        Ok(())
    }

    /// Reads the token of the source from a file, such as a mounted Secret.
    pub fn read_token(&mut self, path: &Path) -> Result<(), FetchError> {
        let bytes = read("--token-file", path)?;
        let what = || format!("--token-file {}", path.display());
        let text = String::from_utf8(bytes)
            .map_err(|_| FetchError::Setting { what: what(), why: "it is not text".to_owned() })?;
        let token = Secret::new(&text);
        if token.reveal().is_empty() || token.reveal().contains(char::is_whitespace) {
            let why = "expected one token and nothing else".to_owned();
            return Err(FetchError::Setting { what: what(), why });
        }
        self.token = Some(token);
        Ok(())
    }
}

fn read(what: &str, path: &Path) -> Result<Vec<u8>, FetchError> {
    std::fs::read(path).map_err(|error| FetchError::Setting {
        what: format!("{what} {}", path.display()),
        why: error.to_string(),
    })
}

/// `HF_TOKEN`, the older name, or the file that the Hub's own tools keep it in.
fn hub_token(env: &Env) -> Result<Option<Secret>, FetchError> {
    let set = |name: &str| env.get(name).map(|value| value.trim()).filter(|value| !value.is_empty());
    if let Some(token) = set("HF_TOKEN").or_else(|| set("HUGGING_FACE_HUB_TOKEN")) {
        return Ok(Some(Secret::new(token)));
    }
    let path = match (set("HF_TOKEN_PATH"), set("HF_HOME"), set("HOME")) {
        (Some(path), _, _) => PathBuf::from(path),
        (None, Some(home), _) => Path::new(home).join("token"),
        (None, None, Some(home)) => Path::new(home).join(".cache/huggingface/token"),
        (None, None, None) => return Ok(None),
    };
    // Most people have none; only a file that was named must be there.
    match std::fs::read_to_string(&path) {
        Ok(token) => Ok(Some(Secret::new(&token)).filter(|token| !token.reveal().is_empty())),
        Err(error) if set("HF_TOKEN_PATH").is_some() => Err(FetchError::Setting {
            what: format!("HF_TOKEN_PATH {}", path.display()),
            why: error.to_string(),
        }),
        Err(_) => Ok(None),
    }
}

/// An `http` or `https` address from the environment. What is wrong with it is said without it: it may hold a password.
pub(crate) fn web_address(name: &str, text: &str) -> Result<Url, FetchError> {
    let wrong = |why: &str| FetchError::Setting { what: name.to_owned(), why: why.to_owned() };
    let url: Url = text.parse().map_err(|_| wrong("it is no URL such as https://hub.example.com"))?;
    match matches!(url.scheme(), "http" | "https") && url.host_str().is_some() {
        true => Ok(url),
        false => Err(wrong("it should begin with https:// or http://")),
    }
}

/// `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`, in capitals or not.
#[derive(Clone, Debug, Default)]
pub(crate) struct Proxies {
    https: Option<Url>,
    http: Option<Url>,
    except: String,
}

impl Proxies {
    fn from_env(env: &Env) -> Result<Proxies, FetchError> {
        let set = |name: &str| {
            let value = env.get(name).or_else(|| env.get(&name.to_ascii_lowercase()));
            value.map(|value| value.trim()).filter(|value| !value.is_empty())
        };
        let address = |names: [&'static str; 2]| {
            let found = names.into_iter().find_map(|name| Some((name, set(name)?)));
            let Some((name, text)) = found else { return Ok(None) };
            let text = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
            web_address(name, &text).map(Some)
        };
        Ok(Proxies {
            https: address(["HTTPS_PROXY", "ALL_PROXY"])?,
            http: address(["HTTP_PROXY", "ALL_PROXY"])?,
            except: set("NO_PROXY").unwrap_or_default().to_owned(),
        })
    }

    pub(crate) fn build(&self) -> reqwest::Result<Vec<Proxy>> {
        let except = || NoProxy::from_string(&self.except);
        let https = self.https.clone().map(Proxy::https).transpose()?;
        let http = self.http.clone().map(Proxy::http).transpose()?;
        Ok([https, http].into_iter().flatten().map(|proxy| proxy.no_proxy(except())).collect())
    }

    /// Names of the proxies themselves.
    pub(crate) fn hosts(&self) -> BTreeSet<String> {
        let urls = [&self.https, &self.http].into_iter().flatten();
        urls.filter_map(|url| url.host_str()).map(str::to_ascii_lowercase).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(pairs: &[(&str, &str)]) -> Result<Settings, FetchError> {
        let env = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Settings::from_env(&env)
    }

    #[test]
    fn an_empty_environment_means_the_hub_and_no_proxy() {
        let settings = from(&[]).unwrap();
        assert_eq!(settings.hub.as_str(), "https://huggingface.co/");
        assert!(settings.hub_token.is_none() && settings.proxies.hosts().is_empty());
    }

    #[test]
    fn the_hubs_token_is_found_in_variables_and_files() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("token"), "hf_file\n").unwrap();
        let home = folder.path().to_str().unwrap();
        let token = |pairs: &[(&str, &str)]| from(pairs).unwrap().hub_token.map(|t| t.reveal().to_owned());
        assert_eq!(token(&[("HF_TOKEN", "hf_a"), ("HF_HOME", home)]).as_deref(), Some("hf_a"));
        assert_eq!(token(&[("HF_HOME", home)]).as_deref(), Some("hf_file"));
        assert_eq!(token(&[("HOME", home)]), None);
        assert!(from(&[("HF_TOKEN_PATH", "/nowhere/token")]).unwrap_err().is_bad_input());
    }

    #[test]
    fn proxies_are_read_in_capitals_or_not_and_their_passwords_are_not_shown() {
        let settings =
            from(&[("https_proxy", "proxy.corp:3128"), ("HTTP_PROXY", "http://u:p@other:1")]).unwrap();
        let hosts: Vec<_> = settings.proxies.hosts().into_iter().collect();
        assert_eq!(hosts, ["other", "proxy.corp"]);
        let error = from(&[("HTTPS_PROXY", "ftp://u:hunter2@x")]).unwrap_err().to_string();
        assert!(error.contains("HTTPS_PROXY") && !error.contains("hunter2"), "{error}");
    }

    #[test]
    fn a_token_file_holds_one_token() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let mut settings = from(&[]).unwrap();
        std::fs::write(&path, "abc\n").unwrap();
        settings.read_token(&path).unwrap();
        assert_eq!(settings.token.as_ref().unwrap().reveal(), "abc");
        for wrong in ["", "a b", "a\nb"] {
            std::fs::write(&path, wrong).unwrap();
            assert!(settings.read_token(&path).unwrap_err().is_bad_input());
        }
    }
}
