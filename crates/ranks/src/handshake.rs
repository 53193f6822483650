//! Decides who belongs to a group: ranks of one kind, one size, one program and one model, each there once.
//!
//! A rank that does not fit is told what differs, and so is whoever started the leader: the group cannot come about. Whoever does
//! not speak our language or does not know the key is a stranger, who is sent away and changes nothing.

use std::fmt;

use subtle::ConstantTimeEq;
use wharf_engine::cpu::KvType;

use crate::wire::{PROTOCOL, Reader, WireError, put_text};

/// How a model is spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Every rank has a part of every layer.
    Tensor,
    /// Every rank has some layers.
    Pipeline,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Tensor => "tensor-parallel",
            Kind::Pipeline => "pipeline-parallel",
        })
    }
}

/// What all ranks of a group have in common, and which one this is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// How the model is spread.
    pub kind: Kind,
    /// Ranks.
    pub size: usize,
    /// Which one.
    pub rank: usize,
    /// Version of the program.
    pub version: String,
    /// Digest of the model.
    pub model: [u8; 32],
}

/// What the leader decides for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setup {
    /// Tokens that KV memory holds.
    pub kv_tokens: usize,
    /// How they are stored.
    pub kv_type: KvType,
    /// Most tokens of one pass.
    pub max_batch_tokens: usize,
    /// File descriptor of shared memory that a worker on the same host has inherited.
    pub shared: Option<u32>,
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Channel {
    /// Batches and values.
    Data,
    /// Beats.
    Watch,
}

/// What a worker says first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) identity: Identity,
    pub(crate) channel: Channel,
    pub(crate) key: String,
}

const MAGIC: &[u8; 8] = b"wharfrnk";

/// Longest greeting that is read.
pub(crate) const MOST_GREETING: usize = 16 << 10;

impl Hello {
    pub(crate) fn encode(&self, to: &mut Vec<u8>) {
        let Hello { identity, channel, key } = self;
        let Identity { kind, size, rank, version, model } = identity;
        to.extend_from_slice(MAGIC);
        to.extend(PROTOCOL.to_le_bytes());
        put_text(to, version);
        to.push(match kind {
            Kind::Tensor => 0,
            Kind::Pipeline => 1,
        });
        to.push(match channel {
            Channel::Data => 0,
            Channel::Watch => 1,
        });
        to.extend((*size as u32).to_le_bytes());
        to.extend((*rank as u32).to_le_bytes());
        to.extend_from_slice(model);
        put_text(to, key);
    }

    /// What follows the version is only read when the protocol is ours.
    pub(crate) fn decode(payload: &[u8]) -> Result<Greeting, WireError> {
        const WHAT: &str = "greeting";
        let mut reader = Reader::new(payload, WHAT);
        if reader.array::<8>()? != *MAGIC {
            return Err(WireError::Payload(WHAT));
        }
        let protocol = reader.u32()?;
        let version = reader.text()?;
        if protocol != PROTOCOL {
            return Ok(Greeting::OtherProtocol { protocol, version });
        }
        let kind = match reader.u8()? {
            0 => Kind::Tensor,
            1 => Kind::Pipeline,
            _ => return Err(WireError::Payload(WHAT)),
        };
        let channel = match reader.u8()? {
            0 => Channel::Data,
            1 => Channel::Watch,
            _ => return Err(WireError::Payload(WHAT)),
        };
        let (size, rank) = (reader.u32()? as usize, reader.u32()? as usize);
        let (model, key) = (reader.array()?, reader.text()?);
        reader.end()?;
        Ok(Greeting::Hello(Hello { identity: Identity { kind, size, rank, version, model }, channel, key }))
    }

    /// Whether it knows the key, in a time that does not depend on how much of it.
    pub(crate) fn knows(&self, key: &str) -> bool {
        key.is_empty() || bool::from(self.key.as_bytes().ct_eq(key.as_bytes()))
    }
}

/// A greeting as far as it can be understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Greeting {
    Hello(Hello),
    OtherProtocol { protocol: u32, version: String },
}

impl Identity {
    /// What keeps another rank out of the group that this one leads.
    pub(crate) fn differs(&self, other: &Identity) -> Option<String> {
        let Identity { kind, size, rank: _, version, model } = self;
        let rank = other.rank;
        if *version != other.version {
            return Some(format!("rank {rank} runs wharf {}, the leader {version}", other.version));
        }
        if *kind != other.kind || *size != other.size {
            return Some(format!(
                "rank {rank} is one of {} {} ranks, the leader one of {size} {kind} ranks",
                other.size, other.kind
            ));
        }
        if rank == 0 || rank >= *size {
            return Some(format!("rank {rank} is not one of 1 to {}: rank 0 is the leader", size - 1));
        }
        if *model != other.model {
            return Some(format!(
                "rank {rank} has another model: its digest is {}, the leader's {}",
                hex(&other.model),
                hex(model)
            ));
        }
        None
    }
}

