//! The gateway's configuration: one file, every field with a default.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use wharf_access::Limits;
use wharf_access::token::{IssuerConfig, check_issuers};
use wharf_routing::{Endpoint, Policy, Share};
use wharf_spec::service::Limits as WrittenLimits;

/// How a gateway runs and what it serves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct GatewayConfig {
    /// Address to listen on.
    pub host: String,
    /// Port of the API over HTTP.
    pub port: u16,
    /// Port of the API over HTTPS, with a certificate.
    pub https_port: u16,
    /// Port of metrics, health and the demand stream.
    pub metrics_port: u16,
    /// Certificate in PEM; read again when it changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_cert: Option<PathBuf>,
    /// Its key in PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_key: Option<PathBuf>,
    /// Threads that serve connections; as many as there are cores if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
    /// The gateway's name among its replicas.
    pub name: String,
    /// API keys: a file or a mounted Secret. Everybody may call if neither this nor `issuers` nor a service's own is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_keys: Option<PathBuf>,
    /// Issuers whose signed tokens are accepted beside the gateway's keys. A service with keys of its own accepts those alone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub issuers: Vec<IssuerConfig>,
    /// Key that the gateway shows to endpoints, in place of the caller's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint_key_file: Option<PathBuf>,
    /// One JSON line for each request is appended here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage_log: Option<PathBuf>,
    /// The page at `/console/`, on the port of the API.
    pub console: bool,
    /// A Prometheus that the console asks for what was longer than a quarter of an hour ago.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prometheus: Option<String>,
    /// Connections of clients at the same time.
    pub max_connections: usize,
    /// Largest body of a request, in bytes.
    pub max_body_bytes: usize,
    /// Bytes of a body that are kept, so that the request can be tried again. A larger body passes while it arrives, once its model is known.
    pub body_buffer_bytes: usize,
    /// How long things may take.
    pub timeouts: Timeouts,
    /// Endpoints that a request is tried at, before the first byte of an answer.
    pub attempts: u32,
    /// Statuses of endpoints that send a request elsewhere.
    pub retry_statuses: Vec<u16>,
    /// What waits when no endpoint can take it.
    pub hold: Hold,
    /// The other gateways, with which limits are kept together; each keeps them by itself if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peers: Option<PeersConfig>,
    /// How endpoints are picked, unless a service says otherwise.
    pub routing: Policy,
    /// How endpoints are looked after.
    pub polling: Polling,
    /// Services that are listed here rather than discovered.
    pub services: Vec<ServiceConfig>,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        GatewayConfig {
            host: "127.0.0.1".to_owned(),
            port: 8000,
            https_port: 8443,
            metrics_port: 8002,
            tls_cert: None,
            tls_key: None,
            threads: None,
            name: "local".to_owned(),
            api_keys: None,
            issuers: Vec::new(),
            endpoint_key_file: None,
            usage_log: None,
            console: true,
            prometheus: None,
            max_connections: 16_384,
            max_body_bytes: 32 << 20,
            body_buffer_bytes: 4 << 20,
            timeouts: Timeouts::default(),
            attempts: 3,
            retry_statuses: vec![429, 502, 503, 504],
            hold: Hold::default(),
            peers: None,
            routing: Policy::default(),
            polling: Polling::default(),
            services: Vec::new(),
        }
    }
}

/// How long things may take, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Timeouts {
    /// A client's TLS and headers.
    pub header: f64,
    /// A client's body. Time in which an endpoint does not take what is there is not counted.
    pub body: f64,
    /// Connecting to an endpoint.
    pub connect: f64,
    /// Until an endpoint begins to answer a request that streams.
    pub first_byte: f64,
    /// Until an endpoint begins to answer any other: its whole answer is computed before.
    pub answer: f64,
    /// Between two pieces of an answer, or of a body that an endpoint takes while it arrives.
    pub idle: f64,
    /// Until running requests are cut when the gateway stops.
    pub drain: f64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            header: 30.0,
            body: 60.0,
            connect: 1.0,
            first_byte: 300.0,
            answer: 1800.0,
            idle: 120.0,
            drain: 120.0,
        }
    }
}

