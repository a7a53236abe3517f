//! A clock that is set to another time ends nothing by it.

use std::sync::Arc;

use larder_lifecycle::UnixSeconds;
use larder_server::Admin;
use larder_wire::{BlobStored, InboxKind, Registered};
use reqwest::Method;

use crate::support::{Answer, Device, KeyPackageSpec, TestServer};

const HOUR: i64 = 60 * 60;
const DAY: i64 = 24 * HOUR;
/// As far back as a clock goes.
const TO_1970: i64 = i64::MIN;
const STEPS: [i64; 6] = [40 * DAY, -40 * DAY, 700 * DAY, -700 * DAY, 95 * DAY, TO_1970];

/// Messages that are kept for those who have not come for them.
const WAITING: &str = "SELECT count(*) FROM log WHERE kind = 2 AND gone IS NULL";

/// What is stored, as far as a sweep could take it: so many rows of each table, and of KeyPackages so many in each state.
async fn stored(server: &TestServer) -> Vec<(String, usize)> {
    let mut stored = Vec::new();
    for table in [
        "groups",
        "log WHERE gone IS NULL",
        "bodies",
        "members",
        "mail",
        "key_package_bytes",
        "reservations WHERE state = 0",
        "invitations",
        "blobs WHERE expires_at > 0",
        "blob_parts",
        "idempotent_answers",
        "sessions",
        "introductions",
        "vouchers",
        "pair_rates",
    ] {
        stored.push((table.to_owned(), server.database.count(&count_of(table)).await));
    }
    for status in 0..8 {
        let table = format!("key_packages WHERE status = {status}");
        stored.push((table.clone(), server.database.count(&count_of(&table)).await));
    }
    stored
}

fn count_of(table: &str) -> String {
    format!("SELECT count(*) FROM {table}")
}

/// What `/readyz` says of the clock.
async fn is_suspended(server: &TestServer) -> bool {
    let answer = server.http.get("/readyz").await;
    assert_eq!(answer.status, 200, "requests are answered all the same");
    match String::from_utf8(answer.body).unwrap().as_str() {
        "ok\n" => false,
        text if text.starts_with("ok\nclock: suspended, ") => true,
        text => panic!("{text}"),
    }
}

async fn accept(server: &TestServer, time: u64) {
    let admin = Admin::open_in_use(&server.database.location()).await.unwrap();
    admin.accept_clock(UnixSeconds(time)).await.unwrap();
    server.sweep().await;
}

/// Everything that ends with age: a Welcome and a message that wait, KeyPackages in every state, a reservation on a
/// single-use one and on a last resort, a code, a blob.
struct Scene {
    alice: Device,
    bob: Device,
    carol: Device,
    group: openmls::prelude::MlsGroup,
    staged: larder_wire::CommitRequest,
    blob: BlobStored,
}

impl Scene {
    async fn new(server: &TestServer) -> Self {
        let alice = server.device("alice").await;
        let bob = server.device_with_key_packages("bob", 3).await;
        let carol = server.device_with_key_packages("carol", 1).await;
        let dave = server.device("dave").await;
        dave.stock_last_resort().await;
        let refs = bob.inventory().await.items;
        bob.revoke(&[refs[2].key_package_ref.clone()]).await;
        let (mut group, gid) = alice.create_group().await;
        alice.invite(&mut group, &[&bob]).await;
        alice.send(&mut group, "one").await;
        let (key_packages, _) = alice.take(&[&carol], &gid).await;
        alice.reserve(&[&dave], &gid).await;
        let staged = alice.stage_adds(&mut group, key_packages);
        let admin = Admin::open_in_use(&server.database.location()).await.unwrap();
        let now = UnixSeconds(server.time());
        admin.invite(1, now, now.plus(7 * 86_400)).await.unwrap();
        let request = alice.http.request(Method::POST, "/v1/blobs");
        let request = request.header("Idempotency-Key", "blob").body(vec![7; 9]);
        let request = request.header("Content-Type", "application/octet-stream");
        let blob = Answer::to(request).await.ok();
        server.sweep().await;
        Self {
            alice,
            bob,
            carol,
            group,
            staged,
            blob,
        }
    }

