//! A stream of events: what was given to its reader, and what can be given next without a look at the store.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::Bytes;
use larder_lifecycle::UnixSeconds;
use larder_wire::{Base64Url, GroupId, InboxKind, InboxRow};
use tokio::sync::{Notify, mpsc};

use crate::delivery::inbox::{Positions, event};
use crate::store::{DeviceKey, NewMessage};
use crate::transfers::TransferPlace;

/// What waits for the reader of a stream, in bytes, and one event more. What comes beyond that it reads from the store.
const QUEUED_BYTES_MAX: usize = 1024 * 1024;
/// Messages that come while a stream reads the store and are given to it afterwards. What comes beyond that it reads, too.
pub(super) const ASIDE_MAX: usize = 64;

/// A stream of events, as far as it has come.
pub(super) struct Stream {
    queue: Queue,
    /// Its session ends.
    until: UnixSeconds,
    at: At,
}

/// Where a stream is.
enum At {
    /// At the end of what there was, in each group.
    End(HashMap<GroupId, Place>),
    /// It reads the store. Messages that come meanwhile, and whether there were more of them.
    Reading(Vec<Arc<Said>>, bool),
}

/// A message, encoded once for all who get it.
pub(super) struct Said {
    group: GroupId,
    seq: u64,
    epoch: u64,
    roster_version: u64,
    sender: DeviceKey,
    received_at: UnixSeconds,
    event: Bytes,
}

/// How far a stream is in a group, and what it is entitled to there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) position: u64,
    pub(crate) from_epoch: u64,
    /// The roster that this is according to.
    pub(crate) roster_version: u64,
}

/// What waits for the reader of a stream.
#[derive(Clone)]
pub(crate) struct Queue {
    events: mpsc::Sender<Event>,
    waiting: Arc<WaitingBytes>,
}

/// The end of a [`Queue`] that is read.
pub(crate) struct Queued {
    pub(super) events: mpsc::Receiver<Event>,
    waiting: Arc<WaitingBytes>,
    /// Of what was taken last: whoever asks for more has sent that.
    place: Option<TransferPlace>,
}

/// What is sent to the reader of a stream at once.
pub(crate) struct Event {
    bytes: Bytes,
    /// Kept until it is sent.
    place: Option<TransferPlace>,
}

/// Bytes that wait in a queue.
#[derive(Default)]
struct WaitingBytes {
    count: AtomicUsize,
    fewer: Notify,
}

impl WaitingBytes {
    fn take(&self, bytes: usize) {
        self.count.fetch_sub(bytes, Ordering::Relaxed);
        self.fewer.notify_waiters();
    }
}

impl Event {
    /// One that is large, if it has a place.
    pub(crate) fn in_place(bytes: Bytes, place: Option<TransferPlace>) -> Self {
        Self { bytes, place }
    }
}

impl From<Bytes> for Event {
    fn from(bytes: Bytes) -> Self {
        Self::in_place(bytes, None)
    }
}

impl Queue {
    /// A queue of at most so many events.
    pub(crate) fn new(most: usize) -> (Self, Queued) {
        let (sender, events) = mpsc::channel(most);
        let waiting = Arc::<WaitingBytes>::default();
        let queue = Self {
            events: sender,
            waiting: Arc::clone(&waiting),
        };
        let place = None;
        (
            queue,
            Queued {
                events,
                waiting,
                place,
            },
        )
    }

    /// Waits until there is room; `false` when nobody reads any more.
    pub(crate) async fn send(&self, event: Event) -> bool {
        if !self.waits_for_fewer_than(QUEUED_BYTES_MAX).await {
            return false;
        }
        self.waiting.count.fetch_add(event.bytes.len(), Ordering::Relaxed);
        self.events.send(event).await.is_ok()
    }

    /// Waits until all was taken; `false` when nobody reads any more.
    pub(crate) async fn emptied(&self) -> bool {
        self.waits_for_fewer_than(1).await
    }

