//! Checks and measures the CUDA backend on a machine that has a GPU and its driver, and need not have anything else: `cargo xtask gpu` builds it.
//!
//! `gpu [--gpu N] [--checks] [--smallest] [--peers] [--out FILE] [--budget-s N]`
//!   * checks logits of models of random weights against the CPU backend;
//!   * measures what the GPU's memory lets through and what it multiplies;
//!   * times shapes of real models with random weights, as shares of that;
//!   * with `--peers`, asks PyTorch with Transformers for the same, where Python has them.
//!
//! Exits with 1 when something failed, with 2 when there is no GPU or the arguments are not understood.
#![expect(clippy::print_stdout, reason = "a table for a person at a terminal")]

#[path = "gpu/checks.rs"]
mod checks;
#[path = "gpu/compare.rs"]
mod compare;
#[path = "gpu/limits.rs"]
mod limits;
#[path = "gpu/peers.rs"]
mod peers;
#[path = "gpu/report.rs"]
mod report;
#[path = "gpu/rows.rs"]
mod rows;
#[path = "gpu/shapes.rs"]
mod shapes;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use wharf_cuda::driver::{DeviceError, Gpu, OpenError};

use limits::Limits;
use report::{Machine, Report, because};
use rows::{Budget, Place};

const USAGE: &str = "usage: gpu [--gpu N] [--checks] [--smallest] [--peers] [--out FILE] [--budget-s N]
  --gpu N        which GPU, counted from 0
  --checks       only checks, no measurements
  --smallest     the smallest models and sizes: whether all works, in seconds even without a GPU
  --peers        PyTorch with Transformers on the same shapes, if Python has them
  --out FILE     all that was found, as JSON
  --budget-s N   seconds that all may take (480); rows that do not fit are dropped";

/// Seconds of the budget that are kept for PyTorch.
const PEERS: Duration = Duration::from_secs(120);

#[derive(Debug)]
struct Arguments {
    gpu: usize,
    only_checks: bool,
    small: bool,
    peers: bool,
    out: Option<PathBuf>,
    budget: Duration,
    /// Not for people: a process that is timed from its start.
    first_token: Option<usize>,
    model: PathBuf,
    layers: usize,
}

impl Arguments {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
        let mut parsed = Arguments {
            gpu: 0,
            only_checks: false,
            small: false,
            peers: false,
            out: None,
            budget: Duration::from_secs(480),
            first_token: None,
            model: PathBuf::new(),
            layers: 0,
        };
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value\n{USAGE}"));
            let number =
                |text: String| text.parse::<usize>().map_err(|_| format!("{text:?} is no number\n{USAGE}"));
            match word.as_str() {
                "--gpu" => parsed.gpu = number(value()?)?,
                "--checks" => parsed.only_checks = true,
                "--smallest" => parsed.small = true,
                "--peers" => parsed.peers = true,
                "--out" => parsed.out = Some(value()?.into()),
                "--budget-s" => parsed.budget = Duration::from_secs(number(value()?)? as u64),
                "--first-token" => parsed.first_token = Some(number(value()?)?),
                "--model" => parsed.model = value()?.into(),
                "--layers" => parsed.layers = number(value()?)?,
                _ => return Err(format!("{word:?} is not understood\n{USAGE}")),
            }
        }
        Ok(parsed)
    }
}

fn main() -> ExitCode {
    let start = Instant::now();
    let arguments = match Arguments::parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(2);
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    if let Some(tokens) = arguments.first_token {
        return match rows::first_token(arguments.gpu, &arguments.model, arguments.layers, tokens, threads) {
            Ok(token) => {
                println!("token {token}");
                ExitCode::SUCCESS
            }
            Err(error) => failure(&because(&*error)),
        };
    }
    let machine = match Gpu::open(arguments.gpu).map(|gpu| describe(&gpu)) {
        Ok(Ok(machine)) => machine,
        Ok(Err(error)) => return failure(&because(&error)),
        Err(error) => return no_gpu(&error),
    };
    match run(&arguments, machine, start, threads) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => failure(&error),
    }
}

fn failure(why: &str) -> ExitCode {
    eprintln!("error: {why}");
    ExitCode::FAILURE
}

fn no_gpu(error: &OpenError) -> ExitCode {
    eprintln!("error: {}", because(error));
    ExitCode::from(2)
}

