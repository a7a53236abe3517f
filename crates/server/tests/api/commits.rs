//! A KeyPackage is spent by the Commit that adds it.

use larder_wire::{Accepted, InboxKind, KeyPackageState, ProblemType};
use openmls::prelude::LeafNodeIndex;

use crate::support::{TestServer, id_of, snapshot, state_of};

/// S4, R-S2.
#[tokio::test]
async fn the_commit_that_adds_a_key_package_spends_it_and_delivers_the_welcome() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let bob = server.device_with_key_packages("bob", 9).await;
    let (mut group, gid) = alice.create_group().await;
    let (key_packages, refs) = alice.take(&[&bob], &gid).await;
    let request = alice.stage_adds(&mut group, key_packages);
    let accepted = alice.commit(&mut group, &request).await;
    assert_eq!(accepted, Accepted { epoch: 1, seq: 1 });
    assert_eq!(state_of(&bob, &refs[0]).await, KeyPackageState::Spent);

    let rows = bob.inbox().await;
    let [welcome] = rows.as_slice() else {
        panic!("one row, not {rows:?}")
    };
    assert_eq!((welcome.kind, welcome.epoch), (InboxKind::Welcome, Some(1)));
    assert_eq!(welcome.group_id.as_ref(), Some(&gid));
    assert_eq!(Some(&welcome.body), request.welcome.as_ref());
    assert!(alice.inbox().await.is_empty(), "the sender has its own Commit");

    let joined = bob.join().await;
    assert_eq!(
        joined.epoch_authenticator().as_slice(),
        group.epoch_authenticator().as_slice()
    );
    assert_eq!(joined.members().count(), 2);
}

/// S4.
#[tokio::test]
async fn an_accepted_commit_sent_again_gets_the_same_answer_and_does_nothing() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let bob = server.device_with_key_packages("bob", 1).await;
    let (mut group, gid) = alice.create_group().await;
    let (key_packages, _) = alice.take(&[&bob], &gid).await;
    let request = alice.stage_adds(&mut group, key_packages);
    let first = alice.post_commit(&gid, &request).await;
    alice.merge(&mut group);
    let before = snapshot(&[&alice, &bob], Some(&gid)).await;
    assert_eq!(alice.post_commit(&gid, &request).await.body, first.body);
    assert_eq!(snapshot(&[&alice, &bob], Some(&gid)).await, before);
    // Later too, when the group has moved on.
    let update = alice.stage_update(&mut group);
    alice.commit(&mut group, &update).await;
    assert_eq!(alice.post_commit(&gid, &request).await.body, first.body);
    // Another member who sends it is only late.
    let mut bobs = bob.join().await;
    bob.catch_up(&mut bobs).await;
    bob.post_commit(&gid, &request)
        .await
        .refused(ProblemType::WrongEpoch);
}

/// R-S1.
#[tokio::test]
async fn the_loser_of_a_race_rebases_with_the_same_reservation() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let bob = server.device_with_key_packages("bob", 1).await;
    let carol = server.device_with_key_packages("carol", 1).await;
    let dave = server.device_with_key_packages("dave", 1).await;
    let (mut alices, gid) = alice.create_group().await;
    alice.invite(&mut alices, &[&bob]).await;
    let mut bobs = bob.join().await;

    let (for_alice, carols_ref) = alice.take(&[&carol], &gid).await;
    let (for_bob, daves_ref) = bob.take(&[&dave], &gid).await;
    let alices_request = alice.stage_adds(&mut alices, for_alice);
    let bobs_request = bob.stage_adds(&mut bobs, for_bob.clone());
    alice.commit(&mut alices, &alices_request).await;

    let before = snapshot(&[&alice, &bob, &carol, &dave], Some(&gid)).await;
    let problem = bob
        .post_commit(&gid, &bobs_request)
        .await
        .refused(ProblemType::WrongEpoch);
    assert_eq!(problem.current_epoch, Some(2));
    assert_eq!(snapshot(&[&alice, &bob, &carol, &dave], Some(&gid)).await, before);
    assert_eq!(
        state_of(&dave, &daves_ref[0]).await,
        KeyPackageState::Reserved,
        "nothing is burnt"
    );

    bob.clear(&mut bobs);
    bob.catch_up(&mut bobs).await;
    let rebased = bob.stage_adds(&mut bobs, for_bob);
    bob.commit(&mut bobs, &rebased).await;
    assert_eq!(state_of(&dave, &daves_ref[0]).await, KeyPackageState::Spent);
    assert_eq!(state_of(&carol, &carols_ref[0]).await, KeyPackageState::Spent);

    alice.catch_up(&mut alices).await;
    let daves = dave.join().await;
    let mut carols = carol.join().await;
    carol.catch_up(&mut carols).await;
    for group in [&alices, &bobs, &carols, &daves] {
        assert_eq!(id_of(group), gid);
        assert_eq!(group.epoch().as_u64(), 3);
        assert_eq!(
            group.epoch_authenticator().as_slice(),
            alices.epoch_authenticator().as_slice()
        );
    }
}

#[tokio::test]
async fn several_are_added_removed_and_added_again_with_new_key_packages() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let bob = server.device_with_key_packages("bob", 2).await;
    let carol = server.device_with_key_packages("carol", 1).await;
    let (mut group, gid) = alice.create_group().await;
    let first = alice.invite(&mut group, &[&bob, &carol]).await;
    assert_eq!(first.len(), 2);
    let mut bobs = bob.join().await;
    let mut carols = carol.join().await;

    let request = alice.stage_remove(&mut group, bobs.own_leaf_index());
    alice.commit(&mut group, &request).await;
    assert_eq!(
        bob.rows(InboxKind::Commit).await.len(),
        1,
        "the removed device learns of it"
    );
    bob.catch_up(&mut bobs).await;
    assert!(!bobs.is_active());
    carol.catch_up(&mut carols).await;
    bob.get_group_info(&gid).await.refused(ProblemType::NotFound);

    let second = alice.invite(&mut group, &[&bob]).await;
    assert_ne!(first[0], second[0], "a single-use KeyPackage is used once");
    assert_eq!(state_of(&bob, &second[0]).await, KeyPackageState::Spent);
    carol.catch_up(&mut carols).await;
    assert_eq!(
        carols.epoch_authenticator().as_slice(),
        group.epoch_authenticator().as_slice()
    );
    assert!(group.member(LeafNodeIndex::new(1)).is_some());
}

#[tokio::test]
async fn one_commit_removes_a_device_and_adds_it_with_a_new_key_package() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let bob = server.device_with_key_packages("bob", 10).await;
    let (mut group, gid) = alice.create_group().await;
    alice.invite(&mut group, &[&bob]).await;
    let bobs = bob.join().await;
    let (key_packages, _) = alice.take(&[&bob], &gid).await;
    let request = alice.stage(&mut group, |commit| {
        commit
            .propose_removals([bobs.own_leaf_index()])
            .propose_adds(key_packages)
    });
    alice.commit(&mut group, &request).await;
    let kinds: Vec<_> = bob.inbox().await.iter().map(|row| row.kind).collect();
    assert_eq!(
        kinds,
        [InboxKind::Commit, InboxKind::Welcome],
        "it leaves before it comes back"
    );
    assert_eq!(bob.epoch(&gid).await, 2, "the device is a member");
}
