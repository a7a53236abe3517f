//! The inbox as a stream of events.

use std::time::{Duration, Instant};

use larder_wire::{Inbox, InboxKind, InboxRow, ProblemType};
use reqwest::Method;
use tokio::time::timeout;

use crate::support::{Answer, Device, TestServer};

/// Nothing that a test waits for takes this long.
const PATIENCE: Duration = Duration::from_secs(120);

/// A stream of events, on a connection of its own.
struct Events {
    answer: reqwest::Response,
    unread: Vec<u8>,
}

impl Events {
    async fn open(server: &TestServer, device: &Device) -> Result<Self, u16> {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let request = client
            .get(format!("http://{}/v1/inbox/events", server.address()))
            .bearer_auth(device.http.token.as_ref().unwrap());
        let answer = request.send().await.unwrap();
        match answer.status().as_u16() {
            200 => {
                assert_eq!(answer.headers()["content-type"], "text/event-stream");
                assert_eq!(answer.headers()["cache-control"], "no-store");
                Ok(Self {
                    answer,
                    unread: Vec::new(),
                })
            }
            other => Err(other),
        }
    }

    /// The next row of a group that is not merely passed; `None` once the stream has ended.
    async fn next(&mut self) -> Option<InboxRow> {
        loop {
            if let Some(end) = self.unread.windows(2).position(|pair| pair == b"\n\n") {
                let event: Vec<u8> = self.unread.drain(..end + 2).collect();
                if let Some(data) = event.strip_prefix(b"data: ") {
                    let row: InboxRow = serde_json::from_slice(data).unwrap();
                    if row.group_id.is_some() && row.kind != InboxKind::Passed {
                        return Some(row);
                    }
                }
                continue;
            }
            match timeout(PATIENCE, self.answer.chunk()).await.expect("in time") {
                Ok(Some(bytes)) => self.unread.extend(bytes),
                Ok(None) | Err(_) => return None,
            }
        }
    }
}

#[tokio::test]
async fn rows_come_in_order_those_that_wait_first_and_nothing_is_acknowledged_by_it() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let bob = server.device_with_key_packages("bob", 1).await;
    let (mut alices, gid) = alice.create_group().await;
    alice.invite(&mut alices, &[&bob]).await;
    bob.join().await;
    // More than are read from the store at a time.
    for number in 0..100 {
        alice.send(&mut alices, &format!("{number}")).await;
    }
    let waiting = bob.inbox().await;
    assert_eq!(waiting.len(), 100);

    let mut events = Events::open(&server, &bob).await.unwrap();
    for row in &waiting {
        assert_eq!(events.next().await.unwrap(), *row);
    }
    for number in 0..3 {
        let sent = alice.send(&mut alices, &format!("live {number}")).await;
        assert_eq!(events.next().await.unwrap().seq, sent.seq);
    }
    assert_eq!(bob.inbox().await.len(), 103);

    // Another one goes on from what is acknowledged.
    bob.ack_up_to(&gid, waiting[99].seq).await.ok::<Inbox>();
    let mut again = Events::open(&server, &bob).await.unwrap();
    assert_eq!(again.next().await.unwrap().seq, waiting[99].seq + 1);
}

#[tokio::test]
async fn a_stream_follows_its_device_into_groups_that_it_comes_to() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let bob = server.device_with_key_packages("bob", 9).await;
    let mut events = Events::open(&server, &bob).await.unwrap();
    for _ in 0..2 {
        let (mut alices, _) = alice.create_group().await;
        alice.invite(&mut alices, &[&bob]).await;
        let welcome = events.next().await.unwrap();
        assert_eq!(welcome.kind, InboxKind::Welcome);
        let sent = alice.send(&mut alices, "hello").await;
        let hello = events.next().await.unwrap();
        assert_eq!((hello.group_id, hello.seq), (welcome.group_id, sent.seq));
    }
}

