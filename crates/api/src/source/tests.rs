//! What is a source and what is not, as tables.

use super::*;

#[track_caller]
fn parsed(text: &str) -> SourceUrl {
    text.parse().unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn every_form_is_read_and_written_again() {
    let digest = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
    for text in [
        "hf://Qwen/Qwen2.5-7B-Instruct",
        "hf://Qwen/Qwen2.5-7B@v1.0",
        "hf://Qwen/Qwen2.5-7B@refs%2Fpr%2F3/sub/model.gguf",
        "https://models.example.com/a/b.gguf",
        "https://models.example.com:8443/a%20b.gguf?X-Signature=s",
        "https://[2001:db8::1]:8443/a.gguf",
        "http://localhost:8080/a.gguf",
        "s3://models/qwen/7b",
        "s3://models",
        "gs://models/qwen.gguf",
        "oci://ghcr.io/acme/qwen:7b",
        "oci://localhost:5000/qwen:latest",
        &format!("oci://ghcr.io/acme/qwen@{digest}"),
        "file:///models/a%20b",
        "pvc://models/qwen/7b",
        "pvc://models",
    ] {
        assert_eq!(parsed(text).to_string(), text);
        let json = serde_json::to_string(text).unwrap();
        assert_eq!(serde_json::from_str::<SourceUrl>(&json).unwrap(), parsed(text));
    }
}

#[test]
fn parts_are_told_apart() {
    let SourceUrl::Hub(hub) = parsed("hf://Qwen/Qwen2.5-7B@refs%2Fpr%2F3/sub/model.gguf") else { panic!() };
    assert_eq!((hub.id().as_str(), hub.revision.as_deref()), ("Qwen/Qwen2.5-7B", Some("refs/pr/3")));
    assert_eq!(hub.path.as_deref(), Some("sub/model.gguf"));
    let SourceUrl::Oci(oci) = parsed("oci://localhost:5000/a/b") else { panic!() };
    assert_eq!((oci.registry.as_str(), oci.repository.as_str()), ("localhost:5000", "a/b"));
    assert_eq!(oci.reference, OciReference::Tag("latest".into()));
    let SourceUrl::Volume(volume) = parsed("pvc://models/qwen/") else { panic!() };
    assert_eq!((volume.claim.as_str(), volume.path.as_str()), ("models", "qwen"));
    let SourceUrl::File(file) = parsed("file:///a%20b") else { panic!() };
    assert_eq!(file.path, Path::new("/a b"));
}

#[test]
fn errors_say_what_was_meant() {
    for (text, meant) in [
        ("Qwen/Qwen2.5-7B", "hf://Qwen/Qwen2.5-7B"),
        ("huggingface://a/b", "hf://a/b"),
        ("hf:/a/b", "hf://a/b"),
        ("htps://e.com/x", "https://e.com/x"),
        ("gcs://bucket/x", "gs://bucket/x"),
        ("docker://ghcr.io/a/b", "oci://ghcr.io/a/b"),
        ("/models/x", "file:///models/x"),
        ("file://models/x", "file:///models/x"),
        ("https://huggingface.co/a/b", "hf://a/b"),
        ("https://huggingface.co/a/b/blob/main/c.gguf", "hf://a/b/c.gguf"),
        ("https://hf.co/a/b/tree/v2", "hf://a/b@v2"),
    ] {
        let error = text.parse::<SourceUrl>().unwrap_err();
        assert_eq!(error.meant(), Some(meant), "{error}");
        assert!(error.to_string().contains(&format!("did you mean {meant}?")), "{error}");
    }
    parsed("https://huggingface.co/a/b/resolve/main/c.gguf");
}

#[test]
fn what_cannot_be_a_source_is_refused() {
    for (text, problem) in [
        ("", "no scheme"),
        ("./model", "relative path"),
        ("hf://gpt2", "owner/repo"),
        ("hf://datasets/a/b", "is no owner"),
        ("hf://a/b@", "revision"),
        ("hf://a/b@x%2F..%2Fy", "revision"),
        ("hf://a/..", "cannot be the name"),
        ("hf://a/b/../c", "no path below"),
        ("hf://a/b/x%2F..%2Fc", "no path below"),
        ("hf://a/b/x%00", "control character"),
        ("https://e.com", "names no file"),
        ("https://e.com/", "names no file"),
        ("https:///x", "names no host"),
        ("https://e.com:0/x", "is no host"),
        ("https://e.com:http/x", "is no host"),
        ("https://[::1/x", "is no host"),
        ("https://e.com/a/%2e%2e/x", "`..`"),
        ("https://e.com/a b", "%20"),
        ("https://e.com/%zz", "hexadecimal"),
        ("s3://AB/x", "bucket"),
        ("s3://models/../x", "no path below"),
        ("oci://ghcr.io", "registry/repository"),
        ("oci://ghcr.io/Acme/x", "lower-case"),
        ("oci://ghcr.io/acme/x:", "tag"),
        ("oci://ghcr.io/acme/x@sha256:12", "digest"),
        ("file:///a/../b", "`..`"),
        ("pvc://-x/a", "PersistentVolumeClaim"),
        ("pvc://x/a\\b", "no path below"),
        ("ftp://e.com/x", "begin with one of hf://"),
    ] {
        let error = text.parse::<SourceUrl>().unwrap_err().to_string();
        assert!(error.contains(problem), "{text}: {error}");
    }
}

#[test]
fn errors_and_shown_sources_hold_no_secrets() {
    let error = "https://user:hunter2@e.com/x?sig=hunter2".parse::<SourceUrl>().unwrap_err().to_string();
    assert!(error.contains("password") && !error.contains("hunter2"), "{error}");
    assert!(!"htps://e.com/x?sig=hunter2".parse::<SourceUrl>().unwrap_err().to_string().contains("hunter2"));
    assert_eq!(parsed("https://e.com/x?sig=hunter2").shown(), "https://e.com/x");
    assert_eq!(parsed("s3://bucket/a%3Fb").shown(), "s3://bucket/a%3Fb");
}

#[test]
fn no_control_character_passes_or_is_repeated() {
    // The first was found by fuzzing: U+009B begins a command to a terminal.
    for text in
        ["!https://host/a\u{9b}", "hf://a/b/\u{9b}", "\u{85}", "https://host/a%C2%9B", "s3://bucket/%1B"]
    {
        let error = text.parse::<SourceUrl>().unwrap_err().to_string();
        assert!(error.contains("control character") && !error.contains(char::is_control), "{error:?}");
    }
}
