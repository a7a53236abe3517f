//! A KeyPackage is spent by nothing but the Commit that adds it: every other Commit is refused whole.

use larder_wire::{
    Base64Url, CommitCheck, CommitRequest, GroupId, KeyPackageRef, KeyPackageState, ProblemType,
    RevokeRequest, Revoked,
};
use openmls::prelude::tls_codec::{Deserialize as _, Serialize as _, VLByteSlice};
use openmls::prelude::{MlsMessageBodyIn, MlsMessageIn, OpenMlsProvider as _, Welcome};

use crate::scene::Scene;
use crate::support::{KeyPackageSpec, state_of};

fn welcome_of(request: &CommitRequest) -> Welcome {
    let message = MlsMessageIn::tls_deserialize_exact(&request.welcome.as_ref().unwrap().0[..]).unwrap();
    match message.extract() {
        MlsMessageBodyIn::Welcome(welcome) => welcome,
        _ => panic!("not a Welcome"),
    }
}

/// The Welcome of a request with the secrets as they are after `change`; each is named by its KeyPackageRef.
fn with_secrets(request: &CommitRequest, change: impl FnOnce(&mut Vec<Vec<u8>>)) -> CommitRequest {
    let welcome = welcome_of(request);
    let bytes = request.welcome.as_ref().unwrap().0.clone();
    let mut secrets: Vec<Vec<u8>> = welcome
        .secrets()
        .iter()
        .map(|secret| secret.tls_serialize_detached().unwrap())
        .collect();
    // version, wire format, suite: two bytes each; then the list of secrets with its length.
    let old_list = secrets.concat();
    let list_at = bytes
        .windows(old_list.len())
        .position(|window| window == old_list)
        .unwrap();
    let rest = bytes[list_at + old_list.len()..].to_vec();
    change(&mut secrets);
    let list = VLByteSlice(&secrets.concat()).tls_serialize_detached().unwrap();
    let bytes = [bytes[..6].to_vec(), list, rest].concat();
    CommitRequest {
        welcome: Some(Base64Url(bytes)),
        ..request.clone()
    }
}

#[tokio::test]
async fn a_key_package_that_nobody_reserved_is_not_added() {
    let mut scene = Scene::set().await;
    // Carol gave it to Alice directly; the directory has it as available.
    let minted = scene.carol.mint(KeyPackageSpec::default());
    let uploaded = scene.carol.upload(std::slice::from_ref(&minted)).await;
    let key_package_ref = uploaded.results[0].key_package_ref.clone().unwrap();
    let request = scene.stage(vec![scene.alice.validate(&minted)]);
    let problem = scene
        .refused(&scene.alice, &request, ProblemType::ReservationLapsed)
        .await;
    assert_eq!(problem.refs, std::slice::from_ref(&key_package_ref));
    assert_eq!(
        state_of(&scene.carol, &key_package_ref).await,
        KeyPackageState::Available
    );
    // The directory has never seen it.
    let request = scene.stage(vec![
        scene.alice.validate(&scene.carol.mint(KeyPackageSpec::default())),
    ]);
    let problem = scene
        .refused(&scene.alice, &request, ProblemType::ReservationLapsed)
        .await;
    assert_eq!(problem.refs.len(), 1);
    scene.still_works().await;
}

#[tokio::test]
async fn a_key_package_reserved_by_another_is_not_added() {
    let mut scene = Scene::set().await;
    let (taken, refs) = scene.bob.take(&[&scene.carol], &scene.gid).await;
    let request = scene.stage(taken);
    let problem = scene
        .refused(&scene.alice, &request, ProblemType::ReservationLapsed)
        .await;
    assert_eq!(problem.refs, refs);
    assert_eq!(state_of(&scene.carol, &refs[0]).await, KeyPackageState::Reserved);
    scene.still_works().await;
}

#[tokio::test]
async fn a_key_package_reserved_for_another_group_is_not_added() {
    let mut scene = Scene::set().await;
    let other = GroupId::from_bytes(b"another group").unwrap();
    let (taken, refs) = scene.alice.take(&[&scene.carol], &other).await;
    let request = scene.stage(taken);
    let problem = scene
        .refused(&scene.alice, &request, ProblemType::ReservationLapsed)
        .await;
    assert_eq!(problem.refs, refs);
    scene.still_works().await;
}

#[tokio::test]
async fn a_key_package_that_was_spent_is_not_added_again() {
    let mut scene = Scene::set().await;
    let (taken, refs) = scene.alice.take(&[&scene.carol], &scene.gid).await;
    let request = scene.alice.stage_adds(&mut scene.alices, taken.clone());
    scene.alice.commit(&mut scene.alices, &request).await;
    // Carol is removed, so that the group's tree itself has nothing against her old KeyPackage.
    let mut carols = scene.carol.join().await;
    let request = scene
        .alice
        .stage_remove(&mut scene.alices, carols.own_leaf_index());
    scene.alice.commit(&mut scene.alices, &request).await;
    carols.delete(scene.carol.provider.storage()).unwrap();
    let request = scene.stage(taken);
    let problem = scene
        .refused(&scene.alice, &request, ProblemType::AlreadySpent)
        .await;
    assert_eq!(problem.refs, refs);
    assert_eq!(state_of(&scene.carol, &refs[0]).await, KeyPackageState::Spent);
    scene.still_works().await;
}

