//! Whether this state is the last one that this device had. One that was restored from an old copy does not know the marks
//! of the requests that came after the copy was made.

use larder_lifecycle::UnixSeconds;
use larder_pool::{KeyPackagePool, Tx};
use larder_wire::{Problem, ProblemType, STATE_MARK_BYTES_MAX, STATE_MARKS_KNOWN_MAX, StateClaim, StateMark};
use openmls::prelude::{OpenMlsProvider as _, OpenMlsRand as _};
use rusqlite::{Connection, OptionalExtension as _};

use crate::core::profile::Context;
use crate::core::restored_server::server_was_restored;
use crate::core::schema::corrupt;
use crate::error::Error;

/// Copies are brought up to date this often at most, in seconds. If two of them are in use at once, each makes an old copy of
/// the other; they must not chase each other out of their groups without end.
const RESTORATIONS_APART_SECONDS: u64 = 60 * 60;

/// Requests name so many marks before the last one that is known to have been carried out: a server that says so may not have
/// done it, or have forgotten it. This state is no older for it.
const EARLIER_MARKS: u32 = 4;

/// So many marks are remembered in all, half a megabyte of them. A server whose store went back by more requests of this device
/// makes it take itself for an old copy.
const REMEMBERED_MARKS: u32 = 16_384;

/// Where this state stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It is the last one, as far as is known.
    Current,
    /// The server says that it is an older copy. Nothing may be sent, unless the server says that it is none after all.
    Behind,
    /// It is a copy, whatever the server says: a person made it, or the server has been told so. Nothing may be sent.
    Copy,
    /// The server knows that it was an older copy; what follows from that is not finished.
    Restoring,
}

impl Standing {
    fn column(self) -> i64 {
        match self {
            Self::Current => 0,
            Self::Behind => 1,
            Self::Restoring => 2,
            Self::Copy => 3,
        }
    }

    fn from_column(value: i64) -> Option<Self> {
        [Self::Current, Self::Behind, Self::Restoring, Self::Copy]
            .into_iter()
            .find(|standing| standing.column() == value)
    }
}

/// Where this state stands.
pub(crate) fn standing(tx: &Tx<'_>) -> Result<Standing, Error> {
    let value = tx
        .connection()
        .query_row("SELECT restoring FROM profile", [], |row| row.get(0))?;
    corrupt(Standing::from_column(value), "the profile's standing")
}

pub(super) fn set_standing(tx: &Tx<'_>, standing: Standing) -> Result<(), Error> {
    tx.connection()
        .execute("UPDATE profile SET restoring = ?1", [standing.column()])?;
    Ok(())
}

/// Fails while nothing may be sent.
pub(crate) fn require_not_behind(tx: &Tx<'_>) -> Result<(), Error> {
    if server_was_restored(tx)? {
        return Err(Error::Refused(
            Problem::new(ProblemType::StateBehind).with_detail("the server was restored from a backup"),
        ));
    }
    match standing(tx)? {
        Standing::Current | Standing::Restoring => Ok(()),
        Standing::Behind | Standing::Copy => Err(behind()),
    }
}

/// Fails while it is too early to bring this copy up to date.
fn require_may_restore(tx: &Tx<'_>, context: &Context) -> Result<(), Error> {
    let last: Option<i64> = tx
        .connection()
        .query_row("SELECT restored_at FROM profile", [], |row| row.get(0))?;
    let now = context.now().0;
    match last.map(i64::cast_unsigned) {
        // A time that is still to come was noted by a clock that was ahead.
        Some(last) if (last..last.saturating_add(RESTORATIONS_APART_SECONDS)).contains(&now) => Err(behind()),
        Some(_) | None => Ok(()),
    }
}

fn behind() -> Error {
    Error::Refused(Problem::new(ProblemType::StateBehind))
}

/// The server knows a later state of this device.
pub(crate) fn fall_behind(tx: &Tx<'_>) -> Result<(), Error> {
    // A server that was restored knows no state of ours; it was not the one who said so.
    if server_was_restored(tx)? {
        return Ok(());
    }
    if standing(tx)? == Standing::Copy {
        return Ok(());
    }
    tracing::warn!("this profile is an older copy: nothing is sent until it is brought up to date");
    set_standing(tx, Standing::Behind)
}

/// This profile was made from a backup. Whatever the server says of its marks it is a copy: nothing was sent after the backup
/// perhaps, and what it was made from may go on all the same.
pub(super) fn become_copy(tx: &Tx<'_>, now: UnixSeconds) -> Result<(), Error> {
    // A person did this; it does not count as one of two copies that chase each other.
    tx.connection()
        .execute("UPDATE profile SET restored_at = NULL", [])?;
    KeyPackagePool::begin_anew(tx, now)?;
    set_standing(tx, Standing::Copy)
}

