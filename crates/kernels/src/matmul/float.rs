//! Decides how F32 and F16 are multiplied: `y ← fma(x[k], w[k], y)` for ascending `k`.
#![expect(unsafe_code, reason = "views bytes as floats")]

use super::{Claim, PanelProduct, TileFn};
use crate::{
    DType,
    isa::Kernel,
    simd::{LANES, Simd},
};

/// Products of a type of floats.
pub(super) struct FloatRows<'a>(pub(super) DType, pub(super) Claim<'a>);

impl Kernel for FloatRows<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let FloatRows(dtype, claim) = self;
        let most = S::ROWS;
        for mut product in claim.products() {
            match dtype {
                DType::F32 => product.tiles(s, most, F32),
                DType::F16 => product.tiles(s, most, F16),
                other => unreachable!("{other} is multiplied elsewhere"),
            }
        }
    }
}

macro_rules! float_tile {
    ($name:ident, $element:ty, $load:ident) => {
        struct $name;

        impl<S: Simd> TileFn<S> for $name {
            #[inline(always)]
            fn call<const R: usize>(&mut self, s: S, product: &mut PanelProduct<'_>, row: usize) {
                let first = product.rows.start + row;
                let mut y = product.begin::<S, R>(s, row);
                let x: [&[f32]; R] = std::array::from_fn(|r| product.x.float_row(first + r));
                let weights = product.panel.data.as_chunks::<{ LANES * size_of::<$element>() }>().0;
                for (k, w) in weights.iter().enumerate() {
                    // SAFETY: any bits are a value of the element type; the array has exactly its bytes.
                    let w = s.$load(&unsafe { w.as_ptr().cast::<[$element; LANES]>().read_unaligned() });
                    for r in 0..R {
                        y[r] = s.fma(s.splat(x[r][k]), w, y[r]);
                    }
                }
                product.finish(s, row, y);
            }
        }
    };
}

float_tile!(F32, f32, load);
float_tile!(F16, u16, load_f16);
