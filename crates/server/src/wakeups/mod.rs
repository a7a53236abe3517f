//! Tells those who wait for rows that some may have come, and gives a message to all who are ready for it as the same bytes.

mod stream;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use larder_lifecycle::UnixSeconds;
use larder_wire::GroupId;
use tokio::sync::watch;

use crate::delivery::inbox::Positions;
use crate::sessions::Sessions;
use crate::store::{DeviceKey, NewMessage, News};

pub(crate) use stream::{Event, Place, Queue};
use stream::{Said, Stream};

/// Those of this process who wait. A hint: who is told reads the store.
#[derive(Clone, Default)]
pub(crate) struct Wakeups {
    inner: Arc<Mutex<Inner>>,
    sessions: Sessions,
}

#[derive(Default)]
struct Inner {
    devices: HashMap<DeviceKey, Device>,
    /// Who waits for the rows of a group.
    groups: HashMap<GroupId, HashSet<DeviceKey>>,
    last_stream: u64,
}

struct Device {
    arrived: watch::Sender<u64>,
    groups: Vec<GroupId>,
    streams: HashMap<u64, Stream>,
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

    fn waiting_for(&self, group: &GroupId) -> Vec<DeviceKey> {
        self.groups.get(group).into_iter().flatten().copied().collect()
    }

    fn wake(&mut self, device: DeviceKey) {
        if let Some(waiting) = self.devices.get(&device) {
            waiting.arrived.send_modify(|count| *count += 1);
            if waiting.arrived.receiver_count() == 0 {
                self.remove(device);
            }
        }
    }

    /// Gives a message to the streams that have everything before it, or will have read that; everybody else is woken.
    fn push(&mut self, message: &NewMessage) {
        let mut encoded: Option<Arc<Said>> = None;
        for device in self.waiting_for(&message.group) {
            let Some(waiting) = self.devices.get_mut(&device) else {
                continue;
            };
            let mut pushed = 0;
            for stream in waiting.streams.values_mut() {
                let said = encoded.get_or_insert_with(|| Arc::new(Said::new(message)));
                pushed += usize::from(stream.take(device, said));
            }
            if pushed < waiting.arrived.receiver_count() {
                self.wake(device);
            }
        }
    }
}

/// Somebody who waits for what arrives for a device.
pub(crate) struct Waiting {
    wakeups: Wakeups,
    device: DeviceKey,
    arrivals: watch::Receiver<u64>,
    /// Of one that reads a stream.
    stream: Option<u64>,
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

    /// The stream has given its reader all that there was up to here. What came meanwhile is given to it now, and what comes next
    /// at once.
    pub(crate) fn is_at(&self, places: HashMap<GroupId, Place>) {
        let device = self.device;
        let has_all = self.of_stream(|stream| stream.is_at(device, places));
        if has_all == Some(false) {
            self.wakeups.lock().wake(device);
        }
    }

    /// How far the stream has come by what was given to it since. It reads the store from there on, and is given nothing until it
    /// [is at](Self::is_at) its end again, or it would have some twice.
    pub(crate) fn read_on(&self) -> Positions {
        self.of_stream(Stream::read_on).unwrap_or_default()
    }

    fn of_stream<T>(&self, work: impl FnOnce(&mut Stream) -> T) -> Option<T> {
        let mut inner = self.wakeups.lock();
        let device = inner.devices.get_mut(&self.device)?;
        device.streams.get_mut(&self.stream?).map(work)
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

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(stream) = self.stream {
            let mut inner = self.wakeups.lock();
            if let Some(device) = inner.devices.get_mut(&self.device) {
                device.streams.remove(&stream);
            }
        }
    }
}

#[cfg(test)]
impl Waiting {
    /// How often something has arrived.
    pub(crate) fn times(&self) -> u64 {
        *self.arrivals.borrow()
    }

    /// How far the stream is by what was given to it.
    fn positions(&self) -> Positions {
        self.of_stream(|stream| stream.positions()).unwrap_or_default()
    }
}

