//! The programs of the comparison: nginx that answers, wrk that asks, the routers in between. All end when they are dropped.

use std::fmt;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::cache::Cache;
use crate::python::Python;
use crate::shell;

/// Routers written in Python load for seconds before they listen.
const READY_WITHIN: Duration = Duration::from_secs(120);
const KEY: &str = "bench-key";

/// A router from the Python package index.
pub(super) struct Peer {
    pub(super) name: &'static str,
    requirement: &'static str,
    module: &'static str,
    quiet: &'static [&'static str],
}

/// The peers, each with the settings that are best for it: prefix routing, no log line for each request, no keys.
pub(super) static PEERS: [Peer; 2] = [
    Peer {
        name: "sglang-router",
        requirement: "sglang-router==0.3.2",
        module: "sglang_router.launch_router",
        quiet: &["--log-level", "warn"],
    },
    Peer {
        name: "vllm-router",
        requirement: "vllm-router==0.1.17",
        module: "vllm_router.launch_router",
        quiet: &["--log-level", "warning"],
    },
];

/// A child that is killed when dropped.
pub(super) struct Program(Child);

impl Program {
    pub(super) fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A router that listens.
pub(super) struct Router {
    pub(super) name: &'static str,
    pub(super) port: u16,
    pub(super) program: Program,
}

/// nginx on two ports, as two model servers.
pub(super) struct Upstream {
    _nginx: Program,
    ports: [u16; 2],
}

impl Upstream {
    pub(super) fn port(&self) -> u16 {
        self.ports[0]
    }
}

/// What wrk says of one load: requests a second, and latencies in microseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Load {
    pub(super) rate: f64,
    pub(super) p50: f64,
    pub(super) p99: f64,
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Load { rate, p50, p99 } = self;
        write!(f, "{rate:.0}/s, p50 {p50:.0} µs, p99 {p99:.0} µs")
    }
}

/// Our gateway, and where it works.
pub(super) struct Ours {
    wharf: PathBuf,
    work: PathBuf,
    /// What it logs.
    log_level: String,
}

impl Ours {
    pub(super) fn find(wharf: PathBuf, log_level: &str) -> anyhow::Result<Ours> {
        let work = shell::target()?.join("bench-gateway");
        std::fs::create_dir_all(&work).with_context(|| format!("failed to create {}", work.display()))?;
        let ours = Ours { wharf, work, log_level: log_level.to_owned() };
        ours.write("keys", &format!("{KEY}\n"))?;
        Ok(ours)
    }

    fn write(&self, name: &str, text: &str) -> anyhow::Result<PathBuf> {
        let path = self.work.join(name);
        super::super::write(&path, text)?;
        Ok(path)
    }

    /// Our gateway in front of these addresses.
    pub(super) fn start(&self, addresses: &[String]) -> anyhow::Result<Router> {
        let (port, metrics) = (free_port()?, free_port()?);
        let list: Vec<String> = addresses.iter().map(|address| format!("'{address}'")).collect();
        let config = format!(
            "port: {port}\nmetricsPort: {metrics}\napiKeys: {keys}\nmaxConnections: 100000\ntimeouts: {{idle: 3600}}\n\
             services: [{{name: m, endpoints: [{list}]}}]\n",
            keys = self.work.join("keys").display(),
            list = list.join(", "),
        );
        let config = self.write("gateway.yaml", &config)?;
        let mut command = Command::new(&self.wharf);
        command
            .args(["gateway", "--log-format", "json", "--log-level", &self.log_level, "--config"])
            .arg(config);
        let program = run(&mut command, &self.work.join("gateway.log"))?;
        ready("the gateway", port)?;
        Ok(Router { name: "wharf", port, program })
    }
}

/// Where the programs are.
pub(super) struct Programs {
    pub(super) ours: Ours,
    python: Python,
    peers: Vec<PathBuf>,
}

impl Programs {
    pub(super) fn find(cache: &Cache, wharf: PathBuf, log_level: &str) -> anyhow::Result<Programs> {
        for program in ["nginx", "wrk"] {
            if !shell::works(Command::new(program).arg("-v")) && which(program).is_none() {
                bail!("{program} is not there (on Debian: apt install nginx-light wrk)");
            }
        }
        let python = Python::find().context(Python::MISSING)?;
        let peers =
            PEERS.iter().map(|peer| python.packages(cache, peer.requirement)).collect::<Result<_, _>>()?;
        let ours = Ours::find(wharf, log_level)?;
        ours.write("post.lua", POST)?;
        Ok(Programs { ours, python, peers })
    }

    /// nginx in the foreground, so that it ends with us.
    pub(super) fn upstream(&self) -> anyhow::Result<Upstream> {
        let ports = [free_port()?, free_port()?];
        let conf = NGINX
            .replace("FOLDER", &self.ours.work.display().to_string())
            .replace("PORT1", &ports[0].to_string())
            .replace("PORT2", &ports[1].to_string());
        let conf = self.ours.write("nginx.conf", &conf)?;
        let nginx = run(Command::new("nginx").arg("-c").arg(conf), &self.ours.work.join("nginx.log"))?;
        for port in ports {
            ready("nginx", port)?;
        }
        Ok(Upstream { _nginx: nginx, ports })
    }

