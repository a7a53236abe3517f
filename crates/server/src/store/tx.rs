use std::any::Any;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use larder_lifecycle::UnixSeconds;
use larder_wire::GroupId;
use rusqlite::Connection;
use uuid::Uuid;

use crate::error::{Fault, ServiceError};
use crate::store::postgres::Session;

/// The seconds in users' keys count from here: 2020.
const USERS_BEGIN: UnixSeconds = UnixSeconds(1_577_836_800);
const USER_SECOND_BITS: u32 = 31;
const USER_STEP_BITS: u32 = 24;
/// Behind the last one of a second, at random.
const USER_STEP_MAX: u64 = 1024;

/// The bits of a device's key behind those of its user: a user never has more than 256 devices.
const DEVICE_BITS: u32 = 8;

/// A device's row, by which other tables name it. It holds the key of the user: who knows a device knows where its rows are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct DeviceKey(pub(super) i64);

impl DeviceKey {
    /// Whose device it is.
    pub(crate) fn user(self) -> UserKey {
        UserKey(self.0 >> DEVICE_BITS)
    }
}

/// A user's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct UserKey(pub(super) i64);

impl UserKey {
    /// One for who registers `now` after everybody up to `last`; nobody has it, but for a chance that the schema excludes. Whoever
    /// knows one can tell when its user registered, and not how many there are.
    pub(super) fn after(last: Option<Self>, now: UnixSeconds) -> Self {
        // A clock that is nowhere near is no reason to come to the end.
        let second = Some(now.since(USERS_BEGIN)).filter(|second| *second < 1 << USER_SECOND_BITS);
        let begins = second.map_or(0, |second| to_sql(second << USER_STEP_BITS));
        let (_, random) = Uuid::new_v4().as_u64_pair();
        let step = to_sql(random % USER_STEP_MAX);
        Self(last.map_or(begins, |last| begins.max(last.0 + 1)) + step)
    }

    /// As a token carries it.
    pub(crate) fn to_bytes(self) -> [u8; 8] {
        self.0.to_be_bytes()
    }

    /// What a token carries, be it of anybody's or nobody's.
    pub(crate) fn from_bytes(bytes: [u8; 8]) -> Self {
        Self(i64::from_be_bytes(bytes))
    }

    /// The key of the user's device of this number.
    pub(super) fn device(self, number: u8) -> DeviceKey {
        DeviceKey(self.0 << DEVICE_BITS | i64::from(number))
    }

    /// The keys that devices of the user can have: the first, and the first behind them.
    pub(super) fn devices(self) -> (DeviceKey, DeviceKey) {
        let first = self.0 << DEVICE_BITS;
        (DeviceKey(first), DeviceKey(first + (1 << DEVICE_BITS)))
    }
}

/// A blob's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BlobKey {
    /// Who has stored it.
    pub(crate) user: UserKey,
    pub(super) id: i64,
}

#[cfg(test)]
impl UserKey {
    pub(crate) fn for_tests(key: i64) -> Self {
        Self(key)
    }
}

#[cfg(test)]
impl DeviceKey {
    pub(crate) fn for_tests(key: i64) -> Self {
        Self(key)
    }
}

/// For whom there may be something new: who is told, looks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct News {
    /// Devices with mail, and those that are members of a group from now on.
    pub(crate) devices: Vec<DeviceKey>,
    /// Groups whose logs go on.
    pub(crate) groups: Vec<GroupId>,
    /// What was said in groups.
    pub(crate) messages: Vec<NewMessage>,
    /// Sessions that have ended before their time; how many is of no concern.
    pub(crate) ended_sessions: usize,
}

/// A message that a group has accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NewMessage {
    pub(crate) group: GroupId,
    pub(crate) seq: u64,
    /// The epoch that it was sent in.
    pub(crate) epoch: u64,
    /// The group's roster when it was accepted.
    pub(crate) roster_version: u64,
    pub(crate) sender: DeviceKey,
    pub(crate) received_at: UnixSeconds,
    pub(crate) body: Vec<u8>,
}

impl News {
    pub(crate) fn is_empty(&self) -> bool {
        self.devices.is_empty()
            && self.groups.is_empty()
            && self.messages.is_empty()
            && self.ended_sessions == 0
    }
}

/// A transaction under way. The rows of each part of the schema are in the sibling modules.
pub(crate) struct Tx<'c> {
    engine: Engine<'c>,
    news: RefCell<News>,
}

/// Who carries the transaction out.
pub(super) enum Engine<'c> {
    Sqlite(&'c Connection),
    Postgres(&'c Session<'c>),
}

impl<'c> Tx<'c> {
    pub(super) fn new(engine: Engine<'c>) -> Self {
        Self {
            engine,
            news: RefCell::default(),
        }
    }

    pub(super) fn engine(&self) -> &Engine<'c> {
        &self.engine
    }

    /// Notes that there is something new for `device`, for after the commit.
    pub(super) fn wake(&self, device: DeviceKey) {
        self.news.borrow_mut().devices.push(device);
    }

    /// Notes that the log of `group` goes on, for after the commit.
    pub(crate) fn wake_group(&self, group: &GroupId) {
        self.news.borrow_mut().groups.push(group.clone());
    }

    /// Notes a message that a group has accepted, for after the commit.
    pub(crate) fn announce(&self, message: NewMessage) {
        self.news.borrow_mut().messages.push(message);
    }

    /// Notes that sessions have ended before their time, for after the commit.
    pub(super) fn note_ended_sessions(&self) {
        self.news.borrow_mut().ended_sessions += 1;
    }

    /// How much news there is so far.
    pub(super) fn news_mark(&self) -> [usize; 4] {
        let news = self.news.borrow();
        [
            news.devices.len(),
            news.groups.len(),
            news.messages.len(),
            news.ended_sessions,
        ]
    }

    pub(super) fn forget_news_since(&self, [devices, groups, messages, ended_sessions]: [usize; 4]) {
        let mut news = self.news.borrow_mut();
        news.ended_sessions = ended_sessions;
        news.devices.truncate(devices);
        news.groups.truncate(groups);
        news.messages.truncate(messages);
    }

    pub(super) fn into_news(self) -> News {
        self.news.into_inner()
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

pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> &str {
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
