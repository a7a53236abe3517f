//! Several devices of one user: linked one by another, listed with the proof of it, and removed.

use larder_judge::{Evidence, Leaf};
use larder_wire::{
    Base64Url, DeviceInfo, GroupInfoAnswer, InboxKind, KeyPackageState, LABEL_DEVICE_LINK, LABEL_REGISTER,
    LinkRequest, Membership, Memberships, ProblemType, Registered, Removal, Reserved, UserName, link_content,
    removal_content, sign_with_label_content,
};
use openmls::prelude::{LeafNodeParameters, OpenMlsCrypto as _, OpenMlsProvider as _, SignatureScheme};
use openmls_traits::signatures::Signer as _;
use reqwest::Method;

use crate::support::{Answer, Device, TestServer, message_bytes, outcomes, snapshot, state_of};

async fn link(by: &Device, request: &LinkRequest) -> Answer {
    by.http.post("/v1/devices", request).await
}

/// The users that the device's `device-change` rows name.
async fn changes(device: &Device) -> Vec<String> {
    let rows = device.rows(InboxKind::DeviceChange).await;
    rows.into_iter()
        .map(|row| String::from_utf8(row.body.0).unwrap())
        .collect()
}

/// Whether every device but the first is authorized by one before it.
fn verifies_from_the_first(user: &Device, devices: &[DeviceInfo]) -> bool {
    let crypto = user.provider.crypto();
    devices.iter().enumerate().all(|(index, device)| {
        let Some(authorization) = &device.authorization else {
            return index == 0;
        };
        let content = link_content(
            "localhost",
            &user.user,
            &device.device_id,
            &device.auth_key.0,
            &device.mls_signature_key.0,
        );
        let labelled = sign_with_label_content(LABEL_DEVICE_LINK, &content);
        devices[..index]
            .iter()
            .filter(|by| by.device_id == authorization.by)
            .any(|by| {
                let (key, signature) = (&by.mls_signature_key.0, &authorization.signature.0);
                crypto
                    .verify_signature(SignatureScheme::ED25519, &labelled, key, signature)
                    .is_ok()
            })
    })
}

#[tokio::test]
async fn a_linked_device_is_a_device_of_its_user_with_a_pool_of_its_own() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let bob = server.device_with_key_packages("bob", 1).await;
    let second = bob.link(2).await;
    second.stock(1).await;
    let (_, gid) = alice.create_group().await;
    let reserved = alice.reserve(&[&bob], &gid).await;
    let devices: Vec<_> = reserved.users[0].devices.iter().map(|d| &d.device_id).collect();
    assert_eq!(devices, [&bob.id, &second.id], "one KeyPackage of each");
    assert!(reserved.users[0].devices.iter().all(|d| d.key_package.is_some()));
}

#[tokio::test]
async fn only_the_signature_of_a_present_device_of_the_user_links_another() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let mallory = server.device("mallory").await;
    let gone = alice.link(2).await;
    alice.remove_device(&gone.id).await.done();
    let new = alice.further(3);
    let good = alice.link_request(&new);

    // By itself, by another user's device in its own name and in hers, and by a device that was removed.
    let mut by_itself = new.link_request(&new);
    by_itself.authorization.by = alice.id.clone();
    let mut in_her_name = mallory.link_request(&new);
    in_her_name.authorization.by = alice.id.clone();
    let by_the_removed = gone.link_request(&new);
    // What alice signed is for one device and its keys, and no other signature of hers will do.
    let mut for_another = alice.link_request(&alice.further(4));
    for_another.device = good.device.clone();
    let mut under_another_label = good.clone();
    let content = link_content(
        "localhost",
        &new.user,
        &new.id,
        new.auth.public(),
        new.mls.public(),
    );
    let labelled = sign_with_label_content(LABEL_REGISTER, &content);
    under_another_label.authorization.signature = alice.mls.sign(&labelled).unwrap().into();

    let everyone = [&alice, &mallory];
    let before = snapshot(&everyone, None).await;
    for forged in [
        &by_itself,
        &mallory.link_request(&new),
        &in_her_name,
        &by_the_removed,
        &for_another,
        &under_another_label,
    ] {
        link(&alice, forged).await.refused(ProblemType::Forbidden);
    }
    // Nor does a stranger carry it, nor anybody without a session.
    link(&mallory, &good).await.refused(ProblemType::Forbidden);
    link(&new, &good).await.refused(ProblemType::Unauthenticated);
    // The new device proves that it has its keys.
    let mut unproven = good.clone();
    unproven.device.proofs.auth = unproven.device.proofs.mls.clone();
    link(&alice, &unproven)
        .await
        .refused(ProblemType::Unauthenticated);
    assert_eq!(snapshot(&everyone, None).await, before);
    assert_eq!(alice.devices_of("alice").await.len(), 2);
    link(&alice, &good).await.ok::<Registered>();
}

