//! `cargo xtask bench optimize`: quantising and judging beside llama.cpp, training beside what the machine can do, in one run on one
//! machine.
//!
//! Speed is measured in rounds, as `bench peers` does it. How good files are is asked of llama.cpp's own `llama-perplexity`, ours and
//! theirs from the same source alike, so that our own judge cannot flatter us; that they load there follows.

pub(super) mod figures;
mod perplexity;
mod programs;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;

use self::figures::{Report, Row};
use self::perplexity::Judge;
use self::programs::Programs;
use super::checkpoint::Circumstances;
use super::peers::{Peers, REQUIREMENTS};
use super::rows::Bar;
use super::stats::{PAIRS_THAT_COUNT, Probe};
use crate::cache::Cache;
use crate::demo_files::Files;
use crate::python::Python;
use crate::{environment, shell};

/// Compare quantising and judging with llama.cpp, and training with the machine
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask bench optimize --write-docs           everything, into docs/performance.md
  cargo xtask bench optimize --parts quality with-itself
  cargo xtask bench optimize --parts quantize --pairs 1

The first run compiles llama.cpp (about a quarter of an hour on two cores). Exits with 1 when a bar is missed, else with 3 when a row
is inconclusive: see `cargo xtask bench peers --help`.")]
pub(super) struct Args {
    /// What to measure [default: everything]
    #[arg(long, value_name = "PART", num_args = 1.., value_enum)]
    parts: Vec<Part>,
    /// How often speed is measured
    #[arg(long, value_name = "N", default_value_t = PAIRS_THAT_COUNT, value_parser = super::at_least_one)]
    pairs: usize,
    /// Windows of 512 tokens to judge on
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = super::at_least_one)]
    windows: usize,
    /// Write all figures as JSON
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Write the table into docs
    #[arg(long)]
    write_docs: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Speed and memory of quantising
    Quantize,
    /// Perplexity and KL divergence of quantised files
    Quality,
    /// How far llama.cpp differs from itself, between micro-batches or kinds of attention
    WithItself,
    /// Speed of judging
    Eval,
    /// Speed of training a student
    Distill,
}

/// A scheme with llama.cpp's name of it, and the share of its speed that we must reach.
const SCHEMES: [(&str, &str, f64); 3] =
    [("q8_0", "Q8_0", 1.0), ("q4_0", "Q4_0", 1.0), ("q4_k_m", "Q4_K_M", 0.7)];
/// What is quantised for speed; the first is quantised for quality, too, and judged against.
const SOURCES: [&str; 2] = ["F32", "F16"];
/// Files on which llama.cpp is compared with itself.
const WITH_ITSELF: [&str; 3] = ["Q4_0", "Q4_1", "Q8_0"];
/// What is changed of micro-batches of 512 and fused attention; 64 rows may well run the same instructions as 512.
const CHANGES: [(&str, &[&str]); 3] = [
    ("micro-batch 64", &["-b", "512", "-ub", "64", "-fa", "on"]),
    ("micro-batch 8", &["-b", "512", "-ub", "8", "-fa", "on"]),
    ("plain attention", &["-b", "512", "-ub", "512", "-fa", "off"]),
];
/// A model that is judged, and its reference.
const JUDGED: (&str, &str) = ("Q8_0", "F16");
/// How many times as far from the source as llama.cpp's file ours may be.
const MOST_LOSS: Bar = Bar::AtMost(1.1);
/// Two processes beside one that has as many threads.
const NO_SLOWER: Bar = Bar::AtLeast(1.0);
/// The share of the engine's rate that judging must keep.
const LEAST_SHARE: Bar = Bar::AtLeast(0.8);
const LLAMA: &str = "llama.cpp";
/// Whose half a student is.
const TEACHER: &str = "Q8_0";

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let cache = Cache::open()?;
    let threads = std::thread::available_parallelism().context("failed to count the cores")?.get();
    let circumstances = Circumstances::now(threads)?;
    let peers = Peers::install(&cache)?;
    let python = Python::find().context(Python::MISSING)?;
    let files = Files::open(&cache)?;
    for kind in SOURCES.into_iter().chain(WITH_ITSELF) {
        files.rewritten(&cache, &python, kind)?;
    }
    let work = shell::target()?.join("bench-optimize");
    std::fs::create_dir_all(&work).with_context(|| format!("failed to create {}", work.display()))?;
    let text = work.join("text.txt");
    let mut print = python.command();
    let printed = shell::read(print.arg(environment::root().join("scripts/real_text.py")))?;
    super::write(&text, &printed)?;
    let bench = Bench {
        programs: Programs::build(peers, python, threads)?,
        files,
        work,
        text,
        pairs: args.pairs,
        windows: args.windows,
    };

    let mut rows = Vec::new();
    let mut probes = Vec::new();
    for part in [Part::Quantize, Part::Quality, Part::WithItself, Part::Eval, Part::Distill] {
        if args.parts.is_empty() || args.parts.contains(&part) {
            let probe = bench.programs.probe()?;
            probes.push(probe);
            rows.extend(match part {
                Part::Quantize => bench.quantize(probe)?,
                Part::Quality => bench.quality()?,
                Part::WithItself => bench.with_itself()?,
                Part::Eval => bench.eval(probe)?,
                Part::Distill => bench.distill(probe)?,
            });
        }
    }
    let best_probe = Probe::best(&probes).context("nothing was measured")?;
    let (model, rounds) = (bench.files.name.clone(), (args.pairs, args.windows));
    let report = Report::new(model, REQUIREMENTS[0], circumstances, rounds, best_probe, rows);
    println!("{}", report.table());
    if let Some(path) = &args.output {
        let json = serde_json::to_string_pretty(&report).context("failed to write the report as JSON")?;
        super::write(path, &(json + "\n"))?;
    }
    if args.write_docs {
        super::write_docs("optimize", &report.markdown())?;
    }
    Ok(ExitCode::from(report.exit_code()))
}

