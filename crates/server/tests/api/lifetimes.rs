//! What the server's clock and sweeper do: deadlines, margins, tombstones.

use larder_wire::{
    DeviceOutcome, Gone, GroupId, InboxKind, KeyPackageCheck, KeyPackageState, PoolStatus, ProblemType,
    Reserved, UploadOutcome,
};

use crate::support::{KeyPackageSpec, TestServer, count, outcomes, reserved_refs, snapshot, state_of};

const HOUR: u64 = 60 * 60;
const DAY: u64 = 24 * HOUR;

#[tokio::test]
async fn a_reservation_lapses_at_the_sweep_after_its_deadline_and_not_before() {
    let server = TestServer::unswept().await;
    let mut alice = server.device("alice").await;
    let mut bob = server.device_with_key_packages("bob", 1).await;
    let (mut group, gid) = alice.create_group().await;
    let (key_packages, refs) = alice.take(&[&bob], &gid).await;
    let request = alice.stage_adds(&mut group, key_packages);

    server.pass(HOUR - 60);
    server.sweep().await;
    assert_eq!(state_of(&bob, &refs[0]).await, KeyPackageState::Reserved);
    server.pass(120);
    alice.open_session().await;
    bob.open_session().await;
    assert_eq!(
        state_of(&bob, &refs[0]).await,
        KeyPackageState::Reserved,
        "only the sweeper moves a row"
    );
    server.sweep().await;
    assert_eq!(state_of(&bob, &refs[0]).await, KeyPackageState::Lapsed);

    let before = snapshot(&[&alice, &bob], Some(&gid)).await;
    let problem = alice
        .post_commit(&gid, &request)
        .await
        .refused(ProblemType::ReservationLapsed);
    assert_eq!(problem.refs, refs);
    assert_eq!(snapshot(&[&alice, &bob], Some(&gid)).await, before);
    assert_eq!(
        outcomes(&alice.reserve(&[&bob], &gid).await),
        [DeviceOutcome::Exhausted]
    );
}

#[tokio::test]
async fn a_commit_after_the_deadline_but_before_the_sweep_is_accepted() {
    let server = TestServer::unswept().await;
    let mut alice = server.device("alice").await;
    let mut bob = server.device_with_key_packages("bob", 1).await;
    let (mut group, gid) = alice.create_group().await;
    let (key_packages, refs) = alice.take(&[&bob], &gid).await;
    let request = alice.stage_adds(&mut group, key_packages);
    server.pass(2 * HOUR);
    alice.open_session().await;
    bob.open_session().await;
    alice.commit(&mut group, &request).await;
    server.sweep().await;
    assert_eq!(state_of(&bob, &refs[0]).await, KeyPackageState::Spent);
    bob.join().await;
}

/// R-D3.
#[tokio::test]
async fn a_key_package_is_not_served_once_less_life_is_left_than_an_inbox_is_kept() {
    let server = TestServer::unswept().await;
    let mut alice = server.device("alice").await;
    let mut bob = server.device("bob").await;
    let lifetime = |days: i64| Some((-3600, days * DAY as i64));
    bob.upload(&[
        bob.mint(KeyPackageSpec {
            lifetime: lifetime(32),
            ..Default::default()
        }),
        bob.mint(KeyPackageSpec {
            lifetime: lifetime(40),
            ..Default::default()
        }),
    ])
    .await;
    let gid = GroupId::from_bytes(b"g").unwrap();

    server.pass(2 * DAY);
    alice.open_session().await;
    bob.open_session().await;
    // Not swept yet: what is served is judged when it is asked for.
    let status: PoolStatus = bob.http.get("/v1/key-packages/status").await.ok();
    assert_eq!(status.suites[0].available, 1);
    let reserved = alice.reserve(&[&bob], &gid).await;
    assert_eq!(outcomes(&reserved), [DeviceOutcome::Ok]);
    let longer = &bob.inventory().await;
    let item = longer
        .items
        .iter()
        .find(|item| item.key_package_ref == reserved_refs(&reserved)[0])
        .unwrap();
    assert!(item.not_after > server.time() + 30 * DAY);
    assert_eq!(
        outcomes(&alice.reserve(&[&bob], &gid).await),
        [DeviceOutcome::Exhausted]
    );

    server.sweep().await;
    let swept = bob.inventory().await;
    assert_eq!(count(&swept, KeyPackageState::Expired), 1);
    assert_eq!(
        count(&swept, KeyPackageState::Reserved),
        1,
        "a reserved one does not expire"
    );
}

