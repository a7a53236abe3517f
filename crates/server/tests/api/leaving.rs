//! A device leaves a group by its own word.

use larder_judge::Departure;
use larder_wire::{
    Acknowledgement, Base64Url, CommitRequest, GroupId, Inbox, InboxKind, LABEL_LEAVE, LeaveRequest,
    Memberships, NextRequest, ProblemType, leave_content, sign_with_label_content,
};
use openmls::prelude::tls_codec::Serialize as _;
use openmls::prelude::{LeafNode, MlsGroup, OpenMlsProvider as _};
use openmls_traits::signatures::Signer as _;
use reqwest::Method;
use sha2::{Digest as _, Sha256};

use crate::scene::Scene;
use crate::support::{Answer, Device};

fn own_leaf(group: &MlsGroup) -> LeafNode {
    group.own_leaf_node().unwrap().clone()
}

fn request(device: &Device, leaf: &LeafNode, group: &GroupId) -> LeaveRequest {
    let hash: [u8; 32] = Sha256::digest(leaf.tls_serialize_detached().unwrap()).into();
    let content = leave_content("localhost", &device.user, &device.id, &hash, group);
    let labelled = sign_with_label_content(LABEL_LEAVE, &content);
    LeaveRequest {
        signature: Base64Url(device.mls.sign(&labelled).unwrap()),
    }
}

async fn leave(device: &Device, group: &GroupId, request: &LeaveRequest) -> Answer {
    let path = format!("/v1/groups/{group}/membership");
    Answer::to(device.http.request(Method::DELETE, &path).json(request)).await
}

#[tokio::test]
async fn who_leaves_gets_nothing_more_at_once_and_the_others_get_its_word() {
    let mut scene = Scene::set().await;
    let gid = scene.gid.clone();
    scene.alice.send(&mut scene.alices, "unread").await;
    let leaf = own_leaf(&scene.bobs);
    let word = request(&scene.bob, &leaf, &gid);
    leave(&scene.bob, &gid, &word).await.done();

    scene.alice.send(&mut scene.alices, "without bob").await;
    let of_groups =
        |rows: Vec<larder_wire::InboxRow>| rows.iter().filter(|row| row.group_id.is_some()).count();
    assert_eq!(of_groups(scene.bob.every_row().await), 0, "the unread included");
    let groups: Memberships = scene.bob.http.get("/v1/groups").await.ok();
    assert_eq!(groups.groups, []);
    let message = scene.bob.encrypt(&mut scene.bobs, "still here");
    scene
        .bob
        .post_message(&gid, &message)
        .await
        .refused(ProblemType::NotFound);
    leave(&scene.bob, &gid, &word)
        .await
        .refused(ProblemType::NotFound);

    let rows = scene.alice.rows(InboxKind::Departure).await;
    assert_eq!(rows.len(), 1);
    let departure = Departure::from_bytes(&rows[0].body.0).unwrap();
    let crypto = scene.alice.provider.crypto();
    assert!(departure.verifies(crypto, "localhost", &gid, &leaf));
    assert!(!departure.verifies(crypto, "elsewhere", &gid, &leaf));
    assert!(!departure.verifies(crypto, "localhost", &gid, &own_leaf(&scene.alices)));

    // Nothing is wrong with the store, and a member commits what is left to be done.
    let findings = scene.findings().await;
    assert!(findings.is_empty(), "{findings:?}");
    let removal = scene
        .alice
        .stage_remove(&mut scene.alices, scene.bobs.own_leaf_index());
    scene.alice.commit(&mut scene.alices, &removal).await;
    assert!(scene.findings().await.is_empty());
}

