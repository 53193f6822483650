//! Memory that others have published for Llama 3.1, within ten percent.
//!
//! - "Llama 3.1 - 405B, 70B & 8B with multilinguality and long context", Hugging Face's blog of 23 July 2024
//!   (huggingface.co/blog/llama31): memory to load the checkpoints in FP16, FP8 and INT4, and memory of the KV cache in FP16. The
//!   weights there are parameters times bits, without what quantised checkpoints keep in 16 bits.
//! - Sizes of such checkpoints on the Hugging Face Hub, which have those: neuralmagic/Meta-Llama-3.1-8B-Instruct-FP8 (5.00 + 4.08 GB),
//!   hugging-quants/Meta-Llama-3.1-8B-Instruct-AWQ-INT4 (4.68 + 1.05 GB), neuralmagic/Meta-Llama-3.1-70B-Instruct-quantized.w4a16
//!   (39.8 GB), bartowski/Meta-Llama-3.1-8B-Instruct-GGUF (Q4_K_M 4.92 GB), bartowski/Meta-Llama-3-70B-Instruct-GGUF (Q4_K_M 42.5 GB),
//!   Meta-Llama-3.1-8B-Instruct as Q8_0 (8.54 GB).

use wharf_plan::report::{Report, Target};
use wharf_plan::{Header, Inventory};

use crate::models::{llama_8b, llama_70b, wanted};

fn within(what: &str, ours: f64, published: f64, percent: f64) {
    let off = (ours / published - 1.0) * 100.0;
    assert!(off.abs() <= percent, "{what}: {ours:.4e} is {off:.1}% off the published {published:.4e}");
}

fn report(header: &Header, scheme: &str, context: u64) -> Report {
    Report::new(header, &wanted(scheme, context, 1), &Target::Gpus(Inventory::default()))
}

#[test]
fn parameters_are_those_of_the_model_cards() {
    assert_eq!(llama_8b().shape.parameters(), 8_030_261_248);
    assert_eq!(llama_70b().shape.parameters(), 70_553_706_496);
}

#[test]
fn weights_take_what_is_published() {
    for (header, sixteen, eight, four) in [(llama_8b(), 16e9, 8e9, 4e9), (llama_70b(), 140e9, 70e9, 35e9)] {
        for (scheme, published) in [("bf16", sixteen), ("fp8", eight), ("int4", four)] {
            let weights = report(&header, scheme, 1024).weights;
            within(&format!("{scheme}, nominal"), weights.nominal_bytes.unwrap() as f64, published, 10.0);
        }
        within("bf16", report(&header, "bf16", 1024).weights.bytes as f64, sixteen, 10.0);
    }
    for (header, scheme, published) in [
        (llama_8b(), "fp8", 9.08e9),
        (llama_8b(), "int4", 5.73e9),
        (llama_8b(), "int4-awq", 5.73e9),
        (llama_8b(), "q4_k_m", 4.92e9),
        (llama_8b(), "q8_0", 8.54e9),
        (llama_70b(), "fp8", 70e9),
        (llama_70b(), "int4", 39.8e9),
        (llama_70b(), "q4_k_m", 42.5e9),
    ] {
        within(scheme, report(&header, scheme, 1024).weights.bytes as f64, published, 5.0);
    }
}

#[test]
fn keys_and_values_take_what_is_published() {
    // The blog's "GB" of these are 2^30 bytes, its "k" of tokens a thousand or 1,024.
    let gib = f64::from(1 << 30);
    let contexts = [1024, 16_000, 128_000];
    for (header, published) in [(llama_8b(), [0.125, 1.95, 15.62]), (llama_70b(), [0.313, 4.88, 39.06])] {
        for (context, published) in contexts.into_iter().zip(published) {
            let kv = report(&header, "bf16", context).kv_cache;
            within(&format!("KV of {context}"), kv.bytes_per_stream as f64, published * gib, 1.0);
        }
    }
}

#[test]
fn a_published_decoding_rate_is_forecast() {
    // vLLM 0.23, Llama-3.1-8B-Instruct in BF16 on an A100 of 40 GB, one request at a time with 1,024 tokens of prompt: about 75
    // tokens/s (johnmusgrave.com/p/vllm-throughput-latency-sweep-on).
    let target =
        Target::Gpus(Inventory::of_product(wharf_plan::Product::find("A100-SXM4-40GB").unwrap(), 1, 8));
    let report = Report::new(&llama_8b(), &wanted("bf16", 1152, 1), &target);
    let forecast = report.placements[0].forecast.as_ref().unwrap();
    within("decode", forecast.decode.last().unwrap().tokens_per_second, 75.0, 25.0);
}
