//! Decides where GPU kernels that are compiled at run time are kept, as the crate of this name does on Unix.
//!
//! cubecl asks for these folders and leaves no choice. The original brings `option-ext`, whose licence (MPL-2.0) we do not
//! ship; what cubecl asks of it is this much. See docs/decisions/0019-burn.md.

use std::env;
use std::path::PathBuf;

/// The user's home folder.
pub fn home_dir() -> Option<PathBuf> {
    absolute("HOME")
}

/// Where what can be computed again is kept: `$XDG_CACHE_HOME`, else `~/.cache`.
pub fn cache_dir() -> Option<PathBuf> {
    absolute("XDG_CACHE_HOME").or_else(|| Some(home_dir()?.join(".cache")))
}

/// Where configuration of this machine is kept: `$XDG_CONFIG_HOME`, else `~/.config`.
pub fn config_local_dir() -> Option<PathBuf> {
    absolute("XDG_CONFIG_HOME").or_else(|| Some(home_dir()?.join(".config")))
}

/// A variable that holds an absolute path; the XDG specification has others ignored.
#[expect(clippy::disallowed_methods, reason = "the crate that it stands in for reads the environment too")]
fn absolute(variable: &str) -> Option<PathBuf> {
    env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute())
}
