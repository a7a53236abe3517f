use std::any::Any;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use rusqlite::Connection;

use crate::error::{Fault, ServiceError};
use crate::store::postgres::Session;

/// A device's row, by which other tables name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct DeviceKey(pub(super) i64);

/// A user's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct UserKey(pub(super) i64);

/// A blob's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BlobKey(pub(super) i64);

#[cfg(test)]
impl DeviceKey {
    pub(crate) fn for_tests(key: i64) -> Self {
        Self(key)
    }
}

/// A transaction under way. The rows of each part of the schema are in the sibling modules.
pub(crate) struct Tx<'c> {
    engine: Engine<'c>,
    woken: RefCell<Vec<DeviceKey>>,
}

/// Who carries the transaction out.
pub(super) enum Engine<'c> {
    Sqlite(&'c Connection),
    Postgres(Session<'c>),
}

impl<'c> Tx<'c> {
    pub(super) fn new(engine: Engine<'c>) -> Self {
        Self {
            engine,
            woken: RefCell::default(),
        }
    }

    pub(super) fn engine(&self) -> &Engine<'c> {
        &self.engine
    }

    /// Notes that `device` has something new in its inbox, for after the commit.
    pub(super) fn wake(&self, device: DeviceKey) {
        self.woken.borrow_mut().push(device);
    }

    pub(super) fn woken_mark(&self) -> usize {
        self.woken.borrow().len()
    }

    pub(super) fn forget_woken_since(&self, mark: usize) {
        self.woken.borrow_mut().truncate(mark);
    }

    pub(super) fn into_woken(self) -> Vec<DeviceKey> {
        self.woken.into_inner()
    }

    /// Does a request's work; its panic is a fault of this request alone.
    pub(super) fn guarded<T>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, ServiceError>,
    ) -> Result<T, ServiceError> {
        catch_unwind(AssertUnwindSafe(|| work(self))).unwrap_or_else(|panic| {
            tracing::error!(panic = panic_text(panic.as_ref()), "a request panicked");
            Err(Fault::Closed.into())
        })
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

/// Unix seconds and sequence numbers as the signed integers of both engines.
pub(super) fn to_sql(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A stored number that can only be positive.
pub(super) fn from_sql(number: i64) -> Result<u64, Fault> {
    u64::try_from(number).map_err(|_| Fault::Corrupt("a negative number"))
}
