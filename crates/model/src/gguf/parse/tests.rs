//! Hostile and valid bytes for the GGUF parser.

use wharf_testkit::gguf::{Builder, Tensor, Value as Put};

use super::*;

fn tensor(name: &str, dims: &[u64], type_id: u32, len: usize) -> Tensor {
    Tensor { name: name.to_owned(), dims: dims.to_vec(), type_id, data: vec![0; len] }
}

fn with_key(value: Put) -> Vec<u8> {
    let mut file = Builder::default();
    file.set("k", value);
    file.bytes()
}

fn with_tensors(tensors: &[Tensor]) -> Vec<u8> {
    Builder { tensors: tensors.to_vec(), ..Builder::default() }.bytes()
}

/// Array value: element type, length, elements.
fn array(element_type: u32, len: u64, elements: &[u8]) -> Put {
    let head = [&element_type.to_le_bytes()[..], &len.to_le_bytes()].concat();
    Put::Raw(9, [&head, elements].concat())
}

fn check(what: &str, bytes: &[u8], expected: &[&str]) {
    let error = parse(bytes).expect_err(what).to_string();
    for part in expected {
        assert!(error.contains(part), "{what}: expected {part:?} in {error:?}");
    }
}

#[test]
fn every_value_type_is_read() {
    let cases = [
        (Put::U8(200), Value::U64(200)),
        (Put::Raw(1, vec![0xff]), Value::I64(-1)),
        (Put::U16(65_535), Value::U64(65_535)),
        (Put::Raw(3, vec![0xfe, 0xff]), Value::I64(-2)),
        (Put::U32(7), Value::U64(7)),
        (Put::I32(-7), Value::I64(-7)),
        (Put::F32(0.5), Value::F64(0.5)),
        (Put::Bool(true), Value::Bool(true)),
        (Put::Str("é".into()), Value::Str("é".into())),
        (Put::U64(u64::MAX), Value::U64(u64::MAX)),
        (Put::Raw(11, i64::MIN.to_le_bytes().to_vec()), Value::I64(i64::MIN)),
        (Put::Raw(12, 0.25f64.to_le_bytes().to_vec()), Value::F64(0.25)),
        (
            Put::Strs(vec!["a".into(), String::new()]),
            Value::Array(Array::Str(vec!["a".into(), String::new()])),
        ),
        (Put::I32s(vec![-1, 2]), Value::Array(Array::I64(vec![-1, 2]))),
        (Put::F32s(vec![1.5]), Value::Array(Array::F32(vec![1.5]))),
        (array(0, 2, &[1, 255]), Value::Array(Array::U64(vec![1, 255]))),
        (array(1, 1, &[255]), Value::Array(Array::I64(vec![-1]))),
        (array(2, 1, &[1, 1]), Value::Array(Array::U64(vec![257]))),
        (array(3, 1, &[255, 255]), Value::Array(Array::I64(vec![-1]))),
        (array(4, 1, &[1, 0, 0, 0]), Value::Array(Array::U64(vec![1]))),
        (array(7, 2, &[0, 1]), Value::Array(Array::Bool(vec![false, true]))),
        (array(10, 1, &9u64.to_le_bytes()), Value::Array(Array::U64(vec![9]))),
        (array(11, 1, &(-9i64).to_le_bytes()), Value::Array(Array::I64(vec![-9]))),
        (array(12, 1, &0.5f64.to_le_bytes()), Value::Array(Array::F64(vec![0.5]))),
        (array(4, 0, &[]), Value::Array(Array::U64(vec![]))),
    ];
    for (put, expected) in cases {
        let parsed = parse(&with_key(put.clone())).unwrap_or_else(|error| panic!("{put:?}: {error}"));
        assert_eq!(parsed.metadata.get("k"), Some(&expected), "{put:?}");
    }
}

#[test]
fn tensors_are_located_by_the_alignment_of_the_file() {
    for alignment in [32, 64, 8] {
        let tensors =
            vec![tensor("a", &[3], 0, 12), tensor("b", &[64, 2], 2, 72), tensor("c", &[1, 1, 1, 1], 1, 2)];
        let bytes = Builder { alignment, tensors, ..Builder::default() }.bytes();
        let parsed = parse(&bytes).unwrap();
        assert_eq!(parsed.alignment, alignment);
        let b = &parsed.tensors[1];
        assert_eq!((b.name.as_str(), b.dtype, &b.shape[..], b.len), ("b", DType::Q4_0, &[2, 64][..], 72));
        assert!(b.offset.is_multiple_of(alignment) && b.offset + b.len <= bytes.len());
        assert_eq!(parsed.tensors[2].shape, [1, 1, 1, 1]);
    }
}

#[test]
fn version_2_has_the_same_layout() {
    let bytes = Builder { version: 2, ..Builder::default() }.bytes();
    assert_eq!(parse(&bytes).unwrap().version, 2);
}

#[test]
fn files_of_another_kind_are_refused() {
    check("empty", b"", &["not a GGUF file"]);
    check("too short", b"GG", &["not a GGUF file", "[47, 47]"]);
    check("zip", b"PK\x03\x04", &["not a GGUF file", "[50, 4b, 03, 04]"]);
    check("version 1", &Builder { version: 1, ..Builder::default() }.bytes(), &["version 1", "convert"]);
    check("version 4", &Builder { version: 4, ..Builder::default() }.bytes(), &["version 4"]);
    check(
        "big-endian",
        &Builder { version: 3u32.swap_bytes(), ..Builder::default() }.bytes(),
        &["big-endian"],
    );
}

