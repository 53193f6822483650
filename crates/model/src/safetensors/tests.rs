//! Hostile and valid headers for the safetensors reader.

use super::*;

/// A file with this header and `data` bytes after it.
fn file(header: &str, data: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; data]].concat()
}

fn check(what: &str, bytes: &[u8], expected: &str) {
    let error = parse_header(bytes).expect_err(what);
    let text = match std::error::Error::source(&error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    assert!(text.contains(expected), "{what}: expected {expected:?} in {text:?}");
}

#[test]
fn entries_come_in_the_order_of_their_data() {
    let header = r#"{"__metadata__": {"format": "pt"},
        "b": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [0, 8]},
        "a": {"dtype": "I64", "shape": [], "data_offsets": [8, 16]}}"#;
    let entries = parse_header(&file(header, 16)).unwrap();
    assert_eq!(entries.iter().map(|entry| entry.name.as_str()).collect::<Vec<_>>(), ["b", "a"]);
    assert_eq!((entries[0].dtype.clone(), &entries[0].shape[..]), (Ok(DType::BF16), &[2, 2][..]));
    assert_eq!((entries[0].offset, entries[0].len), (8 + header.len(), 8));
    assert_eq!(entries[1].dtype, Err("I64".to_owned()));
}

#[test]
fn headers_that_lie_are_refused() {
    let one = |fields: &str, data| file(&format!(r#"{{"w": {{{fields}}}}}"#), data);
    check("empty", b"", "claims 0 bytes");
    check("short", &[1, 2, 3], "but the file has 3");
    check("2^64 - 1", &u64::MAX.to_le_bytes(), "claims 18446744073709551615 bytes");
    check("longer than the file", &[&100u64.to_le_bytes()[..], b"{}"].concat(), "claims 100 bytes");
    check("not JSON", &file("{", 0), "malformed");
    check("not an object", &file("[]", 0), "malformed");
    check("not UTF-8", &[&2u64.to_le_bytes()[..], b"\xff\xfe"].concat(), "malformed");
    check("data missing", &one(r#""dtype": "F32", "shape": [2], "data_offsets": [0, 8]"#, 7), "do not end");
    check("data left over", &one(r#""dtype": "F32", "shape": [2], "data_offsets": [0, 8]"#, 9), "do not end");
    check("wrong size", &one(r#""dtype": "F32", "shape": [3], "data_offsets": [0, 8]"#, 8), "malformed");
    check("backwards", &one(r#""dtype": "F32", "shape": [2], "data_offsets": [8, 0]"#, 8), "malformed");
    check("a hole", &one(r#""dtype": "F32", "shape": [2], "data_offsets": [8, 16]"#, 16), "malformed");
    check(
        "overflow",
        &one(r#""dtype": "F32", "shape": [4294967296, 4294967296, 2], "data_offsets": [0, 8]"#, 8),
        "malformed",
    );
    check("negative", &one(r#""dtype": "F32", "shape": [-2], "data_offsets": [0, 8]"#, 8), "malformed");
    check("unknown type", &one(r#""dtype": "F33", "shape": [2], "data_offsets": [0, 8]"#, 8), "malformed");
    let overlap = r#"{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
        "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}"#;
    check("overlap", &file(overlap, 12), "malformed");
    check("deep nesting", &file(&"[".repeat(100_000), 0), "malformed");
}

#[test]
fn an_index_names_files_of_its_folder_only() {
    let good = br#"{"metadata": {"total_size": 1}, "weight_map": {"a": "model-00001-of-00001.safetensors"}}"#;
    assert_eq!(parse_index(good).unwrap()["a"], "model-00001-of-00001.safetensors");
    for bad in [
        &br#"{"weight_map": {"a": "../x"}}"#[..],
        br#"{"weight_map": {"a": "/etc/passwd"}}"#,
        br#"{"weight_map": {"a": ".."}}"#,
        br#"{"weight_map": {"a": ""}}"#,
        br#"{"weight_map": {"a": 3}}"#,
        br#"{"weight_map": {}}"#,
        br#"{"weight_map": []}"#,
        b"{",
        b"",
    ] {
        assert!(parse_index(bad).is_err(), "{:?}", String::from_utf8_lossy(bad));
    }
}

proptest::proptest! {
    #[test]
    fn damaged_headers_never_panic(flips in proptest::collection::vec((0usize..160, proptest::num::u8::ANY), 1..8)) {
        let header = r#"{"a": {"dtype": "F32", "shape": [2, 1], "data_offsets": [0, 8]}, "b": {"dtype": "F16", "shape": [2], "data_offsets": [8, 12]}}"#;
        let mut bytes = file(header, 12);
        for (at, value) in flips {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        if let Ok(entries) = parse_header(&bytes) {
            for entry in entries {
                proptest::prop_assert!(entry.offset + entry.len <= bytes.len());
            }
        }
    }
}
