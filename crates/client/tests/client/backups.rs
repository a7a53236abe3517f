//! C8: a profile that was made of a backup never sends with keys that the other one has, and is invited with none of them.

use std::collections::BTreeSet;
use std::path::Path;

use crate::support::{self, Client, TestServer, catch_up, now, options, they_talk};
use larder_client::{
    Access, AuditTransition, Error, GroupKey, GroupState, MessageKind, MlsConnection, SendStatus,
};
use larder_pool::{LocalStore, StoreError};

const POOL: u32 = 3;
/// Created, available or reserved, and single-use ones that are lost.
const LIVE: &str = "SELECT key_package_ref FROM keypackage_pool_metadata
                    WHERE status <= 3 OR (kind = 0 AND status = 5)";

/// References of KeyPackages of a profile that is not open, as they are in its database.
fn refs(profile: &Path, sql: &str) -> BTreeSet<Vec<u8>> {
    let connection = rusqlite::Connection::open(profile.join("larder.db")).unwrap();
    let mut statement = connection.prepare(sql).unwrap();
    let rows = statement.query_map([], |row| row.get(0)).unwrap();
    rows.collect::<Result<_, _>>().unwrap()
}

/// Whether a reference as the server writes it is among some as the database has them, which begin with their length.
fn is_among(refs: &BTreeSet<Vec<u8>>, wanted: &[u8]) -> bool {
    refs.iter().any(|known| known.ends_with(wanted))
}

fn told_of_the_copy(notices: &[larder_client::Message]) -> usize {
    notices
        .iter()
        .filter(|message| message.kind == MessageKind::Notice && message.text.contains("older copy"))
        .count()
}

async fn texts(client: &Client, group: &GroupKey) -> Vec<String> {
    let history = client.history(group, 100).await.unwrap();
    let texts = history
        .into_iter()
        .filter(|message| message.kind == MessageKind::Text);
    texts.map(|message| message.text).collect()
}

#[tokio::test]
async fn c8_x2_a_backup_of_every_moment_takes_the_place_of_a_profile_that_is_lost() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let bob = server.client_with_pool_of("bob", POOL).await;
    let mut backups = vec![bob.export().await.unwrap()];
    let first = alice.group_with(&[&bob]).await;
    backups.push(bob.export().await.unwrap());
    bob.send(&first, "one").await.unwrap();
    backups.push(bob.export().await.unwrap());
    alice.send(&first, "two").await.unwrap();
    bob.sync().await.unwrap();
    backups.push(bob.export().await.unwrap());
    let second = alice.group_with(&[&bob]).await;
    // Invited, and not read yet.
    let third = alice.create_group("third").await.unwrap().id;
    alice.invite(&third, &[support::user("bob")]).await.unwrap();
    // Nothing is sent after this one: by its marks alone it would not be told from the last state.
    backups.push(bob.export().await.unwrap());
    drop(bob);
    alice.receive().await;

    for (moment, image) in backups.iter().enumerate().rev() {
        let bob = Client::unopened(POOL);
        MlsConnection::import(bob.directory.path(), None, image, &Access::default(), now()).unwrap();
        let of_the_backup = refs(bob.directory.path(), LIVE);
        assert!(!of_the_backup.is_empty());
        let bob = bob.opened().await;
        let audited = bob.audit().await.unwrap().rows.len();
        bob.sync().await.unwrap();
        assert_eq!(told_of_the_copy(&bob.take_unread().await), 1, "{moment}");
        bob.accept_all().await;
        catch_up(&[&alice, &bob]).await;
        for group in [&first, &second, &third] {
            let groups = bob.groups().await.unwrap();
            let known = groups.iter().find(|summary| summary.id == *group).unwrap();
            assert_eq!(known.state, GroupState::Active, "{moment}");
        }
        if moment >= 3 {
            assert_eq!(
                texts(&bob, &first).await[..2],
                ["one", "two"],
                "{moment}: the history is there"
            );
        }
        they_talk(&alice, &bob, &first).await;
        // Whoever invites now gets a KeyPackage that nobody else has the private keys of.
        for _ in 0..=POOL {
            let group = alice.group_with(&[&bob]).await;
            they_talk(&bob, &alice, &group).await;
        }
        let audit = bob.audit().await.unwrap();
        assert_eq!(audit.flaw, None, "{moment}");
        let reserved = |row: &&larder_client::AuditRow| {
            matches!(row.transition, AuditTransition::Reserve | AuditTransition::Commit)
        };
        let used: Vec<_> = audit.rows[audited..].iter().filter(reserved).collect();
        assert!(used.len() >= 2 * POOL as usize);
        for row in used {
            assert!(
                !is_among(&of_the_backup, row.key_package_ref.as_bytes()),
                "{moment}: {row:?}"
            );
        }
        let refreshed = bob.refresh_key_packages().await.unwrap();
        assert_eq!(
            (refreshed.health.available, refreshed.health.outdated),
            (POOL, 0),
            "{moment}"
        );
        let directory = bob.directory.path().to_owned();
        let kept = bob.stop_and_audit_in_place().await;
        assert!(refs(&directory, LIVE).is_disjoint(&of_the_backup), "{moment}: X3");
        drop(kept);
    }
}

