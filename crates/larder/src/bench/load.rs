//! Requests to a server over so many connections, each as soon as the one before is answered. The bytes of a request are ready
//! before it is sent, and of an answer no more is read than whether it is good: the generator runs on the same cores as the server.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Characters of an answer that is not good, for the person.
const TOLD_MAX: usize = 300;
/// Headers of an answer.
const HEADERS_MAX: usize = 32;

/// What is sent, and what is to be answered.
#[derive(Clone)]
pub(super) struct Work {
    pub(super) address: SocketAddr,
    /// The request of this number.
    pub(super) request: Arc<dyn Fn(usize) -> Vec<u8> + Send + Sync>,
    /// What is in the body of every good answer.
    pub(super) good: &'static str,
}

/// How long to go on: until this number of the work's requests, or until this time has passed.
#[derive(Debug, Clone)]
pub(super) struct Extent {
    pub(super) connections: usize,
    pub(super) requests: std::ops::Range<usize>,
    pub(super) time: Duration,
}

/// What came of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    /// Answers in a second.
    pub(super) rate: f64,
    /// Of 100 answers, the second slowest took this long.
    pub(super) p99: Duration,
    /// The number of the first request that was not sent.
    pub(super) next: usize,
}

/// The bytes of a request.
pub(super) fn request(method: &str, path: &str, token: Option<&str>, body: Option<&str>) -> Vec<u8> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: bench\r\n");
    if let Some(token) = token {
        head.push_str(&format!("Authorization: Bearer {token}\r\n"));
    }
    if let Some(body) = body {
        let key = uuid::Uuid::new_v4();
        head.push_str(&format!(
            "Idempotency-Key: {key}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n",
            body.len()
        ));
    }
    head.push_str("\r\n");
    head.push_str(body.unwrap_or_default());
    head.into_bytes()
}

/// Sends them.
///
/// # Errors
/// When an answer is not good: a rate of refusals would say nothing.
pub(super) async fn run(work: &Work, extent: Extent) -> Result<Load> {
    let next = Arc::new(AtomicUsize::new(extent.requests.start));
    let started = Instant::now();
    let until = started + extent.time;
    let sending: Vec<_> = (0..extent.connections)
        .map(|_| {
            let (work, next) = (work.clone(), Arc::clone(&next));
            tokio::spawn(async move {
                let mut connection = Connection::open(work.address).await?;
                let mut times = Vec::new();
                // One at least, however late it is.
                while times.is_empty() || Instant::now() < until {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= extent.requests.end {
                        break;
                    }
                    let request = (work.request)(number);
                    let sent = Instant::now();
                    connection.ask(&request, work.good).await?;
                    times.push(sent.elapsed());
                }
                anyhow::Ok(times)
            })
        })
        .collect();
    let mut times = Vec::new();
    for connection in sending {
        times.extend(connection.await??);
    }
    let took = started.elapsed();
    let rate = times.len() as f64 / took.as_secs_f64();
    times.sort_unstable();
    let p99 = times.get(times.len().saturating_mul(99) / 100).copied();
    Ok(Load {
        rate,
        p99: p99.context("nothing was answered in time")?,
        next: next.load(Ordering::Relaxed).min(extent.requests.end),
    })
}

struct Connection {
    stream: TcpStream,
    answer: Vec<u8>,
}

impl Connection {
    async fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            answer: Vec::with_capacity(4096),
        })
    }

    async fn ask(&mut self, request: &[u8], good: &str) -> Result<()> {
        self.stream.write_all(request).await?;
        self.answer.clear();
        loop {
            if self.stream.read_buf(&mut self.answer).await? == 0 {
                bail!("the server closed a connection");
            }
            if let Some((status, body)) = complete(&self.answer)? {
                let found = String::from_utf8_lossy(body);
                if status != 200 || !found.contains(good) {
                    let beginning: String = found.chars().take(TOLD_MAX).collect();
                    bail!("the server answered {status}: {beginning}");
                }
                return Ok(());
            }
        }
    }
}

/// Status and body of an answer that is all there.
fn complete(bytes: &[u8]) -> Result<Option<(u16, &[u8])>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut answer = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head) = answer.parse(bytes)? else {
        return Ok(None);
    };
    let length = answer
        .headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case("content-length"))
        .context("an answer without a length")?;
    let length: usize = std::str::from_utf8(length.value)?.parse()?;
    let body = bytes.get(head..head.saturating_add(length));
    Ok(body.map(|body| (answer.code.unwrap_or_default(), body)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_complete_with_its_last_byte() {
        let bytes = b"HTTP/1.1 200 OK\r\ncontent-LENGTH: 2\r\n\r\nok";
        for end in 0..bytes.len() {
            assert_eq!(complete(&bytes[..end]).unwrap(), None);
        }
        assert_eq!(complete(bytes).unwrap(), Some((200, &b"ok"[..])));
        assert!(complete(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }
}
