//! A program that runs for the supervisor: started, followed, ended with everything that it started.

use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::{ChildStdin, Command};
use tokio::task::JoinHandle;

/// Lines of output that are remembered to tell why a program ended.
const REMEMBERED: usize = 40;
/// Bytes of a log file before it begins anew, with the one before kept beside it.
const LARGEST_LOG: u64 = 16 << 20;

/// What to run, and how.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    /// Our own executable, which stands in between.
    pub(crate) wharf: PathBuf,
    /// The program and its arguments.
    pub(crate) command: Vec<String>,
    /// Variables that it gets besides ours.
    pub(crate) env: Vec<(String, String)>,
    /// CPUs that it may use; all if empty.
    pub(crate) cpus: Vec<usize>,
    /// File that its output is appended to.
    pub(crate) log: PathBuf,
}

/// A program that runs. Dropped, it is asked to end and then made to.
#[derive(Debug)]
pub(crate) struct Child {
    pid: Pid,
    /// Held open for as long as the program may run.
    pipe: Option<ChildStdin>,
}

/// How a program ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Exit {
    /// Its exit code; none if it could not be told.
    pub(crate) code: Option<i32>,
    /// The end of what it said.
    pub(crate) last: Vec<String>,
}

impl Exit {
    /// In words, with what it said last.
    pub(crate) fn reason(&self) -> String {
        let how = match self.code {
            Some(code) if code > 128 => format!("was ended by signal {}", code - 128),
            Some(code) => format!("exited with code {code}"),
            None => "ended".to_owned(),
        };
        match said(&self.last) {
            Some(line) => format!("{how}: {line}"),
            None => how,
        }
    }
}

/// What a program said that tells most: its last error with the causes that follow it, otherwise its last line.
fn said(lines: &[String]) -> Option<String> {
    let error = lines.iter().rposition(|line| line.starts_with("error:"));
    let told = match error {
        Some(at) => {
            let words = lines[at..].iter().map(|line| line.trim()).filter(|line| !line.is_empty());
            words.collect::<Vec<_>>().join(" ").trim_start_matches("error: ").to_owned()
        }
        None => lines.iter().rev().map(|line| line.trim()).find(|line| !line.is_empty())?.to_owned(),
    };
    const LONGEST: usize = 400;
    Some(match told.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &told[..end]),
        None => told,
    })
}

impl Program {
    /// Starts it. The handle gives how it ended.
    ///
    /// # Errors
    /// When the log cannot be written or the process cannot be made.
    pub(crate) fn start(&self) -> io::Result<(Child, JoinHandle<Exit>)> {
        self.start_following(|_| ())
    }

    /// As [`Program::start`]; `line` hears every line of output.
    pub(crate) fn start_following(
        &self,
        line: impl Fn(&str) + Send + Sync + 'static,
    ) -> io::Result<(Child, JoinHandle<Exit>)> {
        let log = Log::open(&self.log)?;
        let mut command = Command::new(&self.wharf);
        command.arg("run-child");
        if !self.cpus.is_empty() {
            let cpus: Vec<String> = self.cpus.iter().map(usize::to_string).collect();
            command.args(["--cpus", &cpus.join(",")]);
        }
        command
            .arg("--")
            .args(&self.command)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        let mut child = command.spawn()?;
        let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let pid = pid.ok_or_else(|| io::Error::other("the process has no id"))?;
        let pipe = child.stdin.take();
        let output = Arc::new(Output { log: Mutex::new(log), last: Mutex::default(), hear: Box::new(line) });
        let out = child.stdout.take().map(|stream| tokio::spawn(follow(stream, Arc::clone(&output))));
        let err = child.stderr.take().map(|stream| tokio::spawn(follow(stream, Arc::clone(&output))));
        let ended = tokio::spawn(async move {
            let status = child.wait().await;
            // Should what stands in between have been killed, its group is ended here.
            end_group(pid);
            for reader in [out, err].into_iter().flatten() {
                // A process that left the group may hold the pipe open; nothing it says belongs to this run.
                let _ = tokio::time::timeout(std::time::Duration::from_secs(1), reader).await;
            }
            let last = output.last.lock().unwrap_or_else(PoisonError::into_inner);
            Exit { code: status.ok().and_then(code), last: last.iter().cloned().collect() }
        });
        Ok((Child { pid, pipe }, ended))
    }
}

fn code(status: ExitStatus) -> Option<i32> {
    use std::os::unix::process::ExitStatusExt as _;
    status.code().or_else(|| Some(128 + status.signal()?))
}

fn end_group(pid: Pid) {
    // An error means that there is nobody left.
    let _ = kill_process_group(pid, Signal::KILL);
}

impl Child {
    /// Its process id, which is that of its group.
    pub(crate) fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Asks it to end in order.
    pub(crate) fn terminate(&self) {
        if let Err(error) = kill_process(self.pid, Signal::TERM) {
            tracing::debug!(%error, pid = self.pid(), "the process is gone already");
        }
    }

    /// Makes it end: it has a few seconds from now.
    pub(crate) fn kill(&mut self) {
        self.pipe = None;
    }
}

/// What a program says, and who hears it.
struct Output {
    log: Mutex<Log>,
    last: Mutex<VecDeque<String>>,
    hear: Box<dyn Fn(&str) + Send + Sync>,
}

async fn follow(stream: impl AsyncRead + Unpin, output: Arc<Output>) {
    let mut reader = BufReader::new(stream);
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        match reader.read_until(b'\n', &mut bytes).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        if let Err(error) = output.log.lock().unwrap_or_else(PoisonError::into_inner).write(&bytes) {
            tracing::warn!(%error, "failed to write a replica's log");
        }
        let line = String::from_utf8_lossy(&bytes);
        let line = line.trim_end();
        (output.hear)(line);
        let mut last = output.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.len() == REMEMBERED {
            last.pop_front();
        }
        last.push_back(line.to_owned());
    }
}

/// A log file that does not grow for ever.
struct Log {
    path: PathBuf,
    file: std::fs::File,
    written: u64,
}

impl Log {
    fn open(path: &Path) -> io::Result<Log> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let written = file.metadata()?.len();
        Ok(Log { path: path.to_owned(), file, written })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.written > LARGEST_LOG {
            std::fs::rename(&self.path, self.path.with_extension("log.1"))?;
            *self = Log::open(&self.path)?;
        }
        self.file.write_all(bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(code: i32, lines: &[&str]) -> String {
        Exit { code: Some(code), last: lines.iter().map(|line| (*line).to_owned()).collect() }.reason()
    }

    #[test]
    fn the_reason_of_an_end_is_its_last_error_with_causes() {
        let lines = ["loading", "error: failed to open m.gguf", "  because: no such file", ""];
        assert_eq!(exit(2, &lines), "exited with code 2: failed to open m.gguf because: no such file");
        assert_eq!(exit(137, &["computing", " "]), "was ended by signal 9: computing");
        assert_eq!(exit(0, &[]), "exited with code 0");
        assert!(exit(1, &["x".repeat(1000).as_str()]).chars().count() < 450);
    }
}
