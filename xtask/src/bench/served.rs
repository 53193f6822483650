//! Servers as their users see them: started, asked over HTTP, and their memory read from outside.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::Deserialize;

const READY_WITHIN: Duration = Duration::from_secs(120);
/// Far longer than the longest answer takes; a server that hangs must not hang the run.
const ANSWER_WITHIN: Duration = Duration::from_secs(300);
/// Between two attempts to reach a server that starts.
const RETRY: Duration = Duration::from_millis(2);

/// The name that requests use.
pub(crate) const MODEL: &str = "bench";

/// A running server; killed when dropped.
pub(crate) struct Served {
    child: Child,
    port: u16,
    started: Instant,
    log: PathBuf,
}

/// A streamed answer.
#[derive(Debug, PartialEq)]
pub(crate) struct Answer {
    /// When the first token arrived.
    pub(crate) first: Instant,
    pub(crate) usage: Usage,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) prompt_tokens: usize,
    pub(crate) completion_tokens: usize,
}

/// What is asked for.
pub(crate) struct Ask<'a> {
    pub(crate) prompt: &'a str,
    pub(crate) tokens: usize,
}

impl Served {
    /// Starts `command` on a free port, which `arguments` puts into words.
    pub(crate) fn start(
        mut command: Command,
        log: &Path,
        arguments: impl FnOnce(u16) -> Vec<String>,
    ) -> anyhow::Result<Served> {
        let port = free_port()?;
        let file = File::create(log).with_context(|| format!("failed to create {}", log.display()))?;
        let errors = file.try_clone().context("failed to share the log file")?;
        command.args(arguments(port)).stdin(Stdio::null()).stdout(file).stderr(errors);
        let started = Instant::now();
        let child =
            command.spawn().with_context(|| format!("failed to start {:?}", command.get_program()))?;
        Ok(Served { child, port, started, log: log.to_owned() })
    }

    /// When the process was started.
    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    /// Asks, again and again until the server is ready to answer.
    pub(crate) fn ask(&mut self, ask: &Ask<'_>) -> anyhow::Result<Answer> {
        loop {
            if let Some(answer) = self.try_ask(ask).with_context(|| self.log_tail())? {
                if answer.usage.completion_tokens != ask.tokens {
                    bail!("asked for {} tokens, got {}", ask.tokens, answer.usage.completion_tokens);
                }
                return Ok(answer);
            }
            if let Some(status) = self.child.try_wait().context("failed to look after the server")? {
                bail!("the server ended with {status}\n{}", self.log_tail());
            }
            if self.started.elapsed() > READY_WITHIN {
                bail!("the server was not ready within {} s\n{}", READY_WITHIN.as_secs(), self.log_tail());
            }
            std::thread::sleep(RETRY);
        }
    }

    /// `None` while the server does not listen or answers 503.
    fn try_ask(&self, ask: &Ask<'_>) -> anyhow::Result<Option<Answer>> {
        let mut stream = match TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)) {
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => return Ok(None),
            connected => connected.context("failed to connect to the server")?,
        };
        stream.set_read_timeout(Some(ANSWER_WITHIN)).context("failed to set a time limit")?;
        let body = serde_json::json!({
            "model": MODEL, "prompt": ask.prompt, "max_tokens": ask.tokens, "temperature": 0, "ignore_eos": true,
            "stream": true, "stream_options": {"include_usage": true},
        })
        .to_string();
        let head = format!(
            "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        // One write, so that no second segment waits for the first to be acknowledged.
        stream.write_all((head + &body).as_bytes()).context("failed to send the request")?;
        let mut reader = BufReader::new(stream);
        let head = Head::read(&mut reader).context("failed to read the response's head")?;
        match (head.status, head.chunked) {
            (200, true) => {
                read_answer(&mut BufReader::with_capacity(1, Chunked { reader, left: 0 })).map(Some)
            }
            (200, false) => read_answer(&mut reader).map(Some),
            (503, _) => Ok(None),
            (status, _) => {
                let mut text = String::new();
                reader.read_to_string(&mut text).context("failed to read the error")?;
                bail!("the server answered {status}: {text}")
            }
        }
    }

    /// Peak resident memory so far, in 10⁶ bytes.
    pub(crate) fn peak_megabytes(&self) -> anyhow::Result<f64> {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(&path).with_context(|| format!("failed to read {path}"))?;
        peak_megabytes(&status).with_context(|| format!("{path} has no VmHWM"))
    }

    /// The end of what the server printed, for messages about it.
    fn log_tail(&self) -> String {
        match std::fs::read(&self.log) {
            Ok(bytes) => {
                let text = String::from_utf8_lossy(&bytes).into_owned();
                let lines: Vec<&str> = text.lines().collect();
                format!("the end of its log:\n{}", lines[lines.len().saturating_sub(15)..].join("\n"))
            }
            Err(error) => format!("(failed to read its log {}: {error})", self.log.display()),
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // Both fail only when the process has ended already.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn free_port() -> anyhow::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("failed to find a free port")?;
    Ok(listener.local_addr().context("failed to learn the free port")?.port())
}

fn peak_megabytes(status: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024.0 / 1e6)
}

/// What of a response's head matters here.
struct Head {
    status: u16,
    chunked: bool,
}

