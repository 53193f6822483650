//! Request bodies of the API.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wharf_api::openai::{ChatRequest, CompletionRequest, DetokenizeRequest, TokenizeRequest};

fuzz_target!(|bytes: &[u8]| {
    // Each either parses or is an error for the client; the same bytes serve all four.
    let _ = ChatRequest::parse(bytes);
    let _ = CompletionRequest::parse(bytes);
    let _ = TokenizeRequest::parse(bytes);
    let _ = DetokenizeRequest::parse(bytes);
});
