//! The public states of the groups that are busy.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use larder_wire::GroupId;
use lru::LruCache;

use crate::delivery::state::Held;

/// The states that are kept, in bytes.
const BYTES_MAX: usize = 64 * 1024 * 1024;
/// What a state takes beyond its ratchet tree, and of that how often its size: estimates.
const BYTES_PER_GROUP: usize = 4 * 1024;
const TREES_PER_GROUP: usize = 4;

/// Where the state of a group is, if it is in memory. One request at a time judges, writes and follows; `None` when it has to be
/// read from the store.
pub(crate) type Place = Arc<tokio::sync::Mutex<Option<Held>>>;

/// The states of the groups that were used last.
pub(crate) struct States {
    inner: Mutex<Inner>,
    /// Held by each that is on its way into the store, together, and alone by whoever waits until none is.
    pub(crate) storing: tokio::sync::RwLock<()>,
}

struct Inner {
    places: LruCache<GroupId, (Place, usize)>,
    bytes: usize,
}

impl Default for States {
    fn default() -> Self {
        Self {
            inner: Mutex::new(Inner {
                places: LruCache::unbounded(),
                bytes: 0,
            }),
            storing: tokio::sync::RwLock::default(),
        }
    }
}

impl States {
    /// The place of a group's state.
    pub(crate) fn place(&self, group: &GroupId) -> Place {
        let mut inner = self.lock();
        if let Some((place, _)) = inner.places.get(group) {
            return Arc::clone(place);
        }
        let place = Place::default();
        inner
            .places
            .put(group.clone(), (Arc::clone(&place), BYTES_PER_GROUP));
        inner.bytes += BYTES_PER_GROUP;
        place
    }

    /// The place of a group's state, if it has one.
    pub(crate) fn known(&self, group: &GroupId) -> Option<Place> {
        let mut inner = self.lock();
        inner.places.get(group).map(|(place, _)| Arc::clone(place))
    }

    /// Notes the size of a group's ratchet tree, in bytes. Returns the places that have no room any more.
    pub(crate) fn weigh(&self, group: &GroupId, tree_bytes: usize) -> Vec<(GroupId, Place)> {
        let mut inner = self.lock();
        let inner = &mut *inner;
        if let Some((_, bytes)) = inner.places.get_mut(group) {
            inner.bytes -= *bytes;
            *bytes = BYTES_PER_GROUP + TREES_PER_GROUP * tree_bytes;
            inner.bytes += *bytes;
        }
        let mut dropped = Vec::new();
        while inner.bytes > BYTES_MAX && inner.places.len() > 1 {
            let Some((group, (place, bytes))) = inner.places.pop_lru() else {
                break;
            };
            inner.bytes -= bytes;
            dropped.push((group, place));
        }
        dropped
    }

    /// All that there are.
    pub(crate) fn all(&self) -> Vec<(GroupId, Place)> {
        let inner = self.lock();
        let places = inner.places.iter();
        places
            .map(|(group, (place, _))| (group.clone(), Arc::clone(place)))
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_used_for_longest_goes_first_when_there_is_no_room() {
        let states = States::default();
        let group = |number: u8| GroupId::from_bytes(&[number]).unwrap();
        let first = states.place(&group(1));
        assert!(Arc::ptr_eq(&first, &states.place(&group(1))));
        states.place(&group(2));
        assert!(states.weigh(&group(1), 1024).is_empty());
        states.place(&group(1));
        let dropped = states.weigh(&group(2), BYTES_MAX);
        let dropped: Vec<GroupId> = dropped.into_iter().map(|(group, _)| group).collect();
        assert_eq!(dropped, [group(1)], "the one in use stays, however large it is");
        assert!(states.known(&group(1)).is_none());
        assert!(states.known(&group(2)).is_some());
        assert!(!Arc::ptr_eq(&first, &states.place(&group(1))));
    }
}
