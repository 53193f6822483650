//! What an `LLMService` says of scaling, as a [`Policy`]. Refuses what Wharf's autoscaler cannot do rather than leave it out.
//!
//! `behavior` means what it means in `autoscaling/v2`, whose validation the CRD does not repeat: so its ranges are checked here. The parts
//! that are absent get that API's defaults, each by itself.

use std::time::Duration;

use k8s_openapi::api::autoscaling::v2::{HPAScalingPolicy, HPAScalingRules};
use wharf_spec::scalar::Quantity;
use wharf_spec::service::{self, Scaling};

use crate::policy::{Amount, Limit, Policy, Rules, Select, Targets};
use crate::{Schedule, ScheduleError};

/// Longest window of stabilisation that `autoscaling/v2` takes, in seconds.
const MAX_STABILIZATION_S: i32 = 3600;
/// Longest time of a limit that `autoscaling/v2` takes, in seconds.
const MAX_PERIOD_S: i32 = 1800;

/// What an `LLMService` says of scaling, as Wharf's own autoscaler follows it.
///
/// `mode` is not looked at: whether this autoscaler decides is for the caller to ask.
///
/// # Errors
/// A sentence for whoever wrote the object, which begins with the field: a target that this autoscaler does not know, a schedule that is
/// no time, a `behavior` that Kubernetes would refuse.
pub fn policy(scaling: &Scaling) -> Result<Policy, String> {
    let Scaling { mode: _, min, max: _, target, idle_after, behavior, schedules } = scaling;
    let rules = |direction: &'static str, given: Option<&HPAScalingRules>, default: Rules| match given {
        Some(given) => rules(given, default).map_err(|error| format!("scaling.behavior.{direction}.{error}")),
        None => Ok(default),
    };
    let (up, down) =
        behavior.as_ref().map_or((None, None), |both| (both.scale_up.as_ref(), both.scale_down.as_ref()));
    let policy = Policy {
        min: *min,
        max: scaling.most(),
        targets: targets(target)?,
        up: rules("scaleUp", up, Rules::up())?,
        down: rules("scaleDown", down, Rules::down())?,
        idle_after: idle_after.get(),
        schedules: schedules.iter().enumerate().map(schedule).collect::<Result<_, _>>()?,
        ..Policy::default()
    };
    policy.check().map_err(|error| format!("scaling: {error}"))?;
    Ok(policy)
}

fn targets(given: &service::Targets) -> Result<Targets, String> {
    let service::Targets {
        concurrency,
        requests_per_second,
        queue,
        kv_cache,
        tokens_in_flight,
        gpu,
        cpu,
        memory,
        ttft_p95,
    } = given;
    for (field, value) in [("gpu", gpu), ("cpu", cpu), ("memory", memory)] {
        if value.is_some() {
            return Err(format!(
                "scaling.target.{field}: is known to modes hpa and keda only: Wharf's autoscaler counts requests and tokens, not how \
                 busy machines are; choose another target or another mode"
            ));
        }
    }
    Ok(Targets {
        concurrency: concurrency.map(f64::from),
        requests_per_second: requests_per_second.as_ref().map(in_units),
        queue: queue.map(f64::from),
        kv_cache: kv_cache.as_ref().map(|share| share.ratio()),
        tokens_in_flight: tokens_in_flight.map(f64::from),
        ttft_p95: ttft_p95.as_ref().map(|time| time.get()),
    })
}

fn schedule((i, given): (usize, &service::Schedule)) -> Result<Schedule, String> {
    let service::Schedule { start, end, time_zone, min } = given;
    Schedule::new(start, end, time_zone, *min).map_err(|error| {
        let field = match error {
            ScheduleError::Cron { ref text, .. } if text == start => "start",
            ScheduleError::Cron { .. } => "end",
            ScheduleError::Zone { .. } => "timeZone",
        };
        format!("scaling.schedules[{i}].{field}: {error}")
    })
}

/// One direction of `behavior`. The error begins with the field below it.
fn rules(given: &HPAScalingRules, default: Rules) -> Result<Rules, String> {
    let HPAScalingRules { policies, select_policy, stabilization_window_seconds, tolerance } = given;
    let limits = match policies {
        None => default.limits,
        Some(none) if none.is_empty() => return Err("policies: must have one at least".to_owned()),
        Some(policies) => policies.iter().enumerate().map(limit).collect::<Result<_, _>>()?,
    };
    let select = match select_policy.as_deref() {
        None => default.select,
        Some("Max") => Select::Max,
        Some("Min") => Select::Min,
        Some("Disabled") => Select::Disabled,
        Some(other) => return Err(format!("selectPolicy: must be Max, Min or Disabled, not {other:?}")),
    };
    let stabilization = match stabilization_window_seconds {
        None => default.stabilization,
        Some(s) => within("stabilizationWindowSeconds", *s, 0, MAX_STABILIZATION_S)
            .map(|s| Duration::from_secs(s.into()))?,
    };
    let tolerance = match tolerance {
        None => default.tolerance,
        Some(text) => {
            Some(Quantity::parse(&text.0).map(|q| in_units(&q)).map_err(|e| format!("tolerance: {e}"))?)
        }
    };
    Ok(Rules { stabilization, select, limits, tolerance })
}

fn limit((i, given): (usize, &HPAScalingPolicy)) -> Result<Limit, String> {
    let HPAScalingPolicy { period_seconds, type_, value } = given;
    let limit = || {
        let value = within("value", *value, 1, i32::MAX)?;
        let most = match type_.as_str() {
            "Pods" => Amount::Replicas(value),
            "Percent" => Amount::Percent(value),
            other => return Err(format!("type: must be Pods or Percent, not {other:?}")),
        };
        let every = within("periodSeconds", *period_seconds, 1, MAX_PERIOD_S)?;
        Ok(Limit { most, every: Duration::from_secs(every.into()) })
    };
    limit().map_err(|error| format!("policies[{i}].{error}"))
}