#[tokio::test]
async fn nobody_leaves_for_another_or_by_a_word_of_before() {
    let mut scene = Scene::set().await;
    let gid = scene.gid.clone();
    let bobs = own_leaf(&scene.bobs);
    let elsewhere = GroupId::from_bytes(b"elsewhere").unwrap();
    // Bob's word in somebody else's session, somebody else's word in his, and one for another group or leaf.
    let words = [
        (&scene.alice, request(&scene.bob, &bobs, &gid)),
        (&scene.bob, request(&scene.alice, &bobs, &gid)),
        (&scene.bob, request(&scene.bob, &bobs, &elsewhere)),
        (&scene.bob, request(&scene.bob, &own_leaf(&scene.alices), &gid)),
    ];
    for (device, word) in words {
        leave(device, &gid, &word).await.refused(ProblemType::Forbidden);
    }
    let word = request(&scene.mallory, &bobs, &gid);
    leave(&scene.mallory, &gid, &word)
        .await
        .refused(ProblemType::NotFound);
    // A leaf of its own before the present one.
    let word = request(&scene.bob, &bobs, &gid);
    let update = scene.bob.stage_update(&mut scene.bobs);
    scene.bob.commit(&mut scene.bobs, &update).await;
    leave(&scene.bob, &gid, &word)
        .await
        .refused(ProblemType::Forbidden);
    let word = request(&scene.bob, &own_leaf(&scene.bobs), &gid);
    leave(&scene.bob, &gid, &word).await.done();
}

#[tokio::test]
async fn a_group_that_everybody_has_left_is_deleted_with_all_that_was_its_own() {
    let mut scene = Scene::set().await;
    let gid = scene.gid.clone();
    scene.alice.send(&mut scene.alices, "unread").await;
    for (device, group) in [(&scene.alice, &scene.alices), (&scene.bob, &scene.bobs)] {
        leave(device, &gid, &request(device, &own_leaf(group), &gid))
            .await
            .done();
    }
    let count = async |what: &str| scene.server.database.count(what).await;
    scene.server.pass(29 * 24 * 3600);
    scene.server.sweep().await;
    assert_eq!(count("SELECT count(*) FROM groups").await, 1);
    scene.server.pass(2 * 24 * 3600);
    scene.server.sweep().await;
    for table in [
        "groups",
        "group_states",
        "group_infos",
        "log",
        "bodies",
        "members",
    ] {
        assert_eq!(
            count(&format!("SELECT count(*) FROM {table}")).await,
            0,
            "{table}"
        );
    }
}

#[tokio::test]
async fn who_left_is_brought_back_by_the_commit_that_removes_it() {
    let mut scene = Scene::set().await;
    let gid = scene.gid.clone();
    let leaf = own_leaf(&scene.bobs);
    let word = request(&scene.bob, &leaf, &gid);
    leave(&scene.bob, &gid, &word).await.done();
    let again = remove_and_add_bob(&mut scene).await;
    scene.alice.commit(&mut scene.alices, &again).await;
    scene.bobs.delete(scene.bob.provider.storage()).unwrap();
    let mut bobs = scene.bob.join().await;
    scene.alice.send(&mut scene.alices, "there again?").await;
    assert_eq!(scene.bob.catch_up(&mut bobs).await, ["there again?"]);
    assert!(scene.findings().await.is_empty());
    // The word of before is over.
    leave(&scene.bob, &gid, &word)
        .await
        .refused(ProblemType::Forbidden);
}

/// Whoever reads one row at a time, and says that it has it, gets the next one.
#[tokio::test]
async fn a_commit_that_removes_a_device_and_its_welcome_to_it_are_read_together() {
    let mut scene = Scene::set().await;
    let again = remove_and_add_bob(&mut scene).await;
    scene.alice.commit(&mut scene.alices, &again).await;
    let page = NextRequest {
        // Of the mail, which comes first, it has all.
        acknowledge: Some(Acknowledgement {
            mail: Some(u64::MAX),
            ..scene.bob.acknowledgement()
        }),
        limit: Some(1),
        wait: None,
    };
    let rows = scene.bob.next(&page).await.ok::<Inbox>().rows;
    let kinds: Vec<InboxKind> = rows.iter().map(|row| row.kind).collect();
    assert_eq!(kinds, [InboxKind::Commit, InboxKind::Welcome]);
    assert_eq!(rows[0].seq, rows[1].seq);
}

/// A Commit of Alice's that removes Bob's leaf and adds his device.
async fn remove_and_add_bob(scene: &mut Scene) -> CommitRequest {
    let (key_packages, _) = scene.alice.take(&[&scene.bob], &scene.gid).await;
    let leaf = scene.bobs.own_leaf_index();
    scene.alice.stage(&mut scene.alices, |commit| {
        commit.propose_removals([leaf]).propose_adds(key_packages)
    })
}
