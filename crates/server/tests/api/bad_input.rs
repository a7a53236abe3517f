//! Bad input of every endpoint gets its documented problem and changes nothing.

use larder_wire::{
    BODY_BYTES_MAX, Base64Url, ChallengeRequest, GroupId, Inbox, KeyPackageRef, MessagesRequest, ProblemType,
    ProposalRequest, RevokeRequest, UploadRequest,
};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Answer, Device, Http, KeyPackageSpec, Snapshot, TestServer, message_bytes, snapshot};

/// A request that is right in every way but the one that a test breaks.
struct Endpoint {
    path: String,
    body: Value,
    /// Members that may be absent.
    optional: &'static [&'static str],
    /// Members that take any string.
    free_text: &'static [&'static str],
}

impl Endpoint {
    fn new(path: impl Into<String>, body: &impl serde::Serialize) -> Self {
        Self {
            path: path.into(),
            body: serde_json::to_value(body).unwrap(),
            optional: &[],
            free_text: &[],
        }
    }

    fn has_only_optional_members(&self) -> bool {
        let members = self.body.as_object().map(|body| body.len());
        members == Some(self.optional.len())
    }
}

struct Scene {
    server: TestServer,
    alice: Device,
    bob: Device,
    gid: GroupId,
    /// Everything that takes a body and a session.
    endpoints: Vec<Endpoint>,
    /// Everything that takes a body and no session.
    anonymous: Vec<Endpoint>,
}

impl Scene {
    async fn set() -> Self {
        let server = TestServer::start().await;
        let alice = server.device_with_key_packages("alice", 2).await;
        let bob = server.device_with_key_packages("bob", 3).await;
        let (mut group, gid) = alice.create_group().await;
        let (taken, refs) = alice.take(&[&bob], &gid).await;
        let message = alice.encrypt(&mut group, "hello");
        let mut commit = alice.stage_adds(&mut group, taken);
        commit.reservation_id = Some("r".to_owned());
        alice.clear(&mut group);
        let (proposal, _) = group
            .propose_self_update(&alice.provider, &alice.mls, Default::default())
            .unwrap();
        let other = alice.new_group();

        let upload = UploadRequest {
            key_packages: vec![Base64Url(alice.mint(KeyPackageSpec::default()))],
        };
        let mut commit = Endpoint::new(format!("/v1/groups/{gid}/commits"), &commit);
        commit.optional = &["welcome", "reservation_id"];
        commit.free_text = &["reservation_id"];
        let mut reserve = Endpoint::new("/v1/key-packages/reserve", &alice.reserve_request(&[&bob], &gid));
        reserve.optional = &["all_or_nothing"];
        let mut revoke = Endpoint::new("/v1/key-packages/revoke", &RevokeRequest { refs });
        // Without it there may be `all_of`.
        revoke.optional = &["refs"];
        let messages = MessagesRequest {
            messages: vec![Base64Url(message)],
        };
        let proposal = ProposalRequest {
            proposal: Base64Url(message_bytes(&proposal)),
        };
        let mut next = Endpoint::new(
            "/v1/inbox/next",
            &json!({"acknowledge": alice.acknowledgement(), "limit": 1, "wait": 0}),
        );
        next.optional = &["acknowledge", "limit", "wait"];
        let endpoints = vec![
            Endpoint::new("/v1/key-packages", &upload),
            revoke,
            reserve,
            Endpoint::new("/v1/groups", &alice.create_group_request(&other)),
            Endpoint::new(format!("/v1/groups/{gid}/messages"), &messages),
            Endpoint::new(format!("/v1/groups/{gid}/proposals"), &proposal),
            commit,
            next,
        ];
        let carol = Device::new(&server.http, "carol");
        let challenge = alice.challenge().await;
        let anonymous = vec![
            Endpoint::new("/v1/accounts", &carol.register_request()),
            Endpoint::new(
                "/v1/sessions/challenge",
                &ChallengeRequest {
                    device_id: alice.id.clone(),
                },
            ),
            Endpoint::new("/v1/sessions", &alice.session_request(&challenge)),
        ];
        Self {
            server,
            alice,
            bob,
            gid,
            endpoints,
            anonymous,
        }
    }