/// Notes that the server is being told that this is a copy. The mark of that request does not speak for the state.
///
/// # Errors
/// [`Error::Refused`] while it is too early to bring this copy up to date.
pub(crate) fn admit_copy(tx: &Tx<'_>, context: &Context) -> Result<(), Error> {
    require_may_restore(tx, context)?;
    set_standing(tx, Standing::Copy)
}

/// The server tells the mark of our last request that it carried out. If it is one of this state, this is the last one, whatever
/// the server said before.
pub(crate) fn heed_mark(tx: &Tx<'_>, mark: &StateMark) -> Result<(), Error> {
    let is_ours = claim_mark(tx.connection(), mark)?;
    match (standing(tx)?, is_ours) {
        (Standing::Current, false) => fall_behind(tx),
        (Standing::Behind, true) => {
            tracing::warn!("the server has taken this profile for an older copy, and does not any more");
            set_standing(tx, Standing::Current)
        }
        (Standing::Current, true) | (Standing::Behind, false) | (Standing::Copy | Standing::Restoring, _) => {
            Ok(())
        }
    }
}

/// Lets requests name this mark, if it is one of this state. A mark of long before is the server's last one because its store
/// went back: it refuses requests that do not name it.
fn claim_mark(connection: &Connection, mark: &StateMark) -> Result<bool, Error> {
    let claimed: Option<bool> = connection
        .query_row(
            "SELECT claimed FROM state_marks WHERE mark = ?1",
            [mark.as_bytes()],
            |row| row.get(0),
        )
        .optional()?;
    if claimed == Some(false) {
        tracing::warn!(
            "the server's store is an older one than it was: it has forgotten requests of this device"
        );
        // Those after it make room for it.
        connection.execute(
            "UPDATE state_marks SET claimed = 0
             WHERE claimed = 1 AND id NOT IN (SELECT id FROM state_marks ORDER BY id DESC LIMIT ?1)",
            [STATE_MARKS_KNOWN_MAX - 1],
        )?;
        connection.execute(
            "UPDATE state_marks SET claimed = 1 WHERE mark = ?1",
            [mark.as_bytes()],
        )?;
    }
    Ok(claimed.is_some())
}

/// What to say of our state with the next request that changes something. `carried_out` is the mark of the last one, if it is
/// known to have been carried out: with a few before it, it takes the place of all earlier ones.
pub(crate) fn claim_state(tx: &Tx<'_>, carried_out: Option<&StateMark>) -> Result<StateClaim, Error> {
    let connection = tx.connection();
    if let Some(mark) = carried_out {
        connection
            .prepare_cached(
                "UPDATE state_marks SET claimed = 0 WHERE claimed = 1 AND id < (
                     SELECT min(id) FROM (SELECT id FROM state_marks
                         WHERE id < (SELECT id FROM state_marks WHERE mark = ?1) ORDER BY id DESC LIMIT ?2))",
            )?
            .execute((mark.as_bytes(), EARLIER_MARKS))?;
        connection
            .prepare_cached("DELETE FROM state_marks WHERE id <= (SELECT max(id) FROM state_marks) - ?1")?
            .execute([REMEMBERED_MARKS])?;
    }
    let mut known = claimed_marks(connection)?;
    // Many answers were lost, one after the other: the last mark stands for the next request as well.
    let next = match known.pop() {
        Some(last) if known.len() >= STATE_MARKS_KNOWN_MAX => last,
        last => {
            known.extend(last);
            let next = new_mark(tx)?;
            connection
                .prepare_cached("INSERT INTO state_marks (mark) VALUES (?1)")?
                .execute([next.as_bytes()])?;
            next
        }
    };
    Ok(StateClaim { next, known })
}

fn claimed_marks(connection: &Connection) -> Result<Vec<StateMark>, Error> {
    let mut statement =
        connection.prepare_cached("SELECT mark FROM state_marks WHERE claimed = 1 ORDER BY id")?;
    let rows = statement.query_map([], |row| row.get::<_, Vec<u8>>(0))?;
    rows.map(|mark| corrupt(StateMark::from_bytes(&mark?).ok(), "a state mark"))
        .collect()
}

fn new_mark(tx: &Tx<'_>) -> Result<StateMark, Error> {
    let random: [u8; STATE_MARK_BYTES_MAX] = tx
        .provider()
        .rand()
        .random_array()
        .map_err(|error| Error::mls("choosing a mark")(error.to_string()))?;
    StateMark::from_bytes(&random).map_err(|_| Error::Corrupt("a state mark"))
}
