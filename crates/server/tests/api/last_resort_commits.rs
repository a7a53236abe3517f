//! A last resort is added by Commits of those who reserved it, once per reservation, and by nobody else.

use std::collections::BTreeSet;

use larder_wire::{
    Accepted, CommitRequest, DeviceOutcome, GroupId, KeyPackageRef, KeyPackageState, ProblemType,
};
use openmls::prelude::{KeyPackage, MlsGroup};

use crate::scene::Scene;
use crate::support::{Device, TestServer, outcomes, reserved_refs, snapshot, state_of};

const HOUR: u64 = 60 * 60;
const DAY: u64 = 24 * HOUR;

/// A group of a device, with a Commit staged that adds `target` by what the directory hands out.
async fn staged(adder: &Device, target: &Device) -> (MlsGroup, GroupId, CommitRequest, KeyPackageRef) {
    let (mut group, gid) = adder.create_group().await;
    let (key_packages, refs) = adder.take(&[target], &gid).await;
    let request = adder.stage_adds(&mut group, key_packages);
    (group, gid, request, refs[0].clone())
}

fn authenticator(group: &MlsGroup) -> Vec<u8> {
    group.epoch_authenticator().as_slice().to_vec()
}

/// Another group of the same device; its idempotency key is its own.
async fn another_group(device: &Device) -> (MlsGroup, GroupId) {
    let group = device.new_group();
    let request = device.create_group_request(&group);
    let key = uuid::Uuid::new_v4().to_string();
    let created: larder_wire::GroupCreated =
        device.http.post_with_key("/v1/groups", &key, &request).await.ok();
    (group, created.group_id)
}

async fn reservations(server: &TestServer) -> usize {
    server
        .database
        .count("SELECT count(*) FROM reservations WHERE kind = 1 AND state = 0")
        .await
}

#[tokio::test]
async fn two_adders_who_get_the_same_last_resort_at_once_are_both_accepted() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let carol = server.device("carol").await;
    let bob = server.device("bob").await;
    let last_resort = bob.stock_last_resort().await;
    let ((mut alices, _, alices_request, first), (mut carols, _, carols_request, second)) =
        tokio::join!(staged(&alice, &bob), staged(&carol, &bob));
    assert_eq!((&first, &second), (&last_resort, &last_resort));
    assert_eq!(reservations(&server).await, 2);

    tokio::join!(
        alice.commit(&mut alices, &alices_request),
        carol.commit(&mut carols, &carols_request)
    );
    let item = &bob.inventory().await.items[0];
    assert_eq!((item.state, item.used), (KeyPackageState::Available, Some(true)));

    let joined = bob.join_all().await;
    let mut found: Vec<_> = joined.iter().map(authenticator).collect();
    let mut expected = vec![authenticator(&alices), authenticator(&carols)];
    found.sort();
    expected.sort();
    assert_eq!(found, expected, "bob is in both groups");

    // The database agrees: both reservations are used up, everything is in the audit, nothing else happened.
    assert_eq!(reservations(&server).await, 0);
    for (transition, rows) in [("upload", 1), ("reserve", 2), ("commit", 2)] {
        let sql = format!("SELECT count(*) FROM audit WHERE transition = '{transition}'");
        assert_eq!(server.database.count(&sql).await, rows, "{transition}");
    }
    assert_eq!(server.database.count("SELECT count(*) FROM audit").await, 5);
    assert_eq!(
        server
            .database
            .count("SELECT count(DISTINCT actor) FROM audit")
            .await,
        3
    );
    assert_eq!(
        server
            .database
            .count("SELECT count(*) FROM key_package_bytes")
            .await,
        1
    );
}

#[tokio::test]
async fn one_adder_adds_a_device_to_two_groups_by_the_same_last_resort() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let bob = server.device("bob").await;
    let last_resort = bob.stock_last_resort().await;
    let (mut one, _, one_request, first) = staged(&alice, &bob).await;
    let (mut two, two_gid) = another_group(&alice).await;
    let (key_packages, second) = alice.take(&[&bob], &two_gid).await;
    assert_eq!((&first, &second[0]), (&last_resort, &last_resort));
    let two_request = alice.stage_adds(&mut two, key_packages);
    alice.commit(&mut two, &two_request).await;
    alice.commit(&mut one, &one_request).await;
    let joined = bob.join_all().await;
    let joined: BTreeSet<_> = joined.iter().map(authenticator).collect();
    assert_eq!(joined, BTreeSet::from([authenticator(&two), authenticator(&one)]));
    assert_eq!(reservations(&server).await, 0);
}

