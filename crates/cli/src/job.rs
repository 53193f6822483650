//! What a command says to whoever runs it as a Job: how far it is, on a port, and what it made, in a file. Decides nothing about the work.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use tokio::net::TcpListener;
use tokio::sync::watch;
use wharf_listen::{Limits, Listener};
use wharf_spec::job::{JobProgress, JobResult, PROGRESS_PATH};

use crate::exit::{BadInput, Failure};

/// How far this process is; none while nobody can ask.
static SAID: Mutex<Option<JobProgress>> = Mutex::new(None);

/// For whoever runs the command as a Job.
#[derive(clap::Args)]
pub(crate) struct JobArgs {
    /// As a Job: write what was made into this file, as JSON, when all went well
    #[arg(long, value_name = "FILE")]
    result: Option<PathBuf>,
    /// As a Job: say on this port, under /progress, how far it is
    #[arg(long, value_name = "PORT")]
    progress_port: Option<u16>,
}

impl JobArgs {
    /// Opens the port, if there is to be one. It is served until the process ends.
    pub(crate) fn open(&self) -> Result<(), Failure> {
        let Some(port) = self.progress_port else { return Ok(()) };
        let (socket, _) = wharf_listen::bind("0.0.0.0", port, "progress").bad_input()?;
        *said() = Some(JobProgress::default());
        let serve = move || -> anyhow::Result<()> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let socket = TcpListener::from_std(socket)?;
                let service = service_fn(async |request| Ok::<_, Infallible>(answer(&request)));
                let limits = Limits {
                    header_timeout: Duration::from_secs(10),
                    max_header_bytes: 16 << 10,
                    h2_streams: 4,
                };
                let (_runs, stop) = watch::channel(false);
                Listener { socket, tls: None, service, limits, connections: None }.run(stop).await;
                Ok(())
            })
        };
        std::thread::Builder::new()
            .name("progress".to_owned())
            .spawn(move || {
                if let Err(error) = serve() {
                    eprintln!("failed to say how far it is: {error:#}");
                }
            })
            .context("failed to start a thread")?;
        Ok(())
    }

    /// Says what was made, where somebody wants to know.
    pub(crate) fn done(&self, result: &JobResult) -> Result<(), Failure> {
        let Some(path) = &self.result else { return Ok(()) };
        let text = serde_json::to_string(result).context("failed to write the result as JSON")?;
        std::fs::write(path, text).with_context(|| format!("failed to write {}", path.display()))?;
        Ok(())
    }
}

fn said() -> std::sync::MutexGuard<'static, Option<JobProgress>> {
    SAID.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether somebody can ask.
pub(crate) fn is_open() -> bool {
    said().is_some()
}

/// `done` of `total` are done.
pub(crate) fn say(what: &str, done: u64, total: u64, message: String) {
    if let Some(said) = said().as_mut() {
        let percent = 100.0 * done as f64 / total.max(1) as f64;
        *said = JobProgress { what: what.to_owned(), percent, message };
    }
}

fn answer(request: &Request<Incoming>) -> Response<Full<Bytes>> {
    if request.uri().path() != PROGRESS_PATH {
        let mut answer = Response::new(Full::from(format!("there is {PROGRESS_PATH}\n")));
        *answer.status_mut() = StatusCode::NOT_FOUND;
        return answer;
    }
    let progress = said().clone().unwrap_or_default();
    Response::new(Full::from(serde_json::to_vec(&progress).unwrap_or_default()))
}
