//! Requests, right and wrong, as tables.

use expect_test::{Expect, expect};
use serde_json::json;

use super::*;

fn chat_error(body: &str, expected: Expect) {
    let error = ChatRequest::parse(body.as_bytes()).expect_err(body);
    expected.assert_eq(&format!(
        "{} {}",
        error.status(),
        serde_json::to_string(&error.body().error).unwrap()
    ));
}

const HI: &str = r#""messages":[{"role":"user","content":"hi"}]"#;

#[test]
fn unknown_fields_and_nulls_are_ignored() {
    let body =
        format!(r#"{{{HI},"frobnicate":[1,{{}}],"temperature":null,"stop":null,"tools":null,"user":"u"}}"#);
    let request = ChatRequest::parse(body.as_bytes()).unwrap();
    assert_eq!((request.messages.len(), request.generation.n, request.generation.stream), (1, 1, None));
    assert!(request.template.add_generation_prompt);
}

#[test]
fn every_field_of_a_wrong_type_is_named() {
    let fields = [
        "model",
        "max_tokens",
        "max_completion_tokens",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "frequency_penalty",
        "presence_penalty",
        "repetition_penalty",
        "logit_bias",
        "seed",
        "stop",
        "stop_token_ids",
        "include_stop_str_in_output",
        "ignore_eos",
        "min_tokens",
        "skip_special_tokens",
        "n",
        "stream",
        "stream_options",
        "cache_salt",
        "logprobs",
        "top_logprobs",
        "tools",
        "add_generation_prompt",
        "continue_final_message",
        "chat_template_kwargs",
    ];
    for field in fields {
        for wrong in [json!({"x": [1]}), json!([{"y": 2}]), json!(true), json!("text"), json!(1.5), json!(-3)]
        {
            let body = format!(r#"{{{HI},"{field}":{wrong}}}"#);
            // A field has one or two right types; all the others must be refused by name.
            if let Err(error) = ChatRequest::parse(body.as_bytes()) {
                let param = error.body().error.param.unwrap_or_default();
                assert!(param.starts_with(field), "{field} = {wrong}: {error} ({param})");
            }
        }
        let body = format!(r#"{{{HI},"{field}":{}}}"#, json!([[{"y": 2}]]));
        assert!(ChatRequest::parse(body.as_bytes()).is_err(), "{field}");
    }
    for wrong in [json!(1), json!("x"), json!({}), json!([1]), json!([]), json!([[]])] {
        let error = ChatRequest::parse(json!({"messages": wrong}).to_string().as_bytes()).unwrap_err();
        assert!(error.body().error.param.unwrap().starts_with("messages"), "{error}");
    }
}

#[test]
fn values_out_of_range_are_named_with_their_range() {
    let cases = [
        ("max_tokens", json!(-5)),
        ("max_tokens", json!(0)),
        ("max_completion_tokens", json!(-1)),
        ("temperature", json!(-0.1)),
        ("top_p", json!(0)),
        ("top_p", json!(1.01)),
        ("top_k", json!(-2)),
        ("min_p", json!(2)),
        ("frequency_penalty", json!(2.1)),
        ("presence_penalty", json!(-3)),
        ("repetition_penalty", json!(0)),
        ("logit_bias", json!({"x": 1})),
        ("logit_bias", json!({"1": 101})),
        ("logit_bias", json!({"-1": 1})),
        ("stop", json!("")),
        ("stop", json!(["a", ""])),
        ("stop_token_ids", json!(vec![0; 1025])),
        ("min_tokens", json!(-1)),
        ("n", json!(0)),
        ("n", json!(129)),
        ("top_logprobs", json!(1)),
        ("stream_options", json!({"include_usage": true})),
        ("tools", json!([1])),
        ("response_format", json!({"type": "json_schema"})),
        ("response_format", json!(7)),
        ("structured_outputs", json!({})),
        ("tool_choice", json!("required")),
        ("chat_template", json!("x")),
        ("prompt_logprobs", json!(1)),
        ("bad_words", json!(["x"])),
        ("use_beam_search", json!(true)),
    ];
    for (field, value) in cases {
        let error = ChatRequest::parse(format!(r#"{{{HI},"{field}":{value}}}"#).as_bytes()).unwrap_err();
        let body = error.body().error;
        let param = body.param.unwrap_or_default();
        assert!(param.starts_with(field), "{field} = {value}: {param}");
        assert!(body.message.contains(field) || field == "use_beam_search", "{field}: {}", body.message);
    }
}

#[test]
fn broken_json_says_line_and_column() {
    chat_error(
        "{\n \"messages\": [}",
        expect![[
            r#"400 {"message":"the request body is not valid JSON: expected value at line 2 column 15","type":"invalid_request_error","param":null,"code":"invalid_json"}"#
        ]],
    );
    chat_error(
        "{\"messages\": [",
        expect![[
            r#"400 {"message":"the request body is not valid JSON: EOF while parsing a list at line 1 column 14","type":"invalid_request_error","param":null,"code":"invalid_json"}"#
        ]],
    );
    chat_error(
        "",
        expect![[
            r#"400 {"message":"the request body is not valid JSON: EOF while parsing a value at line 1 column 0","type":"invalid_request_error","param":null,"code":"invalid_json"}"#
        ]],
    );
    chat_error(
        "[1]",
        expect![[
            r#"400 {"message":"the request body must be a JSON object, not a list","type":"invalid_request_error","param":null,"code":"invalid_json"}"#
        ]],
    );
    chat_error(
        "{} x",
        expect![[
            r#"400 {"message":"the request body is not valid JSON: trailing characters at line 1 column 4","type":"invalid_request_error","param":null,"code":"invalid_json"}"#
        ]],
    );
    chat_error(
        &format!("{{\"x\":{}", "[".repeat(100_000)),
        expect![[
            r#"400 {"message":"the request body is not valid JSON: EOF while parsing a list at line 1 column 100005","type":"invalid_request_error","param":null,"code":"invalid_json"}"#
        ]],
    );
    chat_error(
        &format!("{{\"messages\":{}1{}}}", "[".repeat(500), "]".repeat(500)),
        expect![[
            r#"400 {"message":"messages[0] is wrong: invalid type: sequence, expected a map at line 1 column 13","type":"invalid_request_error","param":"messages[0]","code":null}"#
        ]],
    );
}

#[test]
fn bytes_that_are_no_text_are_refused() {
    let error = ChatRequest::parse(b"{\"model\": \"\xff\"}").unwrap_err();
    expect!["the request body is not valid UTF-8 at byte 11"].assert_eq(&error.to_string());
}

#[test]
fn messages_say_what_is_wrong_where() {
    chat_error(
        "{}",
        expect![[
            r#"400 {"message":"messages is missing","type":"invalid_request_error","param":"messages","code":null}"#
        ]],
    );
    chat_error(
        r#"{"messages":[{"role":"user","content":"x"},{"content":"y"}]}"#,
        expect![[
            r#"400 {"message":"messages[1].role is missing","type":"invalid_request_error","param":"messages[1].role","code":null}"#
        ]],
    );
    chat_error(
        r#"{"messages":[{"role":"user"}]}"#,
        expect![[
            r#"400 {"message":"messages[0].content is missing","type":"invalid_request_error","param":"messages[0].content","code":null}"#
        ]],
    );
    chat_error(
        r#"{"messages":[{"role":"user","content":[{"type":"image_url"}]}]}"#,
        expect![[
            r#"400 {"message":"messages[0].content[0] has type \"image_url\"; this model takes text only","type":"invalid_request_error","param":"messages[0].content[0]","code":"unsupported"}"#
        ]],
    );
    chat_error(
        r#"{"messages":[{"role":"user","content":[{"type":"text"}]}]}"#,
        expect![[
            r#"400 {"message":"messages[0].content[0] must be an object with type \"text\" and a text","type":"invalid_request_error","param":"messages[0].content[0]","code":null}"#
        ]],
    );
    chat_error(
        &format!(r#"{{{HI},"temperature":"hot"}}"#),
        expect![[
            r#"400 {"message":"temperature is wrong: invalid type: string \"hot\", expected f64 at line 1 column 64","type":"invalid_request_error","param":"temperature","code":null}"#
        ]],
    );
    chat_error(
        &format!(r#"{{{HI},"max_tokens":-5}}"#),
        expect![[
            r#"400 {"message":"max_tokens must be at least 1, got -5","type":"invalid_request_error","param":"max_tokens","code":null}"#
        ]],
    );
}

#[test]
fn text_parts_join_and_tool_arguments_open() {
    let body = json!({"messages": [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{\"x\": 1}"}}]},
    ]});
    let request = ChatRequest::parse(body.to_string().as_bytes()).unwrap();
    assert_eq!(request.messages[0].0["content"], "a\nb");
    assert_eq!(request.messages[1].0["content"], json!(null));
    assert_eq!(request.messages[1].0["tool_calls"][0]["function"]["arguments"], json!({"x": 1}));
}

#[test]
fn tool_choice_none_hides_the_tools() {
    let body = format!(r#"{{{HI},"tools":[{{"type":"function"}}],"tool_choice":"none"}}"#);
    assert_eq!(ChatRequest::parse(body.as_bytes()).unwrap().template.tools, None);
}

fn prompts(prompt: &str) -> Result<Vec<Prompt>, ApiErrorText> {
    let body = format!(r#"{{"prompt":{prompt}}}"#);
    CompletionRequest::parse(body.as_bytes()).map(|request| request.prompts).map_err(|e| e.to_string())
}
type ApiErrorText = String;

#[test]
fn prompts_come_in_four_shapes() {
    let text = |text: &str| Prompt::Text(text.to_owned());
    assert_eq!(prompts(r#""a""#), Ok(vec![text("a")]));
    assert_eq!(prompts(r#"["a","b"]"#), Ok(vec![text("a"), text("b")]));
    assert_eq!(prompts("[1,2]"), Ok(vec![Prompt::Tokens(vec![1, 2])]));
    assert_eq!(prompts("[[1],[2,3]]"), Ok(vec![Prompt::Tokens(vec![1]), Prompt::Tokens(vec![2, 3])]));
    for wrong in ["[]", "1", "[1,\"a\"]", "[-1]", "[4294967296]", "{}", "[[\"a\"]]", "[[[1]]]", "[1.5]"] {
        let error = prompts(wrong).unwrap_err();
        assert!(error.starts_with("prompt"), "{wrong}: {error}");
    }
}

#[test]
fn what_completions_do_not_honour_is_refused() {
    for (field, value) in [
        ("suffix", json!("x")),
        ("best_of", json!(2)),
        ("prompt_embeds", json!("x")),
        ("logprobs", json!(21)),
    ] {
        let body = json!({"prompt": "a", field: value});
        let error = CompletionRequest::parse(body.to_string().as_bytes()).unwrap_err();
        assert_eq!(error.body().error.param.as_deref(), Some(field));
    }
    let same = json!({"prompt": "a", "n": 2, "best_of": 2, "suffix": ""});
    assert_eq!(CompletionRequest::parse(same.to_string().as_bytes()).unwrap().generation.n, 2);
}

#[test]
fn tokenize_takes_text_or_messages() {
    assert!(TokenizeRequest::parse(b"{\"prompt\":\"a\"}").unwrap().add_special_tokens);
    assert!(!TokenizeRequest::parse(format!("{{{HI}}}").as_bytes()).unwrap().add_special_tokens);
    assert!(TokenizeRequest::parse(b"{}").is_err());
    assert!(TokenizeRequest::parse(format!("{{{HI},\"prompt\":\"a\"}}").as_bytes()).is_err());
    assert!(DetokenizeRequest::parse(b"{\"tokens\":[-1]}").is_err());
}

#[test]
fn no_logprob_is_infinite_on_the_wire() {
    assert_eq!(wire_logprob(f32::NEG_INFINITY), -9999.0);
    assert_eq!(wire_logprob(-1.5), -1.5);
}
