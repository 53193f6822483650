//! `cargo xtask bench`: how fast we are beside others, in one run on one machine. This file is `bench peers`, engines beside engines;
//! `bench optimize`, `bench gateway` and `bench routing` are modules of their own.
//!
//! Every row is measured in rounds: in each, ours and every peer run once, one after the other, and who goes first changes.
//! Only figures of one round are compared, because the speed of a shared machine drifts. `stats` says what counts.

mod checkpoint;
mod engines;
mod gateway;
mod operator;
mod optimize;
mod peers;
mod plot;
mod report;
mod routing;
mod rows;
pub(crate) mod served;
mod stats;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, anyhow, bail};

use crate::cache::Cache;
use crate::demo_files::Files;
use crate::{environment, server, shell};
use checkpoint::{Checkpoints, Circumstances, Measured};
use engines::{Engine, Sample, Tools};
use peers::{Peers, REQUIREMENTS};
use report::{Finished, OURS, Report};
use rows::{Kind, Peer, Row};
use stats::{PAIRS_THAT_COUNT, Probe};

/// Measure speed and memory
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    Peers(PeersArgs),
    Optimize(optimize::Args),
    Gateway(gateway::Args),
    Routing(routing::Args),
    Operator(operator::Args),
}

/// Compare speed and memory with llama.cpp and OpenVINO GenAI
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask bench peers --write-docs              everything, into docs/performance.md
  cargo xtask bench peers --rows 'prefill-512/*' 'decode-8/*'
  cargo xtask bench peers --rows start/Q4_0 --pairs 1

The first run compiles llama.cpp (about a quarter of an hour on two cores). A run that was interrupted goes on where it stopped;
inconclusive rows are measured again. Exits with 1 when a bar is missed, else with 3 when a row is inconclusive: its pairs
spread over more than 15% of the median, the machine was slower than 90% of its best, or there were fewer than 7 pairs.")]
struct PeersArgs {
    /// Rows to measure, * stands for any characters
    #[arg(long, value_name = "PATTERN", num_args = 1..)]
    rows: Vec<String>,
    /// How often each row is measured
    #[arg(long, value_name = "N", default_value_t = PAIRS_THAT_COUNT, value_parser = at_least_one)]
    pairs: usize,
    /// Write all figures as JSON
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Write the table and the plot into docs
    #[arg(long)]
    write_docs: bool,
    /// Measure finished rows again
    #[arg(long)]
    fresh: bool,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| "must be a number of at least 1".into())
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    match &args.command {
        Command::Peers(args) => compare(args),
        Command::Optimize(args) => optimize::run(args),
        Command::Gateway(args) => gateway::run(args),
        Command::Routing(args) => routing::run(args),
        Command::Operator(args) => operator::run(args),
    }
}

fn compare(args: &PeersArgs) -> anyhow::Result<ExitCode> {
    let rows = rows::selected(&args.rows).map_err(|message| anyhow!(message))?;
    let cache = Cache::open()?;
    let threads = std::thread::available_parallelism().context("failed to count the cores")?.get();
    let circumstances = Circumstances::now(threads)?;
    let peers = Peers::install(&cache)?;
    let types: Vec<&str> = rows.iter().map(|row| row.file).collect();
    let files = Files::open(&cache)?;
    peers::derive(&cache, &peers, &files, &types)?;
    let tools = build(&cache, peers, threads)?;
    let checkpoints = Checkpoints { folder: cache.folder("bench-peers").join("rows") };

    let key = |row: &Row| circumstances.key(&row.id, &files.path(row.file).display().to_string(), args.pairs);
    let mut measured = BTreeMap::new();
    if !args.fresh {
        for row in &rows {
            if let Some(found) = checkpoints.load(&key(row))? {
                measured.insert(row.id.clone(), found);
            }
        }
    }
    // What an earlier run left undecided is measured again, once.
    let best = Probe::best(measured.values().map(|m: &Measured| &m.probe));
    if let Some(best) = best {
        for row in &rows {
            let finished = measured.get(&row.id).and_then(|m| Finished::of(row, m, &best));
            if finished.is_some_and(|f| f.inconclusive()) && args.pairs >= PAIRS_THAT_COUNT {
                measured.remove(&row.id);
            }
        }
    }
    let mut failed = Vec::new();
    let started = Instant::now();
    for (index, row) in rows.iter().enumerate() {
        let elapsed = started.elapsed().as_secs();
        if measured.contains_key(&row.id) {
            eprintln!("[{}/{}] {}: measured before", index + 1, rows.len(), row.id);
            continue;
        }
        eprintln!("[{}/{}] {} ({elapsed} s)", index + 1, rows.len(), row.id);
        let best = Probe::best(measured.values().map(|m: &Measured| &m.probe));
        match measure(&tools, row, &files.path(row.file), args.pairs, best.as_ref()) {
            Ok(found) => {
                checkpoints.save(&key(row), &found)?;
                measured.insert(row.id.clone(), found);
            }
            // The other rows are worth having all the same.
            Err(error) => {
                eprintln!("error: failed to measure {}: {error:#}", row.id);
                failed.push(row.id.as_str());
            }
        }
    }

    let best_probe = Probe::best(measured.values().map(|m| &m.probe)).context("no row could be measured")?;
    let finished =
        rows.iter().filter_map(|row| Finished::of(row, measured.get(&row.id)?, &best_probe)).collect();
    let report = Report {
        model: files.name.clone(),
        peers: REQUIREMENTS.map(str::to_owned).to_vec(),
        circumstances,
        pairs: args.pairs,
        best_probe,
        rows: finished,
    };
    println!("{}", report.table());
    if let Some(path) = &args.output {
        let json = serde_json::to_string_pretty(&report).context("failed to write the report as JSON")?;
        write(path, &(json + "\n"))?;
    }
    if args.write_docs {
        write_docs("peers", &report.markdown(PLOT))?;
        write(&environment::root().join("docs").join(PLOT), &plot::draw(&report))?;
    }
    if !failed.is_empty() {
        bail!("failed to measure {}", failed.join(" "));
    }
    Ok(ExitCode::from(report.exit_code()))
}