/// What waits when no endpoint can take it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Hold {
    /// Requests that may wait at each service; one more is refused with 429.
    pub queue: usize,
    /// How long a request waits before it is refused with 503, in seconds.
    pub deadline: f64,
    /// Every so many seconds a waiting stream gets a comment, so that nobody in between takes it for dead; never if 0.
    pub progress: f64,
}

impl Default for Hold {
    fn default() -> Self {
        Hold { queue: 1000, deadline: 120.0, progress: 0.0 }
    }
}

/// Gateways that keep limits together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PeersConfig {
    /// Where their side ports are, as `host:port`. A name stands for all of its addresses, as a headless Service has one for each pod. The
    /// gateway may be among them.
    pub addresses: Vec<String>,
    /// File with the secret that proves who they are: at least 32 bytes, the same for all.
    pub key_file: PathBuf,
}

/// How endpoints are looked after.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Polling {
    /// Seconds between two looks at an endpoint's metrics.
    pub metrics: f64,
    /// Seconds between two health checks of an endpoint.
    pub health: f64,
    /// Seconds that either may take.
    pub timeout: f64,
    /// Path of the health check.
    pub health_path: String,
    /// Health checks in a row that must fail before an endpoint is left alone.
    pub unhealthy_after: u32,
}

impl Default for Polling {
    fn default() -> Self {
        Polling {
            metrics: 0.5,
            health: 1.0,
            timeout: 2.0,
            health_path: "/ready".to_owned(),
            unhealthy_after: 2,
        }
    }
}

/// A service: what it is called and who answers for it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceConfig {
    /// `namespace/name`, or a name alone.
    pub name: String,
    /// Names of its model in requests; the service's own name if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<String>,
    /// Names of adapters of the model.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub adapters: Vec<String>,
    /// Hosts under which requests mean this service, whatever model they name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    /// Its model servers.
    #[serde(default)]
    pub endpoints: Vec<EndpointConfig>,
    /// Shares of traffic by colour.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub traffic: Vec<Share>,
    /// How its endpoints are picked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routing: Option<Policy>,
    /// What waits when none of them can take a request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<Hold>,
    /// Its own API keys, in place of the gateway's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_keys: Option<PathBuf>,
    /// Limits of each key that has none of its own.
    #[serde(default)]
    pub limits_per_key: Limits,
    /// Limits of all keys together.
    #[serde(default)]
    pub limits: Limits,
}

/// A model server: `host:port`, or with the version it belongs to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum EndpointConfig {
    /// `host:port`.
    Address(String),
    /// All of it.
    Full(Endpoint),
}

impl EndpointConfig {
    pub(crate) fn endpoint(&self) -> Endpoint {
        match self {
            EndpointConfig::Address(address) => Endpoint::ready(address.clone(), ""),
            EndpointConfig::Full(endpoint) => endpoint.clone(),
        }
    }
}

impl ServiceConfig {
    /// A service of this name with these endpoints, and otherwise the defaults.
    pub fn new(
        name: impl Into<String>,
        endpoints: impl IntoIterator<Item = impl Into<String>>,
    ) -> ServiceConfig {
        ServiceConfig {
            name: name.into(),
            endpoints: endpoints.into_iter().map(|address| EndpointConfig::Address(address.into())).collect(),
            ..ServiceConfig::default()
        }
    }

    /// Its model servers, as routing knows them.
    pub(crate) fn endpoints(&self) -> Vec<Endpoint> {
        self.endpoints.iter().map(EndpointConfig::endpoint).collect()
    }

    /// The name without its namespace.
    pub(crate) fn short_name(&self) -> &str {
        self.name.rsplit('/').next().unwrap_or(&self.name)
    }

    /// Names of its model in requests, adapters not included.
    pub(crate) fn model_names(&self) -> Vec<&str> {
        match self.models.is_empty() {
            true => vec![self.short_name()],
            false => self.models.iter().map(String::as_str).collect(),
        }
    }
}