#[tokio::test]
async fn a_link_that_is_repeated_is_answered_alike_and_a_taken_name_is_not_given_again() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let bob = server.device("bob").await;
    let new = alice.further(2);
    let request = alice.link_request(&new);
    let first: Registered = link(&alice, &request).await.ok();
    assert_eq!(link(&alice, &request).await.ok::<Registered>(), first);
    assert_eq!(changes(&alice).await, ["alice"], "it happened once");

    let mut impostor = alice.further(2);
    impostor.id = bob.id.clone();
    link(&alice, &alice.link_request(&impostor))
        .await
        .refused(ProblemType::NameTaken);
    // Not even that of a device that was removed.
    alice.remove_device(&new.id).await.done();
    link(&alice, &request).await.refused(ProblemType::NameTaken);
}

#[tokio::test]
async fn a_user_has_so_many_devices_and_a_removed_one_makes_room() {
    let server = TestServer::start_with(|config| config.user_devices_max = 2, true).await;
    let alice = server.device("alice").await;
    let second = alice.link(2).await;
    let third = alice.further(3);
    let request = second.link_request(&third);
    link(&alice, &request).await.refused(ProblemType::TooManyDevices);
    alice.remove_device(&second.id).await.done();
    let request = alice.link_request(&third);
    link(&alice, &request).await.ok::<Registered>();
    let info: larder_wire::ServerInfo = server.http.get("/.well-known/larder").await.ok();
    assert_eq!(info.limits.user_devices_max, 2);
}

#[tokio::test]
async fn r_c8_the_list_of_devices_verifies_from_the_first_one_on_also_through_those_removed() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let bob = server.device("bob").await;
    let second = alice.link(2).await;
    let third = second.link(3).await;
    third.remove_device(&second.id).await.done();
    let devices = bob.devices_of("alice").await;
    let ids: Vec<_> = devices.iter().map(|device| &device.device_id).collect();
    assert_eq!(ids, [&alice.id, &second.id, &third.id]);
    let removed: Vec<_> = devices.iter().map(|device| device.removed_at.is_some()).collect();
    assert_eq!(removed, [false, true, false]);
    assert!(verifies_from_the_first(&alice, &devices));

    let mut forged = devices.clone();
    forged[2].mls_signature_key = bob.mls.to_public_vec().into();
    assert!(!verifies_from_the_first(&alice, &forged), "the check can fail");
}

