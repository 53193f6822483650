//! The engine as a process of its own, as chaos tests use it.

#![expect(clippy::unwrap_used, reason = "helpers of tests are no tests to the lint")]

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(20);

fn start(flags: &[&str]) -> Child {
    let program = env!("CARGO_BIN_EXE_fake-engine");
    Command::new(program).args(flags).stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap()
}

async fn port(child: &mut Child) -> u16 {
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    timeout(SOON, lines.next_line()).await.unwrap().unwrap().unwrap().parse().unwrap()
}

#[tokio::test]
async fn it_serves_until_it_is_killed_and_starts_again_on_its_port() {
    let mut first = start(&["--model", "m", "--tokens", "2"]);
    let port = port(&mut first).await;
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(b"GET /v1/models HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains("\"id\":\"m\""), "{answer}");
    first.kill().await.unwrap();
    assert!(TcpStream::connect(("127.0.0.1", port)).await.is_err());
    let mut second = start(&["--port", &port.to_string()]);
    assert_eq!(self::port(&mut second).await, port);
}

#[tokio::test]
async fn it_follows_orders_and_ends_with_them() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_fake-engine"))
        .args(["--orders", "yes"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let port: u16 = timeout(SOON, lines.next_line()).await.unwrap().unwrap().unwrap().parse().unwrap();
    let mut orders = child.stdin.take().unwrap();
    orders.write_all(b"unhealthy\n").await.unwrap();
    assert_eq!(timeout(SOON, lines.next_line()).await.unwrap().unwrap().unwrap(), "done");
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(b"GET /ready HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    drop(orders);
    assert!(timeout(SOON, child.wait()).await.unwrap().unwrap().success());
}

#[tokio::test]
async fn it_fails_as_it_is_told() {
    let status = start(&["--exit-code", "3"]).wait().await.unwrap();
    assert_eq!(status.code(), Some(3));
    let status = start(&["--nonsense", "3"]).wait().await.unwrap();
    assert_eq!(status.code(), Some(2));
}
