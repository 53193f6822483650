//! A log line as a program reads it: one JSON object with fields whose names do not change, short enough to be one record of a container's log.
//!
//! Fields of spans and of the event lie beside each other; the innermost wins. Every text is redacted. Container runtimes cut lines
//! at 16 KiB; here values are cut first, so that a line stays JSON.

use std::error::Error;
use std::fmt::Debug;
use std::io::Write as _;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use super::{chain, redact};

/// What a line of a request says, in this order, as far as it is known. Times are milliseconds.
pub const REQUEST_FIELDS: [&str; 12] = [
    "request_id",
    "trace_id",
    "span_id",
    "model",
    "tenant",
    "status",
    "ttft_ms",
    "duration_ms",
    "prompt_tokens",
    "completion_tokens",
    "finish_reason",
    "upstream",
];

/// Bytes of a line, its end included: containerd and CRI-O cut at 16 KiB.
const LONGEST: usize = 16 * 1024;
/// Bytes that texts of a line that is too long are cut to; where that is not enough the next, and in the end fields of requests alone are left.
const VALUES: [usize; 4] = [4096, 1024, 256, 64];

/// Writes events as JSON lines.
pub(super) struct JsonLines<W> {
    pub(super) component: &'static str,
    pub(super) writer: W,
}

/// Fields of a span or an event, redacted.
#[derive(Default)]
struct Fields(Map<String, Value>);

impl<S, W> Layer<S> for JsonLines<W>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + 'static,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        for span in context.event_scope(event).into_iter().flat_map(|scope| scope.from_root()) {
            if let Some(Fields(of_span)) = span.extensions().get::<Fields>() {
                fields.0.extend(of_span.iter().map(|(name, value)| (name.clone(), value.clone())));
            }
        }
        event.record(&mut fields);
        let mut time = String::new();
        // A clock that cannot be written leaves the line without a time.
        let _ = SystemTime.format_time(&mut Writer::new(&mut time));
        let about = About {
            time,
            level: *event.metadata().level(),
            component: self.component,
            target: event.metadata().target(),
        };
        // Nobody is left to be told that standard error is gone.
        let _ = self.writer.make_writer_for(event.metadata()).write_all(line(&about, fields.0).as_bytes());
    }
}

/// What every line says.
struct About<'a> {
    time: String,
    level: Level,
    component: &'a str,
    target: &'a str,
}

fn line(about: &About<'_>, mut fields: Map<String, Value>) -> String {
    let message = fields.remove("message");
    // Lines of the crate `log` say here where they are from.
    let target = fields.remove("log.target");
    fields.retain(|name, _| !name.starts_with("log."));
    let mut object = Map::new();
    let level = match about.level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    };
    object.insert("time".to_owned(), about.time.as_str().into());
    object.insert("level".to_owned(), level.into());
    object.insert("msg".to_owned(), message.unwrap_or_else(|| "".into()));
    object.insert("component".to_owned(), about.component.into());
    for name in REQUEST_FIELDS {
        if let Some(value) = fields.remove(name) {
            object.insert(name.to_owned(), value);
        }
    }
    let known = object.len();
    object.insert("target".to_owned(), target.unwrap_or_else(|| about.target.into()));
    for (name, value) in fields {
        object.entry(name).or_insert(value);
    }
    fit(&object, known)
}

/// The object as a line that is not too long. The first `known` members stay in any case.
fn fit(object: &Map<String, Value>, known: usize) -> String {
    let whole = print(object);
    if whole.len() <= LONGEST {
        return whole;
    }
    let cut_to = |most: usize| object.iter().map(move |(name, value)| (name.clone(), cut(value, most)));
    let mut lines = VALUES.into_iter().map(|most| print(&cut_to(most).collect()));
    let shortest = || print(&cut_to(VALUES[VALUES.len() - 1]).take(known).collect());
    lines.find(|line| line.len() <= LONGEST).unwrap_or_else(shortest)
}

fn print(object: &Map<String, Value>) -> String {
    // Keys are strings and values are what JSON has.
    let mut line = serde_json::to_string(object).unwrap_or_default();
    line.push('\n');
    line
}