#[tokio::test]
async fn only_a_present_device_of_the_user_removes_one_by_its_own_signature() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let (second, third) = (alice.link(2).await, alice.link(3).await);
    let mallory = server.device("mallory").await;
    let key = second.mls.public();
    let by_another = third.removal(&second.id, key);
    let by_a_stranger = mallory.removal(&second.id, key);
    let for_another = alice.removal(&third.id, key);
    let for_another_key = alice.removal(&second.id, third.mls.public());
    let mut damaged = alice.removal(&second.id, key);
    damaged.signature.0[0] ^= 1;
    let mut under_another_label = damaged.clone();
    let content = removal_content("localhost", &alice.user, &second.id, key);
    let labelled = sign_with_label_content(LABEL_DEVICE_LINK, &content);
    under_another_label.signature = alice.mls.sign(&labelled).unwrap().into();
    for forged in [
        by_another,
        by_a_stranger,
        for_another,
        for_another_key,
        damaged,
        under_another_label,
    ] {
        alice
            .remove_by(&second.id, &forged)
            .await
            .refused(ProblemType::Forbidden);
    }
    let good = alice.removal(&second.id, key);
    mallory
        .remove_by(&second.id, &good)
        .await
        .refused(ProblemType::NotFound);
    let of = async |id: &larder_wire::DeviceId| {
        let devices = mallory.devices_of("alice").await;
        devices
            .into_iter()
            .find(|device| device.device_id == *id)
            .unwrap()
    };
    assert_eq!(of(&second.id).await.removed_at, None);
    alice.remove_by(&second.id, &good).await.done();
    let removed = of(&second.id).await;
    assert!(removed.removed_at.is_some());
    let removal = Removal {
        by: alice.id.clone(),
        signature: good.signature.clone(),
    };
    assert_eq!(removed.removal, Some(removal));
    // Another one that is repeated, by whomever, changes nothing.
    third.remove_device(&second.id).await.done();
    assert_eq!(of(&second.id).await, removed);
    alice.remove_by(&second.id, &good).await.done();
    // By itself.
    third.remove_device(&third.id).await.done();
    assert_eq!(of(&third.id).await.removal.unwrap().by, third.id);
}

#[tokio::test]
async fn a_removal_that_nobody_signed_can_be_signed_later() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let second = alice.link(2).await;
    let bob = server.device("bob").await;
    server
        .database
        .corrupt("UPDATE devices SET removed_at = 7 WHERE authorized_by IS NOT NULL")
        .await;
    let listed = bob.devices_of("alice").await;
    assert_eq!((listed[1].removed_at, &listed[1].removal), (Some(7), &None));
    alice.remove_device(&second.id).await.done();
    let listed = bob.devices_of("alice").await;
    assert_eq!(listed[1].removed_at, Some(7));
    assert_eq!(listed[1].removal.as_ref().unwrap().by, alice.id);
}

#[tokio::test]
async fn who_shares_a_group_is_told_that_a_device_came_or_went_and_strangers_are_not() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let bob = server.device_with_key_packages("bob", 1).await;
    let carol = server.device("carol").await;
    let (mut alices, _) = alice.create_group().await;
    alice.invite(&mut alices, &[&bob]).await;
    // A device of bob that is in no group of alice's.
    let bobs_second = bob.link(2).await;
    let second = alice.link(2).await;
    // Groups and what is told outside of them have no order among themselves within a second.
    let changes = async |device: &Device| {
        let mut of = changes(device).await;
        of.sort_unstable();
        of
    };
    // Of one's own user once outside of any group, and of those in the group.
    assert_eq!(changes(&alice).await, ["alice", "alice", "bob"]);
    assert_eq!(changes(&bob).await, ["alice", "bob", "bob"]);
    assert_eq!(changes(&bobs_second).await, ["bob"]);
    assert_eq!(changes(&second).await, ["alice"]);
    assert_eq!(changes(&carol).await, [""; 0]);
    alice.remove_device(&second.id).await.done();
    assert_eq!(changes(&bob).await, ["alice", "alice", "bob", "bob"]);
    assert_eq!(changes(&alice).await, ["alice", "alice", "alice", "bob"]);
}

