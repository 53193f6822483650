//! Prints how fast a model prefills and decodes on this machine.
//!
//! `throughput MODEL [--row ROW].. [--threads N] [--isa NAME] [--kv TYPE] [--steps N] [--repeat N] [--profile] [--json]`, where a row is one of
//!   * `prefill:TOKENS`: one prompt from an empty context;
//!   * `scored:TOKENS`: the same with logits of every position, as an evaluation needs them;
//!   * `decode:STREAMS@CONTEXT`: `--steps` tokens for each of several streams, every stream with a context of its own;
//!   * `prefix:SHARED+OWN`: what remains to be computed of a prompt whose first `SHARED` tokens are in the KV memory.
//!
//! Each row is warmed up once, then repeated; the median is printed in tokens per second, as a table or as one JSON object per
//! line that also says what the machine had to do: multiply-adds of the matrix products and bytes read from memory. `--profile`
//! adds how long each step of a layer took: what is left of a layer when its products are infinitely fast.
#![expect(clippy::print_stdout, reason = "a table for a person at a terminal")]

use std::path::Path;
use std::str::FromStr;
use std::time::{Duration, Instant};

use wharf_engine::cpu::{CpuBackend, CpuOptions, KvType, Step};
use wharf_engine::{BLOCK_TOKENS, Backend as _, BlockId, Chunk, Logits, LogitsFor};
use wharf_kernels::Isa;
use wharf_model::Model;

const USAGE: &str =
    "usage: throughput MODEL [--row ROW].. [--threads N] [--isa NAME] [--kv TYPE] [--steps N] [--repeat N] [--profile] [--json]
types of keys and values: f16, f32, int8
rows: prefill:TOKENS, scored:TOKENS, decode:STREAMS@CONTEXT, prefix:SHARED+OWN";
const DEFAULT_ROWS: [Row; 6] = [
    Row::Prefill { tokens: 128 },
    Row::Prefill { tokens: 512 },
    Row::Prefill { tokens: 2048 },
    Row::Decode { streams: 1, context: 64 },
    Row::Decode { streams: 8, context: 64 },
    Row::Decode { streams: 32, context: 64 },
];
type Failure = Box<dyn std::error::Error>;

/// Steps that bring a decoding row up to speed.
const WARM_STEPS: usize = 4;

#[derive(Clone, Copy, Debug)]
enum Row {
    Prefill { tokens: usize },
    Scored { tokens: usize },
    Decode { streams: usize, context: usize },
    Prefix { shared: usize, own: usize },
}

impl FromStr for Row {
    type Err = String;

    fn from_str(text: &str) -> Result<Row, String> {
        let number = |text: &str| text.parse::<usize>().ok().filter(|n| *n > 0);
        let pair = |text: &str, sign| {
            text.split_once(sign).and_then(|(a, b): (&str, &str)| Some((number(a)?, number(b)?)))
        };
        let row = match text.split_once(':') {
            Some(("prefill", n)) => number(n).map(|tokens| Row::Prefill { tokens }),
            Some(("scored", n)) => number(n).map(|tokens| Row::Scored { tokens }),
            Some(("decode", n)) => pair(n, '@').map(|(streams, context)| Row::Decode { streams, context }),
            Some(("prefix", n)) => pair(n, '+').map(|(shared, own)| Row::Prefix { shared, own }),
            _ => None,
        };
        row.ok_or_else(|| format!("row {text:?} is not understood\n{USAGE}"))
    }
}

impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Row::Prefill { tokens } => write!(f, "prefill:{tokens}"),
            Row::Scored { tokens } => write!(f, "scored:{tokens}"),
            Row::Decode { streams, context } => write!(f, "decode:{streams}@{context}"),
            Row::Prefix { shared, own } => write!(f, "prefix:{shared}+{own}"),
        }
    }
}

struct Arguments {
    model: String,
    rows: Vec<Row>,
    threads: usize,
    isa: Isa,
    kv_type: KvType,
    steps: usize,
    repeat: usize,
    profile: bool,
    json: bool,
}

