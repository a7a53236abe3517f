//! Invitations to register that are not used yet. The row of one that is used is deleted, and the account's does not name it:
//! nobody is told who was invited with which.

use larder_lifecycle::UnixSeconds;

use crate::error::Fault;
use crate::store::statement::params;
use crate::store::tx::Tx;

/// An invitation that can be used.
pub(crate) struct InvitationRow {
    pub(crate) hash: Vec<u8>,
    pub(crate) created_at: UnixSeconds,
    pub(crate) expires_at: UnixSeconds,
}

impl Tx<'_> {
    pub(crate) fn insert_invitation(
        &self,
        hash: &[u8],
        now: UnixSeconds,
        expires_at: UnixSeconds,
    ) -> Result<(), Fault> {
        self.queue(
            "INSERT INTO invitations (hash, created_at, expires_at) VALUES (?1, ?2, ?3)",
            params![hash, now, expires_at],
        )
    }

    /// Takes an invitation away; `false` when it is unknown, was used, or has expired. Of those who take the same one at
    /// once, one gets it: the others wait for its transaction.
    pub(crate) fn take_invitation(&self, hash: &[u8], now: UnixSeconds) -> Result<bool, Fault> {
        let taken = self.execute(
            "DELETE FROM invitations WHERE hash = ?1 AND expires_at > ?2",
            params![hash, now],
        )?;
        Ok(taken == 1)
    }

    /// The invitations that can be used, those first that expire first.
    pub(crate) fn invitations(&self, now: UnixSeconds) -> Result<Vec<InvitationRow>, Fault> {
        self.rows(
            "SELECT hash, created_at, expires_at FROM invitations WHERE expires_at > ?1 ORDER BY expires_at, hash",
            params![now],
            |row| {
                Ok(InvitationRow {
                    hash: row.get(0)?,
                    created_at: row.get(1)?,
                    expires_at: row.get(2)?,
                })
            },
        )
    }

    /// Withdraws the invitations whose hashes are in a range, its ends included. Returns how many.
    pub(crate) fn remove_invitations(&self, first: &[u8], last: &[u8]) -> Result<u64, Fault> {
        self.execute(
            "DELETE FROM invitations WHERE hash BETWEEN ?1 AND ?2",
            params![first, last],
        )
    }
}
