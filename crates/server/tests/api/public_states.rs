//! The public state of a group is made again from what is stored of it, and told by epoch.

use std::sync::Arc;

use larder_wire::{Accepted, EpochAnswer, GroupInfoAnswer, Handshakes, ProblemType, RatchetTreeAnswer, Sent};
use openmls::prelude::tls_codec::Serialize as _;

use crate::scene::Scene;
use crate::support::{Device, TestServer, message_bytes};

/// Another server on the database, whose memory is empty. The first one goes on.
async fn beside(server: &TestServer) -> TestServer {
    TestServer::start_on(Arc::clone(&server.database), |_| {}, false).await
}

fn at(server: &TestServer, device: &Device) -> crate::support::Http {
    server.http.with_token(device.http.token.as_ref().unwrap())
}

/// Returns the epoch that she comes to, and the ratchet tree of it.
async fn invite_carol(scene: &mut Scene) -> (u64, Vec<u8>) {
    scene.alice.invite(&mut scene.alices, &[&scene.carol]).await;
    let tree = scene.alices.export_ratchet_tree().tls_serialize_detached();
    (scene.alices.epoch().as_u64(), tree.unwrap())
}

#[tokio::test]
async fn a_server_that_starts_anew_goes_on_from_what_is_stored() {
    let mut scene = Scene::set().await;
    let gid = scene.gid.clone();
    // Fewer Commits than make a snapshot due, and a proposal after them.
    for _ in 0..5 {
        let update = scene.alice.stage_update(&mut scene.alices);
        scene.alice.commit(&mut scene.alices, &update).await;
        scene.bob.catch_up(&mut scene.bobs).await;
    }
    let (proposal, _) = scene
        .bobs
        .propose_self_update(&scene.bob.provider, &scene.bob.mls, Default::default())
        .unwrap();
    scene
        .bob
        .post_proposal(&gid, &message_bytes(&proposal))
        .await
        .ok::<Sent>();
    scene.alice.catch_up(&mut scene.alices).await;

    let server = beside(&scene.server).await;
    let info: GroupInfoAnswer = at(&server, &scene.alice)
        .get(&format!("/v1/groups/{gid}/info"))
        .await
        .ok();
    assert_eq!(info.epoch, scene.alices.epoch().as_u64());
    let tree = scene.alices.export_ratchet_tree().tls_serialize_detached();
    assert_eq!(info.ratchet_tree.0, tree.unwrap());
    // By the one whose memory is empty a Commit that names the proposal; then the other one has to catch up.
    for number in 0..4 {
        let node = if number % 2 == 0 { &server } else { &scene.server };
        let request = scene
            .alice
            .stage(&mut scene.alices, |commit| commit.force_self_update(true));
        at(node, &scene.alice)
            .post(&format!("/v1/groups/{gid}/commits"), &request)
            .await
            .ok::<Accepted>();
        scene.alice.merge(&mut scene.alices);
    }
    scene.bob.catch_up(&mut scene.bobs).await;
    assert_eq!(
        scene.bobs.epoch_authenticator().as_slice(),
        scene.alices.epoch_authenticator().as_slice()
    );
    assert!(scene.findings().await.is_empty());
}

#[tokio::test]
async fn a_joiner_gets_the_tree_of_its_epoch_however_much_came_since() {
    let mut scene = Scene::set().await;
    let gid = scene.gid.clone();
    let (epoch, tree) = invite_carol(&mut scene).await;
    // More than make a snapshot due.
    for _ in 0..40 {
        let update = scene.alice.stage_update(&mut scene.alices);
        scene.alice.commit(&mut scene.alices, &update).await;
    }
    let path = format!("/v1/groups/{gid}/trees/{epoch}");
    let anew = beside(&scene.server).await;
    for server in [&scene.server, &anew] {
        let answer: RatchetTreeAnswer = at(server, &scene.carol).get(&path).await.ok();
        assert_eq!(answer.ratchet_tree.0, tree);
    }
    let mut carols = scene.carol.join().await;
    scene.carol.catch_up(&mut carols).await;
    assert_eq!(
        carols.epoch_authenticator().as_slice(),
        scene.alices.epoch_authenticator().as_slice()
    );
}

