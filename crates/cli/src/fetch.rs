//! `wharf fetch`: a model from wherever it is into a folder, whole or not at all; and out of it again.

mod remove;
mod wait;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use wharf_api::Digest;
use wharf_api::source::{Scheme, SourceUrl};
use wharf_fetch::{FetchError, HostPattern, Progress, Report, Request, Settings};
use wharf_spec::job::JobResult;

use crate::Env;
use crate::args::Output;
use crate::exit::{self, BadInput as _, Failure};
use crate::job;
use crate::meter::Meter;
use crate::stop::Signals;

const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Bring a model into a folder: resumable, verified, whole or not at all
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The model's source
    // Not as a comment: brackets are links there.
    #[arg(
        value_name = "URL",
        required_unless_present_any = ["path", "remove"],
        help = "hf://owner/repo[@revision][/path], https://…/file, s3://bucket/prefix, gs://bucket/prefix, \
                oci://registry/repo[:tag|@digest], file:///path or pvc://claim/path"
    )]
    source: Option<SourceUrl>,
    /// The folder that will hold the model and its manifest.json
    #[arg(short, long, value_name = "DIR", required_unless_present_any = ["path", "remove"])]
    out: Option<PathBuf>,
    /// Fetch nothing; wait until another process has put the model at this path
    #[arg(long = "await", id = "path", value_name = "PATH", conflicts_with_all = ["source", "out"])]
    path: Option<PathBuf>,
    /// Fetch nothing; remove the source-… or artifact-… that a Job has put at this path, and what interrupted ones left beside it
    #[arg(long, value_name = "PATH", conflicts_with_all = ["source", "out", "path"])]
    remove: Option<PathBuf>,
    /// Fail unless it is this: sha256:… of the only file, of the OCI manifest, or of what `sha256sum` prints of all files
    #[arg(long, value_name = "SHA256")]
    digest: Option<Digest>,
    /// Read the token for the source from this file (a mounted Secret); for oci:// it may be user:password
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Trust the certificates of this PEM file too
    #[arg(long, value_name = "FILE")]
    ca: Vec<PathBuf>,
    /// Talk only to these hosts, e.g. huggingface.co and *.hf.co [default: to all]
    #[arg(long, value_name = "HOST", value_delimiter = ',')]
    allow_host: Vec<HostPattern>,
    /// Accept only sources that begin so [default: all but http]
    #[arg(long, value_name = "SCHEME", value_delimiter = ',')]
    allow_scheme: Vec<Scheme>,
    /// Talk to private, loopback and link-local addresses too
    #[arg(long)]
    allow_private: bool,
    /// Fail if there are more bytes than this, e.g. 40G
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    max_bytes: Option<u64>,
    /// Requests at a time
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = connections)]
    connections: usize,
    /// Where a PersistentVolumeClaim is mounted, for pvc:// (also WHARF_VOLUMES)
    #[arg(long, value_name = "CLAIM=PATH", value_delimiter = ',', value_parser = volume)]
    volume: Vec<(String, PathBuf)>,
    #[command(flatten)]
    job: job::JobArgs,
    /// Text for people, or one JSON document
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

const EXAMPLES: &str = "\
Examples:
  wharf fetch hf://Qwen/Qwen2.5-0.5B-Instruct -o ./qwen
  wharf fetch hf://Qwen/Qwen2.5-0.5B-Instruct-GGUF/qwen2.5-0.5b-instruct-q8_0.gguf -o ./qwen-q8
  wharf fetch s3://models/qwen/7b -o /cache/qwen --digest sha256:…
  wharf fetch oci://ghcr.io/acme/qwen:7b -o ./qwen --max-bytes 40G
  HF_ENDPOINT=https://hub.corp.example wharf fetch hf://acme/model -o ./model --ca corp.pem --allow-private
  wharf fetch pvc://models/qwen -o ./qwen --volume models=/mnt/models
  wharf fetch --await /models/source-0123456789
  wharf fetch --remove /models/artifact-0123456789.gguf

Stopped by Ctrl-C, a kill or a full disk, the same command goes on where it was. Tokens come from HF_TOKEN, AWS_…, \
GOOGLE_APPLICATION_CREDENTIALS, Docker's config.json or --token-file; proxies from HTTPS_PROXY and NO_PROXY.";

fn bytes(text: &str) -> Result<u64, String> {
    let wrong = || "expected a number of bytes such as 40G".to_owned();
    let (number, unit) =
        text.split_at(text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len()));
    let unit: f64 = match unit.trim_end_matches(['B', 'b', 'i']).to_ascii_uppercase().as_str() {
        "" => 1.0,
        "K" => 1024.0,
        "M" => 1024.0 * 1024.0,
        "G" => 1024.0 * 1024.0 * 1024.0,
        "T" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        _ => return Err(wrong()),
    };
    let bytes = number.parse::<f64>().map_err(|_| wrong())? * unit;
    if bytes >= 1.0 && bytes < u64::MAX as f64 { Ok(bytes as u64) } else { Err(wrong()) }
}

