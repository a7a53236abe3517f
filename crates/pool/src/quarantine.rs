//! Welcomes that failed, in the table `keypackage_pool_quarantine`.

use larder_lifecycle::UnixSeconds;
use openmls::prelude::KeyPackageRef;
use rusqlite::{Connection, Row, params};
use sha2::{Digest as _, Sha256};

use crate::column::{count, of_time, select, time};
use crate::error::{Corrupt, PoolError, StoreError};
use crate::join;
use crate::join_error::{JoinError, QuarantineReason};
use crate::key_package_ref::{from_column, to_column};
use crate::metadata;
use crate::pool::KeyPackagePool;
use crate::store::Tx;

/// A Welcome that failed this often for the same reason of its own is not tried again.
pub const JOIN_ATTEMPTS_MAX: u32 = 3;
/// Quarantined Welcomes that are kept. Beyond that the one that failed longest ago is forgotten.
pub const QUARANTINE_WELCOMES_MAX: u32 = 256;

const COLUMNS: &str = "welcome_hash, key_package_ref, reason, attempts, first_at, last_at";

/// A Welcome that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantined {
    /// The SHA-256 of the Welcome, as the `MLSMessage` that it came as.
    pub welcome_hash: [u8; 32],
    /// The KeyPackage of this device that it names; `None` if it names none that is known.
    pub key_package_ref: Option<KeyPackageRef>,
    /// Why it failed last.
    pub reason: QuarantineReason,
    /// How often it failed for this reason since it last failed for another.
    pub attempts: u32,
    /// When it failed first.
    pub first_at: UnixSeconds,
    /// When it failed last.
    pub last_at: UnixSeconds,
}

impl KeyPackagePool {
    /// Notes that a Welcome failed, so that people see it and it is not tried for ever.
    ///
    /// A failed [`join`](Self::join) has changed nothing, so this may come after it in the same transaction; or in the
    /// next one, when the caller rolls everything back. [`JoinError::Pool`] says nothing about the Welcome, and a
    /// quarantined one is noted already: neither is noted. The genuine Welcome for the same KeyPackage is another one
    /// and still joins.
    ///
    /// # Errors
    /// [`PoolError::Store`].
    pub fn quarantine(
        &self,
        tx: &Tx<'_>,
        welcome: &[u8],
        error: &JoinError,
        now: UnixSeconds,
    ) -> Result<(), PoolError> {
        let reason = match error {
            JoinError::Quarantined { .. } => return Ok(()),
            error => match error.reason() {
                Some(reason) => reason,
                None => return Ok(()),
            },
        };
        tx.atomically(|| {
            let welcome_hash = hash(welcome);
            let known = find(tx.connection(), &welcome_hash)?;
            let (attempts, first_at) = match &known {
                Some(known) if known.reason == reason => (known.attempts.saturating_add(1), known.first_at),
                Some(known) => (1, known.first_at),
                None => (1, now),
            };
            let quarantined = Quarantined {
                welcome_hash,
                key_package_ref: named(tx, welcome)?,
                reason,
                attempts,
                first_at,
                last_at: now,
            };
            write(tx.connection(), &quarantined)?;
            forget_beyond_maximum(tx.connection())?;
            Ok(())
        })
    }

    /// The Welcomes that failed, the latest failure first.
    ///
    /// # Errors
    /// [`PoolError::Store`].
    pub fn quarantined(&self, tx: &Tx<'_>) -> Result<Vec<Quarantined>, PoolError> {
        let sql =
            format!("SELECT {COLUMNS} FROM keypackage_pool_quarantine ORDER BY last_at DESC, welcome_hash");
        Ok(select(tx.connection(), &sql, [], read)?)
    }
}

/// Refuses a Welcome that has failed too often.
pub(crate) fn admit(tx: &Tx<'_>, welcome: &[u8]) -> Result<(), JoinError> {
    match find(tx.connection(), &hash(welcome))? {
        Some(known) if known.attempts >= JOIN_ATTEMPTS_MAX && known.reason.is_conclusive() => {
            Err(JoinError::Quarantined {
                key_package_ref: known.key_package_ref,
                reason: known.reason,
                attempts: known.attempts,
                last_at: known.last_at,
            })
        }
        Some(_) | None => Ok(()),
    }
}

/// A Welcome was joined after all.
pub(crate) fn release(tx: &Tx<'_>, welcome: &[u8]) -> Result<(), StoreError> {
    tx.connection()
        .prepare_cached("DELETE FROM keypackage_pool_quarantine WHERE welcome_hash = ?1")?
        .execute([hash(welcome)])?;
    Ok(())
}

/// Forgets the Welcomes that last failed at this time or before it. Returns how many.
pub(crate) fn forget(connection: &Connection, at: UnixSeconds) -> Result<u32, StoreError> {
    let forgotten = connection
        .prepare_cached("DELETE FROM keypackage_pool_quarantine WHERE last_at <= ?1")?
        .execute([of_time(at)])?;
    Ok(count(forgotten))
}