/// It stores the tree behind its answer.
#[tokio::test]
async fn a_server_that_is_killed_before_it_stores_a_tree_makes_it_again() {
    let mut scene = Scene::set().await;
    let gid = scene.gid.clone();
    let (epoch, tree) = invite_carol(&mut scene).await;
    let update = scene.alice.stage_update(&mut scene.alices);
    scene.alice.commit(&mut scene.alices, &update).await;
    let forget = "DELETE FROM bodies WHERE part = 2";
    scene.server.database.corrupt(forget).await;
    let server = beside(&scene.server).await;
    let answer: RatchetTreeAnswer = at(&server, &scene.carol)
        .get(&format!("/v1/groups/{gid}/trees/{epoch}"))
        .await
        .ok();
    assert_eq!(answer.ratchet_tree.0, tree);
    // And stores it with the next thing that it stores of the group.
    let update = scene.alice.stage_update(&mut scene.alices);
    at(&server, &scene.alice)
        .post(&format!("/v1/groups/{gid}/commits"), &update)
        .await
        .ok::<Accepted>();
    scene.alice.merge(&mut scene.alices);
    server.service.store_states().await;
    let stored = "SELECT count(*) FROM bodies WHERE part = 2";
    assert_eq!(
        scene.server.database.count(stored).await,
        2,
        "and that for bob, whose Welcome is not swept yet"
    );
}