#[tokio::test]
async fn a_last_resort_that_the_sender_did_not_reserve_for_this_group_is_not_added() {
    let mut scene = Scene::set().await;
    // Carol has nothing but her last resort.
    let ordinary: Vec<_> = scene.carol.inventory().await.items;
    let ordinary: Vec<_> = ordinary.into_iter().map(|item| item.key_package_ref).collect();
    scene.carol.revoke(&ordinary).await;
    let minted = scene.carol.mint_last_resort();
    let uploaded = scene.carol.upload(std::slice::from_ref(&minted)).await;
    let last_resort = uploaded.results[0].key_package_ref.clone().unwrap();

    // Carol gave it to Alice directly.
    let request = scene.stage(vec![scene.alice.validate(&minted)]);
    let refused = async |scene: &Scene, request: &CommitRequest| {
        let problem = scene
            .refused(&scene.alice, request, ProblemType::ReservationLapsed)
            .await;
        assert_eq!(problem.refs, std::slice::from_ref(&last_resort));
    };
    refused(&scene, &request).await;
    // Another member reserved it for the group.
    scene.bob.take(&[&scene.carol], &scene.gid).await;
    refused(&scene, &request).await;
    // Alice reserved it for another group.
    let other = GroupId::from_bytes(b"another group").unwrap();
    scene.alice.take(&[&scene.carol], &other).await;
    refused(&scene, &request).await;
    assert_eq!(reservations(&scene.server).await, 2, "nothing is used up");
    // Alice reserved it for this group.
    scene.alice.take(&[&scene.carol], &scene.gid).await;
    scene
        .alice
        .post_commit(&scene.gid, &request)
        .await
        .ok::<Accepted>();
    scene.carol.join().await;
    assert_eq!(reservations(&scene.server).await, 2);
}

#[tokio::test]
async fn one_reservation_on_a_last_resort_allows_one_commit() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let bob = server.device("bob").await;
    let last_resort = bob.stock_last_resort().await;
    let (mut group, gid, request, _) = staged(&alice, &bob).await;
    let first = alice.post_commit(&gid, &request).await;
    alice.merge(&mut group);
    assert_eq!(
        alice.post_commit(&gid, &request).await.body,
        first.body,
        "the same Commit again gets the first answer"
    );
    let bobs = bob.join().await;
    let remove = alice.stage_remove(&mut group, bobs.own_leaf_index());
    alice.commit(&mut group, &remove).await;

    let again = alice.validate(&stored_last_resorts(&server).await[0]);
    let add = alice.stage_adds(&mut group, vec![again.clone()]);
    alice.clear(&mut group);
    let before = snapshot(&[&alice, &bob], Some(&gid)).await;
    let problem = alice
        .post_commit(&gid, &add)
        .await
        .refused(ProblemType::ReservationLapsed);
    assert_eq!(problem.refs, std::slice::from_ref(&last_resort));
    assert_eq!(snapshot(&[&alice, &bob], Some(&gid)).await, before);
    // With a reservation of its own it is added again.
    alice.take(&[&bob], &gid).await;
    alice.post_commit(&gid, &add).await.ok::<Accepted>();
    assert_eq!(state_of(&bob, &last_resort).await, KeyPackageState::Available);
}

/// What the directory has stored of last resorts.
async fn stored_last_resorts(server: &TestServer) -> Vec<Vec<u8>> {
    let stored = "SELECT b.bytes FROM key_package_bytes b JOIN key_packages k ON k.device_id = b.device_id AND k.ref = b.ref
        WHERE k.kind = 1";
    server.database.bytes(stored).await
}

