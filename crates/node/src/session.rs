//! Registers with kubelet, again whenever it has started, and serves what it asks.
//!
//! Sockets come first, then the registration: kubelet dials back at once. It deletes all sockets in the folder when it starts, so a socket of
//! its own that is another than before, or one of ours that is gone, is the sign to begin again.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tonic::{Code, Status};
use wharf_telemetry::metrics::node as table;

use crate::board::{Board, Part};
use crate::folder::{Folder, Identity, identity};
use crate::kubelet::{REGISTER, SOCKET, VERSION, rpc, wire};
use crate::owner::{self, OURS};
use crate::plugin::{OPTIONS, Plugin};

/// How often one looks although nothing is heard of: inotify may miss what another mount does.
const LOOK: Duration = Duration::from_secs(10);
/// Kubelet's socket is there a little before somebody listens on it.
const SOON: Duration = Duration::from_millis(100);
const SOON_FOR: Duration = Duration::from_secs(10);

/// Keeps what is offered registered for as long as it is polled.
pub(crate) async fn run(board: &Arc<Board>) {
    let folder = &board.config.paths.device_plugins;
    loop {
        match Folder::watch(folder) {
            Ok(watched) => attend(board, watched).await,
            Err(error) => {
                let why = format!("failed to watch kubelet's folder {}: {error}", folder.display());
                board.say(Part::Plugin, false, "NoKubelet", why);
            }
        }
        sleep(LOOK).await;
    }
}

/// Returns when the folder can no longer be watched.
async fn attend(board: &Arc<Board>, mut folder: Folder) {
    let paths = &board.config.paths;
    let kubelet = paths.device_plugins.join(SOCKET);
    loop {
        let seen = board.seen();
        let resources = seen.resources();
        let there = identity(&kubelet);
        if !seen.looked {
            board.say(Part::Plugin, false, "Starting", "GPUs have not been looked at yet");
        } else if resources.is_empty() {
            board.say(Part::Plugin, false, "NothingToOffer", "there are no GPUs to offer");
        } else if there.is_none() {
            board.say(
                Part::Plugin,
                false,
                "NoKubelet",
                format!("waiting for kubelet ({})", kubelet.display()),
            );
        } else if let Some(owner) = owner::find(paths, false).await {
            board.say(Part::Plugin, false, "OtherOwner", owner.sentence());
        } else {
            let ended = offer(board, &mut folder, &resources, &kubelet, there).await;
            match ended {
                Ended::Changed => continue,
                Ended::Failed(why) => board.say(Part::Plugin, false, "RegistrationFailed", why),
                Ended::Blind => return,
            }
        }
        if !wait(board, &mut folder, &resources).await {
            return;
        }
    }
}

/// Why one begins again.
enum Ended {
    Changed,
    Failed(String),
    /// The folder can no longer be watched.
    Blind,
}

/// Serves and registers, until kubelet, our sockets, or what is offered changes.
async fn offer(
    board: &Arc<Board>,
    folder: &mut Folder,
    resources: &[String],
    kubelet: &Path,
    there: Option<Identity>,
) -> Ended {
    let mut servers = Servers::default();
    for resource in resources {
        if let Err(error) = servers.serve(board, resource) {
            return Ended::Failed(format!("failed to serve {resource}: {error}"));
        }
    }
    for resource in resources {
        let Some(registered) = register(kubelet, there, resource).await else { return Ended::Changed };
        let result = if registered.is_ok() { "ok" } else { "failed" };
        board.metrics.add(&table::REGISTRATIONS, &[resource, result], 1.0);
        if let Err(status) = registered {
            // One that has gone away meanwhile is waited for.
            return Ended::Failed(format!("kubelet did not register {resource}: {}", status.message()));
        }
    }
    board.say(Part::Plugin, true, "Registered", format!("kubelet knows {}", resources.join(", ")));
    loop {
        if !wait(board, folder, resources).await {
            return Ended::Blind;
        }
        let same = board.seen().resources() == resources && identity(kubelet) == there && servers.are_there();
        if !same || owner::find(&board.config.paths, true).await.is_some() {
            return Ended::Changed;
        }
    }
}

/// Waits until something may have changed. Whether the folder could be watched.
async fn wait(board: &Board, folder: &mut Folder, resources: &[String]) -> bool {
    let mut seen = board.follow();
    let looked = seen.borrow().looked;
    let others = seen.wait_for(|seen| seen.looked != looked || seen.resources() != resources);
    tokio::select! {
        changed = folder.changed() => match changed {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(%error, "failed to watch kubelet's folder");
                false
            }
        },
        // The board outlives us.
        _ = others => true,
        () = sleep(LOOK) => true,
    }
}

/// Nothing if another kubelet has come meanwhile: it has deleted our sockets, so they come first again.
async fn register(kubelet: &Path, there: Option<Identity>, resource: &str) -> Option<Result<(), Status>> {
    let request = wire::RegisterRequest {
        version: VERSION.to_owned(),
        endpoint: socket_name(resource),
        resource_name: resource.to_owned(),
        options: Some(OPTIONS),
    };
    let since = Instant::now();
    loop {
        if identity(kubelet) != there {
            return None;
        }
        let registered: Result<wire::Empty, Status> = match rpc::connect(kubelet).await {
            Ok(channel) => rpc::call(channel, REGISTER, request.clone()).await,
            Err(status) => Err(status),
        };
        match registered {
            Ok(wire::Empty {}) => return Some(Ok(())),
            Err(status) if status.code() == Code::Unavailable && since.elapsed() < SOON_FOR => {
                sleep(SOON).await;
            }
            Err(status) => return Some(Err(status)),
        }
    }
}

/// `nvidia.com/gpu` is served on `wharf-gpu.sock`.
fn socket_name(resource: &str) -> String {
    format!("{OURS}{}.sock", resource.rsplit('/').next().unwrap_or(resource))
}

/// Servers on their sockets; the sockets go with them.
#[derive(Default)]
struct Servers {
    tasks: JoinSet<()>,
    sockets: Vec<(PathBuf, Option<Identity>)>,
}

impl Servers {
    fn serve(&mut self, board: &Arc<Board>, resource: &str) -> std::io::Result<()> {
        let path = board.config.paths.device_plugins.join(socket_name(resource));
        let listener = rpc::listen(&path)?;
        self.sockets.push((path.clone(), identity(&path)));
        let plugin = Plugin { board: Arc::clone(board), resource: resource.into() };
        self.tasks.spawn(rpc::serve(listener, move |asked| plugin.clone().answer(asked)));
        Ok(())
    }

    fn are_there(&self) -> bool {
        self.sockets.iter().all(|(path, made)| identity(path) == *made)
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for (path, made) in &self.sockets {
            // Somebody else may have made another under the name.
            if made.is_some() && identity(path) == *made {
                let _ = std::fs::remove_file(path);
            }
        }
    }
}
