//! Reads the metrics of pods over plain HTTP.

use std::time::Duration;

use kube::api::DynamicObject;

use crate::Find;

/// How long a pod may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Metrics larger than this are nobody's that we know.
const MAX_BYTES: usize = 16 << 20;

/// Reads where `find` finds the ports of pods.
#[derive(Clone, Debug)]
pub struct MetricsReader {
    client: reqwest::Client,
    find: Find,
}

impl MetricsReader {
    /// A reader with connections of its own.
    ///
    /// # Errors
    /// When no client can be made.
    pub fn new(find: Find) -> Result<MetricsReader, reqwest::Error> {
        let client =
            reqwest::Client::builder().timeout(PATIENCE).pool_max_idle_per_host(1).no_proxy().build()?;
        Ok(MetricsReader { client, find })
    }

    /// Where a pod's metrics are: on a port of their own, or with everything else.
    pub fn address(&self, pod: &DynamicObject) -> Option<String> {
        (self.find)(pod, "metrics").or_else(|| (self.find)(pod, "http"))
    }

    /// The metrics at `host:port`. It takes two seconds at most.
    ///
    /// # Errors
    /// When nobody answers in time, or with another status than success.
    pub async fn read(&self, address: &str) -> Result<String, reqwest::Error> {
        let mut answer =
            self.client.get(format!("http://{address}/metrics")).send().await?.error_for_status()?;
        let mut text = Vec::new();
        while let Some(piece) = answer.chunk().await? {
            text.extend_from_slice(&piece);
            if text.len() > MAX_BYTES {
                break;
            }
        }
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}
