//! Safetensors headers and their index: ranges must lie within the file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wharf_model::safetensors;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(entries) = safetensors::parse_header(bytes) {
        for entry in entries {
            let end = entry.offset.checked_add(entry.len).expect("a parsed range does not overflow");
            assert!(end <= bytes.len(), "tensor {} ends outside the file", entry.name);
        }
    }
    // An index is other JSON in the same bytes; errors are the usual end.
    let _ = safetensors::parse_index(bytes);
});
