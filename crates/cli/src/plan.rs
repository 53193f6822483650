//! `wharf plan`: what a model needs and how fast it will be, from its headers. The figures are decided in `wharf_plan`; here is
//! where headers, machines and clusters come from.

mod files;
mod machine;
mod remote;
mod service;

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use clap::ValueEnum;
use wharf_api::config::ByteSize;
use wharf_api::source::SourceUrl;
use wharf_fetch::Settings;
use wharf_plan::footprint::{KvType, Load};
use wharf_plan::report::{Report, Target};
use wharf_plan::{Header, Inventory, Product, Scheme, Wanted};

use crate::Env;
use crate::args::Output;
use crate::exit::{self, BadInput, Failure};
use crate::runtime;
use files::LocalFiles;
use remote::RemoteFiles;
use service::Asked;

/// Forecast memory, GPUs and speed of a model from its headers, before anything is loaded
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// A GGUF file, a folder as Hugging Face lays it out, a config.json alone, or a URL of `wharf fetch`: only headers are read
    #[arg(value_name = "FILE|DIR|URL", required_unless_present = "service")]
    model: Option<String>,
    /// Plan for what an LLMService asks: its scheme, lengths, streams and resources; flags win over it
    #[arg(short = 'f', long = "filename", value_name = "YAML")]
    service: Option<PathBuf>,
    /// Plan for weights of another scheme than they are stored in: those of `wharf quantize`, bf16, f16 or f32
    #[arg(long, value_name = "SCHEME")]
    quantize: Option<String>,
    /// Tokens of prompt and answer of a stream; the model's own limit but at most 8192 if absent
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=MOST_CONTEXT))]
    context: Option<u64>,
    /// Streams at the same time, all of full length; one if absent
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=MOST_STREAMS))]
    streams: Option<u64>,
    /// What keys and values are stored as; f16 if absent
    #[arg(long, value_enum, value_name = "TYPE")]
    kv_cache: Option<KvCache>,
    /// Most tokens that are computed in one step; 512 on CPUs and 2048 on GPUs if absent
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=MOST_BATCH))]
    batch_tokens: Option<u64>,
    /// Plan for this GPU, at most so many of it; without this, --nodes and --cluster the plan is for this machine's CPU
    #[arg(long, value_name = "PRODUCT[:COUNT]", conflicts_with_all = ["nodes", "cluster"])]
    gpu: Option<String>,
    /// GPUs that a host has
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=64))]
    gpus_per_node: u64,
    /// Plan for a cluster's GPUs: what `kubectl get nodes -o json` prints
    #[arg(long, value_name = "FILE", conflicts_with = "cluster")]
    nodes: Option<PathBuf>,
    /// Plan for the GPUs of the kubeconfig's cluster, whose nodes are listed
    #[arg(long)]
    cluster: bool,
    #[command(flatten)]
    machine: MachineArgs,
    /// Read a URL's headers from private, loopback and link-local addresses too
    #[arg(long)]
    allow_private: bool,
    /// Text for people, or one JSON document
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

/// A CPU that is not this one, or not to be measured.
#[derive(clap::Args)]
#[group(skip)]
struct MachineArgs {
    /// Threads that compute; as many as this machine has CPUs if absent
    #[arg(long, value_name = "N", conflicts_with_all = ["gpu", "nodes", "cluster"])]
    threads: Option<usize>,
    /// Memory that the server may take; what is free here if absent
    #[arg(long, value_name = "BYTES", conflicts_with_all = ["gpu", "nodes", "cluster"])]
    memory: Option<String>,
    /// Gigabytes of weights a second that the CPU reads; measured in a fraction of a second if absent
    #[arg(long, value_name = "GB/S", conflicts_with_all = ["gpu", "nodes", "cluster"])]
    bandwidth: Option<f64>,
    /// Billions of operations a second that its products reach, a multiply-add being two; measured if absent
    #[arg(long, value_name = "GFLOPS", conflicts_with_all = ["gpu", "nodes", "cluster"])]
    gflops: Option<f64>,
}

