//! The control socket: `wharf ps`, `scale`, `rollout`, `logs` and `down` talk to a running supervisor through it.
//!
//! One JSON object each way, a line each. Who may open the socket may command: it lies in a folder that only its owner can enter.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use wharf_api::console::Overview;
use wharf_rollout::CommandKind;

use crate::folder;
use crate::supervisor::Message;

/// Longest order, in bytes.
const LONGEST_ORDER: u64 = 64 << 10;
/// How long a supervisor may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// What somebody wants of a supervisor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Everything at this moment.
    Overview,
    /// So many replicas.
    Scale {
        /// The service, with or without its namespace.
        service: String,
        /// So many.
        replicas: u32,
    },
    /// Steer a release.
    Rollout {
        /// The service, with or without its namespace.
        service: String,
        /// How.
        command: RolloutCommand,
    },
    /// Where the log of a service or a replica is.
    Log {
        /// Either.
        replica: String,
    },
    /// End everything.
    Down,
}

/// How a release is steered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RolloutCommand {
    /// Give the new version all traffic.
    Promote,
    /// Take the release back.
    Abort,
    /// Go back to the version before.
    Undo,
    /// Try again what was taken back.
    Retry,
}

impl From<RolloutCommand> for CommandKind {
    fn from(command: RolloutCommand) -> CommandKind {
        match command {
            RolloutCommand::Promote => CommandKind::Promote,
            RolloutCommand::Abort => CommandKind::Abort,
            RolloutCommand::Undo => CommandKind::Undo,
            RolloutCommand::Retry => CommandKind::Retry,
        }
    }
}

/// What a supervisor answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// Everything at this moment.
    Overview(Box<Overview>),
    /// It is done, or will be.
    Done(String),
    /// It cannot be done, and why.
    Refused(String),
    /// A log is in this file.
    Log(PathBuf),
}

/// Why a supervisor could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody listens.
    #[error("nothing runs with the state folder {}; start it with `wharf up -f FILE --state {}`", root.display(), root.display())]
    Nobody {
        /// The folder.
        root: PathBuf,
    },
    /// It listens, and something went wrong.
    #[error("failed to talk to the supervisor of {}", root.display())]
    Talk {
        /// The folder.
        root: PathBuf,
        /// What.
        source: io::Error,
    },
}

/// Opens the socket and hands orders on.
pub(crate) fn listen(path: &Path, messages: mpsc::UnboundedSender<Message>) -> io::Result<()> {
    // The folder is ours alone, so what is there is left over from a supervisor that was killed.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => drop(tokio::spawn(answer(stream, messages.clone()))),
                Err(error) => {
                    tracing::warn!(%error, "failed to accept a connection on the control socket");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    });
    Ok(())
}

async fn answer(stream: UnixStream, messages: mpsc::UnboundedSender<Message>) {
    if let Err(error) = talk(stream, messages).await {
        tracing::debug!(%error, "a connection on the control socket ended early");
    }
}

async fn talk(stream: UnixStream, messages: mpsc::UnboundedSender<Message>) -> io::Result<()> {
    let (from, mut to) = stream.into_split();
    let mut line = String::new();
    BufReader::new(from.take(LONGEST_ORDER)).read_line(&mut line).await?;
    let reply = match serde_json::from_str::<Order>(&line) {
        Ok(order) => {
            let (sender, reply) = oneshot::channel();
            let _ = messages.send(Message::Order(order, sender));
            reply.await.unwrap_or_else(|_| Reply::Refused("the supervisor ends".to_owned()))
        }
        Err(error) => Reply::Refused(format!("the order is not understood: {error}")),
    };
    let mut text = serde_json::to_vec(&reply)?;
    text.push(b'\n');
    to.write_all(&text).await
}

/// Gives an order to the supervisor of a state folder.
///
/// # Errors
/// When nobody listens there, or does not answer in time.
pub async fn order(root: &Path, order: &Order) -> Result<Reply, ControlError> {
    let talk = |source| ControlError::Talk { root: root.to_owned(), source };
    let stream = match UnixStream::connect(folder::socket(root)).await {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Err(ControlError::Nobody { root: root.to_owned() });
        }
        Err(error) => return Err(talk(error)),
    };
    let exchange = async {
        let (from, mut to) = stream.into_split();
        let mut text = serde_json::to_vec(order)?;
        text.push(b'\n');
        to.write_all(&text).await?;
        let mut line = String::new();
        BufReader::new(from).read_line(&mut line).await?;
        serde_json::from_str::<Reply>(&line).map_err(io::Error::other)
    };
    match timeout(PATIENCE, exchange).await {
        Ok(reply) => reply.map_err(talk),
        Err(_) => Err(talk(io::ErrorKind::TimedOut.into())),
    }
}
