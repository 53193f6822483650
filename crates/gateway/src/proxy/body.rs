//! Reading a client's body within its time and its size: whole, or as much of a large one as says where it goes.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use tokio::time::{Instant, timeout};
use wharf_api::ApiError;

use crate::config::{GatewayConfig, seconds};
use crate::request::{Call, Reader};
use crate::upload::{Payload, Terms, Upload, broke_off, linger};

/// What a body may be, and what becomes of it.
pub(super) struct Wanted<'a> {
    content_type: &'a [u8],
    /// If the answer is a stream, it is asked what it took.
    asks_usage: bool,
    /// Bytes that it may have.
    limit: usize,
    /// Bytes after which it passes while it arrives, if by then it is known where it goes.
    kept: usize,
    time: Duration,
}

impl<'a> Wanted<'a> {
    pub(super) fn new(
        config: &GatewayConfig,
        method: &Method,
        content_type: &'a [u8],
        asks_usage: bool,
    ) -> Wanted<'a> {
        // Their bodies have a length or none: hyper sends none of which it does not know the length.
        let needs_length = [Method::GET, Method::HEAD, Method::CONNECT].contains(method);
        Wanted {
            content_type,
            asks_usage,
            limit: config.max_body_bytes,
            kept: if needs_length { usize::MAX } else { config.body_buffer_bytes },
            time: seconds(config.timeouts.body),
        }
    }
}

/// What the body asks for, and how it goes on.
pub(super) async fn read(mut body: Incoming, wanted: Wanted<'_>) -> Result<(Call, Payload), ApiError> {
    let Wanted { content_type, asks_usage, limit, kept, time } = wanted;
    let too_large = || ApiError::BodyTooLarge { limit: limit as u64 };
    let length = body.size_hint();
    if length.lower() > limit as u64 {
        return Err(too_large());
    }
    let started = Instant::now();
    let mut reader = Reader::new(content_type);
    let arrives = async {
        while let Some(frame) = body.frame().await {
            if let Ok(piece) = frame.map_err(|_| broke_off())?.into_data() {
                reader.push(piece);
                if reader.len() > limit {
                    return Err(too_large());
                }
                if reader.len() > kept && reader.is_known() && !body.is_end_stream() {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    };
    let is_large =
        timeout(time, arrives).await.map_err(|_| ApiError::BodyTimeout { seconds: time.as_secs() })??;
    if !is_large {
        let call = reader.finish()?;
        let body = if asks_usage { call.body_with_usage() } else { call.body() };
        return Ok((call, Payload::Whole(body)));
    }
    let received = reader.len();
    let begun = reader.begin(length.exact()).and_then(|(call, mut rest)| {
        if asks_usage {
            rest.ask_usage();
        }
        Ok((call, rest.pass()?, rest))
    });
    match begun {
        Ok((call, beginning, rest)) => {
            let terms = Terms { limit, time, left: time.saturating_sub(started.elapsed()) };
            let upload = Upload::new(body, rest, beginning, received, terms);
            Ok((call, Payload::Passing(Arc::new(upload))))
        }
        Err(error) => {
            linger(body);
            Err(error)
        }
    }
}
