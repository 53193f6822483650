//! Which build this is.

/// Version of the workspace.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Commit that the build was made from, where the builder said so in `WHARF_BUILD_COMMIT`.
pub const COMMIT: &str = match option_env!("WHARF_BUILD_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};
