//! What becomes an Event: transitions of a release, and errors that are new. Pure.

use wharf_rollout::Action;

/// Longest note that the API takes (Kubernetes API, Event v1 events.k8s.io, `note`).
const LONGEST: usize = 1024;

/// Something that happened to an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Happened {
    /// Somebody should look.
    pub(crate) warning: bool,
    /// In one word.
    pub(crate) reason: String,
    /// In a sentence, no longer than an Event takes.
    pub(crate) note: String,
}

/// Something that happened.
pub(crate) fn event(warning: bool, reason: &str, message: &str) -> Happened {
    Happened { warning, reason: reason.to_owned(), note: cut(message) }
}

/// Those among the actions of a step.
pub(crate) fn of_step(actions: &[Action]) -> Vec<Happened> {
    let told = actions.iter().filter_map(|action| match action {
        Action::Event { warning, reason, message } => Some(event(*warning, reason, message)),
        Action::EnsureVersion { .. }
        | Action::WarmUp { .. }
        | Action::SetTraffic(_)
        | Action::RemoveVersion { .. } => None,
    });
    told.collect()
}

fn cut(text: &str) -> String {
    if text.len() <= LONGEST {
        return text.to_owned();
    }
    let end = (0..=LONGEST - 3).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    format!("{}…", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_no_longer_than_the_api_takes() {
        assert_eq!(cut("short"), "short");
        assert!(cut(&"ü".repeat(2000)).len() <= LONGEST);
    }
}