    /// All of it is still of use.
    async fn finish(mut self, texts: &[&str]) {
        let blob = format!("/v1/blobs/{}", self.blob.blob_id);
        assert_eq!(self.bob.http.get(&blob).await.body, [7; 9]);
        let mut joined = self.bob.join().await;
        assert_eq!(self.bob.catch_up(&mut joined).await, texts);
        self.alice.commit(&mut self.group, &self.staged).await;
        self.carol.join().await;
    }
}

#[tokio::test]
async fn a_step_and_the_way_back_lose_nothing() {
    let server = TestServer::unswept().await;
    let scene = Scene::new(&server).await;
    let before = stored(&server).await;
    for step in STEPS {
        server.set_clock(step);
        server.sweep().await;
        assert!(is_suspended(&server).await, "{step}");
        assert_eq!(stored(&server).await, before, "{step}");
        server.pass(30);
        server.sweep().await;
        server.set_clock(0);
        server.sweep().await;
        assert!(!is_suspended(&server).await, "{step}");
        assert_eq!(stored(&server).await, before, "{step}");
    }
    scene.finish(&["one"]).await;
}

#[tokio::test]
async fn requests_go_on_while_the_clock_is_wrong() {
    for step in STEPS {
        let server = TestServer::unswept().await;
        let mut scene = Scene::new(&server).await;
        server.set_clock(step);
        // Sessions, old and new ones, are as long as ever.
        let mut erin = Device::new(&server.http, "erin");
        erin.register().await.ok::<Registered>();
        erin.open_session().await;
        let lifetime = Some((-3600, 60 * DAY));
        erin.upload(&[erin.mint(KeyPackageSpec {
            lifetime,
            ..Default::default()
        })])
        .await;
        let served = scene.alice.take(&[&erin, &scene.bob], &group_id(b"other")).await;
        assert_eq!(served.1.len(), 2, "{step}");
        scene.alice.clear(&mut scene.group);
        scene.alice.send(&mut scene.group, "two").await;
        let far = server.time() + 2 * 86_400;
        let past = server.time() - 2 * 86_400;
        for column in [
            "mail WHERE received_at",
            "log WHERE accepted_at",
            "sessions WHERE expires_at",
            "idempotent_answers WHERE created_at",
            "pair_rates WHERE forgotten_at",
        ] {
            let astray = format!("SELECT count(*) FROM {column} NOT BETWEEN {past} AND {far}");
            assert_eq!(server.database.count(&astray).await, 0, "{step} {column}");
        }
        server.set_clock(0);
        server.sweep().await;
        erin.inbox().await;
        let mut joined = scene.bob.join().await;
        assert_eq!(scene.bob.catch_up(&mut joined).await, ["one", "two"]);
        server.pass(2 * 3600);
        let late = erin.http.get("/v1/groups").await;
        late.refused(larder_wire::ProblemType::Unauthenticated);
    }
}

fn group_id(id: &[u8]) -> larder_wire::GroupId {
    larder_wire::GroupId::from_bytes(id).unwrap()
}

#[tokio::test]
async fn answers_are_dated_by_the_time_that_the_server_goes_by() {
    let server = TestServer::unswept().await;
    for step in [0, 700 * DAY, TO_1970] {
        server.set_clock(step);
        let request = server.http.request(Method::GET, "/healthz");
        let answer = request.send().await.unwrap();
        let date = answer.headers()["date"].to_str().unwrap();
        let seconds = httpdate::parse_http_date(date)
            .unwrap()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_secs();
        assert!(server.time().abs_diff(seconds) <= 5, "{step} {date}");
    }
}

#[tokio::test]
async fn a_steady_clock_ends_what_is_old_also_after_a_step() {
    let server = TestServer::unswept().await;
    let scene = Scene::new(&server).await;
    server.set_clock(40 * DAY);
    server.sweep().await;
    server.set_clock(0);
    server.pass(31 * 86_400);
    server.sweep().await;
    assert!(!is_suspended(&server).await);
    assert_eq!(server.database.count(WAITING).await, 0);
    assert_eq!(server.database.count("SELECT count(*) FROM sessions").await, 0);
    drop(scene);
}

