//! What stands between the supervisor and a replica, so that none of its processes outlives either.
//!
//! `wharf run-child` leads a process group. Its standard input is a pipe that only the supervisor holds: when it ends, however the
//! supervisor ended, the group is asked to end and then made to. A first SIGTERM is handed on to the group once.

use std::io;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, getpid, kill_process_group};
use rustix::thread::{CpuSet, sched_setaffinity};
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::sleep;

/// How long a group may take to end by itself when its supervisor is gone.
const GRACE: Duration = Duration::from_secs(5);

/// Added to the number of the signal that ended a program, as shells do.
const BY_SIGNAL: i32 = 128;

/// Runs a program to its end, on these CPUs if some are given, and gives its exit code; above 128, the signal that ended it.
///
/// # Errors
/// When the program cannot be started or waited for.
pub fn run_child(program: &str, args: &[String], cpus: &[usize]) -> io::Result<i32> {
    if !cpus.is_empty() {
        let mut set = CpuSet::new();
        cpus.iter().filter(|cpu| **cpu < CpuSet::MAX_CPU).for_each(|cpu| set.set(*cpu));
        // What is started inherits it.
        sched_setaffinity(None, &set)?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(run(program, args))
}

async fn run(program: &str, args: &[String]) -> io::Result<i32> {
    let mut terminate = signal(SignalKind::terminate())?;
    // Ctrl-C in a terminal is for the supervisor; a group of its own does not get it, but others may send it.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let group = getpid();
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .spawn()
        .map_err(|error| not_started(program, &error))?;
    let (told, mut supervisor_left) = oneshot::channel();
    std::thread::Builder::new().name("supervisor".to_owned()).spawn(move || {
        // An error ends the pipe as well as its end does.
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        let _ = told.send(());
    })?;
    let mut asked = false;
    loop {
        tokio::select! {
            status = child.wait() => {
                let status = status?;
                // Whatever it started and left behind.
                end_the_rest(group);
                use std::os::unix::process::ExitStatusExt as _;
                return Ok(status.code().unwrap_or_else(|| BY_SIGNAL + status.signal().unwrap_or(0)));
            }
            _ = &mut supervisor_left => {
                if !asked {
                    send(group, Signal::TERM);
                }
                tokio::select! {
                    _ = child.wait() => {}
                    () = sleep(GRACE) => {}
                }
                // This process belongs to the group: nothing comes after.
                send(group, Signal::KILL);
            }
            _ = terminate.recv(), if !asked => {
                asked = true;
                send(group, Signal::TERM);
            }
            _ = interrupt.recv(), if !asked => {
                asked = true;
                send(group, Signal::TERM);
            }
        }
    }
}

/// Why a program did not start, with its name, which the system does not say.
fn not_started(program: &str, error: &io::Error) -> io::Error {
    let why = match error.kind() {
        io::ErrorKind::NotFound if !program.contains('/') => "it is not in the path".to_owned(),
        _ => error.to_string(),
    };
    io::Error::new(error.kind(), format!("failed to start {program}: {why}"))
}

/// Sends a signal to the group, this process included. A group that is gone needs none.
fn send(group: Pid, signal: Signal) {
    if let Err(error) = kill_process_group(group, signal) {
        tracing::debug!(%error, "the process group is gone");
    }
}

/// Asks what is left of the group to end. This process has its own handler for that, and leaves anyway.
fn end_the_rest(group: Pid) {
    send(group, Signal::TERM);
}
