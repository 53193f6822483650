//! Servers as children: `wharf` in its roles and the engine that computes nothing. Started, awaited until ready, and stopped on every path.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use crate::demo_model::DemoModel;
use crate::{environment, shell};

/// Loading takes a second or two; a slow disk may need much longer to read the model.
const READY_WITHIN: Duration = Duration::from_secs(180);
const STOPPED_WITHIN: Duration = Duration::from_secs(30);

/// Builds `wharf` in release mode and returns the executable, or the one that the environment names.
pub(crate) fn build() -> anyhow::Result<PathBuf> {
    if let Some(wharf) = environment::wharf() {
        return Ok(wharf);
    }
    // Of the workspace, so that what other commands have built with its features is used again.
    shell::run(&mut shell::cargo(&["build", "--release", "--workspace", "--bin", "wharf"]))?;
    Ok(shell::target()?.join("release").join("wharf"))
}

/// A running server.
pub(crate) struct Server {
    child: Child,
    pub(crate) port: u16,
    log: PathBuf,
}

impl Server {
    /// Starts the server. It gets a process group of its own, so that Ctrl-C in the terminal reaches only us
    /// and we decide when it stops; if we die, it is killed with us as far as a process can see to that.
    pub(crate) fn start(wharf: &Path, model: &DemoModel) -> anyhow::Result<Server> {
        let mut command = Command::new(wharf);
        command.arg("serve").arg("--model").arg(&model.path);
        if let Some(name) = model.name {
            command.args(["--model-name", name]);
        }
        Server::listen(command, [8080, 8082], "demo-serve.log")
    }

    /// Starts a server by a command that ends with `wharf serve --model …`.
    pub(crate) fn serving(command: std::process::Command) -> anyhow::Result<Server> {
        Server::listen(command.into(), [8080, 8082], "contained-serve.log")
    }

    /// Starts a gateway in front of a server that serves a model of this name.
    pub(crate) fn gateway(wharf: &Path, model: &str, server: &Server) -> anyhow::Result<Server> {
        let command = Server::gateway_command(wharf, model, server);
        Server::listen(command, [8000, 8002], "demo-gateway.log")
    }

    /// As [`Server::gateway`], and it asks for one of the file's keys.
    pub(crate) fn keyed_gateway(
        wharf: &Path,
        model: &str,
        server: &Server,
        keys: &Path,
    ) -> anyhow::Result<Server> {
        let mut command = Server::gateway_command(wharf, model, server);
        command.arg("--api-key-file").arg(keys);
        Server::listen(command, [8004, 8006], "keyed-gateway.log")
    }

    fn gateway_command(wharf: &Path, model: &str, server: &Server) -> Command {
        let mut command = Command::new(wharf);
        command.args(["gateway", "--endpoint", &format!("{model}=127.0.0.1:{}", server.port)]);
        command
    }

    /// Starts an engine that computes nothing and serves a model of this name.
    pub(crate) fn fake_engine(program: &Path, model: &str) -> anyhow::Result<Server> {
        let port = free_port(8084)?;
        let mut command = Command::new(program);
        command.args(["--model", model, "--port", &port.to_string()]);
        Server::spawn(command, port, "fake-engine.log")
    }

    /// Runs the services of a file, with state and log in a folder; `more`: further arguments, flag and value.
    pub(crate) fn up(
        wharf: &Path,
        file: &Path,
        folder: &Path,
        more: &[(&str, &Path)],
    ) -> anyhow::Result<Server> {
        let mut command = Command::new(wharf);
        command.arg("up").arg("-f").arg(file).arg("--state").arg(folder.join("state"));
        for (flag, value) in more {
            command.arg(flag).arg(value);
        }
        Server::listen(command, [8000, 8002], folder.join("up.log"))
    }

