//! Decides how the codes and scales of a quantised panel become products, whatever the number of rows.
#![expect(unsafe_code, reason = "views bytes as halves")]

use crate::{
    DType,
    block::{Format, Scales},
    matrix::QuantLayout,
    simd::{ByteBlock, CodeRange, LANES, NIBBLE_BLOCK, QuantWeights, Simd, WideBlock, XBlock, prefetch},
};

/// The quantised type that is `DType::ALL[T]`.
pub(super) struct Quant<const T: usize>;

impl<const T: usize> QuantWeights for Quant<T> {
    const FORMAT: Format = Format::of(DType::ALL[T]).expect("the type is quantised");
    const LAYOUT: QuantLayout = QuantLayout::new(Self::FORMAT);
}

/// The codes of a segment with a byte for each.
pub(super) type Unpacked<'a> = &'a [ByteBlock];

impl<const T: usize> Quant<T> {
    /// Exact integer sums of one block of 32 inputs.
    #[inline(always)]
    pub(super) fn products<S: Simd, const R: usize>(
        s: S,
        w: &[u8],
        x: &XBlock<R>,
        wide: &[WideBlock; R],
    ) -> [[S::I; R]; 2] {
        let Format { range, zero, affine: _, scales: _, halves } = Self::FORMAT;
        let zero = i16::from(zero);
        // Codes of four bits that have been unpacked are bytes.
        if range == CodeRange::Bits4 && w.len() == NIBBLE_BLOCK {
            let w = w.first_chunk().expect("a block of codes");
            if halves { s.nibbles::<R, true>(w, x, zero) } else { s.nibbles::<R, false>(w, x, zero) }
        } else {
            let w = w.first_chunk().expect("a block of codes");
            if halves {
                s.bytes::<R, true>(w, range, x, wide, zero)
            } else {
                s.bytes::<R, false>(w, range, x, wide, zero)
            }
        }
    }

    /// Scale and minimum of one sub-block: `d` and `min` times their factors where the format has some.
    #[inline(always)]
    pub(super) fn scales<S: Simd>(s: S, d: S::F, min: S::F, factors: &[u8], sub: usize) -> (S::F, S::F) {
        match Self::FORMAT.scales {
            Scales::Half => (d, min),
            Scales::Super => {
                let factor = |at: usize| {
                    let bytes: &[u8; LANES] = factors[at * LANES..].first_chunk().expect("sixteen factors");
                    // Factors of minima are below 64, so that they are the same number as signed bytes.
                    s.load_i8(&bytes.map(|byte| byte as i8))
                };
                let subs = if Self::FORMAT.halves { 2 } else { 1 };
                let scale = s.mul(d, factor(sub));
                (scale, if Self::FORMAT.affine { s.mul(min, factor(subs + sub)) } else { min })
            }
        }
    }

    /// Adds the products with some groups of a panel to `y`.
    #[inline(always)]
    pub(super) fn add<S: Simd, const R: usize>(
        s: S,
        mut y: [S::F; R],
        x: &[XBlock<R>],
        wide: &[[WideBlock; R]],
        groups: &[u8],
        unpacked: Option<Unpacked<'_>>,
    ) -> [S::F; R] {
        let (format, layout) = (Self::FORMAT, Self::LAYOUT);
        let wide = if S::WIDE && format.range == CodeRange::Bits8 { Some(wide) } else { None };
        for (group, data) in groups.chunks_exact(layout.group()).enumerate() {
            if unpacked.is_none() {
                prefetch(data);
            }
            let (codes, scales) = data.split_at(layout.codes * layout.blocks);
            let (d, min) = Self::heads(s, scales);
            for block in 0..layout.blocks {
                let at = group * layout.blocks + block;
                let x = &x[at];
                let wide = match wide {
                    Some(wide) => &wide[at],
                    None => const { &[WideBlock([0; 32]); R] },
                };
                let codes = match unpacked {
                    Some(unpacked) => &unpacked[at].0[..],
                    None => &codes[block * layout.codes..][..layout.codes],
                };
                let sums = Self::products::<S, R>(s, codes, x, wide);
                let factors = &scales[layout.head + block * layout.factors..];
                for sub in 0..if format.halves { 2 } else { 1 } {
                    let (scale, min) = Self::scales(s, d, min, factors, sub);
                    for r in 0..R {
                        let dx = s.splat(x.scale[r]);
                        y[r] = s.fma(s.mul(scale, dx), s.to_float(sums[sub][r]), y[r]);
                        if format.affine {
                            let weighted = if format.halves {
                                x.scale[r] * f32::from(x.sums[r][sub])
                            } else {
                                x.weighted[r]
                            };
                            y[r] = s.fma(min, s.splat(weighted), y[r]);
                        }
                    }
                }
            }
        }
        y
    }

    /// Scales and minima of a group before any factors.
    #[inline(always)]
    pub(super) fn heads<S: Simd>(s: S, scales: &[u8]) -> (S::F, S::F) {
        let d = half_lanes(s, &scales[..2 * LANES]);
        let min = match (Self::FORMAT.affine, Self::FORMAT.scales) {
            (false, _) => d,
            (true, Scales::Half) => half_lanes(s, &scales[2 * LANES..]),
            // These formats subtract their minima.
            (true, Scales::Super) => s.sub(s.splat(0.0), half_lanes(s, &scales[2 * LANES..])),
        };
        (d, min)
    }
}

/// Sixteen half-precision numbers.
#[inline(always)]
fn half_lanes<S: Simd>(s: S, bytes: &[u8]) -> S::F {
    let bytes: &[u8; 2 * LANES] = bytes.first_chunk().expect("sixteen halves");
    // SAFETY: any bits are integers; the array has exactly their bytes.
    s.load_f16(&unsafe { bytes.as_ptr().cast::<[u16; LANES]>().read_unaligned() })
}
