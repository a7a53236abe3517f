//! Deployments that are run with other ciphersuites, with several, and that move from one to another.

use std::path::Path;

use crate::support::{Action, Client, Proxy, TestServer, count_rows, options, they_talk, user};
use larder_client::{Error, GroupState, MlsConnection, NotAdded, Probe, SuitePool};
use serde_json::{Value, json};

const HOUR: u64 = 3600;
const AES: u16 = 0x0001;
const CHACHA: u16 = 0x0003;
#[cfg(feature = "xwing")]
const XWING: u16 = 0x004F;

/// Every pool in short: its ciphersuite, its target (0 if it is not kept full), what is available, whether there is a last
/// resort.
async fn pools(client: &Client) -> Vec<(u16, u32, u32, bool)> {
    let pools = client.pools().await.unwrap();
    let short = |pool: SuitePool| {
        assert_eq!(pool.stocked, pool.target > 0);
        let SuitePool { health, .. } = pool;
        (
            pool.suite,
            pool.target,
            health.available,
            health.last_resort.is_some(),
        )
    };
    pools.into_iter().map(short).collect()
}

async fn spent(client: &Client, suite: u16) -> u32 {
    let pools = client.pools().await.unwrap();
    let pool = pools.iter().find(|pool| pool.suite == suite).unwrap();
    pool.health.spent
}

/// Live KeyPackages of every ciphersuite, without the last resorts.
fn live(client: &Client) -> i64 {
    let sql = "SELECT count(*) FROM keypackage_pool_metadata WHERE kind = 0 AND status <= 5";
    count_rows(client.directory.path(), sql)
}

/// As if the server had been asked for its ciphersuites an hour ago. The clock stays: the server's does.
fn an_hour_later(profile: &Path) {
    let database = rusqlite::Connection::open(profile.join("larder.db")).unwrap();
    let sql = "UPDATE profile SET suites_checked_at = suites_checked_at - 3600";
    assert_eq!(database.execute(sql, []).unwrap(), 1);
}

/// Moves a deployment from 0x0001 to another ciphersuite, first with both, then with the other one only.
async fn a_deployment_moves_to(new: u16) {
    let mut server = TestServer::start().await;
    let (alice, mut bob) = (server.client("alice").await, server.client("bob").await);
    let old_group = alice.group_with(&[&bob]).await;
    bob.refresh_key_packages().await.unwrap();
    assert_eq!(pools(&bob).await, [(AES, 32, 32, true)]);

    // Both.
    server.restart_with(&[new, AES]).await;
    for client in [&alice, &bob] {
        an_hour_later(client.directory.path());
        client.refresh_key_packages().await.unwrap();
    }
    assert_eq!(pools(&bob).await, [(new, 16, 16, true), (AES, 16, 32, true)]);
    assert_eq!(live(&bob), 48);
    let again = bob.refresh_key_packages().await.unwrap();
    assert_eq!((again.minted, again.uploaded), (0, 0), "X3");
    for suite in [new, AES] {
        let probed = bob.probe(suite).await.unwrap();
        assert!(
            matches!(
                probed,
                Probe::Addable {
                    last_resort: false,
                    ..
                }
            ),
            "{probed:?}"
        );
    }
    they_talk(&alice, &bob, &old_group).await;
    let new_group = alice.group_with(&[&bob]).await;
    they_talk(&bob, &alice, &new_group).await;
    assert_eq!((spent(&bob, new).await, spent(&bob, AES).await), (1, 1));
    let carol = server.client("carol").await;
    assert_eq!(pools(&carol).await, [(new, 16, 16, true), (AES, 16, 16, true)]);
    alice.invite(&old_group, &[user("carol")]).await.unwrap();
    they_talk(&alice, &carol, &old_group).await;
    assert_eq!(spent(&carol, AES).await, 1, "a group keeps its ciphersuite");

    // The new one only. What is there of the old one is used up.
    server.restart_with(&[new]).await;
    for client in [&alice, &bob, &carol] {
        an_hour_later(client.directory.path());
        client.refresh_key_packages().await.unwrap();
    }
    assert_eq!(pools(&bob).await, [(new, 32, 32, true), (AES, 0, 32, true)]);
    assert_eq!(live(&bob), 64, "S7: at the hard cap of all ciphersuites together");
    bob.restart().await;
    bob.refresh_key_packages().await.unwrap();
    assert_eq!(live(&bob), 64);
    they_talk(&carol, &bob, &carol.group_with(&[&bob]).await).await;
    alice.remove(&old_group, &user("bob")).await.unwrap();
    alice.invite(&old_group, &[user("bob")]).await.unwrap();
    they_talk(&alice, &bob, &old_group).await;
    assert_eq!(pools(&bob).await[1], (AES, 0, 31, true));

    // Who comes now has nothing for the old groups.
    let dave = server.client("dave").await;
    assert_eq!(pools(&dave).await, [(new, 32, 32, true)]);
    let refused = alice.invite(&old_group, &[user("dave")]).await.unwrap_err();
    let Error::NoKeyPackages { outcomes } = refused else {
        panic!("{refused}")
    };
    assert_eq!(outcomes, [(user("dave"), NotAdded::Incompatible { suite: AES })]);
    assert!(outcomes[0].1.to_string().contains("x25519-aes128gcm"));
    they_talk(&dave, &bob, &dave.group_with(&[&bob]).await).await;
    for client in [alice, bob, carol, dave] {
        client.stop_and_audit().await;
    }
}

