//! `wharf logs`: what a replica says.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow};
use wharf_local::{Order, Reply};

use super::ask;
use super::state::StateArg;
use crate::Env;
use crate::exit::Failure;

/// Show what a replica says
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  wharf logs assistant                  the replica that serves
  wharf logs assistant-blue-1 -f
  wharf logs assistant-model            how the model was fetched and made")]
pub(crate) struct Args {
    /// A service, or a replica as `wharf ps` names it
    #[arg(value_name = "SERVICE|REPLICA")]
    replica: String,
    /// Go on with what it says from now on
    #[arg(short, long)]
    follow: bool,
    /// Show only so many of the last lines
    #[arg(long, value_name = "N")]
    tail: Option<usize>,
    #[command(flatten)]
    state: StateArg,
}

/// How often it is looked whether there is more.
const LOOK: Duration = Duration::from_millis(200);

/// Runs the command to its end.
pub(crate) fn run(args: &Args, env: &Env) -> Result<(), Failure> {
    let order = Order::Log { replica: args.replica.clone() };
    let Reply::Log(path) = ask::ask(&args.state.folder(env)?, &order)? else {
        return Err(Failure::Failed(anyhow!("the supervisor gave the answer to another question")));
    };
    let read = || format!("failed to read the log {}", path.display());
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(anyhow::Error::from(error).context(read()).into()),
    };
    let shown = tail(&text, args.tail);
    let mut out = io::stdout().lock();
    out.write_all(shown).and_then(|()| out.flush()).context("failed to write to standard output")?;
    match args.follow {
        true => Ok(follow(&path, text.len() as u64).with_context(read)?),
        false => Ok(()),
    }
}

/// The last lines of a text.
fn tail(text: &[u8], lines: Option<usize>) -> &[u8] {
    let Some(lines) = lines else { return text };
    let ends =
        text.iter().enumerate().rev().filter(|(index, byte)| **byte == b'\n' && index + 1 < text.len());
    match lines.checked_sub(1).and_then(|skip| ends.map(|(index, _)| index).nth(skip)) {
        Some(index) => &text[index + 1..],
        None if lines == 0 => &[],
        None => text,
    }
}

fn follow(path: &Path, from: u64) -> io::Result<()> {
    let mut position = from;
    let mut line = Vec::new();
    loop {
        std::thread::sleep(LOOK);
        let Ok(mut file) = File::open(path) else { continue };
        // A log that begins anew is shorter.
        if file.metadata()?.len() < position {
            position = 0;
        }
        file.seek(SeekFrom::Start(position))?;
        let mut reader = BufReader::new(file);
        loop {
            line.clear();
            let read = reader.read_until(b'\n', &mut line)?;
            if read == 0 {
                break;
            }
            position += read as u64;
            let mut out = io::stdout().lock();
            out.write_all(&line)?;
            out.flush()?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_whole_lines() {
        let text = b"one\ntwo\nthree\n";
        let shown = |lines| std::str::from_utf8(tail(text, lines)).unwrap();
        assert_eq!(shown(None), "one\ntwo\nthree\n");
        assert_eq!(shown(Some(0)), "");
        assert_eq!(shown(Some(2)), "two\nthree\n");
        assert_eq!(shown(Some(9)), "one\ntwo\nthree\n");
    }
}