const EXAMPLES: &str = "\
Examples:
  wharf plan model.gguf                                   on this machine's CPU, and how few GPUs of each product
  wharf plan hf://Qwen/Qwen2.5-0.5B-Instruct              from its headers alone
  wharf plan ./Llama-3.1-8B --quantize int4-awq --gpu L4 --context 16384 --streams 8
  wharf plan ./Llama-3.1-70B/config.json --quantize fp8 --gpu H100:8 --output json
  wharf plan ./Llama-3.1-70B --cluster                    on the GPUs of the kubeconfig's cluster
  kubectl get nodes -o json > nodes.json && wharf plan ./Llama-3.1-70B --nodes nodes.json
  wharf plan -f llm.yaml                                  what a service asks for
  wharf plan ./Llama-3.1-8B -f llm.yaml                   the same, from headers that lie here
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

/// More is nobody's; formulas multiply these.
const MOST_CONTEXT: u64 = 1 << 26;
const MOST_STREAMS: u64 = 1 << 16;
const MOST_BATCH: u64 = 1 << 20;

/// Longest context that is planned for unless somebody asks.
const CONTEXT: u64 = 8192;
/// Tokens of a step, as servers have them by default: Wharf on CPUs, engines on GPUs.
const BATCH_TOKENS: (u64, u64) = (512, 2048);

/// Runs the command to its end.
pub(crate) fn run(args: &Args, env: &Env) -> Result<(), Failure> {
    let asked = asked(args).bad_input()?;
    let place = match (&args.model, &asked.source) {
        (Some(place), _) => place,
        (None, Some(source)) => source,
        (None, None) => {
            let why = "the Model that it refers to is not in the file; give the model's path before -f";
            return Err(Failure::BadInput(anyhow!(why)));
        }
    };
    let header = header(place, &settings(args, env)?).bad_input()?;
    let wanted = wanted(args, &asked, &header).bad_input()?;
    let target = target(args, &asked, &header, &wanted)?;
    let report = Report::new(&header, &wanted, &target);
    let text = match args.output {
        Output::Text => report.to_string(),
        Output::Json => serde_json::to_string_pretty(&report).context("failed to write the plan as JSON")?,
    };
    exit::print(&format!("{}\n", text.trim_end()))?;
    match report.fits {
        true => Ok(()),
        false => Err(Failure::Failed(anyhow!("{place} does not fit as it was asked for"))),
    }
}

fn asked(args: &Args) -> anyhow::Result<Asked> {
    let Some(path) = &args.service else { return Ok(Asked::default()) };
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).with_context(|| format!("failed to read {name}"))?;
    Asked::read(&name, &text).with_context(|| format!("failed to plan for {name}"))
}

/// How sources elsewhere are read.
fn settings(args: &Args, env: &Env) -> Result<Settings, Failure> {
    let mut settings = Settings::from_env(env).bad_input()?;
    settings.policy.allow_private = args.allow_private;
    Ok(settings)
}

/// The headers of the model at a path or URL.
///
/// # Errors
/// When the place cannot be read, or has no model.
pub(crate) fn header(place: &str, settings: &Settings) -> anyhow::Result<Header> {
    let what = || format!("failed to read the headers of {place}");
    let path = match place.contains("://").then(|| place.parse::<SourceUrl>()).transpose()? {
        None => PathBuf::from(place),
        Some(SourceUrl::File(file)) => file.path,
        Some(url) => {
            let files = RemoteFiles::at(&url, settings).with_context(what)?;
            return wharf_plan::read(&files, &files.name).with_context(what);
        }
    };
    local_header(&path)
}

/// The headers of the model at a path of this machine.
///
/// # Errors
/// When there is no model.
pub(crate) fn local_header(path: &Path) -> anyhow::Result<Header> {
    let what = || format!("failed to read the headers of {}", path.display());
    let files = LocalFiles::at(path).with_context(what)?;
    wharf_plan::read(&files, &files.name).with_context(what)
}

/// Bytes of the weights, in a scheme of `wharf quantize` if one is named.
///
/// # Errors
/// When there is no such scheme.
pub(crate) fn weight_bytes(header: &Header, scheme: Option<&str>) -> anyhow::Result<u64> {
    let scheme = scheme.map(str::parse::<Scheme>).transpose()?;
    let weights =
        scheme.as_ref().map_or_else(|| header.shape.stored.clone(), |scheme| scheme.apply(&header.shape));
    Ok(weights.values().flatten().map(|share| share.bytes).sum())
}