#[tokio::test]
async fn a_deployment_moves_to_another_suite_while_its_groups_go_on() {
    a_deployment_moves_to(CHACHA).await;
}

#[tokio::test]
async fn c6_a_last_resort_of_a_suite_that_drains_is_replaced_once_it_was_used() {
    let mut server = TestServer::start().await;
    let bob = server.client_with_pool_of("bob", 2).await;
    let mut old_groups = Vec::new();
    let alice = server.client("alice").await;
    for _ in 0..3 {
        old_groups.push(alice.create_group("lunch").await.unwrap().id);
    }
    server.restart_with(&[CHACHA]).await;
    an_hour_later(bob.directory.path());
    bob.refresh_key_packages().await.unwrap();
    for (group, (left, by_last_resort)) in old_groups.iter().zip([(1, false), (0, false), (0, true)]) {
        let invited = alice.invite(group, &[user("bob")]).await.unwrap();
        assert_eq!(!invited.by_last_resort.is_empty(), by_last_resort);
        bob.sync().await.unwrap();
        assert_eq!(pools(&bob).await[1], (AES, 0, left, true), "nothing is minted");
    }
    let last_resort = bob.pools().await.unwrap()[1].health.last_resort.unwrap();
    assert!(!last_resort.used, "a new one");
    they_talk(&alice, &bob, &old_groups[2]).await;
    bob.pass(25 * HOUR);
    server.pass(25 * HOUR);
    bob.refresh_key_packages().await.unwrap();
    let kept = "SELECT count(*) FROM openmls_key_packages";
    assert_eq!(
        count_rows(bob.directory.path(), kept),
        2 + 1 + 1,
        "C6: the used one is gone"
    );
    let again = bob.refresh_key_packages().await.unwrap();
    assert!(!again.last_resort_replaced);
    bob.stop_and_audit().await;
}

/// A proxy of a server that says this of itself.
fn saying(server: &TestServer, change: fn(&mut Value)) -> Proxy {
    let proxy = Proxy::start(&server.url);
    says(&proxy, change);
    proxy
}

fn says(proxy: &Proxy, change: fn(&mut Value)) {
    proxy.rule(move |seen| {
        if !seen.is("GET", "/.well-known/larder") {
            return Action::Forward;
        }
        Action::rewrite_body(move |body| {
            let mut info = serde_json::from_slice(&body).unwrap();
            change(&mut info);
            serde_json::to_vec(&info).unwrap()
        })
    });
}

#[tokio::test]
async fn a_client_that_has_none_of_the_deployments_suites_says_so_and_leaves_no_account() {
    let server = TestServer::start().await;
    // One that this build does not have, and one that our Ed25519 key does not sign for.
    let proxy = saying(&server, |info| info["group_suites"] = json!([0x7777, 0x0002]));
    let directory = tempfile::tempdir().unwrap();
    let refused = MlsConnection::register(options(directory.path()), &proxy.url, user("bob")).await;
    let refused = refused.unwrap_err();
    assert!(
        matches!(&refused, Error::UnsupportedSuites(suites) if *suites == [0x7777, 0x0002]),
        "{refused}"
    );
    assert_eq!(
        refused.to_string(),
        "this program supports no ciphersuite of the server's: 0x7777, 0x0002"
    );
    assert!(proxy.seen("POST", "/v1/accounts").is_empty());
    server.client("bob").await;
}