#[tokio::test]
async fn a_small_step_is_accepted_after_a_steady_day() {
    for (step, accepted) in [(3 * DAY, true), (-3 * DAY, true), (3 * DAY + HOUR, false)] {
        let server = TestServer::unswept().await;
        let scene = Scene::new(&server).await;
        server.set_clock(step);
        server.sweep().await;
        server.pass(86_400 - 600);
        server.sweep().await;
        assert!(is_suspended(&server).await, "{step}");
        server.pass(600);
        server.sweep().await;
        assert_eq!(is_suspended(&server).await, !accepted, "{step}");
        assert_eq!(server.database.count(WAITING).await, 1, "{step}");
        drop(scene);
    }
}

#[tokio::test]
async fn the_operator_accepts_a_clock_and_nothing_is_old_by_that() {
    for step in [700 * DAY, -700 * DAY] {
        let server = TestServer::unswept().await;
        let mut scene = Scene::new(&server).await;
        server.set_clock(step);
        server.sweep().await;
        assert!(is_suspended(&server).await);
        accept(&server, server.time().saturating_add_signed(step)).await;
        assert!(!is_suspended(&server).await, "{step}");
        server.sweep().await;
        scene.bob.open_session().await;
        assert_eq!(scene.bob.rows(InboxKind::Message).await.len(), 1, "{step}");
        let blob = format!("/v1/blobs/{}", scene.blob.blob_id);
        assert_eq!(scene.bob.http.get(&blob).await.body, [7; 9], "{step}");
        // The other way, as if the first had been a mistake.
        server.set_clock(0);
        server.sweep().await;
        assert!(is_suspended(&server).await, "{step}");
        accept(&server, server.time()).await;
        scene.alice.open_session().await;
        scene.bob.open_session().await;
        assert_eq!(scene.bob.rows(InboxKind::Message).await.len(), 1, "{step}");
        let far = server.time() + 3 * 3600;
        for column in ["log WHERE accepted_at", "sessions WHERE expires_at"] {
            let astray = format!("SELECT count(*) FROM {column} > {far}");
            assert_eq!(server.database.count(&astray).await, 0, "{step} {column}");
        }
        server.pass(31 * 86_400);
        server.sweep().await;
        assert_eq!(server.database.count(WAITING).await, 0);
    }
}

#[tokio::test]
async fn an_operator_with_another_clock_accepts_nothing_for_the_server() {
    let server = TestServer::unswept().await;
    let scene = Scene::new(&server).await;
    let before = stored(&server).await;
    server.set_clock(700 * DAY);
    server.sweep().await;
    accept(&server, server.time() + 40 * 86_400).await;
    assert!(is_suspended(&server).await);
    assert_eq!(stored(&server).await, before);
    drop(scene);
}

#[tokio::test]
async fn a_start_with_a_wrong_clock_loses_nothing() {
    for step in STEPS {
        let mut first = TestServer::unswept().await;
        let mut scene = Scene::new(&first).await;
        let before = stored(&first).await;
        first.stop().await;
        let server = TestServer::start_with_clock(Arc::clone(&first.database), |_| {}, false, step).await;
        server.sweep().await;
        assert!(is_suspended(&server).await, "{step}");
        assert_eq!(stored(&server).await, before, "{step}");
        server.set_clock(0);
        server.sweep().await;
        assert!(!is_suspended(&server).await, "{step}");
        assert_eq!(stored(&server).await, before, "{step}");
        for device in [&mut scene.alice, &mut scene.bob, &mut scene.carol] {
            device.http = server.http.with_token(device.http.token.as_ref().unwrap());
        }
        scene.finish(&["one"]).await;
    }
}

#[tokio::test]
async fn a_start_with_a_small_error_is_accepted_after_a_steady_day() {
    let first = TestServer::unswept().await;
    let scene = Scene::new(&first).await;
    let database = Arc::clone(&first.database);
    let server = TestServer::start_with_clock(database, |_| {}, false, -2 * DAY).await;
    server.sweep().await;
    assert!(is_suspended(&server).await);
    server.pass(86_400);
    server.sweep().await;
    assert!(!is_suspended(&server).await);
    let swept = format!(
        "SELECT count(*) FROM clock WHERE last_sweep < {}",
        first.time() - 3600
    );
    assert_eq!(server.database.count(&swept).await, 1);
    drop(scene);
}
