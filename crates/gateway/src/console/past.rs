//! What a service did in the last hours and days, from a Prometheus where one is named: the charts' figures, as the gateway keeps them for the last
//! quarter of an hour. [`queries`] and [`history`] are pure.

use std::time::Duration;

use serde::Deserialize;
use wharf_api::console::History;
use wharf_telemetry::metrics::gateway as table;

/// Values of a chart.
const POINTS: u64 = 240;
/// Hours that may be asked for: a fortnight is what most keep.
const MOST_HOURS: u64 = 24 * 15;
/// No step is shorter than Prometheus usually reads.
const SHORTEST_STEP: u64 = 30;
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks one Prometheus, over its HTTP API.
pub(crate) struct Past {
    client: reqwest::Client,
    url: String,
}

/// Which times are asked for, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    start: u64,
    end: u64,
    step: u64,
}

/// Why there is no history.
#[derive(Debug, thiserror::Error)]
pub(super) enum PastError {
    #[error("failed to ask Prometheus at {url}")]
    Ask { url: String, source: reqwest::Error },
    #[error("Prometheus at {url} refused the query: {why}")]
    Refused { url: String, why: String },
}

/// What `GET /api/v1/query_range` answers (Prometheus documentation, "HTTP API").
#[derive(Deserialize)]
struct Answered {
    #[serde(default)]
    data: Option<Data>,
    #[serde(default)]
    error: Option<String>,
}

#[derive(Deserialize)]
struct Data {
    result: Vec<Series>,
}

#[derive(Deserialize)]
struct Series {
    values: Vec<(f64, String)>,
}

impl Past {
    /// Asks the one at `url`.
    ///
    /// # Errors
    /// When no client can be made.
    pub(crate) fn new(url: &str) -> Result<Past, reqwest::Error> {
        let client = reqwest::Client::builder().timeout(PATIENCE).build()?;
        Ok(Past { client, url: url.trim_end_matches('/').to_owned() })
    }

    /// The last hours of a service, up to `now` in milliseconds since 1970.
    ///
    /// # Errors
    /// When Prometheus does not answer.
    pub(super) async fn history(&self, service: &str, hours: u64, now: u64) -> Result<History, PastError> {
        let range = range(hours, now / 1000);
        let asked = queries(service, range.step).map(async |query| self.ask(&query, range).await);
        let answers = futures_util::future::try_join_all(asked).await?;
        Ok(history(range, &answers))
    }

    async fn ask(&self, query: &str, range: Range) -> Result<Vec<Option<f64>>, PastError> {
        let failed = |source| PastError::Ask { url: self.url.clone(), source };
        let Range { start, end, step } = range;
        let times =
            [("start", start), ("end", end), ("step", step)].map(|(name, value)| (name, value.to_string()));
        let request = self.client.get(format!("{}/api/v1/query_range", self.url));
        let answer = request.query(&[("query", query)]).query(&times).send().await.map_err(failed)?;
        let answer: Answered = answer.json().await.map_err(failed)?;
        match answer.data {
            Some(data) => Ok(points(&data.result, range)),
            None => {
                let why = answer.error.unwrap_or_else(|| "it says nothing".to_owned());
                Err(PastError::Refused { url: self.url.clone(), why })
            }
        }
    }
}

fn range(hours: u64, now: u64) -> Range {
    let seconds = hours.clamp(1, MOST_HOURS) * 3600;
    let step = (seconds / POINTS).max(SHORTEST_STEP);
    // The same times whenever it is asked within a step.
    let end = now / step * step;
    Range { start: end.saturating_sub(seconds), end, step }
}

