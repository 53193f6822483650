//! Decides what of a conversation is an assistant's own: what a student learns to say, and not what it is asked.
//!
//! Templates do not mark answers. But what one prints of the messages before an answer, with what makes a model answer, is what the
//! model reads, and what the answer adds to that is what it writes, the end of its turn included.

use std::ops::Range;

use serde_json::Value;
use wharf_model::{ChatInput, ChatTemplate, Tokenizer};

/// The bytes of `text`, which is what `template` makes of `input`, that are answers.
///
/// # Errors
/// A sentence, when the template does not print answers one after the other.
pub(super) fn spans(
    template: &ChatTemplate,
    input: &ChatInput<'_>,
    text: &str,
) -> Result<Vec<Range<usize>>, String> {
    let messages = input.messages.as_array().map_or(&[][..], Vec::as_slice);
    let mut spans = Vec::new();
    for (index, message) in messages.iter().enumerate() {
        if message.get("role").and_then(Value::as_str) != Some("assistant") {
            continue;
        }
        // Bytes of what is printed of the first messages, if the whole begins with it.
        let printed = |count: usize, add_generation_prompt: bool| {
            let some = Value::Array(messages[..count].to_vec());
            let input = ChatInput { messages: &some, add_generation_prompt, ..*input };
            let start =
                template.render(&input).map_err(|error| format!("the chat template fails: {error}"))?;
            Ok::<_, String>(text.starts_with(&start).then_some(start.len()))
        };
        let start = match index {
            0 => Some(0),
            // Some templates make a model think before it answers, and print no thoughts of answers that are there.
            _ => printed(index, true)?.map_or_else(|| printed(index, false), |start| Ok(Some(start)))?,
        };
        let end = if index + 1 == messages.len() { Some(text.len()) } else { printed(index + 1, false)? };
        match (start, end) {
            (Some(start), Some(end)) if start <= end => spans.push(start..end),
            _ => {
                return Err(format!(
                    "the chat template prints message {} otherwise once more follow, so that it cannot be told which \
                     tokens are the answer; end the conversation with it, or leave --assistant-only out",
                    index + 1
                ));
            }
        }
    }
    Ok(spans)
}

/// Which of the tokens of `text` begin in one of `spans`.
///
/// # Errors
/// A sentence, when the tokens' own bytes are not those of the text.
pub(super) fn within(
    tokenizer: &Tokenizer,
    ids: &[u32],
    text: &str,
    spans: &[Range<usize>],
) -> Result<Vec<bool>, String> {
    let (text, mut at) = (text.as_bytes(), 0);
    let mut found = Vec::with_capacity(ids.len());
    for id in ids {
        let bytes = tokenizer.token_bytes(*id);
        // Before a word there may be a space that the tokenizer has put there, after a token of structure one that it has eaten.
        let len = loop {
            let rest = &text[at..];
            match bytes.strip_prefix(b" ") {
                _ if rest.starts_with(&bytes) => break Some(bytes.len()),
                Some(word) if rest.starts_with(word) => break Some(word.len()),
                _ if rest.first().is_some_and(u8::is_ascii_whitespace) => at += 1,
                _ => break None,
            }
        };
        let len = len.ok_or_else(|| {
            format!("the tokenizer changes the text at byte {at}, so that it cannot be told which tokens are an answer")
        })?;
        found.push(spans.iter().any(|span| span.contains(&at)));
        at += len;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use wharf_testkit::TinyModel;

    use super::*;

    fn template(source: &str) -> ChatTemplate {
        ChatTemplate::parse(source).unwrap()
    }

    const MARKED: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
        {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

    fn answers(source: &str, messages: &Value) -> Result<Vec<String>, String> {
        let template = template(source);
        let input = ChatInput::new(messages);
        let text = template.render(&input).unwrap();
        Ok(spans(&template, &input, &text)?.into_iter().map(|span| text[span].to_owned()).collect())
    }

    fn conversation() -> Value {
        json!([
            {"role": "system", "content": "Be short."},
            {"role": "user", "content": "assistant"},
            {"role": "assistant", "content": "Yes?"},
            {"role": "user", "content": "Yes?"},
            {"role": "assistant", "content": "No."},
        ])
    }

    #[test]
    fn an_answer_is_what_the_model_writes_with_the_end_of_its_turn() {
        assert_eq!(answers(MARKED, &conversation()).unwrap(), ["Yes?<|im_end|>\n", "No.<|im_end|>\n"]);
        // A template that says nothing to make a model answer: the name of its turn is its own.
        let plain = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}";
        assert_eq!(answers(plain, &conversation()).unwrap(), ["assistant: Yes?\n", "assistant: No.\n"]);
        assert_eq!(answers(MARKED, &json!([{"role": "user", "content": "hi"}])).unwrap(), [""; 0]);
    }

    #[test]
    fn thoughts_that_are_asked_for_and_not_printed_do_not_hide_an_answer() {
        let thinks = MARKED.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}");
        let found = answers(&thinks, &conversation()).unwrap();
        assert_eq!(found[1], "<|im_start|>assistant\nNo.<|im_end|>\n");
    }

    #[test]
    fn a_template_that_changes_what_it_has_printed_is_refused_by_the_message() {
        let counts = format!("{{{{ messages | length }}}}{MARKED}");
        let error = answers(&counts, &conversation()).unwrap_err();
        assert!(error.contains("prints message 3 otherwise"), "{error}");
    }

    #[test]
    fn tokens_are_found_by_where_they_begin() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tiny.gguf");
        TinyModel::default().write(&path).unwrap();
        let wharf_model::Source::Gguf(metadata) = wharf_model::Model::open(&path).unwrap().source else {
            unreachable!("it is a GGUF file")
        };
        let tokenizer = Tokenizer::from_gguf(&metadata).unwrap();
        let text = "<|im_start|>user\nonce<|im_end|>\n<|im_start|>assistant\nupon \u{e9}<|im_end|>\n";
        let options = wharf_model::EncodeOptions { add_special: false, parse_special: true };
        let ids = tokenizer.encode(text, options);
        let answer = text.find("upon").unwrap()..text.len();
        let found = within(&tokenizer, &ids, text, std::slice::from_ref(&answer)).unwrap();
        let learned: Vec<u32> =
            ids.iter().zip(&found).filter(|(_, found)| **found).map(|(id, _)| *id).collect();
        assert_eq!(tokenizer.decode(&learned, false), &text[answer]);
        let error = within(&tokenizer, &ids, "another text", &[]).unwrap_err();
        assert!(error.contains("at byte 0"), "{error}");
    }
}
