//! Text to token ids and back, as the model's own tokenizer does it.
//!
//! A tokenizer is built from GGUF metadata or from Hugging Face's `tokenizer.json`; both become the same
//! pipeline: find added tokens, normalise, split into words, merge pairs, frame with begin and end tokens.
//! Hugging Face's `tokenizers` is the reference for every step. Unigram and WordPiece models are refused.

mod added;
mod bpe;
mod bytelevel;
mod classes;
mod error;
mod gguf;
mod hf;
mod pipeline;
pub(crate) mod pre;
mod split;
mod stream;
#[cfg(test)]
mod tests;
mod vocab;

use std::borrow::Cow;
use std::collections::HashMap;

use added::{Matcher, Section};
use bpe::{Bpe, Scratch, Symbols};
pub use error::TokenizerError;
use pipeline::{Normalizer, Step};
pub use stream::{DecodeStream, StreamStart};
use vocab::{Kind, Vocab};

/// A model's tokenizer. Immutable: share it between threads behind an `Arc`.
#[derive(Debug)]
pub struct Tokenizer {
    vocab: Vocab,
    /// Special tokens are control tokens: left out of text when asked, recognised in text only when asked.
    special: Vec<bool>,
    raw_added: Matcher,
    normalizers: Vec<Normalizer>,
    normalized_added: Matcher,
    steps: Vec<Step>,
    bpe: Bpe,
    /// Ids that frame a sequence when special tokens are added.
    prefix: Vec<u32>,
    suffix: Vec<u32>,
    decoder: Decoder,
    ids: SpecialIds,
}

/// How token texts become bytes.
#[derive(Debug)]
struct Decoder {
    /// Replacements within one token, for instance `▁` by a space.
    replace: Vec<(String, String)>,
    /// Byte tokens stand for one byte.
    byte_fallback: bool,
    strip: Strip,
}

/// What decoding takes away from the start of a text because encoding added it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Strip {
    Nothing,
    /// So many leading spaces at most.
    Spaces(usize),
    /// Every space of the first token, as the `Metaspace` decoder does.
    FirstToken,
}

impl Strip {
    /// Takes away what is to go from the bytes of the next token.
    fn apply(&mut self, bytes: &mut Cow<'_, [u8]>) {
        match *self {
            Strip::Nothing => {}
            Strip::Spaces(limit) => {
                let spaces = bytes.iter().take(limit).take_while(|&&byte| byte == b' ').count();
                *self = if spaces == bytes.len() { Strip::Spaces(limit - spaces) } else { Strip::Nothing };
                if spaces > 0 {
                    bytes.to_mut().drain(..spaces);
                }
            }
            Strip::FirstToken => {
                *self = Strip::Nothing;
                if bytes.contains(&b' ') {
                    bytes.to_mut().retain(|&byte| byte != b' ');
                }
            }
        }
    }
}

/// Ids with a role.
#[derive(Debug, Default)]
struct SpecialIds {
    bos: Option<u32>,
    eos: Option<u32>,
    unknown: Option<u32>,
    padding: Option<u32>,
    stop: Vec<u32>,
}

/// What encoding does with special tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EncodeOptions {
    /// Frame the text with begin and end tokens as the model wants. Not for text from a chat template, which
    /// writes them itself.
    pub add_special: bool,
    /// Special tokens written out in the text become their one token. Not for text from users.
    pub parse_special: bool,
}

/// Texts of control tokens that end an answer in the chat formats of the supported families.
const STOP_TEXTS: [&str; 9] = [
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<end_of_turn>",
    "</s>",
    "<|return|>",
];

impl Tokenizer {
    /// Token ids of `text`.
    pub fn encode(&self, text: &str, options: EncodeOptions) -> Vec<u32> {
        let mut encoding = Encoding {
            tokenizer: self,
            out: Vec::with_capacity(text.len() / 4 + 8),
            scratch: Scratch::default(),
            seen: HashMap::new(),
        };
        if options.add_special {
            encoding.out.extend_from_slice(&self.prefix);
        }
        self.raw_added.split(text, options.parse_special, |section| match section {
            Section::Token(id) => encoding.out.push(id),
            Section::Text(text, at) => encoding.text(text, at == 0, options.parse_special),
        });
        if options.add_special {
            encoding.out.extend_from_slice(&self.suffix);
        }
        encoding.out
    }