#[tokio::test]
async fn a_linked_device_finds_the_groups_of_its_user_and_joins_them_by_external_commit() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let (mut alices, gid) = alice.create_group().await;
    let second = alice.link(2).await;
    let groups = async |device: &Device, of: &str| {
        let answer = device.http.get(&format!("/v1/groups{of}")).await;
        answer.ok::<Memberships>().groups
    };
    let there = [Membership {
        group_id: gid.clone(),
        epoch: 0,
        head: 1,
        gaps: Vec::new(),
    }];
    assert_eq!(groups(&second, "").await, []);
    assert_eq!(groups(&second, "?of=device").await, []);
    assert_eq!(groups(&second, "?of=user").await, there);
    assert_eq!(groups(&alice, "?of=user").await, there);
    let stranger = server.device("mallory").await;
    assert_eq!(groups(&stranger, "?of=user").await, []);
    let bad = alice.http.get("/v1/groups?of=everybody").await;
    bad.refused(ProblemType::Malformed);

    let answer: GroupInfoAnswer = second.get_group_info(&gid).await.ok();
    // Not without the proof that it was let in, and with nothing that only looks like one.
    let listed = second.devices_of("alice").await;
    let leaf = |device: &Device| Leaf {
        user: device.user.clone(),
        device: device.id.clone(),
        signature_key: device.mls.to_public_vec(),
    };
    let evidence = Evidence::gather(&[leaf(&alice)], &leaf(&second), &listed)
        .unwrap()
        .to_bytes();
    let mut flipped = evidence.clone();
    *flipped.last_mut().unwrap() ^= 1;
    for unproven in [vec![], flipped] {
        let (_, request) = second.external_commit_with(&answer, unproven);
        let problem = second
            .post_commit(&gid, &request)
            .await
            .refused(ProblemType::InvalidCommit);
        assert_eq!(problem.check.as_deref(), Some("external-commit"));
    }
    let (mut seconds, request) = second.external_commit_with(&answer, evidence);
    second
        .post_commit(&gid, &request)
        .await
        .ok::<larder_wire::Accepted>();
    alice.catch_up(&mut alices).await;
    alice.send(&mut alices, "to myself").await;
    assert_eq!(second.catch_up(&mut seconds).await, ["to myself"]);

    // A group of later: the other device is told of it.
    alice.create_group().await;
    let (_, later) = alice.create_group().await;
    let rows = second.rows(InboxKind::DeviceChange).await;
    assert_eq!(rows.len(), 1, "it looks once, however many there are");
    assert_eq!((&rows[0].group_id, &rows[0].body.0[..]), (&None, &b"alice"[..]));
    let groups: Memberships = second.http.get("/v1/groups?of=user").await.ok();
    assert!(groups.groups.iter().any(|known| known.group_id == later));
}

