//! Server processes on a PostgreSQL database: two, one of which is killed, and one that is measured.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

mod delivery;

#[path = "../../../server/tests/databases/postgres.rs"]
#[allow(dead_code, reason = "shared with the tests of the server")]
mod database;
#[path = "../larder/process.rs"]
mod process;
#[path = "../../../server/tests/support/mod.rs"]
#[allow(dead_code, unused_imports, reason = "shared with the tests of the server")]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use larder_testkit::PostgresCluster;
use larder_wire::{DeviceOutcome, GroupCreated, InboxKind, KeyPackageRef, KeyPackageState, Reserved};
use serde::Serialize;
use tokio::sync::{Barrier, Notify};
use tokio::task::JoinSet;

use database::Database;
use process::alone;
use support::{Device, Http, count, id_of, reserved_refs};

/// The program under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_larder");
const ADDERS: usize = 64;
const POOL: usize = 48;

/// `larder serve` on the database.
struct Node {
    process: Child,
    address: String,
}

impl Node {
    fn start(database: &Database) -> Self {
        let arguments = ["serve", "--listen", "127.0.0.1:0"];
        let mut process = alone(PROGRAM, &arguments, &std::env::temp_dir())
            .env("LARDER_STORE", database.url())
            .env("RUST_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the server starts");
        let mut ready = String::new();
        BufReader::new(process.stdout.take().expect("its output"))
            .read_line(&mut ready)
            .expect("it says where it listens");
        let address = ready
            .trim()
            .strip_prefix("listening on http://")
            .unwrap_or_else(|| panic!("{ready}"))
            .to_owned();
        Self { process, address }
    }

