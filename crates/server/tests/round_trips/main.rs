//! How often a request waits for PostgreSQL, and how many statements it writes with, however much it concerns. In a program of
//! its own, whose every wait is counted.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]
#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    reason = "the support is that of the API's tests"
)]

#[path = "../databases/postgres.rs"]
mod database;
#[path = "../support/mod.rs"]
mod support;

use std::future::pending;

use larder_server::Metrics;
use larder_wire::{Accepted, GroupId, MESSAGES_MAX, MessagesSent, Sent};
use openmls::prelude::MlsGroup;
use tokio::net::TcpListener;

use support::{Device, KeyPackageSpec, TestServer};

/// A transaction of its own stores the ratchet tree that the Welcome of a Commit needs, with as many waits and one statement.
const BEHIND_A_COMMIT: Cost = Cost {
    waits: 2,
    statements: 1,
};

/// The tables that a request writes many rows of.
const WRITTEN: [&str; 9] = [
    "log",
    "bodies",
    "members",
    "key_packages",
    "key_package_bytes",
    "reservations",
    "audit",
    "devices",
    "pair_rates",
];

/// What something has cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cost {
    /// How often anything has waited for PostgreSQL.
    waits: u64,
    /// How many statements have written to the tables of [`WRITTEN`].
    statements: u64,
}

impl std::ops::Sub for Cost {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            waits: self.waits - before.waits,
            statements: self.statements - before.statements,
        }
    }
}

/// Counts statements that write, whatever comes of their transactions.
async fn count_statements(server: &TestServer) {
    let mut sql = "CREATE SEQUENCE statements;
         CREATE FUNCTION count_statement() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN PERFORM nextval('statements'); RETURN NULL; END $$;"
        .to_owned();
    for table in WRITTEN {
        sql += &format!(
            "CREATE TRIGGER count_statement AFTER INSERT OR UPDATE OR DELETE ON {table}
             FOR EACH STATEMENT EXECUTE FUNCTION count_statement();"
        );
    }
    let client = server.database.connect().await;
    client.batch_execute(&sql).await.unwrap();
}

/// The counts of this process.
struct Counts {
    client: reqwest::Client,
    url: String,
}

impl Counts {
    async fn start() -> Self {
        let metrics = Metrics::install().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/metrics", listener.local_addr().unwrap());
        tokio::spawn(metrics.serve(listener, pending()));
        // The client demands a TLS provider.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { client, url }
    }

    /// What everything has cost so far, of the statements those on this server.
    async fn cost(&self, server: &TestServer) -> Cost {
        let statements = "SELECT last_value - 1 + is_called::int FROM statements";
        Cost {
            waits: self.waits().await,
            statements: server.database.count(statements).await as u64,
        }
    }

    /// The same before a request of this device, whose session was found just now: what a server knows of one is read again
    /// after a second, which would count with the request.
    async fn cost_before(&self, device: &Device, server: &TestServer) -> Cost {
        device.inventory().await;
        self.cost(server).await
    }

    async fn waits(&self) -> u64 {
        let text = self
            .client
            .get(&self.url)
            .send()
            .await
            .unwrap()
            .text()
            .await
            .unwrap();
        let count = text
            .lines()
            .find_map(|line| line.strip_prefix("larder_postgres_round_trips_total "));
        count.map_or(0, |count| count.parse().unwrap())
    }
}

/// A group of Alice and so many others.
struct Scene {
    server: TestServer,
    alice: Device,
    group: MlsGroup,
    gid: GroupId,
}

impl Scene {
    async fn new(others: usize) -> Self {
        let server = TestServer::start_with(|config| config.drain = support::generous(), false).await;
        count_statements(&server).await;
        let alice = server.device("alice").await;
        let (mut group, gid) = alice.create_group().await;
        let others = Self::devices(&server, "member", others).await;
        alice.invite(&mut group, &others.iter().collect::<Vec<_>>()).await;
        let mut scene = Self {
            server,
            alice,
            group,
            gid,
        };
        scene.trees_are_stored(1).await;
        scene
    }

    async fn devices(server: &TestServer, prefix: &str, count: usize) -> Vec<Device> {
        let mut devices = Vec::new();
        for number in 0..count {
            devices.push(
                server
                    .device_with_key_packages(&format!("{prefix}{number}"), 1)
                    .await,
            );
        }
        devices
    }