/// OpenMLS judges lifetimes by the clock: what is followed months after it was accepted may not be followable.
#[tokio::test]
async fn what_a_killed_server_has_not_stored_of_a_state_another_one_stores() {
    let mut scene = Scene::set().await;
    let gid = scene.gid.clone();
    invite_carol(&mut scene).await;
    let stored_at = |seq: u64| format!("SELECT count(*) FROM group_states WHERE seq = {seq}");
    let database = Arc::clone(&scene.server.database);
    let update = scene.alice.stage_update(&mut scene.alices);
    let last = scene.alice.commit(&mut scene.alices, &update).await.seq;
    assert_eq!(database.count(&stored_at(last)).await, 0, "it is not due");
    let another = beside(&scene.server).await;
    another.service.store_states_behind().await.unwrap();
    assert_eq!(database.count(&stored_at(last)).await, 1);
    // Of what waits for a Commit nothing can be stored.
    scene.bob.catch_up(&mut scene.bobs).await;
    let (proposal, _) = scene
        .bobs
        .propose_self_update(&scene.bob.provider, &scene.bob.mls, Default::default())
        .unwrap();
    let proposal = message_bytes(&proposal);
    scene.bob.post_proposal(&gid, &proposal).await.ok::<Sent>();
    another.service.store_states_behind().await.unwrap();
    assert_eq!(database.count(&stored_at(last)).await, 1);
    // By the server that holds the state in memory.
    scene.alice.catch_up(&mut scene.alices).await;
    let update = scene.alice.stage_update(&mut scene.alices);
    let last = scene.alice.commit(&mut scene.alices, &update).await.seq;
    scene.server.service.store_states_behind().await.unwrap();
    assert_eq!(database.count(&stored_at(last)).await, 1);
    // And by each that starts.
    let update = scene.alice.stage_update(&mut scene.alices);
    let last = scene.alice.commit(&mut scene.alices, &update).await.seq;
    let _starting = TestServer::start_on(Arc::clone(&database), |_| {}, true).await;
    while database.count(&stored_at(last)).await == 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_node_goes_on_where_another_one_has_stored_a_later_state() {
    let mut scene = Scene::set().await;
    let gid = scene.gid.clone();
    let another = beside(&scene.server).await;
    // As many as make a snapshot due, and nothing after it, then one more.
    for after in [0, 1] {
        let update = scene.alice.stage_update(&mut scene.alices);
        scene.alice.commit(&mut scene.alices, &update).await;
        for last in 0..2 {
            for _ in 0..after * last + 1 {
                let update = scene.alice.stage_update(&mut scene.alices);
                at(&another, &scene.alice)
                    .post(&format!("/v1/groups/{gid}/commits"), &update)
                    .await
                    .ok::<Accepted>();
                scene.alice.merge(&mut scene.alices);
            }
            another.service.store_states().await;
        }
    }
    let update = scene.alice.stage_update(&mut scene.alices);
    scene.alice.commit(&mut scene.alices, &update).await;
}

/// A standby that lags takes over: what one node still has in memory never was.
#[tokio::test]
async fn a_node_does_not_judge_by_a_state_that_the_store_has_lost() {
    let mut scene = Scene::set().await;
    let gid = scene.gid.clone();
    let lost = scene.alice.stage_update(&mut scene.alices);
    let seq = scene.alice.commit(&mut scene.alices, &lost).await.seq;
    scene
        .server
        .database
        .corrupt(&format!(
            "DELETE FROM bodies WHERE seq = {seq};
             DELETE FROM log WHERE seq = {seq};
             UPDATE groups SET next_seq = {seq}, state_seq = {seq} - 1, epoch = epoch - 1"
        ))
        .await;
    let another = beside(&scene.server).await;
    for server in [&another, &scene.server] {
        let update = scene.bob.stage_update(&mut scene.bobs);
        at(server, &scene.bob)
            .post(&format!("/v1/groups/{gid}/commits"), &update)
            .await
            .ok::<Accepted>();
        scene.bob.merge(&mut scene.bobs);
    }
}

#[tokio::test]
async fn epochs_and_what_led_to_them_are_told_to_members_alone() {
    let mut scene = Scene::set().await;
    let gid = scene.gid.clone();
    let joined = scene.alices.epoch().as_u64();
    let mut hashes = vec![scene.alices.confirmed_transcript_hash()];
    for _ in 0..3 {
        let update = scene.alice.stage_update(&mut scene.alices);
        scene.alice.commit(&mut scene.alices, &update).await;
        hashes.push(scene.alices.confirmed_transcript_hash());
    }
    for (epoch, hash) in (joined..).zip(&hashes) {
        let path = format!("/v1/groups/{gid}/epochs/{epoch}");
        let answer: EpochAnswer = scene.bob.http.get(&path).await.ok();
        assert_eq!((answer.epoch, &answer.confirmed_transcript_hash.0), (epoch, hash));
        scene.mallory.http.get(&path).await.refused(ProblemType::NotFound);
    }
    let first: EpochAnswer = scene
        .bob
        .http
        .get(&format!("/v1/groups/{gid}/epochs/0"))
        .await
        .ok();
    assert_eq!((first.seq, first.confirmed_transcript_hash.0.len()), (0, 0));
    let ahead = format!("/v1/groups/{gid}/epochs/{}", joined + 4);
    scene.bob.http.get(&ahead).await.refused(ProblemType::NotFound);

    let path = format!("/v1/groups/{gid}/commits?from_epoch={joined}");
    scene.mallory.http.get(&path).await.refused(ProblemType::NotFound);
    let told: Handshakes = scene.bob.http.get(&path).await.ok();
    let epochs: Vec<u64> = told.handshakes.iter().map(|handshake| handshake.epoch).collect();
    assert_eq!(epochs, [joined, joined + 1, joined + 2]);
    for handshake in told.handshakes {
        scene.bob.process(&mut scene.bobs, &handshake.message.unwrap().0);
    }
    assert_eq!(scene.bobs.confirmed_transcript_hash(), hashes[3]);
}

trait Transcript {
    fn confirmed_transcript_hash(&self) -> Vec<u8>;
}

impl Transcript for openmls::prelude::MlsGroup {
    fn confirmed_transcript_hash(&self) -> Vec<u8> {
        self.public_group()
            .group_context()
            .confirmed_transcript_hash()
            .to_vec()
    }
}
