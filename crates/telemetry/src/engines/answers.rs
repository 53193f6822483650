//! How an engine has answered since it started.

use std::collections::HashMap;

use super::{dialect, total};
use crate::exposition::{Sample, samples};

/// Counters of responses by path and status, as Wharf's server has them, and as web frameworks of other engines have.
const RESPONSES: [(&str, &str); 2] =
    [("wharf_http_requests_total", "endpoint"), ("http_requests_total", "handler")];
/// Probes and metrics are asked for elsewhere.
const API: &str = "/v1/";

/// What an engine has counted since it started.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answers {
    /// Requests that it answered, those that it refused since they were wrong included.
    pub answered: u64,
    /// Requests that it failed to answer; 0 where it does not count them.
    pub failed: u64,
    /// Tokens of answers.
    pub tokens: u64,
    /// How many answers began within each bucket of its own: its upper bound in seconds, ascending, the last infinite.
    pub first_token: Vec<(f64, u64)>,
}

/// How the engine has answered whose metrics are in Prometheus' text format; none if it is none that we know.
pub fn answers(text: &str) -> Option<Answers> {
    let samples: Vec<Sample<'_>> = samples(text).collect();
    let dialect = dialect(&samples)?;
    let counted = |name: Option<&str>| count(total(&samples, |sample| Some(sample.name) == name));
    let first_token = dialect.first_token.map_or(Vec::new(), |name| buckets(&samples, name));
    let begun = first_token.iter().map(|(_, count)| count).sum();
    let (answered, refused) = responses(&samples).unwrap_or((counted(dialect.finished).max(begun), 0));
    // A stream that breaks was a response that began well.
    let broken = total(&samples, |sample| {
        Some(sample.name) == dialect.finished && is(&sample.labels(), "finished_reason", "error")
    });
    Some(Answers {
        answered,
        failed: refused.max(count(broken)),
        tokens: counted(dialect.tokens),
        first_token,
    })
}

/// Responses of the API that are answers, and those that are failures; none where nobody counts them.
fn responses(samples: &[Sample<'_>]) -> Option<(u64, u64)> {
    let counts = |name: &str| samples.iter().any(|sample| sample.name == name);
    let (name, path) = RESPONSES.into_iter().find(|(name, _)| counts(name))?;
    let (mut answered, mut failed) = (0, 0);
    for sample in samples.iter().filter(|sample| sample.name == name) {
        let labels = sample.labels();
        if !labels.get(path).is_some_and(|path| path.starts_with(API)) {
            continue;
        }
        // `503`, or `5xx`.
        match labels.get("status").is_some_and(|status| status.starts_with('5')) {
            true => failed += count(sample.value),
            false => answered += count(sample.value),
        }
    }
    Some((answered, failed))
}

/// What is in each bucket of a histogram, all of its series together.
fn buckets(samples: &[Sample<'_>], name: &str) -> Vec<(f64, u64)> {
    let mut up_to: Vec<(f64, u64)> = Vec::new();
    for sample in samples.iter().filter(|sample| sample.name.strip_suffix("_bucket") == Some(name)) {
        let Some(bound) = sample.labels().get("le").and_then(|bound| bound.parse::<f64>().ok()) else {
            continue;
        };
        match up_to.iter_mut().find(|(known, _)| *known == bound) {
            Some((_, sum)) => *sum += count(sample.value),
            None => up_to.push((bound, count(sample.value))),
        }
    }
    up_to.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut below = 0;
    for (_, count) in &mut up_to {
        (*count, below) = (count.saturating_sub(below), *count);
    }
    up_to
}

fn is(labels: &HashMap<String, String>, name: &str, value: &str) -> bool {
    labels.get(name).is_some_and(|known| known == value)
}

fn count(value: f64) -> u64 {
    // Saturates, and is 0 for what is no number.
    value as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHARF: &str = "vllm:num_requests_running{model_name=\"m\"} 0\n\
        wharf_http_requests_total{endpoint=\"/v1/chat/completions\",status=\"200\"} 40\n\
        wharf_http_requests_total{endpoint=\"/v1/completions\",status=\"400\"} 2\n\
        wharf_http_requests_total{endpoint=\"/v1/completions\",status=\"500\"} 1\n\
        wharf_http_requests_total{endpoint=\"/ready\",status=\"503\"} 90\n\
        vllm:request_success_total{finished_reason=\"stop\"} 37\n\
        vllm:request_success_total{finished_reason=\"error\"} 3\n\
        vllm:generation_tokens_total 700\n\
        vllm:time_to_first_token_seconds_bucket{engine=\"0\",le=\"0.25\"} 10\n\
        vllm:time_to_first_token_seconds_bucket{engine=\"0\",le=\"1.0\"} 30\n\
        vllm:time_to_first_token_seconds_bucket{engine=\"0\",le=\"+Inf\"} 31\n\
        vllm:time_to_first_token_seconds_bucket{engine=\"1\",le=\"0.25\"} 1\n\
        vllm:time_to_first_token_seconds_bucket{engine=\"1\",le=\"1\"} 5\n\
        vllm:time_to_first_token_seconds_bucket{engine=\"1\",le=\"+Inf\"} 5\n";

    #[test]
    fn answers_of_the_api_are_told_from_failures_and_probes() {
        let first_token = vec![(0.25, 11), (1.0, 24), (f64::INFINITY, 1)];
        assert_eq!(answers(WHARF), Some(Answers { answered: 42, failed: 3, tokens: 700, first_token }));
    }

    #[test]
    fn a_class_of_statuses_counts_as_they_do() {
        let text = "vllm:num_requests_running 0\nhttp_requests_total{handler=\"/v1/completions\",status=\"2xx\"} 8\n\
                    http_requests_total{handler=\"/v1/completions\",status=\"5xx\"} 2\n\
                    http_requests_total{handler=\"/health\",status=\"2xx\"} 99\n";
        assert_eq!(answers(text), Some(Answers { answered: 8, failed: 2, ..Answers::default() }));
    }

    #[test]
    fn without_a_count_of_responses_those_that_began_or_ended_are_the_answers() {
        let sglang = "sglang:num_running_reqs 1\nsglang:num_requests_total 3\nsglang:generation_tokens_total 50\n\
                      sglang:time_to_first_token_seconds_bucket{le=\"0.1\"} 2\nsglang:time_to_first_token_seconds_bucket{le=\"+Inf\"} 4\n";
        let first_token = vec![(0.1, 2), (f64::INFINITY, 2)];
        assert_eq!(answers(sglang), Some(Answers { answered: 4, failed: 0, tokens: 50, first_token }));
        let llamacpp = "llamacpp:requests_processing 2\nllamacpp:tokens_predicted_total 9\n";
        assert_eq!(answers(llamacpp), Some(Answers { tokens: 9, ..Answers::default() }));
        assert_eq!(answers("up 1\n"), None);
    }
}