    /// Ours first.
    pub(super) fn routers(&self, upstream: &Upstream) -> anyhow::Result<Vec<Router>> {
        let [a, b] = upstream.ports.map(|port| format!("127.0.0.1:{port}"));
        let mut routers = vec![self.ours.start(&[a.clone(), b.clone()])?];
        for (peer, packages) in PEERS.iter().zip(&self.peers) {
            let (port, metrics) = (free_port()?, free_port()?);
            let mut command = self.python.command();
            command.env("PYTHONPATH", packages).args(["-m", peer.module, "--host", "127.0.0.1"]);
            command.args(["--port", &port.to_string(), "--prometheus-port", &metrics.to_string()]);
            command.args(["--worker-urls", &format!("http://{a}"), &format!("http://{b}")]);
            command.args(["--policy", "cache_aware"]).args(peer.quiet);
            let program = run(&mut command, &self.ours.work.join(format!("{}.log", peer.name)))?;
            ready(peer.name, port)?;
            routers.push(Router { name: peer.name, port, program });
        }
        Ok(routers)
    }

    /// So many connections that ask as fast as they are answered.
    pub(super) fn load(&self, port: u16, connections: u32, seconds: u32) -> anyhow::Result<Load> {
        let mut wrk = Command::new("wrk");
        wrk.args(["-t1", &format!("-c{connections}"), &format!("-d{seconds}s"), "--latency", "-s"]);
        wrk.arg(self.ours.work.join("post.lua")).arg(format!("http://127.0.0.1:{port}/"));
        parse(&shell::read(&mut wrk)?)
    }
}

/// The request that opens a stream, or any other.
pub(super) fn request(stream: bool, content: &str) -> String {
    let body =
        format!(r#"{{"model":"m","stream":{stream},"messages":[{{"role":"user","content":"{content}"}}]}}"#);
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {KEY}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn which(program: &str) -> Option<PathBuf> {
    ["/usr/sbin", "/usr/bin", "/usr/local/bin"]
        .map(|folder| Path::new(folder).join(program))
        .into_iter()
        .find(|path| path.exists())
}

fn run(command: &mut Command, log: &Path) -> anyhow::Result<Program> {
    let file = std::fs::File::create(log).with_context(|| format!("failed to create {}", log.display()))?;
    let errors = file.try_clone().context("failed to share the log file")?;
    command.stdin(Stdio::null()).stdout(file).stderr(errors);
    let child = command.spawn().with_context(|| format!("failed to start {}", shell::describe(command)))?;
    Ok(Program(child))
}

/// Waits until a chat request is answered with 200.
fn ready(name: &str, port: u16) -> anyhow::Result<()> {
    use std::io::{Read as _, Write as _};
    let began = Instant::now();
    let answered = || -> std::io::Result<bool> {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(request(false, "hello").as_bytes())?;
        let mut head = [0; 12];
        stream.read_exact(&mut head)?;
        Ok(head.ends_with(b"200"))
    };
    while began.elapsed() < READY_WITHIN {
        if answered().unwrap_or(false) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    bail!("{name} did not answer within {} s", READY_WITHIN.as_secs())
}

fn free_port() -> anyhow::Result<u16> {
    let socket = TcpListener::bind(("127.0.0.1", 0)).context("failed to find a free port")?;
    Ok(socket.local_addr().context("failed to look at a port")?.port())
}

/// What wrk printed.
fn parse(text: &str) -> anyhow::Result<Load> {
    if let Some(line) = text.lines().find(|line| line.contains("Non-2xx")) {
        bail!("not every request was answered: {}", line.trim());
    }
    let after = |label: &str| {
        text.lines()
            .find_map(|line| line.trim().strip_prefix(label).map(str::trim))
            .with_context(|| format!("wrk printed no {label}"))
    };
    let rate = after("Requests/sec:")?.parse().context("failed to read wrk's rate")?;
    Ok(Load { rate, p50: microseconds(after("50%")?)?, p99: microseconds(after("99%")?)? })
}

fn microseconds(text: &str) -> anyhow::Result<f64> {
    let units = [("us", 1.0), ("ms", 1e3), ("s", 1e6)];
    let (number, factor) = units
        .iter()
        .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)))
        .with_context(|| format!("{text:?} is no time"))?;
    Ok(number.parse::<f64>().with_context(|| format!("{text:?} is no time"))? * factor)
}

const NGINX: &str = r#"daemon off;
worker_processes 1;
error_log stderr;
pid FOLDER/nginx.pid;
events { worker_connections 4096; }
http {
  access_log off;
  client_body_temp_path FOLDER; proxy_temp_path FOLDER; fastcgi_temp_path FOLDER; uwsgi_temp_path FOLDER; scgi_temp_path FOLDER;
  keepalive_requests 100000000;
  client_body_buffer_size 64k;
  default_type application/json;
  server {
    listen 127.0.0.1:PORT1 backlog=4096;
    listen 127.0.0.1:PORT2 backlog=4096;
    location /metrics { return 404; }
    location /v1/models { return 200 '{"object":"list","data":[{"id":"m","object":"model"}]}'; }
    location / { return 200 '{"id":"c","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"hello world, how are you today?"},"finish_reason":"stop"}],"usage":{"prompt_tokens":300,"completion_tokens":8,"total_tokens":308}}'; }
  }
}
"#;

const POST: &str = r#"wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer bench-key"
local text = string.rep("the quick brown fox jumps over the lazy dog ", 25)
request = function()
  local start = string.format("%d ", math.random(1, 200))
  return wrk.format(nil, "/v1/chat/completions", nil,
    '{"model":"m","messages":[{"role":"user","content":"' .. start .. text .. '"}],"max_tokens":16}')
end
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_wrk_prints() {
        let text = "  Latency Distribution\n     50%  177.00us\n     75%    1.00ms\n     99%    1.83ms\nRequests/sec:  87706.99\n";
        assert_eq!(parse(text).unwrap(), Load { rate: 87706.99, p50: 177.0, p99: 1830.0 });
        assert!(parse("  Non-2xx or 3xx responses: 7\n").unwrap_err().to_string().contains('7'));
    }
}
