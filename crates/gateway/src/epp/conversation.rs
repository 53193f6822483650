//! One stream: what Envoy says of one request, in order, and what it is told.
//!
//! Bodies are expected in mode `FULL_DUPLEX_STREAMED`: Envoy sends the request's headers and body without waiting, and passes on only what it
//! is sent back. So nothing is said until the body has ended, since only then the prompt is known; then come the headers with the destination
//! and the whole body. Of the answer every piece goes back as it came.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::Metadata;
use envoy_types::pb::envoy::extensions::filters::http::ext_proc::v3::processing_mode::BodySendMode;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_request::Request;
use envoy_types::pb::envoy::service::ext_proc::v3::{
    HttpBody, HttpHeaders, ProcessingRequest, ProcessingResponse, ProtocolConfiguration,
};
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use tonic::Status;
use wharf_api::ApiError;
use wharf_telemetry::metrics::gateway as table;

use super::answering::Answering;
use super::pick::{Picked, Picker};
use super::wire::{self, Ends};
use crate::request::{Call, Reader};
use crate::serve::Running;

/// What has been heard so far.
pub(super) struct Conversation {
    picker: Arc<Picker>,
    started: Instant,
    phase: Phase,
    /// Whether the answer's body will be shown.
    shows_answer: bool,
    _running: Running,
}

enum Phase {
    /// Nothing.
    Fresh,
    /// The request's head; its body arrives.
    Asking(Box<Asking>),
    /// The request; its answer is awaited or passes.
    Answering(Box<Answering>),
    /// All that matters: what comes now passes.
    Over,
}

struct Asking {
    headers: HeaderMap,
    subset: Option<Vec<String>>,
    reader: Reader,
}

impl Conversation {
    pub(super) fn new(picker: &Arc<Picker>) -> Conversation {
        Conversation {
            picker: Arc::clone(picker),
            started: Instant::now(),
            phase: Phase::Fresh,
            shows_answer: true,
            _running: Running::new(&picker.shared),
        }
    }

    /// What to say to this.
    pub(super) fn hear(&mut self, message: ProcessingRequest) -> Result<Vec<ProcessingResponse>, Status> {
        let ProcessingRequest { request, metadata_context, protocol_config, .. } = message;
        if let Some(modes) = protocol_config {
            self.check(modes)?;
        }
        let metadata = metadata_context.as_ref();
        match request {
            Some(Request::RequestHeaders(head)) => Ok(self.request_head(head, metadata)),
            Some(Request::RequestBody(body)) => Ok(self.request_piece(body)),
            Some(Request::RequestTrailers(_)) => Ok(self.request_trailers()),
            Some(Request::ResponseHeaders(head)) => Ok(self.response_head(&head, metadata)),
            Some(Request::ResponseBody(body)) => Ok(self.response_piece(&body)),
            Some(Request::ResponseTrailers(_)) => {
                self.answered();
                Ok(vec![wire::response_trailers()])
            }
            // A kind of message that is newer than this program needs no reply from it.
            None => Ok(Vec::new()),
        }
    }

    /// Envoy has closed the stream: it has nothing more to show.
    pub(super) fn closed(mut self) {
        if !self.shows_answer {
            self.answered();
        }
        self.broken_off();
    }

    /// The stream is gone, whatever the phase: nothing stays in flight.
    pub(super) fn broken_off(self) {
        if let Phase::Answering(answering) = self.phase {
            answering.cut();
        }
    }

    fn check(&mut self, modes: ProtocolConfiguration) -> Result<(), Status> {
        let ProtocolConfiguration { request_body_mode, response_body_mode, .. } = modes;
        let good = |mode: i32| mode == BodySendMode::FullDuplexStreamed as i32;
        self.shows_answer = response_body_mode != BodySendMode::None as i32;
        if !good(request_body_mode) || (self.shows_answer && !good(response_body_mode)) {
            return Err(Status::failed_precondition(
                "the ext_proc filter must send bodies in mode FULL_DUPLEX_STREAMED (response bodies may be NONE)",
            ));
        }
        Ok(())
    }

