//! Decides what somebody who wants to know a model's activations gets to see: what every matrix product reads, as floats,
//! before it is rounded. Nothing is made or kept for a pass that nobody watches.

use wharf_kernels::Team;

/// Which of a layer's products, or the one behind all layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Matrix {
    /// Queries, keys and values; reads the normed stream.
    Qkv,
    /// The attention output projection; reads what attention found.
    O,
    /// Gate and up; reads the normed stream.
    GateUp,
    /// Back to the stream's width; reads the gated activations.
    Down,
    /// The output projection; reads the normed stream of the rows whose logits are wanted.
    Output,
}

/// Rows that a product is about to read. A pass of many rows may show a product's rows in several pieces, in order.
#[derive(Clone, Copy, Debug)]
pub struct Observed<'a> {
    /// The layer, counted over the whole model; `None` for [`Matrix::Output`].
    pub layer: Option<usize>,
    /// The product.
    pub matrix: Matrix,
    /// `(rows, width)`.
    pub rows: &'a [f32],
    /// Length of a row.
    pub width: usize,
}

/// Is shown the rows of every product, on the thread that computes the pass.
pub type Observer = Box<dyn FnMut(Observed<'_>) + Send>;

/// Rows that a product reads, each made where it is quantised.
pub(super) struct Rows<'a> {
    pub(super) rows: usize,
    pub(super) width: usize,
    pub(super) make: &'a (dyn Fn(usize, &mut [f32]) + Sync),
}

/// The observer, if there is one, and a buffer for what it is shown.
#[derive(Default)]
pub(super) struct Watch {
    pub(super) observer: Option<Observer>,
    shown: Vec<f32>,
}

impl Watch {
    /// Shows the rows of one product.
    pub(super) fn see(&mut self, team: &Team, layer: Option<usize>, matrix: Matrix, rows: &Rows<'_>) {
        let Some(observer) = &mut self.observer else { return };
        let &Rows { rows, width, make } = rows;
        self.shown.resize(rows * width, 0.0);
        team.for_each_chunk(&mut self.shown, width, 4, make);
        observer(Observed { layer, matrix, rows: &self.shown, width });
    }
}
