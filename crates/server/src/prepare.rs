//! From a checked API request to what the engine takes: prompts as tokens, sampling and stopping with all defaults.

use std::sync::Arc;

use serde_json::Value;
use sha2::{Digest, Sha256};
use wharf_api::openai::{Generation, Message, Prompt, TemplateOptions};
use wharf_api::{ApiError, ServeConfig};
use wharf_engine::{SamplingParams, StopConditions};

use crate::ids::random_u64;
use crate::state::{App, Loaded, RETRY_AFTER_SECONDS};
use crate::text::{ChatInput, Text};

/// Refuses requests for other models.
pub(crate) fn check_model(app: &App, model: Option<&str>) -> Result<(), ApiError> {
    match model {
        Some(model) if model != app.model_name => Err(ApiError::ModelNotFound {
            // A name from a hostile request may be megabytes long.
            model: model.chars().take(200).collect(),
            available: app.model_name.clone(),
        }),
        Some(_) | None => Ok(()),
    }
}

/// Runs text work on a worker thread, unless the grace period of a drain ends before.
pub(crate) async fn on_worker<T: Send + 'static>(
    app: &App,
    text: &Arc<Text>,
    work: impl FnOnce(&Text) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let text = Arc::clone(text);
    let mut aborted = app.aborted();
    tokio::select! {
        result = app.workers.run(move || work(&text)) => result,
        _ = aborted.wait_for(|aborted| *aborted) => Err(ApiError::Unavailable {
            reason: "the server is shutting down before the request was read".to_owned(),
            retry_after_seconds: RETRY_AFTER_SECONDS,
        }),
    }
}

/// A conversation as one prompt text.
pub(crate) fn render_chat(
    text: &Text,
    messages: Vec<Message>,
    template: &TemplateOptions,
) -> Result<String, ApiError> {
    let last = messages.last().and_then(|message| message.0.get("content")?.as_str().map(str::to_owned));
    let messages = messages.into_iter().map(|Message(message)| Value::Object(message)).collect();
    let chat = ChatInput {
        messages: &messages,
        tools: template.tools.as_ref(),
        add_generation_prompt: template.add_generation_prompt,
        kwargs: &template.kwargs,
    };
    let mut prompt = text.render(&chat).map_err(|e| ApiError::invalid("messages", e.to_string()))?;
    if template.continue_final_message {
        let end = last.as_deref().and_then(|last| end_of_last(&prompt, last)).ok_or_else(|| {
            let message =
                "the chat template does not keep the last message's text, so it cannot be continued";
            ApiError::invalid("continue_final_message", message)
        })?;
        prompt.truncate(end);
    }
    Ok(prompt)
}

/// Where the last message's text ends in the prompt. Templates trim messages, so only the inner text must be
/// there; trailing space is kept if the template kept it, as Transformers does.
fn end_of_last(prompt: &str, last: &str) -> Option<usize> {
    let whole = last.trim_start();
    let inner = last.trim();
    let at = prompt.rfind(inner)?;
    let kept = if prompt[at..].starts_with(whole) { whole.len() } else { inner.len() };
    Some(at + kept)
}

/// Tokens of one prompt.
pub(crate) fn tokens_of(
    text: &Text,
    prompt: &Prompt,
    add_special: bool,
    vocab_size: usize,
) -> Result<Vec<u32>, ApiError> {
    let tokens = match prompt {
        Prompt::Text(prompt) => text.encode(prompt, add_special),
        Prompt::Tokens(tokens) => {
            check_tokens("prompt", tokens, vocab_size)?;
            tokens.clone()
        }
    };
    if tokens.is_empty() {
        return Err(ApiError::invalid("prompt", "prompt has no tokens"));
    }
    Ok(tokens)
}

/// Refuses tokens that the vocabulary does not have.
pub(crate) fn check_tokens(param: &'static str, tokens: &[u32], vocab_size: usize) -> Result<(), ApiError> {
    match tokens.iter().find(|token| **token as usize >= vocab_size) {
        Some(token) => {
            let message = format!("{param} has token {token}, but the vocabulary has {vocab_size} tokens");
            Err(ApiError::invalid(param, message))
        }
        None => Ok(()),
    }
}

/// What the engine is asked for each prompt, besides the prompt and the seed.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) sampling: SamplingParams,
    pub(crate) stop: StopConditions,
    pub(crate) first_seed: u64,
    pub(crate) cache_salt: u64,
}

