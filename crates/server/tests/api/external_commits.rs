//! Coming back by external Commit, and not coming in by one.

use larder_wire::{CommitCheck, CommitRequest, GroupInfoAnswer, InboxKind, ProblemType};

use crate::support::{Device, TestServer, snapshot};

/// R-S4.
#[tokio::test]
async fn a_device_that_lost_its_state_comes_back_by_external_commit() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let bob = server.device_with_key_packages("bob", 1).await;
    let (mut alices, gid) = alice.create_group().await;
    alice.invite(&mut alices, &[&bob]).await;
    bob.join().await;

    let lost = bob.without_state();
    let answer: GroupInfoAnswer = lost.get_group_info(&gid).await.ok();
    let (mut bobs, request) = lost.external_commit(&answer);
    lost.post_commit(&gid, &request)
        .await
        .ok::<larder_wire::Accepted>();
    assert_eq!(alice.rows(InboxKind::Commit).await.len(), 1);
    alice.catch_up(&mut alices).await;
    assert_eq!(
        alices.epoch_authenticator().as_slice(),
        bobs.epoch_authenticator().as_slice()
    );
    assert_eq!(alices.members().count(), 2, "its old leaf is gone");
    alice.send(&mut alices, "welcome back").await;
    assert_eq!(lost.catch_up(&mut bobs).await, ["welcome back"]);
    // The answer to the same Commit is the same.
    lost.post_commit(&gid, &request)
        .await
        .ok::<larder_wire::Accepted>();
}

/// R-S6.
#[tokio::test]
async fn an_outsider_does_not_come_in_by_external_commit_under_any_name() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let bob = server.device_with_key_packages("bob", 1).await;
    let mallory = server.device("mallory").await;
    let (mut alices, gid) = alice.create_group().await;
    alice.invite(&mut alices, &[&bob]).await;
    bob.join().await;
    let answer: GroupInfoAnswer = alice.get_group_info(&gid).await.ok();

    // Mallory got hold of the GroupInfo: under its own name, and under Bob's with its own key.
    let (_, as_itself) = mallory.external_commit(&answer);
    let mut impostor = mallory.without_state();
    impostor.user = bob.user.clone();
    impostor.id = bob.id.clone();
    let (_, as_bob) = impostor.external_commit(&answer);
    let before = snapshot(&[&alice, &bob, &mallory], Some(&gid)).await;
    for request in [&as_itself, &as_bob] {
        mallory
            .post_commit(&gid, request)
            .await
            .refused(ProblemType::NotFound);
        // Nor with the help of a member who sends it.
        let problem = bob
            .post_commit(&gid, request)
            .await
            .refused(ProblemType::InvalidCommit);
        let check = problem.check.unwrap();
        let refusals = [
            CommitCheck::Credential,
            CommitCheck::ExternalCommit,
            CommitCheck::Sender,
        ];
        assert!(
            refusals.iter().any(|refusal| refusal.code() == &*check),
            "{check}"
        );
    }
    assert_eq!(snapshot(&[&alice, &bob, &mallory], Some(&gid)).await, before);
}

/// R-S7.
#[tokio::test]
async fn a_removed_device_does_not_come_back_by_external_commit() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let bob = server.device_with_key_packages("bob", 1).await;
    let (mut alices, gid) = alice.create_group().await;
    alice.invite(&mut alices, &[&bob]).await;
    let bobs = bob.join().await;
    let request = alice.stage_remove(&mut alices, bobs.own_leaf_index());
    alice.commit(&mut alices, &request).await;
    let answer: GroupInfoAnswer = alice.get_group_info(&gid).await.ok();
    let (_, request) = bob.without_state().external_commit(&answer);
    let before = snapshot(&[&alice, &bob], Some(&gid)).await;
    bob.post_commit(&gid, &request)
        .await
        .refused(ProblemType::NotFound);
    assert_eq!(snapshot(&[&alice, &bob], Some(&gid)).await, before);
}

/// R-S6.
#[tokio::test]
async fn an_external_commit_is_its_senders_own_and_brings_its_own_group_info() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let bob = server.device_with_key_packages("bob", 1).await;
    let (mut alices, gid) = alice.create_group().await;
    alice.invite(&mut alices, &[&bob]).await;
    bob.join().await;
    let resync = async |device: &Device| {
        let answer: GroupInfoAnswer = device.get_group_info(&gid).await.ok();
        device.without_state().external_commit(&answer).1
    };
    let (of_alice, of_bob) = (resync(&alice).await, resync(&bob).await);
    let before = snapshot(&[&alice, &bob], Some(&gid)).await;
    let problem = bob
        .post_commit(&gid, &of_alice)
        .await
        .refused(ProblemType::InvalidCommit);
    assert_ne!(problem.check.as_deref(), Some(CommitCheck::GroupInfo.code()));
    let mixed = CommitRequest {
        group_info: of_alice.group_info.clone(),
        ..of_bob.clone()
    };
    let problem = bob
        .post_commit(&gid, &mixed)
        .await
        .refused(ProblemType::InvalidCommit);
    assert_eq!(problem.check.as_deref(), Some(CommitCheck::GroupInfo.code()));
    assert_eq!(snapshot(&[&alice, &bob], Some(&gid)).await, before);
    bob.post_commit(&gid, &of_bob).await.ok::<larder_wire::Accepted>();
    alice
        .post_commit(&gid, &of_alice)
        .await
        .refused(ProblemType::WrongEpoch);
}
