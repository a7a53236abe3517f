//! What a message, its way to all who are connected, and a Commit cost in groups of 10, 100 and 1,000 devices on SQLite, each
//! beside its limit, taken in turns: one durable row, the same bytes pushed by nothing but HTTP, and the same Commit judged
//! and merged in memory with one durable row. Medians. It prints a table.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    dead_code,
    missing_docs,
    unreachable_pub,
    unused_imports,
    reason = "a benchmark that fails may panic, and shares its devices with the tests"
)]

#[path = "../tests/databases/sqlite.rs"]
mod database;
#[path = "../tests/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::routing::get;
use futures_util::future::join_all;
use larder_wire::{Accepted, CommitRequest, GroupId, GroupInfoAnswer, Sent};
use openmls::prelude::tls_codec::Deserialize as _;
use openmls::prelude::{
    KeyPackage, MlsGroup, MlsMessageBodyIn, MlsMessageIn, OpenMlsProvider as _, ProcessedMessageContent,
    ProposalStore, PublicGroup, RatchetTreeIn,
};
use openmls_rust_crypto::{OpenMlsRustCrypto, RustCrypto};
use tokio::net::TcpListener;
use tokio::sync::broadcast;

use support::{Device, TestServer, id_of};

const SIZES: [usize; 3] = [10, 100, 1000];
const CONNECTED: [usize; 2] = [100, 1000];
const MESSAGES: usize = 200;
const COMMITS: usize = 20;
/// Messages of one round of the fan-out.
const PUSHED: usize = 200;
const ROUNDS: usize = 5;
/// Requests under way at once.
const AT_ONCE: usize = 16;

fn main() {
    // `cargo test --benches` and the like ask for nothing to be measured.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    tokio::runtime::Runtime::new().unwrap().block_on(measure());
}

async fn measure() {
    println!("{:<44} {:>12} {:>12} {:>8}", "", "Larder", "limit", "ratio");
    for size in SIZES {
        let mut scene = Scene::new(size).await;
        let (ours, limit) = scene.messages().await;
        row(&format!("message to {size} devices"), ours, limit);
        let (ours, limit) = scene.commits().await;
        row(&format!("Commit adding one, {size} members"), ours, limit);
    }
    for connected in CONNECTED {
        let (ours, limit) = fan_out(connected).await;
        println!(
            "{:<44} {:>10.0}/s {:>10.0}/s {:>8.2}",
            format!("fan-out to {connected} connected devices"),
            ours,
            limit,
            ours / limit
        );
    }
}

