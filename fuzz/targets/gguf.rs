//! GGUF files: parsing must end in a directory within the file's bounds or in an error.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wharf_model::{ChatTemplate, Tokenizer, gguf};

fuzz_target!(|bytes: &[u8]| {
    let Ok(file) = gguf::parse(bytes) else { return };
    for tensor in &file.tensors {
        let end = tensor.offset.checked_add(tensor.len).expect("a parsed range does not overflow");
        assert!(end <= bytes.len(), "tensor {} ends outside the file", tensor.name);
    }
    if let Ok(tokenizer) = Tokenizer::from_gguf(&file.metadata) {
        let tokens = tokenizer.encode("Hello, wörld 123!\n\n  😀", Default::default());
        tokenizer.decode(&tokens, true);
    }
    // Most mutated templates do not parse; that is no find.
    let _ = ChatTemplate::from_gguf(&file.metadata);
});
