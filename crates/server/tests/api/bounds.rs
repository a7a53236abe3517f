//! What is larger than its kind may be is refused, and the group goes on.

use larder_wire::{
    Base64Url, COMMIT_ADDS_MAX, COMMIT_BYTES_MAX, CommitRequest, GROUP_INFO_BYTES_MAX, GroupCreated,
    LEAF_BYTES_MAX, MESSAGE_BYTES_MAX, MESSAGES_MAX, PROPOSAL_BYTES_MAX, PROPOSALS_WAITING_MAX, ProblemType,
    Sent, ServerInfo, TREE_BYTES_MAX,
};
use openmls::prelude::LeafNodeParameters;
use openmls::prelude::tls_codec::{Serialize as _, VLByteSlice};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::scene::Scene;
use crate::support::{TestServer, message_bytes, padded_leaf};

fn nonsense(bytes: usize) -> Base64Url {
    Base64Url(vec![0xff; bytes])
}

#[tokio::test]
async fn a_group_is_created_with_one_leaf_of_a_usual_size() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let request = alice.create_group_request(&alice.new_group());
    let mut of_many = request.clone();
    of_many.ratchet_tree = nonsense(LEAF_BYTES_MAX + 9);
    let mut padded = request.clone();
    padded.group_info = nonsense(GROUP_INFO_BYTES_MAX + 1);
    for (key, large) in [("many", of_many), ("padded", padded)] {
        let answer = alice.http.post_with_key("/v1/groups", key, &large).await;
        assert!(answer.refused(ProblemType::TooLarge).detail.is_some());
    }
    alice
        .http
        .post_with_key("/v1/groups", "one", &request)
        .await
        .ok::<GroupCreated>();
}

#[tokio::test]
async fn a_commit_and_what_belongs_to_it_is_bounded() {
    let mut scene = Scene::set().await;
    let good = scene.alice.stage_update(&mut scene.alices);
    scene.alice.clear(&mut scene.alices);
    let mut large = [good.clone(), good.clone(), good];
    large[0].commit = nonsense(COMMIT_BYTES_MAX + 1);
    large[1].welcome = Some(nonsense(COMMIT_BYTES_MAX + 1));
    large[2].group_info = nonsense(GROUP_INFO_BYTES_MAX + 1);
    for request in &large {
        scene.refused(&scene.alice, request, ProblemType::TooLarge).await;
    }
    scene.still_works().await;
}

#[tokio::test]
async fn too_many_adds_are_refused_before_any_is_looked_at() {
    let mut scene = Scene::set().await;
    let (key_packages, _) = scene.alice.take(&[&scene.carol], &scene.gid).await;
    let key_package = key_packages[0].tls_serialize_detached().unwrap();
    let request = scene.stage(key_packages);
    // By value (1), an Add (RFC 9420 §12.1.1).
    let add = [&[1, 0, 1][..], &key_package].concat();
    let list_of = |count: usize| VLByteSlice(&add.repeat(count)).tls_serialize_detached().unwrap();
    let (listed, commit) = (list_of(1), &request.commit.0);
    let at = commit
        .windows(listed.len())
        .position(|window| window == listed)
        .unwrap();
    let with = |count| CommitRequest {
        commit: Base64Url([&commit[..at], &list_of(count), &commit[at + listed.len()..]].concat()),
        ..request.clone()
    };
    scene
        .refused(&scene.alice, &with(COMMIT_ADDS_MAX + 1), ProblemType::TooLarge)
        .await;
    scene
        .refused(&scene.alice, &with(COMMIT_ADDS_MAX), ProblemType::InvalidCommit)
        .await;
    scene.still_works().await;
}

#[tokio::test]
async fn as_many_proposals_wait_as_may_and_then_the_group_goes_on() {
    let mut scene = Scene::set().await;
    let large = nonsense(PROPOSAL_BYTES_MAX + 1).0;
    let answer = scene.bob.post_proposal(&scene.gid, &large).await;
    answer.refused(ProblemType::TooLarge);
    for number in 0..=PROPOSALS_WAITING_MAX {
        let (proposal, _) = scene
            .bobs
            .propose_self_update(&scene.bob.provider, &scene.bob.mls, LeafNodeParameters::default())
            .unwrap();
        let answer = scene
            .bob
            .post_proposal(&scene.gid, &message_bytes(&proposal))
            .await;
        if number < PROPOSALS_WAITING_MAX {
            answer.ok::<Sent>();
        } else {
            answer.refused(ProblemType::TooLarge);
        }
    }
    scene.still_works().await;
}

