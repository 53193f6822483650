//! What the texts mean, and which are refused.

use super::*;

#[test]
fn quantities_are_those_of_kubernetes() {
    for (text, units) in [
        ("8", 8),
        ("500m", 1),
        ("32Gi", 32 << 30),
        ("1.5Gi", 3 << 29),
        ("2k", 2000),
        ("1M", 1_000_000),
        ("0", 0),
    ] {
        assert_eq!(Quantity::parse(text).unwrap().units(), units, "{text}");
    }
    assert_eq!(Quantity::parse("1000m").unwrap(), Quantity::parse("1").unwrap());
    for text in ["", "Gi", "-1", "1gb", "32 Gi", "1.Gi", ".5", "1e3", "9999999999999Ei"] {
        assert!(Quantity::parse(text).is_err(), "{text}");
    }
}

#[test]
fn durations_have_units() {
    for (text, seconds) in [("500ms", 0.5), ("30s", 30.0), ("5m", 300.0), ("1h30m", 5400.0), ("1d", 86400.0)]
    {
        assert_eq!(Duration::parse(text).unwrap().seconds(), seconds, "{text}");
    }
    assert_eq!(Duration::parse("1m").unwrap(), Duration::parse("60s").unwrap());
    for text in ["", "5", "5 m", "m", "-5m", "5min", "1h-30m"] {
        assert!(Duration::parse(text).is_err(), "{text}");
    }
}

#[test]
fn shares_counts_digests_names_and_sources_are_told_from_others() {
    assert_eq!(Percent::parse("2%").unwrap().ratio(), 0.02);
    assert_eq!(Count::parse("200k").unwrap().get(), 200_000);
    assert_eq!(Source::parse("pvc://texts/a/b.txt").unwrap().claim(), Some(("texts", "a/b.txt")));
    assert_eq!(Source::parse("hf://Qwen/Qwen2.5-7B").unwrap().last_segment(), "Qwen2.5-7B");
    let zeros = format!("sha256:{}", "0".repeat(64));
    assert!(Digest::parse(&zeros).is_ok() && Digest::parse(&zeros.to_uppercase()).is_err());
    assert!(LabelName::parse(&"a".repeat(63)).is_ok() && LabelName::parse(&"a".repeat(64)).is_err());
    for text in ["2", "%", "-2%", "+2%", "2 %"] {
        assert!(Percent::parse(text).is_err(), "{text}");
    }
    for text in ["", "Aa", "1a", "a-", "a_b", "a.b"] {
        assert!(LabelName::parse(text).is_err(), "{text}");
    }
    for text in ["", "hf:/x", "ftp://x", "hf://", "/models/a.gguf", "HF://a/b"] {
        assert!(Source::parse(text).is_err(), "{text}");
    }
}

#[test]
fn numbers_do_for_quantities_and_counts_and_the_text_is_kept() {
    assert_eq!(serde_json::from_str::<Quantity>("8").unwrap().as_str(), "8");
    assert_eq!(serde_json::from_str::<Quantity>("0.5").unwrap().milli(), 500);
    assert_eq!(serde_json::from_str::<Count>("\"200k\"").unwrap().as_str(), "200k");
    assert!(serde_json::from_str::<Quantity>("-8").is_err());
    assert!(serde_json::from_str::<Duration>("5").is_err());
    assert_eq!(serde_json::to_string(&Duration::parse("5m").unwrap()).unwrap(), "\"5m\"");
}

/// The pattern in the CRDs and the parser must not differ on what they let through.
#[test]
fn patterns_and_parsers_agree() {
    type Parse = fn(&str) -> bool;
    let parsers: [(Form, Parse); 6] = [
        (quantity::FORM, |t| Quantity::parse(t).is_ok()),
        (duration::FORM, |t| Duration::parse(t).is_ok()),
        (percent::FORM, |t| Percent::parse(t).is_ok()),
        (count::FORM, |t| Count::parse(t).is_ok()),
        (digest::FORM, |t| Digest::parse(t).is_ok()),
        (name::FORM, |t| LabelName::parse(t).is_ok()),
    ];
    let texts = [
        "", "0", "1", "8", "1.5", "1.", ".5", "-1", "1k", "1K", "1m", "1ms", "1s", "1h30m", "1d", "1Gi",
        "1gi", "2%", "%", "-2%", "a", "a-b", "a-", "-a", "1a", "A", "hf://a", "hf://", "hf:/a", "s3://b/c",
        "ftp://a", "sha256:0", "1 s", "1e3",
    ];
    for (form, parse) in parsers {
        let schema = serde_json::json!({"type": "string", "pattern": form.pattern});
        let pattern = jsonschema::validator_for(&schema).unwrap();
        for text in texts {
            let json = serde_json::Value::from(text);
            assert_eq!(pattern.is_valid(&json), parse(text), "{text:?} as {}", form.expected);
        }
    }
    // What a source needs after its scheme only its parser knows.
    let schema = serde_json::json!({"type": "string", "pattern": source::FORM.pattern});
    let pattern = jsonschema::validator_for(&schema).unwrap();
    for text in texts.iter().chain(&[
        "hf://a/b",
        "https://a.b/c",
        "s3://b/c",
        "gs://b",
        "oci://a.b/c:1",
        "pvc://a/b",
        "file:///a",
        "http://a/b",
    ]) {
        let json = serde_json::Value::from(*text);
        assert!(pattern.is_valid(&json) || Source::parse(text).is_err(), "{text:?}");
    }
}
