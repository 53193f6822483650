//! `wharf plan`: what a model needs and how fast it will be, from its headers. The figures are decided in `wharf_plan`; here is
//! where headers, machines and clusters come from.

mod files;
mod machine;

use std::path::PathBuf;

use anyhow::{Context, anyhow};
use clap::ValueEnum;
use wharf_api::config::ByteSize;
use wharf_plan::footprint::{KvType, Load};
use wharf_plan::report::{Report, Target};
use wharf_plan::{Header, Inventory, Product, Scheme, Wanted};

use crate::args::Output;
use crate::exit::{self, BadInput, Failure};
use files::LocalFiles;

/// Forecast memory, GPUs and speed of a model from its headers, before anything is loaded
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// A GGUF file, a folder as Hugging Face lays it out, or a config.json alone: only headers are read
    #[arg(value_name = "FILE|DIR")]
    model: PathBuf,
    /// Plan for weights of another scheme than they are stored in: those of `wharf quantize`, bf16, f16 or f32
    #[arg(long, value_name = "SCHEME")]
    quantize: Option<String>,
    /// Tokens of prompt and answer of a stream; the model's own limit but at most 8192 if absent
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1 << 26))]
    context: Option<u64>,
    /// Streams at the same time, all of full length
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1 << 16))]
    streams: u64,
    /// What keys and values are stored as
    #[arg(long, value_enum, value_name = "TYPE", default_value = "f16")]
    kv_cache: KvCache,
    /// Most tokens that are computed in one step; 512 on CPUs and 2048 on GPUs if absent
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    batch_tokens: Option<u64>,
    /// Plan for this GPU, at most so many of it; without this and --nodes the plan is for this machine's CPU
    #[arg(long, value_name = "PRODUCT[:COUNT]", conflicts_with = "nodes")]
    gpu: Option<String>,
    /// GPUs that a host has
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=64))]
    gpus_per_node: u64,
    /// Plan for a cluster's GPUs: what `kubectl get nodes -o json` prints
    #[arg(long, value_name = "FILE")]
    nodes: Option<PathBuf>,
    #[command(flatten)]
    machine: MachineArgs,
    /// Text for people, or one JSON document
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

/// A CPU that is not this one, or not to be measured.
#[derive(clap::Args)]
#[group(skip)]
struct MachineArgs {
    /// Threads that compute; as many as this machine has CPUs if absent
    #[arg(long, value_name = "N", conflicts_with_all = ["gpu", "nodes"])]
    threads: Option<usize>,
    /// Memory that the server may take; what is free here if absent
    #[arg(long, value_name = "BYTES", conflicts_with_all = ["gpu", "nodes"])]
    memory: Option<String>,
    /// Gigabytes of weights a second that the CPU reads; measured in a fraction of a second if absent
    #[arg(long, value_name = "GB/S", conflicts_with_all = ["gpu", "nodes"])]
    bandwidth: Option<f64>,
    /// Billions of operations a second that its products reach, a multiply-add being two; measured if absent
    #[arg(long, value_name = "GFLOPS", conflicts_with_all = ["gpu", "nodes"])]
    gflops: Option<f64>,
}

const EXAMPLES: &str = "\
Examples:
  wharf plan model.gguf                                   on this machine's CPU, and how few GPUs of each product
  wharf plan ./Llama-3.1-8B --quantize int4-awq --gpu L4 --context 16384 --streams 8
  wharf plan ./Llama-3.1-70B/config.json --quantize fp8 --gpu H100:8 --output json
  kubectl get nodes -o json > nodes.json && wharf plan ./Llama-3.1-70B --nodes nodes.json
  wharf plan model.gguf --memory 16GiB --threads 8 --bandwidth 80 --gflops 1500

Exits with 1 when the model does not fit, and says what to change.";

/// What keys and values are stored as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum KvCache {
    /// Half precision
    F16,
    /// Signed bytes with a scale for each 32
    Int8,
    /// E4M3, for engines that have it
    Fp8,
}

/// Longest context that is planned for unless somebody asks.
const CONTEXT: u64 = 8192;
/// Tokens of a step, as servers have them by default: Wharf on CPUs, engines on GPUs.
const BATCH_TOKENS: (u64, u64) = (512, 2048);

