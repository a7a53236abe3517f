use std::cell::RefCell;

use larder_wire::{GroupId, KeyPackageRef};
use rusqlite::Connection;

use crate::error::Fault;

/// A device's row, by which other tables name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct DeviceKey(pub(super) i64);

#[cfg(test)]
impl DeviceKey {
    pub(crate) fn for_tests(key: i64) -> Self {
        Self(key)
    }
}

/// A transaction under way. The rows of each part of the schema are in the sibling modules.
pub(crate) struct Tx<'c> {
    connection: &'c Connection,
    woken: RefCell<Vec<DeviceKey>>,
}

impl<'c> Tx<'c> {
    pub(super) fn new(connection: &'c Connection) -> Self {
        Self {
            connection,
            woken: RefCell::default(),
        }
    }

    pub(super) fn connection(&self) -> &'c Connection {
        self.connection
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
}

/// Unix seconds and sequence numbers as SQLite's signed integers.
pub(super) fn to_sql(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A stored number that can only be positive.
pub(super) fn from_sql(number: i64) -> Result<u64, Fault> {
    u64::try_from(number).map_err(|_| Fault::Corrupt("a negative number"))
}

pub(super) fn stored_group_id(bytes: &[u8]) -> Result<GroupId, Fault> {
    GroupId::from_bytes(bytes).map_err(|_| Fault::Corrupt("a group id"))
}

pub(super) fn stored_ref(bytes: &[u8]) -> Result<KeyPackageRef, Fault> {
    KeyPackageRef::from_bytes(bytes).map_err(|_| Fault::Corrupt("a KeyPackageRef"))
}
