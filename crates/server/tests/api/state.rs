//! C8, the server's part: a device that does not know its own last request is refused, whatever it asks for.

use larder_wire::{
    Base64Url, GroupId, Inbox, Membership, Memberships, ProblemType, RevokeRequest, StateClaim, StateMark,
    UploadRequest,
};
use reqwest::Method;

use crate::support::{Answer, Device, KeyPackageSpec, TestServer, snapshot};

fn mark(byte: u8) -> StateMark {
    StateMark::from_bytes(&[byte; 16]).unwrap()
}

/// The device with what it says of its state.
fn claiming(device: &Device, next: u8, known: &[u8]) -> Device {
    let claim = StateClaim {
        next: mark(next),
        known: known.iter().copied().map(mark).collect(),
    };
    let mut copy = device.without_state();
    copy.http = device.http.with_state(&claim.to_string());
    copy
}

async fn acknowledge(device: &Device) -> Answer {
    device.acknowledge(device.acknowledgement()).await
}

async fn take_over(device: &Device) -> Answer {
    Answer::to(device.http.request(Method::PUT, "/v1/state")).await
}

#[tokio::test]
async fn a_device_that_knows_its_last_request_goes_on_and_a_copy_does_not() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    acknowledge(&claiming(&alice, 1, &[])).await.ok::<Inbox>();
    acknowledge(&claiming(&alice, 2, &[1])).await.ok::<Inbox>();
    // The answer was lost, and the same request is sent again.
    acknowledge(&claiming(&alice, 2, &[1])).await.ok::<Inbox>();
    // The fate of 2 is not known, and neither is that of 3, which never arrived.
    acknowledge(&claiming(&alice, 4, &[1, 2, 3])).await.ok::<Inbox>();
    // A copy that was made after 2, and one that has counted further than the device ever did.
    acknowledge(&claiming(&alice, 5, &[2]))
        .await
        .refused(ProblemType::StateBehind);
    acknowledge(&claiming(&alice, 9, &[5, 6, 7, 8]))
        .await
        .refused(ProblemType::StateBehind);
    // A request that was under way for a long time.
    acknowledge(&claiming(&alice, 2, &[1]))
        .await
        .refused(ProblemType::StateBehind);
    acknowledge(&claiming(&alice, 5, &[4])).await.ok::<Inbox>();
}

#[tokio::test]
async fn a_device_that_is_behind_changes_nothing_by_any_request_and_may_read() {
    let server = TestServer::unswept().await;
    let alice = server.device_with_key_packages("alice", 3).await;
    let bob = server.device_with_key_packages("bob", 3).await;
    let (mut group, gid) = alice.create_group().await;
    alice.invite(&mut group, &[&bob]).await;
    let reserved = alice.reserve(&[&bob], &gid).await;
    let message = alice.encrypt(&mut group, "from a copy");
    let proposal = b"a proposal".to_vec();
    let commit = alice.stage_update(&mut group);
    let new_group = alice.new_group();
    let create = alice.create_group_request(&new_group);
    let minted = alice.mint(KeyPackageSpec::default());
    let own = alice.inventory().await.items[0].key_package_ref.clone();
    acknowledge(&claiming(&alice, 1, &[])).await.ok::<Inbox>();
    let behind = claiming(&alice, 3, &[2]);

    let before = snapshot(&[&alice, &bob], Some(&gid)).await;
    let upload = UploadRequest {
        key_packages: vec![Base64Url(minted)],
    };
    let revoke = RevokeRequest {
        refs: vec![own.clone()],
    };
    let reserve = alice.reserve_request(&[&bob], &gid);
    let abandon = format!("/v1/reservations/{}/abandon", reserved.reservation_id.unwrap());
    let delete = behind
        .http
        .request(Method::DELETE, &format!("/v1/key-packages/{own}"));
    for answer in [
        behind.http.post("/v1/key-packages", &upload).await,
        behind.http.post("/v1/key-packages/revoke", &revoke).await,
        Answer::to(delete).await,
        behind
            .http
            .post_with_key("/v1/key-packages/reserve", "again", &reserve)
            .await,
        Answer::to(behind.http.request(Method::POST, &abandon)).await,
        behind.http.post_with_key("/v1/groups", "again", &create).await,
        behind.post_commit(&gid, &commit).await,
        behind.post_proposal(&gid, &proposal).await,
        behind.post_message(&gid, &message).await,
        acknowledge(&behind).await,
    ] {
        answer.refused(ProblemType::StateBehind);
    }
    assert_eq!(snapshot(&[&alice, &bob], Some(&gid)).await, before);
    behind.inventory().await;
    assert_eq!(behind.epoch(&gid).await, 1);
}