/// Runs the command to its end.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let header = read(args).bad_input()?;
    let wanted = wanted(args, &header).bad_input()?;
    let target = target(args, &header, &wanted)?;
    let report = Report::new(&header, &wanted, &target);
    let text = match args.output {
        Output::Text => report.to_string(),
        Output::Json => serde_json::to_string_pretty(&report).context("failed to write the plan as JSON")?,
    };
    exit::print(&format!("{}\n", text.trim_end()))?;
    match report.fits {
        true => Ok(()),
        false => Err(Failure::Failed(anyhow!("{} does not fit as it was asked for", args.model.display()))),
    }
}

fn read(args: &Args) -> anyhow::Result<Header> {
    let what = || format!("failed to read the headers of {}", args.model.display());
    let files = LocalFiles::at(&args.model).with_context(what)?;
    wharf_plan::read(&files, &files.name).with_context(what)
}

fn wanted(args: &Args, header: &Header) -> anyhow::Result<Wanted> {
    let on_gpus = args.gpu.is_some() || args.nodes.is_some();
    let batch_tokens = args.batch_tokens.unwrap_or(if on_gpus { BATCH_TOKENS.1 } else { BATCH_TOKENS.0 });
    let kv_cache = match args.kv_cache {
        KvCache::F16 => KvType::F16,
        KvCache::Int8 => KvType::Int8,
        KvCache::Fp8 if !on_gpus => anyhow::bail!("there are no fp8 keys and values on CPUs; use int8"),
        KvCache::Fp8 => KvType::Fp8,
    };
    Ok(Wanted {
        scheme: args.quantize.as_deref().map(str::parse::<Scheme>).transpose()?,
        load: Load {
            context: args.context.unwrap_or(header.shape.context_length.min(CONTEXT)),
            streams: args.streams,
            batch_tokens,
            kv_cache,
        },
    })
}

fn target(args: &Args, header: &Header, wanted: &Wanted) -> Result<Target, Failure> {
    if let Some(gpu) = &args.gpu {
        return Ok(Target::Gpus(product(gpu, args.gpus_per_node).bad_input()?));
    }
    if let Some(path) = &args.nodes {
        let what = || format!("failed to read the nodes in {}", path.display());
        let json = std::fs::read(path).with_context(what).bad_input()?;
        let inventory = Inventory::of_nodes(&json).with_context(what).bad_input()?;
        if inventory.stocks.is_empty() {
            let notes: String = inventory.notes.iter().map(|note| format!("\n  {note}")).collect();
            let path = path.display();
            return Err(Failure::BadInput(anyhow!("no node in {path} has GPUs to give out{notes}")));
        }
        return Ok(Target::Gpus(inventory));
    }
    let MachineArgs { threads, memory, bandwidth, gflops } = &args.machine;
    let memory = memory.as_deref().map(ByteSize::parse).transpose();
    let memory = memory.map_err(|why| anyhow!("--memory: {why}")).bad_input()?;
    let known = machine::Known { threads: *threads, bandwidth: *bandwidth, gflops: *gflops };
    let weights = wanted.weights(&header.shape);
    Ok(Target::Machine(
        machine::describe(&header.shape, &weights, memory.map(|size| size.0), known).bad_input()?,
    ))
}

/// `PRODUCT[:COUNT]`.
fn product(text: &str, per_node: u64) -> anyhow::Result<Inventory> {
    let (name, count) = match text.rsplit_once(':') {
        None => (text, None),
        Some((name, count)) => {
            let number = count.parse::<u64>().ok().filter(|count| (1..=4096).contains(count));
            let number = number.with_context(|| format!("{count:?} in --gpu {text} is no number of GPUs"))?;
            (name, Some(number))
        }
    };
    Ok(Inventory::of_product(Product::find(name)?, count.unwrap_or(per_node), per_node))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_product_may_be_counted() {
        let stocks = |text| {
            let stocks = product(text, 8).map(|inventory| inventory.stocks).map_err(|e| e.to_string())?;
            Ok(stocks.iter().map(|stock| (stock.per_node, stock.nodes)).collect::<Vec<_>>())
        };
        assert_eq!(stocks("l4"), Ok(vec![(8, 1)]));
        assert_eq!(stocks("NVIDIA-L4:3"), Ok(vec![(3, 1)]));
        assert_eq!(stocks("h100:16"), Ok(vec![(8, 2)]));
        let refused: Result<_, String> = stocks("h100:many");
        assert!(refused.unwrap_err().contains("many"));
    }

    #[test]
    fn every_scheme_of_quantize_can_be_planned_for() {
        for (name, _) in wharf_optimize::quantize::SCHEMES {
            assert!(name.parse::<Scheme>().is_ok(), "{name}");
        }
    }
}
