//! Clocks that are wrong: this computer's, the server's, and both.

use crate::support::{self, Client, Proxy, TestServer, user};
use larder_client::{Error, Invited, MessageKind, Probe};

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

async fn stock(client: &Client) -> u32 {
    client.pool_health().await.unwrap().available
}

async fn invited(adder: &Client, name: &str) -> Invited {
    let group = adder.create_group("lunch").await.unwrap().id;
    adder.invite(&group, &[user(name)]).await.unwrap()
}

fn notices(told: &[larder_client::Message]) -> Vec<&str> {
    let notices = told.iter().filter(|message| message.kind == MessageKind::Notice);
    notices
        .map(|message| message.text.as_str())
        .filter(|text| text.contains("clock"))
        .collect()
}

#[tokio::test]
async fn a_clock_up_to_a_day_off_breaks_nothing() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    for (name, ahead) in [
        ("bob", 2 * HOUR),
        ("carol", -2 * HOUR),
        ("dave", 23 * HOUR),
        ("erin", -23 * HOUR),
    ] {
        let other = Client::register_with_clock(&server.url, name, ahead)
            .await
            .unwrap();
        assert_eq!(stock(&other).await, 32, "{name}");
        assert_eq!(invited(&alice, name).await.added, [user(name)], "{name}");
        assert_eq!(other.sync().await.unwrap().joined, 1, "{name}");
        assert!(
            matches!(other.probe(1).await.unwrap(), Probe::Addable { .. }),
            "{name}"
        );
        // And adds others.
        assert_eq!(invited(&other, "alice").await.added, [user("alice")], "{name}");
        alice.sync().await.unwrap();
    }
}

#[tokio::test]
async fn a_clock_that_is_off_is_told_once() {
    let server = TestServer::start().await;
    let bob = Client::register_with_clock(&server.url, "bob", 2 * HOUR)
        .await
        .unwrap();
    let said = bob.clocks();
    assert!(said.are_worth_a_word() && !said.are_too_far_apart());
    assert_eq!(said.to_string(), "this computer's clock is 2 h fast");
    for _ in 0..3 {
        bob.sync().await.unwrap();
        bob.refresh_key_packages().await.unwrap();
    }
    let told = bob.take_unread().await;
    assert_eq!(notices(&told).len(), 1, "{told:?}");
    assert!(notices(&told)[0].starts_with("this computer's clock is 2 h fast: it says "));

    bob.set_clock(0);
    bob.refresh_key_packages().await.unwrap();
    bob.refresh_key_packages().await.unwrap();
    assert!(!bob.clocks().are_worth_a_word());
    assert_eq!(notices(&bob.take_unread().await), Vec::<&str>::new());
}

#[tokio::test]
async fn a_clock_more_than_a_day_off_is_refused_at_the_door() {
    let server = TestServer::start().await;
    for ahead in [30 * HOUR, -30 * HOUR, 35 * DAY, -35 * DAY] {
        let refused = Client::register_with_clock(&server.url, "bob", ahead).await;
        let Err(Error::ClocksApart(clocks)) = refused.map(drop) else {
            panic!("registered with a clock {ahead} seconds ahead");
        };
        assert!(clocks.apart_seconds().abs_diff(ahead.unsigned_abs()) < 60);
        assert_eq!(clocks.here > clocks.there, ahead > 0);
    }
    // Nothing was stored, at the server neither.
    Client::register_with_clock(&server.url, "bob", 0).await.unwrap();
}

#[tokio::test]
async fn a_clock_that_goes_wrong_mints_erases_and_invites_nothing() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let bob = server.client("bob").await;
    let group = alice.create_group("lunch").await.unwrap().id;
    for ahead in [30 * HOUR, -30 * HOUR, 35 * DAY, -35 * DAY, 400 * DAY] {
        bob.set_clock(ahead);
        let refused = bob.refresh_key_packages().await;
        assert!(matches!(refused, Err(Error::ClocksApart(_))), "{refused:?}");
        alice.set_clock(ahead);
        let refused = alice.invite(&group, &[user("bob")]).await;
        assert!(matches!(refused, Err(Error::ClocksApart(_))), "{refused:?}");
        // Messages go on meanwhile.
        bob.sync().await.unwrap();
        alice.send(&group, "there?").await.unwrap();
        alice.set_clock(0);
        bob.set_clock(0);
    }
    bob.take_inventory().await.unwrap();
    assert_eq!(stock(&bob).await, 32);
    assert_eq!(
        alice.invite(&group, &[user("bob")]).await.unwrap().added,
        [user("bob")]
    );
    // An invitation that comes while the clock is wrong is opened.
    bob.set_clock(400 * DAY);
    assert_eq!(bob.sync().await.unwrap().joined, 1);
    bob.set_clock(0);
    bob.refresh_key_packages().await.unwrap();
    assert_eq!(stock(&bob).await, 32);
}

