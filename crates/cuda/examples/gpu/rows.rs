//! Decides how a shape is timed, on the clock of the host: what the engine waits for, with everything that the host does for it.

use std::error::Error;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use wharf_cuda::driver::Gpu;
use wharf_cuda::memory::Share;
use wharf_cuda::{CudaBackend, CudaOptions};
use wharf_engine::{BLOCK_TOKENS, Backend as _, BlockId, Chunk, Logits, LogitsFor};

use crate::limits::Limits;
use crate::report::{Report, Row, because};
use crate::shapes::{self, Ask, Shape};

type Failure = Box<dyn Error>;

/// Most tokens of a pass: the longest prompt that is timed.
const MAX_BATCH_TOKENS: usize = 2048;
/// Runs before those that count: one is launched, one recorded.
const WARM: usize = 3;
/// As many runs count at least, and at most.
const RUNS: (usize, usize) = (5, 200);
/// What a row takes at most beside its runs.
const ROW: Duration = Duration::from_secs(5);
/// What writing and packing weights reaches at least, bytes a second.
const LOADING: f64 = 1e9;

/// How much time there is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    pub(crate) start: Instant,
    pub(crate) whole: Duration,
}

impl Budget {
    /// What is left.
    pub(crate) fn left(self) -> Duration {
        self.whole.saturating_sub(self.start.elapsed())
    }
}

/// Where a shape is timed.
pub(crate) struct Place<'a> {
    /// Index of the GPU.
    pub(crate) gpu: usize,
    /// For the model's file.
    pub(crate) folder: &'a Path,
    pub(crate) budget: Budget,
    pub(crate) threads: usize,
    /// After so long no other run of a row begins, once there are enough.
    pub(crate) enough: Duration,
}

/// Times all that is asked of a shape; what does not fit into the budget or the GPU is dropped, and what fails is told.
pub(crate) fn run(
    shape: &Shape,
    place: &Place<'_>,
    limits: &Limits,
    report: &mut Report,
    say: &mut dyn FnMut(&str),
) {
    let title = shape.title();
    let (file, weights) = shape.bytes();
    let loading = Duration::from_secs_f64((file + weights) as f64 / LOADING);
    if place.budget.left() < loading + ROW {
        report.dropped.push((title, spent(place)));
        return;
    }
    if let Err(error) = timed(shape, place, limits, report, say) {
        say(&format!("{title} failed: {}", because(&*error)));
        report.failed.push((title, because(&*error)));
    }
}

fn timed(
    shape: &Shape,
    place: &Place<'_>,
    limits: &Limits,
    report: &mut Report,
    say: &mut dyn FnMut(&str),
) -> Result<(), Failure> {
    let title = shape.title();
    let path = place.folder.join("shape.gguf");
    shape.write(&path)?;
    let begun = Instant::now();
    let gpu = Gpu::open(place.gpu)?;
    let model = shapes::open(&path, shape.layers)?;
    let per_token = CudaBackend::kv_bytes_per_token(&model.config);
    let room = CudaBackend::room(&gpu, &model, Share::ALL, MAX_BATCH_TOKENS)? as usize / per_token;
    let most = shape.asks.iter().map(|ask| ask.kv_tokens()).max().unwrap_or(0);
    let kv_tokens = most.min(room);
    let options = CudaOptions { kv_tokens, max_batch_tokens: MAX_BATCH_TOKENS, threads: place.threads };
    let mut backend = CudaBackend::load(gpu, model, &options, &mut |_, _| {})?;
    let loaded = begun.elapsed();
    for ask in shape.asks.iter().filter(|ask| !matches!(ask, Ask::Start { .. })) {
        let mut skip = |why| report.dropped.push((format!("{title}: {}", ask.name()), why));
        if place.budget.left() < place.enough + ROW {
            skip(spent(place));
            continue;
        }
        if ask.kv_tokens() > kv_tokens {
            skip(format!("the GPU has room for keys and values of {kv_tokens} tokens beside the weights"));
            continue;
        }
        let runs = runs(&mut backend, *ask, place.enough)?;
        let work = shape.work(*ask, backend.weight_bytes(), per_token);
        let least = work.map(|(bytes, flops)| limits.least(bytes, flops));
        tell(Row { model: title.clone(), what: ask.name(), runs, tokens: ask.tokens(), least }, report, say);
    }
    // Another process is to have the GPU's memory.
    drop(backend);
    for ask in shape.asks {
        let Ask::Start { tokens } = ask else { continue };
        if place.budget.left() < 2 * loaded + ROW {
            report.dropped.push((format!("{title}: {}", ask.name()), spent(place)));
            continue;
        }
        let runs = vec![start(&path, shape.layers, *tokens, place)?];
        tell(Row { model: title.clone(), what: ask.name(), runs, tokens: *tokens, least: None }, report, say);
    }
    Ok(())
}

