//! Decides the tokens of tiny models: every byte, a few merges, and the markers of a chat.

use crate::gguf::{Builder, Value};

/// ChatML, as Qwen and SmolLM2 use it.
pub const CHAT_TEMPLATE: &str = "{% for message in messages %}<|im_start|>{{ message['role'] }}\n\
    {{ message['content'] }}<|im_end|>\n{% endfor %}\
    {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// Pairs that merge, in rank order, in the alphabet of byte-level BPE (`Ġ` is the space).
const MERGES: [(&str, &str); 8] =
    [("t", "h"), ("th", "e"), ("Ġ", "the"), ("i", "n"), ("a", "n"), ("Ġ", "a"), ("e", "r"), ("o", "n")];

/// A byte-level BPE vocabulary: ids 0 to 255 are the bytes in the order of their GPT-2 letters, then one
/// token per merge, then [`Vocabulary::SPECIAL`].
#[derive(Clone, Debug, PartialEq)]
pub struct Vocabulary {
    /// Token texts by id, in the GPT-2 alphabet.
    pub tokens: Vec<String>,
    /// Merges in rank order, `left right`.
    pub merges: Vec<String>,
    /// Id of `<|endoftext|>`, which also starts sequences.
    pub bos: u32,
    /// Id of `<|im_end|>`, which ends answers.
    pub eos: u32,
}

impl Vocabulary {
    /// Control tokens, in the order of their ids.
    pub const SPECIAL: [&'static str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];

    /// The vocabulary padded with unused tokens to `size`, at least 267.
    pub fn new(size: usize) -> Vocabulary {
        let mut tokens: Vec<String> = byte_letters().into_iter().map(String::from).collect();
        tokens.extend(MERGES.iter().map(|(left, right)| format!("{left}{right}")));
        let first_special = tokens.len() as u32;
        tokens.extend(Vocabulary::SPECIAL.map(str::to_owned));
        assert!(size >= tokens.len(), "a vocabulary has at least {} tokens", tokens.len());
        tokens.extend((tokens.len()..size).map(|id| format!("<|unused_{id}|>")));
        let merges = MERGES.iter().map(|(left, right)| format!("{left} {right}")).collect();
        Vocabulary { tokens, merges, bos: first_special, eos: first_special + 2 }
    }

    /// Adds the `tokenizer.*` keys to a GGUF file.
    pub(crate) fn describe(&self, file: &mut Builder) {
        const NORMAL: i32 = 1;
        const CONTROL: i32 = 3;
        let kind = |id: usize| if id < self.bos as usize { NORMAL } else { CONTROL };
        file.set("tokenizer.ggml.model", "gpt2")
            .set("tokenizer.ggml.pre", "gpt-2")
            .set("tokenizer.ggml.tokens", Value::Strs(self.tokens.clone()))
            .set("tokenizer.ggml.token_type", Value::I32s((0..self.tokens.len()).map(kind).collect()))
            .set("tokenizer.ggml.merges", Value::Strs(self.merges.clone()))
            .set("tokenizer.ggml.bos_token_id", Value::U32(self.bos))
            .set("tokenizer.ggml.eos_token_id", Value::U32(self.eos))
            .set("tokenizer.ggml.padding_token_id", Value::U32(self.bos))
            .set("tokenizer.ggml.add_bos_token", Value::Bool(false));
    }
}

/// The letters that GPT-2 writes for bytes, in the order of its vocabulary: printable Latin-1 stands for
/// itself, the rest for letters from U+0100 on.
fn byte_letters() -> Vec<char> {
    let printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let itself = (0..=255).filter(printable).map(char::from);
    let others = (0..=255u8).filter(|byte| !printable(byte)).count() as u32;
    itself.chain((0..others).filter_map(|n| char::from_u32(0x100 + n))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_space_is_the_letter_that_gpt2_gives_it() {
        let letters = byte_letters();
        assert_eq!(letters.len(), 256);
        // Bytes 0 to 32 come right after the 188 printable ones.
        assert_eq!(letters[188 + 32], 'Ġ');
    }

    #[test]
    fn ids_are_bytes_then_merges_then_markers() {
        let vocabulary = Vocabulary::new(300);
        assert_eq!(vocabulary.tokens.len(), 300);
        assert_eq!(vocabulary.tokens[vocabulary.bos as usize], "<|endoftext|>");
        assert_eq!(vocabulary.tokens[vocabulary.eos as usize], "<|im_end|>");
    }
}