impl Arguments {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
        let mut parsed = Arguments {
            model: String::new(),
            rows: Vec::new(),
            threads: CpuOptions::default().threads,
            isa: CpuOptions::default().isa,
            kv_type: CpuOptions::default().kv_type,
            steps: 32,
            repeat: 3,
            profile: false,
            json: false,
        };
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value\n{USAGE}"));
            let number = |text: String| match text.parse::<usize>() {
                Ok(n) if n > 0 => Ok(n),
                _ => Err(format!("{text:?} is not a positive number\n{USAGE}")),
            };
            match word.as_str() {
                "--row" => parsed.rows.push(value()?.parse()?),
                "--threads" => parsed.threads = number(value()?)?,
                "--isa" => {
                    let name = value()?;
                    parsed.isa = Isa::by_name(&name)
                        .ok_or_else(|| format!("{name:?} is no instruction set of this CPU\n{USAGE}"))?;
                }
                "--kv" => {
                    let name = value()?;
                    parsed.kv_type = KvType::by_name(&name)
                        .ok_or_else(|| format!("{name:?} is no type of keys and values\n{USAGE}"))?;
                }
                "--steps" => parsed.steps = number(value()?)?,
                "--repeat" => parsed.repeat = number(value()?)?,
                "--profile" => parsed.profile = true,
                "--json" => parsed.json = true,
                _ if parsed.model.is_empty() && !word.starts_with("--") => parsed.model = word,
                _ => return Err(format!("{word:?} is not understood\n{USAGE}")),
            }
        }
        if parsed.model.is_empty() {
            return Err(USAGE.into());
        }
        if parsed.rows.is_empty() {
            parsed.rows = DEFAULT_ROWS.to_vec();
        }
        Ok(parsed)
    }
}

fn main() -> Result<(), Failure> {
    let arguments = Arguments::parse(std::env::args().skip(1))?;
    let steps = arguments.steps;
    let kv_tokens = arguments.rows.iter().map(|row| kv_tokens(*row, steps)).max().unwrap_or(0);
    let (threads, isa, kv_type) = (arguments.threads, arguments.isa, arguments.kv_type);
    let options = CpuOptions { threads, isa, kv_tokens, kv_type, ..CpuOptions::default() };
    let started = Instant::now();
    let mut backend = CpuBackend::load(Model::open(Path::new(&arguments.model))?, &options, &mut |_, _| {})?;
    if !arguments.json {
        let (bytes, isa) = (backend.weight_bytes() as f64 / 1e6, options.isa.name());
        let seconds = started.elapsed().as_secs_f64();
        println!("loaded in {seconds:.3} s: {bytes:.1} MB of weights, {} threads, {isa}", options.threads);
    }
    if arguments.profile {
        backend.profile();
    }
    for row in arguments.rows {
        let seconds = run(&mut backend, row, steps, arguments.repeat)?;
        let work = Work::of(row, steps, &backend, kv_type);
        let rate = work.tokens as f64 / seconds;
        let Work { tokens, macs, bytes } = work;
        if arguments.json {
            println!(
                r#"{{"row":"{row}","tokens":{tokens},"seconds":{seconds:.9},"rate":{rate:.3},"macs":{macs},"bytes":{bytes}}}"#
            );
        } else {
            println!("{:<20} {rate:9.1} tok/s", row.to_string());
        }
        if arguments.profile {
            print_profile(&backend.take_profile());
        }
    }
    Ok(())
}

/// Shares of everything since the last row, its preparation included.
fn print_profile(steps: &[(Step, Duration)]) {
    let all: Duration = steps.iter().map(|(_, spent)| *spent).sum();
    for (step, spent) in steps {
        let (ms, share) = (spent.as_secs_f64() * 1e3, spent.as_secs_f64() / all.as_secs_f64() * 100.0);
        println!("  {:<10} {ms:10.2} ms {share:5.1}%", format!("{step:?}"));
    }
}

/// What a row asks of the machine. Attention's multiply-adds are not counted: they run in another precision.
struct Work {
    tokens: usize,
    macs: usize,
    bytes: usize,
}

impl Work {
    fn of(row: Row, steps: usize, backend: &CpuBackend, kv_type: KvType) -> Work {
        let config = backend.config();
        let (hidden, head) = (config.hidden_size, config.head_dim);
        let attention = 2 * hidden * head * (config.n_heads + config.n_kv_heads);
        let body = config.layers.len() * (attention + 3 * hidden * config.ffn_size);
        let logits = hidden * config.vocab_size;
        let kv = kv_type.bytes_per_token(config);
        let passes = |tokens: usize| tokens.div_ceil(backend.max_batch_tokens());
        match row {
            Row::Prefill { tokens } => Work {
                tokens,
                macs: tokens * body + logits,
                bytes: passes(tokens) * backend.weight_bytes() + tokens * kv,
            },
            Row::Scored { tokens } => Work {
                tokens,
                macs: tokens * (body + logits),
                bytes: passes(tokens) * backend.weight_bytes() + tokens * kv,
            },
            Row::Prefix { shared, own } => Work {
                tokens: own,
                macs: own * body + logits,
                bytes: passes(own) * backend.weight_bytes() + (shared + own) * kv,
            },
            Row::Decode { streams, context } => Work {
                tokens: streams * steps,
                macs: streams * steps * (body + logits),
                bytes: steps * (backend.weight_bytes() + streams * (context + steps / 2) * kv),
            },
        }
    }
}

