//! Registration, sessions and devices.

use larder_wire::{
    Base64Url, Challenge, ChallengeRequest, Memberships, ProblemType, Registered, Registration, ServerInfo,
    Session, UserDevices,
};

use reqwest::Method;

use crate::support::{Answer, Device, TestServer};

const HOUR: u64 = 60 * 60;

#[tokio::test]
async fn a_device_registers_opens_a_session_and_is_listed() {
    let server = TestServer::start().await;
    let mut alice = Device::new(&server.http, "alice");
    let registered: Registered = alice.register().await.ok();
    assert_eq!(
        (registered.user, registered.device_id),
        (alice.user.clone(), alice.id.clone())
    );
    let session = alice.open_session().await;
    assert!(session.token.len() >= 43, "a token has 256 bits");
    assert_eq!(session.expires_in_seconds, 60 * 60);

    let listed: UserDevices = alice.http.get("/v1/users/alice/devices").await.ok();
    assert_eq!(listed.devices.len(), 1);
    assert_eq!(listed.devices[0].device_id, alice.id);
    assert_eq!(listed.devices[0].mls_signature_key.0, alice.mls.to_public_vec());
    alice
        .http
        .get("/v1/users/nobody/devices")
        .await
        .refused(ProblemType::NotFound);
}

#[tokio::test]
async fn the_server_says_what_a_client_needs_to_know() {
    let server = TestServer::start().await;
    let info: ServerInfo = server.http.get("/.well-known/larder").await.ok();
    assert_eq!(
        (info.server_name.as_str(), info.api_version.as_str()),
        ("localhost", "v1")
    );
    assert_eq!((info.suites, info.group_suites), (vec![1, 3], vec![1]));
    assert_eq!(info.registration, Registration::Open);
    assert_eq!(info.limits.live_key_packages_max, 64);
}

#[tokio::test]
async fn a_user_name_a_device_id_and_a_signature_key_are_taken_once() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let mut other = Device::new(&server.http, "alice");
    other.id = "another-device".parse().unwrap();
    other.register().await.refused(ProblemType::NameTaken);

    let mut bob = Device::new(&server.http, "bob");
    bob.id = alice.id.clone();
    bob.register().await.refused(ProblemType::NameTaken);

    let mut carol = alice.without_state();
    carol.http = server.http.clone();
    carol.user = "carol".parse().unwrap();
    carol.id = "carol-1".parse().unwrap();
    carol.register().await.refused(ProblemType::NameTaken);

    for user in ["bob", "carol"] {
        let path = format!("/v1/users/{user}/devices");
        alice.http.get(&path).await.refused(ProblemType::NotFound);
    }
}

#[tokio::test]
async fn a_registration_proves_possession_of_both_keys_for_this_server_and_this_name() {
    let server = TestServer::start().await;
    let alice = Device::new(&server.http, "alice");
    let mallory = Device::new(&server.http, "mallory");
    let genuine = alice.register_request();

    let mut flipped_auth = genuine.clone();
    flipped_auth.proofs.auth.0[0] ^= 1;
    let mut flipped_mls = genuine.clone();
    flipped_mls.proofs.mls.0[0] ^= 1;
    let mut swapped = genuine.clone();
    std::mem::swap(&mut swapped.proofs.auth, &mut swapped.proofs.mls);
    let mut other_name = genuine.clone();
    other_name.user = mallory.user.clone();
    let mut other_key = genuine.clone();
    other_key.mls_signature_key = Base64Url(mallory.mls.to_public_vec());
    let mut no_proof = genuine.clone();
    no_proof.proofs.auth = Base64Url::default();
    for request in [
        flipped_auth,
        flipped_mls,
        swapped,
        other_name,
        other_key,
        no_proof,
    ] {
        server
            .http
            .post("/v1/accounts", &request)
            .await
            .refused(ProblemType::Unauthenticated);
    }

    let mut short_key = genuine.clone();
    short_key.auth_key.0.pop();
    let mut one_key = genuine.clone();
    one_key.auth_key = one_key.mls_signature_key.clone();
    for request in [short_key, one_key] {
        server
            .http
            .post("/v1/accounts", &request)
            .await
            .refused(ProblemType::Malformed);
    }
    server
        .http
        .post("/v1/accounts", &genuine)
        .await
        .ok::<Registered>();
}

#[tokio::test]
async fn a_closed_server_registers_nobody() {
    let server = TestServer::start_with(|config| config.registration = Registration::Closed, true).await;
    Device::new(&server.http, "alice")
        .register()
        .await
        .refused(ProblemType::RegistrationClosed);
}

