//! Decides which exit code an outcome gets and how an error reads on a terminal.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::process::ExitCode;

/// Why a command did not succeed; the variant is the exit code.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The user gave something that cannot work: exit code 2.
    BadInput(anyhow::Error),
    /// What was asked for did not happen: exit code 1.
    Failed(anyhow::Error),
    /// Stopped by a signal: exit code 130.
    Interrupted,
    /// A program that was run for somebody ended with this code; it has said why itself.
    Child(u8),
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Failure::Failed(error)
    }
}

/// Marks errors that the user's input caused.
pub(crate) trait BadInput<T> {
    /// Turns an error into one with exit code 2.
    fn bad_input(self) -> Result<T, Failure>;
}

impl<T, E: Into<anyhow::Error>> BadInput<T> for Result<T, E> {
    fn bad_input(self) -> Result<T, Failure> {
        self.map_err(|e| Failure::BadInput(e.into()))
    }
}

/// Prints the error, if there is one, and gives the exit code.
pub(crate) fn report(outcome: Result<(), Failure>) -> ExitCode {
    let (error, code) = match outcome {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Interrupted) => return ExitCode::from(130),
        Err(Failure::Child(code)) => return ExitCode::from(code),
        // The reader of our output has left (`wharf … | head`): that is its right, not an error.
        Err(Failure::Failed(e)) if reader_left(&e) => return ExitCode::SUCCESS,
        Err(Failure::BadInput(e)) => (e, 2),
        Err(Failure::Failed(e)) => (e, 1),
    };
    // With standard error closed there is nobody left to tell.
    let _ = io::stderr().write_all(render(&error).as_bytes());
    ExitCode::from(code)
}

/// The error, then each cause on a line of its own. A cause that its parent already quotes is left out.
fn render(error: &anyhow::Error) -> String {
    let mut text = format!("error: {error}\n");
    let mut last = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !last.contains(&cause) {
            writeln!(text, "  because: {cause}").expect("writing to a string cannot fail");
        }
        last = cause;
    }
    text
}

/// Standard output did not take a text. Told apart from other I/O because a broken pipe means nothing bad only here:
/// anywhere else (a connection, a file) it is a failure like any other.
#[derive(Debug, thiserror::Error)]
#[error("failed to write to standard output")]
struct PrintError(#[source] io::Error);

/// Whether standard output was closed by whoever read it.
fn reader_left(error: &anyhow::Error) -> bool {
    error.downcast_ref::<PrintError>().is_some_and(|e| e.0.kind() == io::ErrorKind::BrokenPipe)
}

/// Writes `text` to standard output at once.
pub(crate) fn print(text: &str) -> Result<(), anyhow::Error> {
    let mut out = io::stdout().lock();
    Ok(out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(PrintError)?)
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn causes_follow_on_their_own_lines_and_are_not_said_twice() {
        let error =
            anyhow!("no such file").context("failed to open a.gguf: no such file").context("failed to load");
        assert_eq!(render(&error), "error: failed to load\n  because: failed to open a.gguf: no such file\n");
    }

    #[test]
    fn only_a_closed_standard_output_is_not_a_failure() {
        let closed = || io::Error::from(io::ErrorKind::BrokenPipe);
        assert!(reader_left(
            &anyhow::Error::from(PrintError(closed())).context("failed to print the answer")
        ));
        assert!(!reader_left(&anyhow::Error::from(closed()).context("failed to reach the server")));
        assert!(!reader_left(&PrintError(io::ErrorKind::StorageFull.into()).into()));
    }
}