/// Tokens of KV memory that a row needs, in whole blocks of each stream.
fn kv_tokens(row: Row, steps: usize) -> usize {
    let (streams, tokens) = match row {
        Row::Prefill { tokens } | Row::Scored { tokens } => (1, tokens),
        Row::Prefix { shared, own } => (1, shared + own),
        Row::Decode { streams, context } => (streams, context + steps.max(WARM_STEPS)),
    };
    streams * tokens.next_multiple_of(BLOCK_TOKENS)
}

/// The median time of one repetition, in seconds.
fn run(backend: &mut CpuBackend, row: Row, steps: usize, repeat: usize) -> Result<f64, Failure> {
    let mut logits = Logits::default();
    let mut once: Box<dyn FnMut(usize) -> Result<f64, Failure>> = match row {
        Row::Prefill { tokens } => {
            let (prompt, blocks) = (prompt(0, tokens), blocks(0, tokens));
            Box::new(move |_| prefill(backend, &prompt, 0, &blocks, &mut logits))
        }
        Row::Scored { tokens } => {
            let (prompt, blocks) = (prompt(0, tokens), blocks(0, tokens));
            Box::new(move |_| scored(backend, &prompt, &blocks, &mut logits))
        }
        Row::Prefix { shared, own } => {
            let (prompt, blocks) = (prompt(0, shared + own), blocks(0, shared + own));
            prefill(backend, &prompt[..shared], 0, &blocks, &mut logits)?;
            Box::new(move |_| prefill(backend, &prompt[shared..], shared, &blocks, &mut logits))
        }
        Row::Decode { streams, context } => {
            let per_stream = kv_tokens(Row::Decode { streams: 1, context }, steps);
            let tables: Vec<Vec<BlockId>> =
                (0..streams).map(|i| blocks(i * (per_stream / BLOCK_TOKENS), per_stream)).collect();
            for (stream, blocks) in tables.iter().enumerate() {
                prefill(backend, &prompt(stream, context), 0, blocks, &mut logits)?;
            }
            Box::new(move |steps| decode(backend, &tables, context, steps, &mut logits))
        }
    };
    once(WARM_STEPS)?;
    let mut seconds = (0..repeat).map(|_| once(steps)).collect::<Result<Vec<_>, _>>()?;
    seconds.sort_by(f64::total_cmp);
    Ok(seconds[seconds.len() / 2])
}

fn blocks(first: usize, tokens: usize) -> Vec<BlockId> {
    (0..tokens.div_ceil(BLOCK_TOKENS)).map(|block| BlockId((first + block) as u32)).collect()
}

/// Streams differ, so that nothing can be computed once for several of them.
fn prompt(stream: usize, tokens: usize) -> Vec<u32> {
    (0..tokens).map(|i| (100 + (i * 7919 + stream * 104_729) % 5000) as u32).collect()
}

fn prefill(
    backend: &mut CpuBackend,
    tokens: &[u32],
    start: usize,
    blocks: &[BlockId],
    logits: &mut Logits,
) -> Result<f64, Failure> {
    let started = Instant::now();
    let width = backend.max_batch_tokens();
    for (index, part) in tokens.chunks(width).enumerate() {
        let last = (index + 1) * width >= tokens.len();
        let logits_for = if last { LogitsFor::Last } else { LogitsFor::None };
        let chunk = Chunk { tokens: part, start: start + index * width, blocks, logits: logits_for };
        backend.forward(&[chunk], logits)?;
    }
    Ok(started.elapsed().as_secs_f64())
}

fn scored(
    backend: &mut CpuBackend,
    tokens: &[u32],
    blocks: &[BlockId],
    logits: &mut Logits,
) -> Result<f64, Failure> {
    let started = Instant::now();
    let width = backend.max_batch_tokens();
    for (index, tokens) in tokens.chunks(width).enumerate() {
        let chunk = Chunk { tokens, start: index * width, blocks, logits: LogitsFor::All };
        backend.forward(&[chunk], logits)?;
    }
    Ok(started.elapsed().as_secs_f64())
}

fn decode(
    backend: &mut CpuBackend,
    tables: &[Vec<BlockId>],
    context: usize,
    steps: usize,
    logits: &mut Logits,
) -> Result<f64, Failure> {
    let started = Instant::now();
    for step in 0..steps {
        let tokens: Vec<[u32; 1]> =
            (0..tables.len()).map(|stream| [(100 + step + stream * 31) as u32]).collect();
        let chunks: Vec<Chunk<'_>> = tables
            .iter()
            .zip(&tokens)
            .map(|(blocks, tokens)| Chunk { tokens, start: context + step, blocks, logits: LogitsFor::Last })
            .collect();
        backend.forward(&chunks, logits)?;
    }
    Ok(started.elapsed().as_secs_f64())
}
