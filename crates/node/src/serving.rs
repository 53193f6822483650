//! What the models of a node do, as metrics that join those of its GPUs. Pure.
//!
//! A line says what a pod's engine said when it was read last. A pod that does not answer has no line: an old value would look like a new one.

pub(crate) mod pods;

use std::collections::BTreeSet;

use wharf_telemetry::engines::Engine;
use wharf_telemetry::metrics::{Metric, serving as table};

use crate::exporter::About;
use crate::gpu::{Gpu, Inventory};
use crate::kubelet::pod_resources::Holders;
use crate::lines::Lines;

/// A pod that answers requests.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Served {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub pod: String,
    /// The service that it belongs to.
    pub service: String,
    /// The version of the service; empty if there is one alone.
    pub colour: String,
    /// What its engine said.
    pub engine: Engine,
}

type Value = fn(&Engine) -> Option<f64>;

static OF_POD: &[(&Metric, Value)] = &[
    (&table::REQUESTS_RUNNING, |engine| Some(engine.load.running.into())),
    (&table::REQUESTS_WAITING, |engine| Some(engine.load.waiting.into())),
    (&table::KV_CACHE_USAGE, |engine| engine.kv_cache),
    (&table::REQUESTS_FINISHED, |engine| engine.load.finished),
];

/// All lines, in Prometheus' text format.
pub fn render(served: &[Served], inventory: &Inventory, holders: &Holders, about: &About) -> String {
    let mut text = String::new();
    for (metric, value) in OF_POD {
        let mut lines = Lines::new(&mut text, metric, &about.hostname_label);
        for pod in served {
            if let Some(value) = value(&pod.engine) {
                lines.add(value, |label| pod.label(label, about));
            }
        }
    }
    let mut lines = Lines::new(&mut text, &table::GPU_INFO, &about.hostname_label);
    for pod in served {
        for (uuid, container) in held(pod, inventory, holders) {
            lines.add(1.0, |label| match label {
                "UUID" => uuid.to_owned(),
                "container" => container.to_owned(),
                _ => pod.label(label, about),
            });
        }
    }
    text
}

/// The GPUs that a pod has or has a part of, and its container that has them; each once, so that a join finds one line.
fn held<'a>(pod: &Served, inventory: &'a Inventory, holders: &'a Holders) -> BTreeSet<(&'a str, &'a str)> {
    let is_its = |gpu: &Gpu, unit: &str| gpu.uuid == unit || gpu.parts().iter().any(|part| part.uuid == unit);
    let mut held = BTreeSet::new();
    for (unit, of_unit) in holders {
        let gpu = inventory.gpus.iter().find(|gpu| is_its(gpu, unit));
        for holder in of_unit {
            if (&holder.namespace, &holder.pod) == (&pod.namespace, &pod.pod)
                && let Some(gpu) = gpu
            {
                held.insert((gpu.uuid.as_str(), holder.container.as_str()));
            }
        }
    }
    held
}

