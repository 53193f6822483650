//! `wharf distill`: trains a smaller student on a teacher's distributions.
//!
//! This file decides what the command accepts; `wharf_optimize::distill` trains, `progress` shows how far it is.

mod progress;

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread::available_parallelism;

use anyhow::{Context, anyhow};
use clap::{ArgGroup, ValueEnum};
use wharf_model::{Model, Tokenizer};
use wharf_optimize::distill::{
    self, Device, DistillError, Divergence, Format, Kept, Objective, Optimizer, Outcome, Processes, Recipe,
    Run, Student, TextSide, Width,
};
use wharf_spec::job::JobResult;
use wharf_spec::service::Quality;

use self::progress::Progress;
use crate::args::Output;
use crate::exit::{self, BadInput, Failure};
use crate::job;
use crate::model::text;

/// Train a smaller student on the distributions of a teacher
#[derive(clap::Args)]
#[command(after_help = EXAMPLES, group = ArgGroup::new("shape").required(true).multiple(true))]
pub(crate) struct Args {
    /// The model to learn from: a GGUF file, or a folder with safetensors
    #[arg(long, value_name = "FILE|DIR")]
    teacher: PathBuf,
    /// A model to train on, or a config.json whose weights start at random; its vocabulary is the teacher's
    #[arg(long, value_name = "FILE|DIR", group = "shape", conflicts_with_all = ["keep_layers", "layers", "width"])]
    student: Option<PathBuf>,
    /// Start from these layers of the teacher: numbers and ranges such as 0,2,4-10,29
    #[arg(long, value_name = "LIST", group = "shape", conflicts_with = "layers")]
    keep_layers: Option<String>,
    /// Start from so many layers of the teacher: those that do most with the data
    #[arg(long, value_name = "N", group = "shape")]
    layers: Option<usize>,
    /// Shrink the layers too, keeping what weighs most: hidden=N,ffn=N,heads=N, any of them
    #[arg(long, value_name = "SIZES", group = "shape")]
    width: Option<String>,
    /// Text, JSON lines with "text", or JSON lines with "messages" for the teacher's chat template (.jsonl)
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    data: Vec<PathBuf>,
    /// Folder to write; it must not exist. While the run lasts its files are in OUT.distilling
    #[arg(short = 'o', long, value_name = "OUT")]
    out: PathBuf,
    /// What the student is written as, in F32
    #[arg(long, value_enum, default_value = "safetensors")]
    format: FormatName,
    /// Go on with an interrupted run, to the same result
    #[arg(long)]
    resume: bool,
    /// For a job that may be started again: succeed when OUT is there, go on where a run stopped, start where there was none
    #[arg(long, conflicts_with = "resume")]
    retry: bool,
    #[command(flatten)]
    job: job::JobArgs,
    /// Train with so many processes, each with its part of every batch and of the threads
    #[arg(long, value_name = "N", default_value_t = 1)]
    data_parallel: usize,