#[tokio::test]
async fn a_challenge_is_good_once_for_its_device_and_for_a_short_time() {
    let server = TestServer::unswept().await;
    let alice = server.device("alice").await;
    let bob = server.device("bob").await;

    let challenge = alice.challenge().await;
    assert_eq!(challenge.expires_in_seconds, 60);
    let request = alice.session_request(&challenge);
    server.http.post("/v1/sessions", &request).await.ok::<Session>();
    // Replayed.
    server
        .http
        .post("/v1/sessions", &request)
        .await
        .refused(ProblemType::Unauthenticated);
    // Another device's.
    let stolen = bob.session_request(&alice.challenge().await);
    server
        .http
        .post("/v1/sessions", &stolen)
        .await
        .refused(ProblemType::Unauthenticated);
    // Signed with another key, which does not use it up for whom it is.
    let challenge = alice.challenge().await;
    let mut forged = bob.session_request(&challenge);
    forged.device_id = alice.id.clone();
    server
        .http
        .post("/v1/sessions", &forged)
        .await
        .refused(ProblemType::Unauthenticated);
    let genuine = alice.session_request(&challenge);
    server.http.post("/v1/sessions", &genuine).await.ok::<Session>();
    // Invented.
    let invented = Challenge {
        challenge: Base64Url(vec![7; 32]),
        expires_in_seconds: u64::MAX,
    };
    let request = alice.session_request(&invented);
    server
        .http
        .post("/v1/sessions", &request)
        .await
        .refused(ProblemType::Unauthenticated);
    // Too late.
    let request = alice.session_request(&alice.challenge().await);
    server.pass(5 * 60);
    server
        .http
        .post("/v1/sessions", &request)
        .await
        .refused(ProblemType::Unauthenticated);
}

/// Nobody needs an account to ask for challenges, for whatever device.
#[tokio::test]
async fn nobody_keeps_a_device_out_by_asking_for_its_challenges() {
    let server = TestServer::unswept().await;
    let alice = server.device("alice").await;
    let challenge = alice.challenge().await;
    for _ in 0..100 {
        alice.challenge().await;
    }
    let request = alice.session_request(&challenge);
    server.http.post("/v1/sessions", &request).await.ok::<Session>();
}

#[tokio::test]
async fn a_session_that_was_ended_is_good_for_nothing_and_its_challenge_for_no_other() {
    let server = TestServer::unswept().await;
    let alice = server.device("alice").await;
    let request = alice.session_request(&alice.challenge().await);
    let session: Session = server.http.post("/v1/sessions", &request).await.ok();
    let http = server.http.with_token(&session.token);
    http.get("/v1/groups").await.ok::<Memberships>();
    let end = async || Answer::to(http.request(Method::DELETE, "/v1/sessions")).await;
    end().await.done();
    http.get("/v1/groups").await.refused(ProblemType::Unauthenticated);
    end().await.refused(ProblemType::Unauthenticated);
    server.sweep().await;
    server
        .http
        .post("/v1/sessions", &request)
        .await
        .refused(ProblemType::Unauthenticated);
    // The others go on.
    alice.http.get("/v1/groups").await.ok::<Memberships>();
    server.pass(61);
    server.sweep().await;
    assert_eq!(server.database.count("SELECT count(*) FROM sessions").await, 1);
}

#[tokio::test]
async fn an_unknown_device_gets_a_challenge_too_and_no_session() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let nobody = Device::new(&server.http, "nobody");
    let (known, unknown) = (alice.challenge().await, nobody.challenge().await);
    assert_eq!(known.challenge.0.len(), unknown.challenge.0.len());
    assert_eq!(unknown.expires_in_seconds, known.expires_in_seconds);
    let request = nobody.session_request(&unknown);
    server
        .http
        .post("/v1/sessions", &request)
        .await
        .refused(ProblemType::Unauthenticated);
    let request = ChallengeRequest {
        device_id: nobody.id.clone(),
    };
    server
        .http
        .post("/v1/sessions/challenge", &request)
        .await
        .ok::<Challenge>();
}

#[tokio::test]
async fn a_session_ends_by_the_servers_clock() {
    let server = TestServer::unswept().await;
    let mut alice = server.device("alice").await;
    alice.inventory().await;
    server.pass(HOUR - 60);
    alice.inventory().await;
    server.pass(120);
    alice
        .http
        .get("/v1/key-packages")
        .await
        .refused(ProblemType::Unauthenticated);
    server.sweep().await;
    alice
        .http
        .get("/v1/key-packages")
        .await
        .refused(ProblemType::Unauthenticated);
    alice.open_session().await;
    alice.inventory().await;
}

#[tokio::test]
async fn a_token_that_the_server_did_not_give_opens_nothing() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let token = alice.http.token.clone().unwrap();
    let shortened = &token[..token.len() - 1];
    for token in ["", "x", shortened, &format!("{token}A"), &"A".repeat(10_000)] {
        let answer = server.http.with_token(token).get("/v1/groups").await;
        answer.refused(ProblemType::Unauthenticated);
    }
    for header in [
        format!("Basic {token}"),
        token.clone(),
        "Bearer".to_owned(),
        format!("Bearer {token} {token}"),
    ] {
        let request = server
            .http
            .request(reqwest::Method::GET, "/v1/groups")
            .header("Authorization", header);
        crate::support::Answer::to(request)
            .await
            .refused(ProblemType::Unauthenticated);
    }
}