/// Builds everything of ours that measures.
fn build(cache: &Cache, peers: Peers, threads: usize) -> anyhow::Result<Tools> {
    Ok(Tools {
        throughput: shell::example("throughput")?,
        bench: shell::example("bench")?,
        wharf: server::build()?,
        peers,
        threads,
        log: cache.folder("bench-peers").join("server.log"),
    })
}

/// A machine that is slow at the moment gets this many chances to recover before a row.
const PROBES: usize = 4;

fn measure(
    tools: &Tools,
    row: &Row,
    file: &Path,
    pairs: usize,
    best: Option<&Probe>,
) -> anyhow::Result<Measured> {
    let (mut engines, mut settings) = (vec![(OURS, Engine::Ours(tools))], BTreeMap::new());
    for &peer in &row.peers {
        let candidates = match peer {
            Peer::LlamaCpp => Engine::llama(tools, row),
            Peer::OpenVino => Engine::openvino(tools, row, file)?,
        };
        engines.push((peer.name(), best_setting(candidates, row, file)?));
    }
    for (name, engine) in &engines {
        settings.insert((*name).to_owned(), engine.setting());
    }
    let mut probe = tools.probe()?;
    for _ in 1..PROBES {
        if !best.is_some_and(|best| probe.too_slow(best)) {
            break;
        }
        probe = tools.probe()?;
    }
    let mut samples: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    let mut work = None;
    for round in 0..pairs {
        // Who goes first changes; with one peer the two alternate.
        let count = engines.len();
        let mut said = String::new();
        for place in 0..count {
            let (name, engine) = &mut engines[(round + place) % count];
            let Sample { value, work: asked } = engine.measure(row, file)?;
            said += &format!("  {name} {value:.3}");
            work = work.or(asked);
            samples.entry((*name).to_owned()).or_default().push(value);
        }
        eprintln!("  {}/{pairs}:{said}", round + 1);
    }
    Ok(Measured { row: row.id.clone(), samples, settings, probe, work })
}

/// Tries each setting once and keeps the best: a peer is not to lose by a setting that its user would not choose.
fn best_setting<'a>(candidates: Vec<Engine<'a>>, row: &Row, file: &Path) -> anyhow::Result<Engine<'a>> {
    // Beside a busy process a single try says little: the setting that decodes best by itself is taken.
    let kind = match row.kind {
        Kind::Interference => Kind::Decode { streams: 1, context: 64 },
        kind => kind,
    };
    let row = &Row { kind, ..row.clone() };
    let mut best: Option<(f64, Engine<'a>)> = None;
    for mut engine in candidates {
        let value = engine.measure(row, file)?.value;
        let better = |than: f64| if kind.more_is_better() { value > than } else { value < than };
        if best.as_ref().is_none_or(|(than, _)| better(*than)) {
            best = Some((value, engine));
        }
    }
    best.map(|(_, engine)| engine).context("there is no setting to try")
}

const PAGE: &str = "docs/performance.md";
const PLOT: &str = "performance-peers.svg";

/// Puts what `cargo xtask bench COMMAND` has to say into the performance page.
fn write_docs(command: &str, generated: &str) -> anyhow::Result<()> {
    let path = environment::root().join(PAGE);
    let page = std::fs::read_to_string(&path).with_context(|| format!("failed to read {PAGE}"))?;
    let page = report::put_between_markers(&page, command, generated)
        .with_context(|| format!("{PAGE} has no markers for what bench {command} generates"))?;
    write(&path, &page)
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("failed to write {}", path.display()))
}
