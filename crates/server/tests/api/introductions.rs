//! What a device has to say to one that it lets in: stored for that one alone, with the trees that its vouchers need.

use std::sync::Arc;

use larder_wire::{
    Base64Url, GROUPS_PER_DEVICE_MAX, GroupId, Introduction, LinkRequest, ProblemType, RatchetTreeAnswer,
    Registered, VOUCHERS_BYTES_MAX, Voucher,
};
use openmls::prelude::MlsGroup;
use openmls::prelude::tls_codec::Serialize as _;
use reqwest::Method;

use crate::scene::Scene;
use crate::support::{Answer, Device, TestServer, id_of, snapshot};

const INTRODUCTION: &str = "/v1/introduction";
const DAY: u64 = 24 * 60 * 60;

/// A voucher for a group as it is. The server cannot verify the signature.
fn voucher(device: &Device, group: &MlsGroup) -> Voucher {
    Voucher {
        group_id: id_of(group),
        epoch: group.epoch().as_u64(),
        group_info: Base64Url(device.group_info(group)),
        signature: Base64Url(vec![6; 64]),
    }
}

fn vouching(by: &Device, new: &Device, vouchers: Vec<Voucher>) -> LinkRequest {
    let mut request = by.link_request(new);
    request.introduction.vouchers = vouchers;
    request
}

async fn link(by: &Device, request: &LinkRequest) -> Answer {
    by.http.post("/v1/devices", request).await
}

/// Links a further device, with vouchers.
async fn linked(by: &Device, number: u32, vouchers: Vec<Voucher>) -> Device {
    let mut new = by.further(number);
    link(by, &vouching(by, &new, vouchers)).await.ok::<Registered>();
    new.open_session().await;
    new
}

fn tree_of(group: &MlsGroup) -> Vec<u8> {
    group.export_ratchet_tree().tls_serialize_detached().unwrap()
}

/// Goes on, so that a snapshot is due.
async fn go_on(scene: &mut Scene, commits: u32) {
    for _ in 0..commits {
        let update = scene.alice.stage_update(&mut scene.alices);
        scene.alice.commit(&mut scene.alices, &update).await;
    }
}

async fn forget(device: &Device) -> Answer {
    Answer::to(device.http.request(Method::DELETE, INTRODUCTION)).await
}

#[tokio::test]
async fn an_introduction_is_given_to_the_new_device_alone_until_it_has_it() {
    let scene = Scene::set().await;
    let (alice, bob) = (&scene.alice, &scene.bob);
    let said = voucher(alice, &scene.alices);
    let second = linked(alice, 2, vec![said.clone()]).await;
    let expected = Introduction {
        vouchers: vec![said],
        ..alice.introduction()
    };
    for _ in 0..2 {
        let told: Introduction = second.http.get(INTRODUCTION).await.ok();
        assert_eq!(told, expected);
    }
    for other in [alice, bob] {
        other.http.get(INTRODUCTION).await.refused(ProblemType::NotFound);
        forget(other).await.done();
    }
    assert_eq!(second.http.get(INTRODUCTION).await.ok::<Introduction>(), expected);
    for _ in 0..2 {
        forget(&second).await.done();
        second.http.get(INTRODUCTION).await.refused(ProblemType::NotFound);
    }
    // Another device of the user says another thing; what is said last holds.
    let third = linked(alice, 3, Vec::new()).await;
    link(alice, &vouching(alice, &third, expected.vouchers.clone()))
        .await
        .ok::<Registered>();
    assert_eq!(third.http.get(INTRODUCTION).await.ok::<Introduction>(), expected);
    alice.remove_device(&third.id).await.done();
    assert_eq!(
        scene.server.database.count("SELECT count(*) FROM vouchers").await,
        0
    );
}

#[tokio::test]
async fn a_malformed_introduction_links_nobody() {
    let scene = Scene::set().await;
    let alice = &scene.alice;
    let new = alice.further(2);
    let good = vouching(alice, &new, vec![voucher(alice, &scene.alices)]);
    let bad = |change: fn(&mut Introduction)| {
        let mut request = good.clone();
        change(&mut request.introduction);
        request
    };
    let before = snapshot(&[alice, &scene.bob], Some(&scene.gid)).await;
    for request in [
        bad(|said| said.by_key.0.push(0)),
        bad(|said| said.root_key.0.clear()),
        bad(|said| said.proof.0.truncate(31)),
        bad(|said| said.vouchers[0].signature.0.truncate(63)),
        bad(|said| said.vouchers.push(said.vouchers[0].clone())),
    ] {
        link(alice, &request).await.refused(ProblemType::Malformed);
    }
    let numbered = |number: usize| GroupId::from_bytes(&number.to_be_bytes()).unwrap();
    let mut many = good.clone();
    let first = many.introduction.vouchers[0].clone();
    many.introduction.vouchers = (0..=GROUPS_PER_DEVICE_MAX)
        .map(|number| Voucher {
            group_id: numbered(number),
            group_info: Base64Url(vec![1]),
            ..first.clone()
        })
        .collect();
    link(alice, &many).await.refused(ProblemType::TooLarge);
    many.introduction.vouchers.truncate(2);
    for voucher in &mut many.introduction.vouchers {
        voucher.group_info = Base64Url(vec![1; VOUCHERS_BYTES_MAX / 2 + 1]);
    }
    link(alice, &many).await.refused(ProblemType::TooLarge);
    assert_eq!(snapshot(&[alice, &scene.bob], Some(&scene.gid)).await, before);
    assert_eq!(alice.devices_of("alice").await.len(), 1);
    link(alice, &good).await.ok::<Registered>();
}

