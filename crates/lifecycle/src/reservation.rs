use crate::time::UnixSeconds;

/// A reservation: `by` may add the KeyPackage to `group`. `D` names a device, `G` a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Reservation<D, G> {
    /// The device that may commit it.
    pub by: D,
    /// The group that it may be added to.
    pub group: G,
    /// From here on the sweeper may lapse it. A Commit that arrives before the sweep is still accepted.
    pub until: UnixSeconds,
    /// What has become of it.
    pub state: ReservationState,
}

/// What has become of a reservation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ReservationState {
    /// Its holder may commit it.
    Open,
    /// An accepted Commit used it. Terminal.
    Committed,
    /// Its holder gave it up, or its time was over. Terminal.
    Lapsed,
    /// The owner withdrew what was reserved. Terminal.
    Revoked,
}
