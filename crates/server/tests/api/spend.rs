//! What is spent by a Commit that another delivery service carries, and what is withdrawn all at once.

use larder_wire::{
    AuditPage, AuditTransition, Base64Url, GroupId, KeyPackageState, ProblemType, RevokeAllRequest, Revoked,
    SpendRequest,
};

use larder_server::Config;

use crate::support::{TestServer, count, generous, reserved_refs, state_of};

fn group() -> GroupId {
    GroupId::from_bytes(b"elsewhere").unwrap()
}

async fn external() -> TestServer {
    let configure = |config: &mut Config| {
        config.external_delivery = true;
        config.drain = generous();
    };
    TestServer::start_with(configure, false).await
}

#[tokio::test]
async fn s1_the_holder_of_a_reservation_spends_it_once_and_may_say_so_again() {
    let server = external().await;
    let alice = server.device("alice").await;
    let bob = server.device_with_key_packages("bob", 1).await;
    bob.stock_last_resort().await;
    for state in [KeyPackageState::Spent, KeyPackageState::Available] {
        let reserved = alice.reserve(&[&bob], &group()).await;
        let refs = reserved_refs(&reserved);
        let path = format!("/v1/reservations/{}/spend", reserved.reservation_id.unwrap());
        let request = SpendRequest {
            refs: refs.clone(),
            group_id: group(),
        };
        for _ in 0..2 {
            alice.http.post(&path, &request).await.done();
        }
        // A last resort stays.
        assert_eq!(state_of(&bob, &refs[0]).await, state);
    }
    let audit: AuditPage = bob.http.get("/v1/key-packages/audit").await.ok();
    let commits = audit
        .rows
        .iter()
        .filter(|row| row.transition == AuditTransition::Commit)
        .count();
    assert_eq!(commits, 2, "S8: one each");
}

#[tokio::test]
async fn nobody_spends_what_is_not_reserved_by_and_for_them_and_nothing_is_spent_by_halves() {
    let server = external().await;
    let (alice, mallory) = (server.device("alice").await, server.device("mallory").await);
    let bob = server.device_with_key_packages("bob", 2).await;
    let reserved = alice.reserve(&[&bob], &group()).await;
    let refs = reserved_refs(&reserved);
    let path = format!("/v1/reservations/{}/spend", reserved.reservation_id.unwrap());
    let request = |refs: &[_], group_id| SpendRequest {
        refs: refs.to_vec(),
        group_id,
    };
    let lapsed = ProblemType::ReservationLapsed;
    let other_group = GroupId::from_bytes(b"another").unwrap();
    let inventory = bob.inventory().await;
    let free = inventory
        .items
        .iter()
        .find(|item| item.state == KeyPackageState::Available);
    let both = [refs[0].clone(), free.unwrap().key_package_ref.clone()];
    mallory
        .http
        .post(&path, &request(&refs, group()))
        .await
        .refused(lapsed);
    alice
        .http
        .post(&path, &request(&refs, other_group))
        .await
        .refused(lapsed);
    alice
        .http
        .post(&path, &request(&both, group()))
        .await
        .refused(lapsed);
    let elsewhere = "/v1/reservations/none/spend";
    alice
        .http
        .post(elsewhere, &request(&refs, group()))
        .await
        .refused(lapsed);
    let twice = [refs[0].clone(), refs[0].clone()];
    for refs in [&[][..], &twice] {
        let answer = alice.http.post(&path, &request(refs, group())).await;
        answer.refused(ProblemType::Malformed);
    }
    assert_eq!(state_of(&bob, &refs[0]).await, KeyPackageState::Reserved);
}

#[tokio::test]
async fn a_deployment_that_carries_its_commits_itself_lets_nobody_say_what_is_spent() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let bob = server.device_with_key_packages("bob", 1).await;
    let reserved = alice.reserve(&[&bob], &group()).await;
    let request = SpendRequest {
        refs: reserved_refs(&reserved),
        group_id: group(),
    };
    let path = format!("/v1/reservations/{}/spend", reserved.reservation_id.unwrap());
    alice
        .http
        .post(&path, &request)
        .await
        .refused(ProblemType::Forbidden);
}

#[tokio::test]
async fn all_key_packages_of_a_signature_key_are_withdrawn_at_once_and_no_others() {
    let server = TestServer::start().await;
    let alice = server.device_with_key_packages("alice", 1).await;
    let bob = server.device_with_key_packages("bob", 3).await;
    let last_resort = bob.stock_last_resort().await;
    alice.reserve(&[&bob], &group()).await;
    let all_of = |key: &[u8]| RevokeAllRequest {
        all_of: Base64Url(key.to_vec()),
    };
    let path = "/v1/key-packages/revoke";
    let revoked: Revoked = bob.http.post(path, &all_of(alice.mls.public())).await.ok();
    assert_eq!(revoked.refs, []);
    let revoked: Revoked = bob.http.post(path, &all_of(bob.mls.public())).await.ok();
    assert_eq!(revoked.refs.len(), 4);
    assert_eq!(count(&bob.inventory().await, KeyPackageState::Revoked), 4);
    assert_eq!(state_of(&bob, &last_resort).await, KeyPackageState::Revoked);
    assert_eq!(count(&alice.inventory().await, KeyPackageState::Available), 1);
}