#[tokio::test]
async fn a_replaced_last_resort_is_still_added_by_who_reserved_it_for_a_day_and_not_after() {
    // Reservations that outlive the retirement, so that it is the retirement that ends them.
    let server = TestServer::start_with(|config| config.directory.reservation_seconds = 2 * DAY, false).await;
    let mut alice = server.device("alice").await;
    let mut carol = server.device("carol").await;
    let mut bob = server.device("bob").await;
    let older = bob.stock_last_resort().await;
    let (mut alices, _, alices_request, first) = staged(&alice, &bob).await;
    let (_, carols_gid, carols_request, second) = staged(&carol, &bob).await;
    assert_eq!((&first, &second), (&older, &older));
    let newer = bob.stock_last_resort().await;
    assert_eq!(state_of(&bob, &older).await, KeyPackageState::Retiring);
    // Nobody gets the older one any more.
    assert_eq!(
        reserved_refs(&carol.reserve(&[&bob], &carols_gid).await),
        std::slice::from_ref(&newer)
    );

    server.pass(DAY - 60);
    server.sweep().await;
    alice.open_session().await;
    bob.open_session().await;
    alice.commit(&mut alices, &alices_request).await;
    assert_eq!(
        authenticator(&bob.join().await),
        authenticator(&alices),
        "the older one opened it"
    );

    server.pass(120);
    server.sweep().await;
    carol.open_session().await;
    assert_eq!(state_of(&bob, &older).await, KeyPackageState::Gone);
    assert_eq!(state_of(&bob, &newer).await, KeyPackageState::Available);
    let before = snapshot(&[&carol, &bob], Some(&carols_gid)).await;
    let problem = carol
        .post_commit(&carols_gid, &carols_request)
        .await
        .refused(ProblemType::ReservationLapsed);
    assert_eq!(problem.refs, std::slice::from_ref(&older));
    assert_eq!(snapshot(&[&carol, &bob], Some(&carols_gid)).await, before);

    // The database agrees: a tombstone without bytes, and the reservation that nobody can use lapses in its time.
    assert_eq!(
        server
            .database
            .count("SELECT count(*) FROM key_package_bytes JOIN key_packages USING (device_id, ref) WHERE status > 2")
            .await,
        0
    );
    assert_eq!(
        server
            .database
            .count("SELECT count(*) FROM key_packages WHERE kind = 1 AND status = 7")
            .await,
        1
    );
    assert_eq!(
        server
            .database
            .count("SELECT count(*) FROM key_package_bytes")
            .await,
        1
    );
    assert_eq!(reservations(&server).await, 2);
    server.pass(2 * DAY);
    server.sweep().await;
    assert_eq!(reservations(&server).await, 0);
    let sql = "SELECT count(*) FROM audit WHERE transition = ";
    for (transition, rows) in [
        ("retire", 1),
        ("gone", 1),
        ("reserve", 3),
        ("commit", 1),
        ("lapse", 2),
    ] {
        assert_eq!(
            server.database.count(&format!("{sql}'{transition}'")).await,
            rows,
            "{transition}"
        );
    }
}

#[tokio::test]
async fn a_reservation_on_a_last_resort_lapses_at_the_sweep_after_its_deadline_and_not_before() {
    let server = TestServer::unswept().await;
    let mut alice = server.device("alice").await;
    let mut carol = server.device("carol").await;
    let mut bob = server.device("bob").await;
    let last_resort = bob.stock_last_resort().await;
    let (mut alices, _, alices_request, _) = staged(&alice, &bob).await;
    let (mut carols, gid, carols_request, _) = staged(&carol, &bob).await;
    server.pass(HOUR - 60);
    server.sweep().await;
    assert_eq!(reservations(&server).await, 2);
    server.pass(120);
    alice.open_session().await;
    bob.open_session().await;
    carol.open_session().await;
    // Past the deadline and not swept: still accepted.
    alice.commit(&mut alices, &alices_request).await;
    server.sweep().await;
    assert_eq!(reservations(&server).await, 0);
    let before = snapshot(&[&carol, &bob], Some(&gid)).await;
    let problem = carol
        .post_commit(&gid, &carols_request)
        .await
        .refused(ProblemType::ReservationLapsed);
    assert_eq!(problem.refs, std::slice::from_ref(&last_resort));
    assert_eq!(snapshot(&[&carol, &bob], Some(&gid)).await, before);
    // The last resort itself is as it was: a new reservation will do.
    assert_eq!(state_of(&bob, &last_resort).await, KeyPackageState::Available);
    carol.clear(&mut carols);
    carol.invite(&mut carols, &[&bob]).await;
}

