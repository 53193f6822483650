//! Versions of a service: the colours that run side by side during a release.

use wharf_spec::LLMService;
pub use wharf_spec::service::Colour;
use wharf_spec::service::{ScalingMode, Strategy};

use crate::Mode;

/// A version of a service that runs, or is to run.
#[derive(Clone, Debug, PartialEq)]
pub struct Version {
    /// Which.
    pub colour: Colour,
    /// How many replicas it should have.
    pub replicas: u32,
    /// The service as it was when this version was released; the present one if absent.
    pub released: Option<Box<LLMService>>,
}

/// The versions of a service, and which of them serves.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// One, or two during a release.
    pub versions: Vec<Version>,
    /// The one that Services select where traffic does not go through the gateway.
    pub serving: Colour,
}

impl State {
    /// A service that is new: one version, with as many replicas as it should begin with.
    pub fn fresh(service: &LLMService) -> State {
        let replicas = begin_with(service);
        State {
            versions: vec![Version { colour: Colour::Blue, replicas, released: None }],
            serving: Colour::Blue,
        }
    }

    /// A release under way: the old version serves, and the new one stands beside it.
    pub fn releasing(old: &LLMService, new: &LLMService) -> State {
        let before = Version {
            colour: Colour::Blue,
            replicas: begin_with(old),
            released: Some(Box::new(old.clone())),
        };
        let after = Version { colour: Colour::Green, replicas: begin_with(new), released: None };
        State { versions: vec![before, after], serving: Colour::Blue }
    }
}

/// Replicas that a version begins with: what is asked for, within the bounds of scaling.
fn begin_with(service: &LLMService) -> u32 {
    let (wanted, scaling) = (service.spec.replicas, &service.spec.scaling);
    match scaling.mode {
        ScalingMode::None => wanted,
        ScalingMode::Native | ScalingMode::Hpa | ScalingMode::Keda => {
            wanted.clamp(scaling.min, scaling.most())
        }
    }
}

/// Whether a release makes a second set of pods beside the first. With an operator it always does: with Rolling and Recreate the two differ
/// in how many replicas they have at a time.
pub(crate) fn has_colours(mode: Mode, strategy: Strategy) -> bool {
    match (mode, strategy) {
        (Mode::Managed, _) | (_, Strategy::BlueGreen | Strategy::Canary) => true,
        (Mode::Standalone | Mode::Local, Strategy::Rolling | Strategy::Recreate) => false,
    }
}
