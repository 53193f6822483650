//! How traces leave a process: OpenTelemetry's protocol (OTLP) in protobuf over HTTP.
//!
//! This crate decides which variables count ([`Settings`]) and how spans are worded for collectors. Spans wait in a bounded queue; a thread of
//! its own sends them. Whoever ends a span never waits: if the collector is slow or away, spans are dropped, and the log says so once.

mod client;
mod settings;

use std::time::Duration;

use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue, StringValue, Value as OtelValue};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, SpanData, SpanEvents, SpanLinks, SpanProcessor,
};
use std::sync::Arc;
use wharf_telemetry::build;
use wharf_telemetry::trace::{Kind, Span, Tracer, Value};

use client::Client;
pub use settings::{SettingError, Settings};

/// Time for what waits when the process ends.
const GRACE: Duration = Duration::from_secs(5);

/// Why spans cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The operating system refused a thread.
    #[error("failed to start the runtime that sends traces")]
    Runtime(#[source] std::io::Error),
    /// The HTTP client cannot be made.
    #[error("failed to make the HTTP client that sends traces")]
    Client(#[source] reqwest::Error),
    /// The endpoint cannot be used.
    #[error("failed to set up the sending of traces to {endpoint}")]
    Exporter {
        /// The collector's.
        endpoint: String,
        /// Why.
        source: ExporterBuildError,
    },
}

/// Sends spans until it is told to stop.
#[derive(Debug)]
pub struct Export {
    tracer: Tracer,
    processor: Arc<BatchSpanProcessor>,
}

impl Export {
    /// Begins to send.
    ///
    /// # Errors
    /// [`StartError`]. That nobody listens at the endpoint is none.
    pub fn start(settings: Settings) -> Result<Export, StartError> {
        let Settings { endpoint, headers, timeout, sampler, resource, delay, queue, batch } = settings;
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(Client::new(timeout)?)
            .with_endpoint(&endpoint)
            .with_timeout(timeout)
            .with_headers(headers)
            .build()
            .map_err(|source| StartError::Exporter { endpoint: endpoint.clone(), source })?;
        let limits = BatchConfigBuilder::default()
            .with_scheduled_delay(delay)
            .with_max_queue_size(queue)
            .with_max_export_batch_size(batch.min(queue))
            .build();
        let mut processor = BatchSpanProcessor::builder(exporter).with_batch_config(limits).build();
        let version = KeyValue::new("service.version", build::VERSION);
        let said = resource.into_iter().map(|(name, value)| KeyValue::new(name, value));
        processor.set_resource(
            &Resource::builder_empty().with_attributes([version]).with_attributes(said).build(),
        );
        let processor = Arc::new(processor);
        let scope = InstrumentationScope::builder("wharf").with_version(build::VERSION).build();
        let queue = Arc::clone(&processor);
        let tracer = Tracer::new(sampler, move |span| queue.on_end(worded(span, &scope)));
        tracing::info!(endpoint, ratio = sampler.ratio, "traces are sent");
        Ok(Export { tracer, processor })
    }

    /// What begins traces whose spans are sent.
    pub fn tracer(&self) -> Tracer {
        self.tracer.clone()
    }

    /// Sends what waits, for a few seconds at most. Call it where a thread may wait.
    pub fn stop(self) {
        if let Err(error) = self.processor.shutdown_with_timeout(GRACE) {
            tracing::warn!(%error, "the last traces could not be sent");
        }
    }
}

/// A span as the SDK has it.
fn worded(span: Span, scope: &InstrumentationScope) -> SpanData {
    let Span { context, parent, name, kind, start, end, attributes, error } = span;
    let flags = if context.sampled { TraceFlags::SAMPLED } else { TraceFlags::default() };
    let id = |id: u64| SpanId::from_bytes(id.to_be_bytes());
    let trace_id = TraceId::from_bytes(context.trace_id.to_be_bytes());
    SpanData {
        span_context: SpanContext::new(trace_id, id(context.span_id), flags, false, TraceState::default()),
        parent_span_id: parent.map_or(SpanId::INVALID, |(parent, _)| id(parent)),
        parent_span_is_remote: parent.is_some_and(|(_, is_remote)| is_remote),
        span_kind: match kind {
            Kind::Server => SpanKind::Server,
            Kind::Internal => SpanKind::Internal,
        },
        name: name.into(),
        start_time: start,
        end_time: end,
        attributes: attributes
            .into_iter()
            .map(|(name, value)| KeyValue::new(name, value_of(value)))
            .collect(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: error.map_or(Status::Unset, Status::error),
        instrumentation_scope: scope.clone(),
    }
}

fn value_of(value: Value) -> OtelValue {
    match value {
        Value::Text(text) => text.into(),
        Value::Count(count) => count.into(),
        Value::Real(real) => real.into(),
        Value::Texts(texts) => {
            let texts: Vec<StringValue> = texts.into_iter().map(StringValue::from).collect();
            OtelValue::Array(texts.into())
        }
    }
}