fn within(field: &str, value: i32, least: i32, most: i32) -> Result<u32, String> {
    match u32::try_from(value) {
        Ok(number) if (least..=most).contains(&value) => Ok(number),
        _ if most == i32::MAX => Err(format!("{field}: must be at least {least}, not {value}")),
        _ => Err(format!("{field}: must be from {least} to {most}, not {value}")),
    }
}

fn in_units(quantity: &Quantity) -> f64 {
    quantity.milli() as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(scaling: serde_json::Value) -> Result<Policy, String> {
        policy(&serde_json::from_value(scaling).unwrap())
    }

    #[test]
    fn a_section_that_says_nothing_is_the_default_policy() {
        assert_eq!(of(json!({})), Ok(Policy::default()));
    }

    #[test]
    fn every_field_arrives() {
        let found = of(json!({
            "mode": "native", "min": 0, "max": 8, "idleAfter": "90s",
            "target": {
                "concurrency": 24, "requestsPerSecond": "500m", "queue": 3, "kvCache": "75%", "tokensInFlight": 20000,
                "ttftP95": "1500ms",
            },
            "behavior": {
                "scaleUp": {
                    "stabilizationWindowSeconds": 30, "selectPolicy": "Min", "tolerance": "0.05",
                    "policies": [
                        {"type": "Pods", "value": 2, "periodSeconds": 60},
                        {"type": "Percent", "value": 50, "periodSeconds": 120},
                    ],
                },
                "scaleDown": {"selectPolicy": "Disabled"},
            },
            "schedules": [{"start": "0 8 * * 1-5", "end": "0 18 * * 1-5", "timeZone": "Europe/Berlin", "min": 3}],
        }));
        let expected = Policy {
            min: 0,
            max: 8,
            targets: Targets {
                concurrency: Some(24.0),
                requests_per_second: Some(0.5),
                queue: Some(3.0),
                kv_cache: Some(0.75),
                tokens_in_flight: Some(20_000.0),
                ttft_p95: Some(Duration::from_millis(1500)),
            },
            up: Rules {
                stabilization: Duration::from_secs(30),
                select: Select::Min,
                limits: vec![
                    Limit { most: Amount::Replicas(2), every: Duration::from_secs(60) },
                    Limit { most: Amount::Percent(50), every: Duration::from_secs(120) },
                ],
                tolerance: Some(0.05),
            },
            down: Rules { select: Select::Disabled, ..Rules::down() },
            idle_after: Duration::from_secs(90),
            schedules: vec![Schedule::new("0 8 * * 1-5", "0 18 * * 1-5", "Europe/Berlin", 3).unwrap()],
            ..Policy::default()
        };
        assert_eq!(found, Ok(expected));
    }

    #[test]
    fn the_most_is_what_the_section_says_it_is() {
        let most = |scaling| of(scaling).unwrap().max;
        assert_eq!([json!({"min": 0}), json!({"min": 3}), json!({"min": 1, "max": 4})].map(most), [1, 3, 4]);
    }

    #[test]
    fn what_cannot_be_followed_is_refused_with_its_field() {
        let up = |rules| json!({"behavior": {"scaleUp": rules}});
        let limit = |kind, value, period| {
            up(json!({"policies": [{"type": kind, "value": value, "periodSeconds": period}]}))
        };
        let schedule = |start, end, zone| json!({"schedules": [{"start": start, "end": end, "timeZone": zone, "min": 1}]});
        let cases = [
            (json!({"target": {"gpu": 80}}), "scaling.target.gpu: is known to modes hpa and keda only"),
            (json!({"target": {"cpu": 80}}), "scaling.target.cpu: is known to modes hpa and keda only"),
            (json!({"target": {"memory": 80}}), "scaling.target.memory: is known to modes hpa and keda only"),
            (json!({"target": {"requestsPerSecond": 0}}), "scaling: target requests per second is 0"),
            (json!({"target": {"concurrency": 0}}), "scaling: target concurrency is 0"),
            (limit("Nodes", 1, 60), "scaling.behavior.scaleUp.policies[0].type: must be Pods or Percent"),
            (limit("Pods", 0, 60), "scaling.behavior.scaleUp.policies[0].value: must be at least 1, not 0"),
            (
                limit("Pods", 1, 1801),
                "scaling.behavior.scaleUp.policies[0].periodSeconds: must be from 1 to 1800",
            ),
            (up(json!({"policies": []})), "scaling.behavior.scaleUp.policies: must have one at least"),
            (
                up(json!({"selectPolicy": "max"})),
                "scaling.behavior.scaleUp.selectPolicy: must be Max, Min or",
            ),
            (
                json!({"behavior": {"scaleDown": {"stabilizationWindowSeconds": -1}}}),
                "scaling.behavior.scaleDown.stabilizationWindowSeconds: must be from 0 to 3600, not -1",
            ),
            (up(json!({"tolerance": "a tenth"})), "scaling.behavior.scaleUp.tolerance: must be a quantity"),
            (schedule("noon", "0 1 * * *", "Etc/UTC"), "scaling.schedules[0].start: failed to read the time"),
            (schedule("0 1 * * *", "noon", "Etc/UTC"), "scaling.schedules[0].end: failed to read the time"),
            (
                schedule("0 1 * * *", "0 2 * * *", "Moon/Base"),
                "scaling.schedules[0].timeZone: failed to find",
            ),
        ];
        for (scaling, begins) in cases {
            let text = scaling.to_string();
            let error = of(scaling).unwrap_err();
            assert!(error.starts_with(begins), "{text}: {error}");
        }
    }
}
