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
use larder_wire::Base64Url;

use crate::accounts::secret_hash;
use crate::store::{DeviceRow, UserKey};

/// How long it takes at most until this process knows that another one has ended a session.
const GOOD_FOR: Duration = Duration::from_secs(1);
/// So many sessions are known at most, in two halves: once the younger half is full the older one is forgotten.
const HALF_MAX: usize = 32 * 1024;

/// What a session is looked up by. A token is random and carries the key of its user, by whom sessions are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct SessionKey {
    pub(crate) user: UserKey,
    /// The SHA-256 of the token.
    pub(crate) hash: [u8; 32],
}

/// Random bytes of a token.
pub(crate) const TOKEN_SECRET_BYTES: usize = 32;

/// A token for a device of a user.
pub(crate) fn token(user: UserKey, secret: [u8; TOKEN_SECRET_BYTES]) -> String {
    Base64Url([user.to_bytes().as_slice(), &secret].concat()).to_string()
}

impl SessionKey {
    /// Of a token, be it one of ours or not.
    pub(crate) fn of(token: &str) -> Self {
        let carried: Option<[u8; 8]> = token
            .parse()
            .ok()
            .and_then(|Base64Url(bytes)| bytes.first_chunk().copied());
        Self {
            // Nobody's token is of no user, and its hash none that is known.
            user: UserKey::from_bytes(carried.unwrap_or_default()),
            hash: secret_hash(token.as_bytes()),
        }
    }
}

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
    young: HashMap<SessionKey, Known>,
    old: HashMap<SessionKey, Known>,
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
    pub(crate) fn find(&self, key: &SessionKey, now: UnixSeconds) -> Result<Known, Look> {
        let mut inner = self.lock();
        let at = Instant::now();
        let is_good = inner
            .ended
            .is_some_and(|(_, read)| at.saturating_duration_since(read) <= GOOD_FOR);
        if is_good && let Some(known) = inner.get(key).filter(|known| known.ends > now) {
            return Ok(known);
        }
        Err(Look {
            at,
            forgotten: inner.forgotten,
        })
    }

    /// Takes over what was looked up after a [`find`](Self::find).
    pub(crate) fn learned(&self, look: Look, key: &SessionKey, looked_up: &LookedUp) {
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
            inner.insert(*key, session.clone());
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
    fn get(&mut self, key: &SessionKey) -> Option<Known> {
        if let Some(known) = self.young.get(key) {
            return Some(known.clone());
        }
        let known = self.old.remove(key)?;
        self.insert(*key, known.clone());
        Some(known)
    }

    fn insert(&mut self, key: SessionKey, known: Known) {
        if self.young.len() >= HALF_MAX {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, known);
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
    use crate::store::DeviceKey;

    const NOW: UnixSeconds = UnixSeconds(100);

    fn key(number: usize) -> SessionKey {
        let mut hash = [0; 32];
        hash[..8].copy_from_slice(&number.to_be_bytes());
        let user = UserKey::for_tests(1);
        SessionKey { user, hash }
    }

    #[test]
    fn a_session_is_looked_up_by_the_user_of_its_token() {
        let user = UserKey::for_tests(0x7f_ffff_ffff);
        let ours = token(user, [7; TOKEN_SECRET_BYTES]);
        assert_eq!(SessionKey::of(&ours).user, user);
        assert_eq!(SessionKey::of(&ours).hash, secret_hash(ours.as_bytes()));
        for other in ["", "AAAA", "not a token", "AAAAAAAAAAAAAAAAAAAA"] {
            assert_eq!(SessionKey::of(other).user, UserKey::for_tests(0), "{other}");
        }
    }

    fn session(ends: u64) -> Option<Known> {
        let device = DeviceRow {
            key: DeviceKey::for_tests(1),
            user: "alice".parse().unwrap(),
            device_id: "d".parse().unwrap(),
            auth_key: Vec::new(),
            signature_key: Vec::new(),
        };
        Some(Known {
            device: Arc::new(device),
            ends: UnixSeconds(ends),
        })
    }

    fn looked_up(sessions: &Sessions, key: SessionKey, ended: u64) {
        let look = sessions.find(&key, NOW).err().expect("not known");
        let session = session(200);
        sessions.learned(look, &key, &LookedUp { session, ended });
    }

    #[test]
    fn a_session_is_known_until_it_ends_or_any_has_ended() {
        let sessions = Sessions::default();
        looked_up(&sessions, key(1), 0);
        assert!(sessions.find(&key(1), NOW).is_ok());
        assert!(
            sessions.find(&key(1), UnixSeconds(200)).is_err(),
            "its time is over"
        );
        sessions.forget();
        assert!(sessions.find(&key(1), NOW).is_err());
        // Another node has ended one.
        looked_up(&sessions, key(1), 0);
        looked_up(&sessions, key(2), 1);
        assert!(sessions.find(&key(1), NOW).is_err());
    }

    #[test]
    fn a_session_that_ended_while_it_was_looked_up_is_not_remembered() {
        let sessions = Sessions::default();
        let look = sessions.find(&key(1), NOW).err().unwrap();
        sessions.forget();
        let read_before = LookedUp {
            session: session(200),
            ended: 0,
        };
        sessions.learned(look, &key(1), &read_before);
        assert!(sessions.find(&key(1), NOW).is_err());
    }

    #[test]
    fn what_is_known_is_good_for_no_longer_than_the_count_was_read() {
        let sessions = Sessions::default();
        looked_up(&sessions, key(1), 0);
        let earlier = Instant::now()
            .checked_sub(GOOD_FOR + Duration::from_millis(1))
            .unwrap();
        sessions.lock().ended = Some((0, earlier));
        let look = sessions.find(&key(1), NOW).err().expect("to be read again");
        // Looking anything up tells whether all of it is good still.
        let unknown = LookedUp {
            session: None,
            ended: 0,
        };
        sessions.learned(look, &key(9), &unknown);
        assert!(sessions.find(&key(1), NOW).is_ok());
        assert!(sessions.find(&key(9), NOW).is_err());
    }

    #[test]
    fn so_many_are_known_and_those_in_use_stay() {
        let sessions = Sessions::default();
        let mut inner = sessions.lock();
        for number in 0..5 * HALF_MAX {
            inner.insert(key(number), session(200).unwrap());
            assert!(inner.get(&key(0)).is_some());
        }
        assert!(inner.young.len() + inner.old.len() <= 2 * HALF_MAX);
        assert!(inner.get(&key(1)).is_none());
    }
}