fn describe(gpu: &Gpu) -> Result<Machine, DeviceError> {
    // Where Linux' module of the driver says what it is. Elsewhere CUDA's version is all that is known.
    let driver = std::fs::read_to_string("/proc/driver/nvidia/version").ok();
    Ok(Machine {
        device: gpu.name().to_owned(),
        capability: gpu.capability(),
        multiprocessors: gpu.multiprocessors(),
        memory: gpu.memory()?.total,
        cuda: gpu.driver().to_string(),
        driver: driver.and_then(|text| text.lines().next().map(str::to_owned)),
        date: jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC").to_string(),
        commit: option_env!("WHARF_COMMIT").unwrap_or("unknown").to_owned(),
    })
}

/// Everything, and whether nothing failed.
fn run(arguments: &Arguments, machine: Machine, start: Instant, threads: usize) -> Result<bool, String> {
    let Arguments { gpu, small, .. } = *arguments;
    let say = &mut |line: &str| println!("{line}");
    say(&format!(
        "{}, compute capability {}.{}, {} multiprocessors, {} MiB; CUDA {}; {}; commit {}",
        machine.device,
        machine.capability.0,
        machine.capability.1,
        machine.multiprocessors,
        machine.memory >> 20,
        machine.cuda,
        machine.date,
        machine.commit
    ));
    let folder =
        tempfile::tempdir().map_err(|error| format!("failed to make a folder for models: {error}"))?;
    let mut report = Report {
        machine,
        checks: Vec::new(),
        limits: None,
        rows: Vec::new(),
        dropped: Vec::new(),
        failed: Vec::new(),
        peers: Err("nobody asked".to_owned()),
        seconds: 0.0,
    };
    say("\nchecks against the CPU backend in single precision");
    report.checks = checks::run(gpu, small, folder.path(), &mut |check| say(&check.line()));
    if !arguments.only_checks {
        measure(arguments, &mut report, folder.path(), start, threads, say);
    }
    for (what, why) in &report.dropped {
        say(&format!("not measured: {what}: {why}"));
    }
    report.seconds = start.elapsed().as_secs_f64();
    let passed = report.checks.iter().filter(|check| check.passed()).count();
    say(&format!(
        "\n{passed} of {} checks passed, {} rows, {} dropped, {} failed, {:.0} s",
        report.checks.len(),
        report.rows.len(),
        report.dropped.len(),
        report.failed.len(),
        report.seconds
    ));
    save(arguments.out.as_deref(), &report)?;
    Ok(report.passed())
}

fn measure(
    arguments: &Arguments,
    report: &mut Report,
    folder: &Path,
    start: Instant,
    threads: usize,
    say: &mut dyn FnMut(&str),
) {
    let Arguments { gpu, small, peers, budget, .. } = *arguments;
    say("\nlimits of this GPU");
    let limits = Gpu::open(gpu).map_err(|error| because(&error));
    let limits = limits.and_then(|gpu| Limits::measure(&gpu, small).map_err(|error| because(&error)));
    let limits = match limits {
        Ok(limits) => limits,
        Err(why) => {
            report.failed.push(("limits".to_owned(), why));
            return;
        }
    };
    limits.lines().iter().for_each(|line| say(line));
    report.limits = Some(limits);
    say("\nrandom weights of real shapes");
    let reserved = if peers { PEERS } else { Duration::ZERO };
    let own = Budget { start, whole: budget.saturating_sub(reserved) };
    let enough = Duration::from_millis(if small { 100 } else { 2000 });
    let shapes = shapes::all(small);
    for shape in &shapes {
        let place = Place { gpu, folder, budget: own, threads, enough };
        rows::run(shape, &place, &limits, report, say);
    }
    if peers {
        let shapes: Vec<_> =
            shapes.into_iter().filter(|shape| small || shape.dtype == wharf_kernels::DType::BF16).collect();
        let left = Budget { start, whole: budget }.left();
        report.peers = peers::run(&shapes, gpu, left, say);
        if let Err(why) = &report.peers {
            say(&format!("PyTorch with Transformers: {why}"));
        }
    }
}

fn save(out: Option<&Path>, report: &Report) -> Result<(), String> {
    let Some(path) = out else { return Ok(()) };
    let text = format!("{:#}\n", report.json());
    std::fs::write(path, text).map_err(|error| format!("failed to write {}: {error}", path.display()))
}
