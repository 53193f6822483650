//! `fake-engine`: a model server of its own process, for tests that kill processes.
//!
//! Its first line of output is its port. SIGTERM drains it; everything else about it is [`wharf_fakes::engine`].

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use wharf_fakes::engine::{Dialect, EngineConfig, FakeEngine};

const HELP: &str = "\
fake-engine [--port N] [--model NAME] [--name NAME] [--ttft-ms N] [--itl-ms N] [--prefill-us N] [--tokens N]
            [--slots N] [--queue N] [--dialect vllm|sglang|llamacpp] [--start-ms N] [--exit-code N] [--orders yes]
Prints its port as the first line. With --exit-code it prints nothing and fails after --start-ms. With --orders it does what lines on its standard
input say (reset-after 3, flap 2 3, heal), prints done after each, and ends with them.";

struct Options {
    port: u16,
    config: EngineConfig,
    exit_code: Option<u8>,
    start: Duration,
    orders: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = match parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(message) => {
            eprintln!("{message}\n{HELP}");
            return ExitCode::from(2);
        }
    };
    match run(options).await {
        Ok(code) => code,
        Err(e) => {
            eprintln!("failed to serve: {e}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: Options) -> std::io::Result<ExitCode> {
    let Options { port, config, exit_code, start, orders } = options;
    let mut terminate = signal(SignalKind::terminate())?;
    // As a server that loads a model: nothing listens before it is loaded.
    tokio::time::sleep(start).await;
    if let Some(code) = exit_code {
        return Ok(ExitCode::from(code));
    }
    let engine = FakeEngine::start_on(port, config).await?;
    let mut output = std::io::stdout();
    writeln!(output, "{}", engine.address().port())?;
    output.flush()?;
    if orders {
        tokio::select! {
            _ = terminate.recv() => {}
            obeyed = engine.obey_standard_input() => return obeyed.map(|()| ExitCode::SUCCESS),
        }
    } else {
        terminate.recv().await;
    }
    engine.stop().await;
    Ok(ExitCode::SUCCESS)
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut options = Options {
        port: 0,
        config: EngineConfig::default(),
        exit_code: None,
        start: Duration::ZERO,
        orders: false,
    };
    while let Some(flag) = args.next() {
        let value = args.next().ok_or_else(|| format!("{flag} needs a value"))?;
        let number = || value.parse::<u64>().map_err(|e| format!("{flag} {value}: {e}"));
        let small = || usize::try_from(number()?).map_err(|e| format!("{flag} {value}: {e}"));
        let config = &mut options.config;
        match flag.as_str() {
            "--port" => options.port = value.parse().map_err(|e| format!("{flag} {value}: {e}"))?,
            "--model" => config.model = value,
            "--name" => config.name = value,
            "--ttft-ms" => config.ttft = Duration::from_millis(number()?),
            "--itl-ms" => config.itl = Duration::from_millis(number()?),
            "--prefill-us" => config.prefill_per_token = Duration::from_micros(number()?),
            "--tokens" => config.tokens = small()?,
            "--slots" => config.slots = small()?,
            "--queue" => config.queue = small()?,
            "--dialect" => {
                config.dialect = match value.as_str() {
                    "vllm" => Dialect::Vllm,
                    "sglang" => Dialect::Sglang,
                    "llamacpp" => Dialect::Llamacpp,
                    _ => return Err(format!("no dialect is called {value}")),
                }
            }
            "--orders" => options.orders = value == "yes",
            "--start-ms" => options.start = Duration::from_millis(number()?),
            "--exit-code" => {
                options.exit_code = Some(value.parse().map_err(|e| format!("{flag} {value}: {e}"))?);
            }
            _ => return Err(format!("no flag is called {flag}")),
        }
    }
    Ok(options)
}