/// The number of quarantined Welcomes.
pub(crate) fn size(connection: &Connection) -> Result<u32, StoreError> {
    let mut statement = connection.prepare_cached("SELECT count(*) FROM keypackage_pool_quarantine")?;
    Ok(statement.query_row([], |row| row.get(0))?)
}

/// An adder decides how many Welcomes fail, and must not decide how much is stored.
fn forget_beyond_maximum(connection: &Connection) -> Result<(), StoreError> {
    connection
        .prepare_cached(
            "DELETE FROM keypackage_pool_quarantine WHERE welcome_hash IN
             (SELECT welcome_hash FROM keypackage_pool_quarantine
              ORDER BY last_at DESC, welcome_hash LIMIT -1 OFFSET ?1)",
        )?
        .execute([QUARANTINE_WELCOMES_MAX])?;
    Ok(())
}

/// The first KeyPackage that the Welcome names and this device knows.
fn named(tx: &Tx<'_>, welcome: &[u8]) -> Result<Option<KeyPackageRef>, PoolError> {
    let Ok(welcome) = join::parse(welcome) else {
        return Ok(None);
    };
    for secrets in welcome.secrets() {
        let key_package_ref = secrets.new_member();
        if metadata::find(tx.connection(), &key_package_ref)?.is_some() {
            return Ok(Some(key_package_ref));
        }
    }
    Ok(None)
}

fn hash(welcome: &[u8]) -> [u8; 32] {
    Sha256::digest(welcome).into()
}

fn find(connection: &Connection, welcome_hash: &[u8; 32]) -> Result<Option<Quarantined>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM keypackage_pool_quarantine WHERE welcome_hash = ?1");
    Ok(select(connection, &sql, [welcome_hash], read)?.pop())
}

fn write(connection: &Connection, quarantined: &Quarantined) -> Result<(), StoreError> {
    let key_package_ref = quarantined.key_package_ref.as_ref().map(to_column).transpose()?;
    connection
        .prepare_cached(
            "INSERT INTO keypackage_pool_quarantine
                 (welcome_hash, key_package_ref, reason, attempts, first_at, last_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT (welcome_hash) DO UPDATE SET key_package_ref = excluded.key_package_ref,
                 reason = excluded.reason, attempts = excluded.attempts, last_at = excluded.last_at",
        )?
        .execute(params![
            quarantined.welcome_hash,
            key_package_ref,
            integer_of(quarantined.reason),
            quarantined.attempts,
            of_time(quarantined.first_at),
            of_time(quarantined.last_at),
        ])?;
    Ok(())
}

fn read(row: &Row<'_>) -> Result<Quarantined, StoreError> {
    let welcome_hash: Vec<u8> = row.get(0)?;
    let key_package_ref: Option<Vec<u8>> = row.get(1)?;
    let attempts: i64 = row.get(3)?;
    Ok(Quarantined {
        welcome_hash: welcome_hash.try_into().map_err(|_| Corrupt::Hash)?,
        key_package_ref: key_package_ref.as_deref().map(from_column).transpose()?,
        reason: reason_of(row.get(2)?)?,
        attempts: u32::try_from(attempts).map_err(|_| Corrupt::Attempts(attempts))?,
        first_at: time(row, "first_at")?,
        last_at: time(row, "last_at")?,
    })
}

/// The integer of a reason in the column `reason`. Never reused for another reason.
fn integer_of(reason: QuarantineReason) -> i64 {
    match reason {
        QuarantineReason::Malformed => 1,
        QuarantineReason::MalformedRatchetTree => 2,
        QuarantineReason::NotOurs => 3,
        QuarantineReason::AlreadySpent => 4,
        QuarantineReason::Lapsed => 5,
        QuarantineReason::Expired => 6,
        QuarantineReason::Revoked => 7,
        QuarantineReason::Replaced => 8,
        QuarantineReason::GroupExists => 9,
        QuarantineReason::MissingRatchetTree => 10,
        QuarantineReason::NotOurLeaf => 11,
        QuarantineReason::Refused => 12,
        QuarantineReason::Replayed => 13,
    }
}

fn reason_of(integer: i64) -> Result<QuarantineReason, Corrupt> {
    QuarantineReason::ALL
        .into_iter()
        .find(|&reason| integer_of(reason) == integer)
        .ok_or(Corrupt::UnknownReason(integer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_integer_and_no_other_integer_is_a_reason() {
        for reason in QuarantineReason::ALL {
            assert_eq!(reason_of(integer_of(reason)), Ok(reason));
        }
        for integer in [i64::MIN, 0, 14, i64::MAX] {
            assert_eq!(reason_of(integer), Err(Corrupt::UnknownReason(integer)));
        }
    }
}