/// What an `LLMService` says of limits.
pub fn limits(written: &WrittenLimits) -> Limits {
    let WrittenLimits { requests_per_minute, tokens_per_minute, concurrent, tokens_per_day } = written;
    Limits {
        requests_per_minute: requests_per_minute.as_ref().map(|count| count.get()),
        tokens_per_minute: tokens_per_minute.as_ref().map(|count| count.get()),
        concurrent: concurrent.as_ref().map(|count| count.get()),
        tokens_per_day: tokens_per_day.as_ref().map(|count| count.get()),
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("failed to read the configuration {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not YAML of this shape.
    #[error("failed to understand the configuration {path}: {message}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and what.
        message: String,
    },
    /// It contradicts itself.
    #[error("the configuration cannot be used: {0}")]
    Invalid(String),
}

impl GatewayConfig {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn read(path: &Path) -> Result<GatewayConfig, ConfigError> {
        let config: GatewayConfig = read_yaml(path)?;
        config.check()?;
        Ok(config)
    }

    /// Whether it can be used.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`].
    pub fn check(&self) -> Result<(), ConfigError> {
        let invalid = |message: String| Err(ConfigError::Invalid(message));
        if self.tls_cert.is_some() != self.tls_key.is_some() {
            return invalid("tlsCert and tlsKey belong together; give both".to_owned());
        }
        check_issuers(&self.issuers).map_err(|error| ConfigError::Invalid(error.to_string()))?;
        if let Some(PeersConfig { addresses, key_file: _ }) = &self.peers {
            if addresses.is_empty() {
                return invalid("peers has no addresses".to_owned());
            }
            if let Some(address) = addresses.iter().find(|address| !has_port(address)) {
                return invalid(format!("{address:?} of peers is no address; write host:port"));
            }
        }
        let mut owners = std::collections::BTreeMap::new();
        for service in &self.services {
            if service.name.is_empty() {
                return invalid("a service has no name".to_owned());
            }
            for model in service.model_names().into_iter().chain(service.adapters.iter().map(String::as_str))
            {
                if let Some(other) = owners.insert(model.to_owned(), &service.name) {
                    return invalid(format!("{other} and {} both serve the model {model}", service.name));
                }
            }
            for endpoint in service.endpoints() {
                if !has_port(&endpoint.address) {
                    return invalid(format!(
                        "{:?} of {} is no address; write host:port",
                        endpoint.address, service.name
                    ));
                }
            }
        }
        Ok(())
    }
}

fn has_port(address: &str) -> bool {
    address.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

/// What a file says, unchecked.
pub(crate) fn read_yaml<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    serde_saphyr::from_str(&text)
        .map_err(|error| ConfigError::Parse { path: path.to_owned(), message: error.to_string() })
}

/// Seconds of the configuration as a time; what is no time is none.
pub(crate) fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<GatewayConfig, String> {
        let config: GatewayConfig = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
        config.check().map_err(|error| error.to_string())?;
        Ok(config)
    }

    #[test]
    fn a_short_file_is_enough() {
        let config = parse("services:\n- {name: demo/assistant, endpoints: ['127.0.0.1:9001']}").unwrap();
        assert_eq!(config.services[0].model_names(), ["assistant"]);
        assert_eq!(config.services[0].endpoints(), [Endpoint::ready("127.0.0.1:9001", "")]);
    }

    #[test]
    fn what_contradicts_itself_is_refused_in_words() {
        let refused = |text: &str| parse(text).unwrap_err();
        assert!(
            refused("services: [{name: a/x}, {name: b/x}]").contains("a/x and b/x both serve the model x")
        );
        assert!(refused("services: [{name: a, endpoints: [nowhere]}]").contains("write host:port"));
        let issuers = "issuers: [{issuer: 'http://issuer.example', audience: wharf}]";
        assert!(refused(issuers).contains("must begin with https://"));
        assert!(refused("peers: {addresses: [], keyFile: k}").contains("no addresses"));
        assert!(refused("peers: {addresses: [gateways], keyFile: k}").contains("write host:port"));
        assert!(refused("peers: {addresses: ['a:1']}").contains("keyFile"));
        assert!(refused("tlsCert: a.pem").contains("give both"));
        assert!(refused("prot: 1").contains("prot"));
    }
}
