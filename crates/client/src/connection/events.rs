use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use larder_wire::{InboxKind, InboxRow};

use crate::connection::MlsConnection;
use crate::connection::sync::Progress;
use crate::core::{self, Standing, Taken};
use crate::error::{Error, NotTheServer};
use crate::transport::Events;

/// Rows are acknowledged together: after so many of them.
const UNACKNOWLEDGED_MAX: usize = 256;
/// And this long after the first.
const UNACKNOWLEDGED_TIME: Duration = Duration::from_secs(5);

/// The rows of the inbox as they come.
pub struct Listening {
    connection: MlsConnection,
    events: Events,
    /// Rows that the server does not know to be stored, and since when.
    unacknowledged: usize,
    since: Option<Instant>,
}

/// What came of listening.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Heard {
    /// Nothing in this time.
    Nothing,
    /// Messages. They are in the history.
    Messages,
    /// Something of which more follows: [`sync`](MlsConnection::sync).
    More,
    /// The end: sync, and listen again.
    Ended,
}

impl Heard {
    /// What came of both.
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Ended, _) | (_, Self::Ended) => Self::Ended,
            (Self::More, _) | (_, Self::More) => Self::More,
            (Self::Messages, _) | (_, Self::Messages) => Self::Messages,
            (Self::Nothing, Self::Nothing) => Self::Nothing,
        }
    }
}

impl MlsConnection {
    /// Listens to what comes for this device. Other operations go on meanwhile. Begin with a [`sync`](Self::sync), and go on
    /// with [`wait`](Self::wait) where there is no stream: something between may hold it back.
    ///
    /// # Errors
    /// [`Error::Unreachable`], also when nothing has come of it within 5 seconds; [`Error::Refused`];
    /// [`Error::NotTheServer`].
    pub async fn listen(&self) -> Result<Listening, Error> {
        let events = self.note_outage(self.0.transport.events().await)?;
        Ok(Listening {
            connection: self.clone(),
            events,
            unacknowledged: 0,
            since: None,
        })
    }
}

impl Listening {
    /// Waits for something, and takes it over; at most `wait`. May be dropped half way: what was not taken over comes again with
    /// the next sync.
    ///
    /// # Errors
    /// Those of [`sync`](MlsConnection::sync): listen again.
    pub async fn next(&mut self, wait: Duration) -> Result<Heard, Error> {
        // What is to be acknowledged does not wait for long.
        let left = self
            .since
            .map(|since| UNACKNOWLEDGED_TIME.saturating_sub(since.elapsed()));
        let wait = left.map_or(wait, |left| left.min(wait));
        // Nor does what it was the turn of others to do.
        let others_first = self.connection.0.others_first.left();
        let wait = others_first.map_or(wait, |left| left.min(wait));
        let Some(rows) = self.connection.note_outage(self.events.next(wait).await)? else {
            self.connection.0.tell_everything.store(true, Ordering::Relaxed);
            return Ok(Heard::Ended);
        };
        let heard = match rows.is_empty() {
            true => Heard::Nothing,
            false => {
                self.unacknowledged += rows.len();
                self.since.get_or_insert_with(Instant::now);
                self.connection.hear(rows).await?
            }
        };
        let heard = match self.connection.0.others_first.is_over() {
            true => heard.and(Heard::More),
            false => heard,
        };
        let is_due = self.unacknowledged >= UNACKNOWLEDGED_MAX
            || self
                .since
                .is_some_and(|since| since.elapsed() >= UNACKNOWLEDGED_TIME);
        // A sync, which comes next where more follows, acknowledges what it finds.
        let is_left_to_sync = heard == Heard::More;
        let heard = match is_due && !is_left_to_sync {
            true => heard.and(self.connection.acknowledge().await?),
            false => heard,
        };
        if is_due || is_left_to_sync {
            (self.unacknowledged, self.since) = (0, None);
        }
        Ok(heard)
    }
}

impl MlsConnection {
    /// Takes over rows that a stream has brought. What a sync has to come first for is left to it: the inbox waits for the
    /// fate of a Commit of this device, for example.
    async fn hear(&self, rows: Vec<InboxRow>) -> Result<Heard, Error> {
        let _operation = self.0.operation.lock().await;
        self.hear_in_turn(rows).await
    }

    async fn hear_in_turn(&self, rows: Vec<InboxRow>) -> Result<Heard, Error> {
        if rows.is_empty() {
            return Ok(Heard::Nothing);
        }
        let is_free = self
            .0
            .core
            .write(|tx, _| Ok(!core::is_due(tx)? && core::standing(tx)? == Standing::Current))
            .await?;
        if !is_free {
            return Ok(Heard::More);
        }
        let (mut progress, mut heard, mut went_back) = (Progress::default(), Heard::Nothing, false);
        for row in rows {
            let kind = row.kind;
            self.0.others_first.heard(kind);
            let of_it = match self.take_over(row, &mut progress).await? {
                // The server is told once more that they are stored.
                Taken::Known | Taken::Again => Heard::Nothing,
                Taken::Over(applied) => {
                    went_back |= applied.went_back;
                    match kind {
                        InboxKind::Passed => Heard::Nothing,
                        InboxKind::Message => Heard::Messages,
                        _ => Heard::More,
                    }
                }
                Taken::Beyond => return Err(NotTheServer::LeavesOut.into()),
            };
            heard = heard.and(of_it);
        }
        match went_back {
            true => Err(NotTheServer::WentBack.into()),
            false => Ok(heard),
        }
    }

    /// Tells the server what has taken effect. The row that it answers with comes by the stream, too, unless that has left it
    /// out; whichever is the second is known then.
    async fn acknowledge(&self) -> Result<Heard, Error> {
        let _operation = self.0.operation.lock().await;
        let inbox = self.acknowledge_and_next(1).await?;
        self.hear_in_turn(inbox.rows).await
    }
}
