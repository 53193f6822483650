//! Decides where each weight comes from: packed from the model's tensors, or as an earlier start has packed it.
//!
//! Both ways ask for the weights in the same order, which is the order of the sections in kept packs. With a pack the model's
//! tensors are not read: only what its header says about them. Without, pages of the model's file are given back as soon as
//! they are packed.

use std::io;

use wharf_kernels::{PackedMatrix, Part, Rounding, Team, block};
use wharf_model::shard::Cut;
use wharf_model::weights::{CutView, TensorView};
use wharf_model::{ModelConfig, Role, Weights};

use super::pack_cache::{PackCache, PackReader, PackWriter, Place};
use super::share::{Shard, Share};
use super::weights::{CpuWeights, Embedding, Head, LayerWeights, Linear, LoadError, Table};

/// A part of a model and who packs it.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) config: &'a ModelConfig,
    pub(super) weights: &'a Weights,
    pub(super) share: &'a Share,
    /// The rank's part of each of those weights; all of them without.
    pub(super) shard: Option<&'a Shard>,
    pub(super) team: &'a Team,
}

/// Takes over every weight; `loaded(done, total)` is called after each layer, in matrices.
pub(super) fn load(
    source: Source<'_>,
    cache: Option<&PackCache>,
    loaded: &mut dyn FnMut(usize, usize),
) -> Result<CpuWeights, LoadError> {
    let Some(cache) = cache else {
        return Loader { source, packs: Packs::Fresh }.load(loaded);
    };
    let place = Place::of(cache, source);
    if let Some(pack) = place.open(cache.check, source.team) {
        match (Loader { source, packs: Packs::Kept(pack) }).load(loaded) {
            Err(LoadError::Kept(fault)) => place.refuse(&fault),
            Ok(weights) => {
                place.used();
                return Ok(weights);
            }
            Err(error) => return Err(error),
        }
    }
    let packs = match place.create() {
        Some(writer) => Packs::Keeping(writer, &place),
        None => Packs::Fresh,
    };
    Loader { source, packs }.load(loaded)
}

/// Where packed weights come from, and go to.
enum Packs<'a> {
    /// From the model.
    Fresh,
    /// From the model, and into a file on the way.
    Keeping(PackWriter, &'a Place),
    /// From such a file.
    Kept(PackReader),
}

struct Loader<'a> {
    source: Source<'a>,
    packs: Packs<'a>,
}

impl<'a> Loader<'a> {
    fn load(mut self, loaded: &mut dyn FnMut(usize, usize)) -> Result<CpuWeights, LoadError> {
        let Source { config, weights: _, share, shard, team } = self.source;
        let total = share.layers.len() + 1;
        let mut layers = Vec::with_capacity(share.layers.len());
        for index in share.layers.clone() {
            layers.push(self.layer(index)?);
            loaded(layers.len(), total);
        }
        let norm = if share.predicts { Some(self.norm(None, Role::OutputNorm)?) } else { None };
        let tied = config.tied_embeddings && share.predicts;
        let embedding = match share.embeds {
            true if tied => Some(Embedding::Tied),
            true => Some(self.table(Role::TokenEmbedding)?),
            false => None,
        };
        let head = match norm {
            Some(norm) => Some(Head { norm, output: self.matrix(&[self.view(None, Role::Output)?])? }),
            None => None,
        };
        match self.packs {
            Packs::Fresh => {}
            Packs::Keeping(writer, place) => place.commit(writer, team),
            Packs::Kept(pack) => pack.finish()?,
        }
        loaded(total, total);
        let vocab = shard.map_or(0..config.vocab_size, |shard| shard.mine().vocab.clone());
        Ok(CpuWeights { layers, head, embedding, vocab })
    }

    fn layer(&mut self, index: usize) -> Result<LayerWeights, LoadError> {
        let layer = Some(index);
        Ok(LayerWeights {
            attn_norm: self.norm(layer, Role::AttnNorm)?,
            qkv: self.linear(
                layer,
                &[Role::Q, Role::K, Role::V],
                &[Role::QBias, Role::KBias, Role::VBias],
            )?,
            q_norm: self.norm(layer, Role::QNorm)?,
            k_norm: self.norm(layer, Role::KNorm)?,
            o: self.linear(layer, &[Role::O], &[Role::OBias])?,
            post_attn_norm: self.norm(layer, Role::PostAttnNorm)?,
            ffn_norm: self.norm(layer, Role::FfnNorm)?,
            gate_up: self.linear(layer, &[Role::Gate, Role::Up], &[])?.matrix,
            down: self.linear(layer, &[Role::Down], &[])?,
            post_ffn_norm: self.norm(layer, Role::PostFfnNorm)?,
        })
    }

