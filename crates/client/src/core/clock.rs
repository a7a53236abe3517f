//! What is kept of the server's clock, and what the person is told of this computer's.

use larder_lifecycle::UnixSeconds;
use larder_pool::Tx;
use rusqlite::Connection;

use crate::clocks::Clocks;
use crate::core::messages;
use crate::core::profile::Context;
use crate::error::Error;
use crate::types::MessageKind;

/// A difference that has changed by less is not written down again, in seconds.
const OFFSET_NOISE_SECONDS: u64 = 5;

/// What the person was told of the clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Told {
    Nothing = 0,
    Off = 1,
    TooFar = 2,
}

impl Told {
    fn of(clocks: &Clocks) -> Self {
        if clocks.are_too_far_apart() {
            Self::TooFar
        } else if clocks.are_worth_a_word() {
            Self::Off
        } else {
            Self::Nothing
        }
    }
}

impl Context {
    /// The server's time, as it is known here: lifetimes of KeyPackages are made and judged by it.
    pub(crate) fn server_now(&self) -> UnixSeconds {
        self.server_clock.clocks().there
    }

    /// The time by which it is judged that something is over. Clocks that are too far apart end nothing that one of them has
    /// not ended.
    pub(crate) fn cautious_now(&self) -> UnixSeconds {
        let clocks = self.server_clock.clocks();
        match clocks.are_too_far_apart() {
            true => clocks.here.min(clocks.there),
            false => clocks.there,
        }
    }

    /// Fails when the clocks are too far apart to mint, to add or to erase by age.
    pub(crate) fn require_clocks_close(&self) -> Result<(), Error> {
        self.server_clock.require_close()
    }
}

/// The server's time less ours, in seconds, as it was measured last.
pub(super) fn stored_offset(connection: &Connection) -> Result<Option<i64>, Error> {
    Ok(connection.query_row("SELECT clock_offset_seconds FROM profile", [], |row| row.get(0))?)
}

/// Keeps what was measured, and tells the person once when this computer's clock is off, and once more when it is off too far.
pub(crate) fn heed_clocks(tx: &Tx<'_>, context: &Context) -> Result<(), Error> {
    let Some(offset) = context.server_clock.offset_seconds() else {
        return Ok(());
    };
    let connection = tx.connection();
    let stored = stored_offset(connection)?;
    if stored.is_none_or(|stored| stored.abs_diff(offset) > OFFSET_NOISE_SECONDS) {
        connection.execute("UPDATE profile SET clock_offset_seconds = ?1", [offset])?;
    }
    let clocks = context.server_clock.clocks();
    let now_told = Told::of(&clocks);
    let told: i64 = connection.query_row("SELECT clock_told FROM profile", [], |row| row.get(0))?;
    if told == now_told as i64 {
        return Ok(());
    }
    connection.execute("UPDATE profile SET clock_told = ?1", [now_told as i64])?;
    if told < now_told as i64 {
        let date = context.dates;
        let mut text = format!(
            "{clocks}: it says {}, and the server's says {}",
            date(clocks.here),
            date(clocks.there)
        );
        if now_told == Told::TooFar {
            text.push_str(
                ". Until they agree this device makes no KeyPackages, invites nobody and erases nothing",
            );
        }
        tracing::warn!(apart_seconds = clocks.apart_seconds(), "the clocks disagree");
        let notice = MessageKind::Notice;
        messages::note(connection, None, None, notice, &text, context.now(), false)?;
    }
    Ok(())
}
