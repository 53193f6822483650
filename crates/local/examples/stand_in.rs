//! Stands in for the `wharf` binary in tests of the supervisor: `run-child` is the real one, `serve` is a fake engine that does what its
//! model file says and prints what it was told to compute on, `quantize` copies the file if the gate that it is given lets it through.
//!
//! A model file is JSON: `{"start_ms": 50, "exit": 1, "ttft_ms": 900, "errors_after": 2, "kl": 0.5, "make_ms": 80}`, each field optional.
//!
//! Under the name of another engine's program it is that engine: it prints how it was called and listens where it was told to.
#![expect(clippy::print_stdout, reason = "it is a program of its own")]

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tokio::signal::unix::{SignalKind, signal};
use wharf_fakes::engine::{EngineConfig, FakeEngine, Fault, Target};
use wharf_gateway::GatewayConfig;
use wharf_local::{Folder, Machine, Needs, Objects, Options, Planner, Up, Written};
use wharf_spec::{Document, LLMService, Object, check};

/// How a model behaves.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Model {
    /// Milliseconds until the server listens.
    start_ms: u64,
    /// It ends with this code instead.
    exit: Option<u8>,
    /// Milliseconds to the first token.
    ttft_ms: u64,
    /// Tokens of an answer.
    tokens: Option<usize>,
    /// Milliseconds between tokens.
    itl_ms: u64,
    /// Every request after the first few, which are warm-up, fails.
    errors_after: Option<usize>,
    /// What the gate measures.
    kl: f64,
    /// Milliseconds that it takes to quantise it.
    make_ms: u64,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (called, words) = words.split_first().map_or(("", &[][..]), |(called, words)| (*called, words));
    let outcome = match (Path::new(called).file_name().and_then(|name| name.to_str()), words) {
        (Some("llama-server" | "vllm" | "python3" | "homemade"), words) => other_engine(words),
        (_, ["run-child", rest @ ..]) => run_child(rest),
        (_, ["serve", "--config", folder]) => serve(Path::new(folder)),
        (_, ["quantize", rest @ ..]) => quantize(rest),
        (_, ["up", state, models, file]) => up(state, models, file),
        _ => Err(format!("no test uses {words:?}")),
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::from(2)
        }
    }
}

fn text(error: impl ToString) -> String {
    error.to_string()
}

fn run_child(words: &[&str]) -> Result<u8, String> {
    let (cpus, command) = match words {
        ["--cpus", cpus, "--", command @ ..] => {
            (cpus.split(',').map(|cpu| cpu.parse().map_err(text)).collect::<Result<_, _>>()?, command)
        }
        ["--", command @ ..] => (Vec::new(), command),
        _ => return Err(format!("not understood: {words:?}")),
    };
    let (program, args) = command.split_first().ok_or("no program")?;
    let args: Vec<String> = args.iter().map(|word| (*word).to_owned()).collect();
    let code = wharf_local::run_child(program, &args, &cpus).map_err(text)?;
    u8::try_from(code).map_err(text)
}

fn read(path: &str) -> Result<Model, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("failed to read {path}: {error}"))?;
    serde_json::from_str(&text).map_err(|error| format!("failed to understand {path}: {error}"))
}

#[derive(Deserialize)]
struct ModelConfig {
    model_path: String,
    model_name: String,
}

#[derive(Deserialize)]
struct ServerConfig {
    server: Ports,
}

#[derive(Deserialize)]
struct Ports {
    port: u16,
}

fn serve(folder: &Path) -> Result<u8, String> {
    let of = |name: &str| std::fs::read_to_string(folder.join(name)).map_err(text);
    let ModelConfig { model_path, model_name } =
        serde_json::from_str(&of("model_config.json")?).map_err(text)?;
    let yaml = of("server_config.yaml")?;
    let documents = Document::read("server_config.yaml", &yaml).map_err(text)?;
    let value = documents.first().ok_or("no configuration")?.value().clone();
    let config: ServerConfig = serde_json::from_value(value).map_err(text)?;
    let model = read(&model_path)?;
    tell(&["CUDA_VISIBLE_DEVICES", "WHARF_DEVICE", "WHARF_GPU_MEMORY_FRACTION"]);
    let config_of = EngineConfig {
        model: model_name,
        ttft: Duration::from_millis(model.ttft_ms),
        itl: Duration::from_millis(model.itl_ms),
        tokens: model.tokens.unwrap_or(4),
        ..EngineConfig::named(folder.file_name().unwrap_or_default().to_string_lossy())
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    runtime.map_err(text)?.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).map_err(text)?;
        tokio::time::sleep(Duration::from_millis(model.start_ms)).await;
        if let Some(code) = model.exit {
            eprintln!("error: told to exit with {code}");
            return Ok(code);
        }
        let engine = FakeEngine::start_on(config.server.port, config_of).await.map_err(text)?;
        println!("listening on {}", engine.address());
        if let Some(good) = model.errors_after {
            let engine = engine.clone();
            tokio::spawn(async move {
                engine.until(|_| engine.generation_requests().len() >= good).await;
                engine.fail(Target::Generation, Fault::status(500));
            });
        }
        terminate.recv().await;
        engine.stop().await;
        Ok(0)
    })
}

