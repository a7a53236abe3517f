//! The sessions that this process knows, so that a request need not look its session up in the store.
//!
//! A session ends when its time is over, or before, when its device is removed, say. Whatever ends one before its time counts that in
//! the store, in the same transaction, and wakes those who know sessions: this process after its commit, the other nodes by a
//! notification. Nobody depends on the latter: the count is read again with the next session that is looked up, and what is known is
//! good for no longer than [`GOOD_FOR`] after it was last read.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use larder_lifecycle::UnixSeconds;

use crate::store::DeviceRow;

/// How long it takes at most until this process knows that another one has ended a session.
const GOOD_FOR: Duration = Duration::from_secs(1);
/// So many sessions are known at most, in two halves: once the younger half is full the older one is forgotten.
const HALF_MAX: usize = 32 * 1024;

/// The SHA-256 of a token.
pub(crate) type TokenHash = [u8; 32];

/// A session that has not ended.
#[derive(Clone)]
pub(crate) struct Known {
    pub(crate) device: Arc<DeviceRow>,
    pub(crate) ends: UnixSeconds,
}

/// What the store says of a session, and how often sessions have ended before their time there.
pub(crate) struct LookedUp {
    pub(crate) session: Option<Known>,
    pub(crate) ended: u64,
}

#[derive(Clone, Default)]
pub(crate) struct Sessions(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    young: HashMap<TokenHash, Known>,
    old: HashMap<TokenHash, Known>,
    /// The count of the store when it was last read, and when that began.
    ended: Option<(u64, Instant)>,
    /// Counts how often everything was forgotten.
    forgotten: u64,
}

/// Shows that nothing was forgotten since a look, and when that was.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Look {
    at: Instant,
    forgotten: u64,
}

impl Sessions {
    /// A session that is known to be open `now`; otherwise it is to be looked up, and [`learned`](Self::learned).
    pub(crate) fn find(&self, hash: &TokenHash, now: UnixSeconds) -> Result<Known, Look> {
        let mut inner = self.lock();
        let at = Instant::now();
        let is_good = inner
            .ended
            .is_some_and(|(_, read)| at.saturating_duration_since(read) <= GOOD_FOR);
        if is_good && let Some(known) = inner.get(hash).filter(|known| known.ends > now) {
            return Ok(known);
        }
        Err(Look {
            at,
            forgotten: inner.forgotten,
        })
    }

    /// Takes over what was looked up after a [`find`](Self::find).
    pub(crate) fn learned(&self, look: Look, hash: &TokenHash, looked_up: &LookedUp) {
        let mut inner = self.lock();
        // A session that ended after it was looked up would be remembered for good.
        let is_current = inner.forgotten == look.forgotten;
        if inner.ended.is_some_and(|(ended, _)| ended != looked_up.ended) {
            inner.forget();
        }
        // What was looked up since may have been read later.
        let read = inner.ended.map_or(look.at, |(_, read)| read.max(look.at));
        inner.ended = Some((looked_up.ended, read));
        if let Some(session) = &looked_up.session
            && is_current
        {
            inner.insert(*hash, session.clone());
        }
    }

    /// Sessions have ended: everything is looked up again.
    pub(crate) fn forget(&self) {
        self.lock().forget();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn get(&mut self, hash: &TokenHash) -> Option<Known> {
        if let Some(known) = self.young.get(hash) {
            return Some(known.clone());
        }
        let known = self.old.remove(hash)?;
        self.insert(*hash, known.clone());
        Some(known)
    }

    fn insert(&mut self, hash: TokenHash, known: Known) {
        if self.young.len() >= HALF_MAX {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(hash, known);
    }

    fn forget(&mut self) {
        self.young = HashMap::new();
        self.old = HashMap::new();
        self.forgotten += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{DeviceKey, UserKey};

    const NOW: UnixSeconds = UnixSeconds(100);

    fn session(ends: u64) -> Option<Known> {
        let device = DeviceRow {
            key: DeviceKey::for_tests(1),
            user: "alice".parse().unwrap(),
            device_id: "d".parse().unwrap(),
            auth_key: Vec::new(),
            signature_key: Vec::new(),
            user_key: UserKey::for_tests(1),
        };
        Some(Known {
            device: Arc::new(device),
            ends: UnixSeconds(ends),
        })
    }

    fn looked_up(sessions: &Sessions, hash: TokenHash, ended: u64) {
        let look = sessions.find(&hash, NOW).err().expect("not known");
        let session = session(200);
        sessions.learned(look, &hash, &LookedUp { session, ended });
    }

    #[test]
    fn a_session_is_known_until_it_ends_or_any_has_ended() {
        let sessions = Sessions::default();
        looked_up(&sessions, [1; 32], 0);
        assert!(sessions.find(&[1; 32], NOW).is_ok());
        assert!(
            sessions.find(&[1; 32], UnixSeconds(200)).is_err(),
            "its time is over"
        );
        sessions.forget();
        assert!(sessions.find(&[1; 32], NOW).is_err());
        // Another node has ended one.
        looked_up(&sessions, [1; 32], 0);
        looked_up(&sessions, [2; 32], 1);
        assert!(sessions.find(&[1; 32], NOW).is_err());
    }

    #[test]
    fn a_session_that_ended_while_it_was_looked_up_is_not_remembered() {
        let sessions = Sessions::default();
        let look = sessions.find(&[1; 32], NOW).err().unwrap();
        sessions.forget();
        let read_before = LookedUp {
            session: session(200),
            ended: 0,
        };
        sessions.learned(look, &[1; 32], &read_before);
        assert!(sessions.find(&[1; 32], NOW).is_err());
    }

    #[test]
    fn what_is_known_is_good_for_no_longer_than_the_count_was_read() {
        let sessions = Sessions::default();
        looked_up(&sessions, [1; 32], 0);
        let earlier = Instant::now()
            .checked_sub(GOOD_FOR + Duration::from_millis(1))
            .unwrap();
        sessions.lock().ended = Some((0, earlier));
        let look = sessions.find(&[1; 32], NOW).err().expect("to be read again");
        // Looking anything up tells whether all of it is good still.
        let unknown = LookedUp {
            session: None,
            ended: 0,
        };
        sessions.learned(look, &[9; 32], &unknown);
        assert!(sessions.find(&[1; 32], NOW).is_ok());
        assert!(sessions.find(&[9; 32], NOW).is_err());
    }

    #[test]
    fn so_many_are_known_and_those_in_use_stay() {
        let sessions = Sessions::default();
        let mut inner = sessions.lock();
        let hash = |number: usize| -> TokenHash {
            let mut hash = [0; 32];
            hash[..8].copy_from_slice(&number.to_be_bytes());
            hash
        };
        for number in 0..5 * HALF_MAX {
            inner.insert(hash(number), session(200).unwrap());
            assert!(inner.get(&hash(0)).is_some());
        }
        assert!(inner.young.len() + inner.old.len() <= 2 * HALF_MAX);
        assert!(inner.get(&hash(1)).is_none());
    }
}