    /// kill -9.
    fn kill(&mut self) {
        self.process.kill().expect("the process is killed");
        self.process.wait().expect("it has ended");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Sends a request as a client does: to the first node that it knows; to the next, with the same idempotency key, when
/// it gets no answer or the server cannot tell what came of it.
async fn persist(nodes: &[Http], path: &str, key: &str, body: &impl Serialize) -> (u16, Vec<u8>) {
    for http in nodes.iter().cycle().take(20) {
        let request = http
            .request(reqwest::Method::POST, path)
            .header("Idempotency-Key", key)
            .json(body);
        let Ok(response) = request.send().await else {
            continue;
        };
        let status = response.status().as_u16();
        if let Ok(bytes) = response.bytes().await
            && status != 503
        {
            return (status, bytes.to_vec());
        }
    }
    panic!("{path} is never answered");
}

fn parsed<T: serde::de::DeserializeOwned>((status, body): &(u16, Vec<u8>)) -> T {
    assert!(
        matches!(status, 200 | 201),
        "{status} {}",
        String::from_utf8_lossy(body)
    );
    serde_json::from_slice(body).unwrap()
}

/// A registered device with a session.
async fn enrol(http: &Http, user: &str) -> Device {
    let mut device = Device::new(http, user);
    device.register().await.ok::<larder_wire::Registered>();
    device.open_session().await;
    device
}

/// What one adder was told.
struct Told {
    outcome: DeviceOutcome,
    refs: Vec<KeyPackageRef>,
    bytes: Vec<Vec<u8>>,
    /// The refs that its Commit added, once it was accepted.
    added: Vec<KeyPackageRef>,
}

/// Reserves, creates a group and commits the Add, through the nodes in this order.
async fn add(adder: &Device, bob: &Device, nodes: &[Http], answered: &Progress) -> Told {
    let nodes: Vec<Http> = nodes
        .iter()
        .map(|http| http.with_token(adder.http.token.as_ref().unwrap()))
        .collect();
    let mut group = adder.new_group();
    let gid = id_of(&group);
    let request = adder.reserve_request(&[bob], &gid);
    let reserved: Reserved = parsed(&persist(&nodes, "/v1/key-packages/reserve", "reserve", &request).await);
    answered.step();
    let device = &reserved.users[0].devices[0];
    let mut told = Told {
        outcome: device.outcome,
        refs: reserved_refs(&reserved),
        bytes: device.key_package.iter().map(|bytes| bytes.0.clone()).collect(),
        added: Vec::new(),
    };
    if told.refs.is_empty() {
        return told;
    }
    let create = adder.create_group_request(&group);
    let _: GroupCreated = parsed(&persist(&nodes, "/v1/groups", "create", &create).await);
    answered.step();
    let key_packages = told.bytes.iter().map(|bytes| adder.validate(bytes)).collect();
    let commit = adder.stage_adds(&mut group, key_packages);
    let path = format!("/v1/groups/{gid}/commits");
    let _: larder_wire::Accepted = parsed(&persist(&nodes, &path, "commit", &commit).await);
    answered.step();
    // The same Commit again is answered the same, and by any node.
    let again = persist(&nodes[1..], &path, "commit", &commit).await;
    let _: larder_wire::Accepted = parsed(&again);
    told.added.clone_from(&told.refs);
    told
}

/// Counts answers, and tells when there were enough.
struct Progress {
    answers: AtomicUsize,
    enough: usize,
    reached: Notify,
}

impl Progress {
    fn step(&self) {
        if self.answers.fetch_add(1, Ordering::SeqCst) + 1 == self.enough {
            self.reached.notify_one();
        }
    }
}

/// S1, S2, S5: no KeyPackage is given or committed twice, nobody is told that none is left while one is, and nothing
/// that was answered is lost, when one of two processes is killed in the middle.
async fn kill_one_of_two_after(enough: usize) {
    let database = Database::create().await;
    let (mut killed, kept) = (Node::start(&database), Node::start(&database));
    let (at_killed, at_kept) = (Http::new(&killed.address), Http::new(&kept.address));
    let bob = Arc::new(enrol(&at_kept, "bob").await);
    bob.stock(POOL).await;
    let start = Arc::new(Barrier::new(ADDERS));
    let progress = Arc::new(Progress {
        answers: AtomicUsize::new(0),
        enough,
        reached: Notify::new(),
    });
    let mut adders = JoinSet::new();
    for number in 0..ADDERS {
        let adder = enrol(&at_kept, &format!("adder{number}")).await;
        let (bob, start, progress) = (Arc::clone(&bob), Arc::clone(&start), Arc::clone(&progress));
        let nodes = if number % 2 == 0 {
            [at_killed.clone(), at_kept.clone()]
        } else {
            [at_kept.clone(), at_kept.clone()]
        };
        adders.spawn(async move {
            start.wait().await;
            add(&adder, &bob, &nodes, &progress).await
        });
    }
    progress.reached.notified().await;
    killed.kill();
    let told = adders.join_all().await;

    let outcomes = |outcome| told.iter().filter(|told| told.outcome == outcome).count();
    assert_eq!(
        (outcomes(DeviceOutcome::Ok), outcomes(DeviceOutcome::Exhausted)),
        (POOL, ADDERS - POOL),
        "nobody was told that none is left while one was"
    );
    let mut given = BTreeMap::new();
    for (key_package_ref, bytes) in told.iter().flat_map(|told| told.refs.iter().zip(&told.bytes)) {
        let twice = given.insert(key_package_ref.clone(), bytes.clone());
        assert!(twice.is_none(), "given twice");
    }
    assert_eq!(given.values().collect::<BTreeSet<_>>().len(), POOL);
    let inventory = bob.inventory().await;
    assert_eq!(
        count(&inventory, KeyPackageState::Spent),
        told.iter().flat_map(|told| &told.added).count(),
        "every accepted Commit spent what it added"
    );
    assert_eq!(count(&inventory, KeyPackageState::Spent), POOL);
    for (what, expected) in [
        ("SELECT count(*) FROM audit WHERE transition = 'reserve'", POOL),
        (
            "SELECT count(DISTINCT ref) FROM audit WHERE transition = 'commit'",
            POOL,
        ),
        ("SELECT count(*) FROM audit WHERE transition = 'commit'", POOL),
        ("SELECT count(*) FROM log WHERE kind = 0", POOL),
        ("SELECT count(*) FROM bodies WHERE part = 1", POOL),
        (
            "SELECT count(*) FROM audit a JOIN devices d ON d.id = a.device_id AND d.audit_seq < a.seq",
            0,
        ),
    ] {
        assert_eq!(database.count(what).await, expected, "{what}");
    }
    // S9: bob's inbox has every Welcome.
    let rows = bob.inbox().await;
    let welcomes = rows.iter().filter(|row| row.kind == InboxKind::Welcome);
    assert_eq!(welcomes.count(), POOL);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_adders_lose_nothing_when_a_node_is_killed_at_their_first_answer() {
    kill_one_of_two_after(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_adders_lose_nothing_when_a_node_is_killed_while_they_reserve() {
    kill_one_of_two_after(ADDERS / 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_adders_lose_nothing_when_a_node_is_killed_while_they_commit() {
    kill_one_of_two_after(ADDERS + POOL + POOL / 4).await;
}

/// The password of a store is in no line that the server writes.
#[tokio::test]
async fn a_store_that_cannot_be_opened_is_named_without_its_password() {
    const SECRET: &str = "correct-horse-battery";
    for url in [
        format!("postgres://larder:{SECRET}@127.0.0.1:1/larder"),
        format!("postgres://larder:{SECRET}@127.0.0.1:no-port/larder"),
        format!("postgres://larder:{SECRET}@/nowhere?no_such_option={SECRET}"),
    ] {
        let serve = ["serve", "--listen", "127.0.0.1:0", "--postgres-wait-seconds", "0"];
        for (command, json) in [(&serve[..], false), (&serve, true), (&["bench", "groups"], true)] {
            let mut command = alone(PROGRAM, command, &std::env::temp_dir());
            command
                .stdin(Stdio::null())
                .env("RUST_LOG", "trace")
                .args(["--store", &url])
                .args(json.then_some("--json"));
            let output = command.output().unwrap();
            assert!(!output.status.success());
            let written = [output.stdout, output.stderr].concat();
            let written = String::from_utf8_lossy(&written);
            assert!(!written.contains(SECRET), "{written}");
            assert!(written.len() > 20, "it says why: {written}");
        }
    }
}

/// `larder serve` on a cluster, with its two outputs.
struct Starting {
    process: Child,
    told: BufReader<ChildStdout>,
    warned: BufReader<ChildStderr>,
}

impl Starting {
    fn on(url: &str, arguments: &[&str]) -> Self {
        let serve = [&["serve", "--listen", "127.0.0.1:0"], arguments].concat();
        let mut process = alone(PROGRAM, &serve, &std::env::temp_dir())
            .env("LARDER_STORE", url)
            .env("RUST_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the server starts");
        Self {
            told: BufReader::new(process.stdout.take().expect("its output")),
            warned: BufReader::new(process.stderr.take().expect("its warnings")),
            process,
        }
    }

    /// The rest of its warnings, and its exit code, once it has ended.
    fn ended(mut self) -> (Option<i32>, String) {
        let mut warnings = String::new();
        self.warned.read_to_string(&mut warnings).unwrap();
        (self.process.wait().unwrap().code(), warnings)
    }

    /// Asks it to end.
    fn interrupt(&self) {
        let killed = Command::new("kill").arg(self.process.id().to_string()).status();
        assert!(killed.unwrap().success());
    }
}

#[test]
fn a_database_that_comes_up_late_is_waited_for() {
    let cluster = PostgresCluster::create(None);
    // This machine by a name that does not say so.
    let url = format!("postgres://larder@127.1:{}/postgres", cluster.port());
    let mut node = Starting::on(&url, &[]);
    let mut line = String::new();
    node.warned.read_line(&mut line).unwrap();
    assert!(line.contains("waiting for PostgreSQL"), "{line}");
    cluster.start();
    line.clear();
    node.told.read_line(&mut line).unwrap();
    assert!(line.starts_with("listening on "), "{line}");
    node.interrupt();
    let (code, warnings) = node.ended();
    assert_eq!(code, Some(0));
    // It has made several connections.
    let told = warnings
        .matches("the connection to PostgreSQL is not encrypted")
        .count();
    assert_eq!(told, 1, "{warnings}");
    assert!(!warnings.contains("waiting"), "{warnings}");
}

#[test]
fn a_server_that_waits_for_its_database_ends_when_it_is_told_to() {
    let cluster = PostgresCluster::create(None);
    let url = format!("postgres://larder@127.0.0.1:{}/postgres", cluster.port());
    let mut node = Starting::on(&url, &[]);
    let mut line = String::new();
    node.warned.read_line(&mut line).unwrap();
    node.interrupt();
    assert_eq!(node.ended().0, Some(0));
}

#[test]
fn what_keeps_a_database_from_being_opened_has_a_code() {
    let cluster = PostgresCluster::create(None);
    let url = |query: &str| format!("postgres://larder@127.0.0.1:{}/{query}", cluster.port());
    let failure = |command: &[&str], url: &str| {
        let output = alone(PROGRAM, command, &std::env::temp_dir())
            .args(["--json", "--store", url])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let printed = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        let failure = printed
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            .find_map(|record| Some(record["error"]["code"].as_str()?.to_owned()));
        (
            output.status.code(),
            failure.unwrap_or_else(|| panic!("{printed}")),
        )
    };
    let serve = ["serve", "--listen", "127.0.0.1:0", "--postgres-wait-seconds", "1"];
    for command in [&serve[..], &["admin", "invitations"], &["admin", "check"]] {
        let unreachable = (Some(4), "database-unreachable".to_owned());
        assert_eq!(failure(command, &url("postgres")), unreachable);
    }
    cluster.start();
    for (query, code) in [
        ("postgres?sslmode=require", "database-tls"),
        ("absent", "database-login"),
    ] {
        // It would wait for a minute.
        for command in [&serve[..3], &["admin", "invitations"]] {
            assert_eq!(failure(command, &url(query)), (Some(3), code.to_owned()));
        }
    }
}

#[tokio::test]
async fn what_is_measured_is_in_a_schema_that_is_gone_then() {
    let database = Database::create().await;
    let (server, _) = database.url().split_once('?').unwrap();
    let rows_of_groups = if cfg!(target_os = "linux") { 10 } else { 6 };
    for (bench, expected) in [("groups", rows_of_groups), ("server", 8)] {
        let output = alone(
            PROGRAM,
            &["bench", bench, "--quick", "--json"],
            &std::env::temp_dir(),
        )
        .env("LARDER_BENCH_STORE", server)
        .stdin(Stdio::null())
        .output()
        .unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{printed}");
        let rows: Vec<serde_json::Value> = printed
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(rows.len(), expected, "{printed}");
        for row in &rows {
            assert_eq!(row["engine"], "postgresql", "{row}");
            assert!(row["larder"].as_f64().is_some_and(|figure| figure > 0.0), "{row}");
            assert!(row["limit"].as_f64().is_some_and(|figure| figure > 0.0), "{row}");
        }
    }
    let left = "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'larder_bench_%'";
    assert_eq!(database.count(left).await, 0);
}