    /// Waits until the ratchet trees of so many Welcomes are stored.
    async fn trees_are_stored(&mut self, count: usize) {
        while self
            .server
            .database
            .count("SELECT count(*) FROM bodies WHERE part = 2")
            .await
            < count
        {
            tokio::task::yield_now().await;
        }
    }

    async fn message(&mut self, counts: &Counts) -> Cost {
        let message = self.alice.encrypt(&mut self.group, "hello");
        let before = counts.cost_before(&self.alice, &self.server).await;
        self.alice.post_message(&self.gid, &message).await.ok::<Sent>();
        counts.cost(&self.server).await - before
    }

    async fn messages(&mut self, counts: &Counts) -> Cost {
        let messages: Vec<_> = (0..MESSAGES_MAX)
            .map(|number| self.alice.encrypt(&mut self.group, &format!("message {number}")))
            .collect();
        let before = counts.cost_before(&self.alice, &self.server).await;
        let answer = self.alice.post_messages(&self.gid, &messages).await;
        assert_eq!(answer.ok::<MessagesSent>().results.len(), MESSAGES_MAX);
        counts.cost(&self.server).await - before
    }

    /// What a Commit costs that adds so many, and is the `number`th of the group.
    async fn commit(&mut self, adding: usize, number: usize, counts: &Counts) -> Cost {
        let added = Self::devices(&self.server, &format!("newcomer{number}-"), adding).await;
        let (key_packages, _) = self
            .alice
            .take(&added.iter().collect::<Vec<_>>(), &self.gid)
            .await;
        let request = self.alice.stage_adds(&mut self.group, key_packages);
        let before = counts.cost_before(&self.alice, &self.server).await;
        self.alice.post_commit(&self.gid, &request).await.ok::<Accepted>();
        self.trees_are_stored(number).await;
        let after = counts.cost(&self.server).await;
        self.alice.merge(&mut self.group);
        after - before - BEHIND_A_COMMIT
    }
}

#[tokio::test]
async fn requests_wait_as_often_whatever_they_concern() {
    let counts = Counts::start().await;
    let mut measured = Vec::new();
    for others in [2, 40] {
        let mut scene = Scene::new(others).await;
        let message = scene.message(&counts).await;
        assert_eq!(scene.messages(&counts).await, message, "of many in one request");
        let adding_one = scene.commit(1, 2, &counts).await;
        let adding_twelve = scene.commit(12, 3, &counts).await;
        measured.push((message, adding_one, adding_twelve));
    }
    assert_eq!(measured[0], measured[1]);
    let (message, adding_one, adding_twelve) = measured[0];
    assert!(message.waits <= 2 && message.statements <= 3, "{message:?}");
    assert!(
        adding_one.waits <= 7 && adding_one.statements <= 10,
        "{adding_one:?}"
    );
    assert_eq!(adding_one, adding_twelve);
    the_directory_waits_as_often_however_many_it_concerns(&counts).await;
}

/// In the same test: every wait of this process is counted.
async fn the_directory_waits_as_often_however_many_it_concerns(counts: &Counts) {
    let server = TestServer::start_with(|config| config.drain = support::generous(), false).await;
    count_statements(&server).await;
    let alice = server.device("alice").await;
    let group = GroupId::from_bytes(b"a group of alice").unwrap();
    let mut measured = Vec::new();
    for (number, size) in [(0, 1), (1, 12)] {
        let targets = Scene::devices(&server, &format!("target{number}-"), size).await;
        let pools: Vec<_> = (0..32).map(|_| alice.mint(KeyPackageSpec::default())).collect();
        let before = counts.cost_before(&alice, &server).await;
        alice.upload(&pools[..if size == 1 { 1 } else { 32 }]).await;
        let uploaded = counts.cost(&server).await - before;
        let before = counts.cost_before(&alice, &server).await;
        let reserved = alice.reserve(&targets.iter().collect::<Vec<_>>(), &group).await;
        assert_eq!(reserved.users.len(), size);
        measured.push((uploaded, counts.cost(&server).await - before));
    }
    assert_eq!(measured[0], measured[1]);
    let (upload, reserve) = measured[0];
    assert!(upload.waits <= 7 && upload.statements <= 5, "{upload:?}");
    assert!(reserve.waits <= 5 && reserve.statements <= 7, "{reserve:?}");
}
