//! Reading an engine's load from its metrics.

use wharf_routing::Load;
use wharf_telemetry::engines::{self, EngineLoad};

/// Metrics larger than this are not an engine's.
const MAX_BYTES: usize = 4 << 20;

/// Reads the metrics; `None` if they are no engine's that we know.
pub(super) async fn read(client: &reqwest::Client, url: &str) -> Result<Option<Load>, reqwest::Error> {
    let mut response = client.get(url).send().await?.error_for_status()?;
    let mut text = Vec::new();
    while let Some(piece) = response.chunk().await? {
        text.extend_from_slice(&piece);
        if text.len() > MAX_BYTES {
            return Ok(None);
        }
    }
    Ok(engines::load(&String::from_utf8_lossy(&text)).map(load))
}

fn load(said: EngineLoad) -> Load {
    let EngineLoad { running, waiting, kv_cache, kv_tokens, finished: _, adapters } = said;
    Load { running, waiting, kv_cache, kv_tokens, adapters: adapters.into_iter().collect() }
}
