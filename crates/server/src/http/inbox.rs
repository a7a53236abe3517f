//! The inbox, by request and long poll, and as a stream of events.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use larder_wire::{
    INBOX_PAGE_ROWS_MAX, INBOX_WAIT_SECONDS_MAX, Inbox, InboxKind, InboxRow, NextRequest, Problem,
    ProblemType,
};
use tokio::time::{Instant, interval_at, timeout, timeout_at};

use super::App;
use super::connection::UnderWay;
use super::extract::{BearerToken, Json};
use super::parts::{LARGE_BYTES, json_in, place_for};
use super::problem::{Failure, NextProblems, WaitProblems};
use crate::delivery::inbox::{PAGE_BYTES, PageLimit, Positions, event};
use crate::wakeups::{Event, Queue, Waiting};
use crate::{Caller, ServiceError};

/// A reader of a stream that gets nothing else gets a comment this often, so that whoever is between does not take it for dead.
const COMMENT_SECONDS: u64 = 20;
const COMMENT: &[u8] = b":\n\n";
/// Rows of a stream that are read from the store at a time.
const STREAM_ROWS: u32 = 64;
/// The same in bytes of bodies. The last row may be larger than that, and then needs the place of a transfer.
const STREAM_BYTES: usize = LARGE_BYTES;
/// Events that wait for the reader of a stream.
const STREAM_EVENTS: usize = 64;

/// Acknowledges rows, and gives those after them; waits for one, if there is none and the request says so.
#[utoipa::path(
    post, path = "/v1/inbox/next", operation_id = "inbox_next", tag = "inbox",
    request_body = NextRequest,
    responses((status = 200, description = "Without rows when none came in time", body = Inbox), NextProblems),
    security(("session" = [])),
)]
pub(super) async fn next(
    caller: Caller,
    State(app): State<App>,
    Json(request): Json<NextRequest>,
) -> Result<Response, Failure> {
    let rows = request.limit.unwrap_or(INBOX_PAGE_ROWS_MAX);
    if rows == 0 {
        return Err(Problem::new(ProblemType::Malformed)
            .with_detail("a limit is at least 1")
            .into());
    }
    let limit = PageLimit {
        rows: rows.min(INBOX_PAGE_ROWS_MAX),
        bytes: PAGE_BYTES,
    };
    let wait_seconds = request.wait.unwrap_or(0).min(INBOX_WAIT_SECONDS_MAX);
    let deadline = Instant::now() + Duration::from_secs(wait_seconds);
    // Subscribed before the first read: a row that arrives in between is seen either way.
    let mut waiting = match wait_seconds {
        0 => None,
        _ => Some(app.service.subscribe(&caller)?),
    };
    if let Some(acknowledgement) = request.acknowledge {
        app.service.acknowledge(&caller, acknowledgement).await?;
    }
    loop {
        if let Some(waiting) = &mut waiting {
            waiting.look();
        }
        let page = app.service.page(&caller, Positions::new(), 0, limit).await?;
        let Some(waiting) = &mut waiting else {
            return answer(&app, &caller, page.rows);
        };
        // Nobody waits for what is not for it.
        if page.rows.iter().any(|row| row.kind != InboxKind::Passed) {
            return answer(&app, &caller, page.rows);
        }
        if waiting.listen_to(&page.groups) {
            continue;
        }
        let woken = tokio::select! {
            arrived = timeout_at(deadline, waiting.arrived()) => matches!(arrived, Ok(true)),
            () = app.closing.wait() => false,
        };
        if !woken {
            return answer(&app, &caller, page.rows);
        }
    }
}

/// A page, in the place of a transfer if it is large. Without a free place it ends before it needs one, and the reader asks for the
/// rest; it fails with [`Fault::Busy`](crate::error::Fault::Busy) when its first row is large by itself.
fn answer(app: &App, caller: &Caller, mut rows: Vec<InboxRow>) -> Result<Response, Failure> {
    let mut bytes = bytes_of(&rows);
    let place = match place_for(app, caller, bytes) {
        Ok(place) => place,
        Err(busy) => {
            rows.truncate(rows_without_place(&rows));
            if rows.is_empty() {
                return Err(busy.into());
            }
            bytes = bytes_of(&rows);
            None
        }
    };
    json_in(app, place, Inbox { rows }, bytes)
}

fn bytes_of(rows: &[InboxRow]) -> usize {
    rows.iter().map(|row| row.body.0.len()).sum()
}

/// How many of the first rows are no large answer.
fn rows_without_place(rows: &[InboxRow]) -> usize {
    let mut bytes = 0;
    let fits = |row: &InboxRow| {
        bytes += row.body.0.len();
        bytes <= LARGE_BYTES
    };
    rows.iter().map(fits).take_while(|fits| *fits).count()
}

