//! The key-value section of a GGUF file, as data.

use std::collections::BTreeMap;

/// One metadata value. Numbers keep their stored width only as far as callers need it.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Any unsigned integer type.
    U64(u64),
    /// Any signed integer type.
    I64(i64),
    /// `f32` or `f64`.
    F64(f64),
    /// A boolean.
    Bool(bool),
    /// UTF-8 text.
    Str(String),
    /// A homogeneous array.
    Array(Array),
}

/// A homogeneous array; nested arrays are refused when the file is read.
#[derive(Clone, Debug, PartialEq)]
pub enum Array {
    /// Unsigned integers of any width.
    U64(Vec<u64>),
    /// Signed integers of any width.
    I64(Vec<i64>),
    /// `f32` values.
    F32(Vec<f32>),
    /// `f64` values.
    F64(Vec<f64>),
    /// Booleans.
    Bool(Vec<bool>),
    /// Strings.
    Str(Vec<String>),
}

/// All metadata of a file by key.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata(pub BTreeMap<String, Value>);

impl Metadata {
    /// The value under `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    /// Text under `key`, `None` when absent or of another type.
    pub fn str(&self, key: &str) -> Option<&str> {
        match self.get(key)? {
            Value::Str(text) => Some(text),
            _ => None,
        }
    }

    /// A non-negative integer under `key`, whichever integer type it was stored as.
    pub fn u64(&self, key: &str) -> Option<u64> {
        match self.get(key)? {
            Value::U64(n) => Some(*n),
            Value::I64(n) => u64::try_from(*n).ok(),
            _ => None,
        }
    }

    /// A number under `key` as `f64`.
    pub fn f64(&self, key: &str) -> Option<f64> {
        match self.get(key)? {
            Value::F64(x) => Some(*x),
            Value::U64(n) => Some(*n as f64),
            Value::I64(n) => Some(*n as f64),
            _ => None,
        }
    }

    /// A boolean under `key`.
    pub fn bool(&self, key: &str) -> Option<bool> {
        match self.get(key)? {
            Value::Bool(b) => Some(*b),
            _ => None,
        }
    }

    /// Strings under `key`.
    pub fn strings(&self, key: &str) -> Option<&[String]> {
        match self.get(key)? {
            Value::Array(Array::Str(items)) => Some(items),
            _ => None,
        }
    }
}
