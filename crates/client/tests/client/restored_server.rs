//! A server that was restored from a backup, and the devices that know more than it does.

use std::collections::BTreeSet;

use crate::support::{Client, TestServer, catch_up, they_talk, user};
use larder_client::{AuditRow, AuditTransition, GroupKey, GroupState, MessageKind, SendStatus};

const POOL: u32 = 3;

async fn state(client: &Client, group: &GroupKey) -> GroupState {
    let groups = client.groups().await.unwrap();
    groups
        .into_iter()
        .find(|summary| summary.id == *group)
        .expect("known")
        .state
}

async fn notices(client: &Client) -> Vec<String> {
    client
        .take_unread()
        .await
        .into_iter()
        .filter(|message| message.kind == MessageKind::Notice)
        .map(|message| message.text)
        .collect()
}

/// How many KeyPackages the directory hands out until only the last resort is left.
async fn pool_is_whole(client: &Client) {
    let again = client.refresh_key_packages().await.unwrap();
    assert_eq!((again.minted, again.uploaded, again.revoked), (0, 0, 0), "X3");
    assert_eq!(again.health.available, POOL);
    let last_resort = again.health.last_resort.expect("there is one");
    assert!(!last_resort.used);
}

#[tokio::test]
async fn s2_what_a_restored_directory_has_forgotten_is_never_offered_again_and_a_new_pool_takes_its_place() {
    let mut server = TestServer::start().await;
    let alice = server.client("alice").await;
    let mut bob = server.client_with_pool_of("bob", POOL).await;
    let backup = server.backup();
    // Three are used after the backup and replaced by ones that it does not have.
    for _ in 0..3 {
        alice.group_with(&[&bob]).await;
    }
    bob.refresh_key_packages().await.unwrap();
    pool_is_whole(&bob).await;
    let told = bob.audit().await.unwrap().rows;
    let of = |rows: &[AuditRow], transition| -> BTreeSet<_> {
        let rows = rows.iter().filter(|row| row.transition == transition);
        rows.map(|row| row.key_package_ref.clone()).collect()
    };
    let later = of(&told[POOL as usize + 1..], AuditTransition::Upload);
    let forgotten = later.difference(&of(&told, AuditTransition::Reserve)).count();
    assert!(forgotten > 0);
    bob.pass(10);
    server.pass(10);

    server.restore(&backup).await;
    catch_up(&[&alice, &bob]).await;
    pool_is_whole(&bob).await;
    // Those that the backup does not know are kept for invitations under way, and are not in the pool.
    let health = bob.pool_health().await.unwrap();
    assert_eq!((health.available, health.lost as usize), (POOL, forgotten));
    let told = notices(&bob).await;
    let restored = |text: &&String| text.contains("restored from a backup");
    assert_eq!(told.iter().filter(restored).count(), 1, "{told:?}");
    // It can be invited, and each of the new pool once.
    let group = alice.group_with(&[&bob]).await;
    they_talk(&alice, &bob, &group).await;
    bob.restart().await;
    assert_eq!(bob.audit().await.unwrap().flaw, None);
    // Another restore erases what the first one left.
    bob.pass(10);
    server.pass(10);
    server.restore(&backup).await;
    catch_up(&[&alice, &bob]).await;
    pool_is_whole(&bob).await;
    assert_eq!(bob.pool_health().await.unwrap().lost, POOL);
    bob.stop_and_audit().await;
}

#[tokio::test]
async fn members_who_are_ahead_of_the_server_rejoin_at_its_epoch_and_nothing_loops() {
    let mut server = TestServer::start().await;
    let (alice, bob, carol) = (
        server.client("alice").await,
        server.client_with_pool_of("bob", POOL).await,
        server.client_with_pool_of("carol", POOL).await,
    );
    let group = alice.group_with(&[&bob]).await;
    catch_up(&[&alice, &bob]).await;
    let backup = server.backup();
    // Lost on the server: an invitation, and what was said.
    alice.invite(&group, &[user("carol")]).await.unwrap();
    catch_up(&[&carol, &alice, &bob]).await;
    they_talk(&alice, &carol, &group).await;
    for client in [&alice, &bob, &carol] {
        client.take_unread().await;
    }

    server.restore(&backup).await;
    // The first thing that a member does is to write: it is not lost to an epoch that nobody comes to.
    let sent = alice.send(&group, "after the restore").await.unwrap();
    assert_eq!(sent.status, SendStatus::Pending);
    for _ in 0..2 {
        catch_up(&[&alice, &bob, &carol]).await;
    }
    assert_eq!(state(&alice, &group).await, GroupState::Active);
    assert_eq!(state(&bob, &group).await, GroupState::Active);
    // T2: what she has of the group is kept.
    assert_eq!(carol.summary(&group).await.state, GroupState::Active);
    assert!(carol.summary(&group).await.denied);
    assert_eq!(alice.users(&group).await, ["alice", "bob"]);
    let told = notices(&carol).await;
    assert!(
        told.iter()
            .any(|text| text.contains("the server says that this device is not a member")),
        "{told:?}"
    );
    let told = notices(&alice).await;
    assert!(
        told.iter().any(|text| text.contains("lost the last changes")),
        "{told:?}"
    );
    let history = bob.history(&group, 100).await.unwrap();
    let arrived = history
        .iter()
        .filter(|message| message.text == "after the restore");
    assert!(arrived.count() <= 1, "X1: not twice");
    they_talk(&alice, &bob, &group).await;
    // Nothing is left to be done.
    let idle = alice.sync().await.unwrap();
    assert_eq!((idle.rejoined, idle.flushed), (0, 0));
    // And carol can be invited again.
    alice.invite(&group, &[user("carol")]).await.unwrap();
    catch_up(&[&carol, &alice, &bob]).await;
    they_talk(&carol, &alice, &group).await;
}

