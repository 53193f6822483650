//! Writes labels and taint to the node, and nothing else of it.
//!
//! Labels are applied server-side, so that Kubernetes knows which are ours: one that somebody else has set to another value stays theirs, and one
//! that we no longer want goes only if it is ours alone. The taint is in a list that has no owners; an annotation remembers that it is ours.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Taint};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};
use wharf_telemetry::log::chain;
use wharf_telemetry::metrics::node as table;

use crate::board::{Board, Part};
use crate::config::{GPU, Paths};
use crate::labels::{Labels, labels};

/// Who owns the fields that are written.
pub const MANAGER: &str = "wharf-node-agent";
/// Remembers that the taint is ours.
const TAINT_ANNOTATION: &str = "wharf.dev/gpu-taint";
const NO_SCHEDULE: &str = "NoSchedule";
/// How long the API server may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// A write that failed is tried again after this, and then less and less often.
const AGAIN: Duration = Duration::from_secs(1);
const AGAIN_AT_MOST: Duration = Duration::from_secs(300);

/// Keeps labels and taint as they should be, for as long as it is polled.
pub(crate) async fn run(board: &Arc<Board>, client: &Client) {
    let nodes: Api<Node> = Api::all(client.clone());
    let machine = machine(&board.config.paths);
    let every = Duration::from_secs_f64(board.config.labels.every);
    let mut seen = board.follow();
    let mut pause = AGAIN;
    loop {
        // A driver that is not there says nothing of GPUs: labels stay as they are, and with them the pods that they keep here.
        if seen.wait_for(|seen| seen.library.is_some()).await.is_err() {
            return;
        }
        let wanted = labels(&seen.borrow_and_update().inventory, &board.config, machine.as_deref());
        let written = match timeout(PATIENCE, write(board, &nodes, &wanted)).await {
            Ok(written) => written,
            Err(_) => Err(kube::Error::Service("the API server did not answer".into())),
        };
        let next = match written {
            Ok(kept) => {
                pause = AGAIN;
                let count = wanted.len() - kept.len();
                if kept.is_empty() {
                    board.say(Part::Labels, true, "Applied", format!("{count} labels"));
                } else {
                    let message = format!(
                        "{count} labels; somebody else has set {}, which stay as they are",
                        kept.join(", ")
                    );
                    board.say(Part::Labels, true, "AppliedPartly", message);
                }
                every
            }
            Err(error) => {
                board.metrics.add(&table::LABEL_WRITES, &["failed"], 1.0);
                board.say(
                    Part::Labels,
                    false,
                    reason(&error),
                    format!("failed to label node {}: {}", board.node, chain(&error)),
                );
                pause = (pause * 2).min(AGAIN_AT_MOST);
                pause
            }
        };
        let differs =
            seen.wait_for(|seen| labels(&seen.inventory, &board.config, machine.as_deref()) != wanted);
        tokio::select! {
            _ = differs => {}
            () = sleep(next) => {}
        }
    }
}

fn reason(error: &kube::Error) -> &'static str {
    match error {
        kube::Error::Api(status) if status.code == 403 => "Forbidden",
        kube::Error::Api(status) if status.code == 404 => "NoNode",
        kube::Error::Api(status) if status.code == 409 => "Conflict",
        _ => "ClusterUnavailable",
    }
}

/// What the firmware calls the machine.
pub(crate) fn machine(paths: &Paths) -> Option<String> {
    let name = std::fs::read_to_string(paths.sysfs.join("class/dmi/id/product_name")).ok()?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}

/// Looks at the node and writes what differs. Returns the labels that somebody else has.
async fn write(board: &Board, nodes: &Api<Node>, wanted: &Labels) -> kube::Result<Vec<String>> {
    let node = nodes.get(&board.node).await?;
    let Plan { apply, kept } = plan(&node, wanted);
    if let Some(labels) = apply {
        let body =
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": board.node, "labels": labels}});
        nodes.patch(&board.node, &PatchParams::apply(MANAGER), &Patch::Apply(body)).await?;
        board.metrics.add(&table::LABEL_WRITES, &["ok"], 1.0);
    }
    let node = nodes.get(&board.node).await?;
    if let Some(patch) = taint(&node, board.config.labels.taint && !wanted.is_empty()) {
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        nodes.patch(&board.node, &params, &Patch::Merge(patch)).await?;
        board.metrics.add(&table::LABEL_WRITES, &["ok"], 1.0);
    }
    Ok(kept)
}

/// What to write of labels.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Plan {
    /// All that are ours from then on, if anything differs.
    apply: Option<Labels>,
    /// Those that somebody else has set to something else.
    kept: Vec<String>,
}

fn plan(node: &Node, wanted: &Labels) -> Plan {
    let owned = owned(node);
    let none = Labels::new();
    let current = node.metadata.labels.as_ref().unwrap_or(&none);
    let foreign = |(name, value): &(&String, &String)| {
        current.get(*name).is_some_and(|is| is != *value) && !owned.contains(name.as_str())
    };
    let kept: Vec<String> = wanted.iter().filter(foreign).map(|(name, _)| name.clone()).collect();
    let ours: Labels = wanted
        .iter()
        .filter(|pair| !foreign(pair))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let same = owned.iter().copied().eq(ours.keys().map(String::as_str))
        && ours.iter().all(|(name, value)| current.get(name) == Some(value));
    Plan { apply: (!same).then_some(ours), kept }
}