    /// Each endpoint with the client that may use it.
    fn all(&self) -> impl Iterator<Item = (&Endpoint, &Http)> {
        let with_session = self.endpoints.iter().map(|endpoint| (endpoint, &self.alice.http));
        with_session.chain(
            self.anonymous
                .iter()
                .map(|endpoint| (endpoint, &self.server.http)),
        )
    }

    async fn snapshot(&self) -> Snapshot {
        snapshot(&[&self.alice, &self.bob], Some(&self.gid)).await
    }
}

async fn post_raw(
    http: &Http,
    path: &str,
    content_type: Option<&str>,
    body: impl Into<reqwest::Body>,
) -> Answer {
    let key = uuid::Uuid::new_v4().to_string();
    let mut request = http
        .request(Method::POST, path)
        .header("Idempotency-Key", key)
        .body(body);
    if let Some(content_type) = content_type {
        request = request.header("Content-Type", content_type);
    }
    Answer::to(request).await
}

async fn post_json(http: &Http, path: &str, body: &Value) -> Answer {
    post_raw(http, path, Some("application/json"), body.to_string()).await
}

#[tokio::test]
async fn a_body_that_is_not_the_documented_object_is_malformed() {
    let scene = Scene::set().await;
    let before = scene.snapshot().await;
    let deep = format!("{}{}", "[".repeat(8_000), "]".repeat(8_000));
    for (endpoint, http) in scene.all() {
        for body in [
            "",
            "{",
            "null",
            "[]",
            "17",
            "\"text\"",
            "{}",
            "{\"a\":1,}",
            "\u{feff}{}",
        ] {
            if body == "{}" && endpoint.has_only_optional_members() {
                continue;
            }
            let answer = post_raw(http, &endpoint.path, Some("application/json"), body).await;
            answer.refused(ProblemType::Malformed);
        }
        let answer = post_raw(
            http,
            &endpoint.path,
            Some("application/json"),
            &b"{\"\xff\": 1}"[..],
        )
        .await;
        answer.refused(ProblemType::Malformed);
        if endpoint.path.starts_with("/v1/groups") {
            post_raw(http, &endpoint.path, Some("application/json"), deep.clone())
                .await
                .refused(ProblemType::Malformed);
        }
        // The object and something after it.
        let twice = format!("{0}{0}", endpoint.body);
        let answer = post_raw(http, &endpoint.path, Some("application/json"), twice).await;
        answer.refused(ProblemType::Malformed);
    }
    assert_eq!(scene.snapshot().await, before);
}

#[tokio::test]
async fn a_missing_member_and_a_member_of_another_type_are_malformed() {
    let scene = Scene::set().await;
    let before = scene.snapshot().await;
    for (endpoint, http) in scene.all() {
        for (member, value) in endpoint.body.as_object().unwrap() {
            if !endpoint.optional.contains(&member.as_str()) {
                let mut body = endpoint.body.clone();
                body.as_object_mut().unwrap().remove(member);
                let problem = post_json(http, &endpoint.path, &body)
                    .await
                    .refused(ProblemType::Malformed);
                assert!(
                    problem.detail.unwrap().contains(member.as_str()),
                    "it says what is missing"
                );
            }
            for wrong in [
                json!(1.5),
                json!(-1),
                json!({"x": 1}),
                json!([[]]),
                json!([{"x": 1}]),
            ] {
                let mut body = endpoint.body.clone();
                body[member] = wrong;
                post_json(http, &endpoint.path, &body)
                    .await
                    .refused(ProblemType::Malformed);
            }
            if value.is_string() && !endpoint.free_text.contains(&member.as_str()) {
                for wrong in [
                    "+/+/",
                    "AAA=",
                    "A",
                    "AB!",
                    "A\u{0}",
                    "\u{202e}",
                    "Ünïcode",
                    "AAAA\n",
                ] {
                    let mut body = endpoint.body.clone();
                    body[member] = json!(wrong);
                    post_json(http, &endpoint.path, &body)
                        .await
                        .refused(ProblemType::Malformed);
                }
            }
        }
    }
    assert_eq!(scene.snapshot().await, before);
}

