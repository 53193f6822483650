//! `POST /v1/completions`.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::Request;
use wharf_api::ApiError;
use wharf_api::openai::{
    Completion, CompletionChoice, CompletionLogprobs, CompletionRequest, Prompt, Usage, wire_logprob,
};
use wharf_engine::Logprobs;
use wharf_model::tokenizer::StreamStart;

use crate::body;
use crate::choices::{Choices, Job, Piece};
use crate::ids::new_id;
use crate::middleware::Followed;
use crate::prepare::{check_model, fit_max_tokens, on_worker, plan, tokens_of};
use crate::respond::{Failure, json, until_written};
use crate::state::{App, unix_seconds};
use crate::stream::{self, Wording};
use crate::text::Text;

pub(crate) async fn handle(State(app): State<Arc<App>>, request: Request<Body>) -> Result<Response, Failure> {
    let arrived = Instant::now();
    let followed = Followed::of(&request);
    let body = body::read(request, &app.config).await?;
    let in_flight = app.enter()?;
    let model = app.serving()?;
    let vocab_size = model.engine.vocab_size();
    let (request, prompts, echoes) = on_worker(&app, &model.text, {
        let app = Arc::clone(&app);
        move |text| {
            let mut request = CompletionRequest::parse(&body)?;
            check_model(&app, request.generation.model.as_deref())?;
            let prompts = std::mem::take(&mut request.prompts);
            let tokens = |prompt| tokens_of(text, prompt, request.add_special_tokens, vocab_size);
            let tokens = prompts.iter().map(tokens).collect::<Result<Vec<_>, _>>()?;
            let echo = |prompt| match prompt {
                Prompt::Text(prompt) => prompt,
                Prompt::Tokens(tokens) => text.decode(&tokens),
            };
            let echoes: Vec<String> = match request.echo {
                true => prompts.into_iter().map(echo).collect(),
                false => Vec::new(),
            };
            Ok((request, tokens, echoes))
        }
    })
    .await?;
    let generation = request.generation;
    let max_model_len = model.engine.max_model_len();
    // OpenAI's limit for this older endpoint is 16 tokens; like the configuration's it gives way to the context.
    let default = Some(app.config.max_tokens.unwrap_or(16));
    let fit = |prompt: Vec<u32>| {
        let limit = fit_max_tokens(generation.max_tokens, default, prompt.len(), max_model_len, "prompt")?;
        Ok((prompt, limit))
    };
    let job = Job {
        prompts: prompts.into_iter().map(fit).collect::<Result<Vec<_>, ApiError>>()?,
        n: generation.n,
        plan: plan(&app.config, model, &generation)?,
        logprobs: request.logprobs,
        stop: generation.stop,
        include_stop: generation.include_stop_str_in_output,
        skip_special: generation.skip_special_tokens,
        start: StreamStart::Continuation,
        param: "prompt",
        streams: generation.stream.is_some(),
        arrived,
        followed,
    };
    let n_choices = job.prompts.len() * job.n;
    let choices = Choices::submit(&app, &model.engine, &model.text, job)?;
    let answer = Answer {
        id: new_id("cmpl-"),
        created: unix_seconds(),
        model: app.model_name.clone(),
        text: Arc::clone(&model.text),
        n: generation.n,
        echoes,
        progress: vec![Progress::default(); n_choices],
        with_logprobs: request.logprobs.is_some(),
    };
    let response = match generation.stream {
        Some(options) => stream::response(choices, answer, options),
        None => json(&answer.whole(choices).await?),
    };
    Ok(until_written(response, in_flight))
}

/// What all chunks of an answer have in common.
struct Answer {
    id: String,
    created: u64,
    model: String,
    text: Arc<Text>,
    n: usize,
    /// Texts of the prompts, if they are to be echoed.
    echoes: Vec<String>,
    progress: Vec<Progress>,
    with_logprobs: bool,
}

/// What is known of a choice while it streams.
#[derive(Clone, Default)]
struct Progress {
    started: bool,
    /// Characters of the tokens so far.
    offset: usize,
}

impl Answer {
    async fn whole(mut self, mut choices: Choices) -> Result<Completion, ApiError> {
        let empty = CompletionChoice { index: 0, text: String::new(), logprobs: None, finish_reason: None };
        let mut done = vec![empty; self.progress.len()];
        while let Some(piece) = choices.next().await {
            let part = self.choice(piece?);
            let whole = &mut done[part.index];
            whole.text.push_str(&part.text);
            whole.finish_reason = part.finish_reason.or(whole.finish_reason);
            if let Some(mut more) = part.logprobs {
                let logprobs = whole.logprobs.get_or_insert_default();
                logprobs.text_offset.append(&mut more.text_offset);
                logprobs.token_logprobs.append(&mut more.token_logprobs);
                logprobs.tokens.append(&mut more.tokens);
                logprobs.top_logprobs.append(&mut more.top_logprobs);
            }
        }
        for (index, choice) in done.iter_mut().enumerate() {
            choice.index = index;
            if self.with_logprobs {
                choice.logprobs.get_or_insert_default();
            }
        }
        let usage = choices.usage();
        Ok(self.completion(done, Some(usage)))
    }

    /// A piece as a choice, the echoed prompt before its first text.
    fn choice(&mut self, piece: Piece) -> CompletionChoice {
        let progress = &mut self.progress[piece.index];
        let mut text = piece.text;
        if !progress.started {
            progress.started = true;
            if let Some(echo) = self.echoes.get(piece.index / self.n) {
                text.insert_str(0, echo);
            }
        }
        let logprobs = piece.logprobs.as_ref().map(|(token, logprobs)| {
            let logprobs = token_logprobs(&self.text, *token, logprobs, progress.offset);
            progress.offset += logprobs.tokens[0].chars().count();
            logprobs
        });
        CompletionChoice { index: piece.index, text, logprobs, finish_reason: piece.finish }
    }

    fn completion(&self, choices: Vec<CompletionChoice>, usage: Option<Usage>) -> Completion {
        Completion {
            id: self.id.clone(),
            object: "text_completion",
            created: self.created,
            model: self.model.clone(),
            choices,
            usage,
        }
    }
}

impl Wording for Answer {
    type Chunk = Completion;

    fn piece(&mut self, piece: Piece, usage: Option<Usage>) -> Vec<Completion> {
        let choice = self.choice(piece);
        vec![self.completion(vec![choice], usage)]
    }

    fn usage(&self, usage: Usage) -> Completion {
        self.completion(Vec::new(), Some(usage))
    }
}

/// The lists with one entry each.
fn token_logprobs(text: &Text, token: u32, logprobs: &Logprobs, offset: usize) -> CompletionLogprobs {
    let name = |token| text.token(token).1;
    let top = logprobs.top.iter().map(|(token, logprob)| (name(*token), wire_logprob(*logprob)));
    CompletionLogprobs {
        text_offset: vec![offset],
        token_logprobs: vec![wire_logprob(logprobs.chosen)],
        tokens: vec![name(token)],
        top_logprobs: vec![top.collect()],
    }
}