#[tokio::test]
async fn a_fresh_leaf_is_bounded_proposed_and_committed() {
    let mut scene = Scene::set().await;
    let (proposal, _) = scene
        .bobs
        .propose_self_update(&scene.bob.provider, &scene.bob.mls, padded_leaf(LEAF_BYTES_MAX))
        .unwrap();
    let answer = scene
        .bob
        .post_proposal(&scene.gid, &message_bytes(&proposal))
        .await;
    assert!(answer.refused(ProblemType::TooLarge).detail.is_some());
    for (bytes, is_taken) in [(LEAF_BYTES_MAX, false), (LEAF_BYTES_MAX / 2, true)] {
        let parameters = padded_leaf(bytes);
        let request = scene.alice.stage(&mut scene.alices, |commit| {
            commit.leaf_node_parameters(parameters).force_self_update(true)
        });
        if is_taken {
            scene.alice.commit(&mut scene.alices, &request).await;
        } else {
            scene.alice.clear(&mut scene.alices);
            scene.refused(&scene.alice, &request, ProblemType::TooLarge).await;
        }
    }
    scene.still_works().await;
}

#[tokio::test]
async fn a_message_larger_than_the_limit_is_refused_unread() {
    let scene = Scene::set().await;
    let large = nonsense(MESSAGE_BYTES_MAX + 1).0;
    let answer = scene.alice.post_message(&scene.gid, &large).await;
    answer.refused(ProblemType::TooLarge);
}

#[tokio::test]
async fn the_bounds_are_told_to_whoever_asks() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let info: ServerInfo = alice.http.get("/.well-known/larder").await.ok();
    let limits = info.limits;
    assert_eq!(limits.commit_bytes_max, COMMIT_BYTES_MAX as u64);
    assert_eq!(limits.commit_adds_max, COMMIT_ADDS_MAX as u32);
    assert_eq!(limits.messages_max, MESSAGES_MAX as u32);
    assert_eq!(limits.proposal_bytes_max, PROPOSAL_BYTES_MAX as u64);
    assert_eq!(limits.proposals_waiting_max, PROPOSALS_WAITING_MAX as u32);
    assert_eq!(limits.leaf_bytes_max, LEAF_BYTES_MAX as u64);
    assert_eq!(limits.group_info_bytes_max, GROUP_INFO_BYTES_MAX as u64);
    assert_eq!(limits.tree_bytes_max, TREE_BYTES_MAX as u64);
}

/// A body that is larger than anything of its kind is not read to its end, let alone parsed.
#[tokio::test]
async fn a_request_that_is_too_large_is_answered_before_all_of_it_is_there() {
    let scene = Scene::set().await;
    let token = scene.alice.http.token.as_ref().unwrap();
    let gid = &scene.gid;
    for (path, bytes) in [
        ("/v1/groups".to_owned(), 64 * 1024),
        (format!("/v1/groups/{gid}/proposals"), 64 * 1024),
        (format!("/v1/groups/{gid}/messages"), 6 * 1024 * 1024),
        (format!("/v1/groups/{gid}/commits"), 9 * 1024 * 1024),
        ("/v1/key-packages/reserve".to_owned(), 64 * 1024),
        ("/v1/key-packages/revoke".to_owned(), 128 * 1024),
        ("/v1/inbox/next".to_owned(), 2 * 1024 * 1024),
        ("/v1/accounts".to_owned(), 64 * 1024),
        ("/v1/sessions".to_owned(), 64 * 1024),
    ] {
        let mut stream = TcpStream::connect(scene.server.address()).await.unwrap();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\nidempotency-key: k\r\n\
             content-type: application/json\r\ncontent-length: 1000000000\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        // The server may close the connection before it has all of this.
        let _ = stream.write_all(&vec![b' '; bytes]).await;
        let mut answer = [0; 64];
        let read = stream.read(&mut answer).await.unwrap();
        assert!(
            answer[..read].starts_with(b"HTTP/1.1 413 "),
            "{path}: {}",
            String::from_utf8_lossy(&answer[..read])
        );
    }
}