#[tokio::test]
async fn malformed_base64_and_names_inside_lists_are_malformed() {
    let scene = Scene::set().await;
    let before = scene.snapshot().await;
    let http = &scene.alice.http;
    for text in ["+/+/", "AAA=", "A", " AAAA"] {
        for (path, body) in [
            ("/v1/key-packages", json!({"key_packages": ["AAAA", text]})),
            ("/v1/key-packages/revoke", json!({"refs": [text]})),
            (
                "/v1/key-packages/reserve",
                json!({"users": [text], "group_id": "AAAA", "suites": [1]}),
            ),
        ] {
            post_json(http, path, &body).await.refused(ProblemType::Malformed);
        }
    }
    let long = "A".repeat(87);
    for (path, body) in [
        ("/v1/key-packages/revoke", json!({"refs": [""]})),
        ("/v1/key-packages/revoke", json!({"refs": [long]})),
        (
            "/v1/key-packages/reserve",
            json!({"users": ["bob"], "group_id": "", "suites": [1]}),
        ),
        (
            "/v1/key-packages/reserve",
            json!({"users": ["bob"], "group_id": long, "suites": [1]}),
        ),
        (
            "/v1/key-packages/reserve",
            json!({"users": ["bob"], "group_id": "AAAA", "suites": [65536]}),
        ),
        (
            "/v1/key-packages/reserve",
            json!({"users": ["a/b"], "group_id": "AAAA", "suites": [1]}),
        ),
    ] {
        post_json(http, path, &body).await.refused(ProblemType::Malformed);
    }
    assert_eq!(scene.snapshot().await, before);
}

#[tokio::test]
async fn another_content_type_is_not_read() {
    let scene = Scene::set().await;
    let before = scene.snapshot().await;
    for (endpoint, http) in scene.all() {
        let bare_allowed = endpoint.path.ends_with("/messages") || endpoint.path.ends_with("/proposals");
        for content_type in [
            None,
            Some("text/plain"),
            Some("application/jsonp"),
            Some("message/mls"),
        ] {
            if bare_allowed && content_type == Some("message/mls") {
                continue;
            }
            let answer = post_raw(http, &endpoint.path, content_type, endpoint.body.to_string()).await;
            answer.refused(ProblemType::UnsupportedMediaType);
        }
    }
    assert_eq!(scene.snapshot().await, before);
}

#[tokio::test]
async fn a_body_over_the_limit_is_too_large() {
    let scene = Scene::set().await;
    let before = scene.snapshot().await;
    for (endpoint, http) in scene.all() {
        let anonymous = http.token.is_none();
        let limit = if anonymous { 16 * 1024 } else { BODY_BYTES_MAX };
        let padded = |bytes: usize| {
            let mut body = endpoint.body.to_string();
            body.extend(std::iter::repeat_n(' ', bytes - body.len()));
            body
        };
        let answer = post_raw(http, &endpoint.path, Some("application/json"), padded(limit + 1)).await;
        answer.refused(ProblemType::TooLarge);
    }
    assert_eq!(scene.snapshot().await, before);
    // Up to the limit of its kind it is the content that counts.
    let mut body = json!({}).to_string();
    body.extend(std::iter::repeat_n(' ', 1024 * 1024));
    post_raw(
        &scene.alice.http,
        "/v1/inbox/next",
        Some("application/json"),
        body,
    )
    .await
    .ok::<Inbox>();
}