#[tokio::test]
async fn marks_are_optional_until_one_was_used() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    acknowledge(&alice).await.ok::<Inbox>();
    acknowledge(&claiming(&alice, 2, &[1])).await.ok::<Inbox>();
    acknowledge(&alice).await.refused(ProblemType::StateBehind);
}

#[tokio::test]
async fn a_refused_request_leaves_no_mark() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    acknowledge(&claiming(&alice, 1, &[])).await.ok::<Inbox>();
    let refused = claiming(&alice, 2, &[1]);
    let nowhere = GroupId::from_bytes(b"no group").unwrap();
    refused
        .post_message(&nowhere, b"\0\x01")
        .await
        .refused(ProblemType::NotFound);
    acknowledge(&claiming(&alice, 3, &[1])).await.ok::<Inbox>();
}

#[tokio::test]
async fn a_session_tells_the_last_mark_and_a_restored_device_takes_over() {
    let server = TestServer::start().await;
    let mut alice = server.device("alice").await;
    assert_eq!(alice.open_session().await.state, None);
    acknowledge(&claiming(&alice, 1, &[])).await.ok::<Inbox>();
    assert_eq!(alice.open_session().await.state, Some(mark(1)));
    take_over(&alice).await.refused(ProblemType::Malformed);
    take_over(&claiming(&alice, 7, &[])).await.done();
    acknowledge(&claiming(&alice, 2, &[1]))
        .await
        .refused(ProblemType::StateBehind);
    acknowledge(&claiming(&alice, 8, &[7])).await.ok::<Inbox>();
}

#[tokio::test]
async fn what_is_no_claim_is_malformed_and_not_taken_for_none() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let too_many = ["AAAA"; 14].join(" ");
    for claim in ["", "?", "AAAA,BBBB", "AAAAAAAAAAAAAAAAAAAAAAAA", &too_many] {
        let mut copy = alice.without_state();
        copy.http = alice.http.with_state(claim);
        acknowledge(&copy).await.refused(ProblemType::Malformed);
    }
}

#[tokio::test]
async fn a_device_is_told_the_groups_that_it_is_a_member_of_and_no_others() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let bob = server.device_with_key_packages("bob", 2).await;
    let groups = |device: &Device| {
        let http = device.http.clone();
        async move { http.get("/v1/groups").await.ok::<Memberships>().groups }
    };
    assert_eq!(groups(&alice).await, []);
    let (mut group, gid) = alice.create_group().await;
    let other = alice.create_group_request(&alice.new_group());
    alice
        .http
        .post_with_key("/v1/groups", "another", &other)
        .await
        .ok::<serde_json::Value>();
    assert_eq!(groups(&alice).await.len(), 2);
    assert_eq!(groups(&bob).await, []);
    alice.invite(&mut group, &[&bob]).await;
    let of_bob = Membership {
        group_id: gid.clone(),
        epoch: 1,
        head: 1,
        gaps: Vec::new(),
    };
    assert_eq!(groups(&bob).await, std::slice::from_ref(&of_bob));
    assert!(groups(&alice).await.contains(&of_bob));

    let leaf = group
        .members()
        .find(|member| member.index != group.own_leaf_index());
    let commit = alice.stage_remove(&mut group, leaf.unwrap().index);
    alice.commit(&mut group, &commit).await;
    assert_eq!(groups(&bob).await, []);
    assert!(
        groups(&alice)
            .await
            .iter()
            .any(|known| known.group_id == gid && known.epoch == 2)
    );
}
