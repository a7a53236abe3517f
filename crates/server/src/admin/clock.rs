//! Whose clock the servers on a store believe.

use larder_lifecycle::UnixSeconds;

use super::{Admin, fault};
use crate::error::Fault;

impl Admin {
    /// Takes `now` for the time, whatever the servers on the store believe: those whose clocks agree within an hour delete and
    /// expire by it again at their next sweep, and others do not any more. Returns the time of the last sweep, if there was
    /// one.
    ///
    /// # Errors
    /// [`Fault`] when the store cannot be written.
    pub async fn accept_clock(&self, now: UnixSeconds) -> Result<Option<UnixSeconds>, Fault> {
        self.store
            .write(move |tx| {
                let before = tx.clock()?.last_sweep;
                tx.accept_clock(now)?;
                Ok(before)
            })
            .await
            .map_err(fault)
    }
}