/// A value whose text is cut, with how long it was.
fn cut(value: &Value, most: usize) -> Value {
    match value {
        Value::String(text) if text.len() > most => {
            let start = &text[..text.floor_char_boundary(most)];
            format!("{start}… (cut, {} bytes)", text.len()).into()
        }
        other => other.clone(),
    }
}

impl Fields {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn text(&mut self, field: &Field, text: &str) {
        self.put(field, redact(text).into_owned());
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no NaN: it becomes null.
        self.put(field, value);
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field, value);
    }
    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.text(field, &chain(value));
    }
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.text(field, &format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::super::tests::lines_of;
    use super::*;

    #[test]
    fn a_request_has_one_flat_line_with_fields_in_their_order() {
        let lines = lines_of(|| {
            let span = tracing::info_span!(
                "request",
                request_id = "abc",
                tenant = tracing::field::Empty,
                status = 0
            );
            span.record("tenant", "team-a");
            span.in_scope(|| {
                tracing::info!(
                    target: "wharf_gateway",
                    upstream = "10.0.0.1:8080",
                    outcome = "finished",
                    completion_tokens = 4,
                    ttft_ms = Some(12.5),
                    finish_reason = None::<&str>,
                    status = 200,
                    "request ended"
                );
            });
        });
        let line = lines[0].split_once(',').unwrap().1;
        expect![[r#""level":"info","msg":"request ended","component":"test","request_id":"abc","tenant":"team-a","status":200,"ttft_ms":12.5,"completion_tokens":4,"upstream":"10.0.0.1:8080","target":"wharf_gateway","outcome":"finished"}"#]]
        .assert_eq(line);
        assert_eq!(lines.len(), 1);
    }

    #[test]
    fn times_are_utc_and_sort_as_text() {
        let lines = lines_of(|| tracing::info!("a"));
        let line: Value = serde_json::from_str(&lines[0]).unwrap();
        let time = line["time"].as_str().unwrap();
        assert!(time.len() == "2026-11-27T03:12:36.123456Z".len() && time.ends_with('Z'), "{time}");
    }

    #[test]
    fn a_line_has_one_end_whatever_its_texts_hold() {
        let lines = lines_of(|| tracing::info!(text = "a\nb\"\u{0}\u{1b}", "x\ny"));
        assert_eq!(lines.len(), 1);
        let line: Value = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!((&line["msg"], &line["text"]), (&"x\ny".into(), &"a\nb\"\u{0}\u{1b}".into()));
    }

    #[test]
    fn texts_of_spans_events_and_errors_are_redacted() {
        let error = std::io::Error::other("GET https://b.example/m?X-Amz-Signature=0123456789abcdef failed");
        let lines = lines_of(|| {
            tracing::info_span!("request", key = "wk-0123456789abcdef0123").in_scope(|| {
                tracing::info!(
                    error = &error as &(dyn Error + 'static),
                    shown = %error,
                    debug = ?"Bearer 0123456789abcdef",
                    "with sk-0123456789abcdef0123"
                );
            });
        });
        assert!(!lines[0].contains("0123456789abcdef"), "{}", lines[0]);
        assert!(lines[0].contains("X-Amz-Signature=***"), "{}", lines[0]);
    }

    #[test]
    fn long_values_are_cut_so_that_the_line_is_one_record() {
        let lines = lines_of(|| {
            let (long, bad) = ("é".repeat(50_000), "\u{1}".repeat(50_000));
            tracing::info_span!("request", request_id = "abc", a = long, b = bad, c = long, d = long)
                .in_scope(|| {
                    tracing::info!(e = long, f = bad, g = bad, h = bad, status = 200, "{long}");
                });
        });
        assert_eq!(lines.len(), 1);
        assert!(lines[0].len() < LONGEST, "{}", lines[0].len());
        let line: Value = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!((&line["request_id"], &line["status"]), (&"abc".into(), &200.into()));
        assert!(line["e"].as_str().unwrap().ends_with("… (cut, 100000 bytes)"), "{}", line["e"]);
    }

    #[test]
    fn what_a_line_says_of_itself_no_field_can_change() {
        let lines =
            lines_of(|| tracing::info!(level = "fatal", component = "x", time = "never", target = "y", "a"));
        let line: Value = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!((&line["level"], &line["component"]), (&"info".into(), &"test".into()));
        assert_ne!(line["time"], "never");
    }
}