    /// What the student is punished for besides cross-entropy
    #[arg(long, value_enum, default_value = "forward-kl", help_heading = "Loss")]
    loss: Loss,
    /// Share of the divergence from the teacher; the rest is cross-entropy with the text. 0 trains without the teacher
    #[arg(long, value_name = "A", default_value_t = 0.5, help_heading = "Loss")]
    alpha: f32,
    /// Divides the logits of teacher and student before they are compared; above 1 unlikely tokens count more
    #[arg(long, value_name = "T", default_value_t = 4.0, help_heading = "Loss")]
    temperature: f32,
    /// Weight of the teacher in the mixture of --loss jsd
    #[arg(long, value_name = "B", default_value_t = 0.5, help_heading = "Loss")]
    beta: f32,
    /// Weight of the mean squared difference between the layers of student and teacher
    #[arg(long, value_name = "W", default_value_t = 0.0, help_heading = "Loss")]
    features: f32,
    /// Share of sequences whose second half the student writes itself, judged by the teacher alone
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, help_heading = "Loss")]
    on_policy: f32,
    /// Of conversations, learn only what the assistant says: what it is asked is read and counts in no loss. Text is learned whole
    #[arg(long, help_heading = "Loss")]
    assistant_only: bool,
    /// Keep the teacher's K likeliest tokens of each position on disk instead of asking it anew every epoch
    #[arg(long, value_name = "K", num_args = 0..=1, default_missing_value = "64", help_heading = "Loss")]
    teacher_cache: Option<usize>,

    /// Steps to train
    #[arg(long, value_name = "N", default_value_t = 1000, help_heading = "Training")]
    steps: usize,
    /// Sequences per step, over all processes
    #[arg(long, value_name = "N", default_value_t = 8, help_heading = "Training")]
    batch: usize,
    /// Sequences computed at a time; smaller takes less memory
    #[arg(long, value_name = "N", default_value_t = 4, help_heading = "Training")]
    micro_batch: usize,
    /// Tokens per sequence
    #[arg(long, value_name = "N", default_value_t = 256, help_heading = "Training")]
    window: usize,
    /// Learning rate after warm-up; it falls to a tenth along a cosine
    #[arg(long, value_name = "R", default_value_t = 1e-4, help_heading = "Training")]
    lr: f64,
    /// Steps over which the learning rate rises
    #[arg(long, value_name = "N", default_value_t = 20, help_heading = "Training")]
    warmup: usize,
    /// Decay of matrices; norms and biases do not decay
    #[arg(long, value_name = "D", default_value_t = 0.01, help_heading = "Training")]
    weight_decay: f64,
    /// Longest gradient
    #[arg(long, value_name = "N", default_value_t = 1.0, help_heading = "Training")]
    clip: f64,
    /// Makes every random choice the same again
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "Training")]
    seed: u64,
    /// What to compute on; auto takes an NVIDIA GPU where there is one
    #[arg(long, value_enum, default_value = "auto", help_heading = "Training")]
    device: DeviceName,
    /// Numbers to compute in; weights and optimiser stay F32. bf16 needs a GPU, where it is the default
    #[arg(long, value_enum, help_heading = "Training")]
    precision: Option<Precision>,
    /// Threads of all processes together [default: as many as CPUs]
    #[arg(long, value_name = "N", help_heading = "Training")]
    threads: Option<usize>,

    /// Share of the data kept for validation
    #[arg(long, value_name = "SHARE", default_value_t = 0.02, help_heading = "Watching")]
    validation: f64,
    /// Most windows that a validation computes
    #[arg(long, value_name = "N", default_value_t = 32, help_heading = "Watching")]
    validation_windows: usize,
    /// Steps between validations
    #[arg(long, value_name = "N", default_value_t = 100, help_heading = "Watching")]
    validate_every: usize,
    /// Steps between checkpoints
    #[arg(long, value_name = "N", default_value_t = 100, help_heading = "Watching")]
    checkpoint_every: usize,
    /// The report for people, or one JSON document
    #[arg(long, value_enum, default_value = "text", help_heading = "Watching")]
    output: Output,

    /// Which of the processes of --data-parallel this is; they are started by the first
    #[arg(long, hide = true)]
    rank: Option<usize>,
}

const EXAMPLES: &str = "\
Examples:
  wharf distill --teacher smollm2.gguf --layers 15 --data books.txt -o student
  wharf distill --teacher ./Qwen2.5-0.5B --keep-layers 0-11,23 --width ffn=2432 --data a.jsonl b.jsonl -o student
  wharf distill --teacher smollm2.gguf --student student --data chat.jsonl --loss jsd --on-policy 0.5 -o better
  wharf distill --teacher smollm2.gguf --layers 15 --data books.txt -o student --format gguf
  wharf distill --teacher smollm2.gguf --layers 15 --data books.txt -o student --resume
  wharf distill --teacher smollm2.gguf --layers 15 --data books.txt -o student --data-parallel 2

The loss is alpha * T^2 * KL(teacher, student) + (1 - alpha) * cross-entropy. The folder has the
model, metrics.jsonl, training.svg and report.json. Ctrl-C keeps a checkpoint to resume from.";

