//! `cargo xtask bench gateway`: our gateway beside other routers, in front of the same fixed answer, in one run on one machine.
//!
//! nginx answers every request with the same 250 bytes, so that what is measured is the router; wrk asks, with prompts of 1.2 kB of which
//! 200 begin differently. Every router picks by prefix; ours checks a key as well. Rounds are as in `bench peers`: everybody runs
//! once in each, who goes first changes, and only figures of one round are compared.

mod delays;
mod programs;
mod streams;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use serde::Serialize;

use self::programs::{Load, Ours, Programs, Router};
use super::checkpoint::Circumstances;
use super::optimize::figures::{HEAD, Row};
use super::report::{aligned, markdown_table};
use super::rows::Bar;
use super::stats::{PAIRS_THAT_COUNT, exit_code};
use crate::cache::Cache;
use crate::server;

/// Compare the gateway with sglang-router and vllm-router
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask bench gateway --write-docs
  cargo xtask bench gateway --pairs 1 --seconds 2
  cargo xtask bench gateway --output figures.json
  cargo xtask bench gateway --streams-only        streams alone, idle and a thousand busy ones: no peers, nginx or wrk

Needs nginx and wrk (on Debian: apt install nginx-light wrk). Exits with 1 when a bar is missed, else with 3 when a row is
inconclusive: see `cargo xtask bench peers --help`.")]
pub(super) struct Args {
    /// How often each router is measured
    #[arg(long, value_name = "N", default_value_t = PAIRS_THAT_COUNT, value_parser = super::at_least_one)]
    pairs: usize,
    /// How long each time, in seconds
    #[arg(long, value_name = "S", default_value_t = 3)]
    seconds: u32,
    /// Idle streams whose memory is measured
    #[arg(long, value_name = "N", default_value_t = 8000)]
    streams: usize,
    /// Measure streams alone: the memory of idle ones, and how late tokens are with many
    #[arg(long, conflicts_with_all = ["output", "write_docs"])]
    streams_only: bool,
    /// What our gateway logs; `info` is a line for each request, which the others do not write here
    #[arg(long, value_name = "LEVEL", default_value = "warn")]
    log_level: String,
    /// Write all figures as JSON
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Write the table into docs
    #[arg(long)]
    write_docs: bool,
}

/// Connections of the two loads.
const BUSY: u32 = 32;
const ALONE: u32 = 1;
/// Bytes of memory of an idle stream.
const STREAM_BYTES: f64 = 30e3;

/// One router's figures, round by round.
#[derive(Default)]
struct Samples {
    rate: Vec<f64>,
    /// Of one connection, in microseconds, beyond what the upstream takes by itself.
    added_p50: Vec<f64>,
    p99: Vec<f64>,
    busy_p99: Vec<f64>,
}

#[derive(Serialize)]
struct Report {
    circumstances: Circumstances,
    pairs: usize,
    seconds: u32,
    rows: Vec<Row>,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if args.streams_only {
        let rows = streams(&Ours::find(server::build()?, &args.log_level)?, args.streams)?;
        let cells: Vec<_> = rows.iter().map(Row::cells).collect();
        println!("{}", aligned(HEAD, &cells));
        return Ok(ExitCode::from(exit_code(&rows.map(|row| row.verdict()))));
    }
    let cache = Cache::open()?;
    let threads = std::thread::available_parallelism().context("failed to count the cores")?.get();
    let circumstances = Circumstances::now(threads)?;
    let programs = Programs::find(&cache, server::build()?, &args.log_level)?;
    let upstream = programs.upstream()?;
    let routers: Vec<Router> = programs.routers(&upstream)?;
    let mut samples: Vec<Samples> = routers.iter().map(|_| Samples::default()).collect();
    for round in 0..args.pairs {
        let direct = programs.load(upstream.port(), ALONE, args.seconds)?;
        for place in 0..routers.len() {
            let which = (round + place) % routers.len();
            let router = &routers[which];
            let busy = programs.load(router.port, BUSY, args.seconds)?;
            let alone = programs.load(router.port, ALONE, args.seconds)?;
            eprintln!(
                "{}/{} {}: {busy}; alone {alone}; upstream {direct}",
                round + 1,
                args.pairs,
                router.name
            );
            samples[which].take(&busy, &alone, &direct);
        }
    }
    drop(routers);
    let mut rows = rows(&samples);
    rows.extend(streams(&programs.ours, args.streams)?);
    let report = Report { circumstances, pairs: args.pairs, seconds: args.seconds, rows };
    println!("{}", report.table());
    if let Some(path) = &args.output {
        let json = serde_json::to_string_pretty(&report).context("failed to write the report as JSON")?;
        super::write(path, &(json + "\n"))?;
    }
    if args.write_docs {
        super::write_docs("gateway", &report.markdown())?;
    }
    let verdicts: Vec<_> = report.rows.iter().map(Row::verdict).collect();
    Ok(ExitCode::from(exit_code(&verdicts)))
}

