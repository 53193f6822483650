//! What key files look like: a line for each key, or a document that says more about each.

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Sha;
use crate::limits::Limits;
use crate::principal::{Models, Priority};

/// Fields that a document may begin with; a line of the other form begins with none of them.
const FIELDS: [&str; 11] = [
    "keys",
    "id",
    "name",
    "sha256",
    "models",
    "limits",
    "priority",
    "notBefore",
    "expires",
    "revoked",
    "created",
];

/// One key as files have it: everything but the key itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KeyRecord {
    /// Stays the same for the key's life and is what logs and metrics have; the digest's first digits if absent.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) id: String,
    /// What people call it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) name: String,
    /// SHA-256 of the key.
    pub(super) sha256: Digest,
    /// Models that it may ask for; all if absent.
    #[serde(default, skip_serializing_if = "Models::are_all")]
    pub models: Models,
    /// Its own limits.
    #[serde(default, skip_serializing_if = "Limits::is_empty")]
    pub limits: Limits,
    /// Who goes first when not everybody can.
    #[serde(default, skip_serializing_if = "is_default")]
    pub priority: Priority,
    /// Not accepted before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// Not accepted from then on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// When it was made; for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<Timestamp>,
    /// Taken back: known, and refused.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub revoked: bool,
}

/// A file of many keys.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyDocument {
    /// The keys.
    pub keys: Vec<KeyRecord>,
}

/// Why a text has no keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// A line, counted from 1.
    Line(usize),
    /// What is wrong with a document.
    Document(String),
}

impl KeyRecord {
    /// The record of a key that is at hand.
    pub fn of_secret(key: &str, name: &str) -> KeyRecord {
        KeyRecord::of_digest(Sha::of(key), name)
    }

    pub(crate) fn of_digest(digest: Sha, name: &str) -> KeyRecord {
        KeyRecord {
            id: digest.to_string()[..12].to_owned(),
            name: name.to_owned(),
            sha256: Digest(digest),
            models: Models::All,
            limits: Limits::default(),
            priority: Priority::Default,
            not_before: None,
            expires: None,
            created: None,
            revoked: false,
        }
    }

    /// What logs and metrics have.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What people call it: its id if nobody named it.
    pub fn name(&self) -> &str {
        if self.name.is_empty() { &self.id } else { &self.name }
    }

    /// SHA-256 of the key, in hex.
    pub fn sha256(&self) -> String {
        self.sha256.0.to_string()
    }

    /// The record as a document of its own, as an entry of a Secret has it.
    ///
    /// # Errors
    /// Why it has no such form.
    pub fn to_yaml(&self) -> Result<String, String> {
        serde_saphyr::to_string(self).map_err(|e| e.to_string())
    }

    pub(crate) fn digest(&self) -> Sha {
        self.sha256.0
    }

    /// The line that says the same, unless a line cannot.
    pub(crate) fn as_line(&self) -> Option<String> {
        let plain = KeyRecord { created: self.created, ..KeyRecord::of_digest(self.digest(), &self.name) };
        let one_line = !self.name.contains(['\n', '\r']) && self.name.trim() == self.name;
        (*self == plain && one_line)
            .then(|| format!("sha256:{} {}", self.sha256(), self.name).trim().to_owned())
    }

    /// Fills in what the file left out; `name` is what stands around the record, such as a Secret's entry.
    fn completed(mut self, name: &str) -> KeyRecord {
        if self.id.is_empty() {
            self.id = self.sha256()[..12].to_owned();
        }
        if self.name.is_empty() {
            self.name = name.to_owned();
        }
        self
    }
}

/// Keys of a file's text in whichever form it has; `name` is that of keys which have none.
pub(crate) fn parse(text: &str, name: &str) -> Result<Vec<KeyRecord>, Unreadable> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if is_document(text) { parse_document(text, name) } else { parse_lines(text, name) }
}

/// Whether the first line that says something is a mapping's.
pub(crate) fn is_document(text: &str) -> bool {
    let first = text.lines().map(str::trim).find(|l| !l.is_empty() && !l.starts_with('#') && *l != "---");
    first.is_some_and(|line| {
        let field = |(key, rest): (&str, &str)| {
            FIELDS.contains(&key.trim_matches('"')) && (rest.is_empty() || rest.starts_with([' ', '\t']))
        };
        line.starts_with('{') || line.split_once(':').is_some_and(field)
    })
}

/// The text of a document.
pub(crate) fn write(document: &KeyDocument) -> Result<String, String> {
    serde_saphyr::to_string(document).map_err(|e| e.to_string())
}

fn parse_document(text: &str, name: &str) -> Result<Vec<KeyRecord>, Unreadable> {
    #[derive(Deserialize)]
    struct Probe {
        keys: Option<serde::de::IgnoredAny>,
    }
    let wrong = |e: serde_saphyr::Error| Unreadable::Document(e.to_string());
    let probe: Probe = serde_saphyr::from_str(text).map_err(wrong)?;
    let keys = match probe.keys {
        Some(_) => serde_saphyr::from_str::<KeyDocument>(text).map_err(wrong)?.keys,
        None => vec![serde_saphyr::from_str::<KeyRecord>(text).map_err(wrong)?],
    };
    Ok(keys.into_iter().map(|key| key.completed(name)).collect())
}

fn parse_lines(text: &str, name: &str) -> Result<Vec<KeyRecord>, Unreadable> {
    let lines = text.lines().enumerate().map(|(i, line)| (i + 1, line.trim()));
    let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|(number, line)| match line.strip_prefix("sha256:") {
            // What follows the digest, after a space, is the key's name.
            Some(rest) => {
                let (digest, own) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
                let own = if own.trim().is_empty() { name } else { own.trim() };
                Ok(KeyRecord::of_digest(Sha::from_hex(digest).ok_or(Unreadable::Line(number))?, own))
            }
            None => Ok(KeyRecord::of_secret(line, name)),
        })
        .collect()
}

fn is_default(priority: &Priority) -> bool {
    *priority == Priority::Default
}

/// 64 hex digits, with or without `sha256:` before them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Digest(Sha);

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digits = text.strip_prefix("sha256:").unwrap_or(&text);
        let digest = Sha::from_hex(digits);
        digest.map(Digest).ok_or_else(|| serde::de::Error::custom("sha256 must be 64 hex digits"))
    }
}