/// Fills in what the request left open: configuration first, then the model's own recommendation, then OpenAI's
/// defaults. `stop.max_tokens` is still to be fitted to each prompt by [`fit_max_tokens`].
pub(crate) fn plan(config: &ServeConfig, model: &Loaded, generation: &Generation) -> Result<Plan, ApiError> {
    let vocab_size = model.engine.vocab_size();
    check_tokens("stop_token_ids", &generation.stop_token_ids, vocab_size)?;
    let biased: Vec<u32> = generation.logit_bias.iter().map(|(token, _)| *token).collect();
    check_tokens("logit_bias", &biased, vocab_size)?;
    let defaults = &model.defaults;
    let repetition_penalty = match generation.repetition_penalty {
        Some(penalty) => penalty,
        None => defaults.repetition_penalty.unwrap_or(1.0),
    };
    Ok(Plan {
        sampling: SamplingParams {
            temperature: generation
                .temperature
                .or(config.temperature)
                .or(defaults.temperature)
                .unwrap_or(1.0),
            top_k: generation.top_k.or(defaults.top_k.map(|k| k as usize)).unwrap_or(0),
            top_p: generation.top_p.or(config.top_p).or(defaults.top_p).unwrap_or(1.0),
            min_p: generation.min_p.or(defaults.min_p).unwrap_or(0.0),
            frequency_penalty: generation.frequency_penalty.unwrap_or(config.frequency_penalty),
            presence_penalty: generation.presence_penalty.unwrap_or(config.presence_penalty),
            repetition_penalty,
            logit_bias: generation.logit_bias.clone(),
            seed: 0,
        },
        stop: StopConditions {
            max_tokens: 1,
            min_tokens: generation.min_tokens,
            stop_tokens: generation.stop_token_ids.clone(),
            eos_tokens: model.eos_tokens.clone(),
            ignore_eos: generation.ignore_eos,
        },
        first_seed: generation.seed.unwrap_or_else(random_u64),
        cache_salt: generation.cache_salt.as_deref().map_or(0, salt),
    })
}

/// Most tokens to generate for a prompt of `prompt_tokens` tokens.
pub(crate) fn fit_max_tokens(
    requested: Option<usize>,
    default: Option<u32>,
    prompt_tokens: usize,
    max_model_len: usize,
    param: &'static str,
) -> Result<usize, ApiError> {
    let exceeded = |message| Err(ApiError::ContextLengthExceeded { message, param });
    let room = max_model_len.saturating_sub(prompt_tokens);
    if room == 0 {
        return exceeded(format!(
            "this model's maximum context length is {max_model_len} tokens; the prompt has {prompt_tokens} tokens \
             and leaves no room for an answer"
        ));
    }
    match requested {
        Some(requested) if requested > room => exceeded(format!(
            "this model's maximum context length is {max_model_len} tokens; {} were requested ({prompt_tokens} in \
             the prompt, {requested} for the answer)",
            prompt_tokens.saturating_add(requested)
        )),
        Some(requested) => Ok(requested),
        None => Ok(default.map_or(room, |default| room.min(default as usize))),
    }
}

/// A salt that clients cannot choose to collide with another's.
fn salt(text: &str) -> u64 {
    let digest = Sha256::digest(text.as_bytes());
    u64::from_le_bytes(digest[..8].try_into().expect("a digest has 32 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_fits_the_context() {
        let fit =
            |requested, default, prompt| fit_max_tokens(requested, default, prompt, 100, "messages").ok();
        assert_eq!(fit(None, None, 40), Some(60));
        assert_eq!(fit(None, Some(50), 40), Some(50));
        assert_eq!(fit(None, Some(500), 40), Some(60));
        assert_eq!(fit(Some(60), Some(5), 40), Some(60));
        assert_eq!(fit(Some(61), None, 40), None);
        assert_eq!(fit(None, None, 100), None);
        let error = fit_max_tokens(Some(usize::MAX), None, 40, 100, "messages").unwrap_err();
        assert_eq!((error.status(), error.code()), (400, Some("context_length_exceeded")));
    }

    #[test]
    fn the_last_message_is_left_open() {
        assert_eq!(end_of_last("<u>hi</u><a>so </a>", " so "), Some(15));
        assert_eq!(end_of_last("<u>so</u><a>so</a>", "so "), Some(14));
        assert_eq!(end_of_last("<a></a>", "so"), None);
    }
}