#[tokio::test]
async fn a_last_resort_that_its_owner_withdrew_is_not_added() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let bob = server.device("bob").await;
    let last_resort = bob.stock_last_resort().await;
    let (_, gid, request, _) = staged(&alice, &bob).await;
    bob.revoke(std::slice::from_ref(&last_resort)).await;
    let problem = alice
        .post_commit(&gid, &request)
        .await
        .refused(ProblemType::ReservationLapsed);
    assert_eq!(problem.refs, std::slice::from_ref(&last_resort));
    assert_eq!(
        server
            .database
            .count("SELECT count(*) FROM key_package_bytes")
            .await,
        0
    );
    assert_eq!(
        outcomes(&alice.reserve(&[&bob], &gid).await),
        [DeviceOutcome::Exhausted]
    );
}

#[tokio::test]
async fn an_abandoned_reservation_on_a_last_resort_allows_no_commit() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let bob = server.device("bob").await;
    bob.stock_last_resort().await;
    let (mut group, gid) = alice.create_group().await;
    let reserved = alice.reserve(&[&bob], &gid).await;
    let bytes = reserved.users[0].devices[0].key_package.clone().unwrap();
    let abandon = format!("/v1/reservations/{}/abandon", reserved.reservation_id.unwrap());
    alice.http.post(&abandon, &()).await.done();
    let request = alice.stage_adds(&mut group, vec![alice.validate(&bytes.0)]);
    alice
        .post_commit(&gid, &request)
        .await
        .refused(ProblemType::ReservationLapsed);
}

#[tokio::test]
async fn one_commit_adds_by_ordinary_key_packages_and_last_resorts_all_or_none() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let bob = server.device_with_key_packages("bob", 1).await;
    let carol = server.device("carol").await;
    let dave = server.device("dave").await;
    let of_carol = carol.stock_last_resort().await;
    let (mut group, gid) = alice.create_group().await;
    let (taken, refs) = alice.take(&[&bob, &carol], &gid).await;
    assert_eq!(refs[1], of_carol);
    let minted: KeyPackage = alice.validate(&dave.mint_last_resort());
    let with_dave = alice.stage_adds(&mut group, [taken.clone(), vec![minted]].concat());
    alice.clear(&mut group);
    let problem = alice
        .post_commit(&gid, &with_dave)
        .await
        .refused(ProblemType::ReservationLapsed);
    assert_eq!(problem.refs.len(), 1);
    assert_eq!(state_of(&bob, &refs[0]).await, KeyPackageState::Reserved);
    assert_eq!(reservations(&server).await, 1, "not half used up");

    let request = alice.stage_adds(&mut group, taken);
    alice.commit(&mut group, &request).await;
    assert_eq!(state_of(&bob, &refs[0]).await, KeyPackageState::Spent);
    assert_eq!(state_of(&carol, &of_carol).await, KeyPackageState::Available);
    assert_eq!(authenticator(&bob.join().await), authenticator(&group));
    assert_eq!(authenticator(&carol.join().await), authenticator(&group));
}

#[tokio::test]
async fn the_loser_of_a_race_rebases_with_the_same_reservation_on_a_last_resort() {
    let mut scene = Scene::set().await;
    let dave = scene.server.device("dave").await;
    let last_resort = dave.stock_last_resort().await;
    let (taken, refs) = scene.bob.take(&[&dave], &scene.gid).await;
    assert_eq!(refs, [last_resort]);
    let late = scene.bob.stage_adds(&mut scene.bobs, taken.clone());
    let update = scene.alice.stage_update(&mut scene.alices);
    scene.alice.commit(&mut scene.alices, &update).await;
    scene
        .bob
        .post_commit(&scene.gid, &late)
        .await
        .refused(ProblemType::WrongEpoch);
    assert_eq!(reservations(&scene.server).await, 1, "nothing is burnt");
    scene.bob.clear(&mut scene.bobs);
    scene.bob.catch_up(&mut scene.bobs).await;
    let rebased = scene.bob.stage_adds(&mut scene.bobs, taken);
    scene.bob.commit(&mut scene.bobs, &rebased).await;
    assert_eq!(authenticator(&dave.join().await), authenticator(&scene.bobs));
    assert_eq!(reservations(&scene.server).await, 0);
}