fn row(what: &str, ours: Duration, limit: Duration) {
    let ratio = ours.as_secs_f64() / limit.as_secs_f64();
    println!("{what:<44} {ours:>12.2?} {limit:>12.2?} {ratio:>8.2}");
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// A group of so many devices, one of them Alice's.
struct Scene {
    server: TestServer,
    alice: Device,
    group: MlsGroup,
    gid: GroupId,
    /// With a KeyPackage each.
    newcomers: Vec<Device>,
    durable: Durable,
}

async fn devices(server: &TestServer, prefix: &str, count: usize, key_packages: usize) -> Vec<Device> {
    let mut devices = Vec::new();
    for number in 0..count {
        let name = format!("{prefix}{number}");
        devices.push(server.device_with_key_packages(&name, key_packages).await);
    }
    devices
}

impl Scene {
    async fn new(size: usize) -> Self {
        let server = TestServer::generous().await;
        let alice = server.device("alice").await;
        let members = devices(&server, "member", size - 1, 1).await;
        let newcomers = devices(&server, "newcomer", COMMITS, 1).await;
        let (mut group, gid) = alice.create_group().await;
        for some in members.chunks(60) {
            alice.invite(&mut group, &some.iter().collect::<Vec<_>>()).await;
        }
        Self {
            server,
            alice,
            group,
            gid,
            newcomers,
            durable: Durable::open(),
        }
    }

    /// A message, and one durable row of the same bytes.
    async fn messages(&mut self) -> (Duration, Duration) {
        let (mut ours, mut limit) = (Vec::new(), Vec::new());
        for number in 0..MESSAGES {
            let message = self.alice.encrypt(&mut self.group, &format!("message {number}"));
            let started = Instant::now();
            self.alice.post_message(&self.gid, &message).await.ok::<Sent>();
            ours.push(started.elapsed());
            limit.push(self.durable.write(&message));
        }
        (median(ours), median(limit))
    }

    /// A Commit that adds one, and the same judged and merged in memory, with one durable row.
    async fn commits(&mut self) -> (Duration, Duration) {
        let (mut ours, mut limit) = (Vec::new(), Vec::new());
        let newcomers = std::mem::take(&mut self.newcomers);
        for newcomer in &newcomers {
            let info: GroupInfoAnswer = self.alice.get_group_info(&self.gid).await.ok();
            let mut in_memory = public_group(&info);
            let (key_packages, _) = self.alice.take(&[newcomer], &self.gid).await;
            let request = self.alice.stage_adds(&mut self.group, key_packages);
            let started = Instant::now();
            self.alice.post_commit(&self.gid, &request).await.ok::<Accepted>();
            ours.push(started.elapsed());
            self.alice.merge(&mut self.group);
            let started = Instant::now();
            judge(&mut in_memory, &request);
            let judged = started.elapsed();
            limit.push(judged + self.durable.write(&request.commit.0));
        }
        (median(ours), median(limit))
    }
}

fn public_group(info: &GroupInfoAnswer) -> PublicGroup {
    let message = MlsMessageIn::tls_deserialize_exact(&info.group_info.0).unwrap();
    let MlsMessageBodyIn::GroupInfo(group_info) = message.extract() else {
        panic!("not a GroupInfo");
    };
    let tree = RatchetTreeIn::tls_deserialize_exact(&info.ratchet_tree.0).unwrap();
    let provider = OpenMlsRustCrypto::default();
    PublicGroup::from_external(
        provider.crypto(),
        provider.storage(),
        tree,
        group_info,
        ProposalStore::new(),
    )
    .unwrap()
    .0
}

fn judge(group: &mut PublicGroup, request: &CommitRequest) {
    let provider = OpenMlsRustCrypto::default();
    let message = MlsMessageIn::tls_deserialize_exact(&request.commit.0)
        .unwrap()
        .try_into_protocol_message()
        .unwrap();
    let processed = group.process_message(provider.crypto(), message).unwrap();
    let ProcessedMessageContent::StagedCommitMessage(staged) = processed.into_content() else {
        panic!("not a Commit");
    };
    group.merge_commit(provider.storage(), *staged).unwrap();
}

/// A table of rows, each on disk before the next.
struct Durable {
    connection: rusqlite::Connection,
    _directory: tempfile::TempDir,
}

impl Durable {
    fn open() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let connection = rusqlite::Connection::open(directory.path().join("rows.db")).unwrap();
        connection
            .execute_batch(
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; CREATE TABLE rows (id INTEGER PRIMARY KEY, body BLOB)",
            )
            .unwrap();
        Self {
            connection,
            _directory: directory,
        }
    }

    fn write(&self, body: &[u8]) -> Duration {
        let started = Instant::now();
        self.connection
            .execute("INSERT INTO rows (body) VALUES (?1)", [body])
            .unwrap();
        started.elapsed()
    }
}