/// The rows after those that are acknowledged, as they come: each an event with an `InboxRow` as JSON for its data. Nothing is
/// acknowledged by it. It ends with the session.
#[utoipa::path(
    get, path = "/v1/inbox/events", operation_id = "inbox_events", tag = "inbox",
    responses(
        (status = 200, description = "Rows as they come", body = InboxRow, content_type = "text/event-stream"),
        WaitProblems,
    ),
    security(("session" = [])),
)]
pub(super) async fn events(
    caller: Caller,
    token: BearerToken,
    State(app): State<App>,
    under_way: Option<Extension<Arc<UnderWay>>>,
) -> Result<Response, Failure> {
    let (queue, queued) = Queue::new(STREAM_EVENTS);
    let stream = Stream {
        waiting: app.service.stream(&caller, queue.clone())?,
        app,
        caller,
        token,
        queue,
        read: Positions::new(),
        mail_read: 0,
    };
    tokio::spawn(async move {
        // The connection is in use for as long as there is a stream.
        let _under_way = under_way;
        stream.run().await;
    });
    let events = futures_util::stream::unfold(queued, |mut queued| async {
        queued
            .next()
            .await
            .map(|event| (Ok::<_, Infallible>(event), queued))
    });
    Ok((
        [(header::CONTENT_TYPE, "text/event-stream")],
        Body::from_stream(events),
    )
        .into_response())
}

/// A stream ends: the reader has gone or is too slow, its session has ended, or the server stops or cannot answer.
struct Ended;

struct Stream {
    app: App,
    caller: Caller,
    token: BearerToken,
    waiting: Waiting,
    queue: Queue,
    /// How far the reader is.
    read: Positions,
    mail_read: u64,
}

impl Stream {
    async fn run(mut self) {
        let Err(Ended) = self.deliver().await;
    }

    async fn deliver(&mut self) -> Result<Infallible, Ended> {
        let app = self.app.clone();
        let comment = Duration::from_secs(COMMENT_SECONDS);
        let mut comments = interval_at(Instant::now() + comment, comment);
        // A reader learns at once that there is a stream.
        self.send(Event::from(Bytes::from_static(COMMENT))).await?;
        loop {
            self.waiting.look();
            self.send_rows().await?;
            loop {
                tokio::select! {
                    arrived = self.waiting.arrived() => match arrived {
                        true => break,
                        false => return Err(Ended),
                    },
                    _ = comments.tick() => {
                        self.check_session().await?;
                        self.send(Event::from(Bytes::from_static(COMMENT))).await?;
                    }
                    () = self.queue.closed() => return Err(Ended),
                    () = app.closing.wait() => return Err(Ended),
                }
            }
        }
    }

    /// Sends what there is. What is said from then on is given to the reader at once.
    async fn send_rows(&mut self) -> Result<(), Ended> {
        // What was given to it since the last time.
        self.read.extend(self.waiting.read_on());
        loop {
            self.check_session().await?;
            let limit = PageLimit {
                rows: STREAM_ROWS,
                bytes: STREAM_BYTES,
            };
            let service = &self.app.service;
            let page = service.page(&self.caller, self.read.clone(), self.mail_read, limit);
            let mut page = page.await.map_err(|_| Ended)?;
            if page.rows.is_empty() {
                if self.waiting.listen_to(&page.groups) {
                    continue;
                }
                self.waiting.is_at(page.ends);
                return Ok(());
            }
            // What does not fit is read again. Only a row that is large by itself needs a place.
            page.rows.truncate(rows_without_place(&page.rows).max(1));
            let bytes = bytes_of(&page.rows);
            if bytes > LARGE_BYTES {
                // One place for each stream, however many large rows follow one another.
                self.in_time(self.queue.emptied()).await?;
            }
            let place = place_for(&self.app, &self.caller, bytes).map_err(|_| Ended)?;
            let events: Vec<Bytes> = page.rows.iter().map(event).collect();
            self.send(Event::in_place(events.concat().into(), place)).await?;
            for row in page.rows {
                match row.group_id {
                    Some(group) => {
                        self.read.insert(group, row.seq);
                    }
                    None => self.mail_read = row.seq,
                }
            }
            if self.app.closing.now() {
                return Err(Ended);
            }
        }
    }

    async fn send(&self, event: Event) -> Result<(), Ended> {
        self.in_time(self.queue.send(event)).await
    }

    /// Waits for the reader, which has to take something within a time; `false` of one that has gone.
    async fn in_time(&self, done: impl Future<Output = bool>) -> Result<(), Ended> {
        let most = Duration::from_secs(self.app.service.limits().send_seconds_max);
        match timeout(most, done).await {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(Ended),
        }
    }

    /// A stream delivers nothing beyond the session that opened it.
    async fn check_session(&self) -> Result<(), Ended> {
        match self.app.service.authenticate(&self.token.0).await {
            Ok(_) => Ok(()),
            Err(ServiceError::Refused(_) | ServiceError::Fault(_)) => Err(Ended),
        }
    }
}

#[cfg(test)]
mod tests {
    use larder_wire::Base64Url;

    use super::*;

    #[test]
    fn a_page_without_a_place_has_the_first_rows_that_need_none() {
        let row = |bytes: usize| InboxRow {
            group_id: None,
            seq: 1,
            first: None,
            kind: InboxKind::Message,
            epoch: None,
            received_at: 1,
            gone: None,
            body: Base64Url(vec![0; bytes]),
        };
        for (bytes, fit) in [
            (&[LARGE_BYTES, 0, 1, 0][..], 2),
            (&[1, LARGE_BYTES], 1),
            (&[LARGE_BYTES + 1, 1], 0),
            (&[], 0),
        ] {
            let rows: Vec<_> = bytes.iter().map(|bytes| row(*bytes)).collect();
            assert_eq!(rows_without_place(&rows), fit, "{bytes:?}");
        }
    }
}
