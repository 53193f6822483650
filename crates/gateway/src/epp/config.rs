//! How an endpoint picker runs: one file, every field with a default.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use wharf_routing::Policy;

use crate::config::{
    ConfigError, EndpointConfig, GatewayConfig, Polling, ServiceConfig, Timeouts, read_yaml,
};

/// How an endpoint picker runs and what it picks from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct EppConfig {
    /// Address to listen on.
    pub host: String,
    /// Port of the ext-proc service; InferencePools name it as `endpointPickerRef.port`.
    pub port: u16,
    /// Port of the gRPC health service alone, in plain text.
    pub health_port: u16,
    /// Port of metrics and the demand stream.
    pub metrics_port: u16,
    /// How the ext-proc port is encrypted.
    pub tls: EppTls,
    /// The picker's name among its replicas.
    pub name: String,
    /// The pool, as `namespace/name`.
    pub pool: String,
    /// Its model servers.
    pub endpoints: Vec<EndpointConfig>,
    /// Names of adapters; those that endpoints have loaded are known besides.
    pub adapters: Vec<String>,
    /// Endpoints that are named beside the picked one, for the proxy to fall back on.
    pub alternatives: usize,
    /// A request is refused with 429 when at every endpoint more than this many wait. Never if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shed_above: Option<u32>,
    /// Largest body of a request, in bytes.
    pub max_body_bytes: usize,
    /// Until running requests are cut when the picker stops, in seconds.
    pub drain: f64,
    /// How endpoints are picked.
    pub routing: Policy,
    /// How endpoints are looked after.
    pub polling: Polling,
}

impl Default for EppConfig {
    fn default() -> Self {
        EppConfig {
            host: "127.0.0.1".to_owned(),
            port: 9002,
            health_port: 9003,
            metrics_port: 8002,
            tls: EppTls::default(),
            name: "local".to_owned(),
            pool: "pool".to_owned(),
            endpoints: Vec::new(),
            adapters: Vec::new(),
            alternatives: 2,
            shed_above: None,
            max_body_bytes: 32 << 20,
            drain: 120.0,
            routing: Policy::default(),
            polling: Polling::default(),
        }
    }
}

/// How the ext-proc port is encrypted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum EppTls {
    /// With a certificate that is made at the start: whoever listens in sees nothing, and nobody checks whom they talk to.
    #[default]
    SelfSigned,
    /// With this certificate; read again when it changes.
    Files {
        /// Certificate in PEM.
        cert: PathBuf,
        /// Its key in PEM.
        key: PathBuf,
    },
    /// Not at all.
    Plaintext,
}

impl EppConfig {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn read(path: &Path) -> Result<EppConfig, ConfigError> {
        let config: EppConfig = read_yaml(path)?;
        config.check()?;
        Ok(config)
    }

    /// Whether it can be used.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`].
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.pool.is_empty() {
            return Err(ConfigError::Invalid("the pool has no name".to_owned()));
        }
        self.gateway().check()
    }

    /// The same for what pickers share with gateways.
    pub(crate) fn gateway(&self) -> GatewayConfig {
        let service = ServiceConfig {
            name: self.pool.clone(),
            endpoints: self.endpoints.clone(),
            adapters: self.adapters.clone(),
            ..ServiceConfig::default()
        };
        GatewayConfig {
            host: self.host.clone(),
            port: self.port,
            metrics_port: self.metrics_port,
            name: self.name.clone(),
            max_body_bytes: self.max_body_bytes,
            timeouts: Timeouts { drain: self.drain, ..Timeouts::default() },
            routing: self.routing.clone(),
            polling: self.polling.clone(),
            services: vec![service],
            ..GatewayConfig::default()
        }
    }
}
