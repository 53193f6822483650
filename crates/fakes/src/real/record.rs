//! Keeps what a client asks an API server for.

use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use http::{Request, Response};
use tower::{Layer, Service};

use crate::cluster::Call;
use crate::cluster::request::{Route, query};
use crate::cluster::serve::verb_of;
use crate::wire::lock;

/// Keeps the calls of a client under a name.
#[derive(Clone)]
pub(super) struct Recording {
    calls: Arc<Mutex<Vec<Call>>>,
    name: String,
}

impl Recording {
    pub(super) fn new(calls: Arc<Mutex<Vec<Call>>>, name: &str) -> Recording {
        Recording { calls, name: name.to_owned() }
    }

    /// Bodies are streams by now and are not kept.
    fn call<B>(&self, request: &Request<B>) -> Call {
        let uri = request.uri();
        let asked = query(uri.query().unwrap_or(""));
        let mut call = Call { path: uri.to_string(), user_agent: self.name.clone(), ..Call::default() };
        if let Route::Resource(place) = Route::parse(uri.path()) {
            let watches = asked.get("watch").is_some_and(|watch| watch == "true" || watch == "1");
            call.verb = verb_of(request.method(), place.name.is_empty(), watches);
            (call.group, call.plural, call.namespace) = (place.group, place.plural, place.namespace);
            (call.name, call.part) = (place.name, place.part);
        }
        call
    }
}

impl<S> Layer<S> for Recording {
    type Service = Recorded<S>;

    fn layer(&self, inner: S) -> Recorded<S> {
        Recorded { inner, recording: self.clone() }
    }
}

/// A client's way to the server.
#[derive(Clone)]
pub(super) struct Recorded<S> {
    inner: S,
    recording: Recording,
}

impl<S, A, B> Service<Request<A>> for Recorded<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: 'static,
    B: 'static,
{
    type Response = Response<B>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<B>, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let call = self.recording.call(&request);
        let calls = Arc::clone(&self.recording.calls);
        let answer = self.inner.call(request);
        Box::pin(async move {
            let number = {
                let mut calls = lock(&calls);
                calls.push(call);
                calls.len() - 1
            };
            let answer = answer.await?;
            if let Some(call) = lock(&calls).get_mut(number) {
                call.code = answer.status().as_u16();
            }
            Ok(answer)
        })
    }
}