/// What everything is measured with.
struct Bench {
    programs: Programs,
    files: Files,
    /// Folder for what is written and read again.
    work: PathBuf,
    text: PathBuf,
    pairs: usize,
    windows: usize,
}

impl Bench {
    /// Source bytes a second, and the peak of resident memory.
    fn quantize(&self, probe: Probe) -> anyhow::Result<Vec<Row>> {
        let mut rows = Vec::new();
        for source in SOURCES {
            let from = self.files.path(source);
            let bytes =
                from.metadata().with_context(|| format!("failed to look at {}", from.display()))?.len();
            for (ours, theirs, bar) in SCHEMES {
                let id = format!("{ours}/{source}");
                let out = self.work.join(format!("speed-{ours}.gguf"));
                let (mut speed, mut memory) = (Pairs::default(), Pairs::default());
                for round in 0..self.pairs {
                    // Who goes first alternates.
                    for who in [round % 2, 1 - round % 2] {
                        let command = match who {
                            0 => self.programs.our_quantize(&from, &out, ours),
                            _ => self.programs.llama_quantize(&from, &out, theirs),
                        };
                        let cost = self.programs.cost(&command)?;
                        remove(&out)?;
                        speed.0[who].push(bytes as f64 / 1e6 / cost.seconds);
                        memory.0[who].push(cost.peak_bytes as f64 / 1e6);
                    }
                    eprintln!("quantize/{id} {}/{}: {}", round + 1, self.pairs, speed.last());
                }
                rows.push(speed.row(format!("quantize/{id}"), "MB/s", LLAMA, Some(Bar::AtLeast(bar)), probe));
                rows.push(memory.row(format!("quantize-rss/{id}"), "MB", LLAMA, None, probe));
            }
        }
        Ok(rows)
    }

    /// What our files and llama.cpp's have lost of the source.
    fn quality(&self) -> anyhow::Result<Vec<Row>> {
        let source = self.files.path(SOURCES[0]);
        let judge = Judge::new(&self.programs, &self.text, self.windows, &self.work.join("source.logits"));
        judge.keep_logits(&source, &[])?;
        let mut rows = Vec::new();
        for (ours, theirs, _) in SCHEMES {
            let files =
                [self.work.join(format!("ours-{ours}.gguf")), self.work.join(format!("llama-{ours}.gguf"))];
            files.iter().try_for_each(|file| remove(file))?;
            self.programs.cost(&self.programs.our_quantize(&source, &files[0], ours))?;
            self.programs.cost(&self.programs.llama_quantize(&source, &files[1], theirs))?;
            let [a, b] = [judge.compare(&files[0], &[])?, judge.compare(&files[1], &[])?];
            files.iter().try_for_each(|file| remove(file))?;
            eprintln!("quality/{ours}: {a:?}, {LLAMA}: {b:?}");
            let row = |what: &str, unit, ours_is: f64, theirs_is: f64| {
                Row::fixed(format!("{what}/{ours}"), unit, Some(ours_is), (LLAMA, theirs_is), Some(MOST_LOSS))
            };
            rows.push(row("kl", "nats", a.kl, b.kl));
            rows.push(row("perplexity", "", a.perplexity, b.perplexity));
        }
        judge.forget_logits()?;
        Ok(rows)
    }

