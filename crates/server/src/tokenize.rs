//! `POST /tokenize` and `POST /detokenize`.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::Request;
use wharf_api::openai::{
    DetokenizeRequest, DetokenizeResponse, TokenizeInput, TokenizeRequest, TokenizeResponse,
};

use crate::body;
use crate::prepare::{check_model, check_tokens, on_worker, render_chat};
use crate::respond::{Failure, json};
use crate::state::App;

pub(crate) async fn tokenize(
    State(app): State<Arc<App>>,
    request: Request<Body>,
) -> Result<Response, Failure> {
    let body = body::read(request, &app.config).await?;
    let model = app.serving()?;
    let max_model_len = model.engine.max_model_len();
    let response = on_worker(&app, &model.text, {
        let app = Arc::clone(&app);
        move |text| {
            let request = TokenizeRequest::parse(&body)?;
            check_model(&app, request.model.as_deref())?;
            let prompt = match request.input {
                TokenizeInput::Text(prompt) => prompt,
                TokenizeInput::Chat { messages, template } => render_chat(text, messages, &template)?,
            };
            let tokens = text.encode(&prompt, request.add_special_tokens);
            let name = |token: &u32| text.token(*token).1;
            // A long text has a long list of tokens: it is written out here as well.
            Ok(json(&TokenizeResponse {
                count: tokens.len(),
                max_model_len,
                token_strs: request.return_token_strs.then(|| tokens.iter().map(name).collect()),
                tokens,
            }))
        }
    })
    .await?;
    Ok(response)
}

pub(crate) async fn detokenize(
    State(app): State<Arc<App>>,
    request: Request<Body>,
) -> Result<Response, Failure> {
    let body = body::read(request, &app.config).await?;
    let model = app.serving()?;
    let vocab_size = model.engine.vocab_size();
    let response = on_worker(&app, &model.text, {
        let app = Arc::clone(&app);
        move |text| {
            let request = DetokenizeRequest::parse(&body)?;
            check_model(&app, request.model.as_deref())?;
            check_tokens("tokens", &request.tokens, vocab_size)?;
            Ok(json(&DetokenizeResponse { prompt: text.decode(&request.tokens) }))
        }
    })
    .await?;
    Ok(response)
}
