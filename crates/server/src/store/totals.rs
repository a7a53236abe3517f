//! What all users have together: one row, which requests that change it hold for no longer than their last statement and the
//! commit take.

use larder_lifecycle::{CLOCK_STEP_SECONDS_MAX, UnixSeconds};

use crate::error::Fault;
use crate::store::statement::params;
use crate::store::tx::Tx;

/// Accounts are counted for this long, in seconds: one hour.
const ACCOUNTS_COUNT_SECONDS: u64 = 60 * 60;

impl Tx<'_> {
    /// The sizes of all blobs together, in bytes. After a blob was inserted nobody else inserts one before the end of the
    /// transaction.
    pub(crate) fn blob_bytes(&self) -> Result<u64, Fault> {
        self.one_row("SELECT blob_bytes FROM totals WHERE id = 1", &[], |row| {
            row.get(0)
        })
    }

    /// Counts an account. Nobody else counts one before the end of the transaction.
    ///
    /// # Errors
    /// Inside: so many were created within an hour, and this one is too much; in how many seconds the hour is over, at least 1.
    pub(crate) fn count_account(&self, most: u32, now: UnixSeconds) -> Result<Result<(), u64>, Fault> {
        // A time that is ahead is that of a clock that was set back since.
        let (accounts, since): (u64, UnixSeconds) = self.one_row(
            "UPDATE totals SET
                 accounts = CASE WHEN accounts_since <= ?2 OR accounts_since > ?3 THEN 1 ELSE accounts + 1 END,
                 accounts_since = CASE WHEN accounts_since <= ?2 OR accounts_since > ?3 THEN ?1 ELSE accounts_since END
             WHERE id = 1 RETURNING accounts, accounts_since",
            params![
                now,
                now.minus(ACCOUNTS_COUNT_SECONDS),
                now.plus(CLOCK_STEP_SECONDS_MAX)
            ],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?;
        Ok(match accounts <= u64::from(most) {
            true => Ok(()),
            false => Err(since.plus(ACCOUNTS_COUNT_SECONDS).since(now).max(1)),
        })
    }
}
