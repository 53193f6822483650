//! Project commands. Every one of them is what a developer types and what CI runs; there is no second way.
#![expect(clippy::print_stdout, reason = "these commands talk to a person on a terminal")]

mod bench;
mod cache;
mod chart;
mod ci;
mod clients;
mod cuda_kernels;
mod demo;
mod demo_files;
mod demo_model;
mod distill_demo;
mod environment;
mod fuzz;
mod gpu;
mod image;
mod python;
mod quickstart;
mod script;
mod server;
mod shell;
mod tidy;
mod verify_console;
mod verify_epp;
mod verify_fetch;
mod verify_formats;
mod verify_logs;
mod verify_manifests;
mod verify_monitoring;
mod verify_peers;
mod verify_plan;
mod verify_up;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Project commands
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Bench(bench::Args),
    Chart(chart::Args),
    Ci(ci::Args),
    CudaKernels(cuda_kernels::Args),
    Demo(demo::Args),
    DistillDemo(distill_demo::Args),
    Fuzz(fuzz::Args),
    Gpu(gpu::Args),
    Image(image::Args),
    Tidy(tidy::Args),
    VerifyConsole(verify_console::Args),
    VerifyEpp(verify_epp::Args),
    VerifyFetch(verify_fetch::Args),
    VerifyFormats(verify_formats::Args),
    VerifyLogs(verify_logs::Args),
    VerifyManifests(verify_manifests::Args),
    VerifyMonitoring(verify_monitoring::Args),
    VerifyPeers(verify_peers::Args),
    VerifyPlan(verify_plan::Args),
    VerifyUp(verify_up::Args),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Bench(args) => bench::run(&args),
        Command::Chart(args) => chart::run(&args),
        Command::Ci(args) => ci::run(&args),
        Command::CudaKernels(args) => cuda_kernels::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::DistillDemo(args) => distill_demo::run(&args),
        Command::Fuzz(args) => fuzz::run(&args),
        Command::Gpu(args) => gpu::run(&args),
        Command::Image(args) => image::run(&args),
        Command::Tidy(args) => tidy::run(&args),
        Command::VerifyConsole(args) => verify_console::run(&args),
        Command::VerifyEpp(args) => verify_epp::run(&args),
        Command::VerifyFetch(args) => verify_fetch::run(&args),
        Command::VerifyFormats(args) => verify_formats::run(&args),
        Command::VerifyLogs(args) => verify_logs::run(&args),
        Command::VerifyManifests(args) => verify_manifests::run(&args),
        Command::VerifyMonitoring(args) => verify_monitoring::run(&args),
        Command::VerifyPeers(args) => verify_peers::run(&args),
        Command::VerifyPlan(args) => verify_plan::run(&args),
        Command::VerifyUp(args) => verify_up::run(&args),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