impl Head {
    fn read(reader: &mut impl BufRead) -> anyhow::Result<Head> {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let status = line.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = status.with_context(|| format!("{line:?} is no status line"))?;
        let mut chunked = false;
        loop {
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                bail!("the head ends early");
            }
            if line.trim().is_empty() {
                return Ok(Head { status, chunked });
            }
            chunked |= line.to_ascii_lowercase().starts_with("transfer-encoding: chunked");
        }
    }
}

/// The bytes inside chunked transfer coding (RFC 9112, section 7.1). Reads no further than it was asked to, so that a
/// chunk is seen when it arrives.
struct Chunked<R> {
    reader: R,
    /// What is left of the current chunk.
    left: usize,
}

impl<R: BufRead> Read for Chunked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let invalid = |line: &str| std::io::Error::other(format!("{line:?} is no chunk size"));
        if self.left == 0 {
            let mut line = String::new();
            while line.trim().is_empty() {
                // The line end of the chunk before, if there is one, and then the size.
                line.clear();
                if self.reader.read_line(&mut line)? == 0 {
                    return Err(std::io::ErrorKind::UnexpectedEof.into());
                }
            }
            let digits = line.trim().split(';').next().unwrap_or_default();
            self.left = usize::from_str_radix(digits, 16).map_err(|_| invalid(&line))?;
            if self.left == 0 {
                return Ok(0);
            }
        }
        let most = buffer.len().min(self.left);
        let n = self.reader.read(&mut buffer[..most])?;
        if n == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= n;
        Ok(n)
    }
}

/// Reads server-sent events to `[DONE]`.
fn read_answer(reader: &mut impl BufRead) -> anyhow::Result<Answer> {
    #[derive(Deserialize)]
    struct Event {
        #[serde(default)]
        choices: Vec<Choice>,
        usage: Option<Usage>,
    }
    #[derive(Deserialize)]
    struct Choice {
        text: String,
    }
    let (mut first, mut usage, mut line) = (None, None, String::new());
    loop {
        line.clear();
        if reader.read_line(&mut line).context("failed to read the answer")? == 0 {
            bail!("the answer ends early");
        }
        let Some(data) = line.trim().strip_prefix("data:").map(str::trim) else { continue };
        if data == "[DONE]" {
            break;
        }
        let event: Event = serde_json::from_str(data).with_context(|| format!("unexpected event {data}"))?;
        if first.is_none() && event.choices.iter().any(|choice| !choice.text.is_empty()) {
            first = Some(Instant::now());
        }
        usage = event.usage.or(usage);
    }
    let first = first.context("the answer has no text")?;
    Ok(Answer { first, usage: usage.context("the answer has no usage")? })
}

/// Text of about as many tokens as `words`: common words have a token each. Texts of different seeds differ from their first
/// word on.
pub(crate) fn text(words: usize, seed: usize) -> String {
    const WORDS: [&str; 16] = [
        "time", "house", "water", "people", "light", "river", "morning", "letter", "music", "paper",
        "garden", "winter", "road", "mother", "city", "stone",
    ];
    let mut state = seed as u32;
    let word = |i: usize| {
        // The first word is the seed's; the others come from a linear congruential generator (Numerical Recipes).
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        WORDS[if i == 0 { seed % 16 } else { (state >> 28) as usize }]
    };
    (0..words).map(word).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENTS: &str = "data: {\"choices\":[{\"text\":\"\"}]}\n\ndata: {\"choices\":[{\"text\":\" a\"}],\"usage\":null}\n\n\
                          data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2}}\n\ndata: [DONE]\n\n";

    fn chunked(text: &str, size: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        for part in text.as_bytes().chunks(size) {
            write!(bytes, "{:x}\r\n", part.len()).unwrap();
            bytes.extend_from_slice(part);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"0\r\n\r\n");
        bytes
    }

    #[test]
    fn an_answer_is_read_however_it_is_cut_into_chunks() {
        for size in [1, 7, 100, 1000] {
            let bytes = chunked(EVENTS, size);
            let mut reader = BufReader::new(Chunked { reader: bytes.as_slice(), left: 0 });
            let usage = read_answer(&mut reader).unwrap().usage;
            assert_eq!(usage, Usage { prompt_tokens: 3, completion_tokens: 2 });
        }
    }

    #[test]
    fn an_answer_that_ends_early_is_an_error() {
        let whole = chunked(EVENTS, 50);
        for end in [0, 10, 60, whole.len() - 40] {
            let mut reader = BufReader::new(Chunked { reader: &whole[..end], left: 0 });
            assert!(read_answer(&mut reader).is_err(), "{end}");
        }
        assert!(read_answer(&mut "data: [DONE]\n".as_bytes()).is_err());
    }

    #[test]
    fn peak_memory_is_read_from_the_status_file() {
        assert_eq!(peak_megabytes("VmPeak:\t 9 kB\nVmHWM:\t    2000 kB\n"), Some(2.048));
        assert_eq!(peak_megabytes("VmPeak:\t 9 kB\n"), None);
    }

    #[test]
    fn texts_of_different_seeds_share_no_beginning() {
        assert_ne!(text(1, 1), text(1, 2));
        assert_eq!(text(50, 1), text(50, 1));
        assert_eq!(text(50, 1).split(' ').count(), 50);
    }
}
