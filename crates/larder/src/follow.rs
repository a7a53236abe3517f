//! Staying up to date: listening, reconnecting, the hourly refresh of the pool, printing what is new.

use std::pin::pin;
use std::time::Duration;

use anyhow::Result;
use backon::{BackoffBuilder, ConstantBuilder, ExponentialBuilder};
use larder_client::{Error, Heard, Listening, MlsConnection};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::commands::Reading;
use crate::failure::Failure;
use crate::output::Output;

/// The longest wait for something to come. The server allows 30 s.
const POLL: Duration = Duration::from_secs(25);
/// Where there was no stream, it is tried again after this time.
const STREAM_RETRY: Duration = Duration::from_secs(10 * 60);
/// One that ends within this time is not tried again at once.
const STREAM_SHORT: Duration = Duration::from_secs(10);
/// The first pause after the server could not be reached; each further one is twice as long, up to the longest.
const PAUSE: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// The longest pause that a server can ask for: whoever follows is not to be made deaf by one answer.
const ASKED_PAUSE_MAX: Duration = Duration::from_secs(60);
/// The shortest time between two refreshes of the pool that nothing else asked for; the jitter adds up to as much again,
/// an hour on average.
const REFRESH: Duration = Duration::from_secs(40 * 60);

/// The connection to the server changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Connection {
    /// For this reason; attempts go on.
    Lost(String),
    /// It answers again.
    Back,
}

/// Prints what there is to read, and whatever arrives, until `quit` completes or as much was printed as was asked for. `nudge` ends a wait, when there is something to
/// send. What is printed is also marked as read: `quit` does not come between.
///
/// # Errors
/// What a reconnection cannot mend, and output that nobody takes.
pub(crate) async fn follow(
    client: &MlsConnection,
    output: &Output,
    mut reading: Reading,
    nudge: &Notify,
    quit: impl Future<Output = ()>,
    tell: impl Fn(Connection) -> Result<()>,
) -> Result<()> {
    let mut quit = pin!(quit);
    let mut follower = Follower::new(client.clone());
    let mut lost = None;
    // What an earlier run fetched and did not show needs no server.
    reading.print(client, output).await?;
    while !reading.is_done() {
        let hindrance = tokio::select! {
            step = follower.step(nudge) => match step {
                // What answers in the server's place may give way to it again.
                Err(error @ Error::NotTheServer(_)) => Some(error),
                step => step?,
            },
            () = &mut quit => return Ok(()),
        };
        let reason = hindrance.as_ref().map(|error| error.code());
        if reason != lost {
            lost = reason;
            tell(match hindrance {
                Some(error) => Connection::Lost(Failure::reason(&error)),
                None => Connection::Back,
            })?;
        }
        reading.print(client, output).await?;
        if reason.is_some() {
            tokio::select! {
                () = follower.pause(nudge) => (),
                () = &mut quit => return Ok(()),
            }
        }
    }
    Ok(())
}

/// Keeps one connection up to date. Every step may be dropped half way: what it was doing is done by the next one.
pub(crate) struct Follower {
    client: MlsConnection,
    pauses: Box<dyn Iterator<Item = Duration> + Send>,
    /// The server asked for at least this pause.
    asked_pause: Duration,
    refresh_at: Instant,
    wait_first: bool,
    listening: Ears,
}

/// How it is learnt that there is something new.
enum Ears {
    /// It has not been tried yet.
    Idle,
    /// By a stream.
    Listening { stream: Listening, since: Instant },
    /// By requests that wait, because there was no stream the last time that it was tried, or none that lasted.
    Asking { since: Instant },
}

impl Follower {
    pub(crate) fn new(client: MlsConnection) -> Self {
        Self {
            client,
            pauses: pauses(),
            asked_pause: Duration::ZERO,
            refresh_at: Instant::now() + refresh_pause(),
            wait_first: false,
            listening: Ears::Idle,
        }
    }