#[tokio::test]
async fn a_stream_needs_a_session_and_delivers_nothing_beyond_it() {
    let server = TestServer::unswept().await;
    let mut alice = server.device("alice").await;
    let bob = server.device_with_key_packages("bob", 1).await;
    Answer::to(server.http.request(Method::GET, "/v1/inbox/events"))
        .await
        .refused(ProblemType::Unauthenticated);
    let (mut alices, _) = alice.create_group().await;
    alice.invite(&mut alices, &[&bob]).await;
    let mut events = Events::open(&server, &bob).await.unwrap();
    while events.next().await.unwrap().kind != InboxKind::Welcome {}
    server.pass(2 * 60 * 60);
    alice.open_session().await;
    alice.send(&mut alices, "too late for this session").await;
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn a_removed_member_gets_the_commit_that_removes_it_and_nothing_after_it() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let bob = server.device_with_key_packages("bob", 9).await;
    let (mut alices, _) = alice.create_group().await;
    alice.invite(&mut alices, &[&bob]).await;
    let bobs = bob.join().await;
    let mut events = Events::open(&server, &bob).await.unwrap();
    let removal = alice.stage_remove(&mut alices, bobs.own_leaf_index());
    let removed = alice.commit(&mut alices, &removal).await;
    assert_eq!(events.next().await.unwrap().seq, removed.seq);
    alice.send(&mut alices, "without bob").await;
    // What comes next is of another group.
    let (mut others, gid) = alice.create_group().await;
    alice.invite(&mut others, &[&bob]).await;
    assert_eq!(events.next().await.unwrap().group_id, Some(gid));
}

#[tokio::test]
async fn stopping_ends_streams_at_once() {
    let mut server = TestServer::start().await;
    let alice = server.device("alice").await;
    let mut events = Events::open(&server, &alice).await.unwrap();
    let started = Instant::now();
    server.stop().await;
    assert_eq!(events.next().await, None);
    assert!(started.elapsed() < Duration::from_secs(9), "it is not cut off");
}

/// R-S8.
#[tokio::test]
async fn a_reader_that_does_not_read_costs_the_others_nothing() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let bob = server.device_with_key_packages("bob", 9).await;
    let carol = server.device_with_key_packages("carol", 9).await;
    let (mut alices, gid) = alice.create_group().await;
    alice.invite(&mut alices, &[&bob, &carol]).await;
    bob.join().await;
    carol.join().await;
    let _stalled = Events::open(&server, &bob).await.unwrap();
    let mut reading = Events::open(&server, &carol).await.unwrap();
    // More than the socket buffers between them hold, and as much as may wait of one sender.
    let text = "x".repeat(55_000);
    for _ in 0..140 {
        let sent = alice.send(&mut alices, &text).await;
        assert_eq!(reading.next().await.unwrap().seq, sent.seq);
    }
    // What was not acknowledged waits. It is more than one answer holds.
    let (mut rows, mut pages) = (Vec::<InboxRow>::new(), 0);
    loop {
        let page = bob.inbox().await;
        let Some(last) = page.last() else {
            break;
        };
        bob.ack_up_to(&gid, last.seq).await.ok::<Inbox>();
        rows.extend(page);
        pages += 1;
    }
    assert_eq!(rows.len(), 140);
    assert!(pages > 1);
    assert!(rows.windows(2).all(|pair| pair[0].seq + 1 == pair[1].seq));
}

#[tokio::test]
async fn a_reader_that_is_too_slow_is_cut_off_and_catches_up() {
    let limit = |config: &mut larder_server::Config| {
        // Longer than a reader that reads ever needs between two pieces.
        config.limits.send_seconds_max = 10;
        config.limits.waiting_per_device_max = 1;
    };
    let server = TestServer::start_with(limit, true).await;
    let alice = server.device("alice").await;
    let bob = server.device_with_key_packages("bob", 9).await;
    let (mut alices, _) = alice.create_group().await;
    alice.invite(&mut alices, &[&bob]).await;
    bob.join().await;
    let mut stalled = Events::open(&server, &bob).await.unwrap();
    // More than the socket buffers between them hold.
    let text = "x".repeat(55_000);
    for _ in 0..140 {
        alice.send(&mut alices, &text).await;
    }
    // There is room for another once the server has given this one up.
    let started = Instant::now();
    let mut again = loop {
        match Events::open(&server, &bob).await {
            Ok(events) => break events,
            Err(status) => {
                assert_eq!(status, 429);
                assert!(started.elapsed() < PATIENCE, "it is not cut off");
            }
        }
    };
    for _ in 0..140 {
        again.next().await.unwrap();
    }
    let mut rows = 0;
    while stalled.next().await.is_some() {
        rows += 1;
    }
    assert!(rows < 140, "all {rows} rows were sent");
}
