//! What is said when a model does not fit.

use wharf_plan::cpu::{Machine, Rates, RowRate};
use wharf_plan::report::{Report, Target};
use wharf_plan::{Inventory, Product};

use crate::models::{llama_8b, llama_70b, wanted};

fn flags(report: &Report) -> Vec<&str> {
    report.advice.iter().map(|advice| advice.flags.as_str()).collect()
}

#[test]
fn every_change_that_helps_is_named_with_its_numbers() {
    let l4 = Target::Gpus(Inventory::of_product(Product::find("l4").unwrap(), 1, 8));
    let report = Report::new(&llama_8b(), &wanted("bf16", 8192, 8), &l4);
    assert!(!report.fits);
    let flags = flags(&report);
    for expected in
        ["--streams 5", "--context", "--quantize q8_0", "--gpu NVIDIA-L4:2", "--gpu Tesla-V100-SXM2-32GB"]
    {
        assert!(flags.iter().any(|flag| flag.starts_with(expected)), "{expected} is not among {flags:?}");
    }
    let text = report.to_string();
    assert!(text.contains("does not fit") && text.contains("missing"), "{text}");
}

#[test]
fn what_does_not_help_is_not_said() {
    let t4 = Target::Gpus(Inventory::of_product(Product::find("t4").unwrap(), 1, 8));
    let report = Report::new(&llama_70b(), &wanted("bf16", 4096, 1), &t4);
    let flags = flags(&report);
    assert!(
        !flags.iter().any(|flag| flag.starts_with("--quantize") || flag.starts_with("--context")),
        "{flags:?}"
    );
    assert!(flags.contains(&"--gpu NVIDIA-B200"), "{flags:?}");
    assert!(flags.iter().any(|flag| flag.starts_with("--gpu Tesla-T4:")), "{flags:?}");
}

#[test]
fn a_cpu_says_what_it_has_room_for() {
    let rates = Rates {
        bandwidth: 40e9,
        products: vec![RowRate { rows: 1, macs: 80e9 }],
        attention: 50e9,
        decode_attention: 25e9,
    };
    let machine =
        |memory| Target::Machine(Machine { memory, threads: 8, rates: Some(rates.clone()), measured: false });
    let plan = |memory| Report::new(&llama_8b(), &wanted("q4_0", 4096, 1), &machine(memory));
    let fits = plan(16 << 30);
    assert!(fits.fits, "{fits}");
    let decode = fits.placements[0].forecast.as_ref().unwrap().decode[0].tokens_per_second;
    // 4.4 GB of packed weights a token at 40 GB/s.
    assert!((7.0..9.5).contains(&decode), "{decode}");
    let short = plan(5 << 30);
    assert!(!short.fits);
    assert!(flags(&short).iter().any(|flag| flag.starts_with("--context")), "{short}");
}
