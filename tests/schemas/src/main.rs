//! Passes objects through types that are generated from the published CRDs of other projects, and says what is lost on the way.
//!
//! Takes a file with a JSON list of objects, prints a JSON object with the complaints. A field that is misspelt, in the wrong place
//! or of the wrong type does not come back.

use anyhow::Context;
use kcr_gateway_networking_k8s_io::v1::httproutes::HttpRoute;
use kcr_keda_sh::v1alpha1::scaledobjects::ScaledObject;
use kcr_leaderworkerset_x_k8s_io::v1::leaderworkersets::LeaderWorkerSet;
use kcr_monitoring_coreos_com::v1::podmonitors::PodMonitor;
use kcr_monitoring_coreos_com::v1::prometheusrules::PrometheusRule;
use kcr_monitoring_coreos_com::v1::servicemonitors::ServiceMonitor;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

type RoundTrip = fn(&Value) -> Result<Value, serde_json::Error>;

const KINDS: &[(&str, &str, RoundTrip)] = &[
    ("gateway.networking.k8s.io/v1", "HTTPRoute", through::<HttpRoute>),
    ("keda.sh/v1alpha1", "ScaledObject", through::<ScaledObject>),
    ("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet", through::<LeaderWorkerSet>),
    ("monitoring.coreos.com/v1", "PodMonitor", through::<PodMonitor>),
    ("monitoring.coreos.com/v1", "PrometheusRule", through::<PrometheusRule>),
    ("monitoring.coreos.com/v1", "ServiceMonitor", through::<ServiceMonitor>),
];

fn through<T: Serialize + DeserializeOwned>(object: &Value) -> Result<Value, serde_json::Error> {
    serde_json::to_value(serde_json::from_value::<T>(object.clone())?)
}

fn main() -> anyhow::Result<()> {
    let path = std::env::args_os().nth(1).context("give the file with the objects")?;
    let objects: Vec<Value> = serde_json::from_slice(&std::fs::read(&path).context("failed to read the objects")?)
        .context("failed to parse the objects")?;
    let (mut checked, mut complaints) = (0, Vec::new());
    for object in &objects {
        let known = KINDS.iter().find(|(api, kind, _)| object["apiVersion"] == *api && object["kind"] == *kind);
        let Some((_, kind, through)) = known else { continue };
        checked += 1;
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        match through(object) {
            Ok(back) => lost(object, &back, "", &mut |field| complaints.push(format!("{kind} {name}: {field} is lost"))),
            Err(error) => complaints.push(format!("{kind} {name}: {error}")),
        }
    }
    println!("{}", json!({"checker": "kcr", "checked": checked, "complaints": complaints}));
    Ok(())
}

/// Paths of what `before` has and `after` has not, or has otherwise.
fn lost(before: &Value, after: &Value, path: &str, complain: &mut dyn FnMut(&str)) {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            for (key, value) in before {
                lost(value, after.get(key).unwrap_or(&Value::Null), &format!("{path}.{key}"), complain);
            }
        }
        (Value::Array(before), Value::Array(after)) if before.len() == after.len() => {
            for (index, (before, after)) in before.iter().zip(after).enumerate() {
                lost(before, after, &format!("{path}[{index}]"), complain);
            }
        }
        // A type may hold a number that was written as a whole one in another form.
        (Value::Number(before), Value::Number(after)) if before.as_f64() == after.as_f64() => {}
        (before, after) if before == after => {}
        _ => complain(path),
    }
}