    /// Syncs, after a wait for something to sync if the last step succeeded. Returns what was in the way, if
    /// it goes away by itself.
    pub(crate) async fn step(&mut self, nudge: &Notify) -> Result<Option<Error>, Error> {
        match self.try_step(nudge).await {
            Ok(()) => {
                self.pauses = pauses();
                self.wait_first = true;
                Ok(None)
            }
            Err(error) => {
                tracing::debug!(code = error.code(), "a step did not succeed");
                self.asked_pause = error.retry_after().unwrap_or_default().min(ASKED_PAUSE_MAX);
                self.wait_first = false;
                match error.is_temporary() {
                    true => Ok(Some(error)),
                    false => Err(error),
                }
            }
        }
    }

    async fn try_step(&mut self, nudge: &Notify) -> Result<(), Error> {
        if self.wait_first {
            let heard = tokio::select! {
                heard = hear(&self.client, &mut self.listening) => heard?,
                () = nudge.notified() => Heard::More,
            };
            // Where nobody is ever silent, the sync has its turn with the pool.
            if heard == Heard::Messages && Instant::now() < self.refresh_at {
                return Ok(());
            }
        }
        // This refreshes the pool when there is a reason, the first time among them.
        self.client.sync().await?;
        if Instant::now() >= self.refresh_at {
            self.refresh_at = Instant::now() + refresh_pause();
            match self.client.refresh_key_packages().await {
                Ok(_) => (),
                // The pool can wait, what people write cannot; a later sync tries again.
                Err(Error::Refused(problem)) => tracing::warn!(%problem, "the pool could not be refreshed"),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// A pause, so as not to press a server that is down.
    pub(crate) async fn pause(&mut self, nudge: &Notify) {
        let pause = self.pauses.next().unwrap_or(PAUSE_MAX);
        let pause = pause.max(std::mem::take(&mut self.asked_pause));
        tokio::select! {
            () = tokio::time::sleep(pause) => (),
            () = nudge.notified() => (),
        }
    }
}

/// Waits for something, by a stream where there is one.
async fn hear(client: &MlsConnection, listening: &mut Ears) -> Result<Heard, Error> {
    if let Ears::Asking { since } = listening
        && since.elapsed() >= STREAM_RETRY
    {
        *listening = Ears::Idle;
    }
    if let Ears::Idle = listening {
        *listening = match client.listen().await {
            Ok(stream) => Ears::Listening {
                stream,
                since: Instant::now(),
            },
            // What is in the way of a stream may not be in the way of a request, and says what it is if it is.
            Err(error) => {
                tracing::debug!(code = error.code(), "there is no stream of events");
                Ears::Asking {
                    since: Instant::now(),
                }
            }
        };
    }
    match listening {
        Ears::Listening { stream, since } => {
            let heard = stream.next(POLL).await;
            if matches!(heard, Err(_) | Ok(Heard::Ended)) {
                *listening = match since.elapsed() < STREAM_SHORT {
                    true => Ears::Asking { since: *since },
                    false => Ears::Idle,
                };
            }
            heard
        }
        Ears::Idle | Ears::Asking { .. } => client.wait(POLL).await.map(|_| Heard::More),
    }
}

/// Clients that started together do not come together.
fn refresh_pause() -> Duration {
    let jittered = ConstantBuilder::default().with_delay(REFRESH).with_jitter();
    jittered.build().next().unwrap_or(REFRESH)
}

fn pauses() -> Box<dyn Iterator<Item = Duration> + Send> {
    let exponential = ExponentialBuilder::default()
        .with_min_delay(PAUSE)
        .with_max_delay(PAUSE_MAX)
        .without_max_times()
        .with_jitter();
    Box::new(exponential.build())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pool_is_refreshed_about_once_an_hour_and_not_by_everybody_at_once() {
        let pauses: Vec<Duration> = (0..100).map(|_| refresh_pause()).collect();
        assert!(pauses.iter().all(|pause| (REFRESH..=2 * REFRESH).contains(pause)));
        assert!(pauses.iter().any(|pause| *pause != pauses[0]));
    }
}
