//! What a refusal says of a model.

use wharf_plan::advice::Place;
use wharf_plan::cpu::Machine;
use wharf_plan::inventory::Stock;
use wharf_plan::split::Split;
use wharf_plan::{Product, Shortage};

use crate::models::{llama_8b, wanted};

#[test]
fn a_shortage_names_every_term_and_the_fields_that_make_it_fit() {
    let machine = |memory| Machine { memory, threads: 8, rates: None, measured: false };
    let (header, wanted) = (llama_8b(), wanted("bf16", 8192, 2));
    let shortage = Shortage::of(&header.shape, &wanted, Place::Machine(&machine(17_500_000_000)));
    let needs = shortage.needs.to_string();
    for term in [
        "18.", // all of it
        "weights 16.1 GB",
        "KV cache 2.15 GB for 2 streams of 8,192 tokens",
        "activations",
        "logits",
        "for program, tokenizer, threads",
    ] {
        assert!(needs.contains(term), "{term} is not in {needs}");
    }
    let fields: Vec<&str> = shortage.advice.iter().map(|advice| advice.fields.as_str()).collect();
    assert_eq!(fields[0], "scaling.target.concurrency: 1");
    assert!(fields[1].starts_with("server.maxModelLen: "), "{fields:?}");
    assert_eq!(fields[2..], ["server.kvCache.type: int8", "model.optimize.quantize: q8_0"]);
    assert!(shortage.advice[0].change.contains("1 stream of 8,192 tokens fits"), "{shortage:?}");
    // Nothing that can be asked of the model makes so little room enough, and other machines are no answer here.
    let little = Shortage::of(&header.shape, &wanted, Place::Machine(&machine(1_000_000_000)));
    assert_eq!(little.advice, []);
    assert_eq!(little.needs, shortage.needs);
}

#[test]
fn a_shortage_on_a_gpu_has_what_gpus_take_beside_the_model() {
    let stock = Stock { product: Product::find("t4").unwrap(), per_node: 1, nodes: 1 };
    let place = Place::Fixed(&stock, Split::ONE);
    let shortage = Shortage::of(&llama_8b().shape, &wanted("bf16", 4096, 1), place);
    let needs = shortage.needs.to_string();
    assert!(needs.contains("for CUDA context and kernels, graphs, workspace"), "{needs}");
    let fields: Vec<&str> = shortage.advice.iter().map(|advice| advice.fields.as_str()).collect();
    assert_eq!(fields, ["model.optimize.quantize: q8_0"]);
}
