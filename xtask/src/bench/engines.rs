//! One measurement of one engine: which program runs with which arguments, and which figure of its output counts.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::peers::Peers;
use super::rows::{Kind, Row, steps};
use super::served::{self, Ask, Served};
use super::stats::{Probe, Work};
use crate::shell;

/// Context of the servers whose memory is measured, and words of the prompt that nearly fills it.
const CONTEXT: usize = 4096;
const LONG_PROMPT: usize = 4000;
const LONG_ANSWER: usize = 32;

/// Everything that measures.
pub(crate) struct Tools {
    pub(crate) throughput: PathBuf,
    pub(crate) bench: PathBuf,
    pub(crate) wharf: PathBuf,
    pub(crate) peers: Peers,
    pub(crate) threads: usize,
    /// What servers print.
    pub(crate) log: PathBuf,
}

/// How llama.cpp is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Llama {
    flash: bool,
    mmap: bool,
}

impl Llama {
    /// The settings worth trying for a row.
    fn candidates(kind: Kind) -> Vec<Llama> {
        let flash = |mmap| [true, false].map(|flash| Llama { flash, mmap });
        match kind {
            // Without the mapping, repacked weights are not resident beside the file.
            Kind::Memory { .. } => [flash(true), flash(false)].concat(),
            _ => flash(true).to_vec(),
        }
    }

    fn arguments(self) -> [&'static str; 4] {
        let flash = if self.flash { "on" } else { "off" };
        ["-fa", flash, "-lm", if self.mmap { "mmap" } else { "none" }]
    }
}

