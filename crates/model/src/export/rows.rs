//! Decides which row of a query or key projection is written where: formats pair the elements of a rotation differently.

/// In which order the rows of a matrix (or the elements of a bias) are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowOrder {
    /// As they are.
    Same,
    /// Within each head of `head_dim` rows, elements `i` and `i + head_dim / 2` become neighbours (from Hugging Face's order of
    /// Llama to GGUF's).
    Interleave {
        /// Rows of a head, an even number.
        head_dim: usize,
    },
    /// The way back.
    Separate {
        /// Rows of a head, an even number.
        head_dim: usize,
    },
}

impl RowOrder {
    /// The row that is written as row `row`.
    pub fn source(self, row: usize) -> usize {
        match self {
            RowOrder::Same => row,
            RowOrder::Interleave { head_dim } => {
                let (head, at) = (row / head_dim * head_dim, row % head_dim);
                head + at / 2 + at % 2 * (head_dim / 2)
            }
            RowOrder::Separate { head_dim } => {
                let (head, at) = (row / head_dim * head_dim, row % head_dim);
                let half = head_dim / 2;
                head + at % half * 2 + at / half
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_of_a_head_alternate_in_gguf() {
        let order = RowOrder::Interleave { head_dim: 6 };
        assert_eq!(
            (0..12).map(|row| order.source(row)).collect::<Vec<_>>(),
            [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]
        );
    }

    #[test]
    fn there_and_back_is_the_same() {
        let (there, back) = (RowOrder::Interleave { head_dim: 8 }, RowOrder::Separate { head_dim: 8 });
        for row in 0..24 {
            assert_eq!(there.source(back.source(row)), row);
        }
    }
}
