//! `wharf doctor`: what this machine and the cluster have of that which Wharf can use, and what each missing thing costs. Decides what is said
//! of the machine; of the cluster `wharf_operator::doctor` does.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, anyhow};
use serde::Serialize;
use wharf_kernels::Isa;
use wharf_operator::doctor::{Finding, Level, findings, gather};

use crate::args::Output;
use crate::exit::{self, Failure};
use crate::model::memory;
use crate::runtime;

/// Check this machine and the cluster: what is missing, what that costs, and what to do
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Look at this machine only
    #[arg(long, conflicts_with = "cluster")]
    machine: bool,
    /// Look at the cluster only; that there is none is then an error
    #[arg(long)]
    cluster: bool,
    /// Text, or one JSON document
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

const EXAMPLES: &str = "\
Examples:
  wharf doctor
  wharf doctor --cluster --output json

The cluster is that of the kubeconfig, read with its rights. Exit code 1: something is missing without which nothing works.";

/// Fewer than this many files at once are few for a gateway with many streams.
const FEW_FILES: u64 = 4096;
/// Less memory than this, in bytes, is little for any model.
const LITTLE_MEMORY: u64 = 1 << 30;

/// What was found.
#[derive(Serialize)]
struct Report {
    machine: Option<Vec<Finding>>,
    cluster: Option<Vec<Finding>>,
    /// Why nothing is said of a cluster.
    no_cluster: Option<String>,
}

/// Runs the command to its end.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let machine = (!args.cluster).then(|| machine(&Machine::read()));
    let (cluster, no_cluster) = match args.machine {
        true => (None, None),
        false => match cluster() {
            Ok(found) => (Some(found), None),
            Err(error) if args.cluster => return Err(Failure::Failed(error)),
            Err(error) => (None, Some(format!("{error:#}"))),
        },
    };
    let report = Report { machine, cluster, no_cluster };
    let text = match args.output {
        Output::Text => text(&report),
        Output::Json => serde_json::to_string_pretty(&report).context("failed to write the report")? + "\n",
    };
    exit::print(&text)?;
    let found = report.machine.iter().chain(&report.cluster).flatten();
    let broken = found.filter(|finding| finding.level == Level::Broken).count();
    match broken {
        0 => Ok(()),
        1 => Err(Failure::Failed(anyhow!("one thing is missing without which nothing works"))),
        _ => Err(Failure::Failed(anyhow!("{broken} things are missing without which nothing works"))),
    }
}

fn cluster() -> anyhow::Result<Vec<Finding>> {
    let runtime = runtime::one_thread()?;
    runtime.block_on(async {
        let client = wharf_cluster::connect().await.context("there is no kubeconfig that can be used")?;
        let facts = gather(&client).await.context("the cluster does not answer")?;
        Ok(findings(&facts))
    })
}

/// What is known of this machine.
struct Machine {
    isa: &'static str,
    cores: usize,
    /// Bytes that may still be taken.
    memory: u64,
    /// Version of the NVIDIA driver, where there is one.
    driver: Option<String>,
    /// Files that a process may have open.
    files: Option<u64>,
}

impl Machine {
    fn read() -> Machine {
        let read = |path: &str| std::fs::read_to_string(Path::new(path)).ok();
        Machine {
            isa: Isa::detect().name(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory: memory::free(),
            driver: read("/proc/driver/nvidia/version")
                .and_then(|text| text.lines().next().map(str::to_owned)),
            files: read("/proc/self/limits").and_then(|text| open_files(&text)),
        }
    }
}

/// The soft limit on open files, as `/proc/self/limits` has it.
fn open_files(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn machine(machine: &Machine) -> Vec<Finding> {
    let finding = |level, about, says: String, costs, next| Finding { level, about, says, costs, next };
    let ok = |about, says: String| finding(Level::Ok, about, says, "", "");
    let cpu = format!("{} cores, instruction set {}", machine.cores, machine.isa);
    let memory = format!("{:.1} GB free", machine.memory as f64 / 1e9);
    let mut found = vec![
        match machine.isa {
            "scalar" => finding(
                Level::Missing,
                "processor",
                cpu,
                "models are computed many times slower than with AVX2 or AVX-512",
                "use a processor with AVX2",
            ),
            _ => ok("processor", cpu),
        },
        match machine.memory {
            ..LITTLE_MEMORY => finding(
                Level::Missing,
                "memory",
                memory,
                "only the smallest models can be loaded",
                "free some, or raise the container's limit",
            ),
            _ => ok("memory", memory),
        },
        match &machine.driver {
            Some(driver) => ok("GPU driver", driver.clone()),
            None => finding(
                Level::Missing,
                "GPU driver",
                "no NVIDIA driver is loaded".to_owned(),
                "models are computed on the processor",
                "for GPUs, install NVIDIA's driver",
            ),
        },
    ];
    found.extend(machine.files.map(|files| match files {
        ..FEW_FILES => finding(
            Level::Missing,
            "open files",
            format!("at most {files} at once"),
            "a gateway with more streams than that refuses connections",
            "ulimit -n 65536, or LimitNOFILE in the unit",
        ),
        _ => ok("open files", format!("at most {files} at once")),
    }));
    found
}

fn text(report: &Report) -> String {
    let mut text = String::new();
    for (of, findings) in [("This machine", &report.machine), ("The cluster", &report.cluster)] {
        let Some(findings) = findings else { continue };
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(of);
        text.push('\n');
        let width = findings.iter().map(|finding| finding.about.len()).max().unwrap_or(0);
        findings.iter().for_each(|finding| line(&mut text, finding, width));
    }
    if let Some(why) = &report.no_cluster {
        let _ = writeln!(text, "\nNothing is said of a cluster: {why}");
    }
    text
}

fn line(text: &mut String, finding: &Finding, width: usize) {
    let Finding { level, about, says, costs, next } = finding;
    let word = match level {
        Level::Ok => "ok",
        Level::Missing => "missing",
        Level::Broken => "BROKEN",
    };
    let _ = writeln!(text, "  {word:<8} {about:<width$}  {says}");
    if !costs.is_empty() {
        let _ = writeln!(text, "  {:<8} {:<width$}  costs: {costs}", "", "");
    }
    if !next.is_empty() {
        let _ = writeln!(text, "  {:<8} {:<width$}  do:    {next}", "", "");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_machine_is_told_what_that_costs() {
        let bare = Machine { isa: "scalar", cores: 1, memory: 1 << 20, driver: None, files: Some(256) };
        let found = machine(&bare);
        assert!(found.iter().all(|finding| finding.level == Level::Missing && !finding.next.is_empty()));
        let text = text(&Report { machine: Some(found), cluster: None, no_cluster: Some("none".to_owned()) });
        assert!(text.contains("missing  open files  at most 256 at once\n"), "{text}");
        assert!(text.ends_with("Nothing is said of a cluster: none\n"), "{text}");
    }

    #[test]
    fn the_limit_on_files_is_the_soft_one() {
        let limits = "Limit  Soft Limit Hard Limit Units\nMax open files            1024                 524288               files\n";
        assert_eq!(open_files(limits), Some(1024));
        assert_eq!(open_files("Max open files unlimited unlimited files"), None);
    }
}
