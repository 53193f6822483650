//! Decides which bytes of a tensor a rank's part of it is. Rows are borrowed, columns copied.

use std::borrow::Cow;

use super::TensorView;
use crate::shard::Cut;

/// A part of a tensor: rows of GGML blocks, as a [`TensorView`] has them.
#[derive(Clone, Debug)]
pub struct CutView<'a> {
    /// The whole tensor.
    pub whole: TensorView<'a>,
    /// Rows of the part.
    pub rows: usize,
    /// Elements per row of the part.
    pub cols: usize,
    /// `rows` rows, each `dtype.bytes_for(cols)` bytes.
    pub data: Cow<'a, [u8]>,
}

impl<'a> TensorView<'a> {
    /// A part of the tensor.
    ///
    /// # Panics
    /// When the tensor has no such part, or columns do not begin and end at blocks: a plan made for this model has only others.
    pub fn cut(self, cut: &Cut) -> CutView<'a> {
        let bytes = |cols| self.dtype.bytes_for(cols).expect("a plan cuts columns at blocks");
        let row = bytes(self.cols);
        match cut {
            Cut::Whole => {
                CutView { whole: self, rows: self.rows, cols: self.cols, data: Cow::Borrowed(self.data) }
            }
            Cut::Rows(range) => CutView {
                whole: self,
                rows: range.len(),
                cols: self.cols,
                data: Cow::Borrowed(&self.data[range.start * row..range.end * row]),
            },
            Cut::Columns(range) => {
                let (first, end) = (bytes(range.start), bytes(range.end));
                let mut data = Vec::with_capacity(self.rows * (end - first));
                self.data.chunks_exact(row).for_each(|row| data.extend_from_slice(&row[first..end]));
                CutView { whole: self, rows: self.rows, cols: range.len(), data: Cow::Owned(data) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use wharf_kernels::DType;
    use wharf_kernels::block::{dequantize, quantize};

    use super::*;

    #[test]
    fn a_part_decodes_to_what_is_there_in_the_whole() {
        let values: Vec<f32> = (0..3 * 96).map(|i| (i % 17) as f32 - 8.0).collect();
        for dtype in [DType::F32, DType::Q8_0, DType::Q4_0] {
            let data = quantize(dtype, &values).unwrap();
            let view = TensorView {
                name: "a",
                dtype,
                rows: 3,
                cols: 96,
                data: &data,
                rounding: wharf_kernels::Rounding::Rows,
                file: 0,
                offset: 0,
                stored: 0,
            };
            let decode = |data: &[u8], len| {
                let mut values = vec![0.0; len];
                dequantize(dtype, data, &mut values).unwrap();
                values
            };
            let whole = decode(&data, 3 * 96);
            let rows = view.cut(&Cut::Rows(1..3));
            assert_eq!((rows.rows, rows.cols), (2, 96));
            assert_eq!(decode(&rows.data, 192), whole[96..]);
            let columns = view.cut(&Cut::Columns(32..96));
            assert_eq!((columns.rows, columns.cols), (3, 64));
            let expected: Vec<f32> = whole.chunks(96).flat_map(|row| &row[32..]).copied().collect();
            assert_eq!(decode(&columns.data, 192), expected);
            assert_eq!(view.cut(&Cut::Whole).data, data);
        }
    }
}
