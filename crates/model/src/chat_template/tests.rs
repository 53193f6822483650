//! What templates print must equal Hugging Face's `apply_chat_template` to the byte; what they do to excess
//! must end in an error. `scripts/make_tokenizer_fixtures.py` writes what is compared with.

use std::path::Path;

use serde_json::{Map, Value as Json, json};

use super::*;

#[derive(serde::Deserialize)]
struct Expected {
    now: i64,
    bos_token: String,
    eos_token: String,
    cases: Vec<Case>,
}

#[derive(serde::Deserialize)]
struct Case {
    template: String,
    messages: Json,
    tools: Option<Json>,
    add_generation_prompt: bool,
    extra: Option<Map<String, Json>>,
    expected: Option<String>,
    error: Option<String>,
}

#[test]
fn templates_print_what_transformers_prints() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/chat");
    let file = std::fs::read(folder.join("expected.json")).unwrap();
    let Expected { now, bos_token, eos_token, cases } = serde_json::from_slice(&file).unwrap();
    let (mut printed, mut refused) = (0, 0);
    let mut differences = Vec::new();
    for case in cases {
        let Case { template, messages, tools, add_generation_prompt, extra, expected, error } = case;
        let source = std::fs::read_to_string(folder.join(&template)).unwrap();
        let input = ChatInput {
            tools: tools.as_ref(),
            add_generation_prompt,
            extra: extra.as_ref(),
            bos_token: Some(&bos_token),
            eos_token: Some(&eos_token),
            now: Some(now),
            ..ChatInput::new(&messages)
        };
        let ours = ChatTemplate::parse(&source).unwrap().render(&input);
        match (ours, expected, error) {
            (Ok(ours), Some(expected), _) if ours == expected => printed += 1,
            (Err(ChatTemplateError::Refused { message }), None, Some(error)) if message == error => {
                refused += 1
            }
            // A failure that is the template's, not its author's: the words are each engine's own.
            (Err(ChatTemplateError::Render { .. }), None, Some(_)) => refused += 1,
            (ours, expected, error) => {
                let ours = ours.map_err(|error| format!("{error}: {:?}", std::error::Error::source(&error)));
                differences.push(format!(
                    "{template} on {messages} (tools: {})\n--- ours\n{}\n--- reference\n{}",
                    tools.is_some(),
                    ours.unwrap_or_else(|error| error),
                    expected.or(error).unwrap_or_default(),
                ));
            }
        }
    }
    assert!(differences.is_empty(), "{} differences\n{}", differences.len(), differences.join("\n\n"));
    assert!(printed >= 140 && refused >= 40, "only {printed} printed and {refused} refused");
}

fn render(source: &str) -> Result<String, ChatTemplateError> {
    ChatTemplate::parse(source)?.render(&ChatInput::new(&json!([{"role": "user", "content": "hi"}])))
}

#[test]
fn a_template_that_never_ends_is_stopped() {
    let endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}";
    assert!(matches!(render(endless), Err(ChatTemplateError::OutOfFuel { .. })));
    let recursive = "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}";
    assert!(matches!(render(recursive), Err(ChatTemplateError::Render { .. })));
}

#[test]
fn a_template_cannot_use_memory_without_end() {
    let doubling = "{% set n = namespace(x='aaaaaaaa') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x|length }}";
    assert!(matches!(render(doubling), Err(ChatTemplateError::OutOfFuel { .. })));
    let repeated = "{% for i in range(1000) %}{{ 'a' * 10000000 }}{% endfor %}";
    let error = render(repeated).unwrap_err();
    assert!(
        matches!(error, ChatTemplateError::OutOfFuel { .. } | ChatTemplateError::OutputTooLong),
        "{error:?}"
    );
}