fn wanted(args: &Args, asked: &Asked, header: &Header) -> anyhow::Result<Wanted> {
    let on_gpus = args.gpu.is_some() || args.nodes.is_some() || args.cluster || asked.gpus.is_some();
    let default_batch = if on_gpus { BATCH_TOKENS.1 } else { BATCH_TOKENS.0 };
    let flag = args.kv_cache.map(|kv_cache| match kv_cache {
        KvCache::F16 => KvType::F16,
        KvCache::Int8 => KvType::Int8,
        KvCache::Fp8 => KvType::Fp8,
    });
    let kv_cache = flag.or(asked.kv_cache).unwrap_or_default();
    if kv_cache == KvType::Fp8 && !on_gpus {
        bail!("there are no fp8 keys and values on CPUs; use int8");
    }
    let context = args.context.or(asked.context).unwrap_or(header.shape.context_length.min(CONTEXT));
    Ok(Wanted {
        scheme: args.quantize.as_deref().map(str::parse::<Scheme>).transpose()?.or(asked.scheme),
        load: Load {
            context: context.min(MOST_CONTEXT),
            streams: args.streams.or(asked.streams).unwrap_or(1).min(MOST_STREAMS),
            batch_tokens: args.batch_tokens.or(asked.batch_tokens).unwrap_or(default_batch).min(MOST_BATCH),
            kv_cache,
        },
    })
}

/// Where the plan is for: what flags say, else what the service asks for, else this machine.
fn target(args: &Args, asked: &Asked, header: &Header, wanted: &Wanted) -> Result<Target, Failure> {
    if let Some(gpu) = &args.gpu {
        return product(gpu, args.gpus_per_node).map(Target::Gpus).bad_input();
    }
    if let Some(path) = &args.nodes {
        let place = path.display().to_string();
        let json = std::fs::read(path).with_context(|| format!("failed to read the nodes in {place}"));
        return inventory(&json.bad_input()?, &place).map(Target::Gpus).bad_input();
    }
    if args.cluster {
        return inventory(&nodes_of_cluster()?, "the cluster").map(Target::Gpus).bad_input();
    }
    described(args, asked, header, wanted).bad_input()
}

/// What the service asks for, else this machine.
fn described(args: &Args, asked: &Asked, header: &Header, wanted: &Wanted) -> anyhow::Result<Target> {
    if let Some(gpus) = &asked.gpus {
        let name = gpus.product.as_deref().context(
            "the service asks for GPUs of any product; name one with --gpu, or the cluster's with --cluster or --nodes",
        )?;
        let (stock, split) = gpus.of(Product::find(name)?);
        return Ok(Target::Fixed(stock, split));
    }
    let MachineArgs { threads, memory, bandwidth, gflops } = &args.machine;
    let memory = memory.as_deref().map(ByteSize::parse).transpose();
    let memory = memory.map_err(|why| anyhow!("--memory: {why}"))?.map(|size| size.0).or(asked.memory);
    let threads = threads.or(asked.threads);
    let known = machine::Known { threads, bandwidth: *bandwidth, gflops: *gflops };
    let weights = wanted.weights(&header.shape);
    Ok(Target::Machine(machine::describe(&header.shape, &weights, memory, known)?))
}

/// Lists the nodes of the kubeconfig's cluster: what `kubectl get nodes -o json` prints of them.
///
/// # Errors
/// Bad input when there is no usable kubeconfig, a failure when the cluster does not answer or does not let us.
fn nodes_of_cluster() -> Result<Vec<u8>, Failure> {
    let runtime = runtime::one_thread()?;
    runtime.block_on(async {
        let client = wharf_cluster::connect().await.context("failed to find the cluster").bad_input()?;
        let nodes = wharf_cluster::nodes(&client).await.context("failed to list the cluster's nodes")?;
        Ok(serde_json::to_vec(&nodes).context("failed to write the nodes as JSON")?)
    })
}

/// GPUs of the nodes that are listed at a place.
fn inventory(json: &[u8], place: &str) -> anyhow::Result<Inventory> {
    let inventory =
        Inventory::of_nodes(json).with_context(|| format!("failed to read the nodes in {place}"))?;
    if inventory.stocks.is_empty() {
        let notes: String = inventory.notes.iter().map(|note| format!("\n  {note}")).collect();
        bail!("no node in {place} has GPUs to give out{notes}");
    }
    Ok(inventory)
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