#[tokio::test]
async fn r_s7_a_removed_device_can_do_nothing_any_more_and_what_was_its_is_gone() {
    let server = TestServer::generous().await;
    let alice = server.device("alice").await;
    let bob = server.device_with_key_packages("bob", 2).await;
    let lost = bob.link(2).await;
    let (mut alices, gid) = alice.create_group().await;
    lost.stock(2).await;
    lost.stock_last_resort().await;
    let reserved = alice.reserve(&[&bob], &gid).await;
    let key_packages: Vec<_> = reserved.users[0]
        .devices
        .iter()
        .map(|device| alice.validate(&device.key_package.as_ref().unwrap().0))
        .collect();
    let request = alice.stage_adds(&mut alices, key_packages);
    alice.commit(&mut alices, &request).await;
    let mut bobs = bob.join().await;
    let mut losts = lost.join().await;
    // It has a session, which was looked up before it is removed, and rows in its inbox.
    let session = lost.open_session_token().await;
    let caller = server.service.authenticate(&session).await.unwrap();
    alice.send(&mut alices, "hello").await;
    assert_eq!(lost.rows(InboxKind::Message).await.len(), 1);
    let message = lost.encrypt(&mut losts, "still here");
    let commit = lost.stage_update(&mut losts);
    let challenge = lost.challenge().await;

    bob.remove_device(&lost.id).await.done();
    bob.remove_device(&lost.id).await.done();
    lost.post_message(&gid, &message)
        .await
        .refused(ProblemType::Unauthenticated);
    lost.post_commit(&gid, &commit)
        .await
        .refused(ProblemType::Unauthenticated);
    // Nor a request that was on its way.
    let refused = |error| match error {
        larder_server::ServiceError::Refused(problem) => problem.problem_type,
        larder_server::ServiceError::Fault(fault) => panic!("{fault}"),
    };
    let late = server
        .service
        .send_messages(&caller, gid.clone(), vec![Base64Url(message)])
        .await;
    assert_eq!(late.map_err(refused), Err(ProblemType::Unauthenticated));
    let late = server.service.commit(&caller, gid.clone(), commit).await;
    assert_eq!(late.map_err(refused), Err(ProblemType::Unauthenticated));
    // Nor a session, from a challenge of before, or a new one. Why, learns only who has its key.
    let open = async |request| lost.http.post("/v1/sessions", &request).await;
    for challenge in [challenge, lost.challenge().await] {
        let mut request = lost.session_request(&challenge);
        request.signature.0[0] ^= 1;
        open(request.clone()).await.refused(ProblemType::Unauthenticated);
        request.signature.0[0] ^= 1;
        open(request).await.refused(ProblemType::DeviceRemoved);
    }
    let of_lost = "(SELECT id FROM devices WHERE removed_at IS NOT NULL)";
    for (sql, expected) in [
        ("mail WHERE device_id IN", 0),
        ("sessions WHERE device_id IN", 0),
        ("members WHERE device_id IN", 0),
        ("key_packages WHERE status < 3 AND device_id IN", 0),
        (
            "audit WHERE transition = 'revoke' AND actor LIKE 'bob/bob-1' AND device_id IN",
            2,
        ),
    ] {
        let sql = format!("SELECT count(*) FROM {sql} {of_lost}");
        assert_eq!(server.database.count(&sql).await, expected, "{sql}");
    }
    // Nobody is handed a KeyPackage of it, the others go on, and a member's Commit takes its leaf away.
    let (_, other) = alice.create_group().await;
    assert_eq!(outcomes(&alice.reserve(&[&bob], &other).await).len(), 1);
    bob.catch_up(&mut bobs).await;
    let request = bob.stage_remove(&mut bobs, losts.own_leaf_index());
    bob.commit(&mut bobs, &request).await;
    alice.catch_up(&mut alices).await;
    alice.send(&mut alices, "without it").await;
    assert_eq!(bob.catch_up(&mut bobs).await.last().unwrap(), "without it");
}

#[tokio::test]
async fn an_invitation_that_was_under_way_does_not_add_a_removed_device() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let bob = server.device("bob").await;
    let second = bob.link(2).await;
    let refs = second.stock(1).await;
    let (mut alices, gid) = alice.create_group().await;
    let reserved = alice.reserve(&[&bob], &gid).await;
    assert_eq!(state_of(&second, &refs[0]).await, KeyPackageState::Reserved);
    let of_second = reserved.users[0].devices[1].key_package.as_ref();
    let key_packages = vec![alice.validate(&of_second.unwrap().0)];
    second.remove_device(&second.id).await.done();
    let request = alice.stage_adds(&mut alices, key_packages);
    alice
        .post_commit(&gid, &request)
        .await
        .refused(ProblemType::InvalidCommit);
}

#[tokio::test]
async fn with_the_last_device_the_account_ends_and_its_name_stays_taken() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let bob = server.device_with_key_packages("bob", 1).await;
    let (mut alices, _) = alice.create_group().await;
    alice.invite(&mut alices, &[&bob]).await;
    bob.remove_device(&bob.id).await.done();
    assert_eq!(changes(&alice).await, ["bob"]);
    let devices = alice.devices_of("bob").await;
    assert!(devices.len() == 1 && devices[0].removed_at.is_some());
    let (_, gid) = alice.create_group().await;
    let request = alice.reserve_request(&[&bob], &gid);
    let answer = alice
        .http
        .post_with_key("/v1/key-packages/reserve", "k", &request)
        .await;
    answer.refused(ProblemType::NotFound);
    let mut again = Device::new(&server.http, "bob");
    again.id = "bob-new".parse().unwrap();
    again.register().await.refused(ProblemType::NameTaken);
}

