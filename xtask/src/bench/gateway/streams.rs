//! What an idle stream costs: many clients that each wait for the next token, and the gateway's memory before and after.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::programs::{Ours, request};

/// Streams that are opened at the same time.
const AT_ONCE: usize = 64;
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// The gateway's memory.
pub(super) struct Memory {
    /// Bytes that each stream added.
    pub(super) bytes_each: f64,
}

/// Opens so many streams through the gateway to a server that sends one token and then nothing.
pub(super) fn memory(ours: &Ours, streams: usize) -> anyhow::Result<Memory> {
    let asked = Arc::new(request(true, "hello"));
    runtime()?.block_on(async {
        let upstream = TcpListener::bind("127.0.0.1:0").await.context("failed to listen")?;
        let address = upstream.local_addr().context("failed to look at a port")?;
        tokio::spawn(async move {
            while let Ok((stream, _)) = upstream.accept().await {
                tokio::spawn(one_token(stream));
            }
        });
        let router = ours.start(&[address.to_string()])?;
        // What the first streams allocate for all is not counted with the rest.
        let mut open = many(router.port, AT_ONCE, asked.clone()).await?;
        let before = resident(router.program.id())?;
        open.extend(many(router.port, streams, asked).await?);
        let after = resident(router.program.id())?;
        let bytes_each = (after - before) / streams as f64;
        eprintln!(
            "{streams} idle streams: {:.0} MB, {:.1} kB each",
            (after - before) / 1e6,
            bytes_each / 1e3
        );
        Ok(Memory { bytes_each })
    })
}

/// A model server: one event of each stream, and then it holds the connection.
async fn one_token(mut stream: TcpStream) -> std::io::Result<()> {
    while asked(&mut stream).await?.is_some() {
        let event = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n";
        stream.write_all(format!("{HEAD}{:x}\r\n{event}\r\n", event.len()).as_bytes()).await?;
    }
    Ok(())
}

/// What a stream begins with.
pub(super) const HEAD: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

/// The next request for a chat; questions of other kinds are answered with nothing. `None` when the connection has ended.
pub(super) async fn asked(stream: &mut TcpStream) -> std::io::Result<Option<String>> {
    let mut received = Vec::new();
    let mut buffer = [0; 2048];
    loop {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            return Ok(None);
        }
        received.extend_from_slice(&buffer[..count]);
        if received.starts_with(b"GET") && received.ends_with(b"\r\n\r\n") {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await?;
            received.clear();
        } else if received.ends_with(b"}") {
            return Ok(Some(String::from_utf8_lossy(&received).into_owned()));
        }
    }
}

pub(super) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("failed to start the asynchronous runtime")
}

/// Opens so many streams that have had their first event.
pub(super) async fn many(port: u16, count: usize, asked: Arc<String>) -> anyhow::Result<Vec<TcpStream>> {
    let mut streams = Vec::with_capacity(count);
    while streams.len() < count {
        let mut opening = JoinSet::new();
        for _ in 0..AT_ONCE.min(count - streams.len()) {
            opening.spawn(timeout(PATIENCE, open(port, asked.clone())));
        }
        while let Some(opened) = opening.join_next().await {
            let opened = opened.context("a stream's task panicked")?;
            streams.push(opened.context("a stream did not open in time")??);
        }
    }
    Ok(streams)
}

async fn open(port: u16, asked: Arc<String>) -> anyhow::Result<TcpStream> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.context("failed to connect")?;
    stream.write_all(asked.as_bytes()).await.context("failed to ask for a stream")?;
    let mut received = Vec::new();
    let mut buffer = [0; 2048];
    while !received.windows(6).any(|window| window == b"data: ") {
        let count = stream.read(&mut buffer).await.context("failed to read a stream")?;
        if count == 0 {
            bail!("a stream ended: {}", String::from_utf8_lossy(&received));
        }
        received.extend_from_slice(&buffer[..count]);
    }
    Ok(stream)
}

/// Resident memory of a process, in bytes.
fn resident(pid: u32) -> anyhow::Result<f64> {
    let path = format!("/proc/{pid}/status");
    let status = std::fs::read_to_string(&path).with_context(|| format!("failed to read {path}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("there is no VmRSS")?;
    let kilobytes: f64 = line.trim().trim_end_matches("kB").trim().parse().context("failed to read VmRSS")?;
    Ok(kilobytes * 1024.0)
}