#[tokio::test]
async fn what_is_minted_lives_on_the_servers_time() {
    let server = TestServer::start().await;
    let bob = Client::register_with_clock(&server.url, "bob", 23 * HOUR)
        .await
        .unwrap();
    let now = i64::try_from(support::now().0).unwrap();
    for kind in [0, 1] {
        for (column, expected) in [("not_before", now - 25 * HOUR), ("not_after", now + 83 * DAY)] {
            for bound in ["min", "max"] {
                let sql =
                    format!("SELECT {bound}({column}) FROM keypackage_pool_metadata WHERE kind = {kind}");
                let found = support::count_rows(bob.directory.path(), &sql);
                assert!(
                    found.abs_diff(expected) < 60,
                    "{column} of kind {kind}: {found}, not {expected}"
                );
            }
        }
    }
}

#[tokio::test]
async fn an_adder_70_minutes_slow_accuses_nobody() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    server.client("bob").await;
    alice.set_clock(-70 * MINUTE);
    assert_eq!(invited(&alice, "bob").await.added, [user("bob")]);
    assert_eq!(
        alice.clocks().to_string(),
        "this computer's clock is 1 h 10 min slow"
    );
}

#[tokio::test]
async fn a_fast_clock_does_not_open_a_session_for_each_request() {
    let server = TestServer::start().await;
    let proxy = Proxy::start(&server.url);
    let bob = Client::register_with_clock(&proxy.url, "bob", 23 * HOUR)
        .await
        .unwrap();
    for _ in 0..5 {
        bob.sync().await.unwrap();
        bob.pass(3600 / 5);
    }
    assert_eq!(proxy.seen("POST", "/v1/sessions").len(), 1);
}

#[tokio::test]
async fn the_servers_clock_ahead_for_a_moment_costs_nothing_for_long() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let bob = server.client("bob").await;
    server.set_clock(95 * DAY).await;
    server.sweep().await;
    let refused = bob.refresh_key_packages().await;
    assert!(matches!(refused, Err(Error::ClocksApart(_))), "{refused:?}");
    server.set_clock(0).await;
    bob.refresh_key_packages().await.unwrap();
    assert_eq!(stock(&bob).await, 32);
    assert!(matches!(bob.probe(1).await.unwrap(), Probe::Addable { .. }));
    assert_eq!(invited(&alice, "bob").await.added, [user("bob")]);
    assert_eq!(bob.sync().await.unwrap().joined, 1);
}

#[tokio::test]
async fn a_pool_filled_by_clocks_that_were_ahead_is_replaced() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    server.set_clock(35 * DAY).await;
    let bob = Client::register_with_clock(&server.url, "bob", 35 * DAY)
        .await
        .unwrap();
    assert_eq!(stock(&bob).await, 32, "by both clocks");
    server.set_clock(0).await;
    bob.set_clock(0);
    // Before anything is mended, the count and the probe agree.
    assert!(!matches!(bob.probe(1).await.unwrap(), Probe::Addable { .. }));
    let health = bob.pool_health().await.unwrap();
    assert_eq!((health.available, health.not_yet_valid), (0, 32));
    assert!(health.last_resort.is_none());
    let refreshed = bob.refresh_key_packages().await.unwrap();
    assert_eq!((refreshed.uploaded, refreshed.revoked), (32, 32));
    assert!(refreshed.last_resort_replaced);
    assert!(matches!(bob.probe(1).await.unwrap(), Probe::Addable { .. }));
    assert_eq!(stock(&bob).await, 32);
    assert_eq!(invited(&alice, "bob").await.added, [user("bob")]);
}

#[tokio::test]
async fn waits_that_a_clock_ahead_noted_do_not_last() {
    let server = TestServer::start().await;
    let mut bob = server.client("bob").await;
    let checked = |client: &Client| {
        support::count_rows(client.directory.path(), "SELECT suites_checked_at FROM profile")
    };
    let right = checked(&bob);
    bob.stop().await;
    let database = rusqlite::Connection::open(bob.directory.path().join("larder.db")).unwrap();
    let sql = "UPDATE profile SET suites_checked_at = suites_checked_at + 3000000";
    database.execute(sql, []).unwrap();
    drop(database);
    bob.restart().await;
    bob.refresh_key_packages().await.unwrap();
    assert!(
        checked(&bob).abs_diff(right) < 60,
        "the server is asked for its suites"
    );
}
