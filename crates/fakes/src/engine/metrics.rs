//! `/metrics` in the words of three engines. Pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use super::config::{Dialect, EngineConfig};

/// Upper bounds in seconds.
const BUCKETS: [f64; 9] = [0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 20.0];

/// What an engine counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Meter {
    pub(crate) prompt_tokens: u64,
    pub(crate) cached_tokens: u64,
    pub(crate) generated_tokens: u64,
    /// By reason: `stop`, `length`, `abort`.
    pub(crate) finished: BTreeMap<&'static str, u64>,
    pub(crate) first_token: Histogram,
    pub(crate) whole: Histogram,
    /// Tokens of running requests.
    pub(crate) held_tokens: usize,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Histogram {
    counts: [u64; BUCKETS.len()],
    count: u64,
    sum: f64,
}

impl Histogram {
    pub(crate) fn record(&mut self, time: Duration) {
        let seconds = time.as_secs_f64();
        self.sum += seconds;
        self.count += 1;
        for (count, bound) in self.counts.iter_mut().zip(BUCKETS) {
            *count += u64::from(seconds <= bound);
        }
    }
}

/// Load at the time of a scrape.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) running: usize,
    pub(crate) waiting: usize,
    /// 0 to 1.
    pub(crate) kv: f64,
}

/// The text of `/metrics`.
pub(crate) fn render(config: &EngineConfig, meter: &Meter, load: Load) -> String {
    let mut page = Page { text: String::new(), model: &config.model };
    match config.dialect {
        Dialect::Vllm => vllm(&mut page, config, meter, load),
        Dialect::Sglang => sglang(&mut page, config, meter, load),
        Dialect::Llamacpp => llamacpp(&mut page, meter, load),
    }
    page.text
}

fn vllm(page: &mut Page<'_>, config: &EngineConfig, meter: &Meter, load: Load) {
    page.gauge("vllm:num_requests_running", load.running as f64);
    page.gauge("vllm:num_requests_waiting", load.waiting as f64);
    page.gauge("vllm:kv_cache_usage_perc", load.kv);
    let shape = format!(",block_size=\"{}\",num_gpu_blocks=\"{}\"", config.block_tokens, config.blocks);
    page.line("vllm:cache_config_info", "gauge", &shape, 1.0);
    let adapters = config.adapters.join(",");
    let adapters = format!(
        ",max_lora=\"{}\",running_lora_adapters=\"{adapters}\",waiting_lora_adapters=\"\"",
        config.adapters.len()
    );
    page.line("vllm:lora_requests_info", "gauge", &adapters, 1.0);
    page.counter("vllm:prompt_tokens_total", meter.prompt_tokens);
    page.counter("vllm:generation_tokens_total", meter.generated_tokens);
    page.counter("vllm:prefix_cache_queries_total", meter.prompt_tokens);
    page.counter("vllm:prefix_cache_hits_total", meter.cached_tokens);
    page.kind("vllm:request_success_total", "counter");
    for (reason, count) in &meter.finished {
        let reason = format!(",finished_reason=\"{reason}\"");
        page.sample("vllm:request_success_total", &reason, *count as f64);
    }
    page.histogram("vllm:time_to_first_token_seconds", &meter.first_token);
    page.histogram("vllm:e2e_request_latency_seconds", &meter.whole);
}

fn sglang(page: &mut Page<'_>, config: &EngineConfig, meter: &Meter, load: Load) {
    page.gauge("sglang:num_running_reqs", load.running as f64);
    page.gauge("sglang:num_queue_reqs", load.waiting as f64);
    page.gauge("sglang:token_usage", load.kv);
    page.gauge("sglang:num_used_tokens", meter.held_tokens as f64);
    let shape = format!(",page_size=\"{}\",num_pages=\"{}\"", config.block_tokens, config.blocks);
    page.line("sglang:cache_config_info", "gauge", &shape, 1.0);
    let rate = meter.cached_tokens as f64 / (meter.prompt_tokens as f64).max(1.0);
    page.gauge("sglang:cache_hit_rate", rate);
    page.counter("sglang:prompt_tokens_total", meter.prompt_tokens);
    page.counter("sglang:generation_tokens_total", meter.generated_tokens);
    page.histogram("sglang:time_to_first_token_seconds", &meter.first_token);
    page.histogram("sglang:e2e_request_latency_seconds", &meter.whole);
}

fn llamacpp(page: &mut Page<'_>, meter: &Meter, load: Load) {
    page.model = "";
    page.gauge("llamacpp:requests_processing", load.running as f64);
    page.gauge("llamacpp:requests_deferred", load.waiting as f64);
    page.counter("llamacpp:prompt_tokens_total", meter.prompt_tokens);
    page.counter("llamacpp:tokens_predicted_total", meter.generated_tokens);
}

struct Page<'a> {
    text: String,
    model: &'a str,
}

impl Page<'_> {
    fn gauge(&mut self, name: &str, value: f64) {
        self.line(name, "gauge", "", value);
    }

    fn counter(&mut self, name: &str, value: u64) {
        self.line(name, "counter", "", value as f64);
    }

    fn line(&mut self, name: &str, kind: &str, labels: &str, value: f64) {
        self.kind(name, kind);
        self.sample(name, labels, value);
    }

    fn histogram(&mut self, name: &str, histogram: &Histogram) {
        self.kind(name, "histogram");
        let bucket = format!("{name}_bucket");
        for (bound, count) in BUCKETS.iter().zip(histogram.counts) {
            self.sample(&bucket, &format!(",le=\"{bound}\""), count as f64);
        }
        self.sample(&bucket, ",le=\"+Inf\"", histogram.count as f64);
        self.sample(&format!("{name}_sum"), "", histogram.sum);
        self.sample(&format!("{name}_count"), "", histogram.count as f64);
    }

    fn kind(&mut self, name: &str, kind: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "# TYPE {name} {kind}");
    }

    /// `labels` start with a comma each.
    fn sample(&mut self, name: &str, labels: &str, value: f64) {
        let model = self.model;
        let _ = if model.is_empty() {
            writeln!(self.text, "{name} {value}")
        } else {
            writeln!(self.text, "{name}{{model_name=\"{model}\"{labels}}} {value}")
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(dialect: Dialect) -> String {
        let config = EngineConfig { dialect, ..EngineConfig::default() };
        render(&config, &Meter::default(), Load { running: 2, waiting: 3, kv: 0.5 })
    }

    #[test]
    fn each_dialect_names_its_queue() {
        assert!(page(Dialect::Vllm).contains("\nvllm:num_requests_waiting{model_name=\"fake-model\"} 3\n"));
        assert!(page(Dialect::Vllm).contains("\nvllm:kv_cache_usage_perc{model_name=\"fake-model\"} 0.5\n"));
        assert!(page(Dialect::Sglang).contains("\nsglang:num_queue_reqs{model_name=\"fake-model\"} 3\n"));
        assert!(page(Dialect::Llamacpp).contains("\nllamacpp:requests_deferred 3\n"));
    }

    #[test]
    fn buckets_add_up() {
        let mut histogram = Histogram::default();
        histogram.record(Duration::from_millis(20));
        histogram.record(Duration::from_secs(60));
        assert_eq!((histogram.counts[1], histogram.counts[2], histogram.count), (0, 1, 2));
    }
}
