//! `POST /v1/chat/completions`.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::Request;
use wharf_api::ApiError;
use wharf_api::openai::{
    ChatChoice, ChatChunk, ChatChunkChoice, ChatCompletion, ChatLogprobs, ChatRequest, Delta,
    ResponseMessage, TokenLogprob, TopLogprob, Usage, wire_logprob,
};
use wharf_engine::Logprobs;
use wharf_model::tokenizer::StreamStart;

use crate::body;
use crate::choices::{Choices, Job, Piece};
use crate::ids::new_id;
use crate::middleware::Followed;
use crate::prepare::{check_model, fit_max_tokens, on_worker, plan, render_chat};
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
    let (request, prompt) = on_worker(&app, &model.text, {
        let app = Arc::clone(&app);
        move |text| {
            let mut request = ChatRequest::parse(&body)?;
            check_model(&app, request.generation.model.as_deref())?;
            let messages = std::mem::take(&mut request.messages);
            let prompt = render_chat(text, messages, &request.template)?;
            // The template has written every special token that the model wants.
            let tokens = text.encode(&prompt, false);
            Ok((request, tokens))
        }
    })
    .await?;
    if prompt.is_empty() {
        return Err(ApiError::invalid("messages", "the messages have no tokens").into());
    }
    let generation = request.generation;
    let max_model_len = model.engine.max_model_len();
    let max_tokens = fit_max_tokens(
        generation.max_tokens,
        app.config.max_tokens,
        prompt.len(),
        max_model_len,
        "messages",
    )?;
    let job = Job {
        prompts: vec![(prompt, max_tokens)],
        n: generation.n,
        plan: plan(&app.config, model, &generation)?,
        logprobs: request.logprobs,
        stop: generation.stop,
        include_stop: generation.include_stop_str_in_output,
        skip_special: generation.skip_special_tokens,
        start: StreamStart::Text,
        param: "messages",
        streams: generation.stream.is_some(),
        arrived,
        followed,
    };
    let choices = Choices::submit(&app, &model.engine, &model.text, job)?;
    let answer = Answer {
        id: new_id("chatcmpl-"),
        created: unix_seconds(),
        model: app.model_name.clone(),
        text: Arc::clone(&model.text),
        with_logprobs: request.logprobs.is_some(),
        greeted: HashSet::new(),
    };
    let response = match generation.stream {
        Some(options) => stream::response(choices, answer, options),
        None => json(&answer.whole(choices, generation.n).await?),
    };
    Ok(until_written(response, in_flight))
}

/// What all chunks of an answer have in common.
struct Answer {
    id: String,
    created: u64,
    model: String,
    text: Arc<Text>,
    with_logprobs: bool,
    /// Choices whose role has been sent.
    greeted: HashSet<usize>,
}

impl Answer {
    async fn whole(self, mut choices: Choices, n: usize) -> Result<ChatCompletion, ApiError> {
        let mut done: Vec<(String, ChatLogprobs, &'static str)> = vec![Default::default(); n];
        while let Some(piece) = choices.next().await {
            let piece = piece?;
            let (text, logprobs, finish) = &mut done[piece.index];
            text.push_str(&piece.text);
            if let Some((token, of_token)) = &piece.logprobs {
                logprobs.content.push(token_logprob(&self.text, *token, of_token));
            }
            *finish = piece.finish.unwrap_or(finish);
        }
        let choice = |(index, (content, logprobs, finish_reason))| ChatChoice {
            index,
            message: ResponseMessage { role: "assistant", content },
            logprobs: self.with_logprobs.then_some(logprobs),
            finish_reason,
        };
        Ok(ChatCompletion {
            choices: done.into_iter().enumerate().map(choice).collect(),
            id: self.id,
            object: "chat.completion",
            created: self.created,
            model: self.model,
            usage: choices.usage(),
        })
    }

    fn chunk(&self, choices: Vec<ChatChunkChoice>, usage: Option<Usage>) -> ChatChunk {
        ChatChunk {
            id: self.id.clone(),
            object: "chat.completion.chunk",
            created: self.created,
            model: self.model.clone(),
            choices,
            usage,
        }
    }
}

impl Wording for Answer {
    type Chunk = ChatChunk;

    fn piece(&mut self, piece: Piece, usage: Option<Usage>) -> Vec<ChatChunk> {
        let mut chunks = Vec::new();
        let index = piece.index;
        if self.greeted.insert(index) {
            let delta = Delta { role: Some("assistant"), content: Some(String::new()) };
            let choice = ChatChunkChoice { index, delta, logprobs: None, finish_reason: None };
            chunks.push(self.chunk(vec![choice], usage));
        }
        let logprobs = piece.logprobs.as_ref().map(|(token, logprobs)| ChatLogprobs {
            content: vec![token_logprob(&self.text, *token, logprobs)],
        });
        let content = (!piece.text.is_empty() || logprobs.is_some()).then_some(piece.text);
        let delta = Delta { role: None, content };
        let choice = ChatChunkChoice { index, delta, logprobs, finish_reason: piece.finish };
        chunks.push(self.chunk(vec![choice], usage));
        chunks
    }

    fn usage(&self, usage: Usage) -> ChatChunk {
        self.chunk(Vec::new(), Some(usage))
    }
}

fn token_logprob(text: &Text, token: u32, logprobs: &Logprobs) -> TokenLogprob {
    let one = |token: u32, logprob: f32| {
        let (bytes, token) = text.token(token);
        TopLogprob { token, logprob: wire_logprob(logprob), bytes }
    };
    TokenLogprob {
        chosen: one(token, logprobs.chosen),
        top_logprobs: logprobs.top.iter().map(|(token, logprob)| one(*token, *logprob)).collect(),
    }
}
