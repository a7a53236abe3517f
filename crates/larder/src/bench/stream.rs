//! A connected device: a stream of events that counts its messages.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use axum::body::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use reqwest::{Method, Response};
use tokio::time::timeout;

use super::device::Http;
use super::{AT_ONCE, TIME_MAX};

pub(super) struct Stream {
    answer: Response,
    unread: Vec<u8>,
    /// The last message, as it came.
    last: Bytes,
}

impl Stream {
    /// Opens a stream, and reads what comes first: that there is one.
    async fn open(http: Http, path: &str) -> Result<Self> {
        let mut answer = http.request(Method::GET, path).send().await?;
        if !answer.status().is_success() {
            bail!("GET {path}: {}", answer.status());
        }
        answer.chunk().await?.context("a stream ended at once")?;
        Ok(Self {
            answer,
            unread: Vec::new(),
            last: Bytes::new(),
        })
    }

    /// Opens one for each of these.
    pub(super) async fn open_all(https: impl Iterator<Item = Http>, path: &str) -> Result<Vec<Self>> {
        stream::iter(https.map(|http| Self::open(http, path)))
            .buffered(AT_ONCE)
            .try_collect()
            .await
    }

    pub(super) fn last(&self) -> Bytes {
        self.last.clone()
    }

    /// Reads so many messages.
    async fn read(&mut self, messages: usize) -> Result<()> {
        let mut read = 0;
        loop {
            let mut start = 0;
            while read < messages
                && let Some(end) = end_of_event(&self.unread, start)
            {
                let event = self.unread.get(start..end).unwrap_or_default();
                if std::str::from_utf8(event)?.contains(r#""kind":"message""#) {
                    read += 1;
                    if read == messages {
                        self.last = Bytes::copy_from_slice(event);
                    }
                }
                start = end;
            }
            self.unread.drain(..start);
            if read == messages {
                return Ok(());
            }
            let chunk = self.answer.chunk().await?.context("a stream ended early")?;
            self.unread.extend_from_slice(&chunk);
        }
    }
}

/// Where the event ends that starts here: behind an empty line.
fn end_of_event(bytes: &[u8], start: usize) -> Option<usize> {
    let mut at = start;
    loop {
        at += bytes.get(at..)?.iter().position(|byte| *byte == b'\n')? + 1;
        if *bytes.get(at)? == b'\n' {
            return Some(at + 1);
        }
    }
}

/// Reads so many messages from each, all of them at once.
pub(super) async fn read_all(streams: Vec<Stream>, messages: usize) -> Result<Vec<Stream>> {
    let reading: Vec<_> = streams
        .into_iter()
        .map(|mut stream| {
            tokio::spawn(async move {
                stream.read(messages).await?;
                anyhow::Ok(stream)
            })
        })
        .collect();
    let all = async {
        let mut streams = Vec::with_capacity(reading.len());
        for stream in reading {
            streams.push(stream.await??);
        }
        Ok(streams)
    };
    timeout(TIME_MAX, all).await.with_context(|| {
        format!(
            "not every message arrived within {} s",
            Duration::as_secs(&TIME_MAX)
        )
    })?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_ends_behind_an_empty_line() {
        let bytes = b":\n\ndata: a\n\ndata: b\n";
        assert_eq!(end_of_event(bytes, 0), Some(3));
        assert_eq!(end_of_event(bytes, 3), Some(12));
        assert_eq!(end_of_event(bytes, 12), None);
    }
}
