//! What a stream that waits for its next token costs: a gateway in a process of its own, and its memory before and after many of them.
//!
//! It is measured, not asserted: `cargo test -p wharf-gateway --test gateway -- --ignored --nocapture an_idle_stream`. The figures that count are
//! `cargo xtask bench gateway`'s, of an optimised build.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::timeout;
use wharf_gateway::{Gateway, ServiceConfig};

use crate::support::{PATIENCE, config};

const STREAMS: usize = 1_500;
const AT_ONCE: usize = 50;

/// The process that is measured. Standard input says where its model server is.
#[test]
#[ignore = "no test: the gateway's process, which is measured"]
fn gateway_process() {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    if line.trim().is_empty() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut config = config(vec![ServiceConfig::new("demo/fake-model", [line.trim()])]);
        (config.timeouts.idle, config.polling.health) = (600.0, 600.0);
        let gateway = Gateway::bind(config).unwrap();
        let mut output = std::io::stdout();
        writeln!(output, "\nlistening {}", gateway.addresses().http).unwrap();
        output.flush().unwrap();
        gateway.serve(std::future::pending()).await.unwrap();
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn an_idle_stream_costs_so_much() {
    let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = upstream.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = upstream.accept().await {
            tokio::spawn(one_token(stream));
        }
    });
    let mut process = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "memory::gateway_process", "--ignored", "--nocapture"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut input = process.stdin.take().unwrap();
    input.write_all(format!("{address}\n").as_bytes()).await.unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let gateway: SocketAddr = loop {
        let line = lines.next_line().await.unwrap().expect("the gateway starts");
        if let Some(address) = line.strip_prefix("listening ") {
            break address.parse().unwrap();
        }
    };
    let pid = process.id().unwrap();
    let mut streams = open_many(gateway, 4 * AT_ONCE).await;
    let (before, some) = (resident(pid), streams.len());
    while streams.len() < STREAMS + some {
        streams.extend(open_many(gateway, AT_ONCE).await);
    }
    let each = (resident(pid) - before) / (streams.len() - some) as f64;
    writeln!(std::io::stderr(), "{each:.1} kB for each of {STREAMS} idle streams").unwrap();
    assert!(each > 0.0);
}

/// A model server: one event of each stream, and then it holds the connection.
async fn one_token(mut stream: TcpStream) -> std::io::Result<()> {
    let mut received = Vec::new();
    loop {
        if stream.read_buf(&mut received).await? == 0 {
            return Ok(());
        }
        if received.starts_with(b"GET") && received.ends_with(b"\r\n\r\n") {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await?;
            received.clear();
        } else if received.ends_with(b"}") {
            let event = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n";
            let head =
                "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
            stream.write_all(format!("{head}{:x}\r\n{event}\r\n", event.len()).as_bytes()).await?;
            received.clear();
        }
    }
}

async fn open_many(gateway: SocketAddr, count: usize) -> Vec<TcpStream> {
    let mut opening = JoinSet::new();
    for _ in 0..count {
        opening.spawn(timeout(PATIENCE, open(gateway)));
    }
    opening.join_all().await.into_iter().map(Result::unwrap).collect()
}

async fn open(gateway: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(gateway).await.unwrap();
    let prompt = "a prompt of some length ".repeat(50);
    let body = format!(
        "{{\"model\":\"fake-model\",\"stream\":true,\"messages\":[{{\"role\":\"user\",\"content\":\"{prompt}\"}}]}}"
    );
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    let mut received = Vec::new();
    while !received.windows(6).any(|window| window == b"data: ") {
        assert!(stream.read_buf(&mut received).await.unwrap() > 0, "{}", String::from_utf8_lossy(&received));
    }
    stream
}

/// Resident memory of a process, in kB.
fn resident(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse::<f64>().unwrap() * 1.024
}
