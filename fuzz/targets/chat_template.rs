//! Chat templates: any template must end within its budget.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wharf_model::{ChatInput, ChatTemplate};

fuzz_target!(|source: &str| {
    let Ok(template) = ChatTemplate::parse(source) else { return };
    let messages = serde_json::json!([
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Capital of <France>? é😀"},
        {"role": "assistant", "content": "Paris", "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]},
        {"role": "user", "content": "Sure?"},
    ]);
    let input = ChatInput {
        messages: &messages,
        tools: None,
        add_generation_prompt: true,
        extra: None,
        bos_token: Some("<s>"),
        eos_token: Some("</s>"),
        now: Some(1_700_000_000),
    };
    // A template that fails to render says so; only panics and endless loops are finds.
    let _ = template.render(&input);
});