/// Rows a second that arrive at so many streams: of Larder, and of the same bytes pushed by HTTP alone.
async fn fan_out(connected: usize) -> (f64, f64) {
    let server = TestServer::start_with(
        |config| {
            config.drain = support::generous();
            config.limits.waiting_per_device_max = connected;
        },
        false,
    )
    .await;
    let alice = server.device("alice").await;
    let readers = devices(&server, "reader", connected.min(100), 1).await;
    let (mut group, gid) = alice.create_group().await;
    for some in readers.chunks(60) {
        alice.invite(&mut group, &some.iter().collect::<Vec<_>>()).await;
    }
    for reader in &readers {
        reader.join().await;
    }
    let mut ours_streams = Vec::new();
    for number in 0..connected {
        let reader = &readers[number % readers.len()];
        let url = format!("http://{}/v1/inbox/events", server.address());
        ours_streams.push(Stream::open(&url, reader.http.token.as_deref()).await);
    }
    let (pushes, _) = broadcast::channel::<Bytes>(2 * PUSHED);
    let bare = bare_push(pushes.clone()).await;
    let mut bare_streams = Vec::new();
    for _ in 0..connected {
        bare_streams.push(Stream::open(&bare, None).await);
    }
    let event = one_event(&alice, &mut group, &gid, &mut ours_streams).await;
    let (mut ours, mut limit) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let messages: Vec<Vec<u8>> = (0..PUSHED)
            .map(|number| alice.encrypt(&mut group, &format!("message {number}")))
            .collect();
        let started = Instant::now();
        let sending = async {
            for some in messages.chunks(AT_ONCE) {
                let sent = some.iter().map(|message| alice.post_message(&gid, message));
                join_all(sent).await;
            }
        };
        let receiving = join_all(ours_streams.iter_mut().map(|stream| stream.read(PUSHED)));
        tokio::join!(sending, receiving);
        ours.push(started.elapsed());

        let started = Instant::now();
        for _ in 0..PUSHED {
            pushes.send(event.clone()).unwrap();
        }
        join_all(bare_streams.iter_mut().map(|stream| stream.read(PUSHED))).await;
        limit.push(started.elapsed());
    }
    let rate = |time: Duration| (connected * PUSHED) as f64 / time.as_secs_f64();
    (rate(median(ours)), rate(median(limit)))
}

/// Says something, so that every stream is where it should be. The event as it came.
async fn one_event(alice: &Device, group: &mut MlsGroup, gid: &GroupId, streams: &mut [Stream]) -> Bytes {
    let message = alice.encrypt(group, "first");
    alice.post_message(gid, &message).await.ok::<Sent>();
    join_all(streams.iter_mut().map(|stream| stream.read(1))).await;
    streams[0].last.clone()
}

/// Pushes the same bytes to everybody, and does nothing else. Returns where.
async fn bare_push(pushes: broadcast::Sender<Bytes>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let push = move || {
        let pushed = pushes.subscribe();
        async move {
            let events = futures_util::stream::unfold(pushed, |mut pushed| async {
                let event = pushed.recv().await.ok()?;
                Some((Ok::<_, std::convert::Infallible>(event), pushed))
            });
            let first = futures_util::stream::once(async { Ok(Bytes::from_static(b":\n\n")) });
            Body::from_stream(futures_util::StreamExt::chain(first, events))
        }
    };
    let router = Router::new().route("/", get(push));
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

/// A reader of a stream that counts its events.
struct Stream {
    answer: reqwest::Response,
    unread: Vec<u8>,
    last: Bytes,
}

impl Stream {
    async fn open(url: &str, token: Option<&str>) -> Self {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let mut request = client.get(url);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let mut answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.chunk().await.unwrap();
        Self {
            answer,
            unread: Vec::new(),
            last: Bytes::new(),
        }
    }

    /// Reads so many messages.
    async fn read(&mut self, mut count: usize) {
        while count > 0 {
            let chunk = self.answer.chunk().await.unwrap().expect("the stream goes on");
            self.unread.extend_from_slice(&chunk);
            while let Some(end) = self.unread.windows(2).position(|pair| pair == b"\n\n") {
                let event: Vec<u8> = self.unread.drain(..end + 2).collect();
                let text = String::from_utf8_lossy(&event);
                if text.contains(r#""kind":"message""#) {
                    count -= 1;
                    self.last = event.into();
                }
            }
        }
    }
}
