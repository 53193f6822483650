//! What can be wrong with a tokenizer's tables.

/// Why a tokenizer could not be built.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// The GGUF file lacks a key that a tokenizer cannot do without.
    #[error("the file's metadata has no {key}, which the tokenizer needs")]
    MissingKey {
        /// Metadata key.
        key: &'static str,
    },
    /// A kind of tokenizer or a part of one that Wharf does not implement.
    #[error("tokenizer {what} {name:?} is not supported; supported: {known}")]
    Unsupported {
        /// Which part: `model`, `pre-tokenizer`, `normalizer`, …
        what: &'static str,
        /// What the file asks for.
        name: String,
        /// What would have worked.
        known: &'static str,
    },
    /// A table contradicts itself.
    #[error("invalid tokenizer {what}: {reason}")]
    Invalid {
        /// Which table.
        what: &'static str,
        /// What is wrong with which entry.
        reason: String,
    },
    /// `tokenizer.json` or `tokenizer_config.json` is not the JSON it should be.
    #[error("failed to parse {file}")]
    Json {
        /// File name.
        file: &'static str,
        /// Position and cause.
        source: serde_json::Error,
    },
    /// A pre-tokenizer's regular expression does not compile.
    #[error("failed to compile the tokenizer's pattern {pattern:?}")]
    Pattern {
        /// The pattern, shortened.
        pattern: String,
        /// Why.
        source: Box<fancy_regex::Error>,
    },
    /// The matcher for added tokens could not be built.
    #[error("failed to build the matcher of {count} added tokens")]
    AddedTokens {
        /// How many tokens.
        count: usize,
        /// Why.
        source: Box<aho_corasick::BuildError>,
    },
}

pub(crate) fn invalid(what: &'static str, reason: impl Into<String>) -> TokenizerError {
    TokenizerError::Invalid { what, reason: reason.into() }
}