    /// llama.cpp beside itself: what changes of the order of sums alone may do to logits.
    fn with_itself(&self) -> anyhow::Result<Vec<Row>> {
        let judge = Judge::new(&self.programs, &self.text, self.windows, &self.work.join("512.logits"));
        let mut rows = Vec::new();
        for kind in WITH_ITSELF {
            let file = self.files.path(kind);
            judge.keep_logits(&file, &["-b", "512", "-ub", "512", "-fa", "on"])?;
            for (change, arguments) in CHANGES {
                let found = judge.compare(&file, arguments)?;
                eprintln!("with-itself/{kind} {change}: {found:?}");
                let id = format!("with-itself/{kind} {change}");
                rows.push(Row::fixed(id, "nats", None, (LLAMA, found.kl), None));
            }
        }
        judge.forget_logits()?;
        Ok(rows)
    }

    /// Judged tokens a second, beside what the engine reaches with logits of every position.
    fn eval(&self, probe: Probe) -> anyhow::Result<Vec<Row>> {
        let (model, reference) = (self.files.path(JUDGED.0), self.files.path(JUDGED.1));
        let (mut alone, mut beside) = (Pairs::default(), Pairs::default());
        for round in 0..self.pairs {
            let rates = [self.programs.engine_rate(&model)?, self.programs.engine_rate(&reference)?];
            alone.0[1].push(rates[0]);
            // Every token goes through both.
            beside.0[1].push(1.0 / (1.0 / rates[0] + 1.0 / rates[1]));
            alone.0[0].push(self.programs.eval_rate(&model, None, &self.text, self.windows)?);
            beside.0[0].push(self.programs.eval_rate(&model, Some(&reference), &self.text, self.windows)?);
            eprintln!(
                "eval {}/{}: {}; with a reference {}",
                round + 1,
                self.pairs,
                alone.last(),
                beside.last()
            );
        }
        let row = |pairs: Pairs, id| pairs.row(id, "tok/s", "our engine", Some(LEAST_SHARE), probe);
        let (model, reference) = JUDGED;
        Ok(vec![row(alone, format!("eval/{model}")), row(beside, format!("eval/{model} beside {reference}"))])
    }
}

impl Bench {
    /// Tokens a second of one process and of two that share its threads, and the share of the machine's single-precision peak. Counted are
    /// the operations of the student; with a teacher the rest of the time is the teacher's.
    fn distill(&self, probe: Probe) -> anyhow::Result<Vec<Row>> {
        let (teacher, out) = (self.files.path(TEACHER), self.work.join("student"));
        let (mut two, mut with, mut without) = (Pairs::default(), Pairs::default(), Pairs::default());
        for round in 0..self.pairs {
            let train = |processes, alpha| {
                remove_folder(&out)?;
                remove_folder(&out.with_extension("distilling"))?;
                self.programs.distill(&teacher, &self.text, &out, (processes, alpha))
            };
            let peak = 2.0 * self.programs.probe()?.f32_gmacs;
            for who in [round % 2, 1 - round % 2] {
                let found = train(2 - who, 0.5)?;
                two.0[who].push(found.tokens_per_second);
                if who == 1 {
                    with.0[0].push(found.flops_per_second / 1e9);
                }
            }
            without.0[0].push(train(1, 0.0)?.flops_per_second / 1e9);
            with.0[1].push(peak);
            without.0[1].push(peak);
            eprintln!("distill {}/{}: two processes: {}", round + 1, self.pairs, two.last());
        }
        let peak =
            |pairs: Pairs, id: &str| pairs.row(id.to_owned(), "GFLOP/s", "f32 multiply-adds", None, probe);
        Ok(vec![
            two.row("distill/two processes".into(), "tok/s", "one, two threads", Some(NO_SLOWER), probe),
            peak(with, "distill/with the teacher"),
            peak(without, "distill/without the teacher"),
        ])
    }
}

/// Ours and theirs, taken together round by round.
#[derive(Default)]
struct Pairs([Vec<f64>; 2]);

impl Pairs {
    fn row(self, id: String, unit: &'static str, peer: &'static str, bar: Option<Bar>, probe: Probe) -> Row {
        let Pairs([ours, theirs]) = self;
        Row::measured(id, unit, &ours, (peer, &theirs), bar, probe)
    }

    fn last(&self) -> String {
        let last = |side: &Vec<f64>| side.last().map_or_else(String::new, |x| format!("{x:.1}"));
        format!("ours {} theirs {}", last(&self.0[0]), last(&self.0[1]))
    }
}

fn remove(file: &Path) -> anyhow::Result<()> {
    match std::fs::remove_file(file) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("failed to remove {}", file.display()))
        }
        _ => Ok(()),
    }
}

fn remove_folder(folder: &Path) -> anyhow::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("failed to remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}