impl Served {
    fn label(&self, label: &str, about: &About) -> String {
        match label {
            "namespace" => self.namespace.clone(),
            "pod" => self.pod.clone(),
            "service" => self.service.clone(),
            "colour" => self.colour.clone(),
            "model_name" => self.engine.model.clone().unwrap_or_default(),
            "Hostname" => about.node.clone(),
            _ => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use wharf_telemetry::engines::EngineLoad;

    use super::*;
    use crate::gpu::Mig;
    use crate::kubelet::pod_resources::Holder;
    use crate::testing::{gpu, part};

    fn about() -> About {
        About {
            node: "node-1".to_owned(),
            hostname_label: "Hostname".to_owned(),
            driver: "580.95.05".to_owned(),
        }
    }

    fn served(pod: &str, colour: &str) -> Served {
        let load = EngineLoad { running: 3, waiting: 2, finished: Some(7.0), ..EngineLoad::default() };
        Served {
            namespace: "demo".to_owned(),
            pod: pod.to_owned(),
            service: "assistant".to_owned(),
            colour: colour.to_owned(),
            engine: Engine { load, model: Some("qwen".to_owned()), kv_cache: Some(0.25) },
        }
    }

    fn holder(pod: &str, share: Option<&str>) -> Holder {
        Holder {
            namespace: "demo".to_owned(),
            pod: pod.to_owned(),
            container: "server".to_owned(),
            share: share.map(str::to_owned),
        }
    }

    fn inventory(gpus: Vec<Gpu>) -> Inventory {
        Inventory { gpus, ..Inventory::default() }
    }

    fn info(text: &str) -> Vec<&str> {
        text.lines().filter(|line| line.starts_with("wharf_model_gpu_info{")).collect()
    }

    #[test]
    fn a_model_has_its_load_and_its_gpus() {
        let holders = Holders::from([
            ("GPU-0".to_owned(), vec![holder("a", None)]),
            ("GPU-1".to_owned(), vec![holder("b", None)]),
        ]);
        let pods = [served("a", "blue"), served("b", "")];
        let text = render(&pods, &inventory(vec![gpu(0), gpu(1)]), &holders, &about());
        expect_test::expect![[r#"
            # HELP wharf_model_requests_running Requests that a pod computes.
            # TYPE wharf_model_requests_running gauge
            wharf_model_requests_running{namespace="demo",pod="a",service="assistant",colour="blue",model_name="qwen",Hostname="node-1"} 3
            wharf_model_requests_running{namespace="demo",pod="b",service="assistant",model_name="qwen",Hostname="node-1"} 3
            # HELP wharf_model_requests_waiting Requests that wait in a pod.
            # TYPE wharf_model_requests_waiting gauge
            wharf_model_requests_waiting{namespace="demo",pod="a",service="assistant",colour="blue",model_name="qwen",Hostname="node-1"} 2
            wharf_model_requests_waiting{namespace="demo",pod="b",service="assistant",model_name="qwen",Hostname="node-1"} 2
            # HELP wharf_model_kv_cache_usage_ratio Share of a pod's KV cache in use, 0 to 1; of several, the fullest.
            # TYPE wharf_model_kv_cache_usage_ratio gauge
            wharf_model_kv_cache_usage_ratio{namespace="demo",pod="a",service="assistant",colour="blue",model_name="qwen",Hostname="node-1"} 0.25
            wharf_model_kv_cache_usage_ratio{namespace="demo",pod="b",service="assistant",model_name="qwen",Hostname="node-1"} 0.25
            # HELP wharf_model_requests_finished_total Requests that have ended since a pod's engine started.
            # TYPE wharf_model_requests_finished_total counter
            wharf_model_requests_finished_total{namespace="demo",pod="a",service="assistant",colour="blue",model_name="qwen",Hostname="node-1"} 7
            wharf_model_requests_finished_total{namespace="demo",pod="b",service="assistant",model_name="qwen",Hostname="node-1"} 7
            # HELP wharf_model_gpu_info Always 1; the labels tell which model computes on which GPU. UUID is the GPU's, also where a part of it is held.
            # TYPE wharf_model_gpu_info gauge
            wharf_model_gpu_info{UUID="GPU-0",container="server",namespace="demo",pod="a",service="assistant",colour="blue",model_name="qwen",Hostname="node-1"} 1
            wharf_model_gpu_info{UUID="GPU-1",container="server",namespace="demo",pod="b",service="assistant",model_name="qwen",Hostname="node-1"} 1
        "#]].assert_eq(&text);
    }

    #[test]
    fn what_an_engine_does_not_tell_makes_no_line_and_no_label() {
        let load = EngineLoad { running: 1, ..EngineLoad::default() };
        let silent = Served { engine: Engine { load, ..Engine::default() }, ..served("a", "") };
        let text = render(&[silent], &Inventory::default(), &Holders::new(), &about());
        assert!(text.contains("wharf_model_requests_running{"), "{text}");
        for absent in ["kv_cache", "finished", "model_name=", "gpu_info"] {
            assert!(!text.contains(absent), "{absent}: {text}");
        }
    }

    #[test]
    fn without_models_there_is_no_line_and_no_header() {
        let holders = Holders::from([("GPU-0".to_owned(), vec![holder("a", None)])]);
        assert_eq!(render(&[], &inventory(vec![gpu(0)]), &holders, &about()), "");
    }

    #[test]
    fn a_join_finds_a_pods_gpu_once_however_it_is_shared_or_split() {
        let split = Mig::On(vec![part("MIG-a", "1g.10gb", 3), part("MIG-b", "1g.10gb", 4)]);
        let holders = Holders::from([
            (
                "GPU-0".to_owned(),
                vec![holder("a", Some("0")), holder("a", Some("1")), holder("b", Some("2"))],
            ),
            ("MIG-a".to_owned(), vec![holder("a", None)]),
            ("MIG-b".to_owned(), vec![holder("a", None)]),
            // Of a GPU that is not there any more.
            ("GPU-9".to_owned(), vec![holder("a", None)]),
        ]);
        let inventory = inventory(vec![gpu(0), Gpu { mig: split, ..gpu(1) }]);
        let text = render(&[served("a", "")], &inventory, &holders, &about());
        let uuids: Vec<&str> = info(&text).iter().filter_map(|line| line.split('"').nth(1)).collect();
        assert_eq!(uuids, ["GPU-0", "GPU-1"]);
    }

    #[test]
    fn the_label_of_the_node_is_called_as_configured() {
        let about = About { hostname_label: "hostname".to_owned(), ..about() };
        let text = render(&[served("a", "")], &Inventory::default(), &Holders::new(), &about);
        assert!(text.contains(",hostname=\"node-1\"} 3\n") && !text.contains("Hostname"), "{text}");
    }
}
