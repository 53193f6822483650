//! What fuzzing sees of this crate: how the body of a request is read, which nobody else has to know.

use bytes::Bytes;

use crate::request::Reader;

/// What a request's body asks for, and what an endpoint is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadBody {
    /// The model's name; empty where there is none.
    pub model: String,
    /// It wants server-sent events.
    pub stream: bool,
    /// The client wants to know what a stream took.
    pub wants_usage: bool,
    /// Tokens that the answers may have together.
    pub longest: Option<u64>,
    /// Hashes of the session's name and of the prompt's blocks.
    pub hashes: (Option<u64>, Vec<u64>),
    /// The body as it is passed on.
    pub body: Vec<u8>,
    /// The same, asking for the usage of a stream.
    pub body_with_usage: Vec<u8>,
}

/// Reads a body that arrives in pieces.
///
/// # Errors
/// What the client is told.
pub fn read_body<'a>(
    content_type: &[u8],
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> Result<ReadBody, String> {
    let mut reader = Reader::new(content_type);
    pieces.into_iter().for_each(|piece| reader.push(Bytes::copy_from_slice(piece)));
    let call = reader.finish().map_err(|error| error.to_string())?;
    let [body, body_with_usage] =
        [call.body(), call.body_with_usage()].map(|chunks| chunks.get(0..chunks.len()).to_vec());
    Ok(ReadBody {
        model: call.model,
        stream: call.stream,
        wants_usage: call.wants_usage,
        longest: call.longest,
        hashes: (call.session, call.prompt.blocks),
        body,
        body_with_usage,
    })
}
