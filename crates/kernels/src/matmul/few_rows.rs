//! Decides how few rows are multiplied: every register tile unpacks the weights in its registers.

use super::{Claim, PanelProduct, TileFn, quant::Quant};
use crate::{isa::Kernel, simd::Simd};

/// Products of a few rows with panels of the type that is `DType::ALL[T]`.
pub(super) struct FewRows<'a, const T: usize>(pub(super) Claim<'a>);

impl<const T: usize> Kernel for FewRows<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let most = self.0.x.tile_rows();
        for mut product in self.0.products() {
            product.tiles(s, most, WholePanel::<T>);
        }
    }
}

/// A tile over all of a panel.
struct WholePanel<const T: usize>;

impl<const T: usize, S: Simd> TileFn<S> for WholePanel<T> {
    #[inline(always)]
    fn call<const R: usize>(&mut self, s: S, product: &mut PanelProduct<'_>, row: usize) {
        let first = product.rows.start + row;
        let begin = product.begin(s, row);
        let (x, wide) = (product.x.tile::<R>(first), product.x.wide_tile::<R>(first));
        let y = match s.panel::<Quant<T>, R>(begin, x, wide, product.panel.data) {
            Some(y) => y,
            None => Quant::<T>::add(s, begin, x, wide, product.panel.data, None),
        };
        product.finish(s, row, y);
    }
}