#[tokio::test]
async fn c8_x1_a_profile_and_one_that_was_made_of_its_backup_never_send_in_the_same_epoch() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let bob = server.client_with_pool_of("bob", POOL).await;
    let group = alice.group_with(&[&bob]).await;
    bob.send(&group, "before").await.unwrap();
    let image = bob.export().await.unwrap();
    let shared = bob.epoch(&group).await;

    let copy = Client::unopened(POOL);
    MlsConnection::import(copy.directory.path(), None, &image, &Access::default(), now()).unwrap();
    let copy = copy.opened().await;
    copy.sync().await.unwrap();
    let of_the_copy = copy.epoch(&group).await;
    assert!(of_the_copy > shared);
    copy.send(&group, "from the copy").await.unwrap();
    alice.sync().await.unwrap();
    assert_eq!(copy.epoch(&group).await, of_the_copy);

    // The other one is not deleted, and goes on: it finds out before it has sent anything, and rejoins with keys of its own.
    bob.send(&group, "from the other").await.unwrap();
    bob.sync().await.unwrap();
    assert_eq!(told_of_the_copy(&bob.take_unread().await), 1);
    assert!(bob.epoch(&group).await > of_the_copy);
    bob.send(&group, "after").await.unwrap();
    assert_eq!(
        alice.receive().await,
        ["before", "from the copy", "from the other", "after"],
        "X1: each once"
    );
    // Neither chases the other: the copy was brought up to date a moment ago, and stays behind.
    let sent = copy.send(&group, "later").await.unwrap();
    assert_eq!(sent.status, SendStatus::Pending);
    assert_eq!(copy.sync().await.unwrap_err().code(), "state-behind");
}

#[tokio::test]
async fn what_a_backup_had_still_to_send_is_sent_once_and_what_it_had_never_published_is_erased() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let (bob, proxy) = server.proxied_with_pool_of("bob", POOL).await;
    let group = alice.group_with(&[&bob]).await;
    proxy.cut_before("POST", "/messages");
    bob.send(&group, "waiting").await.unwrap();
    let image = bob.export().await.unwrap();
    drop(bob);
    proxy.forward();
    let bob = Client::unopened(POOL);
    MlsConnection::import(bob.directory.path(), None, &image, &Access::default(), now()).unwrap();
    let bob = bob.opened().await;
    bob.sync().await.unwrap();
    assert_eq!(alice.receive().await, ["waiting"]);
    bob.stop_and_audit().await;
}

#[tokio::test]
async fn a_profile_is_made_where_there_is_none_of_what_is_a_backup_of_one() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let image = alice.export().await.unwrap();
    let taken = MlsConnection::import(alice.directory.path(), None, &image, &Access::default(), now());
    assert!(matches!(taken, Err(Error::ProfileLocked)), "{taken:?}");
    let mut alice = alice;
    alice.stop().await;
    let taken = MlsConnection::import(alice.directory.path(), None, &image, &Access::default(), now());
    assert!(matches!(taken, Err(Error::ProfileExists)), "{taken:?}");

    let elsewhere = tempfile::tempdir().unwrap();
    let empty = tempfile::tempdir().unwrap();
    let mut store = LocalStore::open(&empty.path().join("other.db")).unwrap();
    let no_account = store.snapshot().unwrap();
    for bytes in [&b"nonsense"[..], &image[..image.len() - 4096], &no_account] {
        let made = MlsConnection::import(elsewhere.path(), None, bytes, &Access::default(), now());
        assert!(matches!(made, Err(Error::NotABackup)), "{made:?}");
        let opened = MlsConnection::open(options(elsewhere.path())).await;
        assert!(matches!(opened, Err(Error::NotRegistered)), "{opened:?}");
    }
    let me = MlsConnection::import(elsewhere.path(), None, &image, &Access::default(), now()).unwrap();
    assert_eq!(me.user.as_str(), "alice");
    let half = LocalStore::from_snapshot(&elsewhere.path().join("other.db"), None, &image, |_| {
        Err::<(), _>(StoreError::Doomed)
    });
    assert!(half.is_err());
}
