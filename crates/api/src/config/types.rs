//! Values that configuration fields hold beyond numbers and strings.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A number of bytes, written as a number or with a unit: `1073741824`, `"512MiB"`, `"2G"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// Parses `512`, `16MiB`, `2Gi`, `1.5GB`: binary units with `i`, decimal ones without.
    ///
    /// # Errors
    /// A sentence for the person who wrote the value.
    pub fn parse(text: &str) -> Result<ByteSize, String> {
        let text = text.trim();
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let wrong = || format!("{text:?} is not a size; write bytes or a unit, such as 512MiB or 2GiB");
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let scale: f64 = match unit.trim().to_ascii_lowercase().trim_end_matches('b') {
            "" => 1.0,
            "k" => 1e3,
            "m" => 1e6,
            "g" => 1e9,
            "t" => 1e12,
            "ki" => 1024.0,
            "mi" => 1048576.0,
            "gi" => 1073741824.0,
            "ti" => 1099511627776.0,
            _ => return Err(wrong()),
        };
        let bytes = number * scale;
        if !(0.0..=9.0e15).contains(&bytes) {
            return Err(format!("{text:?} is out of range for a size in bytes"));
        }
        Ok(ByteSize(bytes as u64))
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = ByteSize;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of bytes or a size with a unit, such as 512MiB")
            }
            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<ByteSize, E> {
                Ok(ByteSize(bytes))
            }
            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<ByteSize, E> {
                u64::try_from(bytes).map(ByteSize).map_err(|_| E::custom("a size cannot be negative"))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<ByteSize, E> {
                ByteSize::parse(text).map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

/// A value that must not reach a log: it prints and serialises as `***`.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(value: String) -> Secret {
        Secret(value)
    }

    /// The secret itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("***")
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object per line, for log pipelines.
    Json,
    /// For people.
    Text,
}

/// How keys and values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum KvCacheDtype {
    /// Half precision.
    F16,
    /// Signed bytes with a scale for each key and each value.
    Int8,
}

/// What computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// A GPU where there is one that the model fits on, else the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// An NVIDIA GPU, by its number.
    Cuda(usize),
}

impl Device {
    /// Parses `auto`, `cpu`, `cuda` or `cuda:1`.
    fn parse(text: &str) -> Option<Device> {
        match text.trim() {
            "auto" => Some(Device::Auto),
            "cpu" => Some(Device::Cpu),
            "cuda" => Some(Device::Cuda(0)),
            other => other.strip_prefix("cuda:")?.parse().ok().map(Device::Cuda),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Auto => f.write_str("auto"),
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(0) => f.write_str("cuda"),
            Device::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

impl Serialize for Device {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Device {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Device::parse(&text).ok_or_else(|| {
            let expected = &"auto, cpu, cuda, or cuda:N for the GPU with the number N";
            de::Error::invalid_value(de::Unexpected::Str(&text), expected)
        })
    }
}

/// Whether compute threads keep to a CPU each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CpuPinning {
    /// The system places them.
    Off,
    /// One CPU for each.
    On,
}

impl<'de> Deserialize<'de> for CpuPinning {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = CpuPinning;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("on or off")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<CpuPinning, E> {
                match text.trim() {
                    "on" => Ok(CpuPinning::On),
                    "off" => Ok(CpuPinning::Off),
                    _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }
            // YAML 1.1 reads an unquoted `off` as false.
            fn visit_bool<E: de::Error>(self, on: bool) -> Result<CpuPinning, E> {
                Ok(if on { CpuPinning::On } else { CpuPinning::Off })
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// When the engine guesses tokens to compute several of an answer in one step: `auto`, `off`, or a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speculation {
    /// As many as were worth it lately, none among many streams.
    Auto,
    /// Never.
    Off,
    /// Up to this many in every step.
    UpTo(u8),
}

impl Speculation {
    /// The largest number.
    pub const MOST: u8 = 16;

    fn parse(text: &str) -> Option<Speculation> {
        match text.trim() {
            "auto" => Some(Speculation::Auto),
            "off" => Some(Speculation::Off),
            number => Speculation::up_to(number.parse().ok()?),
        }
    }

    fn up_to(tokens: u64) -> Option<Speculation> {
        match u8::try_from(tokens) {
            Ok(0) => Some(Speculation::Off),
            Ok(tokens) if tokens <= Speculation::MOST => Some(Speculation::UpTo(tokens)),
            Ok(_) | Err(_) => None,
        }
    }
}

impl<'de> Deserialize<'de> for Speculation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Speculation;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "auto, off, or a number of tokens up to {}", Speculation::MOST)
            }
            fn visit_u64<E: de::Error>(self, tokens: u64) -> Result<Speculation, E> {
                let value = Speculation::up_to(tokens);
                value.ok_or_else(|| E::invalid_value(de::Unexpected::Unsigned(tokens), &self))
            }
            fn visit_i64<E: de::Error>(self, tokens: i64) -> Result<Speculation, E> {
                let value = u64::try_from(tokens).ok().and_then(Speculation::up_to);
                value.ok_or_else(|| E::invalid_value(de::Unexpected::Signed(tokens), &self))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Speculation, E> {
                let value = Speculation::parse(text);
                value.ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
            // YAML 1.1 reads an unquoted `off` as false.
            fn visit_bool<E: de::Error>(self, on: bool) -> Result<Speculation, E> {
                Ok(if on { Speculation::Auto } else { Speculation::Off })
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl Serialize for Speculation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Speculation::Auto => serializer.serialize_str("auto"),
            Speculation::Off => serializer.serialize_str("off"),
            Speculation::UpTo(tokens) => serializer.serialize_u8(*tokens),
        }
    }
}
