//! Reads text, JSON lines with a `text` and JSON lines with `messages`, a piece at a time; errors name file and line.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::ops::Range;
use std::path::Path;

use serde_json::Value;
use wharf_model::{ChatInput, ChatTemplate, Tokenizer};

use super::{DistillError, answers};

/// Where a piece of text came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Plain: special tokens written out in it are text.
    Plain,
    /// From the chat template, which writes special tokens.
    Chat,
}

/// A document, or a part of a long one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece<'a> {
    pub(super) text: &'a str,
    pub(super) kind: Kind,
    /// Whether the document ends here.
    pub(super) ends: bool,
    /// The bytes that are learned; `None` for all of them.
    pub(super) learned: Option<&'a [Range<usize>]>,
}

/// Plain text is handed on in pieces of about so many bytes, cut where a line ends.
const PIECE_BYTES: usize = 1 << 16;

/// Hands every piece of a file to `take`. `.jsonl`, `.ndjson` and `.json` are JSON lines, all else is text. Of conversations
/// `only_answers` are to be learned, if so.
pub(super) fn read(
    path: &Path,
    template: Option<&ChatTemplate>,
    tokenizer: &Tokenizer,
    only_answers: bool,
    take: &mut dyn FnMut(Piece<'_>) -> Result<(), DistillError>,
) -> Result<(), DistillError> {
    let file = File::open(path).map_err(DistillError::read(path))?;
    let json = path.extension().is_some_and(|e| e == "jsonl" || e == "ndjson" || e == "json");
    let chat = Chat {
        template,
        bos: special(tokenizer, tokenizer.bos()),
        eos: special(tokenizer, tokenizer.eos()),
        only_answers,
    };
    let mut reader = BufReader::with_capacity(1 << 16, file);
    let mut text = String::new();
    let mut bytes = Vec::new();
    for line in 1.. {
        let fail = |why: String| DistillError::Data { path: path.to_owned(), line, why };
        bytes.clear();
        if reader.read_until(b'\n', &mut bytes).map_err(DistillError::read(path))? == 0 {
            break;
        }
        let content = std::str::from_utf8(&bytes)
            .map_err(|error| fail(format!("byte {} of the line is not UTF-8", error.valid_up_to() + 1)))?;
        if json {
            if !content.trim().is_empty() {
                let Document { text, kind, learned } = chat.document(content).map_err(fail)?;
                take(Piece { text: &text, kind, ends: true, learned: learned.as_deref() })?;
            }
            continue;
        }
        text.push_str(content);
        if text.len() >= PIECE_BYTES {
            take(Piece { text: &text, kind: Kind::Plain, ends: false, learned: None })?;
            text.clear();
        }
    }
    if !json {
        take(Piece { text: &text, kind: Kind::Plain, ends: true, learned: None })?;
    }
    Ok(())
}

fn special(tokenizer: &Tokenizer, id: Option<u32>) -> Option<String> {
    id.map(|id| tokenizer.token_text(id))
}

/// What messages are written with.
struct Chat<'t> {
    template: Option<&'t ChatTemplate>,
    bos: Option<String>,
    eos: Option<String>,
    only_answers: bool,
}

/// What a line of JSON holds.
struct Document {
    text: String,
    kind: Kind,
    learned: Option<Vec<Range<usize>>>,
}

