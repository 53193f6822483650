//! Values that users write as text: quantities, durations, shares, counts, names.
//!
//! Each keeps the text as it was written, so that what we print is what was given, and the value that it stands for. What
//! the text may look like is one regular expression, which the CRDs carry too, and one sentence, which every complaint
//! about it uses.

mod count;
mod digest;
mod duration;
mod name;
mod percent;
mod quantity;
mod source;

pub use count::Count;
pub use digest::Digest;
pub use duration::Duration;
pub use name::{LabelName, PortNumber};
pub use percent::Percent;
pub use quantity::Quantity;
pub use source::Source;

/// What a text must look like, and how a person says it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Form {
    /// Anchored regular expression, in the common subset of RE2 and ECMA-262.
    pub(crate) pattern: &'static str,
    /// Completes the sentence "must be …".
    pub(crate) expected: &'static str,
}

/// Every form, for whoever has only the pattern at hand.
pub(crate) const FORMS: &[Form] =
    &[count::FORM, digest::FORM, duration::FORM, name::FORM, percent::FORM, quantity::FORM, source::FORM];

/// Reads, writes and describes a type of text: it needs `parse(&str) -> Result<Self, String>`, a field `text` and a `FORM`.
/// `numbers` also takes a bare number for its text.
macro_rules! text_scalar {
    ($type:ident, $form:ident) => {
        text_scalar!(@common $type);
        text_scalar!(@serde $type, visit_nothing_else, $form);
        impl schemars::JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }
            fn inline_schema() -> bool {
                true
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({"type": "string", "pattern": $form.pattern})
            }
        }
    };
    ($type:ident, $form:ident, numbers) => {
        text_scalar!(@common $type);
        text_scalar!(@serde $type, visit_numbers, $form);
        impl schemars::JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }
            fn inline_schema() -> bool {
                true
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({"x-kubernetes-int-or-string": true, "pattern": $form.pattern})
            }
        }
    };
    (@common $type:ident) => {
        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.text)
            }
        }
        impl std::str::FromStr for $type {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                $type::parse(text)
            }
        }
        impl $type {
            /// As it was written.
            pub fn as_str(&self) -> &str {
                &self.text
            }
        }
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.text)
            }
        }
    };
    (@serde $type:ident, $numbers:ident, $form:ident) => {
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Visitor;
                impl serde::de::Visitor<'_> for Visitor {
                    type Value = $type;
                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str($form.expected)
                    }
                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$type, E> {
                        $type::parse(text).map_err(E::custom)
                    }
                    text_scalar!(@$numbers $type);
                }
                deserializer.deserialize_any(Visitor)
            }
        }
    };
    (@visit_nothing_else $type:ident) => {};
    (@visit_numbers $type:ident) => {
        fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<$type, E> {
            $type::parse(&number.to_string()).map_err(E::custom)
        }
        fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<$type, E> {
            $type::parse(&number.to_string()).map_err(E::custom)
        }
        fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<$type, E> {
            $type::parse(&number.to_string()).map_err(E::custom)
        }
    };
}
use text_scalar;

/// A number at the front of `text`, and what follows it.
fn split_number(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len()))
}

/// A number of digits with at most one point between them.
fn number(text: &str) -> Option<f64> {
    let inside = !text.starts_with('.') && !text.ends_with('.');
    text.parse().ok().filter(|_| inside)
}

/// The complaint about a text that does not have a form.
fn wrong<T>(text: &str, form: Form) -> Result<T, String> {
    Err(format!("must be {}, not {text:?}", form.expected))
}

#[cfg(test)]
mod tests;
