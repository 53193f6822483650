//! What requests and the engine leave in the metrics.

use std::time::Instant;

use wharf_engine::{Snapshot, Usage};
use wharf_telemetry::metrics::{Metrics, server as table};

use crate::state::App;

/// A token has come; `previous` is when the one before it came.
pub(crate) fn token(app: &App, arrived: Instant, previous: Option<Instant>, now: Instant) {
    let labels = [app.model_name.as_str()];
    match previous {
        None => app.metrics.observe(&table::TTFT_SECONDS, &labels, (now - arrived).as_secs_f64()),
        Some(previous) => {
            let seconds = (now - previous).as_secs_f64();
            app.metrics.observe(&table::INTER_TOKEN_SECONDS, &labels, seconds);
            app.metrics.observe(&table::TPOT_SECONDS, &labels, seconds);
        }
    }
}

/// A choice has ended.
pub(crate) fn finished(app: &App, reason: &str, usage: &Usage, arrived: Instant) {
    let labels = [app.model_name.as_str()];
    let m = &app.metrics;
    m.add(&table::REQUEST_SUCCESS, &[&app.model_name, reason], 1.0);
    m.observe(&table::E2E_SECONDS, &labels, arrived.elapsed().as_secs_f64());
    m.observe(&table::QUEUE_SECONDS, &labels, usage.queue_seconds);
    m.observe(&table::PREFILL_SECONDS, &labels, usage.prefill_seconds);
    m.observe(&table::DECODE_SECONDS, &labels, usage.decode_seconds);
    m.observe(&table::INFERENCE_SECONDS, &labels, usage.prefill_seconds + usage.decode_seconds);
    m.observe(&table::REQUEST_PROMPT_TOKENS, &labels, usage.prompt_tokens as f64);
    m.observe(&table::REQUEST_GENERATION_TOKENS, &labels, usage.generated_tokens as f64);
}

/// A step of the forward pass has computed this many tokens.
pub(crate) fn step(app: &App, tokens: usize) {
    app.metrics.observe(&table::ITERATION_TOKENS, &[&app.model_name], tokens as f64);
}

/// The engine could not go on with a choice.
pub(crate) fn failed(app: &App) {
    app.metrics.add(&table::REQUEST_SUCCESS, &[&app.model_name, "error"], 1.0);
}

/// The client went away from this many choices.
pub(crate) fn cancelled(app: &App, choices: usize) {
    app.metrics.add(&table::REQUEST_SUCCESS, &[&app.model_name, "abort"], choices as f64);
}

/// Brings the engine's gauges and counters up to date.
pub(crate) fn engine_state(m: &Metrics, model_name: &str, snapshot: &Snapshot) {
    let labels = [model_name];
    let (used, total) = (snapshot.kv_blocks_used as f64, snapshot.kv_blocks_total as f64);
    m.set(&table::REQUESTS_RUNNING, &labels, snapshot.running as f64);
    m.set(&table::REQUESTS_WAITING, &labels, snapshot.waiting as f64);
    m.set(&table::KV_CACHE_USAGE, &labels, if total > 0.0 { used / total } else { 0.0 });
    let (block, blocks) = (snapshot.kv_block_tokens.to_string(), snapshot.kv_blocks_total.to_string());
    m.set(&table::CACHE_CONFIG, &[model_name, &block, &blocks], 1.0);
    let totals = &snapshot.totals;
    for (metric, total) in [
        (&table::PROMPT_TOKENS, totals.prompt_tokens),
        (&table::GENERATION_TOKENS, totals.generation_tokens),
        (&table::PREEMPTIONS, totals.preemptions),
        (&table::PREFIX_QUERIES, totals.prefix_cache_queries),
        (&table::PREFIX_HITS, totals.prefix_cache_hits),
        (&table::SPEC_DRAFTS, totals.drafts),
        (&table::SPEC_DRAFT_TOKENS, totals.draft_tokens),
        (&table::SPEC_ACCEPTED_TOKENS, totals.accepted_draft_tokens),
    ] {
        m.raise_to(metric, &labels, total as f64);
    }
}