#[tokio::test]
async fn a_client_without_the_first_suite_takes_the_next_one_that_it_has() {
    let server = TestServer::start_with(&[CHACHA, AES]).await;
    let alice = server.client("alice").await;
    let proxy = saying(&server, |info| {
        info["group_suites"] = json!([0x7777, AES, AES, 0x0002]);
    });
    let directory = tempfile::tempdir().unwrap();
    let bob = MlsConnection::register(options(directory.path()), &proxy.url, user("bob"))
        .await
        .unwrap();
    let refreshed = bob.refresh_key_packages().await.unwrap();
    assert_eq!(refreshed.pools.len(), 1);
    assert_eq!((refreshed.pools[0].suite, refreshed.health.available), (AES, 32));
    let group = bob.create_group("lunch").await.unwrap().id;
    bob.invite(&group, &[user("alice")]).await.unwrap();
    alice.sync().await.unwrap();
    assert_eq!((spent(&alice, AES).await, spent(&alice, CHACHA).await), (1, 0));

    // And is not there for groups of the first.
    let group = alice.create_group("dinner").await.unwrap().id;
    let refused = alice.invite(&group, &[user("bob")]).await.unwrap_err();
    assert!(
        matches!(&refused, Error::NoKeyPackages { outcomes }
            if outcomes[0].1 == (NotAdded::Incompatible { suite: CHACHA })),
        "{refused:?}"
    );
    let probed = bob.probe(CHACHA).await.unwrap();
    assert_eq!(
        probed,
        Probe::NotAddable(NotAdded::Incompatible { suite: CHACHA })
    );
    assert!(matches!(
        bob.probe(0x7777).await,
        Err(Error::UnsupportedSuites(suites)) if suites == [0x7777]
    ));
}

#[tokio::test]
async fn a_server_that_names_no_suites_of_its_own_is_run_with_the_first_that_it_accepts() {
    let server = TestServer::start_with(&[AES, CHACHA]).await;
    let proxy = saying(&server, |info| {
        info.as_object_mut().unwrap().remove("group_suites").unwrap();
    });
    let directory = tempfile::tempdir().unwrap();
    let bob = MlsConnection::register(options(directory.path()), &proxy.url, user("bob"))
        .await
        .unwrap();
    let pools = bob.refresh_key_packages().await.unwrap().pools;
    assert_eq!((pools.len(), pools[0].suite), (1, AES));
}

#[tokio::test]
async fn a_client_that_the_deployment_has_left_behind_goes_on_in_its_groups() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let proxy = Proxy::start(&server.url);
    let directory = tempfile::tempdir().unwrap();
    let bob = MlsConnection::register(options(directory.path()), &proxy.url, user("bob"))
        .await
        .unwrap();
    bob.refresh_key_packages().await.unwrap();
    let group = alice.create_group("lunch").await.unwrap().id;
    drop(bob);

    says(&proxy, |info| info["group_suites"] = json!([0x7777]));
    an_hour_later(directory.path());
    let bob = MlsConnection::open(options(directory.path())).await.unwrap();
    bob.refresh_key_packages().await.unwrap();
    let pools = bob.pools().await.unwrap();
    assert_eq!(
        (pools.len(), pools[0].stocked, pools[0].health.available),
        (1, false, 32)
    );
    let refused = bob.create_group("dinner").await.unwrap_err();
    assert!(
        matches!(&refused, Error::UnsupportedSuites(suites) if *suites == [0x7777]),
        "{refused:?}"
    );
    alice.invite(&group, &[user("bob")]).await.unwrap();
    assert_eq!(bob.sync().await.unwrap().joined, 1);
    bob.send(&group, "still here").await.unwrap();
    assert_eq!(alice.receive().await, ["still here"]);
    assert_eq!(bob.groups().await.unwrap()[0].state, GroupState::Active);
}