#[tokio::test]
async fn an_expired_key_package_stays_expired_and_its_name_stays_taken_until_thirty_days_after_its_life() {
    let server = TestServer::unswept().await;
    let mut bob = server.device("bob").await;
    let minted = bob.mint(KeyPackageSpec {
        lifetime: Some((-3600, 40 * DAY as i64)),
        ..Default::default()
    });
    bob.upload(std::slice::from_ref(&minted)).await;
    server.pass(11 * DAY);
    server.sweep().await;
    bob.open_session().await;
    assert_eq!(count(&bob.inventory().await, KeyPackageState::Expired), 1);
    // Too short a life by now, and not to be revived: either verdict will do, acceptance will not.
    let again = bob.upload(std::slice::from_ref(&minted)).await;
    assert_ne!(again.results[0].outcome, UploadOutcome::Accepted);
    assert_eq!(count(&bob.inventory().await, KeyPackageState::Expired), 1);

    server.pass(29 * DAY + 29 * DAY);
    server.sweep().await;
    bob.open_session().await;
    assert_eq!(bob.inventory().await.items.len(), 1, "the tombstone stands");
    server.pass(2 * DAY);
    server.sweep().await;
    bob.open_session().await;
    assert!(bob.inventory().await.items.is_empty());
    let again = bob.upload(std::slice::from_ref(&minted)).await;
    let problem = again.results[0].problem.as_ref().unwrap();
    assert_eq!(
        problem.check.as_deref(),
        Some(KeyPackageCheck::LifetimeTooShort.code())
    );
}

#[tokio::test]
async fn an_idempotent_answer_is_remembered_longer_than_what_it_gave_is_good() {
    let server = TestServer::unswept().await;
    let mut alice = server.device("alice").await;
    let mut bob = server.device_with_key_packages("bob", 2).await;
    let gid = GroupId::from_bytes(b"g").unwrap();
    let request = alice.reserve_request(&[&bob], &gid);
    let first = alice
        .http
        .post_with_key("/v1/key-packages/reserve", "k", &request)
        .await;
    let reserved = first.ok::<Reserved>();
    let again = alice
        .http
        .post_with_key("/v1/key-packages/reserve", "k", &request)
        .await;
    assert_eq!(again.body, first.body);
    server.pass(23 * HOUR);
    server.sweep().await;
    alice.open_session().await;
    let again = alice
        .http
        .post_with_key("/v1/key-packages/reserve", "k", &request)
        .await;
    let refused = again.refused(ProblemType::ReservationLapsed);
    bob.open_session().await;
    assert_eq!(refused.refs, reserved_refs(&reserved));
    let left = count(&bob.inventory().await, KeyPackageState::Available);
    assert_eq!(left, 1, "nothing more was taken");
}

#[tokio::test]
async fn an_unread_message_is_kept_for_thirty_days_and_then_said_to_be_gone() {
    let server = TestServer::unswept().await;
    let mut alice = server.device("alice").await;
    let mut bob = server.device_with_key_packages("bob", 1).await;
    let (mut group, _) = alice.create_group().await;
    alice.invite(&mut group, &[&bob]).await;
    bob.join().await;
    alice.send(&mut group, "unread").await;
    server.pass(29 * DAY);
    server.sweep().await;
    bob.open_session().await;
    alice.open_session().await;
    let rows = bob.rows(InboxKind::Message).await;
    assert_eq!((rows.len(), rows[0].gone), (1, None));
    server.pass(2 * DAY);
    server.sweep().await;
    bob.open_session().await;
    let gone = bob.rows(InboxKind::Message).await;
    assert_eq!((gone.len(), gone[0].gone), (1, Some(Gone::Age)));
    assert!(gone[0].body.is_empty());
    assert_eq!(gone[0].seq, rows[0].seq);
    // A Commit is kept for longer.
    alice.open_session().await;
    let update = alice.stage_update(&mut group);
    alice.commit(&mut group, &update).await;
    server.pass(31 * DAY);
    server.sweep().await;
    bob.open_session().await;
    assert_eq!(bob.rows(InboxKind::Commit).await[0].gone, None);
}