/// Prints these variables, as far as there are any.
fn tell(names: &[&str]) {
    for (name, value) in std::env::vars() {
        if names.contains(&name.as_str()) {
            println!("told {name}={value}");
        }
    }
}

/// An engine of others: its port is in its arguments, its model's name too or in the environment.
fn other_engine(words: &[&str]) -> Result<u8, String> {
    let after = |flag: &str| words.iter().position(|word| *word == flag).and_then(|at| words.get(at + 1));
    println!("called {}", serde_json::to_string(words).map_err(text)?);
    tell(&["MODEL_PATH", "MODEL_NAME", "PORT", "VLLM_NO_USAGE_STATS", "HF_HUB_OFFLINE"]);
    let port = after("--port").ok_or("no port")?.parse().map_err(text)?;
    let named = after("--alias").or(after("--served-model-name")).map(|name| (*name).to_owned());
    let in_environment = || std::env::vars().find(|(name, _)| name == "MODEL_NAME").map(|(_, model)| model);
    let model = named.or_else(in_environment).ok_or("no name of a model")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    runtime.map_err(text)?.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).map_err(text)?;
        let config = EngineConfig { model, ..EngineConfig::named("another engine") };
        let engine = FakeEngine::start_on(port, config).await.map_err(text)?;
        println!("listening on {}", engine.address());
        terminate.recv().await;
        engine.stop().await;
        Ok(0)
    })
}

fn quantize(words: &[&str]) -> Result<u8, String> {
    let after = |flag: &str| words.iter().position(|word| *word == flag).and_then(|at| words.get(at + 1));
    let source = words.first().ok_or("no source")?;
    let model = read(source)?;
    let gate: f64 = after("--gate-kl").map_or(Ok(f64::INFINITY), |kl| kl.parse()).map_err(text)?;
    if model.kl > gate {
        eprintln!("error: the gate is not passed: KL divergence {} over {gate}", model.kl);
        return Ok(1);
    }
    let out = after("-o").ok_or("no output")?;
    println!("writing {out}");
    std::thread::sleep(Duration::from_millis(model.make_ms));
    std::fs::copy(source, out).map_err(text)?;
    Ok(0)
}

/// A supervisor in a process of its own, to be killed.
fn up(state: &str, models: &str, file: &str) -> Result<u8, String> {
    let file = file.to_owned();
    let mut last = None;
    let reader = Box::new(move || {
        let text = std::fs::read_to_string(&file).ok()?;
        if last.as_ref() == Some(&text) {
            return None;
        }
        let objects = objects(&text);
        last = Some(text);
        Some(objects)
    });
    let options = Options {
        wharf: std::env::current_exe().map_err(text)?,
        models: models.into(),
        cache: models.into(),
        fetch_args: Vec::new(),
        gateway: GatewayConfig { port: 0, metrics_port: 0, threads: Some(1), ..GatewayConfig::default() },
        reader,
        listener: Arc::new(|service, event| eprintln!("{service} {} {}", event.reason, event.message)),
        planner: Arc::new(Nothing),
        machine: Machine { gpus: Vec::new(), ..Machine::detect(None) },
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.map_err(text)?.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).map_err(text)?;
        let folder = Folder::take(Path::new(state)).map_err(text)?;
        let up = Up::prepare(folder, options).map_err(text)?;
        println!("{}", up.addresses().http);
        let ended = async {
            terminate.recv().await;
        };
        up.run(ended).await.map_err(text)
    })?;
    Ok(0)
}

struct Nothing;

impl Planner for Nothing {
    fn needs(&self, _: &LLMService, _: &Path) -> Option<Needs> {
        None
    }
}

fn objects(text: &str) -> Result<Objects, String> {
    let mut objects = Objects::default();
    for document in Document::read("llm.yaml", text).map_err(|error| error.to_string())? {
        let (object, problems) = check(&document);
        match object {
            Some(Object::Service(object)) if problems.is_empty() => {
                objects.services.push(Written { object: *object, yaml: text.to_owned() });
            }
            _ => return Err(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")),
        }
    }
    Ok(objects)
}
