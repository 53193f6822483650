//! Normalisers, pre-tokenisers, framing and decoders of `tokenizer.json`, part by part.

use serde_json::Value;

use super::super::error::{TokenizerError, invalid};
use super::super::gguf::{compile, shorten};
use super::super::pipeline::{Behavior, CharClass, Needle, Normalizer, Prepend, Step};
use super::super::split::Pattern;
use super::super::vocab::NONE;
use super::super::{Decoder, Strip};

/// Deepest nesting of sequences, and most steps, that a file may ask for.
const MAX_PARTS: usize = 64;

const KNOWN_NORMALIZERS: &str =
    "NFC, NFD, NFKC, NFKD, Lowercase, StripAccents, Prepend, Replace, Strip, Sequence";
const KNOWN_STEPS: &str = "ByteLevel (last), Split, Digits, Metaspace, Whitespace, WhitespaceSplit, Punctuation, \
     CharDelimiterSplit, Sequence";
const KNOWN_PROCESSORS: &str = "TemplateProcessing, ByteLevel, BertProcessing, RobertaProcessing, Sequence";
const KNOWN_DECODERS: &str =
    "ByteLevel, Metaspace, or a Sequence of Replace, ByteFallback, Fuse and Strip (left, spaces)";

/// A part and the parts of a `Sequence`, flattened.
fn flatten<'v>(
    what: &'static str,
    field: &str,
    part: &'v Value,
    out: &mut Vec<(&'v str, &'v Value)>,
) -> Result<(), TokenizerError> {
    // JSON nesting is bounded by the parser, so the recursion is too.
    if part.is_null() {
        return Ok(());
    }
    let kind = text(what, part, "type")?;
    if kind != "Sequence" {
        out.push((kind, part));
        if out.len() > MAX_PARTS {
            return Err(invalid(what, format!("it has more than {MAX_PARTS} parts")));
        }
        return Ok(());
    }
    let parts = part.get(field).and_then(Value::as_array);
    let parts = parts.ok_or_else(|| invalid(what, format!("its Sequence has no list {field:?}")))?;
    parts.iter().try_for_each(|part| flatten(what, field, part, out))
}

fn text<'v>(what: &'static str, part: &'v Value, key: &str) -> Result<&'v str, TokenizerError> {
    let found = part.get(key).and_then(Value::as_str);
    found.ok_or_else(|| invalid(what, format!("a part of it has no text {key:?}")))
}

fn flag(part: &Value, key: &str, default: bool) -> bool {
    part.get(key).and_then(Value::as_bool).unwrap_or(default)
}

fn unsupported(what: &'static str, name: &str, known: &'static str) -> TokenizerError {
    TokenizerError::Unsupported { what, name: shorten(name), known }
}

/// A `pattern`: `{"String": …}` or `{"Regex": …}`.
fn pattern_text<'v>(what: &'static str, part: &'v Value) -> Result<(&'v str, bool), TokenizerError> {
    let pattern = part.get("pattern").ok_or_else(|| invalid(what, "a part of it has no pattern"))?;
    if let Some(text) = pattern.as_str().or_else(|| pattern.get("String")?.as_str()) {
        return Ok((text, false));
    }
    let regex = pattern.get("Regex").and_then(Value::as_str);
    regex.map(|regex| (regex, true)).ok_or_else(|| invalid(what, "a pattern is neither String nor Regex"))
}

fn needle((text, is_regex): (&str, bool)) -> Result<Needle, TokenizerError> {
    if is_regex { Ok(Needle::Regex(Box::new(compile(text)?))) } else { Ok(Needle::Text(text.to_owned())) }
}

pub(super) fn normalizers(value: &Value) -> Result<Vec<Normalizer>, TokenizerError> {
    const WHAT: &str = "normalizer";
    let mut parts = Vec::new();
    flatten(WHAT, "normalizers", value, &mut parts)?;
    parts
        .into_iter()
        .map(|(kind, part)| {
            Ok(match kind {
                "NFC" => Normalizer::Nfc,
                "NFD" => Normalizer::Nfd,
                "NFKC" => Normalizer::Nfkc,
                "NFKD" => Normalizer::Nfkd,
                "Lowercase" => Normalizer::Lowercase,
                "StripAccents" => Normalizer::StripAccents,
                "Prepend" => Normalizer::Prepend(text(WHAT, part, "prepend")?.to_owned()),
                "Replace" => Normalizer::Replace(
                    needle(pattern_text(WHAT, part)?)?,
                    text(WHAT, part, "content")?.to_owned(),
                ),
                "Strip" => Normalizer::Strip {
                    left: flag(part, "strip_left", true),
                    right: flag(part, "strip_right", true),
                },
                other => return Err(unsupported(WHAT, other, KNOWN_NORMALIZERS)),
            })
        })
        .collect()
}

