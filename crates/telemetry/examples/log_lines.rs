//! Writes a few log lines on standard error, as the roles of Wharf write them: for checks of what reads them.

use std::error::Error;

use wharf_telemetry::log::{self, Format};

fn main() -> Result<(), Box<dyn Error>> {
    log::init("gateway", Format::Json, "info")?;
    let span = tracing::info_span!("request", request_id = "request-1", path = "/v1/chat/completions");
    span.in_scope(|| {
        tracing::warn!(error = "the model server broke off \"here\"\n\tand there: é ✓", "a try failed");
        tracing::info!(
            model = "assistant",
            tenant = "team-a",
            status = 200,
            ttft_ms = 41.5,
            duration_ms = 1234.25,
            prompt_tokens = 300,
            completion_tokens = 128,
            finish_reason = "stop",
            upstream = "10.0.0.1:8080",
            "request ended"
        );
        tracing::error!(error = "x".repeat(100_000), "an error of a library that quotes what it was given");
    });
    Ok(())
}