impl Wakeups {
    /// The same for those who know sessions, which are told when any has ended before its time.
    pub(crate) fn knowing(sessions: Sessions) -> Self {
        Self {
            sessions,
            ..Self::default()
        }
    }

    /// Waits for what arrives for `device` after this call; `None` when as many as may wait for it do.
    pub(crate) fn subscribe(&self, device: DeviceKey, most: usize) -> Option<Waiting> {
        self.wait(device, most, None)
    }

    /// The same, and what can be is put into a queue at once, until a time.
    pub(crate) fn stream(
        &self,
        device: DeviceKey,
        most: usize,
        queue: (Queue, UnixSeconds),
    ) -> Option<Waiting> {
        self.wait(device, most, Some(queue))
    }

    fn wait(&self, device: DeviceKey, most: usize, queue: Option<(Queue, UnixSeconds)>) -> Option<Waiting> {
        let mut inner = self.lock();
        inner.last_stream += 1;
        let number = inner.last_stream;
        let waiting = inner.devices.entry(device).or_insert_with(|| Device {
            arrived: watch::Sender::new(0),
            groups: Vec::new(),
            streams: HashMap::new(),
        });
        if waiting.arrived.receiver_count() >= most {
            return None;
        }
        let stream = queue.map(|(queue, until)| {
            waiting.streams.insert(number, Stream::new(queue, until));
            number
        });
        Some(Waiting {
            wakeups: self.clone(),
            device,
            arrivals: waiting.arrived.subscribe(),
            stream,
        })
    }

