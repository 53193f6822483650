//! Where models are placed.

use wharf_plan::fit::{Hardware, on_stock};
use wharf_plan::inventory::Stock;
use wharf_plan::report::{Report, Target};
use wharf_plan::split::Split;
use wharf_plan::{Header, Inventory, Product};

use crate::models::{llama_8b, llama_70b, of_config, wanted};

/// GPUs, tensor-parallel ranks and stages.
fn placed(
    header: &Header,
    scheme: &str,
    context: u64,
    product: &str,
    nodes: (u64, u64),
) -> (bool, u64, Split) {
    let stock = Stock { product: Product::find(product).unwrap(), per_node: nodes.0, nodes: nodes.1 };
    let placement = on_stock(&header.shape, &wanted(scheme, context, 1), &stock);
    match placement.hardware {
        Hardware::Gpu { count, split, .. } => (placement.fits, count, split),
        Hardware::Cpu { .. } => unreachable!("stocks are of GPUs"),
    }
}

#[test]
fn models_take_the_fewest_gpus_that_hold_them() {
    let split = |tensor, pipeline| Split { tensor, pipeline };
    let (small, large) = (llama_8b(), llama_70b());
    for (header, scheme, product, nodes, expected) in [
        (&small, "bf16", "l4", (8, 1), (true, 1, split(1, 1))),
        (&small, "bf16", "t4", (8, 1), (true, 2, split(2, 1))),
        (&small, "int4", "t4", (8, 1), (true, 1, split(1, 1))),
        (&large, "bf16", "h100", (8, 1), (true, 2, split(2, 1))),
        (&large, "fp8", "h100", (8, 1), (true, 1, split(1, 1))),
        (&large, "bf16", "h200", (8, 1), (true, 2, split(2, 1))),
        (&large, "bf16", "b200", (8, 1), (true, 1, split(1, 1))),
        (&large, "bf16", "l4", (4, 4), (true, 8, split(4, 2))),
        (&large, "bf16", "l4", (4, 1), (false, 4, split(4, 1))),
    ] {
        assert_eq!(placed(header, scheme, 4096, product, nodes), expected, "{scheme} on {product} {nodes:?}");
    }
}

#[test]
fn uneven_ranks_are_as_full_as_the_fullest() {
    let header = llama_8b();
    let shares = |tensor| Split { tensor, pipeline: 1 }.shares(&header.shape);
    assert_eq!(shares(3).kv, 3.0 / 8.0);
    assert_eq!(shares(8).kv, 1.0 / 8.0);
    // Two ranks hold each head of keys and values, and half of the queries that read it.
    assert_eq!(shares(16).kv, 1.0 / 8.0);
    assert!((shares(16).attention - (2.0 * 128.0 + 128.0) / (4096.0 + 1024.0)).abs() < 1e-9);
    assert!(Split { tensor: 16, pipeline: 1 }.is_even(&header.shape));
    assert!(!Split { tensor: 3, pipeline: 1 }.is_even(&header.shape));
}

#[test]
fn of_a_cluster_the_fewest_gpus_are_taken_first() {
    let stock = |name, per_node, nodes| Stock { product: Product::find(name).unwrap(), per_node, nodes };
    let inventory = Inventory {
        stocks: vec![stock("l4", 8, 2), stock("h100", 8, 1), stock("t4", 1, 1)],
        notes: Vec::new(),
    };
    let report = Report::new(&llama_70b(), &wanted("fp8", 4096, 1), &Target::Gpus(inventory));
    let names: Vec<_> = report
        .placements
        .iter()
        .map(|placement| match &placement.hardware {
            Hardware::Gpu { product, count, .. } => (product.name.as_str(), *count, placement.fits),
            Hardware::Cpu { .. } => unreachable!("the target is a cluster"),
        })
        .collect();
    assert_eq!(names, [("NVIDIA-H100-80GB-HBM3", 1, true), ("NVIDIA-L4", 4, true), ("Tesla-T4", 1, false)]);
    assert!(report.fits && report.advice.is_empty());
}

#[test]
fn a_mixture_of_experts_reads_only_the_experts_that_tokens_go_through() {
    let mixtral = r#"{"architectures": ["MixtralForCausalLM"], "num_hidden_layers": 32, "hidden_size": 4096, "intermediate_size":
        14336, "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32000, "num_local_experts": 8,
        "num_experts_per_tok": 2, "max_position_embeddings": 32768}"#;
    let h200 = Target::Gpus(Inventory::of_product(Product::find("h200").unwrap(), 1, 8));
    let rate = |streams| {
        let report = Report::new(&of_config(mixtral), &wanted("bf16", 1024, streams), &h200);
        report.placements[0].forecast.as_ref().unwrap().decode.last().unwrap().tokens_per_second
    };
    // A quarter of 45 billion expert weights and all others, at 77% of 4.8 TB/s.
    assert!((120.0..150.0).contains(&rate(1)), "{}", rate(1));
    // Sixteen streams go through nearly every expert.
    assert!(rate(16) < 6.0 * rate(1), "{} {}", rate(16), rate(1));
}
