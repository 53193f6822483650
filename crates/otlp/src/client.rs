//! The HTTP client of the exporter. The SDK's thread has no asynchronous runtime and waits; the requests run on one of their own.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use opentelemetry_http::{HttpClient, HttpError};
use reqwest::redirect::Policy;
use tokio::runtime::Runtime;
use wharf_telemetry::log::chain;

use crate::StartError;

/// A collector's answer says little; one that is longer is none of a collector.
const LONGEST_ANSWER: usize = 1 << 20;

pub(super) struct Client {
    /// There until it is dropped.
    runtime: Option<Runtime>,
    client: reqwest::Client,
    /// The last batch did not arrive: the log has been told.
    is_failing: AtomicBool,
}

impl Client {
    pub(super) fn new(timeout: Duration) -> Result<Client, StartError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("traces")
            .enable_all()
            .build()
            .map_err(StartError::Runtime)?;
        let client = reqwest::Client::builder()
            .timeout(timeout)
            .redirect(Policy::none())
            .build()
            .map_err(StartError::Client)?;
        Ok(Client { runtime: Some(runtime), client, is_failing: AtomicBool::new(false) })
    }

    /// Tells the log when it begins to fail and when it works again, and not for each batch.
    fn tell(&self, failure: Option<String>) {
        let was_failing = self.is_failing.swap(failure.is_some(), Ordering::Relaxed);
        match failure {
            Some(error) if !was_failing => {
                tracing::warn!(error, "failed to send traces; they are dropped until it works again")
            }
            Some(error) => tracing::debug!(error, "failed to send traces"),
            None if was_failing => tracing::info!("traces are sent again"),
            None => {}
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let Some(runtime) = &self.runtime else { return Err("the client has ended".into()) };
        let sending = runtime.spawn(send(self.client.clone(), request));
        let sent = sending.await.map_err(HttpError::from).and_then(|sent| sent);
        self.tell(match &sent {
            Ok(response) if response.status().is_success() => None,
            Ok(response) => Some(format!("the collector answered {}", response.status())),
            Err(error) => Some(chain(error.as_ref())),
        });
        sent
    }
}

async fn send(client: reqwest::Client, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
    let mut response = client.execute(request.try_into()?).await?;
    let mut head = Response::builder().status(response.status());
    if let Some(headers) = head.headers_mut() {
        headers.clone_from(response.headers());
    }
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await? {
        body.extend_from_slice(&piece);
        if body.len() > LONGEST_ANSWER {
            return Err("the collector's answer is too long".into());
        }
    }
    Ok(head.body(body.into())?)
}

impl Drop for Client {
    fn drop(&mut self) {
        // Whoever drops it may be asynchronous itself and must not wait.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