    fn linear(
        &mut self,
        layer: Option<usize>,
        matrices: &[Role],
        biases: &[Role],
    ) -> Result<Linear, LoadError> {
        let weights = self.source.weights;
        let views =
            matrices.iter().map(|role| self.view(layer, *role)).collect::<Result<Vec<_>, LoadError>>()?;
        let matrix = self.matrix(&views)?;
        let biases: Vec<Option<CutView<'a>>> = biases
            .iter()
            .map(|role| weights.optional(layer, *role).map(|view| self.cut(view, *role)))
            .collect();
        if biases.iter().all(Option::is_none) {
            return Ok(Linear { matrix, bias: Vec::new() });
        }
        let bias = self.floats(matrix.n(), |bias| {
            let mut first = 0;
            for (view, values) in views.iter().zip(&biases) {
                // Parts without a bias of their own (fused QKV where only Q has one) add zero.
                if let Some(values) = values {
                    decode(values, &mut bias[first..first + view.rows])?;
                }
                first += view.rows;
            }
            Ok(())
        })?;
        Ok(Linear { matrix, bias })
    }

    /// What this stage holds of a weight.
    fn view(&self, layer: Option<usize>, role: Role) -> Result<CutView<'a>, LoadError> {
        Ok(self.cut(self.source.weights.matrix(layer, role)?, role))
    }

    fn cut(&self, view: TensorView<'a>, role: Role) -> CutView<'a> {
        self.source.weights.part(view, role, self.source.shard.map(Shard::mine))
    }

    /// A norm's weights with the architecture's offset; empty when the architecture has no such norm.
    fn norm(&mut self, layer: Option<usize>, role: Role) -> Result<Vec<f32>, LoadError> {
        let Some(view) = self.source.weights.optional(layer, role) else { return Ok(Vec::new()) };
        let view = view.cut(&Cut::Whole);
        let offset = self.source.config.norm_offset;
        self.floats(view.rows * view.cols, |values| {
            decode(&view, values)?;
            values.iter_mut().for_each(|value| *value += offset);
            Ok(())
        })
    }

    fn matrix(&mut self, views: &[CutView<'_>]) -> Result<PackedMatrix, LoadError> {
        let parts: Vec<Part<'_>> = views
            .iter()
            .map(|view| Part { dtype: view.whole.dtype, rows: view.rows, data: &view.data })
            .collect();
        let rounding = rounding(views.iter().map(|view| view.whole.rounding));
        if let Packs::Kept(pack) = &mut self.packs {
            return Ok(pack.matrix(&parts, views[0].cols)?.with_rounding(rounding));
        }
        let packed = PackedMatrix::pack(&parts, views[0].cols, self.source.team)
            .map_err(|source| LoadError::Pack { name: views[0].whole.name.to_owned(), source })?;
        views.iter().for_each(|view| self.release(view));
        self.keep(|writer| writer.append(packed.as_bytes()));
        Ok(packed.with_rounding(rounding))
    }

    /// `len` numbers, which `make` fills in when no pack has them.
    fn floats(
        &mut self,
        len: usize,
        make: impl FnOnce(&mut [f32]) -> Result<(), LoadError>,
    ) -> Result<Vec<f32>, LoadError> {
        if let Packs::Kept(pack) = &mut self.packs {
            return Ok(pack.floats(len)?);
        }
        let mut values = vec![0.0; len];
        make(&mut values)?;
        self.keep(|writer| {
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            writer.append(&bytes)
        });
        Ok(values)
    }

    /// An embedding table that is not the output projection, its rows as they are.
    fn table(&mut self, role: Role) -> Result<Embedding, LoadError> {
        let view = self.view(None, role)?;
        let len = view.data.len();
        let table = if let Packs::Kept(pack) = &mut self.packs {
            let (file, offset) = pack.bytes(len)?;
            Table::Kept { file, offset, len }
        } else {
            self.keep(|writer| writer.append(&view.data));
            let owned = Table::Owned(view.data.to_vec());
            self.release(&view);
            owned
        };
        Ok(Embedding::Own { dtype: view.whole.dtype, row_bytes: len / view.rows, table })
    }

    /// Writes a section if sections are written. After the first failure none is.
    fn keep(&mut self, write: impl FnOnce(&mut PackWriter) -> io::Result<()>) {
        if let Packs::Keeping(writer, place) = &mut self.packs
            && let Err(error) = write(writer)
        {
            place.give_up(&error);
            self.packs = Packs::Fresh;
        }
    }

    /// Gives the file's pages back: they are not read again. Only memory is at stake, so a refusal is no failure.
    fn release(&self, view: &CutView<'_>) {
        if let Err(error) = self.source.weights.release(&view.whole) {
            tracing::debug!(tensor = view.whole.name, %error, "the system kept the pages of a packed tensor");
        }
    }
}

/// How what several matrices read is rounded: as all want it; with the largest of their scales, as vLLM does for what it fuses;
/// more finely than any wants it where they differ otherwise.
fn rounding(each: impl Iterator<Item = Rounding>) -> Rounding {
    each.reduce(|a, b| match (a, b) {
        (Rounding::Fixed(a), Rounding::Fixed(b)) => Rounding::Fixed(a.max(b)),
        (a, b) if a == b => a,
        _ => Rounding::Blocks,
    })
    .unwrap_or_default()
}

fn decode(view: &CutView<'_>, to: &mut [f32]) -> Result<(), LoadError> {
    block::dequantize(view.whole.dtype, &view.data, to)
        .map_err(|source| LoadError::Decode { name: view.whole.name.to_owned(), source })
}
