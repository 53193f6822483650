//! Which state folder is meant.

use std::path::PathBuf;

use anyhow::Context;

use crate::Env;
use crate::exit::{BadInput, Failure};

/// The folder of a supervisor.
#[derive(clap::Args)]
pub(crate) struct StateArg {
    /// Folder of the supervisor's state, logs and socket [default: $XDG_STATE_HOME/wharf, else ~/.local/state/wharf]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
}

impl StateArg {
    /// The folder that was given, or that of this user.
    pub(super) fn folder(&self, env: &Env) -> Result<PathBuf, Failure> {
        let state = || home(env, "XDG_STATE_HOME", ".local/state");
        match &self.state {
            Some(folder) => Ok(folder.clone()),
            None => state().context("there is no home folder; give --state DIR").bad_input(),
        }
    }
}

/// A folder of ours in one that the environment names, or in the user's home.
pub(super) fn home(env: &Env, variable: &str, otherwise: &str) -> Option<PathBuf> {
    let named = |name: &str| env.get(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    // The specification of these variables has relative paths ignored.
    let base = named(variable).filter(|path| path.is_absolute());
    Some(base.or_else(|| Some(named("HOME")?.join(otherwise)))?.join("wharf"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_ours_lies_where_the_environment_says_or_at_home() {
        let env = |pairs: &[(&str, &str)]| -> Env {
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
        };
        let folder = |pairs| home(&env(pairs), "XDG_STATE_HOME", ".local/state");
        assert_eq!(folder(&[("XDG_STATE_HOME", "/s"), ("HOME", "/h")]), Some("/s/wharf".into()));
        assert_eq!(folder(&[("XDG_STATE_HOME", "s"), ("HOME", "/h")]), Some("/h/.local/state/wharf".into()));
        assert_eq!(folder(&[]), None);
    }
}
