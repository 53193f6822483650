//! A tokenizer from GGUF metadata (`tokenizer.ggml.*`).
//!
//! GGUF names a pre-tokenizer instead of carrying its rules, so the rules for each name live here, as
//! llama.cpp's conversion script assigns the names.

use super::added::{AddedToken, Matcher};
use super::bpe::{Bpe, Merge, Merges, PairTable, Symbols};
use super::error::{TokenizerError, invalid};
use super::pipeline::{Behavior, CharClass, Needle, Normalizer, Step};
use super::split::{Contractions, Marks, Pattern};
use super::vocab::{Kind, MAX_TOKENS, NONE, Vocab};
use super::{Decoder, SpecialIds, Strip, Tokenizer, byte_tokens, bytelevel};
use crate::gguf::{Array, Metadata, Value};

impl Tokenizer {
    /// The tokenizer that a GGUF file describes.
    ///
    /// # Errors
    /// A missing key, a model or pre-tokenizer that is not known, or tables that contradict each other.
    pub fn from_gguf(meta: &Metadata) -> Result<Tokenizer, TokenizerError> {
        let model = meta
            .str("tokenizer.ggml.model")
            .ok_or(TokenizerError::MissingKey { key: "tokenizer.ggml.model" })?;
        let tokens = meta
            .strings("tokenizer.ggml.tokens")
            .ok_or(TokenizerError::MissingKey { key: "tokenizer.ggml.tokens" })?;
        if tokens.is_empty() {
            return Err(invalid("vocabulary", "it has no tokens"));
        }
        if tokens.len() > MAX_TOKENS {
            return Err(invalid("vocabulary", format!("{} tokens, at most {MAX_TOKENS}", tokens.len())));
        }
        let kinds = kinds(meta, tokens.len())?;
        let ids = special_ids(meta, tokens.len())?;
        let parts = match model {
            "gpt2" => byte_level(meta, tokens, &kinds)?,
            "llama" => sentence_piece(meta, tokens, &kinds)?,
            other => {
                return Err(TokenizerError::Unsupported {
                    what: "model",
                    name: other.to_owned(),
                    known: "gpt2, llama",
                });
            }
        };
        let Parts { vocab, normalizers, steps, bpe, decoder, add_bos } = parts;
        // Absent ids mean the model's convention, which only SentencePiece models have.
        let ids = if model == "llama" {
            SpecialIds {
                bos: ids.bos.or(Some(1)).filter(|&id| (id as usize) < tokens.len()),
                eos: ids.eos.or(Some(2)).filter(|&id| (id as usize) < tokens.len()),
                unknown: ids.unknown.or(Some(0)),
                ..ids
            }
        } else {
            ids
        };
        let framed = |key: &str, default: bool, id: Option<u32>| -> Vec<u32> {
            if meta.bool(key).unwrap_or(default) { id.into_iter().collect() } else { Vec::new() }
        };
        let prefix = framed("tokenizer.ggml.add_bos_token", add_bos, ids.bos);
        let suffix = framed("tokenizer.ggml.add_eos_token", false, ids.eos);
        let added = added_tokens(meta, model, tokens, &kinds);
        Ok(Tokenizer {
            vocab,
            special: Vec::new(),
            raw_added: Matcher::new(added)?,
            normalizers,
            normalized_added: Matcher::default(),
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

struct Parts {
    vocab: Vocab,
    normalizers: Vec<Normalizer>,
    steps: Vec<Step>,
    bpe: Bpe,
    decoder: Decoder,
    add_bos: bool,
}

fn kinds(meta: &Metadata, tokens: usize) -> Result<Vec<Kind>, TokenizerError> {
    let numbers: Vec<i64> = match meta.get("tokenizer.ggml.token_type") {
        None => return Ok(vec![Kind::Normal; tokens]),
        Some(Value::Array(Array::I64(numbers))) => numbers.clone(),
        // A number too large for i64 is no known type either way.
        Some(Value::Array(Array::U64(numbers))) => {
            numbers.iter().map(|&n| i64::try_from(n).unwrap_or(i64::MAX)).collect()
        }
        Some(_) => {
            return Err(invalid("token types", "tokenizer.ggml.token_type is not an array of integers"));
        }
    };
    if numbers.len() != tokens {
        return Err(invalid("token types", format!("{} types for {tokens} tokens", numbers.len())));
    }
    let kind = |(id, n): (usize, i64)| match n {
        // 0 is "undefined", which old converters wrote for ordinary tokens.
        0 | 1 => Ok(Kind::Normal),
        2 => Ok(Kind::Unknown),
        3 => Ok(Kind::Control),
        4 => Ok(Kind::UserDefined),
        5 => Ok(Kind::Unused),
        6 => Ok(Kind::Byte),
        other => Err(invalid("token types", format!("token {id} has the unknown type {other}"))),
    };
    numbers.into_iter().enumerate().map(kind).collect()
}

fn special_ids(meta: &Metadata, tokens: usize) -> Result<SpecialIds, TokenizerError> {
    let id = |key: &'static str| -> Result<Option<u32>, TokenizerError> {
        match meta.u64(key) {
            None => Ok(None),
            Some(id) if (id as usize) < tokens && id < u64::from(NONE) => Ok(Some(id as u32)),
            Some(id) => Err(invalid("special ids", format!("{key} is {id}, but there are {tokens} tokens"))),
        }
    };
    let mut stop = Vec::new();
    for key in ["tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"] {
        stop.extend(id(key)?);
    }
    Ok(SpecialIds {
        bos: id("tokenizer.ggml.bos_token_id")?,
        eos: id("tokenizer.ggml.eos_token_id")?,
        unknown: id("tokenizer.ggml.unknown_token_id")?,
        padding: id("tokenizer.ggml.padding_token_id")?,
        stop,
    })
}

fn added_tokens(meta: &Metadata, model: &str, tokens: &[String], kinds: &[Kind]) -> Vec<AddedToken> {
    // Phi-3 is the one SentencePiece family whose special tokens swallow white space after them, which
    // GGUF cannot say.
    let phi3 = model == "llama" && meta.str("general.architecture") == Some("phi3");
    let swallows = |content: &str| phi3 && !matches!(content, "<unk>" | "<s>" | "<|endoftext|>");
    (0u32..)
        .zip(tokens.iter().zip(kinds))
        .filter_map(|(id, (content, kind))| {
            let special = match kind {
                Kind::Control | Kind::Unknown => true,
                Kind::UserDefined => false,
                Kind::Normal | Kind::Unused | Kind::Byte => return None,
            };
            let rstrip = swallows(content);
            Some(AddedToken { id, content: content.clone(), special, rstrip, ..AddedToken::default() })
        })
        .collect()
}

fn byte_level(meta: &Metadata, tokens: &[String], kinds: &[Kind]) -> Result<Parts, TokenizerError> {
    let name = meta.str("tokenizer.ggml.pre").unwrap_or("default");
    let rules = PreTokenizer::named(name)?;
    let mut vocab = Vocab::with_capacity(tokens.len(), tokens.iter().map(String::len).sum());
    let mut bytes = Vec::new();
    for (token, &kind) in tokens.iter().zip(kinds) {
        bytelevel::decode_into(token, &mut bytes);
        if let Some(first) = vocab.push(&bytes, kind)? {
            refuse_duplicate(tokens, kinds, first, vocab.len() - 1)?;
        }
    }
    let mut alphabet = Box::new([NONE; 256]);
    for byte in 0..=255u8 {
        if let Some(id) = vocab.id(&[byte]) {
            alphabet[usize::from(byte)] = id;
        }
    }
    let merges = meta
        .strings("tokenizer.ggml.merges")
        .ok_or(TokenizerError::MissingKey { key: "tokenizer.ggml.merges" })?;
    let pairs = merge_table(&vocab, merges)?;
    let prefix_space = meta.bool("tokenizer.ggml.add_space_prefix").unwrap_or(false);
    let mut steps = rules.steps;
    if prefix_space {
        steps.insert(0, Step::AddPrefixSpace);
    }
    Ok(Parts {
        vocab,
        normalizers: rules.normalizers,
        steps,
        bpe: Bpe {
            symbols: Symbols::Bytes(alphabet),
            merges: Merges::Ranks(pairs),
            ignore_merges: rules.ignore_merges,
            unknown: None,
            fuse_unknown: false,
        },
        decoder: Decoder { replace: Vec::new(), byte_fallback: false, strip: Strip::Nothing },
        add_bos: rules.add_bos,
    })
}

/// Two ordinary tokens with one text would make encoding ambiguous. Distinct texts may still stand for the
/// same bytes (an added token written without the byte alphabet); the first id is the one that merges use.
fn refuse_duplicate(
    tokens: &[String],
    kinds: &[Kind],
    first: u32,
    second: usize,
) -> Result<(), TokenizerError> {
    let first = first as usize;
    if tokens[first] == tokens[second] && kinds[first] != Kind::Unused && kinds[second] != Kind::Unused {
        let text = shorten(&tokens[second]);
        return Err(invalid("vocabulary", format!("tokens {first} and {second} are both {text:?}")));
    }
    Ok(())
}

/// At most 60 characters of foreign text for a message.
pub(super) fn shorten(text: &str) -> String {
    let mut short: String = text.chars().take(60).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

fn merge_table(vocab: &Vocab, merges: &[String]) -> Result<PairTable, TokenizerError> {
    let mut pairs = PairTable::with_capacity(merges.len());
    let (mut left_bytes, mut right_bytes) = (Vec::new(), Vec::new());
    for (rank, merge) in (0u32..).zip(merges) {
        // The alphabet has no space, so the only one separates the two sides.
        let Some((left, right)) = merge.split_once(' ') else {
            let merge = shorten(merge);
            return Err(invalid(
                "merges",
                format!("merge {rank}, {merge:?}, has no space between its sides"),
            ));
        };
        bytelevel::decode_into(left, &mut left_bytes);
        bytelevel::decode_into(right, &mut right_bytes);
        let find = |bytes: &[u8]| {
            vocab.id(bytes).ok_or_else(|| {
                let (merge, token) = (shorten(merge), shorten(&String::from_utf8_lossy(bytes)));
                invalid("merges", format!("merge {rank}, {merge:?}, needs {token:?}, which is not a token"))
            })
        };
        let (left, right) = (find(&left_bytes)?, find(&right_bytes)?);
        left_bytes.extend_from_slice(&right_bytes);
        let id = find(&left_bytes)?;
        pairs.insert(left, right, Merge { rank, id });
    }
    Ok(pairs)
}

/// What a pre-tokenizer name stands for.
pub(super) struct PreTokenizer {
    pub(super) normalizers: Vec<Normalizer>,
    pub(super) steps: Vec<Step>,
    pub(super) ignore_merges: bool,
    add_bos: bool,
}

const KNOWN_PRE: &str = "gpt-2, phi-2, mpt, olmo, jina-*, roberta-bpe, smollm, starcoder, refact, command-r, codeshell, \
     llama-bpe, llama3, llama-v3, falcon3, smaug-bpe, dbrx, qwen2, deepseek-r1-qwen, stablelm2, qwen35, tekken, gpt-4o, \
     llama4, deepseek-v3, default";

impl PreTokenizer {
    pub(super) fn named(name: &str) -> Result<PreTokenizer, TokenizerError> {
        let plain = |pattern| PreTokenizer {
            normalizers: Vec::new(),
            steps: vec![Step::Known(pattern)],
            ignore_merges: false,
            add_bos: false,
        };
        let cl100k = |digits, marks| plain(Pattern::Cl100k { digits, marks });
        let digit_wise = Step::Chars { class: CharClass::Numeric, behavior: Behavior::Isolated };
        Ok(match name {
            "gpt-2" | "phi-2" | "mpt" | "olmo" | "roberta-bpe" => plain(Pattern::Gpt2),
            "jina-es" | "jina-de" | "jina-v1-en" | "jina-v2-es" | "jina-v2-de" | "jina-v2-code" => {
                plain(Pattern::Gpt2)
            }
            "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" => {
                PreTokenizer { steps: vec![digit_wise, Step::Known(Pattern::Gpt2)], ..plain(Pattern::Gpt2) }
            }
            "llama-bpe" | "llama3" | "llama-v3" | "falcon3" => {
                PreTokenizer { ignore_merges: true, add_bos: true, ..cl100k(3, Marks::Apart) }
            }
            "smaug-bpe" | "dbrx" => cl100k(3, Marks::Apart),
            "qwen2" | "deepseek-r1-qwen" => {
                PreTokenizer { normalizers: vec![Normalizer::Nfc], ..cl100k(1, Marks::Apart) }
            }
            "stablelm2" => cl100k(1, Marks::Apart),
            "qwen35" => PreTokenizer { normalizers: vec![Normalizer::Nfc], ..cl100k(1, Marks::InWords) },
            "tekken" => PreTokenizer {
                ignore_merges: true,
                add_bos: true,
                ..plain(Pattern::O200k { digits: 1, contractions: Contractions::Apart })
            },
            "gpt-4o" | "llama4" => plain(Pattern::O200k { digits: 3, contractions: Contractions::InWords }),
            "deepseek-v3" => from_patterns(&[
                r"\p{N}{1,3}",
                "[一-龥぀-ゟ゠-ヿ]+",
                r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##,
            ])?,
            "default" => {
                from_patterns(&[r"[\p{P}\$\+<=>\^~\|]+", super::split::GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"])?
            }
            other => {
                return Err(TokenizerError::Unsupported {
                    what: "pre-tokenizer (tokenizer.ggml.pre)",
                    name: shorten(other),
                    known: KNOWN_PRE,
                });
            }
        })
    }
}

/// Splits by each expression in turn, matches isolated.
fn from_patterns(patterns: &[&str]) -> Result<PreTokenizer, TokenizerError> {
    let steps = patterns
        .iter()
        .map(|pattern| match Pattern::of_regex(pattern) {
            Some(known) => Ok(Step::Known(known)),
            None => Ok(Step::Split {
                needle: Needle::Regex(Box::new(compile(pattern)?)),
                behavior: Behavior::Isolated,
                invert: false,
            }),
        })
        .collect::<Result<_, TokenizerError>>()?;
    Ok(PreTokenizer { normalizers: Vec::new(), steps, ignore_merges: false, add_bos: false })
}

/// Steps of backtracking per match: ample for every published pattern, a millisecond for a hostile one.
const BACKTRACK_LIMIT: usize = 100_000;

pub(super) fn compile(pattern: &str) -> Result<fancy_regex::Regex, TokenizerError> {
    fancy_regex::RegexBuilder::new(pattern)
        .backtrack_limit(BACKTRACK_LIMIT)
        .build()
        .map_err(|source| TokenizerError::Pattern { pattern: shorten(pattern), source: Box::new(source) })
}

fn sentence_piece(meta: &Metadata, tokens: &[String], kinds: &[Kind]) -> Result<Parts, TokenizerError> {
    let scores: Vec<f32> = match meta.get("tokenizer.ggml.scores") {
        Some(Value::Array(Array::F32(scores))) => scores.clone(),
        Some(Value::Array(Array::F64(scores))) => scores.iter().map(|&score| score as f32).collect(),
        Some(_) => return Err(invalid("scores", "tokenizer.ggml.scores is not an array of numbers")),
        None => return Err(TokenizerError::MissingKey { key: "tokenizer.ggml.scores" }),
    };
    if scores.len() != tokens.len() {
        return Err(invalid("scores", format!("{} scores for {} tokens", scores.len(), tokens.len())));
    }
    let mut vocab = Vocab::with_capacity(tokens.len(), tokens.iter().map(String::len).sum());
    for (token, &kind) in tokens.iter().zip(kinds) {
        if let Some(first) = vocab.push(token.as_bytes(), kind)? {
            refuse_duplicate(tokens, kinds, first, vocab.len() - 1)?;
        }
    }
    let space = meta.bool("tokenizer.ggml.add_space_prefix").unwrap_or(true);
    let mut normalizers = Vec::new();
    if space {
        normalizers.push(Normalizer::Prepend("▁".to_owned()));
    }
    normalizers.push(Normalizer::Replace(Needle::Text(" ".to_owned()), "▁".to_owned()));
    let unknown = (0u32..).zip(kinds).find(|(_, kind)| **kind == Kind::Unknown).map(|(id, _)| id);
    Ok(Parts {
        normalizers,
        steps: Vec::new(),
        bpe: Bpe {
            symbols: Symbols::Chars { byte_fallback: byte_tokens(&vocab) },
            merges: Merges::Scores(scores),
            ignore_merges: false,
            unknown,
            fuse_unknown: true,
        },
        vocab,
        decoder: Decoder {
            replace: vec![("▁".to_owned(), " ".to_owned())],
            byte_fallback: true,
            strip: if space { Strip::Spaces(1) } else { Strip::Nothing },
        },
        add_bos: true,
    })
}