/// Enough of a digest to tell it from another.
fn hex(digest: &[u8; 32]) -> String {
    digest[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Setup {
    pub(crate) fn encode(&self, to: &mut Vec<u8>) {
        let Setup { kv_tokens, kv_type, max_batch_tokens, shared } = self;
        put_text(to, kv_type.name());
        to.extend((*kv_tokens as u64).to_le_bytes());
        to.extend((*max_batch_tokens as u64).to_le_bytes());
        to.extend(shared.unwrap_or(u32::MAX).to_le_bytes());
    }

    pub(crate) fn decode(payload: &[u8]) -> Result<Setup, WireError> {
        const WHAT: &str = "welcome";
        let mut reader = Reader::new(payload, WHAT);
        let kv_type = KvType::by_name(&reader.text()?).ok_or(WireError::Payload(WHAT))?;
        let mut number = || {
            let number = u64::from_le_bytes(reader.array()?);
            usize::try_from(number).map_err(|_| WireError::Payload(WHAT))
        };
        let (kv_tokens, max_batch_tokens) = (number()?, number()?);
        let shared = Some(reader.u32()?).filter(|shared| *shared != u32::MAX);
        reader.end()?;
        Ok(Setup { kv_tokens, kv_type, max_batch_tokens, shared })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn identity(rank: usize) -> Identity {
        Identity { kind: Kind::Tensor, size: 3, rank, version: "1.0".into(), model: [7; 32] }
    }

    #[test]
    fn greetings_arrive_as_they_were_sent() {
        let hello = Hello { identity: identity(2), channel: Channel::Watch, key: "open".into() };
        let mut bytes = Vec::new();
        hello.encode(&mut bytes);
        assert_eq!(Hello::decode(&bytes).unwrap(), Greeting::Hello(hello.clone()));
        for len in 0..bytes.len() {
            assert!(Hello::decode(&bytes[..len]).is_err());
        }
        bytes[8] ^= 2;
        let other = Greeting::OtherProtocol { protocol: PROTOCOL ^ 2, version: "1.0".into() };
        assert_eq!(Hello::decode(&bytes).unwrap(), other);
        assert!(hello.knows("open") && hello.knows("") && !hello.knows("other"));
        for shared in [None, Some(5)] {
            let setup = Setup { kv_tokens: 100, kv_type: KvType::Int8, max_batch_tokens: 64, shared };
            let mut bytes = Vec::new();
            setup.encode(&mut bytes);
            assert_eq!(Setup::decode(&bytes).unwrap(), setup);
        }
    }

    #[test]
    fn what_differs_is_named() {
        let leader = identity(0);
        let rank = identity(1);
        let table = [
            (rank.clone(), None),
            (
                Identity { version: "1.1".into(), ..rank.clone() },
                Some("rank 1 runs wharf 1.1, the leader 1.0"),
            ),
            (
                Identity { size: 2, ..rank.clone() },
                Some("rank 1 is one of 2 tensor-parallel ranks, the leader one of 3 tensor-parallel ranks"),
            ),
            (
                Identity { kind: Kind::Pipeline, ..rank.clone() },
                Some("rank 1 is one of 3 pipeline-parallel ranks, the leader one of 3 tensor-parallel ranks"),
            ),
            (identity(0), Some("rank 0 is not one of 1 to 2: rank 0 is the leader")),
            (identity(3), Some("rank 3 is not one of 1 to 2: rank 0 is the leader")),
            (
                Identity { model: [8; 32], ..rank },
                Some(
                    "rank 1 has another model: its digest is 0808080808080808, the leader's 0707070707070707",
                ),
            ),
        ];
        for (other, expected) in table {
            assert_eq!(leader.differs(&other).as_deref(), expected);
        }
    }

    proptest! {
        #[test]
        fn foreign_greetings_do_not_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..120), ours: bool) {
            if ours && bytes.len() > 12 {
                bytes[..8].copy_from_slice(MAGIC);
                bytes[8..12].copy_from_slice(&PROTOCOL.to_le_bytes());
            }
            let _ = (Hello::decode(&bytes), Setup::decode(&bytes));
        }
    }
}