/// The labels that Kubernetes knows to be ours.
fn owned(node: &Node) -> BTreeSet<&str> {
    let entries = node.metadata.managed_fields.iter().flatten();
    let ours = entries.filter(|entry| {
        entry.manager.as_deref() == Some(MANAGER) && entry.operation.as_deref() == Some("Apply")
    });
    let fields = ours.filter_map(|entry| entry.fields_v1.as_ref());
    let labels = fields.filter_map(|fields| fields.0.get("f:metadata")?.get("f:labels")?.as_object());
    labels.flat_map(|labels| labels.keys()).filter_map(|field| field.strip_prefix("f:")).collect()
}

/// A patch that adds or takes away the taint, if it has to be. It fails when somebody else writes in between.
fn taint(node: &Node, wanted: bool) -> Option<Value> {
    let is_it = |taint: &&Taint| taint.key == GPU && taint.effect == NO_SCHEDULE;
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let there = taints.iter().any(|taint| is_it(&taint));
    let annotations = node.metadata.annotations.as_ref();
    let ours = annotations.is_some_and(|annotations| annotations.contains_key(TAINT_ANNOTATION));
    let (list, mark) = match (wanted, there, ours) {
        (true, false, _) => {
            let taint = Taint {
                key: GPU.to_owned(),
                effect: NO_SCHEDULE.to_owned(),
                value: Some("present".to_owned()),
                time_added: None,
            };
            let mut list: Vec<Taint> = taints.to_vec();
            list.push(taint);
            (list, json!("true"))
        }
        (false, _, true) => (taints.iter().filter(|taint| !is_it(taint)).cloned().collect(), Value::Null),
        (true, true, _) | (false, _, false) => return None,
    };
    Some(json!({
        "metadata": {"resourceVersion": node.metadata.resource_version, "annotations": {TAINT_ANNOTATION: mark}},
        "spec": {"taints": list},
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(value: Value) -> Node {
        serde_json::from_value(value).unwrap()
    }

    fn wanted(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn of(labels: Value, owned: Value) -> Node {
        node(json!({"metadata": {"name": "n", "labels": labels, "managedFields": [
            {"manager": MANAGER, "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1",
             "fieldsV1": {"f:metadata": {"f:labels": owned}}},
            {"manager": "kubelet", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1",
             "fieldsV1": {"f:metadata": {"f:labels": {"f:os": {}}}}},
        ]}}))
    }

    #[test]
    fn a_node_that_is_as_it_should_be_is_not_written() {
        let node = of(json!({"os": "linux", "node-type": "gpu"}), json!({"f:node-type": {}}));
        assert_eq!(plan(&node, &wanted(&[("node-type", "gpu")])), Plan { apply: None, kept: vec![] });
    }

    #[test]
    fn what_is_no_longer_wanted_or_has_changed_is_written() {
        let node = of(json!({"a": "1", "b": "1"}), json!({"f:a": {}, "f:b": {}}));
        assert_eq!(plan(&node, &wanted(&[("a", "1")])).apply, Some(wanted(&[("a", "1")])));
        assert_eq!(
            plan(&node, &wanted(&[("a", "2"), ("b", "1")])).apply,
            Some(wanted(&[("a", "2"), ("b", "1")]))
        );
        assert_eq!(plan(&node, &Labels::new()).apply, Some(Labels::new()));
    }

    #[test]
    fn what_somebody_else_has_set_stays_theirs() {
        let node = of(json!({"node-type": "compute"}), json!({}));
        let Plan { apply, kept } = plan(&node, &wanted(&[("node-type", "gpu"), ("capacity-gpu", "8")]));
        assert_eq!(apply, Some(wanted(&[("capacity-gpu", "8")])));
        assert_eq!(kept, ["node-type"]);
    }

    #[test]
    fn the_taint_comes_and_goes_as_ours_and_somebody_elses_stays() {
        let taint_of = |taints: Value, ours: bool, wanted| {
            let annotations = if ours { json!({TAINT_ANNOTATION: "true"}) } else { json!({}) };
            taint(
                &node(
                    json!({"metadata": {"resourceVersion": "7", "annotations": annotations}, "spec": {"taints": taints}}),
                ),
                wanted,
            )
        };
        let other = json!({"key": "x", "effect": "NoExecute"});
        let gpu = json!({"key": GPU, "effect": NO_SCHEDULE, "value": "present"});
        let added = taint_of(json!([other]), false, true).unwrap();
        assert_eq!(added["spec"]["taints"], json!([other, gpu]));
        assert_eq!(
            (&added["metadata"]["resourceVersion"], &added["metadata"]["annotations"][TAINT_ANNOTATION]),
            (&json!("7"), &json!("true"))
        );
        let removed = taint_of(json!([other, gpu]), true, false).unwrap();
        assert_eq!(
            (&removed["spec"]["taints"], &removed["metadata"]["annotations"][TAINT_ANNOTATION]),
            (&json!([other]), &Value::Null)
        );
        assert_eq!(taint_of(json!([gpu]), false, false), None);
        assert_eq!(taint_of(json!([gpu]), true, true), None);
        assert_eq!(taint_of(json!([]), false, false), None);
    }
}
