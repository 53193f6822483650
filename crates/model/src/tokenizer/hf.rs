//! A tokenizer from Hugging Face's `tokenizer.json` and `tokenizer_config.json`.
//!
//! Everything is judged here once; what remains is the pipeline of the parent module. Parts that Wharf does
//! not implement are refused by name, never skipped: a tokenizer that is slightly off ruins a model silently.

mod file;
mod parts;

use self::file::{Added, Config, File, Model, VocabField};
use self::parts::{decoder, framing, normalizers, steps};
use super::added::{AddedToken, Matcher};
use super::bpe::{Bpe, Merge, Merges, PairTable, Symbols};
use super::error::{TokenizerError, invalid};
use super::gguf::shorten;
use super::pipeline::Normalizer;
use super::vocab::{Kind, MAX_TOKENS, NONE, Vocab};
use super::{SpecialIds, Tokenizer, byte_token, byte_tokens, bytelevel};

/// Ids that may be missing from a vocabulary beyond as many as it has.
const MAX_HOLES: usize = 100_000;

impl Tokenizer {
    /// The tokenizer that the bytes of `tokenizer.json` describe; `tokenizer_config.json` adds the names of
    /// special tokens and whether begin and end tokens frame a text.
    ///
    /// # Errors
    /// Not the JSON that it should be, a part that is not supported, or tables that contradict each other.
    pub fn from_hf(
        tokenizer_json: &[u8],
        tokenizer_config_json: Option<&[u8]>,
    ) -> Result<Tokenizer, TokenizerError> {
        let file: File<'_> = serde_json::from_slice(tokenizer_json)
            .map_err(|source| TokenizerError::Json { file: "tokenizer.json", source })?;
        let config: Config = match tokenizer_config_json {
            Some(bytes) => serde_json::from_slice(bytes)
                .map_err(|source| TokenizerError::Json { file: "tokenizer_config.json", source })?,
            None => Config::default(),
        };
        let File { added_tokens, normalizer, pre_tokenizer, post_processor, decoder: decoder_json, model } =
            file;
        refuse_unsupported(&model)?;
        let normalizers = normalizers(&normalizer)?;
        let (steps, byte_level) = steps(&pre_tokenizer)?;
        let decoder = decoder(&decoder_json, byte_level)?;
        let vocab = vocabulary(&model, &added_tokens, byte_level)?;
        let bpe = bpe(&model, &vocab, byte_level)?;
        let id_of = |text: &str| find(&vocab, text, byte_level);
        let (mut prefix, mut suffix) = framing(&post_processor, vocab.len())?;
        let named = |token: &Option<file::TokenName>| token.as_ref().and_then(|token| id_of(token.text()));
        let ids = SpecialIds {
            bos: named(&config.bos_token),
            eos: named(&config.eos_token),
            unknown: bpe.unknown.or_else(|| named(&config.unk_token)),
            padding: named(&config.pad_token),
            stop: Vec::new(),
        };
        // Transformers rebuilds the framing from these flags as soon as one of them is given.
        if config.add_bos_token.is_some() || config.add_eos_token.is_some() {
            let framed = |flag: Option<bool>, id: Option<u32>| id.filter(|_| flag == Some(true));
            prefix = framed(config.add_bos_token, ids.bos).into_iter().collect();
            suffix = framed(config.add_eos_token, ids.eos).into_iter().collect();
        }
        let (raw_added, normalized_added) = matchers(added_tokens, &normalizers)?;
        Ok(Tokenizer {
            vocab,
            special: Vec::new(),
            raw_added,
            normalizers,
            normalized_added,
            steps,
            bpe,
            prefix,
            suffix,
            decoder,
            ids,
        }
        .finish())
    }
}

fn refuse_unsupported(model: &Model<'_>) -> Result<(), TokenizerError> {
    let kind = model.kind.as_deref().unwrap_or("BPE");
    if kind != "BPE" || matches!(model.vocab, VocabField::List) {
        let name = if kind == "BPE" { "Unigram" } else { kind };
        return Err(TokenizerError::Unsupported { what: "model", name: shorten(name), known: "BPE" });
    }
    let option = |name: &str| TokenizerError::Unsupported {
        what: "model option",
        name: name.to_owned(),
        known: "unk_token, fuse_unk, byte_fallback, ignore_merges",
    };
    if model.dropout.is_some_and(|dropout| dropout != 0.0) {
        return Err(option("dropout"));
    }
    if model.continuing_subword_prefix.as_deref().is_some_and(|prefix| !prefix.is_empty()) {
        return Err(option("continuing_subword_prefix"));
    }
    if model.end_of_word_suffix.as_deref().is_some_and(|suffix| !suffix.is_empty()) {
        return Err(option("end_of_word_suffix"));
    }
    Ok(())
}

