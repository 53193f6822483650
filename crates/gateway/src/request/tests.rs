//! What is read of bodies, and what becomes of them.

mod properties;

use super::*;

fn call(body: &str) -> Call {
    let mut reader = Reader::new(b"application/json");
    for piece in body.as_bytes().chunks(7) {
        reader.push(Bytes::copy_from_slice(piece));
    }
    reader.finish().unwrap()
}

fn with_usage(body: &str) -> String {
    let body = call(body).body_with_usage();
    String::from_utf8(body.get(0..body.len()).to_vec()).unwrap()
}

#[test]
fn reads_what_routing_needs() {
    let body = r#"{"messages":[{"role":"user","content":"\"user\":\"eve\""}],"model":"m","stream":true,"max_tokens":20,"n":3,"user":"bob"}"#;
    let call = call(body);
    assert_eq!((call.model.as_str(), call.stream, call.longest), ("m", true, Some(60)));
    assert_eq!(call.session, Some(seed([&b"bob"[..]])));
}

#[test]
fn the_next_turn_of_a_conversation_begins_like_the_last() {
    let turn = |rest: &str| {
        format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{}"}}{rest}]}}"#, "x".repeat(500))
    };
    let (first, second) = (call(&turn("")), call(&turn(r#",{"role":"assistant","content":"y"}"#)));
    let shared = first.prompt.blocks.iter().zip(&second.prompt.blocks).take_while(|(a, b)| a == b).count();
    assert_eq!(shared, first.prompt.blocks.len());
    assert!(shared >= 8);
}

#[test]
fn prompts_of_token_ids_of_the_same_length_differ() {
    let tokens = |n: u32| format!(r#"{{"model":"m","prompt":{:?}}}"#, vec![n; 40]);
    assert_ne!(call(&tokens(1)).prompt.blocks, call(&tokens(2)).prompt.blocks);
    assert_eq!(call(&tokens(1)).prompt.blocks, call(&tokens(1)).prompt.blocks);
}

#[test]
fn usage_is_asked_for_where_the_client_did_not() {
    assert_eq!(
        with_usage(r#" {"stream":true,"model":"m"}"#),
        r#" {"stream_options":{"include_usage":true},"stream":true,"model":"m"}"#
    );
    assert_eq!(
        with_usage(r#"{"stream_options":{"a":1,"include_usage":false},"stream":true}"#),
        r#"{"stream_options":{"a":1,"include_usage":true},"stream":true}"#
    );
    // However the client writes it, it is not there twice afterwards.
    let escaped: String = "stream_options".bytes().map(|byte| format!("\\u{byte:04x}")).collect();
    assert_eq!(
        with_usage(&format!(r#"{{"stream":true,"{escaped}":{{"include_usage":false}}}}"#)),
        format!(r#"{{"stream":true,"{escaped}":{{"include_usage":true}}}}"#)
    );
    for as_it_is in [r#"{"model":"m"}"#, r#"{"stream":true,"stream_options":{"include_usage":true}}"#] {
        assert_eq!(with_usage(as_it_is), as_it_is);
    }
}

#[test]
fn what_an_engine_might_read_differently_is_refused() {
    let refused = |body: &str| {
        let mut reader = Reader::new(b"application/json");
        reader.push(Bytes::copy_from_slice(body.as_bytes()));
        reader.finish().unwrap_err().to_string()
    };
    assert_eq!(refused(r#"{"model":"mine","model":"yours"}"#), "model is given twice");
    assert_eq!(refused(r#"{"model":7}"#), "model must be a string");
    assert_eq!(refused("[]"), "the body must be a JSON object");
    assert_eq!(refused(r#"{"model":"m""#), "the body ends before its JSON object does");
}

#[test]
fn a_form_names_its_model_in_a_field() {
    let mut reader = Reader::new(b"multipart/form-data; boundary=\"XX\"");
    let body = "--XX\r\nContent-Disposition: form-data; name=\"file\"; filename=\"model\"\r\n\r\nname=\"model\"\r\n\
                --XX\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\nwhisper\r\n--XX--\r\n";
    reader.push(Bytes::from_static(body.as_bytes()));
    assert_eq!(reader.finish().unwrap().model, "whisper");
}

/// A reader that knows where the request goes, as soon as it does, and the rest of the text.
fn known<'a>(content_type: &str, text: &'a str) -> (Reader, &'a str) {
    let mut reader = Reader::new(content_type.as_bytes());
    let known = (0..text.len()).find(|at| {
        reader.push(Bytes::copy_from_slice(&text.as_bytes()[*at..=*at]));
        reader.is_known()
    });
    (reader, &text[known.unwrap() + 1..])
}

#[test]
fn a_request_is_called_by_what_its_beginning_says() {
    let text = r#"{"max_tokens":7,"model":"m","messages":[{"role":"user","content":"hello"}],"stream":true}"#;
    let (mut reader, rest) = known("application/json", text);
    assert_eq!(rest, r#","messages":[{"role":"user","content":"hello"}],"stream":true}"#);
    let (some, more) = rest.split_at(40);
    reader.push(Bytes::copy_from_slice(some.as_bytes()));
    let (call, _) = reader.begin(Some(text.len() as u64)).unwrap();
    assert_eq!((call.model.as_str(), call.longest, call.stream), ("m", Some(7), false));
    let begun = text.find("[{").unwrap();
    assert_eq!(call.prompt.bytes, text.len() - begun, "what is missing counts as the prompt's");
    assert!(!more.is_empty());
}

#[test]
fn what_is_missing_is_no_prompt_where_the_prompt_has_ended() {
    let text = r#"{"messages":["a"],"model":"m","tools":[]}"#;
    let (reader, _) = known("application/json", text);
    let (call, _) = reader.begin(Some(1_000_000)).unwrap();
    assert_eq!(call.prompt.bytes, r#"["a"]"#.len());
}

#[test]
fn the_hashes_of_a_beginning_are_the_first_of_the_whole() {
    let text = format!(r#"{{"model":"m","messages":["{}"]}}"#, "words ".repeat(200));
    let (mut reader, rest) = known("application/json", &text);
    reader.push(Bytes::copy_from_slice(&rest.as_bytes()[..600]));
    let (begun, _) = reader.begin(None).unwrap();
    assert!(begun.prompt.blocks.len() >= 8);
    assert!(call(&text).prompt.blocks.starts_with(&begun.prompt.blocks));
}

#[test]
fn a_body_that_ends_early_is_none_and_options_have_an_end() {
    let (reader, rest) = known("application/json", r#"{"model":"m","messages":[]}"#);
    let (_, mut passing) = reader.begin(None).unwrap();
    passing.push(Bytes::copy_from_slice(&rest.as_bytes()[..rest.len() - 1])).unwrap();
    assert_eq!(passing.finish().unwrap_err().to_string(), "the body ends before its JSON object does");

    let long = format!(r#"{{"model":"m","stream_options":"{}"#, "x".repeat(20_000));
    for cut in [1, 10_000, 20_000] {
        let (reader, rest) = known("application/json", &long);
        let (_, mut passing) = reader.begin(None).unwrap();
        let pieces = rest.as_bytes().chunks(cut);
        let refused = pieces.map(Bytes::copy_from_slice).find_map(|piece| passing.push(piece).err());
        assert_eq!(refused.unwrap().to_string(), "stream_options is too long");
    }
}

#[test]
fn a_form_passes_as_it_is_unless_it_names_two_models() {
    let model = "--XX\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\nwhisper\r\n";
    let file = "--XX\r\ncontent-disposition: form-data; name=\"file\"\r\n\r\n{\"model\":\r\n";
    let pass = |text: &str| {
        let (reader, rest) = known("multipart/form-data; boundary=XX", text);
        let (call, mut passing) = reader.begin(Some(text.len() as u64)).unwrap();
        assert_eq!((call.model.as_str(), call.prompt.bytes), ("whisper", 0));
        passing.ask_usage();
        let mut passed = passing.pass()?;
        for piece in rest.as_bytes().chunks(5) {
            let passes = passing.push(Bytes::copy_from_slice(piece))?;
            passes.slices(0..passes.len()).for_each(|slice| passed.push(Bytes::copy_from_slice(slice)));
        }
        passing.finish()?;
        Ok::<_, ApiError>(String::from_utf8(passed.get(0..passed.len()).to_vec()).unwrap())
    };
    let once = format!("{model}{file}--XX--\r\n");
    assert_eq!(pass(&once).unwrap(), once);
    let twice = format!("{model}{file}{model}--XX--\r\n");
    assert_eq!(pass(&twice).unwrap_err().to_string(), "model is given twice");
}
