//! `tokenizer.json`: a tokenizer that was accepted must encode and decode any text.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wharf_model::tokenizer::StreamStart;
use wharf_model::{DecodeStream, EncodeOptions, Tokenizer};

const TEXT: &str = "Hello, wörld 123! <s>[INST] don't 你好 😀\r\n\t  x";

fuzz_target!(|bytes: &[u8]| {
    let Ok(tokenizer) = Tokenizer::from_hf(bytes, None) else { return };
    for parse_special in [false, true] {
        let tokens = tokenizer.encode(TEXT, EncodeOptions { add_special: true, parse_special });
        let whole = tokenizer.decode(&tokens, false);
        let mut stream = DecodeStream::new(&tokenizer, false, StreamStart::Text);
        let mut parts: String = tokens.iter().filter_map(|token| stream.push(*token)).collect();
        parts.extend(stream.flush());
        assert_eq!(parts, whole, "streaming and whole decoding differ");
    }
});
