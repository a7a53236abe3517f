use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use larder_wire::InboxKind;
use uuid::Uuid;

/// The longest that a device lets others be first.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// Whose turn it is to commit what every member could: that somebody has left, for example. All who listen hear of it at once, and
/// all but one of their Commits would be in vain, so each waits for a time of its own and looks again.
#[derive(Default)]
pub(super) struct OthersFirst(Mutex<Option<Instant>>);

impl OthersFirst {
    /// Something came while this device listens. A wait that has begun goes on.
    pub(super) fn heard(&self, kind: InboxKind) {
        match kind {
            InboxKind::Departure | InboxKind::DeviceChange | InboxKind::Proposal => {
                self.until().get_or_insert_with(|| Instant::now() + some_time());
            }
            InboxKind::Welcome
            | InboxKind::Commit
            | InboxKind::Message
            | InboxKind::KeyPackagesLow
            | InboxKind::Passed => {}
        }
    }

    /// How long it is still the turn of others; `None` when it is not.
    pub(super) fn left(&self) -> Option<Duration> {
        let until = (*self.until())?;
        Some(until.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero())
    }

    /// Whether a wait is over that had begun; from now on there is none.
    pub(super) fn is_over(&self) -> bool {
        let mut until = self.until();
        let is_over = until.is_some_and(|until| until <= Instant::now());
        if is_over {
            *until = None;
        }
        is_over
    }

    /// It is this device's turn: its person has asked for it.
    pub(super) fn end(&self) {
        *self.until() = None;
    }

    fn until(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn some_time() -> Duration {
    let (_, random) = Uuid::new_v4().as_u64_pair();
    let most = u64::try_from(WAIT_MAX.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(random % most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_listens_waits_for_up_to_half_a_minute_and_each_for_another_time() {
        let times: std::collections::BTreeSet<Duration> = (0..100).map(|_| some_time()).collect();
        assert!(times.len() > 90);
        assert!(times.last().is_some_and(|longest| *longest < WAIT_MAX));

        let turns = OthersFirst::default();
        turns.heard(InboxKind::Message);
        assert_eq!((turns.left(), turns.is_over()), (None, false));
        *turns.until() = Some(Instant::now() + WAIT_MAX);
        let before = *turns.until();
        turns.heard(InboxKind::Departure);
        assert_eq!(*turns.until(), before, "one that has begun goes on");
        assert!(turns.left().is_some() && !turns.is_over());
        *turns.until() = Some(Instant::now());
        assert_eq!(turns.left(), None);
        assert!(turns.is_over());
        assert!(!turns.is_over(), "it is over once");
    }
}