#[tokio::test]
async fn a_key_package_that_was_abandoned_or_revoked_is_not_added() {
    let mut scene = Scene::set().await;
    let reserved = scene.alice.reserve(&[&scene.carol], &scene.gid).await;
    let bytes = reserved.users[0].devices[0].key_package.clone().unwrap();
    let abandon = format!("/v1/reservations/{}/abandon", reserved.reservation_id.unwrap());
    scene.alice.http.post(&abandon, &()).await.done();
    let request = scene.stage(vec![scene.alice.validate(&bytes.0)]);
    scene
        .refused(&scene.alice, &request, ProblemType::ReservationLapsed)
        .await;

    let (taken, refs) = scene.alice.take(&[&scene.carol], &scene.gid).await;
    let revoke = RevokeRequest { refs: refs.clone() };
    scene
        .carol
        .http
        .post("/v1/key-packages/revoke", &revoke)
        .await
        .ok::<Revoked>();
    let request = scene.stage(taken);
    let problem = scene
        .refused(&scene.alice, &request, ProblemType::ReservationLapsed)
        .await;
    assert_eq!(problem.refs, refs);
    scene.still_works().await;
}

#[tokio::test]
async fn one_unreserved_key_package_refuses_the_whole_commit() {
    let mut scene = Scene::set().await;
    let (mut taken, good) = scene.alice.take(&[&scene.carol], &scene.gid).await;
    taken.push(
        scene
            .alice
            .validate(&scene.mallory.mint(KeyPackageSpec::default())),
    );
    let request = scene.stage(taken);
    let problem = scene
        .refused(&scene.alice, &request, ProblemType::ReservationLapsed)
        .await;
    assert_eq!(problem.refs.len(), 1);
    assert_ne!(problem.refs, good);
    assert_eq!(
        state_of(&scene.carol, &good[0]).await,
        KeyPackageState::Reserved,
        "not half spent"
    );
    scene.still_works().await;
}

#[tokio::test]
async fn the_welcome_names_the_added_key_packages_each_once_and_no_other() {
    let mut scene = Scene::set().await;
    let (taken, refs) = scene
        .alice
        .take(&[&scene.carol, &scene.mallory], &scene.gid)
        .await;
    let genuine = scene.stage(taken);
    let (of_another, _) = scene.alice.take(&[&scene.carol], &scene.gid).await;
    let other = scene.stage(of_another);

    let absent = CommitRequest {
        welcome: None,
        ..genuine.clone()
    };
    let exchanged = CommitRequest {
        welcome: other.welcome.clone(),
        ..genuine.clone()
    };
    let missing = with_secrets(&genuine, |secrets| drop(secrets.pop()));
    let empty = with_secrets(&genuine, Vec::clear);
    let doubled = with_secrets(&genuine, |secrets| secrets.push(secrets[0].clone()));
    let replaced = with_secrets(&genuine, |secrets| secrets[1] = secrets[0].clone());
    let not_a_welcome = CommitRequest {
        welcome: Some(genuine.group_info.clone()),
        ..genuine.clone()
    };
    for request in [
        absent,
        exchanged,
        missing,
        empty,
        doubled,
        replaced,
        not_a_welcome,
    ] {
        scene
            .invalid(&scene.alice, &request, CommitCheck::WelcomeRefs)
            .await;
    }
    let mut trailing = genuine.clone();
    trailing.welcome.as_mut().unwrap().0.push(0);
    let garbage = CommitRequest {
        welcome: Some(Base64Url(vec![1, 2, 3])),
        ..genuine.clone()
    };
    for request in [trailing, garbage] {
        scene
            .refused(&scene.alice, &request, ProblemType::Malformed)
            .await;
    }
    for (owner, key_package_ref) in [&scene.carol, &scene.mallory].into_iter().zip(&refs) {
        assert_eq!(state_of(owner, key_package_ref).await, KeyPackageState::Reserved);
    }
    // Named in another order is named all the same.
    let reversed = with_secrets(&genuine, |secrets| secrets.reverse());
    scene
        .alice
        .post_commit(&scene.gid, &reversed)
        .await
        .ok::<larder_wire::Accepted>();
}

#[tokio::test]
async fn a_welcome_without_adds_is_refused() {
    let mut scene = Scene::set().await;
    let (taken, _) = scene.alice.take(&[&scene.carol], &scene.gid).await;
    let welcome = scene.stage(taken).welcome;
    let update = scene.alice.stage_update(&mut scene.alices);
    scene.alice.clear(&mut scene.alices);
    let request = CommitRequest {
        welcome,
        ..update.clone()
    };
    scene
        .invalid(&scene.alice, &request, CommitCheck::WelcomeRefs)
        .await;
    let nobody = with_secrets(&request, Vec::clear);
    scene
        .invalid(&scene.alice, &nobody, CommitCheck::WelcomeRefs)
        .await;
    scene.still_works().await;
}

#[tokio::test]
async fn a_lapsed_reservation_is_lapsed_for_the_commit_too() {
    let mut scene = Scene::set().await;
    let (taken, refs): (_, Vec<KeyPackageRef>) = scene.alice.take(&[&scene.carol], &scene.gid).await;
    let request = scene.stage(taken);
    scene.server.pass(2 * 60 * 60);
    scene.server.sweep().await;
    for device in [
        &mut scene.alice,
        &mut scene.bob,
        &mut scene.carol,
        &mut scene.mallory,
    ] {
        device.open_session().await;
    }
    let problem = scene
        .refused(&scene.alice, &request, ProblemType::ReservationLapsed)
        .await;
    assert_eq!(problem.refs, refs);
    assert_eq!(state_of(&scene.carol, &refs[0]).await, KeyPackageState::Lapsed);
    scene.still_works().await;
}
