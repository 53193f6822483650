//! Answers from a model file, without a server: the engine runs in this process.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow, bail};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value};
use tokio::sync::mpsc::{self, UnboundedReceiver};
use wharf_api::ServeConfig;
use wharf_engine::{Event, FinishReason, Request, SamplingParams, StopConditions};
use wharf_model::Model;
use wharf_model::tokenizer::StreamStart;
use wharf_server::{ChatInput, Decoder, Loaded};

use super::Args;
use crate::model::device;
use crate::model::load;
use crate::openai::Piece;

/// A loaded model.
pub(super) struct LocalModel {
    loaded: Loaded,
    name: String,
}

impl LocalModel {
    /// Loads the model; shows how far it is on a terminal.
    pub(super) fn load(path: &Path, config: &ServeConfig) -> anyhow::Result<LocalModel> {
        let model =
            Model::open(path).with_context(|| format!("failed to open the model {}", path.display()))?;
        let name = model.info.name.clone();
        let style = ProgressStyle::with_template("loading {bar:32} {pos}/{len} layers").expect("well-formed");
        let bar = ProgressBar::new(0).with_style(style);
        let mut progress = |done, total| {
            bar.set_length(total as u64);
            bar.set_position(done as u64);
        };
        let device = device::choose(config, &model)?;
        let loaded = load::load(model, config, device, &mut progress)
            .with_context(|| format!("failed to load the model {}", path.display()))?;
        bar.finish_and_clear();
        Ok(LocalModel { loaded, name })
    }

    /// What the model calls itself.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Starts an answer.
    pub(super) fn answer(&self, messages: &[Value], args: &Args) -> anyhow::Result<LocalStream> {
        let Loaded { engine, text, eos_tokens, defaults, lost: _ } = &self.loaded;
        let messages = Value::from(messages);
        let input =
            ChatInput { messages: &messages, tools: None, add_generation_prompt: true, kwargs: &Map::new() };
        let prompt =
            text.render(&input).context("failed to write the conversation as the model expects it")?;
        // The template has written the begin token itself.
        let prompt = text.encode(&prompt, false);
        let room = engine.max_model_len().saturating_sub(prompt.len());
        if room == 0 {
            bail!(
                "the conversation has {} tokens and the model holds {}; /reset forgets it",
                prompt.len(),
                engine.max_model_len()
            );
        }
        let (sender, events) = mpsc::unbounded_channel();
        let request = Request {
            prompt,
            sampling: SamplingParams {
                temperature: args.temperature.or(defaults.temperature).unwrap_or(1.0),
                top_p: args.top_p.or(defaults.top_p).unwrap_or(1.0),
                top_k: defaults.top_k.map_or(0, |k| k as usize),
                repetition_penalty: defaults.repetition_penalty.unwrap_or(1.0),
                seed: args.seed.unwrap_or_else(clock_seed),
                ..SamplingParams::default()
            },
            stop: StopConditions {
                max_tokens: args.max_tokens.map_or(room, |n| (n as usize).clamp(1, room)),
                min_tokens: 0,
                stop_tokens: Vec::new(),
                eos_tokens: eos_tokens.clone(),
                ignore_eos: false,
            },
            logprobs: None,
            cache_salt: 0,
            logits_hook: None,
            // Dropping the stream ends the request: the engine sees that nobody listens.
            sink: Box::new(move |event| match sender.send(event) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }),
        };
        engine.submit(request).context("failed to ask the engine")?;
        Ok(LocalStream {
            events,
            decoder: text.decoder(true, StreamStart::Text),
            eos_tokens: eos_tokens.clone(),
            ready: VecDeque::new(),
            ended: false,
        })
    }
}

/// Different every time, which is all that an unseeded answer needs.
fn clock_seed() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_nanos() as u64)
}

/// An answer on its way.
pub(super) struct LocalStream {
    events: UnboundedReceiver<Event>,
    decoder: Decoder,
    eos_tokens: Vec<u32>,
    ready: VecDeque<Piece>,
    ended: bool,
}

impl LocalStream {
    /// The next piece; `None` after a complete answer. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> anyhow::Result<Option<Piece>> {
        if let Some(piece) = self.ready.pop_front() {
            return Ok(Some(piece));
        }
        while !self.ended {
            match self.events.recv().await.context("the engine stopped before the answer was complete")? {
                Event::Token { token, .. } if self.eos_tokens.contains(&token) => {}
                Event::Token { token, .. } => {
                    if let Some(text) = self.decoder.push(token).filter(|text| !text.is_empty()) {
                        return Ok(Some(Piece::Text(text)));
                    }
                }
                Event::Finished { reason, usage } => {
                    self.ended = true;
                    self.ready.push_back(Piece::Finished(name(reason).to_owned()));
                    self.ready.push_back(Piece::Usage {
                        prompt_tokens: usage.prompt_tokens as u64,
                        completion_tokens: usage.generated_tokens as u64,
                    });
                    // A character that the token limit cut in two comes out as a replacement character.
                    let rest = self.decoder.flush().filter(|text| !text.is_empty()).map(Piece::Text);
                    return Ok(rest.or_else(|| self.ready.pop_front()));
                }
                Event::Failed { message } | Event::Lost { message } => {
                    return Err(anyhow!("the engine failed: {message}"));
                }
            }
        }
        Ok(None)
    }
}

/// As the OpenAI API names it.
fn name(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
        FinishReason::Aborted => "abort",
    }
}
