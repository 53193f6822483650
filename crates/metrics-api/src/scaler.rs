//! KEDA's external scaler (KEDA documentation, "External Scalers"): whether a service has anything to do, and how much. KEDA is told of demand the
//! moment that gateways tell it, so that a sleeping service wakes at once.

mod wire;

use std::future::ready;
use std::sync::Arc;

use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use wharf_autoscaler::Load;
use wharf_listen::grpc::{self, Answered, Asked};

use crate::metric::{self, Metric, PodSeen};
use crate::sources::Sources;

pub use wire::{
    GetMetricSpecResponse, GetMetricsRequest, GetMetricsResponse, IsActiveResponse, MetricSpec, MetricValue,
    ScaledObjectRef, method,
};

/// Answers KEDA.
#[derive(Clone)]
pub(crate) struct Scaler(pub(crate) Arc<Sources>);

/// What a ScaledObject's trigger asks for.
#[derive(Clone, Debug, PartialEq)]
struct Trigger {
    namespace: String,
    service: String,
    metric: String,
    target: f64,
}

/// Whose metric it is.
enum Found {
    /// Known at gateways, also while there is no pod.
    Service(&'static Metric<Load>),
    /// Summed over pods.
    Pods(&'static Metric<PodSeen>),
}

impl Scaler {
    /// Answers a call.
    pub(crate) async fn answer(self, asked: Asked) -> Answered {
        let path = asked.uri().path().to_owned();
        match path.as_str() {
            method::IS_ACTIVE => grpc::answer(asked, |of: ScaledObjectRef| ready(self.is_active(&of))).await,
            method::STREAM_IS_ACTIVE => grpc::stream(asked, |of: ScaledObjectRef| self.watch(of)).await,
            method::GET_METRIC_SPEC => grpc::answer(asked, |of: ScaledObjectRef| ready(spec(&of))).await,
            method::GET_METRICS => {
                grpc::answer(asked, |request: GetMetricsRequest| async move { self.metrics(&request).await })
                    .await
            }
            // Optional: KEDA then asks for the specification itself.
            _ => grpc::unknown(),
        }
    }

    fn is_active(&self, of: &ScaledObjectRef) -> Result<IsActiveResponse, Status> {
        let trigger = trigger(of)?;
        Ok(IsActiveResponse { result: self.has_work(&trigger) })
    }

    /// Whether anything has been asked of a service lately. A service that no gateway knows has nothing to do.
    fn has_work(&self, trigger: &Trigger) -> bool {
        let load = self.0.services.load(&format!("{}/{}", trigger.namespace, trigger.service));
        load.is_some_and(|load| {
            load.latest.queued + load.latest.in_flight > 0.0 || load.stable.arrivals > 0.0
        })
    }

    /// What [`Scaler::is_active`] says, now and whenever it changes.
    fn watch(self, of: ScaledObjectRef) -> ReceiverStream<Result<IsActiveResponse, Status>> {
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        let mut news = self.0.services.news();
        tokio::spawn(async move {
            let mut told = None;
            loop {
                news.borrow_and_update();
                let active = match self.is_active(&of) {
                    Ok(answer) => answer.result,
                    Err(wrong) => {
                        // It will not be right later. Whether KEDA still listens makes no difference.
                        let _ = sender.send(Err(wrong)).await;
                        return;
                    }
                };
                if told != Some(active) {
                    told = Some(active);
                    if sender.send(Ok(IsActiveResponse { result: active })).await.is_err() {
                        return;
                    }
                }
                tokio::select! {
                    () = sender.closed() => return,
                    changed = news.changed() => if changed.is_err() { return },
                }
            }
        });
        ReceiverStream::new(receiver)
    }

    async fn metrics(&self, request: &GetMetricsRequest) -> Result<GetMetricsResponse, Status> {
        let of = request
            .scaled_object_ref
            .as_ref()
            .ok_or_else(|| Status::invalid_argument("no ScaledObject is named"))?;
        let trigger = trigger(of)?;
        let name = format!("{}/{}", trigger.namespace, trigger.service);
        let value = match find(&trigger.metric)? {
            Found::Service(metric) => {
                let load = self.0.services.load(&name);
                load.and_then(|load| (metric.value)(&load))
                    .ok_or_else(|| Status::unavailable(format!("no gateway says what is asked of {name}")))?
            }
            Found::Pods(metric) => self.0.sum_of_pods(metric, &trigger.namespace, &trigger.service).await,
        };
        let whole = value.ceil() as i64;
        let value =
            MetricValue { metric_name: trigger.metric, metric_value: whole, metric_value_float: value };
        Ok(GetMetricsResponse { metric_values: vec![value] })
    }
}

fn spec(of: &ScaledObjectRef) -> Result<GetMetricSpecResponse, Status> {
    let Trigger { metric, target, .. } = trigger(of)?;
    find(&metric)?;
    let spec =
        MetricSpec { metric_name: metric, target_size: target.ceil() as i64, target_size_float: target };
    Ok(GetMetricSpecResponse { metric_specs: vec![spec] })
}

fn find(name: &str) -> Result<Found, Status> {
    let of_service = metric::find(metric::SERVICE, name).map(Found::Service);
    of_service.or_else(|| metric::find(metric::POD, name).map(Found::Pods)).ok_or_else(|| {
        let known = metric::SERVICE.iter().map(|metric| metric.name);
        let known: Vec<&str> = known.chain(["gpu_utilization", "gpu_memory_used"]).collect();
        Status::invalid_argument(format!("there is no metric {name:?}; there are {}", known.join(", ")))
    })
}

/// What a trigger's metadata asks for.
fn trigger(of: &ScaledObjectRef) -> Result<Trigger, Status> {
    let field = |name: &str| of.scaler_metadata.get(name).filter(|value| !value.is_empty());
    let missing = |name: &str| Status::invalid_argument(format!("the trigger's metadata has no {name:?}"));
    let target = field("target").ok_or_else(|| missing("target"))?;
    let target =
        target.parse().ok().filter(|target: &f64| target.is_finite() && *target > 0.0).ok_or_else(|| {
            Status::invalid_argument(format!("the trigger's target {target:?} is no number above zero"))
        })?;
    Ok(Trigger {
        namespace: of.namespace.clone(),
        // A ScaledObject of ours is called like its service.
        service: field("service").unwrap_or(&of.name).clone(),
        metric: field("metric").ok_or_else(|| missing("metric"))?.clone(),
        target,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(metadata: &[(&str, &str)]) -> ScaledObjectRef {
        let metadata = metadata.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        ScaledObjectRef {
            name: "assistant".to_owned(),
            namespace: "demo".to_owned(),
            scaler_metadata: metadata.collect(),
        }
    }

    #[test]
    fn a_trigger_says_metric_and_target() {
        let spec = spec(&object(&[("metric", "requests_running"), ("target", "2.5")])).unwrap();
        assert_eq!(spec.metric_specs[0].metric_name, "requests_running");
        assert_eq!((spec.metric_specs[0].target_size, spec.metric_specs[0].target_size_float), (3, 2.5));
    }

    #[test]
    fn a_trigger_that_makes_no_sense_is_told_why() {
        for (metadata, told) in [
            (&[("metric", "x"), ("target", "1")][..], "requests_per_second"),
            (&[("target", "1")], "\"metric\""),
            (&[("metric", "requests_running")], "\"target\""),
            (&[("metric", "requests_running"), ("target", "0")], "above zero"),
        ] {
            let error = spec(&object(metadata)).unwrap_err();
            assert!(error.message().contains(told), "{error}");
        }
    }
}