impl Chat<'_> {
    fn document(&self, line: &str) -> Result<Document, String> {
        let value: Value = serde_json::from_str(line).map_err(|error| format!("not JSON: {error}"))?;
        match (value.get("text"), value.get("messages")) {
            (Some(Value::String(text)), None) => {
                Ok(Document { text: text.clone(), kind: Kind::Plain, learned: None })
            }
            (None, Some(messages @ Value::Array(_))) => {
                let template =
                    self.template.ok_or("\"messages\" need a chat template, and the teacher has none")?;
                let input = ChatInput {
                    bos_token: self.bos.as_deref(),
                    eos_token: self.eos.as_deref(),
                    tools: value.get("tools").filter(|tools| !tools.is_null()),
                    ..ChatInput::new(messages)
                };
                let text =
                    template.render(&input).map_err(|error| format!("the chat template fails: {error}"))?;
                let learned =
                    self.only_answers.then(|| answers::spans(template, &input, &text)).transpose()?;
                Ok(Document { text, kind: Kind::Chat, learned })
            }
            (Some(_), None) => Err("\"text\" is not a string".into()),
            (None, Some(_)) => Err("\"messages\" is not an array".into()),
            (Some(_), Some(_)) => Err("it has both \"text\" and \"messages\"".into()),
            (None, None) => Err("it has neither \"text\" nor \"messages\"".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wharf_model::{Model, Source};
    use wharf_testkit::TinyModel;

    type Found = (String, Kind, bool);
    type Spans = Option<Vec<Range<usize>>>;

    fn pieces(name: &str, content: &[u8]) -> Result<Vec<Found>, DistillError> {
        let all = learned(name, content, false)?;
        Ok(all.into_iter().map(|(found, _)| found).collect())
    }

    /// Every piece with the bytes of it that are learned.
    fn learned(name: &str, content: &[u8], only_answers: bool) -> Result<Vec<(Found, Spans)>, DistillError> {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("tiny.gguf");
        TinyModel::default().write(&model).unwrap();
        let Source::Gguf(metadata) = Model::open(&model).unwrap().source else {
            unreachable!("it is a GGUF file")
        };
        let template = ChatTemplate::from_gguf(&metadata).unwrap();
        let tokenizer = Tokenizer::from_gguf(&metadata).unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        let mut found = Vec::new();
        read(&path, template.as_ref(), &tokenizer, only_answers, &mut |piece| {
            let learned = piece.learned.map(<[_]>::to_vec);
            found.push(((piece.text.to_owned(), piece.kind, piece.ends), learned));
            Ok(())
        })?;
        Ok(found)
    }

    #[test]
    fn text_is_one_document_in_pieces() {
        let line = "x".repeat(40_000) + "\n";
        let found = pieces("a.txt", line.repeat(3).as_bytes()).unwrap();
        let lengths: Vec<(usize, bool)> = found.iter().map(|(text, _, ends)| (text.len(), *ends)).collect();
        assert_eq!(lengths, [(80_002, false), (40_001, true)]);
    }

    #[test]
    fn lines_of_json_are_documents_and_messages_pass_the_template() {
        let found = pieces(
            "a.jsonl",
            b"{\"text\": \"one\"}\n\n{\"messages\": [{\"role\": \"user\", \"content\": \"hi\"}]}\n",
        )
        .unwrap();
        assert_eq!(found[0], ("one".into(), Kind::Plain, true));
        assert_eq!(found[1], ("<|im_start|>user\nhi<|im_end|>\n".into(), Kind::Chat, true));
    }

    #[test]
    fn answers_alone_are_learned_of_conversations_when_asked_and_all_of_a_text() {
        let lines = b"{\"text\": \"one\"}\n{\"messages\": [{\"role\": \"user\", \"content\": \"hi\"}, \
            {\"role\": \"assistant\", \"content\": \"ho\"}]}\n";
        let found = learned("a.jsonl", lines, true).unwrap();
        assert_eq!(found[0].1, None);
        let ((text, ..), spans) = &found[1];
        let spans = spans.as_ref().unwrap();
        assert_eq!(spans.len(), 1);
        assert_eq!(&text[spans[0].clone()], "ho<|im_end|>\n");
        assert!(learned("a.jsonl", lines, false).unwrap().iter().all(|(_, spans)| spans.is_none()));
    }

    #[test]
    fn errors_name_file_and_line() {
        for (content, complaint) in [
            ("{\"text\": \"a\"}\n{", "a.jsonl:2: not JSON"),
            ("{\"text\": 1}", "a.jsonl:1: \"text\" is not a string"),
            ("\n{\"prompt\": \"x\"}", "a.jsonl:2: it has neither"),
            ("{\"messages\": {}}", "a.jsonl:1: \"messages\" is not an array"),
        ] {
            let error = pieces("a.jsonl", content.as_bytes()).unwrap_err();
            assert!(error.is_bad_input() && error.to_string().contains(complaint), "{error}");
        }
        let error = pieces("b.txt", b"fine\nbad \xff\n").unwrap_err();
        assert!(error.to_string().contains("b.txt:2: byte 5"), "{error}");
    }
}