#[tokio::test]
async fn nothing_of_a_strangers_request_is_looked_at() {
    let scene = Scene::set().await;
    let before = scene.snapshot().await;
    for endpoint in &scene.endpoints {
        for token in [None, Some("forged")] {
            let http = token.map_or(scene.server.http.clone(), |token| {
                scene.server.http.with_token(token)
            });
            for body in [endpoint.body.to_string(), "{".to_owned()] {
                let answer = post_raw(&http, &endpoint.path, Some("application/json"), body).await;
                answer.refused(ProblemType::Unauthenticated);
            }
        }
    }
    assert_eq!(scene.snapshot().await, before);
}

/// R-D8.
#[tokio::test]
async fn another_users_token_reaches_nothing_of_ones_own() {
    let scene = Scene::set().await;
    let mallory = scene.server.device("mallory").await;
    let before = scene.snapshot().await;
    for endpoint in scene
        .endpoints
        .iter()
        .filter(|endpoint| endpoint.path.starts_with("/v1/groups/"))
    {
        let answer = post_json(&mallory.http, &endpoint.path, &endpoint.body).await;
        answer.refused(ProblemType::NotFound);
    }
    // Alice's KeyPackage is not Mallory's, and Alice's group not hers to create.
    let uploaded = post_json(&mallory.http, "/v1/key-packages", &scene.endpoints[0].body).await;
    assert_eq!(uploaded.ok::<larder_wire::Uploaded>().available, 0);
    let created = post_json(&mallory.http, "/v1/groups", &scene.endpoints[3].body).await;
    created.refused(ProblemType::InvalidCommit);
    let revoked = post_json(&mallory.http, "/v1/key-packages/revoke", &scene.endpoints[1].body).await;
    assert!(revoked.ok::<larder_wire::Revoked>().refs.is_empty());
    mallory.ack_up_to(&scene.gid, 1000).await.ok::<Inbox>();
    mallory
        .get_group_info(&scene.gid)
        .await
        .refused(ProblemType::NotFound);
    assert_eq!(scene.snapshot().await, before);
    assert!(mallory.inventory().await.items.is_empty());
}

#[tokio::test]
async fn malformed_paths_and_queries_are_malformed() {
    let scene = Scene::set().await;
    let before = scene.snapshot().await;
    let http = &scene.alice.http;
    let gid = &scene.gid;
    let long = "A".repeat(87);
    for path in [
        "/v1/users/Alice/devices".to_owned(),
        "/v1/users/a%2Fb/devices".to_owned(),
        "/v1/users/%ff/devices".to_owned(),
        format!("/v1/users/{}/devices", "a".repeat(65)),
        "/v1/groups/AAA=/info".to_owned(),
        "/v1/groups/!!/info".to_owned(),
        format!("/v1/groups/{long}/info"),
        format!("/v1/groups/{gid}/trees/-1"),
        format!("/v1/groups/{gid}/trees/x"),
        format!("/v1/groups/{gid}/trees/18446744073709551616"),
        format!("/v1/groups/{gid}/epochs/-1"),
        format!("/v1/groups/{gid}/commits"),
        format!("/v1/groups/{gid}/commits?from_epoch=-1"),
        format!("/v1/groups/{gid}/commits?from_epoch=x"),
        format!("/v1/groups/{gid}/commits?from_epoch=1&from_epoch=2"),
    ] {
        http.get(&path).await.refused(ProblemType::Malformed);
    }
    for path in [
        "/v1/key-packages/!!".to_owned(),
        format!("/v1/key-packages/{long}"),
    ] {
        Answer::to(http.request(Method::DELETE, &path))
            .await
            .refused(ProblemType::Malformed);
    }
    for request in [
        json!({"limit": 0}),
        json!({"limit": -1}),
        json!({"limit": 4_294_967_296_u64}),
        json!({"wait": 1.5}),
        json!({"acknowledge": {}}),
        json!({"acknowledge": {"incarnation": "x", "groups": [{"group_id": "!!", "seq": 1}]}}),
        json!({"acknowledge": {"incarnation": "x", "groups": [{"group_id": "AAAA", "seq": -1}]}}),
        json!({"acknowledge": {"incarnation": "x", "groups": vec![json!({"group_id": "AAAA", "seq": 1}); 4097]}}),
    ] {
        post_json(http, "/v1/inbox/next", &request)
            .await
            .refused(ProblemType::Malformed);
    }
    let message = json!({"messages": ["AAAA"]});
    post_json(http, "/v1/groups/!!/messages", &message)
        .await
        .refused(ProblemType::Malformed);
    assert_eq!(scene.snapshot().await, before);
}

