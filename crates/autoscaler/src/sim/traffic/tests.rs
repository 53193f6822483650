//! Generated traffic has the statistics that it was made from.

use std::time::Duration;

use super::*;

fn generate(traffic: &Traffic, hours: u64) -> Vec<Arrival> {
    let scenario = Scenario { duration: Duration::from_secs(hours * 3600), ..Scenario::default() };
    let requests = traffic.generate(&scenario).unwrap();
    assert!(requests.is_sorted_by(|a, b| a.at <= b.at));
    assert!(
        requests.iter().all(|r| r.at >= 0.0 && r.at < hours as f64 * 3600.0 && r.prompt > 0 && r.answer > 0)
    );
    requests
}

struct Statistics {
    rate: f64,
    empty_10s: f64,
    empty_60s: f64,
    dispersion_60s: f64,
}

fn statistics(requests: &[Arrival], hours: u64) -> Statistics {
    let end = hours as f64 * 3600.0;
    let counts = |window: f64| {
        let mut counts = vec![0.0; (end / window) as usize];
        for r in requests {
            if let Some(n) = counts.get_mut((r.at / window) as usize) {
                *n += 1.0;
            }
        }
        counts
    };
    let empty = |c: &[f64]| c.iter().filter(|n| **n == 0.0).count() as f64 / c.len() as f64;
    let minutes = counts(60.0);
    let mean = minutes.iter().sum::<f64>() / minutes.len() as f64;
    let variance = minutes.iter().map(|n| (n - mean).powi(2)).sum::<f64>() / minutes.len() as f64;
    Statistics {
        rate: requests.len() as f64 / end,
        empty_10s: empty(&counts(10.0)),
        empty_60s: empty(&minutes),
        dispersion_60s: variance / mean,
    }
}

fn near(value: f64, expected: f64, share: f64) {
    assert!((value - expected).abs() <= expected * share, "{value} is not about {expected}");
}

fn quantile(requests: &[Arrival], of: fn(&Arrival) -> u32, q: f64) -> f64 {
    let mut values: Vec<u32> = requests.iter().map(of).collect();
    values.sort_unstable();
    f64::from(values[(q * (values.len() - 1) as f64) as usize])
}

#[test]
fn code_traffic_has_the_statistics_of_its_trace() {
    let requests = generate(&Traffic::AzureCode { scale: 1.0 }, 48);
    let found = statistics(&requests, 48);
    near(found.rate, 2.57, 0.06);
    near(found.empty_10s, 0.56, 0.1);
    near(found.empty_60s, 0.21, 0.15);
    near(found.dispersion_60s, 161.0, 0.2);
    near(quantile(&requests, |r| r.prompt, 0.5), 1469.0, 0.05);
    near(quantile(&requests, |r| r.answer, 0.9), 55.0, 0.1);
}

#[test]
fn conversation_traffic_has_the_statistics_of_its_trace() {
    let requests = generate(&Traffic::AzureConversation { scale: 1.0 }, 24);
    let found = statistics(&requests, 24);
    near(found.rate, 5.53, 0.06);
    near(found.dispersion_60s, 20.6, 0.25);
    assert_eq!(found.empty_60s, 0.0);
    near(quantile(&requests, |r| r.prompt, 0.5), 1020.0, 0.05);
    near(quantile(&requests, |r| r.answer, 0.9), 424.0, 0.05);
}

#[test]
fn gamma_gaps_have_their_mean_and_spread() {
    let requests = generate(&Traffic::Gamma { rps: 5.0, shape: 0.25 }, 10);
    let gaps: Vec<f64> = requests.windows(2).map(|w| w[1].at - w[0].at).collect();
    let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
    let deviation = (gaps.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / gaps.len() as f64).sqrt();
    near(mean, 0.2, 0.05);
    near(deviation / mean, 2.0, 0.1);
}

#[test]
fn a_day_is_quiet_at_its_ends() {
    let requests = generate(&Traffic::Diurnal { rps: 2.0, swing: 0.9, day_s: 86_400.0 }, 24);
    near(requests.len() as f64 / 86_400.0, 2.0, 0.05);
    let within = |from: f64, to: f64| {
        requests.iter().filter(|r| r.at >= from * 3600.0 && r.at < to * 3600.0).count() as f64
    };
    assert!(within(11.0, 13.0) > 10.0 * (within(0.0, 1.0) + within(23.0, 24.0)));
    let burst = generate(&Traffic::BurstGpt { scale: 10.0 }, 24);
    near(burst.len() as f64 / 86_400.0, 5.06, 0.1);
    assert!(burst.iter().all(|r| r.prompt <= 1024));
}

#[test]
fn a_seed_says_everything() {
    let traffic = Traffic::Bursty { calm_rps: 1.0, burst_rps: 20.0, calm_s: 60.0, burst_s: 10.0 };
    assert_eq!(generate(&traffic, 1), generate(&traffic, 1));
    let herd = generate(&Traffic::Herds { size: 7, every_s: 600.0 }, 5);
    assert_eq!(herd.len() % 7, 0);
}

#[test]
fn a_trace_is_read_in_order_and_a_wrong_line_is_named() {
    let path = Path::new("day.csv");
    let requests = parse_trace("arrival,prompt,answer\n2.5,10,3\n0.5, 7 ,1\n\n", path).unwrap();
    let expected = [Arrival { at: 0.5, prompt: 7, answer: 1 }, Arrival { at: 2.5, prompt: 10, answer: 3 }];
    assert_eq!(requests, expected);
    let error = parse_trace("0,1,1\n1,two,3\n", path).unwrap_err().to_string();
    assert_eq!(
        error,
        "failed to read line 2 of the trace day.csv: \"1,two,3\" is not arrival,prompt,answer (seconds, tokens, tokens)"
    );
}
