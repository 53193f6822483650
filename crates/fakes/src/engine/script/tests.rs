//! Answers as lists of steps.

use super::*;
use crate::engine::prompt::parse;

fn config() -> EngineConfig {
    EngineConfig {
        tokens: 3,
        ttft: Duration::from_millis(10),
        prefill_per_token: Duration::from_millis(1),
        itl: Duration::from_millis(2),
        ..EngineConfig::default()
    }
}

fn ask(body: &Value) -> Ask {
    parse(Kind::Completion, body.to_string().as_bytes()).unwrap()
}

/// Steps in short: the text of events, and what is not sent by name.
fn short(script: &Script) -> String {
    let step = |step: &Step| match step {
        Step::Send(bytes) => {
            let text = std::str::from_utf8(bytes).unwrap().trim().trim_start_matches("data: ").to_owned();
            let value: Value = serde_json::from_str(&text).unwrap_or_default();
            value["choices"][0]["text"].as_str().map_or(text, |text| format!("{text:?}"))
        }
        other => format!("{other:?}"),
    };
    script.body.iter().map(step).collect::<Vec<_>>().join(" | ")
}

fn streamed(fault: &Fault) -> String {
    short(&spoil(answer(&config(), &ask(&json!({"prompt": "a b", "stream": true})), 1, 0), fault))
}

#[test]
fn a_stream_waits_for_the_uncached_prompt_then_between_tokens() {
    let script = answer(&config(), &ask(&json!({"prompt": "a b c d", "stream": true})), 1, 3);
    assert_eq!(
        short(&script),
        "Slot | Wait(11ms) | Made(1) | \"w0 \" | Wait(2ms) | Made(1) | \"w1 \" | Wait(2ms) | Made(1) | \"w2 \" | \"\" | [DONE]"
    );
}

#[test]
fn the_request_may_ask_for_fewer_tokens_and_no_context_is_overrun() {
    let finish = |body: Value| {
        let script = answer(&EngineConfig { max_model_len: 4, ..config() }, &ask(&body), 1, 0);
        (script.finish.unwrap(), script.before.last().cloned().unwrap())
    };
    assert_eq!(finish(json!({"prompt": "a"})), ("stop", Step::Made(3)));
    assert_eq!(finish(json!({"prompt": "a", "max_tokens": 2})), ("length", Step::Made(2)));
    assert_eq!(finish(json!({"prompt": "a b"})), ("length", Step::Made(2)));
}

#[test]
fn faults_strike_after_their_tokens() {
    let one = "Slot | Wait(12ms) | Made(1) | \"w0 \"";
    assert_eq!(streamed(&Fault::StallAfter(1)), format!("{one} | Stall"));
    assert_eq!(streamed(&Fault::ResetAfter(0)), "Slot | Wait(12ms) | Reset");
    assert_eq!(streamed(&Fault::EndAfter(1)), one);
    assert!(streamed(&Fault::TruncateAfter(99)).ends_with("[DONE] | Close"));
    assert!(streamed(&Fault::MalformedAfter(1)).starts_with(&format!("{one} | {{\"choices\": [ | Wait")));
    assert!(streamed(&Fault::ErrorEventAfter(1)).contains("\"code\":\"injected\""));
}

#[test]
fn an_answer_in_one_piece_is_cut_in_its_middle() {
    let whole = answer(&config(), &ask(&json!({"prompt": "a"})), 1, 0);
    let cut = spoil(whole.clone(), &Fault::TruncateAfter(1));
    let [Step::Send(half), Step::Close] = &cut.body[..] else { panic!("{:?}", cut.body) };
    let promised: usize = cut.headers[1].1.parse().unwrap();
    assert_eq!(half.len(), promised / 2);
    let longer = spoil(whole, &Fault::WrongLength(5));
    assert_eq!(longer.headers[1].1, (promised + 5).to_string());
}

#[test]
fn a_trickle_loses_nothing() {
    let pause = Duration::from_millis(1);
    let pieces = trickle(Step::Send("abcde".into()), 2, pause);
    let wait = Step::Wait(pause);
    let send = |text: &'static str| Step::Send(text.into());
    assert_eq!(pieces, [send("ab"), wait.clone(), send("cd"), wait.clone(), send("e"), wait]);
}

const TOOLS: &str = r#"{"messages": [], "tool_choice": "required", "tools": [
    {"type": "function", "function": {"name": "tide", "parameters": {"properties": {"days": {"type": "integer"}}}}},
    {"type": "function", "function": {"name": "time"}}
]}"#;

fn tools(also: &[(&str, Value)]) -> Script {
    let mut body: Value = serde_json::from_str(TOOLS).unwrap();
    also.iter().for_each(|(name, value)| body[name] = value.clone());
    answer(&config(), &parse(Kind::Chat, body.to_string().as_bytes()).unwrap(), 1, 0)
}

/// The deltas and the reasons to finish that an answer streams.
fn deltas(script: &Script) -> Vec<String> {
    let sent = script.body.iter().filter_map(|step| match step {
        Step::Send(bytes) => std::str::from_utf8(bytes).unwrap().strip_prefix("data: "),
        _ => None,
    });
    let choices = sent.filter_map(|event| {
        let choice = serde_json::from_str::<Value>(event).ok()?["choices"][0].clone();
        Some(format!("{} {}", choice["delta"], choice["finish_reason"]))
    });
    choices.collect()
}

#[test]
fn a_streamed_call_begins_with_its_name_and_goes_on_with_pieces_of_its_arguments() {
    let expected = [
        r#"{"role":"assistant","content":null} null"#,
        r#"{"tool_calls":[{"id":"call_1_0","type":"function","function":{"name":"tide","arguments":""},"index":0}]} null"#,
        r#"{"tool_calls":[{"index":0,"function":{"arguments":"{\"days"}}]} null"#,
        r#"{"tool_calls":[{"index":0,"function":{"arguments":"\":3}"}}]} null"#,
        r#"{"tool_calls":[{"id":"call_1_1","type":"function","function":{"name":"time","arguments":""},"index":1}]} null"#,
        r#"{"tool_calls":[{"index":1,"function":{"arguments":"{}"}}]} null"#,
        r#"{} "tool_calls""#,
    ];
    assert_eq!(deltas(&tools(&[("stream", true.into())])), expected);
}

#[test]
fn calls_in_one_piece_are_what_their_stream_adds_up_to() {
    let message = |script: &Script| {
        let Step::Send(bytes) = &script.body[0] else { panic!("{:?}", script.body) };
        let body: Value = serde_json::from_slice(bytes).unwrap();
        (body["choices"][0]["message"].to_string(), body["usage"]["completion_tokens"].clone())
    };
    let call = |index: u32, name: &str, arguments: &str| {
        let id = format!("call_1_{index}");
        json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}})
    };
    let says = |calls: Value| json!({"role": "assistant", "content": null, "tool_calls": calls}).to_string();
    let whole = tools(&[]);
    let both = says(json!([call(0, "tide", r#"{"days":3}"#), call(1, "time", "{}")]));
    assert_eq!((message(&whole), whole.finish), ((both, 3.into()), Some("tool_calls")));
    let cut = tools(&[("max_tokens", 1.into())]);
    let begun = says(json!([call(0, "tide", r#"{"days"#)]));
    assert_eq!((message(&cut), cut.finish), ((begun, 1.into()), Some("length")));
}
