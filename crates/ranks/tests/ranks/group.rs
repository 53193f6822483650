//! A group to test with.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tempfile::TempDir;
use wharf_engine::cpu::{CpuBackend, CpuOptions, CpuStage, KvType, Shard, Share};
use wharf_engine::{Backend, BlockId, Chunk, Logits, LogitsFor};
use wharf_model::Model;
use wharf_model::shard::{LayerBytes, ShardPlan, Steps};
use wharf_ranks::{
    Ending, Fate, Group, GroupOptions, Identity, Joined, Kind, PipelineLeader, Setup, SharedMemory,
    WorkerError, assemble, join, model_digest,
};
use wharf_testkit::TinyModel;

/// Longer than any step takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What carries sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Over {
    Connections,
    Memory,
}

/// A model on disk, as long as somebody knows it.
#[derive(Clone)]
pub(crate) struct Checkpoint {
    /// A file, or a folder that is all of it.
    path: PathBuf,
    _folder: Arc<TempDir>,
}

impl Checkpoint {
    /// What `write` leaves in a folder under `name`; an empty one is the folder itself.
    pub(crate) fn new(name: &str, write: impl FnOnce(&Path)) -> Checkpoint {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        write(&path);
        Checkpoint { path, _folder: Arc::new(folder) }
    }

    pub(crate) fn of(tiny: &TinyModel) -> Checkpoint {
        Checkpoint::new("tiny.gguf", |path| tiny.write(path).unwrap())
    }

    pub(crate) fn open(&self) -> Model {
        Model::open(&self.path).unwrap()
    }
}

pub(crate) fn open(tiny: &TinyModel) -> Model {
    Checkpoint::of(tiny).open()
}

pub(crate) fn setup() -> Setup {
    Setup { kv_tokens: 512, kv_type: KvType::F16, max_batch_tokens: 512, shared: None }
}

pub(crate) fn group_options() -> GroupOptions {
    GroupOptions { assembly: PATIENCE, patience: PATIENCE, key: "open sesame".into() }
}

pub(crate) fn identity(model: &Model, kind: Kind, size: usize, rank: usize) -> Identity {
    Identity { kind, size, rank, version: "1".into(), model: model_digest(model) }
}

fn options(setup: &Setup) -> CpuOptions {
    CpuOptions {
        threads: 1,
        kv_tokens: setup.kv_tokens,
        kv_type: setup.kv_type,
        max_batch_tokens: setup.max_batch_tokens,
        ..CpuOptions::default()
    }
}

pub(crate) fn alone(model: &Checkpoint) -> Box<dyn Backend> {
    Box::new(CpuBackend::load(model.open(), &options(&setup()), &mut |_, _| {}).unwrap())
}

fn plan(model: &Model, size: usize) -> ShardPlan {
    ShardPlan::new(&model.config, Steps::of(&model.config, &model.weights), size).unwrap()
}

fn stages(model: &Model, size: usize) -> Vec<Share> {
    let layers = LayerBytes::of(&model.config, &model.weights).stages(size).unwrap();
    let share = |(rank, layers)| Share { layers, embeds: rank == 0, predicts: rank + 1 == size };
    layers.into_iter().enumerate().map(share).collect()
}

/// A rank's stage once it has joined.
pub(crate) fn load(model: &Model, kind: Kind, size: usize, rank: usize, joined: &Joined) -> CpuStage {
    let options = options(&joined.setup);
    match kind {
        Kind::Tensor => {
            let (shard, ranks) = (Shard { plan: plan(model, size), rank }, joined.ranks().unwrap());
            CpuStage::load_rank(model, shard, ranks, &options, &mut |_, _| {}).unwrap()
        }
        Kind::Pipeline => {
            CpuStage::load(model, stages(model, size)[rank].clone(), &options, &mut |_, _| {}).unwrap()
        }
    }
}

/// A complete group, each rank a thread of this process.
pub(crate) struct Ranks {
    pub(crate) leader: Box<dyn Backend>,
    group: Option<Group>,
    pub(crate) fate: Arc<Fate>,
    workers: Vec<JoinHandle<Result<(), WorkerError>>>,
}

impl Ranks {
    pub(crate) fn start(tiny: &TinyModel, kind: Kind, size: usize, over: Over) -> Ranks {
        Ranks::spread(&Checkpoint::of(tiny), kind, size, over)
    }

    pub(crate) fn spread(checkpoint: &Checkpoint, kind: Kind, size: usize, over: Over) -> Ranks {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let workers = (1..size).map(|rank| follow(checkpoint.clone(), kind, size, rank, address)).collect();
        let model = checkpoint.open();
        let memory = (over == Over::Memory).then(|| SharedMemory::new(size).unwrap());
        let setup = Setup { shared: memory.as_ref().map(SharedMemory::descriptor), ..setup() };
        let fate = Arc::new(Fate::default());
        let identity = identity(&model, kind, size, 0);
        let (group, links) = assemble(listener, &identity, &group_options(), &setup, &fate).unwrap();
        let leader: Box<dyn Backend> = match kind {
            Kind::Tensor => {
                let (ties, ranks) = match &memory {
                    Some(memory) => (links.tied(), memory.ranks(&fate).unwrap()),
                    None => links.tie().unwrap(),
                };
                let shard = Shard { plan: plan(&model, size), rank: 0 };
                let stage =
                    CpuStage::load_rank(&model, shard, ranks, &options(&setup), &mut |_, _| {}).unwrap();
                Box::new(ties.lead(stage).unwrap())
            }
            Kind::Pipeline => {
                let share = stages(&model, size)[0].clone();
                let stage = CpuStage::load(&model, share, &options(&setup), &mut |_, _| {}).unwrap();
                Box::new(PipelineLeader::lead(stage, links).unwrap())
            }
        };
        Ranks { leader, group: Some(group), fate, workers }
    }

    /// Ends in order; all workers do.
    pub(crate) fn end(mut self) {
        self.group.take().unwrap().end(Ending::Orderly);
        for worker in self.workers.drain(..) {
            worker.join().unwrap().unwrap();
        }
    }

    /// Waits for the workers' ends.
    pub(crate) fn endings(mut self) -> Vec<Result<(), WorkerError>> {
        self.workers.drain(..).map(|worker| worker.join().unwrap()).collect()
    }
}

fn follow(
    checkpoint: Checkpoint,
    kind: Kind,
    size: usize,
    rank: usize,
    address: SocketAddr,
) -> JoinHandle<Result<(), WorkerError>> {
    std::thread::spawn(move || {
        let model = checkpoint.open();
        let joined = join(&address.to_string(), &identity(&model, kind, size, rank), &group_options())?;
        let stage = load(&model, kind, size, rank, &joined);
        joined.follow(stage)
    })
}

/// Logits of every token, computed in chunks of a size.
pub(crate) fn scored(backend: &mut dyn Backend, tokens: &[u32], size: usize) -> Vec<f32> {
    let blocks: Vec<BlockId> = (0..32).map(BlockId).collect();
    let mut logits = Logits::default();
    let mut all = Vec::new();
    for (index, tokens) in tokens.chunks(size).enumerate() {
        let chunk = Chunk { tokens, start: index * size, blocks: &blocks, logits: LogitsFor::All };
        backend.forward(&[chunk], &mut logits).unwrap();
        all.extend_from_slice(logits.values());
    }
    all
}

pub(crate) fn tokens(count: usize) -> Vec<u32> {
    (0..count as u32).map(|i| (i * 37 + i * i % 13) % 288).collect()
}