/// All tokens by id: the model's and the added ones, holes left empty.
fn vocabulary(model: &Model<'_>, added: &[Added], byte_level: bool) -> Result<Vocab, TokenizerError> {
    let VocabField::Map(entries) = &model.vocab else {
        return Err(invalid("vocabulary", "it is not an object"));
    };
    let count = entries.len() + added.len();
    if count == 0 {
        return Err(invalid("vocabulary", "it has no tokens"));
    }
    let ids = entries.iter().map(|(_, id)| *id).chain(added.iter().map(|token| token.id));
    let size = ids.max().map_or(0, |id| id as usize + 1);
    if size > MAX_TOKENS || size > count * 2 + MAX_HOLES {
        return Err(invalid("vocabulary", format!("id {} for {count} tokens", size - 1)));
    }
    let mut slots: Vec<Option<(&str, Kind)>> = vec![None; size];
    for (text, id) in entries {
        let slot = &mut slots[*id as usize];
        if let Some((other, _)) = slot {
            let (one, two) = (shorten(other), shorten(text));
            return Err(invalid("vocabulary", format!("id {id} is both {one:?} and {two:?}")));
        }
        let byte = model.byte_fallback.unwrap_or(false) && byte_token(text.as_bytes()).is_some();
        *slot = Some((text, if byte { Kind::Byte } else { Kind::Normal }));
    }
    for token in added {
        let slot = &mut slots[token.id as usize];
        if let Some((other, _)) = slot.filter(|(other, _)| *other != token.content) {
            let (one, two) = (shorten(other), shorten(&token.content));
            return Err(invalid("added tokens", format!("id {} is {one:?}, not {two:?}", token.id)));
        }
        *slot = Some((&token.content, if token.special { Kind::Control } else { Kind::UserDefined }));
    }
    let bytes = slots.iter().flatten().map(|(text, _)| text.len()).sum();
    let mut vocab = Vocab::with_capacity(size, bytes);
    let mut decoded = Vec::new();
    for slot in &slots {
        let (text, kind) = slot.unwrap_or(("", Kind::Unused));
        let bytes = if byte_level {
            bytelevel::decode_into(text, &mut decoded);
            &decoded
        } else {
            text.as_bytes()
        };
        let taken = vocab.push(bytes, kind)?;
        if let Some(first) = taken
            && slots[first as usize].is_some_and(|(other, _)| other == text)
        {
            let (second, text) = (vocab.len() - 1, shorten(text));
            return Err(invalid("vocabulary", format!("tokens {first} and {second} are both {text:?}")));
        }
    }
    Ok(vocab)
}

/// The id of a token by its text as the files write it.
fn find(vocab: &Vocab, text: &str, byte_level: bool) -> Option<u32> {
    if byte_level {
        let mut bytes = Vec::new();
        bytelevel::decode_into(text, &mut bytes);
        vocab.id(&bytes)
    } else {
        vocab.id(text.as_bytes())
    }
}

fn bpe(model: &Model<'_>, vocab: &Vocab, byte_level: bool) -> Result<Bpe, TokenizerError> {
    let unknown = match model.unk_token.as_deref() {
        None => None,
        Some(text) => {
            let missing = || invalid("model", format!("unk_token {:?} is not a token", shorten(text)));
            Some(find(vocab, text, byte_level).ok_or_else(missing)?)
        }
    };
    let symbols = if byte_level {
        let mut alphabet = Box::new([NONE; 256]);
        for byte in 0..=255u8 {
            alphabet[usize::from(byte)] = vocab.id(&[byte]).unwrap_or(NONE);
        }
        Symbols::Bytes(alphabet)
    } else {
        let fallback = model.byte_fallback.unwrap_or(false);
        Symbols::Chars { byte_fallback: if fallback { byte_tokens(vocab) } else { None } }
    };
    let mut pairs = PairTable::with_capacity(model.merges.0.len());
    let (mut whole, mut side) = (Vec::new(), Vec::new());
    for (rank, (left, right)) in (0u32..).zip(&model.merges.0) {
        let bytes_of = |text: &str, out: &mut Vec<u8>| {
            if byte_level {
                bytelevel::decode_into(text, out);
            } else {
                out.clear();
                out.extend_from_slice(text.as_bytes());
            }
        };
        let id = |bytes: &[u8]| {
            vocab.id(bytes).ok_or_else(|| {
                let token = shorten(&String::from_utf8_lossy(bytes));
                let (left, right) = (shorten(left), shorten(right));
                let merge = format!("merge {rank}, {left:?} with {right:?}");
                invalid("merges", format!("{merge}, needs {token:?}, which is not a token"))
            })
        };
        bytes_of(left, &mut whole);
        bytes_of(right, &mut side);
        let (left, right) = (id(&whole)?, id(&side)?);
        whole.extend_from_slice(&side);
        let merged = id(&whole)?;
        pairs.insert(left, right, Merge { rank, id: merged });
    }
    Ok(Bpe {
        symbols,
        merges: Merges::Ranks(pairs),
        ignore_merges: model.ignore_merges.unwrap_or(false),
        unknown,
        fuse_unknown: model.fuse_unk.unwrap_or(false),
    })
}

/// The matcher for tokens that are looked for in the text as it is, and the one for normalised text.
fn matchers(added: Vec<Added>, normalizers: &[Normalizer]) -> Result<(Matcher, Matcher), TokenizerError> {
    let (mut raw, mut normalized) = (Vec::new(), Vec::new());
    for token in added {
        let Added { id, content, single_word, lstrip, rstrip, normalized: is_normalized, special } = token;
        let mut content = std::borrow::Cow::Owned(content);
        if is_normalized {
            for normalizer in normalizers {
                content = normalizer.apply(content);
            }
        }
        let content = content.into_owned();
        let list = if is_normalized { &mut normalized } else { &mut raw };
        list.push(AddedToken { id, content, special, lstrip, rstrip, single_word });
    }
    Ok((Matcher::new(raw)?, Matcher::new(normalized)?))
}