    /// Text of `tokens`; bytes that are not UTF-8 become U+FFFD. Ids outside the vocabulary are left out, and
    /// special tokens too when `skip_special`.
    pub fn decode(&self, tokens: &[u32], skip_special: bool) -> String {
        let mut bytes = Vec::with_capacity(tokens.len() * 4);
        let mut strip = self.decoder.strip;
        for &token in tokens.iter().filter(|&&token| self.shows(token, skip_special)) {
            let mut token = self.token_bytes(token);
            strip.apply(&mut token);
            bytes.extend_from_slice(&token);
        }
        match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        }
    }

    /// Whether decoding takes a token into account.
    fn shows(&self, token: u32, skip_special: bool) -> bool {
        (token as usize) < self.vocab.len() && !(skip_special && self.is_special(token))
    }

    /// The bytes that a token stands for; empty for an id outside the vocabulary. A token may hold part of a
    /// character.
    pub fn token_bytes(&self, token: u32) -> Cow<'_, [u8]> {
        let bytes = self.vocab.bytes(token);
        match self.vocab.kind(token) {
            Some(Kind::Byte) if self.decoder.byte_fallback => {
                if let Some(byte) = byte_token(bytes) {
                    return Cow::Owned(vec![byte]);
                }
            }
            // Control tokens are names, not text.
            Some(Kind::Control | Kind::Unknown) | None => return Cow::Borrowed(bytes),
            Some(_) => {}
        }
        let Ok(mut text) = std::str::from_utf8(bytes).map(Cow::Borrowed) else { return Cow::Borrowed(bytes) };
        for (from, to) in &self.decoder.replace {
            if text.contains(from.as_str()) {
                text = Cow::Owned(text.replace(from, to));
            }
        }
        match text {
            Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
            Cow::Owned(text) => Cow::Owned(text.into_bytes()),
        }
    }

    /// A token as text for people, U+FFFD for incomplete characters.
    pub fn token_text(&self, token: u32) -> String {
        String::from_utf8_lossy(&self.token_bytes(token)).into_owned()
    }

    /// The token that stands for exactly `text`, for instance `<|im_end|>`.
    pub fn token_id(&self, text: &str) -> Option<u32> {
        if let Some(id) = self.vocab.id(text.as_bytes()) {
            return Some(id);
        }
        let mut stored = Cow::Borrowed(text);
        for (from, to) in self.decoder.replace.iter().rev() {
            stored = Cow::Owned(stored.replace(to, from));
        }
        self.vocab.id(stored.as_bytes())
    }

    /// Whether a token is a control token: not text, but structure.
    pub fn is_special(&self, token: u32) -> bool {
        self.special.get(token as usize).copied().unwrap_or(false)
    }

    /// Number of token ids, holes included. The model's embedding may have more rows.
    pub fn vocab_size(&self) -> usize {
        self.vocab.len()
    }

    /// The begin-of-sequence token.
    pub fn bos(&self) -> Option<u32> {
        self.ids.bos
    }

    /// The end-of-sequence token.
    pub fn eos(&self) -> Option<u32> {
        self.ids.eos
    }

    /// The token for what cannot be encoded.
    pub fn unknown(&self) -> Option<u32> {
        self.ids.unknown
    }

    /// The padding token.
    pub fn padding(&self) -> Option<u32> {
        self.ids.padding
    }

    /// Tokens that end an answer: the end-of-sequence token, those that the file names for end of turn and
    /// message, and control tokens that chat formats are known to end a turn with.
    pub fn stop_tokens(&self) -> &[u32] {
        &self.ids.stop
    }

    /// Whether encoding with `add_special` puts the begin token first.
    pub fn adds_bos(&self) -> bool {
        self.ids.bos.is_some_and(|bos| self.prefix.first() == Some(&bos))
    }

    /// Last step of construction: the tables that follow from the others.
    fn finish(mut self) -> Tokenizer {
        self.special =
            self.vocab.kinds().map(|(_, kind)| matches!(kind, Kind::Control | Kind::Unknown)).collect();
        let mut stop: Vec<u32> = self.ids.eos.into_iter().chain(std::mem::take(&mut self.ids.stop)).collect();
        for text in STOP_TEXTS {
            stop.extend(self.vocab.id(text.as_bytes()).filter(|&id| self.is_special(id)));
        }
        stop.sort_unstable();
        stop.dedup();
        self.ids.stop = stop;
        self
    }
}

/// `<0x0A>` as the byte that it names.
fn byte_token(text: &[u8]) -> Option<u8> {
    let digits = text.strip_prefix(b"<0x")?.strip_suffix(b">")?;
    if digits.len() != 2 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// Ids of byte tokens by byte; `None` when the vocabulary has none of them.
fn byte_tokens(vocab: &Vocab) -> Option<Box<[u32; 256]>> {
    let mut ids = Box::new([vocab::NONE; 256]);
    for byte in 0..=255u8 {
        if let Some(id) = vocab.id(format!("<0x{byte:02X}>").as_bytes()) {
            ids[usize::from(byte)] = id;
        }
    }
    ids.iter().any(|&id| id != vocab::NONE).then_some(ids)
}

/// One call of `encode`.
struct Encoding<'t> {
    tokenizer: &'t Tokenizer,
    out: Vec<u32>,
    scratch: Scratch,
    /// Where in `out` the ids of a word already are: text repeats its words, and copying is cheaper than merging.
    seen: HashMap<Box<str>, (usize, usize)>,
}

/// Longest word worth remembering.
const REMEMBERED_WORD: usize = 64;

impl Encoding<'_> {
    fn text(&mut self, text: &str, first: bool, parse_special: bool) {
        let mut normalized = Cow::Borrowed(text);
        for normalizer in &self.tokenizer.normalizers {
            normalized = normalizer.apply(normalized);
        }
        self.tokenizer.normalized_added.split(&normalized, parse_special, |section| match section {
            Section::Token(id) => self.out.push(id),
            Section::Text(text, at) => {
                pipeline::run(&self.tokenizer.steps, text, first && at == 0, &mut |word| self.word(word));
            }
        });
    }

    fn word(&mut self, word: &str) {
        let Tokenizer { bpe, vocab, .. } = self.tokenizer;
        let short =
            word.len() <= REMEMBERED_WORD && (word.len() > 1 || !matches!(bpe.symbols, Symbols::Bytes(_)));
        if short && let Some(&(start, end)) = self.seen.get(word) {
            self.out.extend_from_within(start..end);
            return;
        }
        let start = self.out.len();
        bpe.encode(vocab, word, &mut self.scratch, &mut self.out);
        if short {
            self.seen.insert(word.into(), (start, self.out.len()));
        }
    }
}
