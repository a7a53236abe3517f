//! The rows of the inbox as they come (`text/event-stream`).

use std::time::Duration;

use larder_wire::InboxRow;
use reqwest::Response;

use crate::error::{Error, NotTheServer};
use crate::transport::deadline::Deadline;
use crate::transport::http::no_answer;

/// A server sends something at least every 20 seconds. Who hears nothing for this long has no connection any more.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// What a server sends at once, of which nothing is understood, in bytes.
const EVENT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A stream of rows.
pub(crate) struct Events {
    response: Response,
    unread: Vec<u8>,
}

impl Events {
    /// The stream that an answer begins, once something has come of it: what is between may hold it back until its end, which
    /// there is none of.
    pub(super) async fn begin(mut response: Response, deadline: Deadline) -> Result<Self, Error> {
        let first = deadline
            .bound(async { response.chunk().await.map_err(no_answer) })
            .await?;
        Ok(Self {
            response,
            unread: first.map(|first| first.to_vec()).unwrap_or_default(),
        })
    }

    /// Waits for rows, and gives those that have come; none once `wait` is over, and `None` once the stream is. May be dropped
    /// half way: nothing is lost.
    ///
    /// # Errors
    /// [`NotTheServer::NotLarder`] for what is no row.
    pub(crate) async fn next(&mut self, wait: Duration) -> Result<Option<Vec<InboxRow>>, Error> {
        let over = tokio::time::Instant::now() + wait;
        loop {
            let rows = self.rows()?;
            if !rows.is_empty() {
                return Ok(Some(rows));
            }
            let silence = Deadline::after(SILENCE_MAX);
            let chunk = silence.bound(async { self.response.chunk().await.map_err(no_answer) });
            let Ok(chunk) = tokio::time::timeout_at(over, chunk).await else {
                return Ok(Some(Vec::new()));
            };
            // Why it has ended is told by the next request.
            let Ok(Some(chunk)) = chunk else {
                return Ok(None);
            };
            if self.unread.len() + chunk.len() > EVENT_BYTES_MAX {
                return Err(not_larder());
            }
            self.unread.extend_from_slice(&chunk);
        }
    }

    /// The rows of the events that are there as a whole.
    fn rows(&mut self) -> Result<Vec<InboxRow>, Error> {
        let Some(end) = self.unread.windows(2).rposition(|pair| pair == b"\n\n") else {
            return Ok(Vec::new());
        };
        let whole: Vec<u8> = self.unread.drain(..end + 2).collect();
        let mut rows = Vec::new();
        for line in whole.split(|byte| *byte == b'\n') {
            if let Some(data) = line.strip_prefix(b"data: ") {
                rows.push(serde_json::from_slice(data).map_err(|_| not_larder())?);
            }
        }
        Ok(rows)
    }
}

fn not_larder() -> Error {
    NotTheServer::NotLarder { status: 200 }.into()
}
