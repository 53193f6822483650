//! What engines say in their metrics of their load and of their answers, whichever of the known engines it is.
//!
//! A new engine is a row in `DIALECTS`.

mod answers;

pub use answers::{Answers, answers};

use crate::exposition::{Sample, samples};

/// What an engine has to do.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EngineLoad {
    /// Requests that it computes.
    pub running: u32,
    /// Requests that wait in it.
    pub waiting: u32,
    /// Share of its KV cache in use, 0 to 1.
    pub kv_cache: f64,
    /// Tokens that its KV cache holds.
    pub kv_tokens: Option<u64>,
    /// Requests that have ended since it started.
    pub finished: Option<f64>,
    /// Adapters that it has loaded.
    pub adapters: Vec<String>,
}

/// An engine, as its metrics tell of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Engine {
    /// What it has to do.
    pub load: EngineLoad,
    /// The model that it serves, if it says so and serves one.
    pub model: Option<String>,
    /// Share of its KV cache in use, 0 to 1, if it says so; [`EngineLoad::kv_cache`] is 0 otherwise.
    pub kv_cache: Option<f64>,
}

/// What an engine calls what we look for.
struct Dialect {
    running: &'static str,
    waiting: &'static str,
    /// Share of the KV cache in use, under its newer and older names.
    kv_cache: &'static [&'static str],
    /// The metric whose labels tell the KV cache's size, and these labels: tokens of a block, blocks.
    kv_size: Option<(&'static str, &'static str, &'static str)>,
    /// Counts requests that have ended.
    finished: Option<&'static str>,
    /// The metric whose label lists loaded adapters.
    adapters: Option<(&'static str, &'static str)>,
    /// Counts tokens of answers.
    tokens: Option<&'static str>,
    /// Histogram of seconds to the first token.
    first_token: Option<&'static str>,
}

/// vLLM's names, which Wharf's own server has too; SGLang's; llama.cpp's; TensorRT-LLM's.
static DIALECTS: [Dialect; 4] = [
    Dialect {
        running: "vllm:num_requests_running",
        waiting: "vllm:num_requests_waiting",
        kv_cache: &["vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"],
        kv_size: Some(("vllm:cache_config_info", "block_size", "num_gpu_blocks")),
        finished: Some("vllm:request_success_total"),
        adapters: Some(("vllm:lora_requests_info", "running_lora_adapters")),
        tokens: Some("vllm:generation_tokens_total"),
        first_token: Some("vllm:time_to_first_token_seconds"),
    },
    Dialect {
        running: "sglang:num_running_reqs",
        waiting: "sglang:num_queue_reqs",
        kv_cache: &["sglang:token_usage"],
        kv_size: Some(("sglang:cache_config_info", "page_size", "num_pages")),
        finished: Some("sglang:num_requests_total"),
        adapters: None,
        tokens: Some("sglang:generation_tokens_total"),
        first_token: Some("sglang:time_to_first_token_seconds"),
    },
    Dialect {
        running: "llamacpp:requests_processing",
        waiting: "llamacpp:requests_deferred",
        kv_cache: &["llamacpp:kv_cache_usage_ratio"],
        kv_size: None,
        finished: None,
        adapters: None,
        tokens: Some("llamacpp:tokens_predicted_total"),
        first_token: None,
    },
    Dialect {
        running: "trtllm_num_requests_running",
        waiting: "trtllm_num_requests_waiting",
        kv_cache: &["trtllm_kv_cache_utilization"],
        kv_size: None,
        finished: Some("trtllm_request_success_total"),
        adapters: None,
        tokens: None,
        first_token: None,
    },
];

/// The label of a model's name. Engines that do not have it serve one model, and do not say which.
const MODEL: &str = "model_name";

/// The load in Prometheus' text format; none if it is no engine's that we know.
pub fn load(text: &str) -> Option<EngineLoad> {
    engine(text).map(|engine| engine.load)
}

