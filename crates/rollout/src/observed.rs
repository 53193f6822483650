//! What a driver sees at a moment: what is wanted, what there is, whom gateways send where, and what people asked for.

use std::collections::BTreeMap;

use wharf_api::demand::VersionCounts;
use wharf_spec::service::{Colour, Traffic};

/// Everything that a step looks at.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// When, in milliseconds since 1970. A clock that goes back only makes waiting longer.
    pub now_ms: u64,
    /// What the object asks for.
    pub desired: Desired,
    /// Versions of which anything is there: processes, pods, or a Deployment without any. What is absent is gone.
    pub versions: BTreeMap<Colour, VersionSeen>,
    /// Gateways whose lease holds. None means that nobody knows who sends what where, not that nobody does. Where Services select pods
    /// directly, the driver stands for a gateway that follows what it has applied.
    pub gateways: Vec<GatewaySeen>,
    /// What people asked for, in the order of their sequence; those that were answered may stay in the list.
    pub commands: Vec<Command>,
}

/// What the object asks for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Desired {
    /// Generation of the object.
    pub generation: i64,
    /// Digest of everything in it that restarts a replica. Scaling, labels and observability are not in it.
    pub revision: String,
    /// Replicas that the scaler wants; 0 while the service sleeps.
    pub replicas: u32,
    /// Whether the model of this revision is there.
    pub prepared: Prepared,
    /// Whether a new version has room beside the old one, as far as the strategy needs it.
    pub room: Room,
}

/// Whether a model can be served.
#[derive(Clone, Debug, PartialEq)]
pub enum Prepared {
    /// Not yet; why, in words.
    Pending(String),
    /// It can.
    Ready,
    /// It cannot, and will not by itself: a missing file, a failed gate. Why, in words.
    Failed(String),
}

impl Default for Prepared {
    fn default() -> Prepared {
        Prepared::Pending("nothing is known of the model yet".to_owned())
    }
}

/// Whether something has room.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Room {
    /// It has.
    #[default]
    Fits,
    /// It has not; what is missing, and what can be done.
    Lacks(String),
}

/// What is there of a version.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VersionSeen {
    /// Generation that it was made from.
    pub generation: i64,
    /// Revision that it was made from.
    pub revision: String,
    /// Replicas that take requests.
    pub ready: u32,
    /// Replicas that are there and do not: those that start, wait to be started again, or drain.
    pub starting: u32,
    /// Ready replicas that answered all their warm-up prompts.
    pub warmed: u32,
    /// A warm-up prompt was not answered; why, in words.
    pub warmup_failed: Option<String>,
    /// What is wrong with a replica that is not ready; none while all are well.
    pub failure: Option<Failure>,
    /// Requests that it works on.
    pub in_flight: u64,
}

/// What is wrong with a replica.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Failure {
    /// In words, without a full stop: `exits with code 1: no such file`.
    pub reason: String,
    /// How often it was started again.
    pub restarts: u32,
    /// Starting it again will not help: its input is wrong.
    pub lasting: bool,
}

/// A gateway that is alive.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GatewaySeen {
    /// Its name.
    pub name: String,
    /// When it started, as in the demand stream: tells counters of different lives apart.
    pub epoch: u64,
    /// Shares of traffic that it follows; empty while it knows of none.
    pub traffic: Vec<Traffic>,
    /// How each version answered it since it started.
    pub counts: BTreeMap<Colour, VersionCounts>,
}

/// What somebody asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command {
    /// Grows with every command: those up to the last that was answered are not looked at again.
    pub sequence: u64,
    /// What.
    pub kind: CommandKind,
}

/// What people may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandKind {
    /// Wait for nothing any more: give the new version all traffic once it is ready, or end its verification.
    Promote,
    /// Take the release back.
    Abort,
    /// Go back to the version before, which is still kept.
    Undo,
    /// Try a revision again that was taken back.
    Retry,
}
