//! How the server behaves.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::scalar::{Duration, Quantity};

/// How the server behaves: lengths, batches, defaults of requests.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Server {
    /// Most tokens that prompt and answer may have together; the model's own limit if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_model_len: Option<u32>,
    /// Most requests computed at the same time; the engine's own default if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_num_seqs: Option<u32>,
    /// Most tokens computed in one step, over all requests; the engine's own default if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_num_batched_tokens: Option<u32>,
    /// Most requests that wait to be computed; more are refused with 429.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_waiting: Option<u32>,
    /// Most threads that parse requests and turn text into tokens at the same time.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4096))]
    pub max_workers: Option<u32>,
    /// The cache of keys and values.
    pub kv_cache: KvCache,
    /// What a request gets that does not say.
    pub defaults: RequestDefaults,
    /// Longest that an answer may take. A pod that is to go gets so long, and half a minute more, to finish what it began.
    pub longest_answer: Duration,
    /// Longest that loading may take. A pod that takes longer is started anew.
    pub longest_start: Duration,
}

impl Default for Server {
    fn default() -> Self {
        Server {
            max_model_len: None,
            max_num_seqs: None,
            max_num_batched_tokens: None,
            max_waiting: None,
            max_workers: None,
            kv_cache: KvCache::default(),
            defaults: RequestDefaults::default(),
            longest_answer: Duration::parse("10m").expect("a duration"),
            longest_start: Duration::parse("30m").expect("a duration"),
        }
    }
}

/// The cache of keys and values.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct KvCache {
    /// How keys and values are stored; the engine's own default if absent.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<KvCacheType>,
    /// Memory for it; sized from free memory if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<Quantity>,
}

/// How keys and values are stored.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KvCacheType {
    /// 16-bit floats.
    F16,
    /// 8-bit integers.
    Int8,
    /// 8-bit floats.
    Fp8,
}

/// What a request gets that does not say.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RequestDefaults {
    /// Most tokens to generate.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_tokens: Option<u32>,
    /// Temperature.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 100.0))]
    pub temperature: Option<f64>,
    /// Share of probability that tokens are taken from.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub top_p: Option<f64>,
    /// Frequency penalty.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = -2.0, max = 2.0))]
    pub frequency_penalty: Option<f64>,
    /// Presence penalty.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = -2.0, max = 2.0))]
    pub presence_penalty: Option<f64>,
}