    /// Starts a `wharf` that listens for the API and for metrics, at these ports if they are free.
    fn listen(mut command: Command, ports: [u16; 2], log: impl AsRef<Path>) -> anyhow::Result<Server> {
        let port = free_port(ports[0])?;
        command.args(["--host", "127.0.0.1"]);
        command.args(["--port", &port.to_string(), "--metrics-port", &free_port(ports[1])?.to_string()]);
        Server::spawn(command, port, log)
    }

    /// `log` lies in the target folder unless it says where.
    fn spawn(mut command: Command, port: u16, log: impl AsRef<Path>) -> anyhow::Result<Server> {
        let log = shell::target()?.join(log);
        let open =
            || std::fs::File::create(&log).with_context(|| format!("failed to create {}", log.display()));
        let file = open()?;
        let errors = file.try_clone().context("failed to share the log file")?;
        command.stdin(Stdio::null()).stdout(file).stderr(errors).process_group(0).kill_on_drop(true);
        eprintln!("$ {}", shell::describe(command.as_std()));
        let child = command
            .spawn()
            .with_context(|| format!("failed to start {}", shell::describe(command.as_std())))?;
        Ok(Server { child, port, log })
    }

    /// The address of the API.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Waits for `/ready` to answer 200 and returns how long that took.
    pub(crate) async fn ready(&mut self) -> anyhow::Result<Duration> {
        let start = Instant::now();
        let spinner =
            ProgressBar::new_spinner().with_message("waiting for the server to be ready").with_style(
                ProgressStyle::with_template("{spinner} {msg} {elapsed}")
                    .expect("the template is well-formed"),
            );
        while start.elapsed() < READY_WITHIN {
            spinner.tick();
            if let Some(status) = self.child.try_wait().context("failed to look after the server")? {
                spinner.finish_and_clear();
                bail!("the server ended with {status} before it was ready\n{}", self.log_tail());
            }
            if matches!(status_of(self.port, "/ready").await, Ok(200)) {
                spinner.finish_and_clear();
                return Ok(start.elapsed());
            }
            sleep(Duration::from_millis(20)).await;
        }
        spinner.finish_and_clear();
        bail!("the server was not ready within {} s\n{}", READY_WITHIN.as_secs(), self.log_tail());
    }

    /// Waits until the server ends by itself.
    pub(crate) async fn ended(&mut self) -> anyhow::Result<ExitStatus> {
        self.child.wait().await.context("failed to wait for the server")
    }

    /// Asks the server to drain and waits for it; kills it when it does not end.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        let Some(pid) = self.child.id() else { return Ok(()) };
        shell::run(std::process::Command::new("sh").args(["-c", &format!("kill -TERM {pid}")]))?;
        match timeout(STOPPED_WITHIN, self.child.wait()).await {
            Ok(status) => match status.context("failed to wait for the server")? {
                status if status.success() => Ok(()),
                status => bail!("the server ended with {status} after SIGTERM\n{}", self.log_tail()),
            },
            Err(_) => {
                self.child.kill().await.context("failed to kill the server")?;
                bail!(
                    "the server did not end within {} s of SIGTERM and was killed",
                    STOPPED_WITHIN.as_secs()
                )
            }
        }
    }

    /// The end of the server's log, for error messages.
    pub(crate) fn log_tail(&self) -> String {
        let text = match std::fs::read(&self.log) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) => return format!("(failed to read its log {}: {error})", self.log.display()),
        };
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(20)..].join("\n");
        format!("the end of its log, {}:\n{tail}", self.log.display())
    }
}

/// `preferred`, or any free port when it is taken.
pub(crate) fn free_port(preferred: u16) -> anyhow::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, preferred))
        .or_else(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .context("failed to find a free port")?;
    Ok(listener.local_addr().context("failed to learn the free port")?.port())
}

/// The status code of a GET.
async fn status_of(port: u16, path: &str) -> anyhow::Result<u16> {
    let get = async {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        // "HTTP/1.1 200" is 12 bytes.
        let mut head = [0; 12];
        stream.read_exact(&mut head).await?;
        anyhow::Ok(std::str::from_utf8(&head[9..])?.parse()?)
    };
    timeout(Duration::from_secs(2), get).await?
}
