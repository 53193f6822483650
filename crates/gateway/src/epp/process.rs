//! The gRPC service: a task for each stream, which ends when Envoy or we have said the last word.

use std::sync::Arc;

use envoy_types::pb::envoy::service::ext_proc::v3::external_processor_server::ExternalProcessor;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_response::Response as Reply;
use envoy_types::pb::envoy::service::ext_proc::v3::{ProcessingRequest, ProcessingResponse};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::conversation::Conversation;
use super::pick::Picker;

/// Replies that wait for Envoy to read.
const REPLIES: usize = 16;

/// Answers Envoy.
pub(super) struct Processor(pub(super) Arc<Picker>);

#[tonic::async_trait]
impl ExternalProcessor for Processor {
    type ProcessStream = ReceiverStream<Result<ProcessingResponse, Status>>;

    async fn process(
        &self,
        request: Request<Streaming<ProcessingRequest>>,
    ) -> Result<Response<Self::ProcessStream>, Status> {
        let (replies, receiver) = mpsc::channel(REPLIES);
        let conversation = Conversation::new(&self.0);
        tokio::spawn(converse(conversation, request.into_inner(), replies));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

/// Listens and replies until the stream ends, however it ends; what the request held is released then.
async fn converse(
    mut conversation: Conversation,
    mut messages: Streaming<ProcessingRequest>,
    replies: mpsc::Sender<Result<ProcessingResponse, Status>>,
) {
    loop {
        let message = tokio::select! {
            message = messages.message() => message,
            // Envoy has reset the stream.
            () = replies.closed() => return conversation.broken_off(),
        };
        let said = match message {
            Ok(Some(message)) => conversation.hear(message),
            Ok(None) => return conversation.closed(),
            Err(status) => {
                tracing::debug!(%status, "an ext-proc stream broke off");
                return conversation.broken_off();
            }
        };
        match said {
            Ok(said) => {
                for reply in said {
                    let last = matches!(reply.response, Some(Reply::ImmediateResponse(_)));
                    if replies.send(Ok(reply)).await.is_err() || last {
                        return conversation.broken_off();
                    }
                }
            }
            Err(status) => {
                tracing::warn!(%status, "an ext-proc stream cannot be served");
                // The stream may be gone, which comes to the same.
                let _ = replies.send(Err(status)).await;
                return;
            }
        }
    }
}