    fn request_head(&mut self, head: HttpHeaders, metadata: Option<&Metadata>) -> Vec<ProcessingResponse> {
        let headers = wire::headers(head.headers.as_ref());
        let content_type = headers.get(CONTENT_TYPE).map_or(&b""[..], |value| value.as_bytes());
        let reader = Reader::new(content_type);
        let asking = Asking { subset: wire::subset(metadata), reader, headers };
        if head.end_of_stream {
            return self.pick(asking, None);
        }
        self.phase = Phase::Asking(Box::new(asking));
        Vec::new()
    }

    fn request_piece(&mut self, HttpBody { body, end_of_stream, .. }: HttpBody) -> Vec<ProcessingResponse> {
        let Phase::Asking(mut asking) = std::mem::replace(&mut self.phase, Phase::Over) else {
            let ends = if end_of_stream { Ends::Here } else { Ends::Later };
            return wire::request_body(&body, ends).collect();
        };
        asking.reader.push(Bytes::from(body));
        let limit = self.picker.shared.config.max_body_bytes;
        if asking.reader.len() > limit {
            return self.refuse(&ApiError::BodyTooLarge { limit: limit as u64 });
        }
        if end_of_stream {
            return self.pick(*asking, Some(Ends::Here));
        }
        self.phase = Phase::Asking(asking);
        Vec::new()
    }

    fn request_trailers(&mut self) -> Vec<ProcessingResponse> {
        let mut replies = match std::mem::replace(&mut self.phase, Phase::Over) {
            Phase::Asking(asking) => self.pick(*asking, Some(Ends::Later)),
            phase => {
                self.phase = phase;
                Vec::new()
            }
        };
        if !matches!(self.phase, Phase::Over) || replies.is_empty() {
            replies.push(wire::request_trailers());
        }
        replies
    }

    /// The whole request is here. `body`: how its body has ended, if it has one.
    fn pick(&mut self, asking: Asking, body: Option<Ends>) -> Vec<ProcessingResponse> {
        let Asking { headers, subset, reader } = asking;
        let picked = reader.finish().and_then(|call| {
            let picked = self.picker.pick(&headers, subset.as_deref(), &call, self.started)?;
            Ok((picked, call))
        });
        let (Picked { endpoints, in_flight, exchange }, call) = match picked {
            Ok(picked) => picked,
            Err(error) => return self.refuse(&error),
        };
        self.phase = Phase::Answering(Box::new(Answering::new(in_flight, exchange)));
        let mut replies = vec![wire::destination(&endpoints, &headers)];
        replies.extend(body.into_iter().flat_map(|ends| whole(&call, ends)));
        replies
    }

    fn refuse(&mut self, error: &ApiError) -> Vec<ProcessingResponse> {
        self.phase = Phase::Over;
        self.picker.shared.metrics.add(&table::REFUSED, &[error.code().unwrap_or("other")], 1.0);
        vec![wire::refusal(error)]
    }

    fn response_head(&mut self, head: &HttpHeaders, metadata: Option<&Metadata>) -> Vec<ProcessingResponse> {
        self.phase = match std::mem::replace(&mut self.phase, Phase::Over) {
            Phase::Answering(answering) => {
                Phase::Answering(Box::new(answering.head(head.headers.as_ref(), metadata)))
            }
            // Somebody before the endpoint has answered, before the request was whole.
            Phase::Fresh | Phase::Asking(_) | Phase::Over => Phase::Over,
        };
        if head.end_of_stream {
            self.answered();
        }
        vec![wire::response_headers()]
    }

    fn response_piece(&mut self, HttpBody { body, end_of_stream, .. }: &HttpBody) -> Vec<ProcessingResponse> {
        if let Phase::Answering(answering) = &mut self.phase {
            answering.piece(body);
        }
        if *end_of_stream {
            self.answered();
        }
        let ends = if *end_of_stream { Ends::Here } else { Ends::Later };
        wire::response_body(body, ends).collect()
    }

    fn answered(&mut self) {
        if let Phase::Answering(answering) = std::mem::replace(&mut self.phase, Phase::Over) {
            answering.end();
        }
    }
}

/// The whole body, in pieces as large as they may be.
fn whole(call: &Call, ends: Ends) -> Vec<ProcessingResponse> {
    let body = call.body();
    wire::request_body(&body.get(0..body.len()), ends).collect()
}
