//! Decides which instruction set a kernel runs on: detected once, carried as a value that proves it.
#![cfg_attr(
    target_arch = "x86_64",
    expect(unsafe_code, reason = "calls functions compiled for instructions that the value proves present")
)]

use std::fmt;

use crate::simd::scalar::Scalar;
use crate::simd::{Bf16Order, Many, Simd};
#[cfg(target_arch = "x86_64")]
use crate::simd::{
    amx,
    avx2::Avx2,
    avx512::{self, Avx512, DOT_BF16, MATRIX, PLAIN},
};

/// An instruction set that this CPU has. Results do not depend on it, but for products of bf16 weights: instructions for bf16 add in
/// an order of their own, so that `avx512-bf16` and `avx512-amx` each have other last bits than the rest, which are all alike.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Isa(Kind);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512<PLAIN>),
    #[cfg(target_arch = "x86_64")]
    Bf16(Avx512<DOT_BF16>),
    #[cfg(target_arch = "x86_64")]
    Amx(Avx512<MATRIX>),
}

impl Isa {
    /// Portable code, on every CPU.
    pub const SCALAR: Isa = Isa(Kind::Scalar);

    /// The fastest instruction set of this CPU.
    pub fn detect() -> Isa {
        Isa::available().pop().expect("scalar is always available")
    }

    /// Every instruction set of this CPU, slowest first.
    pub fn available() -> Vec<Isa> {
        #[cfg_attr(not(target_arch = "x86_64"), expect(unused_mut, reason = "x86-64 adds to it"))]
        let mut found = vec![Isa::SCALAR];
        #[cfg(target_arch = "x86_64")]
        {
            found.extend(Avx2::detect().map(|proof| Isa(Kind::Avx2(proof))));
            let avx512 = Avx512::detect();
            let sets = [
                avx512.map(|proof| Isa(Kind::Avx512(proof))),
                avx512.and_then(Avx512::with_bf16).map(|proof| Isa(Kind::Bf16(proof))),
            ];
            let order = if avx512::bf16_is_faster() { [0, 1] } else { [1, 0] };
            found.extend(order.into_iter().filter_map(|at| sets[at]));
            found.extend(amx::detect().map(|proof| Isa(Kind::Amx(proof))));
        }
        found
    }

    /// `scalar`, `avx2`, `avx512-vnni`, `avx512-bf16` or `avx512-amx`.
    pub fn name(self) -> &'static str {
        match self.0 {
            Kind::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512(_) => "avx512-vnni",
            #[cfg(target_arch = "x86_64")]
            Kind::Bf16(_) => "avx512-bf16",
            #[cfg(target_arch = "x86_64")]
            Kind::Amx(_) => "avx512-amx",
        }
    }

    /// The instruction set of that name, if this CPU has it.
    pub fn by_name(name: &str) -> Option<Isa> {
        Isa::available().into_iter().find(|isa| isa.name() == name)
    }

    /// Whether products of byte weights read 16-bit activations.
    pub(crate) fn wide(self) -> bool {
        self.run(Wide)
    }

    /// Rows of activations that a register tile holds at most.
    pub(crate) fn tile_rows(self) -> usize {
        self.run(TileRows)
    }

    /// In which order products of bf16 are summed.
    pub(crate) fn bf16(self) -> Bf16Order {
        self.run(OrderOfBf16)
    }

    /// What becomes of a panel that many rows share.
    pub(crate) fn many(self) -> Many {
        self.run(WhatOfMany)
    }

    /// Runs `kernel` compiled for this instruction set.
    #[inline]
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Out {
        match self.0 {
            Kind::Scalar => kernel.run(Scalar),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the value proves the features that the function is compiled for.
            Kind::Avx2(proof) => unsafe { run_avx2(proof, kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Kind::Avx512(proof) => unsafe { run_avx512(proof, kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Kind::Bf16(proof) if K::BF16 => unsafe { run_avx512_bf16(proof, kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Kind::Bf16(proof) => unsafe { run_avx512(proof.plain(), kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Kind::Amx(proof) if K::TILES => unsafe { run_avx512(proof, kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Kind::Amx(proof) => unsafe { run_avx512(proof.plain(), kernel) },
        }
    }
}

/// A constant of the instruction set.
macro_rules! constant {
    ($name:ident, $constant:ident: $type:ty) => {
        struct $name;

        impl Kernel for $name {
            const TILES: bool = true;
            const BF16: bool = true;
            type Out = $type;

            #[inline(always)]
            fn run<S: Simd>(self, _: S) -> $type {
                S::$constant
            }
        }
    };
}

constant!(OrderOfBf16, BF16: Bf16Order);
constant!(TileRows, ROWS: usize);
constant!(WhatOfMany, MANY: Many);
constant!(Wide, WIDE: bool);

/// An algorithm over sixteen lanes. `run` must be `#[inline(always)]`, and so must everything hot below it:
/// what is not inlined into the function that enables the instructions is compiled without them.
pub(crate) trait Kernel {
    /// Whether it uses a matrix unit where there is one. Any other kernel is the same with and without, and is compiled once for
    /// both.
    const TILES: bool = false;
    /// Whether it uses the dot product of bf16 where there is one, likewise.
    const BF16: bool = false;
    /// What it returns.
    type Out;
    /// The algorithm.
    fn run<S: Simd>(self, s: S) -> Self::Out;
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn run_avx2<K: Kernel>(proof: Avx2, kernel: K) -> K::Out {
    kernel.run(proof)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn run_avx512<K: Kernel, const UNIT: u8>(proof: Avx512<UNIT>, kernel: K) -> K::Out {
    kernel.run(proof)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16")]
fn run_avx512_bf16<K: Kernel>(proof: Avx512<DOT_BF16>, kernel: K) -> K::Out {
    kernel.run(proof)
}

impl fmt::Debug for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Isa({})", self.name())
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_available_set_is_found_by_its_name() {
        for isa in Isa::available() {
            assert_eq!(Isa::by_name(isa.name()), Some(isa));
        }
        assert_eq!(Isa::by_name("mmx"), None);
    }
}