/// What metrics in Prometheus' text format tell of an engine; none if it is none that we know.
pub fn engine(text: &str) -> Option<Engine> {
    let samples: Vec<Sample<'_>> = samples(text).collect();
    let dialect = dialect(&samples)?;
    // Several models or ranks of one server: requests add up, the fullest cache is the one that hurts.
    let sum = |name: &str| -> u32 {
        let total: f64 = samples.iter().filter(|sample| sample.name == name).map(|sample| sample.value).sum();
        if total.is_finite() { total.max(0.0) as u32 } else { 0 }
    };
    let kv_cache = dialect.kv_cache.iter().find_map(|name| {
        let used = samples.iter().filter(|sample| sample.name == *name).map(|sample| sample.value);
        used.filter(|value| value.is_finite()).reduce(f64::max)
    });
    let mut models: Vec<String> = samples
        .iter()
        .filter(|sample| sample.name == dialect.running)
        .filter_map(|sample| sample.labels().remove(MODEL))
        .collect();
    models.sort_unstable();
    models.dedup();
    let kv_tokens = dialect.kv_size.and_then(|(name, block, blocks)| {
        let labels = samples.iter().find(|sample| sample.name == name)?.labels();
        let number = |label: &str| labels.get(label)?.parse::<u64>().ok();
        number(block)?.checked_mul(number(blocks)?)
    });
    let adapters = dialect.adapters.and_then(|(name, label)| {
        // The sample's value is the time of its last change: the latest holds.
        let latest =
            samples.iter().filter(|sample| sample.name == name).max_by(|a, b| a.value.total_cmp(&b.value))?;
        let list = latest.labels().get(label)?.clone();
        Some(list.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect())
    });
    let finished = dialect.finished.map(|name| total(&samples, |sample| sample.name == name));
    let load = EngineLoad {
        running: sum(dialect.running),
        waiting: sum(dialect.waiting),
        kv_cache: kv_cache.unwrap_or(0.0),
        kv_tokens,
        finished,
        adapters: adapters.unwrap_or_default(),
    };
    let model = if models.len() == 1 { models.pop() } else { None };
    Some(Engine { load, model: model.filter(|name| !name.is_empty()), kv_cache })
}

/// Whose metrics they are.
fn dialect(samples: &[Sample<'_>]) -> Option<&'static Dialect> {
    DIALECTS.iter().find(|dialect| samples.iter().any(|sample| sample.name == dialect.running))
}

/// The sum of those samples.
fn total(samples: &[Sample<'_>], counts: impl Fn(&Sample<'_>) -> bool) -> f64 {
    let values = samples.iter().filter(|sample| counts(sample)).map(|sample| sample.value);
    // Not `sum`: that of nothing is -0.
    values.filter(|value| value.is_finite()).fold(0.0, |all, value| all + value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_engine_that_it_knows() {
        let vllm = "# HELP x\nvllm:num_requests_running{model_name=\"m\",engine=\"0\"} 3.0\n\
                    vllm:num_requests_running{model_name=\"m\",engine=\"1\"} 2\nvllm:num_requests_waiting{model_name=\"m\"} 4\n\
                    vllm:request_success_total{finished_reason=\"stop\"} 7\nvllm:request_success_total{finished_reason=\"length\"} 2\n\
                    vllm:kv_cache_usage_perc{engine=\"0\"} 0.25\nvllm:kv_cache_usage_perc{engine=\"1\"} 0.5\n\
                    vllm:cache_config_info{block_size=\"16\",num_gpu_blocks=\"100\",x=\"a\\\"b,c=\"} 1.0\n\
                    vllm:lora_requests_info{running_lora_adapters=\"old\"} 1.0\n\
                    vllm:lora_requests_info{running_lora_adapters=\"sql, chat\"} 2.0\n";
        let adapters = vec!["sql".to_owned(), "chat".to_owned()];
        let wanted = EngineLoad {
            running: 5,
            waiting: 4,
            kv_cache: 0.5,
            kv_tokens: Some(1600),
            finished: Some(9.0),
            adapters,
        };
        assert_eq!(load(vllm), Some(wanted));

        let sglang =
            "sglang:num_running_reqs{a=\"b\"} 1\nsglang:num_queue_reqs 7 1700000\nsglang:token_usage 0.9\n";
        let wanted = EngineLoad {
            running: 1,
            waiting: 7,
            kv_cache: 0.9,
            finished: Some(0.0),
            ..EngineLoad::default()
        };
        assert_eq!(load(sglang), Some(wanted));

        let llamacpp = "llamacpp:requests_processing 2\nllamacpp:requests_deferred 1\n";
        assert_eq!(load(llamacpp), Some(EngineLoad { running: 2, waiting: 1, ..EngineLoad::default() }));
        assert_eq!(load("up 1\n"), None);
    }

    #[test]
    fn the_model_is_told_where_it_is_one_and_the_cache_where_the_engine_tells_it() {
        let of = |text: &str| engine(text).map(|engine| (engine.model, engine.kv_cache)).unwrap();
        let ranks = "vllm:num_requests_running{model_name=\"m\",engine=\"0\"} 3\n\
                     vllm:num_requests_running{model_name=\"m\",engine=\"1\"} 2\nvllm:kv_cache_usage_perc 0.5\n";
        assert_eq!(of(ranks), (Some("m".to_owned()), Some(0.5)));
        let two =
            "vllm:num_requests_running{model_name=\"a\"} 3\nvllm:num_requests_running{model_name=\"b\"} 2\n";
        assert_eq!(of(two), (None, None));
        assert_eq!(of("llamacpp:requests_processing 2\n"), (None, None));
    }

    #[test]
    fn nonsense_is_no_load() {
        let nothing = EngineLoad { finished: Some(0.0), ..EngineLoad::default() };
        assert_eq!(load("vllm:num_requests_running NaN\n"), Some(nothing));
        assert_eq!(load("vllm:num_requests_running{ 1\n}{\n"), None);
    }
}
