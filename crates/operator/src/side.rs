//! The operator's port for kubelet and Prometheus: health, readiness, metrics. It says how the operator is and changes nothing.

mod count;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kube::api::DynamicObject;
use kube::runtime::reflector::Store;
use tokio::net::TcpListener;
use tokio::sync::watch;
use wharf_listen::side::{self, HowItIs};
use wharf_telemetry::build;
use wharf_telemetry::metrics::{EncodeError, Metrics, operator as table};

/// How the operator is, for whoever asks.
#[derive(Clone)]
pub struct Side {
    metrics: Arc<Metrics>,
    state: Arc<Mutex<State>>,
}

/// What it does.
#[derive(Default)]
enum State {
    /// It has not got so far as to want to work.
    #[default]
    Starting,
    /// Another one works.
    StandingBy,
    /// It reads what there is.
    Listing,
    /// It works.
    Working {
        kinds: Vec<(&'static str, Store<DynamicObject>)>,
        gateways: Arc<dyn Fn() -> usize + Send + Sync>,
    },
}

impl Default for Side {
    fn default() -> Side {
        let metrics = Metrics::new(table::ALL);
        metrics.set(&table::BUILD_INFO, &[build::VERSION, build::COMMIT], 1.0);
        metrics.set(&table::LEADER, &[], 0.0);
        Side { metrics: Arc::new(metrics), state: Arc::default() }
    }
}

impl Side {
    /// Serves the port until `stop`.
    pub async fn serve(self, socket: TcpListener, stop: watch::Receiver<bool>) {
        side::serve(Arc::new(self), socket, stop).await;
    }

    pub(crate) fn record(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// It waits until another one is gone.
    pub(crate) fn stands_by(&self) {
        self.turn(State::StandingBy);
    }

    /// It reads what there is.
    pub(crate) fn lists(&self) {
        self.turn(State::Listing);
    }

    /// It works, on objects of these kinds.
    pub(crate) fn works(
        &self,
        kinds: Vec<(&'static str, Store<DynamicObject>)>,
        gateways: impl Fn() -> usize + Send + Sync + 'static,
    ) {
        self.turn(State::Working { kinds, gateways: Arc::new(gateways) });
    }

    fn turn(&self, state: State) {
        let leads = matches!(state, State::Listing | State::Working { .. });
        self.metrics.set(&table::LEADER, &[], if leads { 1.0 } else { 0.0 });
        *self.state() = state;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HowItIs for Side {
    fn ready(&self) -> Result<&'static str, &'static str> {
        match *self.state() {
            State::Starting => Err("the API server has not answered yet"),
            State::Listing => Err("reading what the cluster has"),
            State::StandingBy => Ok("standing by"),
            State::Working { .. } => Ok("working"),
        }
    }

    /// Objects are counted here: at every change of one it would cost too much.
    fn metrics(&self) -> Result<String, EncodeError> {
        let metrics = &self.metrics;
        metrics.encode_anew(&count::OF_OBJECTS, || {
            let State::Working { kinds, gateways } = &*self.state() else { return };
            for (kind, store) in kinds {
                let objects = store.state();
                let ready = objects.iter().filter(|object| is_ready(object)).count();
                for (holds, count) in [("true", ready), ("false", objects.len() - ready)] {
                    metrics.set(&table::OBJECTS, &[kind, holds], count as f64);
                }
                for object in &objects {
                    count::object(kind, object, &mut |metric, labels, value| {
                        metrics.set(metric, labels, value)
                    });
                }
            }
            metrics.set(&table::GATEWAYS, &[], gateways() as f64);
        })
    }
}

fn is_ready(object: &DynamicObject) -> bool {
    let conditions = object.data["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|known| known["type"] == "Ready" && known["status"] == "True")
}

#[cfg(test)]
mod tests {
    use kube::api::ApiResource;
    use kube::runtime::reflector::store::Writer;
    use kube::runtime::watcher::Event;

    use http::Method;

    use super::*;

    fn status(side: &Side, path: &str) -> u16 {
        side::answer(side, &Method::GET, path).status().as_u16()
    }

    #[test]
    fn an_operator_is_ready_when_it_works_or_stands_by() {
        let side = Side::default();
        assert_eq!((status(&side, "/health"), status(&side, "/ready")), (200, 503));
        side.stands_by();
        assert_eq!(status(&side, "/ready"), 200);
        side.lists();
        assert_eq!(status(&side, "/ready"), 503);
        side.works(Vec::new(), || 0);
        assert_eq!(status(&side, "/ready"), 200);
        assert_eq!(status(&side, "/elsewhere"), 404);
    }

    #[test]
    fn metrics_say_who_leads() {
        let side = Side::default();
        side.works(Vec::new(), || 2);
        let text = HowItIs::metrics(&side).unwrap();
        assert!(text.contains("wharf_operator_leader 1\n"), "{text}");
        assert!(text.contains("wharf_operator_gateways 2\n"), "{text}");
    }

    #[test]
    fn an_object_that_is_gone_is_not_told_of_any_more_nor_by_one_who_stands_by() {
        let resource = ApiResource::erase::<wharf_spec::LLMService>(&());
        let object = |name: &str| -> DynamicObject {
            let metadata = serde_json::json!({"namespace": "demo", "name": name});
            let object = serde_json::json!({
                "apiVersion": "wharf.dev/v1alpha1", "kind": "LLMService", "metadata": metadata, "spec": {},
                "status": {"phase": "Ready"},
            });
            serde_json::from_value(object).unwrap()
        };
        let mut writer = Writer::new(resource);
        let (side, store) = (Side::default(), writer.as_reader());
        side.works(vec![("LLMService", store)], || 0);
        let told = |name: &str| {
            let line = format!("wharf_operator_service_phase{{phase=\"Ready\",service=\"demo/{name}\"}} 1\n");
            HowItIs::metrics(&side).unwrap().contains(&line)
        };
        for name in ["a", "b"] {
            writer.apply_watcher_event(&Event::Apply(object(name)));
        }
        assert!(told("a") && told("b"));
        writer.apply_watcher_event(&Event::Delete(object("a")));
        assert!(!told("a") && told("b"));
        side.stands_by();
        assert!(!told("b"));
    }
}