#[test]
fn counts_near_the_end_of_the_number_line_are_truncations() {
    let header = |tensors: u64, keys: u64| {
        [&b"GGUF\x03\0\0\0"[..], &tensors.to_le_bytes(), &keys.to_le_bytes()].concat()
    };
    for huge in [u64::MAX, u64::MAX - 7, 1 << 63, 1 << 32] {
        check("tensors", &header(huge, 0), &["ends at byte 24", "tensor 0 of"]);
        check("keys", &header(0, huge), &["ends at byte 24", "key 0 of"]);
        check("string", &with_key(Put::Raw(8, huge.to_le_bytes().to_vec())), &["\"k\"", &huge.to_string()]);
        for element_type in [0, 4, 8, 12] {
            check("array", &with_key(array(element_type, huge, &[])), &["the array \"k\"", "ends at byte"]);
        }
    }
}

#[test]
fn an_array_is_bounded_even_when_the_file_holds_it() {
    let elements = vec![0; MAX_ARRAY_ELEMENTS + 1];
    check("many bytes", &with_key(array(0, elements.len() as u64, &elements)), &["more than", "\"k\""]);
    let fits = with_key(array(0, MAX_ARRAY_ELEMENTS as u64, &elements[1..]));
    assert!(parse(&fits).is_ok());
}

#[test]
fn metadata_that_makes_no_sense_is_refused() {
    check("value type", &with_key(Put::Raw(13, vec![0; 16])), &["\"k\"", "value type 13", "byte 33"]);
    check("element type", &with_key(array(13, 1, &[0; 8])), &["\"k\"", "value type 13"]);
    check("nested", &with_key(array(9, 1, &[0; 12])), &["\"k\"", "array of arrays"]);
    check("boolean", &with_key(Put::Raw(7, vec![2])), &["\"k\"", "boolean 2"]);
    check("booleans", &with_key(array(7, 2, &[1, 3])), &["\"k\"", "boolean 3"]);
    check(
        "text",
        &with_key(Put::Raw(8, [&2u64.to_le_bytes()[..], b"\xff\xfe"].concat())),
        &["\"k\"", "not UTF-8"],
    );
    let mut twice = Builder::default();
    twice.set("k", Put::U8(1)).set("k", Put::U8(1));
    check("twice", &twice.bytes(), &["\"k\"", "twice"]);
    for (alignment, found) in [
        (Put::U32(0), "0"),
        (Put::U32(33), "33"),
        (Put::U32(1 << 21), "2097152"),
        (Put::I32(32), "not an unsigned"),
    ] {
        let mut file = Builder::default();
        file.set("general.alignment", alignment);
        check("alignment", &file.bytes(), &["general.alignment", found]);
    }
}

#[test]
fn tensors_that_make_no_sense_are_refused() {
    let one = |dims: &[u64], type_id, len| with_tensors(&[tensor("w", dims, type_id, len)]);
    check("no dimensions", &one(&[], 0, 4), &["\"w\"", "0 dimensions"]);
    check("five dimensions", &one(&[1; 5], 0, 4), &["\"w\"", "5 dimensions"]);
    check("IQ4_XS", &one(&[256], 23, 136), &["\"w\"", "23 (IQ4_XS)", "Q4_K"]);
    check("type 99", &one(&[1], 99, 4), &["\"w\"", "99 (unknown)"]);
    check("no elements", &one(&[4, 0], 0, 0), &["\"w\"", "[4, 0]", "impossible"]);
    check("half a block", &one(&[48], 2, 27), &["\"w\"", "[48]", "Q4_0"]);
    check("overflow", &one(&[1 << 40, 1 << 40], 0, 4), &["\"w\"", "impossible"]);
    check("wrapping to little", &one(&[1 << 62, 4], 0, 4), &["\"w\"", "impossible"]);
    check("beyond the end", &one(&[1 << 20], 0, 4), &["\"w\"", "but the file has"]);
    check("twice", &with_tensors(&[tensor("w", &[8], 0, 32), tensor("w", &[8], 0, 32)]), &["\"w\"", "twice"]);
}

/// A file with two tensors whose stored offsets are replaced.
fn with_offsets(offsets: [u64; 2]) -> Vec<u8> {
    let mut bytes = with_tensors(&[tensor("a", &[8], 0, 32), tensor("b", &[8], 0, 32)]);
    // Name (8 + 1), dimension count (4), one dimension (8), type (4), then the offset.
    let entry = 9 + 4 + 8 + 4;
    for (n, offset) in offsets.into_iter().enumerate() {
        let at = 24 + n * (entry + 8) + entry;
        bytes[at..at + 8].copy_from_slice(&offset.to_le_bytes());
    }
    bytes
}

#[test]
fn offsets_are_checked_against_file_alignment_and_each_other() {
    assert!(parse(&with_offsets([0, 32])).is_ok());
    assert!(parse(&with_offsets([32, 0])).is_ok(), "order in the file is free");
    check("overlap", &with_offsets([0, 0]), &["\"a\"", "\"b\"", "overlap"]);
    check("unaligned", &with_offsets([0, 33]), &["\"b\"", "33", "alignment 32"]);
    check("outside", &with_offsets([0, 64]), &["\"b\"", "but the file has"]);
    for huge in [u64::MAX - 31, 1 << 63] {
        check("near the end of the number line", &with_offsets([0, huge]), &["\"b\"", "but the file has"]);
    }
}

proptest::proptest! {
    #[test]
    fn damaged_files_never_panic(flips in proptest::collection::vec((0usize..4096, proptest::num::u8::ANY), 1..12)) {
        let mut bytes = wharf_testkit::TinyModel { n_layers: 1, ..Default::default() }.build().bytes();
        for (at, value) in flips {
            bytes[at] = value;
        }
        if let Ok(parsed) = parse(&bytes) {
            for tensor in parsed.tensors {
                proptest::prop_assert!(tensor.offset + tensor.len <= bytes.len());
            }
        }
    }
}