fn connections(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|n| (1..=64).contains(n));
    number.ok_or_else(|| "expected a number from 1 to 64".to_owned())
}

fn volume(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((claim, path)) if !claim.is_empty() && !path.is_empty() => Ok((claim.to_owned(), path.into())),
        _ => Err("expected claim=/path/of/the/mount".to_owned()),
    }
}

/// Runs to the end, or to the first signal.
pub(crate) fn run(args: &Args, env: &Env) -> Result<(), Failure> {
    if let Some(path) = &args.remove {
        return remove::run(path, &args.job);
    }
    let runtime = tokio::runtime::Runtime::new().context("failed to start the network's threads")?;
    let (source, target) = match (&args.path, &args.source, &args.out) {
        (Some(path), _, _) => return runtime.block_on(wait::for_path(path)),
        (None, Some(source), Some(out)) => (source.clone(), out.clone()),
        (None, _, _) => {
            return Err(Failure::BadInput(anyhow!("give a URL and -o DIR, --await PATH or --remove PATH")));
        }
    };
    let mut settings = settings(args, env).map_err(failure)?;
    for text in
        env.get("WHARF_VOLUMES").iter().flat_map(|text| text.split(',')).filter(|text| !text.is_empty())
    {
        let (claim, path) =
            volume(text).map_err(|why| anyhow!("failed to read WHARF_VOLUMES: {why}")).bad_input()?;
        settings.volumes.entry(claim).or_insert(path);
    }
    let request = Request { source, target, digest: args.digest };
    args.job.open()?;
    let outcome = runtime.block_on(Box::pin(watched(&request, &settings)));
    // A thread that reads for a digest is not waited for.
    runtime.shutdown_background();
    let report = outcome?;
    args.job
        .done(&JobResult { bytes: i64::try_from(report.manifest.bytes()).ok(), ..JobResult::default() })?;
    match args.output {
        Output::Text => exit::print(&text(&report))?,
        Output::Json => {
            let document =
                serde_json::to_string_pretty(&report).context("failed to write the report as JSON")?;
            exit::print(&format!("{document}\n"))?;
        }
    }
    Ok(())
}

fn settings(args: &Args, env: &Env) -> Result<Settings, FetchError> {
    let mut settings = Settings::from_env(env)?;
    settings.connections = args.connections;
    settings.max_bytes = args.max_bytes;
    settings.policy.hosts = args.allow_host.clone();
    settings.policy.allow_private = args.allow_private;
    if !args.allow_scheme.is_empty() {
        settings.policy.schemes = args.allow_scheme.clone();
    }
    settings.volumes.extend(args.volume.iter().cloned());
    for path in &args.ca {
        settings.add_certificates("--ca", path)?;
    }
    if let Some(path) = &args.token_file {
        settings.read_token(path)?;
    }
    Ok(settings)
}

fn failure(error: FetchError) -> Failure {
    let bad_input = error.is_bad_input();
    let error = anyhow::Error::from(error);
    if bad_input { Failure::BadInput(error) } else { Failure::Failed(error) }
}

async fn watched(request: &Request, settings: &Settings) -> Result<Report, Failure> {
    let mut signals = Signals::listen()?;
    let progress = Progress::default();
    let mut meter = Meter::new("fetching");
    let started = Instant::now();
    let mut work = Box::pin(wharf_fetch::fetch(request, settings, &progress));
    let mut look = tokio::time::interval(LOOK_EVERY);
    loop {
        tokio::select! {
            outcome = &mut work => return outcome.map_err(failure),
            () = signals.next() => {
                drop(meter);
                eprintln!("stopped; the same command goes on from here");
                return Err(Failure::Interrupted);
            }
            _ = look.tick() => {
                let now = progress.snapshot();
                meter.set(now.done, now.total.max(1), || {
                    let rate = now.downloaded as f64 / 1e6 / started.elapsed().as_secs_f64();
                    format!("{} of {}, {rate:.1} MB/s, {}", size(now.done), size(now.total), now.at)
                });
            }
        }
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}

fn text(report: &Report) -> String {
    let Report { path, manifest, already_there, downloaded, skipped } = report;
    let files = match manifest.files.len() {
        1 => "1 file".to_owned(),
        n => format!("{n} files"),
    };
    let did = match already_there {
        true => "is there already; nothing was done".to_owned(),
        false => format!("{} were read", size(*downloaded)),
    };
    let mut text = format!("{}: {files}, {}: {did}\n", path.display(), size(manifest.bytes()));
    if let Some(revision) = &manifest.revision {
        text += &format!("revision {revision}\n");
    }
    text += &format!("digest   {}\n", manifest.digest);
    if !skipped.is_empty() {
        let shown: Vec<&str> = skipped.iter().take(5).map(String::as_str).collect();
        let more = if skipped.len() > shown.len() { ", …" } else { "" };
        text += &format!("left there: {}{more}\n", shown.join(", "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_units() {
        for (text, expected) in [("1", 1), ("40G", 40 << 30), ("1.5M", 1_572_864), ("10KiB", 10_240)] {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for wrong in ["", "0", "-1", "G", "1X", "1e400"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }
}
