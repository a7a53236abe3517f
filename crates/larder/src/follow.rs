//! Staying up to date: long polls, reconnecting, the hourly refresh of the pool, printing what is new.

use std::pin::pin;
use std::time::Duration;

use anyhow::Result;
use backon::{BackoffBuilder, ConstantBuilder, ExponentialBuilder};
use larder_client::{Error, MlsConnection};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::commands::print_unread;
use crate::output::Output;

/// One long poll. The server allows 30 s.
const POLL: Duration = Duration::from_secs(25);
/// The first pause after the server could not be reached; each further one is twice as long, up to the longest.
const PAUSE: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// The shortest time between two refreshes of the pool; the jitter adds up to as much again, an hour on average.
const REFRESH: Duration = Duration::from_secs(40 * 60);

/// The connection to the server changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Connection {
    /// It cannot be reached; attempts go on.
    Lost,
    /// It answers again.
    Back,
}

/// Prints what is unread, and whatever arrives, until `quit` completes. `nudge` ends a wait, when there is something to
/// send. What is printed is also marked as read: `quit` does not come between.
///
/// # Errors
/// What a reconnection cannot mend, and output that nobody takes.
pub(crate) async fn follow(
    client: &MlsConnection,
    output: &Output,
    nudge: &Notify,
    quit: impl Future<Output = ()>,
    tell: impl Fn(Connection) -> Result<()>,
) -> Result<()> {
    let mut quit = pin!(quit);
    let mut follower = Follower::new(client.clone());
    let mut lost = false;
    // What an earlier run fetched and did not show needs no server.
    print_unread(client, output).await?;
    loop {
        let reached = tokio::select! {
            reached = follower.step(nudge) => reached?,
            () = &mut quit => return Ok(()),
        };
        if reached == lost {
            lost = !reached;
            tell(if lost { Connection::Lost } else { Connection::Back })?;
        }
        print_unread(client, output).await?;
        if !reached {
            tokio::select! {
                () = follower.pause(nudge) => (),
                () = &mut quit => return Ok(()),
            }
        }
    }
}

/// Keeps one connection up to date. Every step may be dropped half way: what it was doing is done by the next one.
struct Follower {
    client: MlsConnection,
    pauses: Box<dyn Iterator<Item = Duration> + Send>,
    refresh_at: Instant,
    wait_first: bool,
}

impl Follower {
    fn new(client: MlsConnection) -> Self {
        Self {
            client,
            pauses: pauses(),
            refresh_at: Instant::now(),
            wait_first: false,
        }
    }

    /// Syncs, after a wait for something to sync if the last step succeeded. Returns whether the server was reached.
    async fn step(&mut self, nudge: &Notify) -> Result<bool, Error> {
        match self.try_step(nudge).await {
            Ok(()) => {
                self.pauses = pauses();
                self.wait_first = true;
                Ok(true)
            }
            Err(Error::Unreachable(cause)) => {
                tracing::debug!(%cause, "the server cannot be reached");
                self.wait_first = false;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    async fn try_step(&mut self, nudge: &Notify) -> Result<(), Error> {
        if self.wait_first {
            tokio::select! {
                waited = self.client.wait(POLL) => { waited?; }
                () = nudge.notified() => (),
            }
        }
        self.client.sync().await?;
        if Instant::now() >= self.refresh_at {
            self.client.refresh_key_packages().await?;
            let jittered = ConstantBuilder::default().with_delay(REFRESH).with_jitter();
            self.refresh_at = Instant::now() + jittered.build().next().unwrap_or(REFRESH);
        }
        Ok(())
    }

    /// A pause, so as not to press a server that is down.
    async fn pause(&mut self, nudge: &Notify) {
        let pause = self.pauses.next().unwrap_or(PAUSE_MAX);
        tokio::select! {
            () = tokio::time::sleep(pause) => (),
            () = nudge.notified() => (),
        }
    }
}

fn pauses() -> Box<dyn Iterator<Item = Duration> + Send> {
    let exponential = ExponentialBuilder::default()
        .with_min_delay(PAUSE)
        .with_max_delay(PAUSE_MAX)
        .without_max_times()
        .with_jitter();
    Box::new(exponential.build())
}