/// In the order of the fields of [`History`].
fn queries(service: &str, step: u64) -> [String; 6] {
    let service = service.replace('\\', "\\\\").replace('"', "\\\"");
    let of = |metric: &str, more: &str| format!("{metric}{{service=\"{service}\"{more}}}");
    // Four scrapes at least.
    let rate = |series: String| format!("rate({series}[{}s])", step.max(120));
    let bucket = format!("{}_bucket", table::FIRST_BYTE_SECONDS.name);
    [
        // Each gateway knows all endpoints.
        format!("max({})", of(table::ENDPOINTS.name, ",state=\"ready\"")),
        format!("sum({})", of(table::IN_FLIGHT.name, "")),
        format!("sum({})", of(table::QUEUED.name, "")),
        format!("sum({})", rate(of(table::REQUESTS.name, ""))),
        format!("sum({})", rate(of(table::KEY_TOKENS.name, ",kind=\"completion\""))),
        format!("1000 * histogram_quantile(0.95, sum by (le) ({}))", rate(of(&bucket, ""))),
    ]
}

/// One value for each step; none where Prometheus has none.
fn points(series: &[Series], Range { start, end, step }: Range) -> Vec<Option<f64>> {
    let count = usize::try_from((end - start) / step).unwrap_or(0) + 1;
    let mut points = vec![None; count];
    for (at, value) in series.iter().flat_map(|series| &series.values) {
        let index = ((at - start as f64) / step as f64).round();
        let value = value.parse().ok().filter(|value: &f64| value.is_finite());
        if index >= 0.0
            && let Some(point) = points.get_mut(index as usize)
        {
            *point = value;
        }
    }
    points
}

fn history(Range { end, step, .. }: Range, answers: &[Vec<Option<f64>>]) -> History {
    let of = |index: usize| answers.get(index).cloned().unwrap_or_default();
    let or_zero = |index: usize| of(index).into_iter().map(|value| value.unwrap_or(0.0));
    let counts = |index: usize| or_zero(index).map(|value| value.max(0.0).round() as u64);
    History {
        end_ms: end * 1000,
        step_ms: step * 1000,
        ready: counts(0).map(|count| u32::try_from(count).unwrap_or(u32::MAX)).collect(),
        in_flight: counts(1).collect(),
        queued: counts(2).collect(),
        requests_per_second: or_zero(3).collect(),
        tokens_per_second: or_zero(4).collect(),
        first_token_p95_ms: of(5),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_has_as_many_points_as_a_chart_shows_and_stays_within_bounds() {
        let day = range(24, 1_790_000_123);
        assert_eq!((day.step, (day.end - day.start) / day.step), (360, 240));
        assert_eq!(day.end % day.step, 0);
        assert_eq!(range(1, 1_790_000_000).step, 30);
        assert_eq!(range(0, 1_790_000_000), range(1, 1_790_000_000));
        assert_eq!(range(u64::MAX, 1_790_000_000), range(MOST_HOURS, 1_790_000_000));
    }

    #[test]
    fn a_name_is_no_part_of_the_language() {
        let [ready, .., first_token] = queries("demo/a\"} or up{x=\"", 360);
        assert_eq!(
            ready,
            "max(wharf_gateway_endpoints{service=\"demo/a\\\"} or up{x=\\\"\",state=\"ready\"})"
        );
        assert!(first_token.contains("wharf_gateway_first_byte_seconds_bucket{"), "{first_token}");
        assert!(first_token.contains("[360s]"), "{first_token}");
    }

    #[test]
    fn values_stand_at_their_times_and_gaps_stay_gaps() {
        let range = Range { start: 1000, end: 1120, step: 60 };
        let series = |values: &[(f64, &str)]| Series {
            values: values.iter().map(|(at, value)| (*at, (*value).to_owned())).collect(),
        };
        let rates = points(&[series(&[(1000.0, "1.5"), (1120.0, "NaN"), (9000.0, "7")])], range);
        assert_eq!(rates, [Some(1.5), None, None]);
        let history =
            history(range, &[vec![Some(2.4), None, Some(3.0)], vec![], vec![], rates.clone(), vec![], rates]);
        assert_eq!((history.end_ms, history.step_ms), (1_120_000, 60_000));
        assert_eq!(history.ready, [2, 0, 3]);
        assert_eq!(history.requests_per_second, [1.5, 0.0, 0.0]);
        assert_eq!(history.first_token_p95_ms, [Some(1.5), None, None]);
    }
}
