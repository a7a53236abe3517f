//! The life of a KeyPackage as pure functions.
//!
//! A KeyPackage (RFC 9420 §10) is single-use. This crate decides what may happen to one: in the directory
//! ([`DirectoryState`]), in the pool of the device that owns it ([`PoolState`]), how many a device should hold
//! ([`PoolPolicy`], [`plan`]), who may take how many of another ([`DrainLimits`]), and how the two sides agree again after
//! anything went wrong ([`reconcile`]). Server and client, their stores and their tests share these functions, so there is
//! one place where a transition can be wrong.
//!
//! # Architecture invariant
//!
//! Absent here: I/O, clocks, randomness, OpenMLS, HTTP, SQL, and any dependency. Time is an argument. The transition
//! functions are total and have no `_` arm: a new state or event does not compile until every pair is decided.

mod clock;
mod directory;
mod last_resort;
mod limits;
mod plan;
mod policy;
mod pool;
mod reconcile;
mod reservation;
mod status;
mod time;

pub use clock::{
    CLOCK_AWAY_SECONDS, CLOCK_STEADY_SECONDS, CLOCK_STEP_ACCEPTED_SECONDS_MAX, CLOCK_STEP_SECONDS_MAX,
    ClockDoubt, ClockError, ClockGuard, ClockReading, ClockSuspension,
};
pub use directory::{DirectoryEvent, DirectoryState, Listed, Refusal};
pub use last_resort::{
    LAST_RESORT_AGE_SECONDS_MAX, LAST_RESORT_RETIRING_SECONDS, NewestLastResort, last_resort_is_due,
};
pub use limits::{Demand, DrainLimits, Grant, Rate};
pub use plan::{Census, Level, Plan, plan};
pub use policy::{
    BLOB_RETENTION_SECONDS, CLOCK_APART_SECONDS_MAX, CLOCK_APART_SECONDS_TOLD, DirectoryPolicy,
    EXPIRING_SOON_SECONDS, GRACE_SECONDS, INBOX_RETENTION_SECONDS, InvalidPolicy,
    KEY_PACKAGE_BACKDATED_SECONDS, KEY_PACKAGE_LIFETIME_SECONDS, KEY_PACKAGE_LIFETIME_SECONDS_MAX,
    LOST_REPLACED_SECONDS, Lifetime, LifetimeRefusal, POOL_HARD_CAP, POOL_LOST_MAX, POOL_LOW_WATERMARK,
    POOL_TARGET, PoolPolicy, RESERVATION_SECONDS, SERVING_MARGIN_SECONDS, SKEW_SECONDS, TOMBSTONE_SECONDS,
    Worth,
};
pub use pool::{PoolEvent, PoolRefusal, PoolState};
pub use reconcile::{Correction, reconcile};
pub use reservation::{Reservation, ReservationState};
pub use status::{DirectoryStatus, End, Kind};
pub use time::UnixSeconds;