/// Distance between teacher and student.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Loss {
    /// KL(teacher || student): cover all that the teacher says
    ForwardKl,
    /// KL(student || teacher): keep to what the teacher says most
    ReverseKl,
    /// Jensen-Shannon divergence: between both, see --beta
    Jsd,
}

/// Where to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DeviceName {
    /// A GPU where there is one
    Auto,
    /// CPU cores
    Cpu,
    /// An NVIDIA GPU
    Cuda,
}

/// What the student is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum FormatName {
    /// config.json, model.safetensors and the tokenizer's files, for Transformers and vLLM
    Safetensors,
    /// model.gguf, for llama.cpp
    Gguf,
}

/// Numbers to compute in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Precision {
    /// Single
    F32,
    /// Half, with the range of single
    Bf16,
}

/// Runs the command to its end.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    if args.retry && args.out.exists() {
        eprintln!("{} is there already", args.out.display());
        return Ok(());
    }
    args.job.open()?;
    // Every step takes gradients and activations of the same sizes.
    wharf_memory::keep_freed();
    let teacher = Model::open(&args.teacher)
        .with_context(|| format!("failed to open the teacher {}", args.teacher.display()))
        .bad_input()?;
    let student = student(args, teacher.config.layers.len()).bad_input()?;
    let recipe = recipe(args, student).bad_input()?;
    let text = text::TextSide::read(&teacher.source)
        .context("failed to read the teacher's tokenizer, which turns the data into tokens")
        .bad_input()?;
    drop(teacher);
    if let Student::Model(path) = &recipe.student {
        same_tokens(path, &text.tokenizer).bad_input()?;
    }
    let text = TextSide { tokenizer: text.tokenizer, chat_template: text.chat_template };
    let stop = crate::stop::flag()?;
    let threads = args.threads.unwrap_or_else(|| available_parallelism().map_or(1, Into::into));
    let processes = match (args.rank, args.data_parallel) {
        (Some(rank), _) => Processes::Follow { rank },
        (None, 1) => Processes::Alone,
        (None, n) => Processes::Lead(followers(n)?),
    };
    let mut progress = Progress::new(args.steps, args.rank.is_some());
    let run = Run {
        threads: (threads / args.data_parallel.max(1)).max(1),
        processes,
        resume: args.resume || (args.retry && distill::is_begun(&args.out)),
        stop: &stop,
    };
    let outcome = distill::run(&recipe, &text, run, &mut |event| progress.show(&event));
    progress.finish();
    match outcome.map_err(failure)? {
        Outcome::Followed => Ok(()),
        Outcome::Interrupted { step } => {
            eprintln!("stopped after step {step}; the checkpoint is kept, go on with --resume");
            Err(Failure::Interrupted)
        }
        Outcome::Finished(report) => {
            let found = &report.after;
            let teacher = Quality { perplexity: found.teacher_perplexity, kl_divergence: None };
            let student = Quality { perplexity: found.perplexity, kl_divergence: Some(found.kl_to_teacher) };
            args.job.done(&JobResult { bytes: None, before: Some(teacher), after: Some(student) })?;
            let text = match args.output {
                Output::Text => report.to_string(),
                Output::Json => {
                    serde_json::to_string_pretty(&report).context("failed to write the report as JSON")?
                        + "\n"
                }
            };
            Ok(exit::print(&text)?)
        }
    }
}

fn failure(error: DistillError) -> Failure {
    if error.is_bad_input() { Failure::BadInput(error.into()) } else { Failure::Failed(error.into()) }
}

fn student(args: &Args, layers: usize) -> anyhow::Result<Student> {
    if let Some(path) = &args.student {
        let is_config = path.extension().is_some_and(|e| e == "json");
        return Ok(if is_config { Student::Fresh(path.clone()) } else { Student::Model(path.clone()) });
    }
    let kept = match (&args.keep_layers, args.layers) {
        (Some(list), _) => distill::parse_list(list, layers).map(Kept::These),
        (None, Some(wanted)) => Kept::busiest(wanted, layers),
        (None, None) => Ok(Kept::These((0..layers).collect())),
    };
    let width = args.width.as_deref().map_or(Ok(Width::default()), Width::parse);
    Ok(Student::Pruned { layers: kept.map_err(|e| anyhow!(e))?, width: width.map_err(|e| anyhow!(e))? })
}