#[tokio::test]
async fn only_the_present_epochs_of_groups_of_its_own_are_vouched_for() {
    let mut scene = Scene::set().await;
    let old = voucher(&scene.alice, &scene.alices);
    go_on(&mut scene, 1).await;
    let (alice, carol) = (&scene.alice, &scene.carol);
    let (of_carol, _) = carol.create_group().await;
    let present = voucher(alice, &scene.alices);
    let made_up = Voucher {
        epoch: 1 << 40,
        ..present.clone()
    };
    for (number, refused) in (2..).zip([old, made_up, voucher(carol, &of_carol)]) {
        let second = linked(alice, number, vec![refused]).await;
        let told: Introduction = second.http.get(INTRODUCTION).await.ok();
        assert_eq!(told.vouchers, []);
        alice.remove_device(&second.id).await.done();
    }
}

#[tokio::test]
async fn the_tree_of_a_vouched_epoch_is_served_to_the_new_device_however_far_the_group_goes() {
    let mut scene = Scene::set().await;
    let gid = scene.gid.clone();
    // One for the first epoch of a group, and one for a later one.
    let (alone, alone_id) = scene.alice.create_group().await;
    let vouchers = vec![
        voucher(&scene.alice, &scene.alices),
        voucher(&scene.alice, &alone),
    ];
    let (epoch, tree) = (scene.alices.epoch().as_u64(), tree_of(&scene.alices));
    let second = linked(&scene.alice, 2, vouchers).await;
    // While it is the present one; after a Commit; and after snapshots have taken the place of what it is made of.
    for commits in [0, 1, 70] {
        go_on(&mut scene, commits).await;
        let told: RatchetTreeAnswer = second.ratchet_tree(&gid, epoch).await.ok();
        assert_eq!(told.ratchet_tree.0, tree, "after {commits} Commits more");
    }
    let told: RatchetTreeAnswer = second.ratchet_tree(&alone_id, 0).await.ok();
    assert_eq!(told.ratchet_tree.0, tree_of(&alone));
    // A server that starts on what is stored has it, too.
    let beside = TestServer::start_on(Arc::clone(&scene.server.database), |_| {}, false).await;
    let http = beside.http.with_token(second.http.token.as_ref().unwrap());
    let told: RatchetTreeAnswer = http.get(&format!("/v1/groups/{gid}/trees/{epoch}")).await.ok();
    assert_eq!(told.ratchet_tree.0, tree);

    // Nobody else gets it, and of no other epoch.
    for other in [&scene.bob, &scene.carol, &scene.alice] {
        other
            .ratchet_tree(&gid, epoch)
            .await
            .refused(ProblemType::NotFound);
    }
    for other in [epoch - 1, epoch + 1, epoch + 1000] {
        second
            .ratchet_tree(&gid, other)
            .await
            .refused(ProblemType::NotFound);
    }
    forget(&second).await.done();
    second
        .ratchet_tree(&gid, epoch)
        .await
        .refused(ProblemType::NotFound);
}

#[tokio::test]
async fn a_tree_is_not_served_once_no_device_of_the_user_is_in_the_group() {
    let mut scene = Scene::set().await;
    let gid = scene.gid.clone();
    let said = vec![voucher(&scene.alice, &scene.alices)];
    let epoch = said[0].epoch;
    let second = linked(&scene.alice, 2, said).await;
    let alices_leaf = scene.alices.own_leaf_index();
    scene.bob.catch_up(&mut scene.bobs).await;
    let remove = scene.bob.stage_remove(&mut scene.bobs, alices_leaf);
    scene.bob.commit(&mut scene.bobs, &remove).await;
    second
        .ratchet_tree(&gid, epoch)
        .await
        .refused(ProblemType::NotFound);
    second.get_group_info(&gid).await.refused(ProblemType::NotFound);
}

#[tokio::test]
async fn what_a_new_device_never_asks_for_is_kept_for_thirty_days() {
    let scene = Scene::set().await;
    let second = linked(&scene.alice, 2, vec![voucher(&scene.alice, &scene.alices)]).await;
    let left = async || {
        let database = &scene.server.database;
        let introductions = database.count("SELECT count(*) FROM introductions").await;
        (
            introductions,
            database.count("SELECT count(*) FROM vouchers").await,
        )
    };
    scene.server.pass(30 * DAY - 60);
    scene.server.sweep().await;
    assert_eq!(left().await, (1, 1));
    scene.server.pass(120);
    scene.server.sweep().await;
    assert_eq!(left().await, (0, 0));
    drop(second);
}