#[tokio::test]
async fn numbers_at_the_edge_of_their_type_are_just_numbers() {
    let scene = Scene::set().await;
    let http = &scene.alice.http;
    for number in [u64::MAX, i64::MAX as u64, i64::MAX as u64 + 1] {
        let request = json!({"limit": u32::MAX, "wait": 0});
        post_json(http, "/v1/inbox/next", &request).await.ok::<Inbox>();
        for what in [format!("epochs/{number}"), format!("commits?from_epoch={number}")] {
            http.get(&format!("/v1/groups/{}/{what}", scene.gid))
                .await
                .refused(ProblemType::NotFound);
        }
        http.get(&format!("/v1/groups/{}/trees/{number}", scene.gid))
            .await
            .refused(ProblemType::NotFound);
        scene
            .alice
            .ack_up_to(&scene.gid, number)
            .await
            .refused(ProblemType::PositionAhead);
        let mut acknowledgement = scene.alice.acknowledgement();
        acknowledgement.mail = Some(number);
        scene.alice.acknowledge(acknowledgement).await.ok::<Inbox>();
    }
}

#[tokio::test]
async fn batches_are_bounded() {
    let scene = Scene::set().await;
    let before = scene.snapshot().await;
    let http = &scene.alice.http;
    let nothing = json!({"key_packages": []});
    post_json(http, "/v1/key-packages", &nothing)
        .await
        .refused(ProblemType::Malformed);
    let too_many = json!({"key_packages": vec!["AAAA"; 65]});
    post_json(http, "/v1/key-packages", &too_many)
        .await
        .refused(ProblemType::TooLarge);
    assert_eq!(scene.snapshot().await, before);
}

#[tokio::test]
async fn members_that_the_server_does_not_know_are_ignored() {
    let scene = Scene::set().await;
    for (endpoint, http) in scene.all() {
        let mut body = endpoint.body.clone();
        body["a_later_member"] = json!({"deep": [1, 2, {"x": null}]});
        let answer = post_json(http, &endpoint.path, &body).await;
        assert!(
            matches!(answer.status, 200 | 201 | 204),
            "{} {answer:?}",
            endpoint.path
        );
    }
}

#[tokio::test]
async fn every_recorded_request_replayed_by_another_changes_nothing_for_its_owner() {
    let scene = Scene::set().await;
    for (endpoint, http) in scene.all() {
        post_json(http, &endpoint.path, &endpoint.body).await;
    }
    let mallory = scene.server.device("mallory").await;
    let before = scene.snapshot().await;
    for endpoint in scene
        .endpoints
        .iter()
        .filter(|endpoint| !endpoint.path.ends_with("/reserve"))
    {
        post_json(&mallory.http, &endpoint.path, &endpoint.body).await;
    }
    for endpoint in &scene.anonymous {
        let answer = post_json(&scene.server.http, &endpoint.path, &endpoint.body).await;
        if endpoint.path != "/v1/sessions/challenge" {
            assert!(matches!(answer.status, 401 | 409), "{} {answer:?}", endpoint.path);
        }
    }
    assert_eq!(scene.snapshot().await, before);
    let unknown = KeyPackageRef::from_bytes(&[1; 32]).unwrap();
    let revoked = post_json(
        &mallory.http,
        "/v1/key-packages/revoke",
        &json!({"refs": [unknown]}),
    )
    .await;
    assert!(revoked.ok::<larder_wire::Revoked>().refs.is_empty());
}
