//! What is not in the database.

use larder_wire::{KeyPackageState, RevokeRequest, Revoked};

use crate::support::{KeyPackageSpec, TestServer, count};

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

#[tokio::test]
async fn neither_tokens_nor_challenges_nor_texts_nor_private_keys_are_in_the_database() {
    let mut server = TestServer::start().await;
    let mut alice = server.device("alice").await;
    let bob = server.device_with_key_packages("bob", 1).await;
    let challenge = alice.challenge().await;
    let session = alice.open_session().await;
    let (mut group, _) = alice.create_group().await;
    alice.invite(&mut group, &[&bob]).await;
    alice.send(&mut group, "attack at dawn").await;
    let unread = bob.inbox().await.last().unwrap().body.0.clone();

    let everything = server.database.everything().await;
    // The scan finds what is there.
    assert!(contains(&everything, &unread[unread.len() - 100..]));
    assert!(contains(&everything, &bob.mls.to_public_vec()));
    let token = alice.http.token.clone().unwrap();
    let encoded = |bytes: &[u8]| larder_wire::Base64Url(bytes.to_vec()).to_string().into_bytes();
    for secret in [
        session.token.clone().into_bytes(),
        token.clone().into_bytes(),
        token.parse::<larder_wire::Base64Url>().unwrap().0,
        challenge.challenge.0.clone(),
        encoded(&challenge.challenge.0),
        b"attack at dawn".to_vec(),
        alice.private_keys[0].clone(),
        alice.private_keys[1].clone(),
    ] {
        assert!(!contains(&everything, &secret));
    }
    server.stop().await;
    assert!(!contains(&server.database.everything().await, token.as_bytes()));
}

#[tokio::test]
async fn a_terminal_key_package_leaves_a_tombstone_without_its_bytes() {
    let server = TestServer::unswept().await;
    let alice = server.device("alice").await;
    let bob = server.device("bob").await;
    let minted: Vec<_> = (0..4).map(|_| bob.mint(KeyPackageSpec::default())).collect();
    let uploaded = bob.upload(&minted).await;
    let (mut group, gid) = alice.create_group().await;
    alice.invite(&mut group, &[&bob]).await;
    let reserved = alice.reserve(&[&bob], &gid).await;
    let abandon = format!("/v1/reservations/{}/abandon", reserved.reservation_id.unwrap());
    alice.http.post(&abandon, &()).await.done();
    let available = bob
        .inventory()
        .await
        .items
        .into_iter()
        .find(|item| item.state == KeyPackageState::Available)
        .unwrap();
    let revoke = RevokeRequest {
        refs: vec![available.key_package_ref],
    };
    bob.http
        .post("/v1/key-packages/revoke", &revoke)
        .await
        .ok::<Revoked>();

    let inventory = bob.inventory().await;
    for state in [
        KeyPackageState::Spent,
        KeyPackageState::Lapsed,
        KeyPackageState::Revoked,
        KeyPackageState::Available,
    ] {
        assert_eq!(count(&inventory, state), 1);
    }
    assert_eq!(uploaded.results.len(), inventory.items.len());
    let left = server.database.bytes("SELECT ref FROM key_package_bytes").await;
    let alive = inventory
        .items
        .iter()
        .find(|item| item.state == KeyPackageState::Available)
        .unwrap();
    assert_eq!(left, [alive.key_package_ref.as_bytes()]);
}