    pub(crate) fn wake(&self, news: &News) {
        if news.ended_sessions > 0 {
            // First, because who is woken looks whether its own has.
            self.sessions.forget();
        }
        let mut inner = self.lock();
        for device in &news.devices {
            inner.wake(*device);
        }
        for message in &news.messages {
            inner.push(message);
        }
        for group in &news.groups {
            for device in inner.waiting_for(group) {
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
            ..News::default()
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Bytes;
    use futures_util::FutureExt as _;

    use super::stream::ASIDE_MAX;
    use super::*;

    fn group(number: u8) -> GroupId {
        GroupId::from_bytes(&[number]).unwrap()
    }

    fn of_device(device: DeviceKey) -> News {
        News {
            devices: vec![device],
            ..News::default()
        }
    }

    fn of_group(number: u8) -> News {
        News {
            groups: vec![group(number)],
            ..News::default()
        }
    }

    fn said(seq: u64, epoch: u64, roster_version: u64, sender: DeviceKey) -> News {
        News {
            messages: vec![NewMessage {
                group: group(1),
                seq,
                epoch,
                roster_version,
                sender,
                received_at: UnixSeconds(1),
                body: b"said".to_vec(),
            }],
            ..News::default()
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

    #[tokio::test]
    async fn a_message_goes_to_the_streams_that_have_everything_before_it_and_wakes_the_others() {
        let (alice, bob) = (DeviceKey::for_tests(1), DeviceKey::for_tests(2));
        let wakeups = Wakeups::default();
        let (queue, mut events) = Queue::new(2);
        let stream = wakeups.stream(bob, 9, (queue, UnixSeconds(2))).unwrap();
        let place = Place {
            position: 4,
            from_epoch: 2,
            roster_version: 7,
        };
        stream.listen_to(&[group(1)]);
        stream.is_at(HashMap::from([(group(1), place)]));
        wakeups.wake(&said(5, 2, 7, alice));
        assert_eq!(stream.times(), 0, "it need not look");
        let event = String::from_utf8(events.next().await.unwrap().to_vec()).unwrap();
        assert!(
            event.starts_with("data: {") && event.contains(r#""seq":5"#),
            "{event}"
        );
        assert_eq!(stream.positions(), Positions::from([(group(1), 5)]));

        // A gap, another roster, an epoch before its own, a message of its own, and no room.
        for (told, news) in [
            said(7, 2, 7, alice),
            said(6, 2, 8, alice),
            said(6, 1, 7, alice),
            said(6, 2, 7, bob),
        ]
        .iter()
        .enumerate()
        {
            wakeups.wake(news);
            assert_eq!(stream.times(), told as u64 + 1);
        }
        for seq in [6, 7, 8] {
            wakeups.wake(&said(seq, 2, 7, alice));
        }
        assert_eq!((stream.times(), stream.positions()[&group(1)]), (5, 7));
        // Whoever waits beside a stream is woken all the same.
        let beside = wakeups.subscribe(bob, 9).unwrap();
        events.next().await.unwrap();
        wakeups.wake(&said(8, 2, 7, alice));
        assert_eq!((beside.times(), stream.positions()[&group(1)]), (6, 8));
        drop(beside);
        events.next().await.unwrap();
        let mut too_late = said(9, 2, 7, alice);
        too_late.messages[0].received_at = UnixSeconds(2);
        wakeups.wake(&too_late);
        assert_eq!(
            (stream.times(), stream.positions()[&group(1)]),
            (7, 8),
            "its session has ended"
        );
    }

    #[tokio::test]
    async fn a_queue_takes_one_event_beyond_its_bytes_and_waits() {
        let (queue, mut events) = Queue::new(64);
        let large = || Event::from(Bytes::from(vec![0; 2 * 1024 * 1024]));
        assert!(queue.send(large()).await);
        let mut second = std::pin::pin!(queue.send(large()));
        assert_eq!(second.as_mut().now_or_never(), None);
        events.next().await.unwrap();
        assert!(second.await);
        let third = queue.send(large());
        drop(events);
        assert!(!third.await, "nobody reads any more");
    }

    #[test]
    fn a_stream_that_reads_the_store_is_given_afterwards_what_came_meanwhile() {
        let (alice, bob) = (DeviceKey::for_tests(1), DeviceKey::for_tests(2));
        let wakeups = Wakeups::default();
        let (queue, mut events) = Queue::new(2 * ASIDE_MAX);
        let stream = wakeups.stream(bob, 9, (queue, UnixSeconds(2))).unwrap();
        let place = |position| Place {
            position,
            from_epoch: 2,
            roster_version: 7,
        };
        let mut given = || std::iter::from_fn(|| events.events.try_recv().ok()).count();
        stream.listen_to(&[group(1)]);
        stream.is_at(HashMap::from([(group(1), place(4))]));
        wakeups.wake(&said(5, 2, 7, alice));
        assert_eq!(given(), 1);
        assert_eq!(stream.read_on(), Positions::from([(group(1), 5)]));
        // One of them is among the rows that the stream is about to read, and two change places on their way.
        for seq in [6, 8, 7] {
            wakeups.wake(&said(seq, 2, 7, alice));
        }
        assert_eq!(given(), 0);
        stream.is_at(HashMap::from([(group(1), place(6))]));
        assert_eq!((given(), stream.times()), (2, 0));
        wakeups.wake(&said(9, 2, 7, alice));
        assert_eq!((given(), stream.times()), (1, 0));

        // What one is missing for is read.
        assert_eq!(stream.read_on(), Positions::from([(group(1), 9)]));
        wakeups.wake(&said(11, 2, 7, alice));
        stream.is_at(HashMap::from([(group(1), place(9))]));
        assert_eq!((given(), stream.times()), (0, 1));

        // And so is what was too much.
        assert_eq!(stream.read_on(), Positions::from([(group(1), 9)]));
        let much = 10..=10 + ASIDE_MAX as u64;
        much.for_each(|seq| wakeups.wake(&said(seq, 2, 7, alice)));
        stream.is_at(HashMap::from([(group(1), place(9))]));
        assert_eq!((given(), stream.times()), (ASIDE_MAX, 2));
    }
}
