//! Pieces of expressions that are easy to get wrong.

use wharf_telemetry::metrics::{Kind, Metric};

use crate::SERVICE_LABEL;

/// Matches the bucket of a bound in seconds. Clients write whole bounds as `1` or as `1.0`, and Prometheus from 3.0 on makes all of them
/// `1.0`.
pub(crate) fn le(bound: &str) -> String {
    format!(r#"le=~"{bound}([.]0)?""#)
}

/// The least bound of a histogram that is not below so many seconds. What lies above all of them cannot be counted.
pub(crate) fn bound(histogram: &Metric, seconds: f64) -> Option<f64> {
    match histogram.kind {
        Kind::Histogram(bounds) => bounds.iter().copied().find(|bound| *bound >= seconds),
        Kind::Counter | Kind::Gauge => None,
    }
}

/// A counter has grown within a window. One that was not there before its first count has not grown by `increase`.
pub(crate) fn grew(by: &str, counter: &str, window: &str) -> String {
    format!(
        "sum by ({by}) (increase({counter}[{window}]) > 0 or ({counter} > 0 unless {counter} offset {window}))"
    )
}

/// The result of an expression by `namespace` and service of model servers, under the name that gateway and operator have for a service.
pub(crate) fn by_service(expr: &str) -> String {
    format!(r#"max by (service) (label_join({expr}, "service", "/", "namespace", "{SERVICE_LABEL}"))"#)
}

#[cfg(test)]
mod tests {
    use wharf_telemetry::metrics::server::{PROMPT_TOKENS, TTFT_SECONDS};

    use super::*;

    #[test]
    fn a_limit_is_counted_at_the_next_bound() {
        let cases = [(0.0005, Some(0.001)), (2.5, Some(2.5)), (2.0, Some(2.5)), (3000.0, None)];
        for (seconds, expected) in cases {
            assert_eq!(bound(&TTFT_SECONDS, seconds), expected, "{seconds}");
        }
        assert_eq!(bound(&PROMPT_TOKENS, 1.0), None);
    }
}
