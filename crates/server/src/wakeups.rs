use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use larder_wire::GroupId;
use tokio::sync::watch;

use crate::store::{DeviceKey, News};

/// Tells those who wait for rows that some may have arrived. A hint: who is told reads the store.
#[derive(Clone, Default)]
pub(crate) struct Wakeups {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    devices: HashMap<DeviceKey, Device>,
    /// Who waits for the rows of a group.
    groups: HashMap<GroupId, HashSet<DeviceKey>>,
}

struct Device {
    arrived: watch::Sender<u64>,
    groups: Vec<GroupId>,
}

impl Inner {
    fn remove(&mut self, device: DeviceKey) {
        for group in self
            .devices
            .remove(&device)
            .map(|gone| gone.groups)
            .unwrap_or_default()
        {
            self.leave(&group, device);
        }
    }

    fn leave(&mut self, group: &GroupId, device: DeviceKey) {
        if let Some(waiting) = self.groups.get_mut(group) {
            waiting.remove(&device);
            if waiting.is_empty() {
                self.groups.remove(group);
            }
        }
    }

    fn wake(&mut self, device: DeviceKey) {
        if let Some(waiting) = self.devices.get(&device) {
            waiting.arrived.send_modify(|count| *count += 1);
            if waiting.arrived.receiver_count() == 0 {
                self.remove(device);
            }
        }
    }
}

/// Somebody who waits for what arrives for a device.
pub(crate) struct Waiting {
    wakeups: Wakeups,
    device: DeviceKey,
    arrivals: watch::Receiver<u64>,
}

impl Waiting {
    /// Waits for the rows of these groups, too, which are in ascending order. `true` when that is new: then rows of them may have
    /// arrived since they were read.
    pub(crate) fn listen_to(&self, groups: &[GroupId]) -> bool {
        let mut inner = self.wakeups.lock();
        let Some(device) = inner.devices.get_mut(&self.device) else {
            return true;
        };
        if device.groups == groups {
            return false;
        }
        let before = std::mem::replace(&mut device.groups, groups.to_vec());
        for group in before.iter().filter(|group| groups.binary_search(group).is_err()) {
            inner.leave(group, self.device);
        }
        for group in groups {
            let waiting = inner.groups.entry(group.clone()).or_default();
            waiting.insert(self.device);
        }
        true
    }

    /// What arrives from here on is told by [`arrived`](Self::arrived).
    pub(crate) fn look(&mut self) {
        self.arrivals.borrow_and_update();
    }

    /// Returns once something may have arrived since the last look; `false` when nothing will any more.
    pub(crate) async fn arrived(&mut self) -> bool {
        self.arrivals.changed().await.is_ok()
    }
}

#[cfg(test)]
impl Waiting {
    /// How often something has arrived.
    pub(crate) fn times(&self) -> u64 {
        *self.arrivals.borrow()
    }
}

impl Wakeups {
    /// Waits for what arrives for `device` after this call; `None` when as many as may wait for it do.
    pub(crate) fn subscribe(&self, device: DeviceKey, most: usize) -> Option<Waiting> {
        let mut inner = self.lock();
        let waiting = inner.devices.entry(device).or_insert_with(|| Device {
            arrived: watch::Sender::new(0),
            groups: Vec::new(),
        });
        (waiting.arrived.receiver_count() < most).then(|| Waiting {
            wakeups: self.clone(),
            device,
            arrivals: waiting.arrived.subscribe(),
        })
    }

    pub(crate) fn wake(&self, news: &News) {
        let mut inner = self.lock();
        for device in &news.devices {
            inner.wake(*device);
        }
        for group in &news.groups {
            let waiting: Vec<DeviceKey> = inner.groups.get(group).into_iter().flatten().copied().collect();
            for device in waiting {
                inner.wake(device);
            }
        }
    }

    /// The devices that somebody waits for, and the groups whose rows they wait for.
    pub(crate) fn waiting(&self) -> News {
        let mut inner = self.lock();
        let gone: Vec<DeviceKey> = inner
            .devices
            .iter()
            .filter(|(_, waiting)| waiting.arrived.receiver_count() == 0)
            .map(|(device, _)| *device)
            .collect();
        for device in gone {
            inner.remove(device);
        }
        News {
            devices: inner.devices.keys().copied().collect(),
            groups: inner.groups.keys().cloned().collect(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(number: u8) -> GroupId {
        GroupId::from_bytes(&[number]).unwrap()
    }

    fn of_device(device: DeviceKey) -> News {
        News {
            devices: vec![device],
            groups: Vec::new(),
        }
    }

    fn of_group(number: u8) -> News {
        News {
            devices: Vec::new(),
            groups: vec![group(number)],
        }
    }

    #[test]
    fn only_the_woken_device_changes_and_nobody_waiting_leaves_nothing_behind() {
        let (one, two) = (DeviceKey::for_tests(1), DeviceKey::for_tests(2));
        let wakeups = Wakeups::default();
        let (first, second) = (
            wakeups.subscribe(one, 1).unwrap(),
            wakeups.subscribe(two, 1).unwrap(),
        );
        assert!(wakeups.subscribe(one, 1).is_none(), "one waits for it already");
        wakeups.wake(&of_device(one));
        assert!(first.arrivals.has_changed().unwrap());
        assert!(!second.arrivals.has_changed().unwrap());
        drop(first);
        wakeups.wake(&of_device(one));
        assert_eq!(wakeups.lock().devices.len(), 1);
        assert_eq!(wakeups.waiting().devices, [two]);
        drop(second);
        assert!(wakeups.waiting().is_empty());
    }

    #[test]
    fn a_row_of_a_group_wakes_those_who_wait_for_it_and_nobody_else() {
        let (one, two) = (DeviceKey::for_tests(1), DeviceKey::for_tests(2));
        let wakeups = Wakeups::default();
        let mut first = wakeups.subscribe(one, 1).unwrap();
        let second = wakeups.subscribe(two, 1).unwrap();
        assert!(first.listen_to(&[group(1), group(2)]));
        assert!(!first.listen_to(&[group(1), group(2)]), "it does so already");
        assert!(second.listen_to(&[group(2)]));
        wakeups.wake(&of_group(1));
        assert!(first.arrivals.has_changed().unwrap());
        assert!(!second.arrivals.has_changed().unwrap());
        first.look();
        assert!(first.listen_to(&[group(2)]));
        wakeups.wake(&of_group(1));
        assert!(!first.arrivals.has_changed().unwrap(), "it has left that group");
        wakeups.wake(&of_group(2));
        assert!(first.arrivals.has_changed().unwrap() && second.arrivals.has_changed().unwrap());
        drop((first, second));
        assert!(wakeups.waiting().is_empty());
        assert!(wakeups.lock().groups.is_empty());
    }
}
