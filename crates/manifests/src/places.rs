//! Where things are for the processes of a service: in pods as they are mounted, on one machine as its supervisor lays them out.

use crate::names;

/// Where the processes of a service find files, and where they listen.
#[derive(Clone, Debug, PartialEq)]
pub struct Places {
    /// Folder of fetched and made models.
    pub models: String,
    /// Folder in which each claim of others is a folder.
    pub volumes: String,
    /// Folder for what can be computed again.
    pub cache: String,
    /// Folder of the engine's configuration files.
    pub config: String,
    /// Folder of the certificate.
    pub tls: String,
    /// Address to listen on.
    pub host: String,
    /// Port of the HTTP API.
    pub http: u16,
    /// Port of metrics, of engines that have one of their own.
    pub metrics: u16,
}

impl Places {
    /// As they are in every pod.
    pub fn pod() -> Places {
        Places {
            models: "/models".to_owned(),
            volumes: "/volumes".to_owned(),
            cache: "/cache".to_owned(),
            config: "/etc/wharf".to_owned(),
            tls: "/etc/wharf-tls".to_owned(),
            host: "0.0.0.0".to_owned(),
            http: names::HTTP,
            metrics: names::METRICS,
        }
    }
}