fn recipe(args: &Args, student: Student) -> anyhow::Result<Recipe> {
    let divergence = match args.loss {
        Loss::ForwardKl => Divergence::ForwardKl,
        Loss::ReverseKl => Divergence::ReverseKl,
        Loss::Jsd if args.beta > 0.0 && args.beta < 1.0 => Divergence::Jsd { beta: args.beta },
        Loss::Jsd => {
            return Err(anyhow!(
                "--beta must be between 0 and 1; at 0 and 1 take --loss forward-kl or reverse-kl"
            ));
        }
    };
    let device = match (args.device, args.precision) {
        (DeviceName::Cpu, Some(Precision::Bf16)) => {
            return Err(anyhow!("--precision bf16 needs --device cuda: CPUs train in f32"));
        }
        (DeviceName::Cpu, _) => Device::Cpu,
        (DeviceName::Cuda, Some(Precision::F32)) => Device::Cuda,
        (DeviceName::Cuda, _) => Device::CudaBf16,
        (DeviceName::Auto, precision) => match (distill::best_device(), precision) {
            (Device::CudaBf16, Some(Precision::F32)) => Device::Cuda,
            (Device::Cpu, Some(Precision::Bf16)) => {
                return Err(anyhow!("--precision bf16 needs an NVIDIA GPU, and none was found"));
            }
            (device, _) => device,
        },
    };
    Ok(Recipe {
        teacher: args.teacher.clone(),
        student,
        data: args.data.clone(),
        out: args.out.clone(),
        objective: Objective { divergence, alpha: args.alpha, temperature: args.temperature },
        features: args.features,
        on_policy: args.on_policy,
        assistant_only: args.assistant_only,
        teacher_cache: args.teacher_cache,
        optimizer: Optimizer {
            lr: args.lr,
            warmup: args.warmup,
            weight_decay: args.weight_decay,
            clip: args.clip,
        },
        steps: args.steps,
        batch: args.batch,
        micro_batch: args.micro_batch,
        window: args.window,
        validation: args.validation,
        validation_windows: args.validation_windows,
        validate_every: args.validate_every,
        checkpoint_every: args.checkpoint_every,
        seed: args.seed,
        device,
        processes: args.data_parallel,
        format: match args.format {
            FormatName::Safetensors => Format::Safetensors,
            FormatName::Gguf => Format::Gguf,
        },
    })
}

/// Refuses a student whose tokens have other texts. One without a tokenizer is taken at its word.
fn same_tokens(student: &std::path::Path, teacher: &Tokenizer) -> anyhow::Result<()> {
    let model =
        Model::open(student).with_context(|| format!("failed to open the student {}", student.display()))?;
    let Ok(text) = text::TextSide::read(&model.source) else { return Ok(()) };
    let ids = 0..text.tokenizer.vocab_size().min(teacher.vocab_size()) as u32;
    for id in ids {
        let (own, of_teacher) = (text.tokenizer.token_text(id), teacher.token_text(id));
        if own != of_teacher {
            return Err(anyhow!(
                "token {id} is {own:?} for the student and {of_teacher:?} for the teacher: a student learns the teacher's \
                 distribution over tokens and needs the same vocabulary"
            ));
        }
    }
    Ok(())
}

/// Commands that start this program again, as the other processes.
fn followers(size: usize) -> anyhow::Result<Vec<Command>> {
    let program = std::env::current_exe().context("failed to find this program, to start it again")?;
    let follower = |rank: usize| {
        let mut command = Command::new(&program);
        command.args(std::env::args_os().skip(1)).args(["--rank", &rank.to_string()]).stdout(Stdio::null());
        command
    };
    Ok((1..size).map(follower).collect())
}
