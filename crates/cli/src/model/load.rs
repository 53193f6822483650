//! From an opened checkpoint to a running engine with its tokenizer and chat template.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use wharf_api::ServeConfig;
use wharf_engine::cpu::{CpuBackend, CpuOptions};
use wharf_engine::{EngineConfig, start};
use wharf_model::tokenizer::StreamStart;
use wharf_model::{ChatTemplate, DecodeStream, EncodeOptions, GenerationDefaults, Model, Tokenizer};
use wharf_server::{ChatInput, Decoder, Loaded, RenderError, SamplingDefaults, TextModel};

use super::memory::{self, Wanted};
use super::text::TextSide;

/// While others decode, a long prompt may take this much of a step, so that their tokens keep coming.
const PREFILL_WHILE_DECODING: usize = 256;

/// Loads weights, tokenizer and chat template and starts the engine. Takes seconds; `progress(done, total)`
/// hears of every layer.
pub(crate) fn load(
    model: Model,
    config: &ServeConfig,
    progress: &mut dyn FnMut(usize, usize),
) -> anyhow::Result<Loaded> {
    let text = TextSide::read(&model.source)?;
    let kv = memory::plan(
        Wanted {
            cache_bytes: config.kv_cache_bytes.map(|size| size.0),
            max_model_len: config.max_model_len,
            context_length: model.config.context_length,
            max_num_seqs: config.max_num_seqs,
            bytes_per_token: model.config.kv_bytes_per_token(),
        },
        memory::free(),
    );
    let defaults = CpuOptions::default();
    let options = CpuOptions {
        threads: config.threads.unwrap_or(defaults.threads),
        kv_tokens: kv.tokens,
        max_batch_tokens: config.max_num_batched_tokens,
        ..defaults
    };
    let bounds = EngineConfig {
        max_model_len: kv.max_model_len,
        max_running: config.max_num_seqs,
        max_batch_tokens: config.max_num_batched_tokens,
        prefill_tokens_while_decoding: PREFILL_WHILE_DECODING.min(config.max_num_batched_tokens),
        max_waiting: config.max_waiting,
        prefix_caching: true,
    };
    let generation = model.generation.clone();
    let backend = CpuBackend::load(model, &options, progress).context("failed to load the weights")?;
    let engine = start(Box::new(backend), bounds).context("failed to start the engine")?;
    Ok(Loaded {
        engine,
        eos_tokens: stop_tokens(&text.tokenizer, &generation),
        defaults: SamplingDefaults {
            temperature: generation.temperature,
            top_p: generation.top_p,
            top_k: generation.top_k.map(|k| k as usize),
            repetition_penalty: generation.repetition_penalty,
        },
        text: Arc::new(ModelText::new(text)),
    })
}

/// Everything that ends an answer: what the model's files list, and what its tokenizer knows.
fn stop_tokens(tokenizer: &Tokenizer, generation: &GenerationDefaults) -> Vec<u32> {
    let mut tokens = generation.eos_token_ids.clone();
    tokens.extend(tokenizer.eos());
    tokens.extend(tokenizer.stop_tokens());
    tokens.sort_unstable();
    tokens.dedup();
    tokens
}

/// A model's own tokenizer and template behind the server's interface.
struct ModelText {
    tokenizer: Arc<Tokenizer>,
    chat_template: Option<ChatTemplate>,
    bos_text: Option<String>,
    eos_text: Option<String>,
}

impl ModelText {
    fn new(text: TextSide) -> ModelText {
        let TextSide { tokenizer, chat_template, kind: _ } = text;
        ModelText {
            bos_text: tokenizer.bos().map(|token| tokenizer.token_text(token)),
            eos_text: tokenizer.eos().map(|token| tokenizer.token_text(token)),
            tokenizer: Arc::new(tokenizer),
            chat_template,
        }
    }
}

impl TextModel for ModelText {
    fn encode(&self, text: &str, add_special: bool) -> Vec<u32> {
        self.tokenizer.encode(text, EncodeOptions { add_special, parse_special: true })
    }

    fn decode(&self, tokens: &[u32], skip_special: bool) -> String {
        self.tokenizer.decode(tokens, skip_special)
    }

    fn token_bytes(&self, token: u32) -> Vec<u8> {
        self.tokenizer.token_bytes(token).into_owned()
    }

    fn decoder(&self, skip_special: bool) -> Box<dyn Decoder> {
        // Generated text follows a prompt, so its first space counts.
        Box::new(Stream(DecodeStream::new(self.tokenizer.clone(), skip_special, StreamStart::Continuation)))
    }

    fn render(&self, chat: &ChatInput<'_>) -> Result<String, RenderError> {
        let Some(template) = &self.chat_template else {
            return Err(RenderError(
                "this model has no chat template; ask it for completions instead".into(),
            ));
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok();
        let input = wharf_model::ChatInput {
            messages: chat.messages,
            tools: chat.tools,
            add_generation_prompt: chat.add_generation_prompt,
            extra: Some(chat.kwargs),
            bos_token: self.bos_text.as_deref(),
            eos_token: self.eos_text.as_deref(),
            now: now.and_then(|t| i64::try_from(t.as_secs()).ok()),
        };
        template.render(&input).map_err(|error| RenderError(format!("{:#}", anyhow::Error::from(error))))
    }
}

struct Stream(DecodeStream<Arc<Tokenizer>>);

impl Decoder for Stream {
    fn push(&mut self, token: u32) -> Option<String> {
        self.0.push(token)
    }

    fn flush(&mut self) -> Option<String> {
        self.0.flush()
    }
}