#[test]
fn nesting_as_deep_as_the_budget_allows_does_not_overflow_the_stack() {
    for tail in ["", "{{ n.x }}", "{{ n.x == n.y }}", "{{ [n.x, n.y]|sort|length }}", "{{ {n.x: 1}|length }}"]
    {
        let mut deepest = 0;
        // Twice as deep each time, until the budget ends it.
        for depth in (8..17).map(|power| 1 << power) {
            let source = format!(
                "{{% set n = namespace(x=[], y=[]) %}}{{% for i in range({depth}) %}}\
                 {{% set n.x = [n.x] %}}{{% set n.y = [n.y] %}}{{% endfor %}}{tail}"
            );
            match render(&source) {
                Ok(_) => deepest = depth,
                Err(error) => assert!(matches!(error, ChatTemplateError::OutOfFuel { .. }), "{error:?}"),
            }
        }
        assert!((4096..65536).contains(&deepest), "{deepest} levels {tail}");
    }
    assert!(render("{% set n = namespace(x=[]) %}{% for i in range(300) %}{% set n.x = [n.x] %}{% endfor %}{{ n.x|tojson }}").is_err());
}

#[test]
fn attributes_of_undefined_values_are_errors_and_undefined_values_print_nothing() {
    assert_eq!(render("[{{ nothing }}{{ messages[0].nothing }}]").unwrap(), "[]");
    assert!(matches!(render("{{ nothing.more }}"), Err(ChatTemplateError::Render { line: Some(1), .. })));
    assert!(render("{{ strftime_now('%Y') }}").is_err());
}

#[test]
fn errors_name_the_line() {
    let error = ChatTemplate::parse("one\ntwo {% if %}").unwrap_err();
    assert_eq!(error.to_string(), "failed to parse the chat template default at line 2");
    let error = render("a\n\n{{ 1 + none }}").unwrap_err();
    assert_eq!(error.to_string(), "failed to render the chat template default at line 3");
}

#[test]
fn a_refusal_carries_the_words_of_the_template() {
    let error = render("{{ raise_exception('no ' ~ messages[0].role) }}").unwrap_err();
    assert_eq!(error.to_string(), "the chat template refuses this conversation: no user");
}

#[test]
fn a_tag_whose_opening_overlaps_its_end_is_an_error() {
    // Found by fuzzing.
    assert!(ChatTemplate::parse("{%}{{ 'a' }}").is_err());
    assert!(ChatTemplate::parse("{%}").is_err());
}

#[test]
fn generation_tags_have_no_effect() {
    let text =
        render("a {%- generation -%} b {% endgeneration %} c {% set generation = 1 %}{{ generation }}");
    assert_eq!(text.unwrap(), "ab  c 1");
}

#[test]
fn the_template_for_tools_is_used_when_there_are_tools() {
    let config = json!({"chat_template": [
        {"name": "default", "template": "plain"},
        {"name": "tool_use", "template": "tools"},
    ]});
    let template = ChatTemplate::from_hf(Some(config.to_string().as_bytes()), None).unwrap().unwrap();
    let (messages, tools) = (json!([]), json!([{}]));
    let plain = ChatInput::new(&messages);
    assert_eq!(template.render(&plain).unwrap(), "plain");
    assert_eq!(template.render(&ChatInput { tools: Some(&tools), ..plain }).unwrap(), "tools");
    assert_eq!(template.render(&ChatInput { tools: Some(&Json::Null), ..plain }).unwrap(), "plain");
}

#[test]
fn configurations_without_or_with_wrong_templates() {
    let from = |config: &str| ChatTemplate::from_hf(Some(config.as_bytes()), None);
    assert!(ChatTemplate::from_hf(None, None).unwrap().is_none());
    assert!(from("{}").unwrap().is_none());
    assert!(from(r#"{"chat_template": null}"#).unwrap().is_none());
    assert!(matches!(from(r#"{"chat_template": 1}"#), Err(ChatTemplateError::Config { .. })));
    assert!(matches!(from(r#"{"chat_template": [{"name": "x"}]}"#), Err(ChatTemplateError::Config { .. })));
    assert!(matches!(from("["), Err(ChatTemplateError::Config { .. })));
    let file = ChatTemplate::from_hf(Some(br#"{"chat_template": "old"}"#), Some("new")).unwrap().unwrap();
    assert_eq!(file.sources().collect::<Vec<_>>(), [("default", "new")]);
    let huge = "x".repeat(MAX_SOURCE + 1);
    assert!(matches!(ChatTemplate::parse(&huge), Err(ChatTemplateError::SourceTooLong { .. })));
    let deep = "{{ ".to_owned() + &"(".repeat(100_000) + "1" + &")".repeat(100_000) + " }}";
    assert!(ChatTemplate::parse(&deep).is_err());
}
