//! Whether the logits of a group of ranks are those of one process: `divergence MODEL TEXT tensor|pipeline N`.
//!
//! Every rank is a thread of this process. Prints the mean KL divergence over windows of 256 tokens of the text, how often the best
//! token is the same, and how many logits have other bits, which fails unless there are none; and the times of one token and of a prompt of
//! 256 by one process with one thread, by one with as many threads as there are ranks, and by ranks of one thread each.
#![expect(clippy::print_stdout, reason = "an example prints its result")]

use std::error::Error;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use wharf_engine::cpu::{CpuBackend, CpuOptions, CpuStage, KvType, Shard, Share};
use wharf_engine::{Backend, BlockId, Chunk, Logits, LogitsFor};
use wharf_model::shard::{LayerBytes, ShardPlan, Steps};
use wharf_model::{EncodeOptions, Model, Source, Tokenizer};
use wharf_ranks::{
    Ending, Fate, Group, GroupOptions, Identity, Joined, Kind, PipelineLeader, Setup, SharedMemory, assemble,
    join,
};

type Failure = Box<dyn Error + Send + Sync>;

const WINDOW: usize = 256;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, text, kind, size] = &arguments[..] else {
        return Err("usage: divergence MODEL TEXT tensor|pipeline N".into());
    };
    let (path, size) = (PathBuf::from(path), size.parse()?);
    let kind = if kind == "pipeline" { Kind::Pipeline } else { Kind::Tensor };
    let model = Model::open(&path)?;
    let Source::Gguf(metadata) = &model.source else { return Err("a GGUF file is needed".into()) };
    let tokens =
        Tokenizer::from_gguf(metadata)?.encode(&std::fs::read_to_string(text)?, EncodeOptions::default());
    let windows: Vec<&[u32]> = tokens.chunks_exact(WINDOW).take(8).collect();
    let setup = Setup { kv_tokens: 1024, kv_type: KvType::F16, max_batch_tokens: 512, shared: None };
    let mut alone = CpuBackend::load(Model::open(&path)?, &options(&setup), &mut |_, _| {})?;
    let (mut group, ended) = start(&path, kind, size, setup)?;
    let (mut sum, mut same, mut rows, mut other_bits) = (0.0, 0, 0, 0);
    for window in &windows {
        let (expected, found) = (score(&mut alone, window)?, score(&mut *group, window)?);
        for row in 0..WINDOW {
            let (expected, found) = (expected.row(row), found.row(row));
            sum += divergence(expected, found);
            same += usize::from(best(expected) == best(found));
            other_bits += expected.iter().zip(found).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
            rows += 1;
        }
    }
    println!(
        "{kind} {size}: mean KL {:.3e}, same best token {:.2}%, logits with other bits: {other_bits}, {rows} rows",
        sum / rows as f64,
        100.0 * same as f64 / rows as f64
    );
    let mut threads = CpuBackend::load(
        Model::open(&path)?,
        &CpuOptions { threads: size, ..options(&setup) },
        &mut |_, _| {},
    )?;
    let prompt = windows.first().ok_or("the text is shorter than a window")?;
    let together: &mut dyn Backend = &mut *group;
    for (who, backend) in
        [("one thread", &mut alone as &mut dyn Backend), ("one process", &mut threads), ("ranks", together)]
    {
        let (token, prompt) =
            (least(100, |start| decode(backend, start))?, least(5, |_| score(backend, prompt).map(drop))?);
        println!("{who}: one token {token:.2?}, {WINDOW} tokens {prompt:.2?}");
    }
    ended.end(Ending::Orderly);
    if other_bits == 0 { Ok(()) } else { Err("ranks do not compute what one process does".into()) }
}

fn options(setup: &Setup) -> CpuOptions {
    CpuOptions {
        threads: 1,
        kv_tokens: setup.kv_tokens,
        kv_type: setup.kv_type,
        max_batch_tokens: setup.max_batch_tokens,
        ..CpuOptions::default()
    }
}

fn identity(kind: Kind, size: usize, rank: usize) -> Identity {
    Identity { kind, size, rank, version: String::new(), model: [0; 32] }
}

