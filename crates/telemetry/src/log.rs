//! Log lines: one JSON object each for pipelines, or text for people. Both carry the request's id.

use std::error::Error;

use tracing_subscriber::filter::ParseError;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt};

/// How lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object per line.
    Json,
    /// For people.
    Text,
}

/// Logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The level is no filter.
    #[error("failed to parse the log level {level:?}")]
    Level {
        /// As given.
        level: String,
        /// Why.
        source: ParseError,
    },
    /// Somebody has set up logging before.
    #[error("failed to install the log subscriber")]
    Install(#[source] TryInitError),
}

/// Sends the log to stderr. `level` is a level or a filter such as `info,wharf_engine=debug`.
///
/// # Errors
/// When `level` is no filter, or when called twice.
pub fn init(format: Format, level: &str) -> Result<(), LogError> {
    let filter = EnvFilter::builder()
        .parse(level)
        .map_err(|source| LogError::Level { level: level.to_owned(), source })?;
    tracing_subscriber::registry()
        .with(layer(format, std::io::stderr).with_filter(filter))
        .try_init()
        .map_err(LogError::Install)
}

fn layer<W>(format: Format, writer: W) -> Box<dyn Layer<Registry> + Send + Sync>
where
    W: for<'a> fmt::MakeWriter<'a> + Send + Sync + 'static,
{
    match format {
        Format::Json => fmt::layer()
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .with_writer(writer)
            .boxed(),
        Format::Text => fmt::layer().with_ansi(false).with_writer(writer).boxed(),
    }
}

/// An error with all its causes, for one log line.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn json_lines_carry_the_request_id() {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let subscriber = tracing_subscriber::registry().with(layer(Format::Json, move || writer.clone()));
        tracing::subscriber::with_default(subscriber, || {
            tracing::info_span!("request", request_id = "abc")
                .in_scope(|| tracing::info!(status = 200, "done"));
        });
        let line: serde_json::Value = serde_json::from_slice(&buffer.0.lock().unwrap()).unwrap();
        assert_eq!(line["span"]["request_id"], "abc");
        assert_eq!((&line["message"], &line["status"]), (&"done".into(), &200.into()));
    }

    #[test]
    fn a_bad_filter_is_an_error() {
        assert!(matches!(init(Format::Text, "info=="), Err(LogError::Level { .. })));
    }
}