/// The steps, and whether they end in bytes (`ByteLevel`) rather than characters.
pub(super) fn steps(value: &Value) -> Result<(Vec<Step>, bool), TokenizerError> {
    const WHAT: &str = "pre-tokenizer";
    let mut parts = Vec::new();
    flatten(WHAT, "pretokenizers", value, &mut parts)?;
    let mut steps = Vec::new();
    let mut byte_level = false;
    for (kind, part) in parts {
        if byte_level {
            return Err(unsupported(WHAT, &format!("{kind} after ByteLevel"), KNOWN_STEPS));
        }
        match kind {
            "ByteLevel" => {
                byte_level = true;
                if flag(part, "add_prefix_space", true) {
                    steps.push(Step::AddPrefixSpace);
                }
                if flag(part, "use_regex", true) {
                    steps.push(Step::Known(Pattern::Gpt2));
                }
            }
            "Split" => steps.push(split(part)?),
            "Digits" => {
                let one_by_one = flag(part, "individual_digits", false);
                let behavior = if one_by_one { Behavior::Isolated } else { Behavior::Contiguous };
                steps.push(Step::Chars { class: CharClass::Numeric, behavior });
            }
            "Metaspace" => {
                let replacement = character(part, "replacement")?;
                let split = flag(part, "split", true);
                steps.push(Step::Metaspace { replacement, prepend: prepend(part)?, split });
            }
            "Whitespace" => {
                steps.push(Step::Chars { class: CharClass::Words, behavior: Behavior::Removed });
            }
            "WhitespaceSplit" => {
                steps.push(Step::Chars { class: CharClass::Space, behavior: Behavior::Removed });
            }
            "Punctuation" => {
                let behavior = match part.get("behavior") {
                    None => Behavior::Isolated,
                    Some(_) => behavior(part)?,
                };
                steps.push(Step::Chars { class: CharClass::Punctuation, behavior });
            }
            "CharDelimiterSplit" => {
                let class = CharClass::One(character(part, "delimiter")?);
                steps.push(Step::Chars { class, behavior: Behavior::Removed });
            }
            other => return Err(unsupported(WHAT, other, KNOWN_STEPS)),
        }
    }
    Ok((steps, byte_level))
}

fn split(part: &Value) -> Result<Step, TokenizerError> {
    let (text, is_regex) = pattern_text("pre-tokenizer", part)?;
    let behavior = behavior(part)?;
    let invert = flag(part, "invert", false);
    // The known expressions cover every character, so removing what lies between matches removes nothing.
    let covers = matches!((behavior, invert), (Behavior::Isolated, false) | (Behavior::Removed, true));
    if is_regex
        && covers
        && let Some(known) = Pattern::of_regex(text)
    {
        return Ok(Step::Known(known));
    }
    Ok(Step::Split { needle: needle((text, is_regex))?, behavior, invert })
}

fn behavior(part: &Value) -> Result<Behavior, TokenizerError> {
    Ok(match text("pre-tokenizer", part, "behavior")? {
        "Removed" => Behavior::Removed,
        "Isolated" => Behavior::Isolated,
        "MergedWithPrevious" => Behavior::MergedWithPrevious,
        "MergedWithNext" => Behavior::MergedWithNext,
        "Contiguous" => Behavior::Contiguous,
        other => {
            let known = "Removed, Isolated, MergedWithPrevious, MergedWithNext, Contiguous";
            return Err(unsupported("split behavior", other, known));
        }
    })
}

fn character(part: &Value, key: &str) -> Result<char, TokenizerError> {
    let text = text("pre-tokenizer", part, key)?;
    let mut chars = text.chars();
    match (chars.next(), chars.next()) {
        (Some(c), None) => Ok(c),
        _ => Err(invalid("pre-tokenizer", format!("{key} {:?} is not one character", shorten(text)))),
    }
}

fn prepend(part: &Value) -> Result<Prepend, TokenizerError> {
    match part.get("prepend_scheme").and_then(Value::as_str) {
        Some("always") => Ok(Prepend::Always),
        Some("first") => Ok(Prepend::First),
        Some("never") => Ok(Prepend::Never),
        Some(other) => Err(unsupported("prepend_scheme", other, "always, first, never")),
        // Files from before prepend_scheme existed.
        None if flag(part, "add_prefix_space", true) => Ok(Prepend::Always),
        None => Ok(Prepend::Never),
    }
}