fn spent(place: &Place<'_>) -> String {
    format!("{} s of the budget are left", place.budget.left().as_secs())
}

fn tell(row: Row, report: &mut Report, say: &mut dyn FnMut(&str)) {
    say(&row.line());
    report.rows.push(row);
}

/// Milliseconds of each run.
fn runs(backend: &mut CudaBackend, ask: Ask, enough: Duration) -> Result<Vec<f64>, Failure> {
    let mut batch = Batch::of(ask, backend.vocab_size());
    let mut logits = Logits::default();
    for _ in 0..WARM {
        batch.pass(backend, &mut logits)?;
    }
    let (begun, mut runs) = (Instant::now(), Vec::new());
    while runs.len() < RUNS.0 || (runs.len() < RUNS.1 && begun.elapsed() < enough) {
        let begun = Instant::now();
        batch.pass(backend, &mut logits)?;
        runs.push(1e3 * begun.elapsed().as_secs_f64());
    }
    Ok(runs)
}

/// What a pass of a row computes. Keys and values of contexts are what the memory held: zeros, or those of rows before.
struct Batch {
    tokens: Vec<Vec<u32>>,
    blocks: Vec<Vec<BlockId>>,
    start: usize,
    logits: LogitsFor,
    /// The row ends when the first token is chosen.
    choose: bool,
}

impl Batch {
    fn of(ask: Ask, vocab: usize) -> Batch {
        let (count, tokens, start, logits) = match ask {
            Ask::Decode { batch, context } => (batch, 1, context - 1, LogitsFor::Last),
            Ask::Prefill { tokens } => (1, tokens, 0, LogitsFor::None),
            Ask::FirstToken { tokens } | Ask::Start { tokens } => (1, tokens, 0, LogitsFor::Last),
        };
        let each = (start + tokens).div_ceil(BLOCK_TOKENS) as u32;
        let choose = matches!(ask, Ask::FirstToken { .. } | Ask::Start { .. });
        Batch {
            tokens: (0..count)
                .map(|i| (0..tokens).map(|k| ((i * 7919 + k * 104_729) % vocab) as u32).collect())
                .collect(),
            blocks: (0..count as u32).map(|i| (i * each..(i + 1) * each).map(BlockId).collect()).collect(),
            start,
            logits,
            choose,
        }
    }

    /// Computes it, and waits until it is done; the token that was chosen, if one was to be.
    fn pass(&mut self, backend: &mut CudaBackend, logits: &mut Logits) -> Result<Option<usize>, Failure> {
        let each = self.tokens.iter().zip(&self.blocks);
        let chunks: Vec<Chunk<'_>> = each
            .map(|(tokens, blocks)| Chunk { tokens, start: self.start, blocks, logits: self.logits })
            .collect();
        backend.forward(&chunks, logits)?;
        if self.logits == LogitsFor::None {
            backend.gpu().synchronize()?;
        }
        let best = |row: &[f32]| (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b]));
        Ok(if self.choose { best(logits.row(0)) } else { None })
    }
}

/// Milliseconds from the start of a process until it says its first token. The model's file is in the system's cache.
fn start(path: &Path, layers: usize, tokens: usize, place: &Place<'_>) -> Result<f64, Failure> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--first-token", &tokens.to_string(), "--layers", &layers.to_string()]);
    command.args(["--gpu", &place.gpu.to_string(), "--model"]).arg(path).stdout(Stdio::piped());
    let begun = Instant::now();
    let mut child = command.spawn()?;
    let mut line = String::new();
    let out = child.stdout.take().expect("its output is a pipe");
    let read = BufReader::new(out).read_line(&mut line);
    let took = begun.elapsed();
    let status = child.wait()?;
    read?;
    match line.strip_prefix("token ") {
        Some(_) if status.success() => Ok(1e3 * took.as_secs_f64()),
        _ => Err(format!("the process that was to say its first token ended with {status}").into()),
    }
}

/// What such a process does: its first token, of a prompt of `tokens`.
///
/// # Errors
/// When the GPU or the model fails.
pub(crate) fn first_token(
    gpu: usize,
    path: &Path,
    layers: usize,
    tokens: usize,
    threads: usize,
) -> Result<usize, Failure> {
    let gpu = Gpu::open(gpu)?;
    let options = CudaOptions { kv_tokens: tokens, max_batch_tokens: tokens, threads };
    let mut backend = CudaBackend::load(gpu, shapes::open(path, layers)?, &options, &mut |_, _| {})?;
    let mut batch = Batch::of(Ask::Start { tokens }, backend.vocab_size());
    let chosen = batch.pass(&mut backend, &mut Logits::default())?;
    chosen.ok_or_else(|| "there are no logits to choose from".into())
}
