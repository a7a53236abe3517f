use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::store::DeviceKey;

/// Tells waiting inboxes that rows may have arrived. A hint: who is told reads the store.
#[derive(Clone, Default)]
pub(crate) struct Wakeups {
    waiting: Arc<Mutex<HashMap<DeviceKey, watch::Sender<u64>>>>,
}

impl Wakeups {
    /// A receiver that changes whenever `device` is woken after this call; `None` when as many as may wait for it do.
    pub(crate) fn subscribe(&self, device: DeviceKey, most: usize) -> Option<watch::Receiver<u64>> {
        let mut waiting = self.lock();
        let sender = waiting.entry(device).or_insert_with(|| watch::Sender::new(0));
        (sender.receiver_count() < most).then(|| sender.subscribe())
    }

    pub(crate) fn wake(&self, devices: &[DeviceKey]) {
        let mut waiting = self.lock();
        for device in devices {
            if let Some(sender) = waiting.get(device) {
                sender.send_modify(|count| *count += 1);
                if sender.receiver_count() == 0 {
                    waiting.remove(device);
                }
            }
        }
    }

    /// The devices that somebody waits for.
    pub(crate) fn waiting(&self) -> Vec<DeviceKey> {
        let mut waiting = self.lock();
        waiting.retain(|_, sender| sender.receiver_count() > 0);
        waiting.keys().copied().collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<DeviceKey, watch::Sender<u64>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_woken_device_changes_and_nobody_waiting_leaves_nothing_behind() {
        let (one, two) = (DeviceKey::for_tests(1), DeviceKey::for_tests(2));
        let wakeups = Wakeups::default();
        let (first, second) = (
            wakeups.subscribe(one, 1).unwrap(),
            wakeups.subscribe(two, 1).unwrap(),
        );
        assert!(wakeups.subscribe(one, 1).is_none(), "one waits for it already");
        wakeups.wake(&[one]);
        assert!(first.has_changed().unwrap());
        assert!(!second.has_changed().unwrap());
        drop(first);
        wakeups.wake(&[one]);
        assert_eq!(wakeups.lock().len(), 1);
        assert_eq!(wakeups.waiting(), [two]);
        drop(second);
        assert!(wakeups.waiting().is_empty());
    }
}
