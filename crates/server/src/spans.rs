//! How requests are called in traces: names and attributes of OpenTelemetry's conventions for HTTP and for generative AI, and the engine's times
//! as parts of a request. Pure.

use std::time::{Duration, Instant};

use wharf_engine::Usage;
use wharf_telemetry::trace::{Ended, Part, Value};

/// A request that is over and that no completion was made for.
pub(crate) fn ended(path: &'static str, status: u16) -> Ended {
    let attributes =
        vec![("http.route", path.into()), ("http.response.status_code", u64::from(status).into())];
    let mut ended = Ended { name: path.to_owned(), attributes, error: None };
    judge(&mut ended, status);
    ended
}

/// A completion that is over.
pub(crate) struct Completed<'a> {
    /// `chat` or `text_completion`.
    pub(crate) operation: &'static str,
    pub(crate) model: &'a str,
    pub(crate) status: u16,
    /// Why choices ended, in their order.
    pub(crate) finish: Vec<&'static str>,
    pub(crate) prompt_tokens: usize,
    pub(crate) completion_tokens: usize,
    /// Until the first token.
    pub(crate) first: Option<Duration>,
    pub(crate) error: Option<&'a str>,
}

impl Completed<'_> {
    /// Its span.
    pub(crate) fn ended(self) -> Ended {
        let Completed { operation, model, status, finish, prompt_tokens, completion_tokens, first, error } =
            self;
        let mut attributes = vec![
            ("gen_ai.operation.name", operation.into()),
            ("gen_ai.provider.name", "wharf".into()),
            ("gen_ai.request.model", model.into()),
            ("gen_ai.response.model", model.into()),
            ("gen_ai.usage.input_tokens", (prompt_tokens as u64).into()),
            ("gen_ai.usage.output_tokens", (completion_tokens as u64).into()),
            ("http.response.status_code", u64::from(status).into()),
        ];
        if !finish.is_empty() {
            let finish = finish.into_iter().map(str::to_owned).collect();
            attributes.push(("gen_ai.response.finish_reasons", Value::Texts(finish)));
        }
        if let Some(first) = first {
            attributes.push(("gen_ai.latency.time_to_first_token", first.as_secs_f64().into()));
        }
        let error = error.map(str::to_owned);
        let mut ended = Ended { name: format!("{operation} {model}"), attributes, error };
        judge(&mut ended, status);
        ended
    }
}

/// What a client did wrong is no error of the server's span.
fn judge(ended: &mut Ended, status: u16) {
    if status >= 400 {
        ended.attributes.push(("error.type", status.to_string().as_str().into()));
    }
    if status >= 500 && ended.error.is_none() {
        ended.error = Some(format!("answered {status}"));
    }
}

/// What the engine says of a choice, as parts one after the other from its submission on.
pub(crate) fn parts(submitted: Instant, choice: usize, usage: &Usage) -> [Part; 3] {
    let seconds = |seconds: f64| Duration::try_from_secs_f64(seconds).unwrap_or_default();
    let queue = seconds(usage.queue_seconds);
    let (prefill, decode) = (seconds(usage.prefill_seconds), seconds(usage.decode_seconds));
    let part = |name, began, took, more: [(&'static str, Value); 1]| {
        let attributes = [("wharf.choice", Value::from(choice as u64))].into_iter().chain(more).collect();
        Part { name, began, took, attributes }
    };
    let prompt = ("gen_ai.usage.input_tokens", Value::from(usage.prompt_tokens as u64));
    let cached = ("gen_ai.usage.cache_read.input_tokens", Value::from(usage.cached_tokens as u64));
    let tokens = ("gen_ai.usage.output_tokens", Value::from(usage.generated_tokens as u64));
    [
        part("queue", submitted, queue, [prompt]),
        part("prefill", submitted + queue, prefill, [cached]),
        part("decode", submitted + queue + prefill, decode, [tokens]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engines_times_follow_each_other() {
        let usage =
            Usage { queue_seconds: 0.5, prefill_seconds: 1.0, decode_seconds: 2.0, ..Usage::default() };
        let submitted = Instant::now();
        let [queue, prefill, decode] = parts(submitted, 0, &usage);
        assert_eq!(queue.began, submitted);
        assert_eq!(prefill.began, queue.began + queue.took);
        assert_eq!((decode.began, decode.took), (prefill.began + prefill.took, Duration::from_secs(2)));
    }

    #[test]
    fn a_clients_mistake_is_no_error_of_ours() {
        assert!(ended("/tokenize", 400).error.is_none());
        assert_eq!(ended("/tokenize", 500).error.as_deref(), Some("answered 500"));
    }
}