#[tokio::test]
async fn an_account_is_ended_by_its_owner_with_all_of_its_devices_and_by_nobody_else() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let second = alice.link(2).await;
    let mallory = server.device("mallory").await;
    let end = async |by: &Device, user: &UserName| {
        let path = format!("/v1/accounts/{user}");
        Answer::to(by.http.request(Method::DELETE, &path)).await
    };
    end(&mallory, &alice.user).await.refused(ProblemType::NotFound);
    mallory
        .remove_device(&alice.id)
        .await
        .refused(ProblemType::NotFound);
    mallory
        .remove_device(&"nobodys".parse().unwrap())
        .await
        .refused(ProblemType::NotFound);
    assert!(
        alice
            .devices_of("alice")
            .await
            .iter()
            .all(|device| device.removed_at.is_none())
    );
    end(&second, &alice.user).await.done();
    for device in [&alice, &second] {
        let answer = device.http.get("/v1/groups").await;
        answer.refused(ProblemType::Unauthenticated);
    }
    assert!(
        mallory
            .devices_of("alice")
            .await
            .iter()
            .all(|device| device.removed_at.is_some() && device.removal.is_none())
    );
    assert_eq!(server.database.count("SELECT count(*) FROM mail").await, 0);
    let _: Reserved = mallory
        .reserve(&[&mallory], &mallory.create_group().await.1)
        .await;
}

#[tokio::test]
async fn of_two_devices_that_remove_one_another_one_stays() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    for number in 2..6 {
        let second = alice.link(number).await;
        let (first_says, second_says) =
            tokio::join!(alice.remove_device(&second.id), second.remove_device(&alice.id));
        let devices = server
            .device(&format!("witness{number}"))
            .await
            .devices_of("alice")
            .await;
        let present = devices
            .iter()
            .filter(|device| device.removed_at.is_none())
            .count();
        assert_eq!(present, 1, "round {number}");
        if first_says.status == 204 {
            second_says.refused(ProblemType::Unauthenticated);
        } else {
            second_says.done();
            first_says.refused(ProblemType::Unauthenticated);
            return;
        }
    }
}

#[tokio::test]
async fn two_links_at_once_do_not_exceed_what_a_user_may_have() {
    let server = TestServer::start_with(|config| config.user_devices_max = 3, true).await;
    let alice = server.device("alice").await;
    let second = alice.link(2).await;
    let requests = [
        alice.link_request(&alice.further(3)),
        second.link_request(&alice.further(4)),
    ];
    let (one, other) = tokio::join!(link(&alice, &requests[0]), link(&second, &requests[1]));
    let mut statuses = [one.status, other.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 409]);
    assert_eq!(alice.devices_of("alice").await.len(), 3);
}

#[tokio::test]
async fn what_a_removed_device_had_proposed_keeps_nobody_from_committing() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let bob = server.device_with_key_packages("bob", 1).await;
    let (mut alices, gid) = alice.create_group().await;
    alice.invite(&mut alices, &[&bob]).await;
    let mut bobs = bob.join().await;
    let (proposal, _) = bobs
        .propose_self_update(&bob.provider, &bob.mls, LeafNodeParameters::default())
        .unwrap();
    bob.post_proposal(&gid, &message_bytes(&proposal))
        .await
        .ok::<larder_wire::Sent>();
    alice.catch_up(&mut alices).await;
    bob.remove_device(&bob.id).await.done();
    let request = alice.stage_update(&mut alices);
    alice.commit(&mut alices, &request).await;
    let request = alice.stage_remove(&mut alices, bobs.own_leaf_index());
    alice.commit(&mut alices, &request).await;
    assert_eq!(alices.members().count(), 1);
}
