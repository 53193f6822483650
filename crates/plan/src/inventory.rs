//! Decides which GPUs a cluster has, from what it says about its nodes.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::hardware::Product;

/// GPUs of a cluster: one entry for each product and number a node.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Inventory {
    /// What there is.
    pub stocks: Vec<Stock>,
    /// What was left out, in words.
    pub notes: Vec<String>,
}

/// Equal nodes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stock {
    /// What the nodes have.
    pub product: Product,
    /// How many of it each.
    pub per_node: u64,
    /// How many such nodes.
    pub nodes: u64,
}

/// Why nodes could not be read.
#[derive(Debug, Error)]
#[error("failed to read nodes: expected what `kubectl get nodes -o json` prints")]
pub struct NodesError(#[from] serde_json::Error);

#[derive(Deserialize)]
struct List {
    items: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize)]
struct Metadata {
    #[serde(default)]
    name: String,
    #[serde(default)]
    labels: std::collections::BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
struct Spec {
    #[serde(default)]
    unschedulable: bool,
}

#[derive(Default, Deserialize)]
struct Status {
    #[serde(default)]
    allocatable: std::collections::BTreeMap<String, serde_json::Value>,
    #[serde(default)]
    conditions: Vec<Condition>,
}

#[derive(Deserialize)]
struct Condition {
    r#type: String,
    status: String,
}

/// How a vendor's labels are called.
struct Vendor {
    resource: &'static str,
    product: &'static str,
    count: &'static str,
    memory: &'static str,
}

const VENDORS: [Vendor; 2] = [
    Vendor {
        resource: "nvidia.com/gpu",
        product: "nvidia.com/gpu.product",
        count: "nvidia.com/gpu.count",
        memory: "nvidia.com/gpu.memory",
    },
    Vendor {
        resource: "amd.com/gpu",
        product: "amd.com/gpu.product-name",
        count: "amd.com/gpu.count",
        memory: "amd.com/gpu.memory",
    },
];

impl Inventory {
    /// Reads what `kubectl get nodes -o json` prints. What a node can give out counts; the label only where no device plugin says it.
    /// Nodes that take no pods are left out.
    ///
    /// # Errors
    /// When it is not a list of nodes.
    pub fn of_nodes(json: &[u8]) -> Result<Inventory, NodesError> {
        let List { items } = serde_json::from_slice(json)?;
        let mut inventory = Inventory::default();
        for node in &items {
            inventory.add(node);
        }
        Ok(inventory)
    }

    /// `count` of one product, `per_node` a node.
    pub fn of_product(product: Product, count: u64, per_node: u64) -> Inventory {
        let stock = |per_node, nodes| Stock { product: product.clone(), per_node, nodes };
        let (whole, left) = (count / per_node.max(1), count % per_node.max(1));
        let stocks = [stock(per_node, whole), stock(left, 1)];
        Inventory {
            stocks: stocks.into_iter().filter(|stock| stock.per_node * stock.nodes > 0).collect(),
            notes: Vec::new(),
        }
    }

    fn add(&mut self, node: &Node) {
        let Node { metadata: Metadata { name, labels }, spec, status } = node;
        let found = VENDORS.iter().find_map(|vendor| Some((vendor, labels.get(vendor.product)?)));
        let Some((vendor, product)) = found else { return };
        let mut note = |why: String| self.notes.push(format!("node {name}: {why}"));
        let ready = status.conditions.iter().find(|condition| condition.r#type == "Ready");
        if spec.unschedulable || ready.is_some_and(|condition| condition.status != "True") {
            return note("it takes no pods now".into());
        }
        let number = |value: &serde_json::Value| match value {
            serde_json::Value::String(text) => text.parse().ok(),
            other => other.as_u64(),
        };
        let labelled = |key: &str| labels.get(key).and_then(|text| text.parse::<u64>().ok());
        let per_node =
            status.allocatable.get(vendor.resource).and_then(number).or_else(|| labelled(vendor.count));
        let per_node = per_node.unwrap_or(0);
        if per_node == 0 {
            return note(format!("it has no {} to give out", vendor.resource));
        }
        let Some(product) = Product::of_labels(product, labelled(vendor.memory)) else {
            return note(format!("nothing is known of {product}, and no label says its memory"));
        };
        let same = |stock: &&mut Stock| stock.product == product && stock.per_node == per_node;
        match self.stocks.iter_mut().find(same) {
            Some(stock) => stock.nodes += 1,
            None => self.stocks.push(Stock { product, per_node, nodes: 1 }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_counted_by_product_and_number() {
        let node = |name: &str, product: &str, gpus: &str, more: &str| {
            format!(
                r#"{{"metadata": {{"name": "{name}", "labels": {{"nvidia.com/gpu.product": "{product}", "nvidia.com/gpu.count": "8",
                "nvidia.com/gpu.memory": "81559"}}}}, "status": {{"allocatable": {{"cpu": "96", "nvidia.com/gpu": "{gpus}"}},
                "conditions": [{{"type": "Ready", "status": "True"}}]}}{more}}}"#
            )
        };
        let h100 = "NVIDIA-H100-80GB-HBM3";
        let nodes = [
            node("a", h100, "8", ""),
            node("b", h100, "8", ""),
            node("c", h100, "4", ""),
            node("d", h100, "0", ""),
            node("e", h100, "8", r#", "spec": {"unschedulable": true}"#),
            r#"{"metadata": {"name": "cpu", "labels": {}}}"#.to_owned(),
        ];
        let json = format!(r#"{{"kind": "List", "items": [{}]}}"#, nodes.join(","));
        let inventory = Inventory::of_nodes(json.as_bytes()).unwrap();
        let stocks: Vec<_> = inventory.stocks.iter().map(|stock| (stock.per_node, stock.nodes)).collect();
        assert_eq!(stocks, [(8, 2), (4, 1)]);
        assert_eq!(inventory.stocks[0].product.memory, 81_559 << 20);
        assert_eq!(inventory.notes.len(), 2, "{:?}", inventory.notes);
        assert!(Inventory::of_nodes(b"{}").is_err());
    }

    #[test]
    fn a_number_of_a_product_fills_nodes() {
        let stocks = |count| {
            let inventory = Inventory::of_product(Product::find("l4").unwrap(), count, 8);
            inventory.stocks.iter().map(|stock| (stock.per_node, stock.nodes)).collect::<Vec<_>>()
        };
        assert_eq!(stocks(4), [(4, 1)]);
        assert_eq!(stocks(20), [(8, 2), (4, 1)]);
    }
}