/// An engine in its setting for a row.
pub(crate) enum Engine<'a> {
    Ours(&'a Tools),
    Llama(&'a Tools, Llama),
    OpenVino(OpenVino),
}

/// One figure in the row's unit, and what it asked of the machine where that is known.
pub(crate) struct Sample {
    pub(crate) value: f64,
    pub(crate) work: Option<Work>,
}

impl<'a> Engine<'a> {
    /// llama.cpp in each setting that is worth trying.
    pub(crate) fn llama(tools: &'a Tools, row: &Row) -> Vec<Engine<'a>> {
        Llama::candidates(row.kind).into_iter().map(|setting| Engine::Llama(tools, setting)).collect()
    }

    /// OpenVINO GenAI in each setting that is worth trying.
    pub(crate) fn openvino(tools: &Tools, row: &Row, file: &Path) -> anyhow::Result<Vec<Engine<'a>>> {
        let single = matches!(row.kind, Kind::Prefill { .. } | Kind::Decode { streams: 1, .. });
        let settings: &[&'static str] = if single { &["paged", "plain"] } else { &["paged"] };
        settings
            .iter()
            .map(|setting| OpenVino::start(tools, row, file, setting).map(Engine::OpenVino))
            .collect()
    }

    /// The setting in words.
    pub(crate) fn setting(&self) -> String {
        match self {
            Engine::Ours(_) => "default".into(),
            Engine::Llama(_, setting) => setting.arguments().join(" "),
            Engine::OpenVino(process) => process.setting.into(),
        }
    }

    /// Measures once.
    pub(crate) fn measure(&mut self, row: &Row, file: &Path) -> anyhow::Result<Sample> {
        let plain = |value| Sample { value, work: None };
        match (self, row.kind) {
            (Engine::OpenVino(process), _) => process.measure().map(plain),
            (Engine::Ours(tools), Kind::Prefill { .. } | Kind::Decode { .. }) => {
                tools.our_rate(row.kind, file)
            }
            (Engine::Llama(tools, setting), Kind::Prefill { .. } | Kind::Decode { .. }) => {
                tools.llama_rate(row.kind, file, *setting).map(plain)
            }
            (engine, Kind::Interference) => {
                let quiet = Row { kind: Kind::Decode { streams: 1, context: 64 }, ..row.clone() };
                let alone = engine.measure(&quiet, file)?;
                let busy = Busy::start()?;
                let beside = engine.measure(&quiet, file)?;
                drop(busy);
                Ok(plain(beside.value / alone.value))
            }
            (engine, Kind::Start) => {
                let mut server = engine.serve(file, None)?;
                let answer = server.ask(&Ask { prompt: "The capital of France is", tokens: 4 })?;
                Ok(plain((answer.first - server.started()).as_secs_f64() * 1e3))
            }
            (engine, Kind::Memory { int8 }) => {
                let kv = int8.then_some("int8");
                let mut server = engine.serve(file, kv)?;
                let prompt = served::text(LONG_PROMPT, 1);
                let answer = server.ask(&Ask { prompt: &prompt, tokens: LONG_ANSWER })?;
                let used = answer.usage.prompt_tokens;
                if !(LONG_PROMPT - 100..=CONTEXT - LONG_ANSWER).contains(&used) {
                    bail!("the prompt has {used} tokens: it does not nearly fill a context of {CONTEXT}");
                }
                server.peak_megabytes().map(plain)
            }
            (engine, Kind::SharedPrefix { shared, own }) => {
                let mut server = engine.serve(file, None)?;
                let prompt = |seed| served::text(shared, 0) + " " + &served::text(own, seed);
                server.ask(&Ask { prompt: &prompt(1), tokens: 4 })?;
                let asked = std::time::Instant::now();
                let answer = server.ask(&Ask { prompt: &prompt(2), tokens: 4 })?;
                Ok(plain((answer.first - asked).as_secs_f64() * 1e3))
            }
        }
    }

    /// A server with a context of 4096 for one request at a time; ours with keys and values of a type other than its default.
    fn serve(&self, file: &Path, our_kv: Option<&str>) -> anyhow::Result<Served> {
        let words = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<String>>();
        let context = CONTEXT.to_string();
        match self {
            Engine::Ours(tools) => {
                let mut command = Command::new(&tools.wharf);
                command.args(["serve", "--threads", &tools.threads.to_string(), "--model"]).arg(file);
                command.args(["--host", "127.0.0.1", "--max-model-len", &context, "--max-num-seqs", "1"]);
                command.args(["--model-name", served::MODEL]);
                if let Some(kv) = our_kv {
                    command.args(["--kv-cache-dtype", kv]);
                }
                Served::start(command, &tools.log, |port| {
                    words(&["--port", &port.to_string(), "--metrics-port", "0"])
                })
            }
            Engine::Llama(tools, setting) => {
                let mut command = tools.peers.llama("llama-server");
                command.args([
                    "-t",
                    &tools.threads.to_string(),
                    "-c",
                    &context,
                    "-np",
                    "1",
                    "--no-warmup",
                    "-m",
                ]);
                command.arg(file).args(setting.arguments());
                Served::start(command, &tools.log, |port| {
                    words(&["--host", "127.0.0.1", "--port", &port.to_string()])
                })
            }
            Engine::OpenVino(_) => bail!("OpenVINO GenAI is not measured as a server"),
        }
    }
}

/// A row as our example and the script for OpenVINO read it.
fn row_argument(kind: Kind) -> anyhow::Result<(String, usize)> {
    match kind {
        Kind::Prefill { tokens } => Ok((format!("prefill:{tokens}"), 1)),
        Kind::Decode { streams, context } => Ok((format!("decode:{streams}@{context}"), steps(streams))),
        Kind::SharedPrefix { .. } | Kind::Start | Kind::Memory { .. } | Kind::Interference => {
            bail!("{kind:?} is not a rate")
        }
    }
}

impl Tools {
    /// What the machine can do now.
    pub(crate) fn probe(&self) -> anyhow::Result<Probe> {
        let mut probe = Command::new(&self.bench);
        parse(&shell::output(probe.arg("--probe").arg(self.threads.to_string()))?)
    }

    fn our_rate(&self, kind: Kind, file: &Path) -> anyhow::Result<Sample> {
        #[derive(Deserialize)]
        struct Line {
            rate: f64,
            #[serde(flatten)]
            work: Work,
        }
        let (row, steps) = row_argument(kind)?;
        let mut ours = Command::new(&self.throughput);
        ours.arg(file).args(["--json", "--repeat", "1", "--row", &row]);
        ours.args(["--steps", &steps.to_string(), "--threads", &self.threads.to_string()]);
        let line: Line = parse(&shell::output(&mut ours)?)?;
        Ok(Sample { value: line.rate, work: Some(line.work) })
    }

    fn llama_rate(&self, kind: Kind, file: &Path, setting: Llama) -> anyhow::Result<f64> {
        let threads = self.threads.to_string();
        if let Kind::Decode { streams: streams @ 2.., context } = kind {
            #[derive(Deserialize)]
            struct Line {
                speed_tg: f64,
            }
            let steps = steps(streams);
            let mut bench = self.peers.llama("llama-batched-bench");
            bench.arg("-m").arg(file).args(["-t", &threads, "--output-format", "jsonl"]);
            bench.args(setting.arguments()).args(["-c", &(streams * (context + steps)).to_string()]);
            bench.args(["-npp", &context.to_string(), "-ntg", &steps.to_string()]);
            let printed = shell::output(bench.args(["-npl", &streams.to_string()]))?;
            let line = printed.lines().find(|line| line.starts_with('{'));
            return Ok(parse::<Line>(line.context("llama-batched-bench printed no figures")?)?.speed_tg);
        }
        #[derive(Deserialize)]
        struct Test {
            avg_ts: f64,
        }
        let (prompt, generate, depth) = match kind {
            Kind::Prefill { tokens } => (tokens, 0, 0),
            Kind::Decode { streams, context } => (0, steps(streams), context),
            Kind::SharedPrefix { .. } | Kind::Start | Kind::Memory { .. } | Kind::Interference => {
                bail!("{kind:?} is not a rate")
            }
        };
        let mut bench = self.peers.llama("llama-bench");
        bench.arg("-m").arg(file).args(["-t", &threads, "-r", "1", "-o", "json"]).args(setting.arguments());
        bench.args(["-p", &prompt.to_string(), "-n", &generate.to_string(), "-d", &depth.to_string()]);
        match parse::<Vec<Test>>(&shell::output(&mut bench)?)?.as_slice() {
            [test] => Ok(test.avg_ts),
            tests => bail!("llama-bench ran {} tests instead of one", tests.len()),
        }
    }
}

/// A process of OpenVINO GenAI that has loaded a model and measures one row when told to.
pub(crate) struct OpenVino {
    child: Child,
    tell: ChildStdin,
    answers: BufReader<ChildStdout>,
    setting: &'static str,
}

impl OpenVino {
    fn start(tools: &Tools, row: &Row, file: &Path, setting: &'static str) -> anyhow::Result<OpenVino> {
        let (argument, steps) = row_argument(row.kind)?;
        let mut command = tools.peers.openvino();
        command.arg("--model").arg(file).args(["--row", &argument, "--setting", setting]);
        command.args(["--steps", &steps.to_string(), "--threads", &tools.threads.to_string()]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("failed to start OpenVINO GenAI")?;
        let tell = child.stdin.take().expect("standard input is piped");
        let answers = BufReader::new(child.stdout.take().expect("standard output is piped"));
        let mut process = OpenVino { child, tell, answers, setting };
        let line = process.line()?;
        if line.trim() != "ready" {
            bail!("OpenVINO GenAI said {line:?} instead of ready");
        }
        Ok(process)
    }

    fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        if self.answers.read_line(&mut line).context("failed to read from OpenVINO GenAI")? == 0 {
            bail!("OpenVINO GenAI ended early: see its message above");
        }
        Ok(line)
    }

    fn measure(&mut self) -> anyhow::Result<f64> {
        #[derive(Deserialize)]
        struct Line {
            rate: f64,
        }
        self.tell.write_all(b"measure\n").context("failed to tell OpenVINO GenAI to measure")?;
        Ok(parse::<Line>(&self.line()?)?.rate)
    }
}

impl Drop for OpenVino {
    fn drop(&mut self) {
        // Both fail only when the process has ended already.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// A process that wants one core all the time; killed when dropped.
struct Busy(Child);

impl Busy {
    fn start() -> anyhow::Result<Busy> {
        let mut shell = Command::new("sh");
        // It ends with us even when we are killed and cannot end it.
        let child = shell.args(["-c", "while kill -0 $PPID; do :; done"]).stdin(Stdio::null()).spawn();
        let busy = Busy(child.context("failed to start a busy process")?);
        std::thread::sleep(Duration::from_millis(300));
        Ok(busy)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        // Both fail only when the process has ended already.
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

pub(crate) fn parse<T: DeserializeOwned>(text: &str) -> anyhow::Result<T> {
    serde_json::from_str(text).with_context(|| format!("unexpected figures {text}"))
}
