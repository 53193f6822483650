//! `wharf chat`: one answer for a script, or a conversation on a terminal.
//!
//! This file decides what a turn is and what is printed where: answers go to standard output, everything
//! about them (speed, hints, errors) to standard error.

mod interrupts;
mod local;
mod terminal;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use clap::builder::RangedU64ValueParser;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use wharf_api::ServeConfig;
use wharf_api::config::{Device, KvCacheDtype};
use wharf_telemetry::log;

use self::local::{LocalModel, LocalStream};
use crate::Env;
use crate::args::Output;
use crate::exit::{self, BadInput, Failure};
use crate::model::load;
use crate::openai::{self, ChatStream, Client, Piece};
use crate::runtime;
use crate::stop::Signals;

/// Talk to a model
#[derive(clap::Args, Clone)]
#[command(after_help = EXAMPLES, allow_negative_numbers = true)]
pub(crate) struct Args {
    /// Address of any server with an OpenAI API [default: http://127.0.0.1:8080]
    #[arg(value_name = "URL", conflicts_with = "model")]
    url: Option<String>,
    /// Talk to this GGUF file or Hugging Face folder without a server
    #[arg(long, value_name = "PATH")]
    model: Option<PathBuf>,
    /// Name of the model to ask for; needed only when the server has several
    #[arg(long, value_name = "NAME", conflicts_with = "model")]
    model_name: Option<String>,
    /// With --model: what computes, auto, cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", requires = "model", default_value = "auto", value_parser = configured::<Device>)]
    device: Device,
    /// With --model: threads that compute [default: one per core]
    #[arg(long, value_name = "N", requires = "model", value_parser = at_least_one::<usize>())]
    threads: Option<usize>,
    /// With --model: how keys and values are stored, f16 or int8
    #[arg(long, value_name = "TYPE", requires = "model", default_value = "f16", value_parser = configured::<KvCacheDtype>)]
    kv_cache_dtype: KvCacheDtype,
    /// With --model: folder to keep packed weights in, so that the next start is faster
    #[arg(long, value_name = "DIR", requires = "model")]
    pack_cache: Option<PathBuf>,
    /// With --pack-cache: compare all of the packed weights with their digest before they are used
    #[arg(long, requires = "pack_cache")]
    verify: bool,
    /// Answer this one prompt and exit; `-` reads it from standard input
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// Instructions that precede the conversation
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Longest answer, in tokens [default: the server's]
    #[arg(long, value_name = "N", value_parser = at_least_one::<u32>())]
    max_tokens: Option<u32>,
    /// 0 always takes the likeliest token, higher is more varied [default: the server's]
    #[arg(long, value_name = "X", value_parser = temperature)]
    temperature: Option<f32>,
    /// Choose among the likeliest tokens whose probabilities add up to this [default: the server's]
    #[arg(long, value_name = "P", value_parser = probability)]
    top_p: Option<f32>,
    /// Makes a varied answer repeatable
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// File whose first line is the API key [default: the variable OPENAI_API_KEY, if set]
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// With --prompt: print the answer as text, or with its measurements as one JSON document
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

fn at_least_one<T: TryFrom<u64> + Clone + Send + Sync>() -> RangedU64ValueParser<T> {
    RangedU64ValueParser::new().range(1..)
}

/// As in the configuration of a server.
fn configured<T: DeserializeOwned>(given: &str) -> Result<T, String> {
    serde_json::from_value(Value::from(given)).map_err(|error| error.to_string())
}

/// As far as our own server goes; another may stop earlier, and will say so.
fn temperature(given: &str) -> Result<f32, String> {
    number(given)
        .filter(|x| (0.0..=100.0).contains(x))
        .ok_or_else(|| "expected a number from 0 to 100".to_owned())
}

fn probability(given: &str) -> Result<f32, String> {
    number(given)
        .filter(|p| *p > 0.0 && *p <= 1.0)
        .ok_or_else(|| "expected a number above 0 and at most 1".to_owned())
}

fn number(given: &str) -> Option<f32> {
    given.parse().ok()
}

const EXAMPLES: &str = "\
Examples:
  wharf chat                                     talk to the server on this machine
  wharf chat https://llm.example.com --api-key-file key.txt
  wharf chat --model model.gguf                  no server needed
  wharf chat --model model.gguf --pack-cache ~/.cache/wharf/packed
  wharf chat --prompt 'Name three rivers.' --max-tokens 60
  git diff | wharf chat --prompt - --system 'Review this change.'

In a conversation: /reset forgets it, /help lists the commands, Ctrl-C stops an answer, Ctrl-C twice leaves.";

/// How fast an answer came; serialised for `--output json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
struct Measured {
    /// Seconds from sending the request to the first text.
    time_to_first_token_s: Option<f64>,
    /// Tokens after the first per second between first and last text.
    tokens_per_second: Option<f64>,
    /// Seconds from sending the request to the end of the answer.
    total_s: f64,
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
}

/// One finished answer.
#[derive(Debug, Serialize)]
struct Answer {
    model: String,
    answer: String,
    finish_reason: Option<String>,
    #[serde(flatten)]
    measured: Measured,
}

/// Runs the command to its end.
pub(crate) fn run(args: &Args, env: &Env) -> Result<(), Failure> {
    if args.prompt.is_none() && args.output == Output::Json {
        return Err(anyhow!("--output json needs --prompt: a conversation is not one document")).bad_input();
    }
    let source = match &args.model {
        Some(path) => Source::Local(local(path, args)?),
        None => Source::Remote(remote(args, env).bad_input()?),
    };
    // Before signals are caught: nobody can catch one during this read, so Ctrl-C must keep its usual meaning.
    let prompt = args.prompt.as_deref().map(read_prompt).transpose().bad_input()?;
    let runtime = runtime::one_thread()?;
    runtime.block_on(async {
        let mut signals = Signals::listen()?;
        let model = match &source {
            Source::Local(model) => model.name().to_owned(),
            Source::Remote(client) => tokio::select! {
                model = openai::choose_model(client, args.model_name.as_deref()) => model?,
                () = signals.next() => return Err(Failure::Interrupted),
            },
        };
        let chat = Chat { source, model, args: args.clone() };
        match &prompt {
            Some(prompt) => chat.answer_once(prompt, &mut signals).await,
            None => terminal::converse(&chat, &mut signals).await,
        }
    })
}

fn read_prompt(given: &str) -> anyhow::Result<String> {
    match given {
        "-" => {
            std::io::read_to_string(std::io::stdin()).context("failed to read the prompt from standard input")
        }
        text => Ok(text.to_owned()),
    }
}

fn remote(args: &Args, env: &Env) -> anyhow::Result<Client> {
    let key = openai::read_api_key(args.api_key_file.as_deref(), env)?;
    Client::new(args.url.as_deref().unwrap_or("http://127.0.0.1:8080"), key, None)
}

fn local(path: &Path, args: &Args) -> Result<LocalModel, Failure> {
    // A cache or a GPU that cannot be used fails nothing, so their warnings have no other way to the user.
    log::init("chat", log::Format::Text, "warn").context("failed to set up logging").bad_input()?;
    // One conversation: no other sequence needs KV memory or a place in a queue.
    let config = ServeConfig {
        device: args.device,
        threads: args.threads,
        kv_cache_dtype: args.kv_cache_dtype,
        pack_cache: args.pack_cache.clone(),
        verify_pack_cache: args.verify,
        max_num_seqs: 1,
        max_waiting: 1,
        ..ServeConfig::default()
    };
    LocalModel::load(path, &config).map_err(|error| match load::lacked_a_thread(&error) {
        true => Failure::Failed(error),
        false => Failure::BadInput(error),
    })
}

/// Where answers come from.
enum Source {
    Remote(Client),
    Local(LocalModel),
}

/// A model and how to ask it.
struct Chat {
    source: Source,
    model: String,
    args: Args,
}

/// An answer on its way.
enum Answering {
    Remote(ChatStream),
    Local(LocalStream),
}

impl Answering {
    /// The next piece; `None` after a complete answer. Dropping the future loses nothing.
    async fn next(&mut self) -> anyhow::Result<Option<Piece>> {
        match self {
            Answering::Remote(stream) => Ok(stream.next().await?),
            Answering::Local(stream) => stream.next().await,
        }
    }
}

/// How streaming an answer ended.
enum Ending {
    Complete,
    Interrupted,
}

impl Chat {
    async fn answer_once(&self, prompt: &str, signals: &mut Signals) -> Result<(), Failure> {
        let mut messages = self.opening();
        messages.push(message("user", prompt));
        let json = self.args.output == Output::Json;
        let mut print = |text: &str| if json { Ok(()) } else { exit::print(text) };
        let (answer, ending) = self.answer(&messages, signals, &mut print).await?;
        if json {
            let document =
                serde_json::to_string_pretty(&answer).context("failed to write the answer as JSON")?;
            exit::print(&format!("{document}\n"))?;
        } else {
            exit::print("\n")?;
            eprintln!("{}", describe(&answer));
        }
        match ending {
            Ending::Complete => Ok(()),
            Ending::Interrupted => Err(Failure::Interrupted),
        }
    }

    /// The messages that every conversation begins with.
    fn opening(&self) -> Vec<Value> {
        self.args.system.iter().map(|text| message("system", text)).collect()
    }

    async fn start(&self, messages: &[Value]) -> anyhow::Result<Answering> {
        match &self.source {
            Source::Remote(client) => Ok(Answering::Remote(client.chat(self.request(messages)).await?)),
            Source::Local(model) => Ok(Answering::Local(model.answer(messages, &self.args)?)),
        }
    }

    /// Where the model is, for people.
    fn place(&self) -> String {
        match &self.source {
            Source::Remote(client) => client.base().to_owned(),
            Source::Local(_) => "this machine".into(),
        }
    }

    fn request(&self, messages: &[Value]) -> Value {
        let Args { max_tokens, temperature, top_p, seed, .. } = &self.args;
        let mut body = json!({"model": self.model, "messages": messages});
        let options = [
            ("max_tokens", max_tokens.map(Value::from)),
            ("temperature", temperature.map(shortest)),
            ("top_p", top_p.map(shortest)),
            ("seed", seed.map(Value::from)),
        ];
        for (name, value) in options {
            if let Some(value) = value {
                body[name] = value;
            }
        }
        body
    }

    /// Streams one answer into `print`, until it is complete or the user interrupts it.
    async fn answer(
        &self,
        messages: &[Value],
        signals: &mut Signals,
        print: &mut dyn FnMut(&str) -> anyhow::Result<()>,
    ) -> anyhow::Result<(Answer, Ending)> {
        let mut clock = Clock::start();
        let mut answer = Answer {
            model: self.model.clone(),
            answer: String::new(),
            finish_reason: None,
            measured: Measured::default(),
        };
        let mut tokens = None;
        let started = tokio::select! {
            started = self.start(messages) => Some(started?),
            () = signals.next() => None,
        };
        let ending = match started {
            None => Ending::Interrupted,
            Some(mut stream) => loop {
                match next_or_interrupt(&mut stream, signals).await {
                    None => break Ending::Interrupted,
                    Some(piece) => match piece? {
                        None => break Ending::Complete,
                        Some(Piece::Text(text)) => {
                            clock.text_came();
                            print(&text)?;
                            answer.answer.push_str(&text);
                        }
                        Some(Piece::Finished(reason)) => answer.finish_reason = Some(reason),
                        Some(Piece::Usage { prompt_tokens, completion_tokens }) => {
                            tokens = Some((prompt_tokens, completion_tokens));
                        }
                    },
                }
            },
        };
        answer.measured = clock.measure(tokens);
        Ok((answer, ending))
    }
}

async fn next_or_interrupt(
    stream: &mut Answering,
    signals: &mut Signals,
) -> Option<anyhow::Result<Option<Piece>>> {
    tokio::select! {
        piece = stream.next() => Some(piece),
        () = signals.next() => None,
    }
}

fn message(role: &str, content: &str) -> Value {
    json!({"role": role, "content": content})
}

/// The number as the user typed it: `0.7`, not `0.699999988079071`.
fn shortest(x: f32) -> Value {
    x.to_string().parse::<f64>().map_or(Value::Null, Value::from)
}

/// When the texts of one answer came.
struct Clock {
    sent: Instant,
    first: Option<Instant>,
    last: Option<Instant>,
}

impl Clock {
    fn start() -> Clock {
        Clock { sent: Instant::now(), first: None, last: None }
    }

    fn text_came(&mut self) {
        let now = Instant::now();
        self.first.get_or_insert(now);
        self.last = Some(now);
    }

    fn measure(&self, tokens: Option<(u64, u64)>) -> Measured {
        let decode = self.first.zip(self.last).map(|(first, last)| last - first);
        Measured {
            time_to_first_token_s: self.first.map(|first| (first - self.sent).as_secs_f64()),
            tokens_per_second: decode.zip(tokens).and_then(|(time, (_, generated))| rate(generated, time)),
            total_s: self.sent.elapsed().as_secs_f64(),
            prompt_tokens: tokens.map(|(prompt, _)| prompt),
            completion_tokens: tokens.map(|(_, completion)| completion),
        }
    }
}

/// The first token's time belongs to the prompt, so it is not part of the decoding rate.
fn rate(generated: u64, decode: Duration) -> Option<f64> {
    (generated > 1 && !decode.is_zero()).then(|| (generated - 1) as f64 / decode.as_secs_f64())
}

/// One line for people: how long, how fast, and why the answer ended when that is worth saying.
fn describe(answer: &Answer) -> String {
    let Measured { time_to_first_token_s, tokens_per_second, total_s, completion_tokens, .. } =
        &answer.measured;
    let mut parts = Vec::new();
    match completion_tokens {
        Some(n) => parts.push(format!("{n} tokens")),
        None => parts.push("token count not reported by the server".into()),
    }
    parts.extend(tokens_per_second.map(|rate| format!("{rate:.1} tokens/s")));
    parts.extend(time_to_first_token_s.map(|s| format!("first token after {s:.3} s")));
    parts.push(format!("{total_s:.2} s in all"));
    match answer.finish_reason.as_deref() {
        Some("stop") => {}
        Some("length") => parts.push("cut at the token limit".into()),
        Some(other) => parts.push(format!("ended by {other}")),
        None => parts.push("stopped".into()),
    }
    format!("[{}]", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(finish_reason: Option<&str>, measured: Measured) -> Answer {
        Answer {
            model: "m".into(),
            answer: "a".into(),
            finish_reason: finish_reason.map(Into::into),
            measured,
        }
    }

    #[test]
    fn the_summary_leaves_out_what_was_not_measured() {
        let nothing = Measured { total_s: 1.5, ..Measured::default() };
        assert_eq!(
            describe(&answer(None, nothing)),
            "[token count not reported by the server, 1.50 s in all, stopped]"
        );
        let all = Measured {
            time_to_first_token_s: Some(0.1234),
            tokens_per_second: Some(50.0),
            total_s: 2.0,
            prompt_tokens: Some(3),
            completion_tokens: Some(96),
        };
        assert_eq!(
            describe(&answer(Some("length"), all)),
            "[96 tokens, 50.0 tokens/s, first token after 0.123 s, 2.00 s in all, cut at the token limit]"
        );
    }

    #[test]
    fn one_token_has_no_rate() {
        assert_eq!(rate(1, Duration::from_secs(1)), None);
        assert_eq!(rate(11, Duration::from_secs(2)), Some(5.0));
    }

    #[test]
    fn numbers_are_sent_as_typed() {
        assert_eq!(shortest(0.7).to_string(), "0.7");
    }
}
