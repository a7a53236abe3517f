//! A blocked user cannot tell the one who blocked them from a user who does not exist.

use larder_wire::{DeviceOutcome, GroupId, ProblemType, ReserveRequest, Reserved, UserDevices};
use reqwest::Method;

use crate::support::{Answer, Device, TestServer, outcomes, snapshot};

const RESERVE: &str = "/v1/key-packages/reserve";

async fn put(device: &Device, user: &str) -> Answer {
    let path = format!("/v1/blocks/{user}");
    Answer::to(device.http.request(Method::PUT, &path)).await
}

async fn delete(device: &Device, user: &str) -> Answer {
    let path = format!("/v1/blocks/{user}");
    Answer::to(device.http.request(Method::DELETE, &path)).await
}

fn request(users: &[&str], all_or_nothing: bool) -> ReserveRequest {
    ReserveRequest {
        users: users.iter().map(|user| user.parse().unwrap()).collect(),
        group_id: GroupId::from_bytes(b"a group of mallory").unwrap(),
        suites: vec![1],
        all_or_nothing,
    }
}

/// Everything that names a user, asked by one who may be blocked: status, media type and bytes.
async fn seen(asker: &Device, user: &str, beside: &str, round: usize) -> Vec<(u16, Option<String>, Vec<u8>)> {
    let mut answers = vec![asker.http.get(&format!("/v1/users/{user}/devices")).await];
    for (index, request) in [
        request(&[user], false),
        request(&[user], true),
        request(&[beside, user], false),
        request(&[beside, user], true),
    ]
    .iter()
    .enumerate()
    {
        let key = format!("{round}-{index}-{user}");
        answers.push(asker.http.post_with_key(RESERVE, &key, request).await);
    }
    answers
        .into_iter()
        .map(|answer| (answer.status, answer.content_type, answer.body))
        .collect()
}

/// R-D7.
#[tokio::test]
async fn r_d7_a_blocked_user_gets_byte_for_byte_what_an_unknown_user_shows() {
    let server = TestServer::start().await;
    let alice = server.device_with_key_packages("alice", 3).await;
    alice.stock_last_resort().await;
    let bob = server.device_with_key_packages("bob", 3).await;
    let mallory = server.device("mallory").await;
    put(&alice, "mallory").await.done();
    let before = snapshot(&[&alice, &bob], None).await;
    // Again and again: no limit is reached for one of them that is not reached for the other.
    for round in 0..12 {
        let blocked = seen(&mallory, "alice", "bob", round).await;
        assert_eq!(blocked, seen(&mallory, "nobody", "bob", round).await);
        assert!(blocked.iter().all(|(status, ..)| *status == 404));
    }
    assert_eq!(
        snapshot(&[&alice, &bob], None).await,
        before,
        "nothing is taken of anybody"
    );

    // Only the one who is blocked is concerned, and only in this direction.
    let found: UserDevices = bob.http.get("/v1/users/alice/devices").await.ok();
    assert_eq!(found.devices.len(), 1);
    let group = GroupId::from_bytes(b"a group of bob").unwrap();
    let reserved = bob.reserve(&[&alice], &group).await;
    assert_eq!(outcomes(&reserved), [DeviceOutcome::LastResort]);
    alice
        .http
        .get("/v1/users/mallory/devices")
        .await
        .ok::<UserDevices>();
}

#[tokio::test]
async fn blocking_is_idempotent_and_tells_nothing_of_who_exists() {
    let server = TestServer::start().await;
    let alice = server.device_with_key_packages("alice", 2).await;
    server.device("mallory").await;
    for name in ["mallory", "nobody"] {
        for answer in [
            put(&alice, name).await,
            put(&alice, name).await,
            delete(&alice, name).await,
            delete(&alice, name).await,
        ] {
            assert_eq!((answer.status, answer.body), (204, vec![]), "{name}");
        }
    }
    for answer in [put(&alice, "alice").await, delete(&alice, "alice").await] {
        answer.refused(ProblemType::Malformed);
    }
    put(&alice, "No-Name").await.refused(ProblemType::Malformed);
    let nobody = server.http.request(Method::PUT, "/v1/blocks/mallory");
    Answer::to(nobody).await.refused(ProblemType::Unauthenticated);
}

#[tokio::test]
async fn a_block_may_come_before_the_user_and_ends_when_it_is_taken_back() {
    let server = TestServer::start().await;
    let alice = server.device_with_key_packages("alice", 2).await;
    put(&alice, "later").await.done();
    let later = server.device("later").await;
    let ask = request(&["alice"], false);
    later
        .http
        .post_with_key(RESERVE, "k", &ask)
        .await
        .refused(ProblemType::NotFound);
    delete(&alice, "later").await.done();
    let reserved: Reserved = later.http.post_with_key(RESERVE, "k", &ask).await.ok();
    assert_eq!(outcomes(&reserved), [DeviceOutcome::Ok]);
}