#[tokio::test]
async fn a_profile_that_knows_of_no_suites_has_what_every_server_accepts_until_it_has_asked() {
    let server = TestServer::start_with(&[CHACHA, AES]).await;
    let mut bob = server.client("bob").await;
    bob.stop().await;
    let database = rusqlite::Connection::open(bob.directory.path().join("larder.db")).unwrap();
    let as_at_first = "DELETE FROM suites; INSERT INTO suites (suite, rank) VALUES (1, 0), (3, NULL);
        UPDATE profile SET suites_checked_at = 0;";
    database.execute_batch(as_at_first).unwrap();
    drop(database);
    bob.restart().await;
    assert_eq!(pools(&bob).await, [(AES, 32, 16, true), (CHACHA, 0, 16, true)]);
    bob.refresh_key_packages().await.unwrap();
    assert_eq!(pools(&bob).await, [(CHACHA, 16, 16, true), (AES, 16, 16, true)]);
    bob.stop_and_audit().await;
}

#[cfg(feature = "xwing")]
mod xwing {
    use crate::support::keeps_no_commits;

    use super::*;

    #[tokio::test]
    async fn a_deployment_moves_to_x_wing_while_its_groups_go_on() {
        a_deployment_moves_to(XWING).await;
    }

    #[tokio::test]
    async fn members_of_an_x_wing_deployment_are_invited_talk_and_are_removed() {
        let server = TestServer::start_with(&[XWING]).await;
        let (alice, bob) = (server.client("alice").await, server.client("bob").await);
        let carol = server.client("carol").await;
        assert_eq!(pools(&bob).await, [(XWING, 32, 32, true)]);
        let group = alice.group_with(&[&bob, &carol]).await;
        they_talk(&alice, &bob, &group).await;
        they_talk(&bob, &carol, &group).await;
        alice.remove(&group, &user("bob")).await.unwrap();
        alice.send(&group, "without bob").await.unwrap();
        assert_eq!(bob.receive().await, [""; 0]);
        assert!(carol.receive().await.contains(&"without bob".to_owned()));
        assert_eq!(carol.users(&group).await, ["alice", "carol"]);
        assert_eq!(alice.epoch(&group).await, carol.epoch(&group).await);
        for client in [alice, bob, carol] {
            client.stop_and_audit().await;
        }
    }

    #[tokio::test]
    async fn a_last_resort_of_x_wing_opens_two_invitations_and_is_replaced() {
        let server = TestServer::start_with(&[XWING]).await;
        let bob = server.client_with_pool_of("bob", 2).await;
        let alice = server.client("alice").await;
        let mut groups = Vec::new();
        for by_last_resort in [false, false, true, true] {
            let group = alice.create_group("lunch").await.unwrap().id;
            let invited = alice.invite(&group, &[user("bob")]).await.unwrap();
            assert_eq!(!invited.by_last_resort.is_empty(), by_last_resort);
            groups.push(group);
        }
        assert_eq!(bob.sync().await.unwrap().joined, 4);
        they_talk(&alice, &bob, &groups[2]).await;
        they_talk(&alice, &bob, &groups[3]).await;
        let pool = bob.pools().await.unwrap().remove(0);
        assert_eq!(pool.health.available, 2);
        assert!(!pool.health.last_resort.unwrap().used, "a new one");
        bob.stop_and_audit().await;
    }

    #[tokio::test]
    async fn a_member_of_an_x_wing_group_who_cannot_process_a_commit_rejoins() {
        let server = TestServer::start_with(&[XWING]).await;
        let (alice, carol) = (server.client("alice").await, server.client("carol").await);
        let (bob, proxy) = server.proxied("bob").await;
        let group = alice.group_with(&[&bob]).await;
        alice.invite(&group, &[user("carol")]).await.unwrap();
        proxy.rule(|seen| keeps_no_commits(seen).unwrap_or(Action::Forward));
        assert_eq!(bob.sync().await.unwrap().rejoined, 1);
        proxy.forward();
        bob.trust(&user("carol")).await.unwrap();
        they_talk(&alice, &bob, &group).await;
        they_talk(&bob, &carol, &group).await;
        assert_eq!(alice.users(&group).await, ["alice", "bob", "carol"]);
    }
}