    /// Waits until fewer bytes wait; `false` when nobody reads any more.
    async fn waits_for_fewer_than(&self, bytes: usize) -> bool {
        loop {
            // Before the look, so that what is taken after it is not missed.
            let fewer = self.waiting.fewer.notified();
            if self.waiting.count.load(Ordering::Relaxed) < bytes {
                return true;
            }
            tokio::select! {
                () = fewer => {}
                () = self.closed() => return false,
            }
        }
    }

    /// Returns when nobody reads any more.
    pub(crate) async fn closed(&self) {
        self.events.closed().await;
    }

    /// Whether there was room at once.
    fn push(&self, event: &Bytes) -> bool {
        if self.waiting.count.load(Ordering::Relaxed) >= QUEUED_BYTES_MAX {
            return false;
        }
        // Before it can be taken.
        self.waiting.count.fetch_add(event.len(), Ordering::Relaxed);
        let pushed = self.events.try_send(event.clone().into()).is_ok();
        if !pushed {
            self.waiting.take(event.len());
        }
        pushed
    }
}

impl Queued {
    /// The next event; `None` when there will be none.
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        self.place = None;
        let Event { bytes, place } = self.events.recv().await?;
        self.place = place;
        self.waiting.take(bytes.len());
        Some(bytes)
    }
}

impl Said {
    /// The row as everybody gets it who is not its sender.
    pub(super) fn new(message: &NewMessage) -> Self {
        Self {
            event: event(&InboxRow {
                group_id: Some(message.group.clone()),
                seq: message.seq,
                first: None,
                kind: InboxKind::Message,
                epoch: Some(message.epoch),
                received_at: message.received_at.0,
                gone: None,
                body: Base64Url(message.body.clone()),
            }),
            group: message.group.clone(),
            seq: message.seq,
            epoch: message.epoch,
            roster_version: message.roster_version,
            sender: message.sender,
            received_at: message.received_at,
        }
    }
}

impl Stream {
    /// One that has given nothing yet, and reads the store.
    pub(super) fn new(queue: Queue, until: UnixSeconds) -> Self {
        Self {
            queue,
            until,
            at: At::Reading(Vec::new(), false),
        }
    }

    /// It has given its reader all that there was up to here. Whether that, with what came meanwhile, is all.
    pub(super) fn is_at(&mut self, device: DeviceKey, places: HashMap<GroupId, Place>) -> bool {
        let At::Reading(mut aside, more) = std::mem::replace(&mut self.at, At::End(places)) else {
            return true;
        };
        aside.sort_by_key(|said| said.seq);
        let mut has_all = !more;
        for said in &aside {
            has_all &= self.take(device, said);
        }
        has_all
    }

    /// How far it has come by what was given to it. It reads the store from there on.
    pub(super) fn read_on(&mut self) -> Positions {
        let positions = self.positions();
        self.at = At::Reading(Vec::new(), false);
        positions
    }

    /// How far it has come by what was given to it, if it is at the end.
    pub(super) fn positions(&self) -> Positions {
        match &self.at {
            At::End(places) => {
                let places = places.iter();
                places
                    .map(|(group, place)| (group.clone(), place.position))
                    .collect()
            }
            At::Reading(..) => Positions::new(),
        }
    }

    /// Whether the device does not have to look for this message.
    pub(super) fn take(&mut self, device: DeviceKey, said: &Arc<Said>) -> bool {
        let places = match &mut self.at {
            At::End(places) => places,
            At::Reading(aside, _) if aside.len() < ASIDE_MAX => {
                aside.push(Arc::clone(said));
                return true;
            }
            At::Reading(_, more) => {
                *more = true;
                return true;
            }
        };
        let Some(place) = places.get_mut(&said.group) else {
            return false;
        };
        if said.seq <= place.position {
            return true;
        }
        let is_next = said.received_at < self.until
            && place.position + 1 == said.seq
            && place.roster_version == said.roster_version
            && place.from_epoch <= said.epoch
            && device != said.sender;
        let is_given = is_next && self.queue.push(&said.event);
        if is_given {
            place.position = said.seq;
        }
        is_given
    }
}
