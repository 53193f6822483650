//! The JSON of `tokenizer.json` and `tokenizer_config.json`, texts borrowed from the file where they can be:
//! vocabularies have hundreds of thousands of entries, and start-up waits for them.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};

#[derive(Deserialize)]
pub(super) struct File<'a> {
    #[serde(default)]
    pub(super) added_tokens: Vec<Added>,
    #[serde(default)]
    pub(super) normalizer: serde_json::Value,
    #[serde(default)]
    pub(super) pre_tokenizer: serde_json::Value,
    #[serde(default)]
    pub(super) post_processor: serde_json::Value,
    #[serde(default)]
    pub(super) decoder: serde_json::Value,
    #[serde(borrow)]
    pub(super) model: Model<'a>,
}

#[derive(Deserialize)]
pub(super) struct Added {
    pub(super) id: u32,
    pub(super) content: String,
    #[serde(default)]
    pub(super) single_word: bool,
    #[serde(default)]
    pub(super) lstrip: bool,
    #[serde(default)]
    pub(super) rstrip: bool,
    #[serde(default)]
    pub(super) normalized: bool,
    #[serde(default)]
    pub(super) special: bool,
}

#[derive(Deserialize)]
pub(super) struct Model<'a> {
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
    #[serde(borrow)]
    pub(super) vocab: VocabField<'a>,
    #[serde(borrow, default)]
    pub(super) merges: MergesField<'a>,
    pub(super) unk_token: Option<String>,
    pub(super) fuse_unk: Option<bool>,
    pub(super) byte_fallback: Option<bool>,
    pub(super) ignore_merges: Option<bool>,
    pub(super) dropout: Option<f64>,
    pub(super) continuing_subword_prefix: Option<String>,
    pub(super) end_of_word_suffix: Option<String>,
}

/// A BPE vocabulary is an object, a Unigram vocabulary a list.
pub(super) enum VocabField<'a> {
    Map(Vec<(Cow<'a, str>, u32)>),
    List,
}

/// Pairs of token texts in the order of their ranks.
#[derive(Default)]
pub(super) struct MergesField<'a>(pub(super) Vec<(Cow<'a, str>, Cow<'a, str>)>);

#[derive(Default, Deserialize)]
pub(super) struct Config {
    pub(super) bos_token: Option<TokenName>,
    pub(super) eos_token: Option<TokenName>,
    pub(super) unk_token: Option<TokenName>,
    pub(super) pad_token: Option<TokenName>,
    pub(super) add_bos_token: Option<bool>,
    pub(super) add_eos_token: Option<bool>,
}

/// A token named by its text or by a description of it.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum TokenName {
    Text(String),
    Described { content: String },
}

impl TokenName {
    pub(super) fn text(&self) -> &str {
        match self {
            TokenName::Text(text) | TokenName::Described { content: text } => text,
        }
    }
}

/// A text borrowed from the file when it has no escapes.
struct Text<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(TextVisitor)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for VocabField<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct VocabVisitor;
        impl<'de> Visitor<'de> for VocabVisitor {
            type Value = VocabField<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object from token text to id")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<VocabField<'de>, A::Error> {
                let mut entries = Vec::new();
                while let Some((Text(text), id)) = map.next_entry::<Text<'de>, u32>()? {
                    entries.push((text, id));
                }
                Ok(VocabField::Map(entries))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<VocabField<'de>, A::Error> {
                while list.next_element::<serde::de::IgnoredAny>()?.is_some() {}
                Ok(VocabField::List)
            }
        }
        deserializer.deserialize_any(VocabVisitor)
    }
}

/// One merge: `"a b"` in old files, `["a", "b"]` in new ones.
struct Pair<'a>(Cow<'a, str>, Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Pair<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PairVisitor;
        fn halves<E: Error>(text: &str) -> Result<(&str, &str), E> {
            let pair = text.split_once(' ').filter(|(_, right)| !right.contains(' '));
            pair.ok_or_else(|| E::custom("a merge is not two texts with a space between"))
        }
        impl<'de> Visitor<'de> for PairVisitor {
            type Value = Pair<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a pair of token texts")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Pair<'de>, E> {
                halves(text).map(|(left, right)| Pair(Cow::Borrowed(left), Cow::Borrowed(right)))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Pair<'de>, E> {
                halves(text).map(|(left, right)| Pair(Cow::Owned(left.into()), Cow::Owned(right.into())))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut pair: A) -> Result<Pair<'de>, A::Error> {
                let missing = || A::Error::custom("a merge is not a pair");
                let Text(left) = pair.next_element()?.ok_or_else(missing)?;
                let Text(right) = pair.next_element()?.ok_or_else(missing)?;
                if pair.next_element::<serde::de::IgnoredAny>()?.is_some() {
                    return Err(missing());
                }
                Ok(Pair(left, right))
            }
        }
        deserializer.deserialize_any(PairVisitor)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for MergesField<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let pairs = Option::<Vec<Pair<'de>>>::deserialize(deserializer)?.unwrap_or_default();
        Ok(MergesField(pairs.into_iter().map(|Pair(left, right)| (left, right)).collect()))
    }
}