/// Ids before and after a single sequence.
pub(super) fn framing(value: &Value, vocab: usize) -> Result<(Vec<u32>, Vec<u32>), TokenizerError> {
    const WHAT: &str = "post-processor";
    let mut parts = Vec::new();
    flatten(WHAT, "processors", value, &mut parts)?;
    let (mut prefix, mut suffix) = (Vec::new(), Vec::new());
    let checked = |id: &Value| -> Result<u32, TokenizerError> {
        let id = id.as_u64().filter(|&id| id < vocab as u64 && id < u64::from(NONE));
        id.map(|id| id as u32).ok_or_else(|| invalid(WHAT, "it names an id that is not in the vocabulary"))
    };
    for (kind, part) in parts {
        let (mut before, mut after) = (Vec::new(), Vec::new());
        match kind {
            "ByteLevel" => {}
            "TemplateProcessing" => {
                let single = part.get("single").and_then(Value::as_array);
                let single = single.ok_or_else(|| invalid(WHAT, "its template has no list \"single\""))?;
                let mut sequences = 0;
                for piece in single {
                    if piece.get("Sequence").is_some() {
                        sequences += 1;
                        continue;
                    }
                    let name = piece.get("SpecialToken").and_then(|token| token.get("id")?.as_str());
                    let name = name
                        .ok_or_else(|| invalid(WHAT, "a piece of its template is neither text nor token"))?;
                    let ids = part
                        .get("special_tokens")
                        .and_then(|tokens| tokens.get(name)?.get("ids")?.as_array());
                    let missing =
                        || invalid(WHAT, format!("it does not define its token {:?}", shorten(name)));
                    let list = if sequences == 0 { &mut before } else { &mut after };
                    for id in ids.ok_or_else(missing)? {
                        list.push(checked(id)?);
                    }
                }
                if sequences != 1 {
                    return Err(invalid(
                        WHAT,
                        format!("its template has the text {sequences} times, not once"),
                    ));
                }
            }
            "BertProcessing" | "RobertaProcessing" => {
                for (key, list) in [("cls", &mut before), ("sep", &mut after)] {
                    let id = part.get(key).and_then(|pair| pair.get(1));
                    list.push(checked(id.ok_or_else(|| invalid(WHAT, format!("it has no {key:?}")))?)?);
                }
            }
            other => return Err(unsupported(WHAT, other, KNOWN_PROCESSORS)),
        }
        before.append(&mut prefix);
        prefix = before;
        suffix.append(&mut after);
    }
    Ok((prefix, suffix))
}

pub(super) fn decoder(value: &Value, byte_level: bool) -> Result<Decoder, TokenizerError> {
    const WHAT: &str = "decoder";
    let mut parts = Vec::new();
    flatten(WHAT, "decoders", value, &mut parts)?;
    let mut decoder = Decoder { replace: Vec::new(), byte_fallback: false, strip: Strip::Nothing };
    if byte_level {
        return match parts.as_slice() {
            [("ByteLevel", _)] => Ok(decoder),
            other => {
                let names: Vec<_> = other.iter().map(|(kind, _)| *kind).collect();
                Err(unsupported("decoder of a byte-level model", &names.join(", "), "ByteLevel"))
            }
        };
    }
    for (kind, part) in parts {
        match kind {
            "Replace" => {
                let (from, is_regex) = pattern_text(WHAT, part)?;
                if is_regex || from.is_empty() {
                    return Err(unsupported(WHAT, "Replace of an expression", KNOWN_DECODERS));
                }
                decoder.replace.push((from.to_owned(), text(WHAT, part, "content")?.to_owned()));
            }
            "Metaspace" => {
                decoder.replace.push((character(part, "replacement")?.to_string(), " ".to_owned()));
                if prepend(part)? != Prepend::Never {
                    decoder.strip = Strip::FirstToken;
                }
            }
            "ByteFallback" => decoder.byte_fallback = true,
            "Fuse" => {}
            "Strip" => {
                let start = part.get("start").and_then(Value::as_u64).unwrap_or(0);
                let stop = part.get("stop").and_then(Value::as_u64).unwrap_or(0);
                if text(WHAT, part, "content")? != " " || stop != 0 || start > MAX_PARTS as u64 {
                    return Err(unsupported(WHAT, "Strip of other than leading spaces", KNOWN_DECODERS));
                }
                decoder.strip = Strip::Spaces(start as usize);
            }
            other => return Err(unsupported(WHAT, other, KNOWN_DECODERS)),
        }
    }
    Ok(decoder)
}