#[tokio::test]
async fn who_was_removed_by_a_commit_that_is_lost_is_removed_again_before_anything_is_said() {
    let mut server = TestServer::start().await;
    let (alice, bob, mallory) = (
        server.client("alice").await,
        server.client_with_pool_of("bob", POOL).await,
        server.client_with_pool_of("mallory", POOL).await,
    );
    let group = alice.group_with(&[&bob, &mallory]).await;
    catch_up(&[&alice, &bob, &mallory]).await;
    let backup = server.backup();
    alice.remove(&group, &user("mallory")).await.unwrap();
    bob.sync().await.unwrap();

    // Mallory has not heard of the removal when the server forgets it.
    server.restore(&backup).await;
    alice.send(&group, "secret").await.unwrap();
    for _ in 0..3 {
        catch_up(&[&alice, &bob]).await;
        mallory.sync().await.unwrap();
    }
    assert_eq!(alice.users(&group).await, ["alice", "bob"]);
    assert_eq!(bob.users(&group).await, ["alice", "bob"]);
    assert_eq!(state(&mallory, &group).await, GroupState::Left);
    let read = mallory.history(&group, 100).await.unwrap();
    assert!(read.iter().all(|message| message.text != "secret"));
    they_talk(&alice, &bob, &group).await;
}

/// The same of one device of a user who stays.
#[tokio::test]
async fn a_device_that_a_lost_commit_removed_is_removed_again() {
    let mut server = TestServer::start().await;
    let alice = server.client("alice").await;
    let bob = server.client_with_pool_of("bob", POOL).await;
    let group = alice.group_with(&[&bob]).await;
    let stolen = alice.link().await;
    catch_up(&[&stolen, &alice, &bob, &stolen]).await;
    assert_eq!(bob.users(&group).await, ["alice", "alice", "bob"]);
    let backup = server.backup();
    alice.remove_device(&stolen.me().device_id).await.unwrap();
    catch_up(&[&alice, &bob]).await;
    assert_eq!(bob.users(&group).await, ["alice", "bob"]);

    server.restore(&backup).await;
    bob.send(&group, "secret").await.unwrap();
    for _ in 0..3 {
        catch_up(&[&bob, &alice]).await;
        let _ = stolen.sync().await;
    }
    for client in [&alice, &bob] {
        assert_eq!(client.users(&group).await, ["alice", "bob"]);
    }
    let read = stolen.history(&group, 100).await.unwrap();
    assert!(read.iter().all(|message| message.text != "secret"), "{read:?}");
    they_talk(&alice, &bob, &group).await;
}

/// Who follows the group that a restored server has led on is as far as a device that followed what the server has lost.
#[tokio::test]
async fn a_device_whose_branch_is_lost_comes_to_one_that_is_as_long() {
    let mut server = TestServer::start().await;
    let (alice, bob, _carol) = (
        server.client("alice").await,
        server.client_with_pool_of("bob", POOL).await,
        server.client_with_pool_of("carol", POOL).await,
    );
    let group = alice.group_with(&[&bob]).await;
    catch_up(&[&alice, &bob]).await;
    let backup = server.backup();
    alice.invite(&group, &[user("carol")]).await.unwrap();
    bob.sync().await.unwrap();
    server.restore(&backup).await;

    // Her external Commit leads to the epoch that bob is at.
    alice.sync().await.unwrap();
    assert_eq!(alice.epoch(&group).await, bob.epoch(&group).await);
    let sent = bob.send(&group, "not into the void").await.unwrap();
    assert_eq!(sent.status, SendStatus::Pending);
    catch_up(&[&bob, &alice]).await;
    let history = alice.history(&group, 100).await.unwrap();
    assert!(history.iter().any(|message| message.text == "not into the void"));
    let told = notices(&bob).await;
    assert!(
        told.iter().any(|text| text.contains("lost the last changes")),
        "{told:?}"
    );
    they_talk(&alice, &bob, &group).await;
    assert_eq!(bob.users(&group).await, ["alice", "bob"]);
}

#[tokio::test]
async fn an_audit_says_that_the_server_was_restored_and_holds_from_then_on() {
    let mut server = TestServer::start().await;
    let alice = server.client("alice").await;
    let mut bob = server.client_with_pool_of("bob", POOL).await;
    let backup = server.backup();
    alice.group_with(&[&bob]).await;
    assert_eq!(bob.audit().await.unwrap().flaw, None);
    server.restore(&backup).await;
    bob.restart().await;
    bob.sync().await.unwrap();
    let audited = bob.audit().await.unwrap();
    assert_eq!((audited.flaw, audited.restored), (None, true));
    let audited = bob.audit().await.unwrap();
    assert_eq!((audited.flaw, audited.restored), (None, false));
}
