//! gRPC for services of a few calls, answered like any other request (gRPC over HTTP/2). Which call it is, its path says.

use std::future::Future;

use hyper::body::Incoming;
use tonic::body::Body;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

/// What a server gets.
pub type Asked = http::Request<Incoming>;
/// What it gives.
pub type Answered = http::Response<Body>;

/// Answers a call with one answer.
pub async fn answer<Q, A, F>(asked: Asked, answer: impl FnOnce(Q) -> F + Send) -> Answered
where
    Q: prost::Message + Default + 'static,
    A: prost::Message + 'static,
    F: Future<Output = Result<A, Status>> + Send,
{
    // tonic wants to be able to call it again, and never does.
    let mut answer = Some(answer);
    let service = tower::service_fn(move |request: Request<Q>| {
        let answering = answer.take().map(|answer| answer(request.into_inner()));
        async move {
            match answering {
                Some(answering) => Ok(Response::new(answering.await?)),
                None => Err(Status::internal("a call was answered before")),
            }
        }
    });
    tonic::server::Grpc::new(ProstCodec::<A, Q>::default()).unary(service, asked).await
}

/// Answers a call with many answers.
pub async fn stream<Q, A, S>(asked: Asked, answers: impl FnOnce(Q) -> S + Send) -> Answered
where
    Q: prost::Message + Default + 'static,
    A: prost::Message + 'static,
    S: tokio_stream::Stream<Item = Result<A, Status>> + Send + 'static,
{
    let mut answers = Some(answers);
    let service = tower::service_fn(move |request: Request<Q>| {
        let stream = answers.take().map(|answers| answers(request.into_inner()));
        std::future::ready(match stream {
            Some(stream) => Ok(Response::new(stream)),
            None => Err(Status::internal("a call was answered before")),
        })
    });
    tonic::server::Grpc::new(ProstCodec::<A, Q>::default()).server_streaming(service, asked).await
}

/// Answers that there is no such call.
pub fn unknown() -> Answered {
    Status::unimplemented("there is no such call").into_http()
}