/// What streams cost that nothing is sent on, and what they wait for each other.
fn streams(ours: &Ours, streams: usize) -> anyhow::Result<[Row; 2]> {
    let each = streams::memory(ours, streams)?.bytes_each / 1e3;
    let limit = ("limit", STREAM_BYTES / 1e3);
    let memory = Row::fixed(
        format!("memory of {streams} idle streams"),
        "kB each",
        Some(each),
        limit,
        Some(Bar::AtMost(1.0)),
    );
    let delays = delays::measure(ours)?;
    let late = Row::compared(delays::row(), "µs", &delays.through, ("no gateway", &delays.alone), None);
    Ok([memory, late])
}

impl Samples {
    fn take(&mut self, busy: &Load, alone: &Load, direct: &Load) {
        self.rate.push(busy.rate);
        self.busy_p99.push(busy.p99);
        self.added_p50.push((alone.p50 - direct.p50).max(1.0));
        self.p99.push(alone.p99);
    }
}

/// Ours beside each peer; bars are on the better one, which is the one with the higher rate.
fn rows(samples: &[Samples]) -> Vec<Row> {
    let [ours, peers @ ..] = samples else { return Vec::new() };
    let median = |values: &[f64]| super::stats::Summary::of(values).map_or(0.0, |summary| summary.median);
    let best = (0..peers.len()).max_by(|a, b| median(&peers[*a].rate).total_cmp(&median(&peers[*b].rate)));
    let mut rows = Vec::new();
    for (number, theirs) in peers.iter().enumerate() {
        let name = programs::PEERS[number].name;
        let bar = |bar: Bar| (Some(number) == best).then_some(bar);
        let mut row = |what: &str, unit, ours: &[f64], theirs: &[f64], bar| {
            rows.push(Row::compared(what.to_owned(), unit, ours, (name, theirs), bar));
        };
        row("requests/s, 32 connections", "", &ours.rate, &theirs.rate, bar(Bar::AtLeast(2.0)));
        row("p99, 32 connections", "µs", &ours.busy_p99, &theirs.busy_p99, None);
        row("added p50, 1 connection", "µs", &ours.added_p50, &theirs.added_p50, bar(Bar::AtMost(0.6)));
        row("p99, 1 connection", "µs", &ours.p99, &theirs.p99, bar(Bar::AtMost(1.0)));
    }
    rows
}

impl Report {
    fn table(&self) -> String {
        let lines: Vec<_> = self.rows.iter().map(Row::cells).collect();
        aligned(HEAD, &lines)
    }

    fn markdown(&self) -> String {
        let Report { circumstances, pairs, seconds, rows } = self;
        let lines: Vec<_> = rows.iter().map(Row::cells).collect();
        format!(
            "{circumstances}, {pairs} rounds of {seconds} s. Machine: {machine}.\n\n{table}",
            machine = circumstances.machine,
            table = markdown_table(HEAD, &lines),
        )
    }
}
