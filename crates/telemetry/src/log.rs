//! Log lines: one JSON object each for pipelines, or text for people. Both carry the request's id, and neither a secret.

mod line;
mod redact;

use std::error::Error;
use std::io;
use std::time::Duration;

use tracing::Subscriber;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt};

pub use line::REQUEST_FIELDS;
pub use redact::redact;

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

/// Sends the log to stderr. `component` is the role that lines name: `server`, `gateway`, `operator`. `level` is a level or a filter such
/// as `info,wharf_engine=debug`.
///
/// # Errors
/// When `level` is no filter, or when called twice.
pub fn init(component: &'static str, format: Format, level: &str) -> Result<(), LogError> {
    subscriber(component, format, level, io::stderr)?.try_init().map_err(LogError::Install)
}

/// What [`init`] installs, with another writer.
///
/// # Errors
/// When `level` is no filter.
pub fn subscriber<W>(
    component: &'static str,
    format: Format,
    level: &str,
    writer: W,
) -> Result<impl Subscriber + Send + Sync + 'static, LogError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = EnvFilter::builder()
        .parse(level)
        .map_err(|source| LogError::Level { level: level.to_owned(), source })?;
    Ok(tracing_subscriber::registry().with(layer(component, format, writer).with_filter(filter)))
}

fn layer<W>(component: &'static str, format: Format, writer: W) -> Box<dyn Layer<Registry> + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    match format {
        Format::Json => line::JsonLines { component, writer }.boxed(),
        Format::Text => fmt::layer().with_ansi(false).with_writer(Redacting(writer)).boxed(),
    }
}

/// Redacts what is written through it. A line is written at once.
struct Redacting<W>(W);

impl<'a, W: MakeWriter<'a>> MakeWriter<'a> for Redacting<W> {
    type Writer = Redacted<W::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        Redacted(self.0.make_writer())
    }
}

struct Redacted<W>(W);

impl<W: io::Write> io::Write for Redacted<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.write_all(redact(&String::from_utf8_lossy(line)).as_bytes())?;
        Ok(line.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// A time for a log line: milliseconds, to the microsecond.
pub fn milliseconds(time: Duration) -> f64 {
    time.as_micros() as f64 / 1e3
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
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn written(format: Format, work: impl FnOnce()) -> String {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let subscriber = subscriber("test", format, "trace", move || writer.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, work);
        let bytes = buffer.0.lock().unwrap();
        String::from_utf8(bytes.clone()).unwrap()
    }

    /// The JSON lines that were written meanwhile.
    pub(super) fn lines_of(work: impl FnOnce()) -> Vec<String> {
        written(Format::Json, work).lines().map(str::to_owned).collect()
    }

    #[test]
    fn lines_for_people_have_the_requests_id_and_no_key() {
        let text = written(Format::Text, || {
            tracing::info_span!("request", request_id = "abc")
                .in_scope(|| tracing::warn!(error = "no such key: wk-0123456789abcdef0123", "refused"));
        });
        assert!(text.contains("request_id=\"abc\"") && text.contains("wk-***"), "{text}");
        assert!(!text.contains("0123456789abcdef"), "{text}");
    }

    #[test]
    fn a_bad_filter_is_an_error() {
        assert!(matches!(init("test", Format::Text, "info=="), Err(LogError::Level { .. })));
    }
}