fn start(path: &Path, kind: Kind, size: usize, setup: Setup) -> Result<(Box<dyn Backend>, Group), Failure> {
    let patience = Duration::from_secs(600);
    let together = GroupOptions { assembly: patience, patience, key: String::new() };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?.to_string();
    for rank in 1..size {
        let (path, address, together) = (path.to_owned(), address.clone(), together.clone());
        std::thread::spawn(move || -> Result<(), Failure> {
            let joined = join(&address, &identity(kind, size, rank), &together)?;
            let stage = load(&path, kind, size, rank, &joined)?;
            Ok(joined.follow(stage)?)
        });
    }
    let memory = SharedMemory::new(size)?;
    let shared = (kind == Kind::Tensor).then(|| memory.descriptor());
    let fate = Arc::new(Fate::default());
    let (group, links) =
        assemble(listener, &identity(kind, size, 0), &together, &Setup { shared, ..setup }, &fate)?;
    let model = Model::open(path)?;
    let leader: Box<dyn Backend> = match kind {
        Kind::Tensor => {
            let shard = Shard { plan: plan(&model, size)?, rank: 0 };
            let ranks = memory.ranks(&fate)?;
            let stage = CpuStage::load_rank(&model, shard, ranks, &options(&setup), &mut |_, _| {})?;
            Box::new(links.tied().lead(stage)?)
        }
        Kind::Pipeline => {
            let share = share(&model, size, 0)?;
            let stage = CpuStage::load(&model, share, &options(&setup), &mut |_, _| {})?;
            Box::new(PipelineLeader::lead(stage, links)?)
        }
    };
    Ok((leader, group))
}

fn plan(model: &Model, size: usize) -> Result<ShardPlan, Failure> {
    Ok(ShardPlan::new(&model.config, Steps::of(&model.config, &model.weights), size)?)
}

fn share(model: &Model, size: usize, rank: usize) -> Result<Share, Failure> {
    let layers = LayerBytes::of(&model.config, &model.weights).stages(size)?.swap_remove(rank);
    Ok(Share { layers, embeds: rank == 0, predicts: rank + 1 == size })
}

fn load(path: &Path, kind: Kind, size: usize, rank: usize, joined: &Joined) -> Result<CpuStage, Failure> {
    let (model, options) = (Model::open(path)?, options(&joined.setup));
    Ok(match kind {
        Kind::Tensor => {
            let shard = Shard { plan: plan(&model, size)?, rank };
            CpuStage::load_rank(&model, shard, joined.ranks()?, &options, &mut |_, _| {})?
        }
        Kind::Pipeline => CpuStage::load(&model, share(&model, size, rank)?, &options, &mut |_, _| {})?,
    })
}

fn blocks() -> Vec<BlockId> {
    (0..64).map(BlockId).collect()
}

fn score(backend: &mut dyn Backend, tokens: &[u32]) -> Result<Logits, Failure> {
    let mut logits = Logits::default();
    let chunk = Chunk { tokens, start: 0, blocks: &blocks(), logits: LogitsFor::All };
    backend.forward(&[chunk], &mut logits)?;
    Ok(logits)
}

/// One token of one stream.
fn decode(backend: &mut dyn Backend, start: usize) -> Result<(), Failure> {
    let chunk = Chunk { tokens: &[1], start, blocks: &blocks(), logits: LogitsFor::Last };
    Ok(backend.forward(&[chunk], &mut Logits::default())?)
}

/// The least time that `run` takes.
fn least(times: usize, mut run: impl FnMut(usize) -> Result<(), Failure>) -> Result<Duration, Failure> {
    let mut least = Duration::MAX;
    for time in 0..times {
        let began = Instant::now();
        run(time)?;
        least = least.min(began.elapsed());
    }
    Ok(least)
}

/// KL divergence in nats.
fn divergence(expected: &[f32], found: &[f32]) -> f64 {
    let log_sum = |row: &[f32]| {
        let most = row.iter().copied().fold(f32::MIN, f32::max);
        f64::from(most) + row.iter().map(|x| f64::from(x - most).exp()).sum::<f64>().ln()
    };
    let (p_sum, q_sum) = (log_sum(expected), log_sum(found));
    let terms = expected.iter().zip(found).map(|(p, q)| {
        let (p, q) = (f64::from(*p) - p_sum, f64::from(*q) - q_sum);
        p.exp() * (p - q)
    });
    terms.sum()
}

/// The best token.
fn best(row: &[f32]) -> usize {
    (1..row.len()).fold(0, |best, token| if row[token] > row[best] { token } else { best })
}
