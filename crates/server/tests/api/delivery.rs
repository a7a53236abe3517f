//! Messages, proposals, trees and the inbox.

use std::time::{Duration, Instant};

use larder_wire::{
    Gone, GroupCreated, GroupId, Inbox, InboxKind, MESSAGE_BYTES_MAX, MessagesRequest, NextRequest, Position,
    ProblemType, RatchetTreeAnswer, Sent,
};
use openmls::prelude::tls_codec::Serialize as _;
use openmls::prelude::{MlsGroup, MlsGroupCreateConfig, PURE_CIPHERTEXT_WIRE_FORMAT_POLICY};
use reqwest::Method;

use crate::support::{Answer, Device, SUITE, TestServer, id_of, message_bytes, snapshot};

/// Alice and Bob in a group; Mallory outside.
pub(crate) async fn scene(server: &TestServer) -> (Device, MlsGroup, Device, MlsGroup, GroupId) {
    let alice = server.device("alice").await;
    let bob = server.device_with_key_packages("bob", 3).await;
    let (mut alices, gid) = alice.create_group().await;
    alice.invite(&mut alices, &[&bob]).await;
    let bobs = bob.join().await;
    (alice, alices, bob, bobs, gid)
}

/// S9, X1.
#[tokio::test]
async fn messages_arrive_in_order_once_and_their_numbers_have_no_gaps() {
    let server = TestServer::start().await;
    let (alice, mut alices, bob, mut bobs, _) = scene(&server).await;
    let mut seqs = Vec::new();
    for number in 0..5 {
        seqs.push(alice.send(&mut alices, &format!("to bob {number}")).await.seq);
        seqs.push(bob.send(&mut bobs, &format!("to alice {number}")).await.seq);
    }
    assert_eq!(seqs, (2..12).collect::<Vec<_>>(), "the Commit was 1");
    // What is bob's own is passed, so that he can tell that nothing is left out.
    let mut rows = bob.every_row().await;
    rows.retain(|row| row.group_id.is_some());
    let numbers: Vec<_> = rows.iter().map(|row| (row.first, row.seq, row.kind)).collect();
    let expected = (2..12).map(|seq| match seq % 2 {
        0 => (None, seq, InboxKind::Message),
        _ => (None, seq, InboxKind::Passed),
    });
    assert_eq!(numbers, expected.collect::<Vec<_>>());
    assert!(
        rows.iter()
            .all(|row| row.body.is_empty() == (row.kind == InboxKind::Passed))
    );
    assert_eq!(
        bob.catch_up(&mut bobs).await,
        (0..5).map(|at| format!("to bob {at}")).collect::<Vec<_>>()
    );
    assert_eq!(alice.catch_up(&mut alices).await.len(), 5);
    assert!(bob.inbox().await.is_empty() && alice.inbox().await.is_empty());
}

/// X1.
#[tokio::test]
async fn a_message_sent_again_is_delivered_once() {
    let server = TestServer::start().await;
    let (alice, mut alices, bob, _, gid) = scene(&server).await;
    let message = alice.encrypt(&mut alices, "once");
    let first = alice.post_message(&gid, &message).await;
    let before = snapshot(&[&alice, &bob], Some(&gid)).await;
    assert_eq!(alice.post_message(&gid, &message).await.body, first.body);
    // Somebody else's bytes are not one's own message.
    assert!(matches!(bob.post_message(&gid, &message).await.status, 403 | 422));
    assert_eq!(snapshot(&[&alice, &bob], Some(&gid)).await, before);
}

#[tokio::test]
async fn a_message_of_the_previous_epoch_is_accepted_and_an_older_one_is_not() {
    let server = TestServer::start().await;
    let (alice, mut alices, bob, mut bobs, gid) = scene(&server).await;
    let (late, too_late) = (bob.encrypt(&mut bobs, "late"), bob.encrypt(&mut bobs, "too late"));
    let update = alice.stage_update(&mut alices);
    alice.commit(&mut alices, &update).await;
    bob.post_message(&gid, &late).await.ok::<Sent>();
    let update = alice.stage_update(&mut alices);
    alice.commit(&mut alices, &update).await;
    let before = snapshot(&[&alice, &bob], Some(&gid)).await;
    let problem = bob
        .post_message(&gid, &too_late)
        .await
        .refused(ProblemType::WrongEpoch);
    assert_eq!(problem.current_epoch, Some(3));
    assert_eq!(snapshot(&[&alice, &bob], Some(&gid)).await, before);
    assert_eq!(alice.catch_up(&mut alices).await, ["late"]);
}

#[tokio::test]
async fn a_joiner_is_not_given_messages_from_before_it_joined() {
    let server = TestServer::start().await;
    let (alice, mut alices, bob, mut bobs, gid) = scene(&server).await;
    let carol = server.device_with_key_packages("carol", 1).await;
    let before_carol = bob.encrypt(&mut bobs, "before carol");
    alice.invite(&mut alices, &[&carol]).await;
    bob.post_message(&gid, &before_carol).await.ok::<Sent>();
    assert!(carol.rows(InboxKind::Message).await.is_empty());
    let mut carols = carol.join().await;
    alice.send(&mut alices, "with carol").await;
    assert_eq!(carol.catch_up(&mut carols).await, ["with carol"]);
    assert_eq!(alice.catch_up(&mut alices).await, ["before carol"]);
}

#[tokio::test]
async fn a_message_of_an_epoch_to_come_is_refused() {
    let server = TestServer::start().await;
    let (alice, mut alices, bob, _, gid) = scene(&server).await;
    alice.stage_update(&mut alices);
    alice.merge(&mut alices);
    let early = alice.encrypt(&mut alices, "early");
    let before = snapshot(&[&alice, &bob], Some(&gid)).await;
    alice
        .post_message(&gid, &early)
        .await
        .refused(ProblemType::WrongEpoch);
    assert_eq!(snapshot(&[&alice, &bob], Some(&gid)).await, before);
}

/// R-S7.
#[tokio::test]
async fn whoever_is_not_or_no_longer_a_member_sends_and_reads_nothing() {
    let server = TestServer::start().await;
    let (alice, mut alices, bob, mut bobs, gid) = scene(&server).await;
    let mallory = server.device("mallory").await;
    let message = bob.encrypt(&mut bobs, "hello");
    let (proposal, _) = bobs
        .propose_self_update(&bob.provider, &bob.mls, Default::default())
        .unwrap();
    let proposal = message_bytes(&proposal);

    let request = alice.stage_remove(&mut alices, bobs.own_leaf_index());
    alice.commit(&mut alices, &request).await;
    let before = snapshot(&[&alice, &bob, &mallory], Some(&gid)).await;
    let nowhere = GroupId::from_bytes(b"nowhere").unwrap();
    for outsider in [&bob, &mallory] {
        for group in [&gid, &nowhere] {
            outsider
                .post_message(group, &message)
                .await
                .refused(ProblemType::NotFound);
            outsider
                .post_proposal(group, &proposal)
                .await
                .refused(ProblemType::NotFound);
            outsider
                .get_group_info(group)
                .await
                .refused(ProblemType::NotFound);
            outsider
                .ratchet_tree(group, 1)
                .await
                .refused(ProblemType::NotFound);
        }
    }
    assert_eq!(snapshot(&[&alice, &bob, &mallory], Some(&gid)).await, before);
    alice.send(&mut alices, "without bob").await;
    assert!(bob.rows(InboxKind::Message).await.is_empty());
}

#[tokio::test]
async fn only_an_application_message_of_this_group_is_a_message() {
    let server = TestServer::start().await;
    let (alice, mut alices, bob, _, gid) = scene(&server).await;
    // A handshake message in the dress of a PrivateMessage: its content type is in the clear.
    let config = MlsGroupCreateConfig::builder()
        .ciphersuite(SUITE)
        .wire_format_policy(PURE_CIPHERTEXT_WIRE_FORMAT_POLICY)
        .build();
    let group_id = openmls::group::GroupId::from_slice(gid.as_bytes());
    let twin = Device::new(&server.http, "twin");
    let mut private =
        MlsGroup::new_with_group_id(&twin.provider, &twin.mls, &config, group_id, twin.credential()).unwrap();
    let (smuggled, _) = private
        .propose_self_update(&twin.provider, &twin.mls, Default::default())
        .unwrap();
    let update = alice.stage_update(&mut alices);
    alice.clear(&mut alices);
    let elsewhere = alice.encrypt(&mut alice.new_group(), "elsewhere");
    let mut trailing = alice.encrypt(&mut alices, "trailing");
    trailing.push(0);

    let before = snapshot(&[&alice, &bob], Some(&gid)).await;
    for bytes in [
        message_bytes(&smuggled),
        update.commit.0,
        update.group_info.0,
        elsewhere,
        trailing,
        vec![],
        b"garbage".to_vec(),
    ] {
        let answer = alice.post_message(&gid, &bytes).await;
        assert!(matches!(answer.status, 400 | 422), "{answer:?}");
    }
    assert_eq!(snapshot(&[&alice, &bob], Some(&gid)).await, before);
}

#[tokio::test]
async fn a_message_larger_than_the_limit_is_refused() {
    let server = TestServer::start().await;
    let (alice, mut alices, bob, _, gid) = scene(&server).await;
    let large = alice.encrypt(&mut alices, &"x".repeat(MESSAGE_BYTES_MAX));
    let before = snapshot(&[&bob], None).await;
    alice
        .post_message(&gid, &large)
        .await
        .refused(ProblemType::TooLarge);
    assert_eq!(snapshot(&[&bob], None).await, before);
    alice
        .send(&mut alices, &"x".repeat(MESSAGE_BYTES_MAX - 1024))
        .await;
}

#[tokio::test]
async fn mls_objects_travel_bare_too() {
    let server = TestServer::start().await;
    let (alice, mut alices, bob, mut bobs, gid) = scene(&server).await;
    let post = async |what: &str, body: Vec<u8>| {
        let request = alice
            .http
            .request(Method::POST, &format!("/v1/groups/{gid}/{what}"));
        Answer::to(request.header("Content-Type", "message/mls").body(body)).await
    };
    post("messages", alice.encrypt(&mut alices, "bare"))
        .await
        .of_one_message()
        .ok::<Sent>();
    let (proposal, _) = alices
        .propose_self_update(&alice.provider, &alice.mls, Default::default())
        .unwrap();
    post("proposals", message_bytes(&proposal)).await.ok::<Sent>();
    assert_eq!(bob.catch_up(&mut bobs).await, ["bare"]);
    assert_eq!(bobs.pending_proposals().count(), 1);

    let carol = server.device_with_key_packages("carol", 1).await;
    bob.invite(&mut bobs, &[&carol]).await;
    let epoch = bobs.epoch().as_u64();
    let json: RatchetTreeAnswer = carol.ratchet_tree(&gid, epoch).await.ok();
    let request = carol
        .http
        .request(Method::GET, &format!("/v1/groups/{gid}/trees/{epoch}"));
    let bare = Answer::to(request.header("Accept", "application/xml, message/mls;q=0.9")).await;
    assert_eq!(bare.content_type.as_deref(), Some("message/mls"));
    assert_eq!(bare.body, json.ratchet_tree.0);
}

#[tokio::test]
async fn the_tree_of_a_welcome_is_there_until_the_welcome_is_acknowledged_and_for_its_receiver_alone() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let bob = server.device_with_key_packages("bob", 1).await;
    let mallory = server.device("mallory").await;
    let (mut alices, gid) = alice.create_group().await;
    alice.invite(&mut alices, &[&bob]).await;
    let tree: RatchetTreeAnswer = bob.ratchet_tree(&gid, 1).await.ok();
    assert_eq!(
        tree.ratchet_tree.0,
        alices.export_ratchet_tree().tls_serialize_detached().unwrap()
    );
    // The group moves on; the Welcome still needs its own epoch's tree.
    let update = alice.stage_update(&mut alices);
    alice.commit(&mut alices, &update).await;
    assert_eq!(bob.ratchet_tree(&gid, 1).await.ok::<RatchetTreeAnswer>(), tree);
    bob.ratchet_tree(&gid, 2).await.refused(ProblemType::NotFound);
    alice.ratchet_tree(&gid, 1).await.refused(ProblemType::NotFound);
    mallory.ratchet_tree(&gid, 1).await.refused(ProblemType::NotFound);
    let mut bobs = bob.join().await;
    bob.ratchet_tree(&gid, 1).await.refused(ProblemType::NotFound);
    bob.catch_up(&mut bobs).await;
    assert_eq!(
        bobs.epoch_authenticator().as_slice(),
        alices.epoch_authenticator().as_slice()
    );
}

#[tokio::test]
async fn acknowledgements_are_cumulative_and_never_run_ahead() {
    let server = TestServer::start().await;
    let (alice, mut alices, bob, _, _) = scene(&server).await;
    for number in 0..4 {
        alice.send(&mut alices, &format!("{number}")).await;
    }
    let rows = bob.inbox().await;
    bob.ack(&rows[1]).await;
    assert_eq!(bob.inbox().await, rows[2..]);
    bob.ack(&rows[0]).await;
    assert_eq!(
        bob.inbox().await,
        rows[2..],
        "an earlier acknowledgement takes nothing back"
    );
    let one = NextRequest {
        limit: Some(1),
        ..NextRequest::default()
    };
    assert_eq!(bob.next(&one).await.ok::<Inbox>().rows, rows[2..3]);
    let group = rows[0].group_id.clone().unwrap();
    for ahead in [rows[3].seq + 1, u64::MAX >> 1, u64::MAX] {
        let problem = bob
            .ack_up_to(&group, ahead)
            .await
            .refused(ProblemType::PositionAhead);
        let known = Position {
            group_id: group.clone(),
            seq: rows[1].seq,
        };
        assert_eq!(&*problem.positions, [known]);
    }
    assert_eq!(
        bob.inbox().await,
        rows[2..],
        "what runs ahead acknowledges nothing"
    );
    let mut of_another_store = bob.acknowledgement();
    of_another_store.incarnation = "another".to_owned();
    of_another_store.groups.push(Position {
        group_id: group.clone(),
        seq: rows[3].seq,
    });
    bob.acknowledge(of_another_store)
        .await
        .refused(ProblemType::OtherIncarnation);
    assert_eq!(bob.inbox().await, rows[2..], "nor does what is of another store");
    bob.ack(&rows[3]).await;
    assert!(bob.inbox().await.is_empty());
}

#[tokio::test]
async fn a_long_poll_answers_when_a_row_arrives() {
    let server = TestServer::start().await;
    let (alice, mut alices, bob, _, _) = scene(&server).await;
    let started = Instant::now();
    let poll = tokio::spawn(async move { bob.wait(30).await.ok::<Inbox>() });
    // Whether the poll is there first or the row, it must not wait out its deadline.
    alice.send(&mut alices, "wake up").await;
    let inbox = poll.await.unwrap();
    assert_eq!(inbox.rows.len(), 1);
    assert!(started.elapsed() < Duration::from_secs(29));
}

#[tokio::test]
async fn a_long_poll_without_rows_ends_empty_at_its_deadline() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let started = Instant::now();
    let inbox: Inbox = alice.wait(1).await.ok();
    assert!(inbox.rows.is_empty());
    assert!(started.elapsed() >= Duration::from_secs(1));
}

/// R-S3.
#[tokio::test]
async fn a_member_leaves_by_a_proposal_that_another_commits() {
    let server = TestServer::start().await;
    let (alice, mut alices, bob, mut bobs, gid) = scene(&server).await;
    let proposal = message_bytes(&bobs.leave_group(&bob.provider, &bob.mls).unwrap());
    bob.post_proposal(&gid, &proposal).await.ok::<Sent>();
    assert_eq!(alice.rows(InboxKind::Proposal).await.len(), 1);
    alice.catch_up(&mut alices).await;
    let request = alice.stage(&mut alices, |commit| commit);
    alice.commit(&mut alices, &request).await;
    bob.catch_up(&mut bobs).await;
    assert!(!bobs.is_active());
    assert_eq!(alices.members().count(), 1);
    bob.post_message(&gid, &proposal)
        .await
        .refused(ProblemType::NotFound);
}

#[tokio::test]
async fn a_proposal_is_delivered_once_and_only_from_its_own_sender() {
    let server = TestServer::start().await;
    let (alice, mut alices, bob, mut bobs, gid) = scene(&server).await;
    let (proposal, _) = bobs
        .propose_self_update(&bob.provider, &bob.mls, Default::default())
        .unwrap();
    let proposal = message_bytes(&proposal);
    let before = snapshot(&[&alice, &bob], Some(&gid)).await;
    assert!(matches!(
        alice.post_proposal(&gid, &proposal).await.status,
        403 | 422
    ));
    assert_eq!(snapshot(&[&alice, &bob], Some(&gid)).await, before);
    let first = bob.post_proposal(&gid, &proposal).await;
    assert_eq!(bob.post_proposal(&gid, &proposal).await.body, first.body);
    assert_eq!(alice.rows(InboxKind::Proposal).await.len(), 1);

    // Commits and application messages are no proposals, and an Add needs a reservation that only a Commit can spend.
    let text = alice.encrypt(&mut alices, "hello");
    let carol = server.device_with_key_packages("carol", 1).await;
    let (key_packages, _) = alice.take(&[&carol], &gid).await;
    let (add, _) = alices
        .propose_add_member(&alice.provider, &alice.mls, &key_packages[0])
        .unwrap();
    let before = snapshot(&[&alice, &bob, &carol], Some(&gid)).await;
    for bytes in [text, message_bytes(&add), vec![], b"garbage".to_vec()] {
        let answer = alice.post_proposal(&gid, &bytes).await;
        assert!(matches!(answer.status, 400 | 422), "{answer:?}");
    }
    assert_eq!(snapshot(&[&alice, &bob, &carol], Some(&gid)).await, before);
}

#[tokio::test]
async fn a_group_is_created_once_by_its_only_member() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let bob = server.device("bob").await;
    let group = alice.new_group();
    let request = alice.create_group_request(&group);
    let create = async |device: &Device, key: &str, request: &larder_wire::CreateGroupRequest| {
        device.http.post_with_key("/v1/groups", key, request).await
    };
    // Bob cannot create Alice's group, nor she one under another id.
    create(&bob, "k", &request)
        .await
        .refused(ProblemType::InvalidCommit);
    let mut other_id = request.clone();
    other_id.group_id = GroupId::from_bytes(b"other").unwrap();
    create(&alice, "k", &other_id)
        .await
        .refused(ProblemType::InvalidCommit);
    let mut other_tree = request.clone();
    other_tree.ratchet_tree = alice.create_group_request(&alice.new_group()).ratchet_tree;
    create(&alice, "k", &other_tree)
        .await
        .refused(ProblemType::InvalidCommit);
    let mut flipped = request.clone();
    *flipped.group_info.0.last_mut().unwrap() ^= 1;
    create(&alice, "k", &flipped)
        .await
        .refused(ProblemType::InvalidCommit);
    let mut trailing = request.clone();
    trailing.ratchet_tree.0.push(0);
    create(&alice, "k", &trailing)
        .await
        .refused(ProblemType::Malformed);
    // Her name with a key that is not hers.
    let impostor = Device::new(&server.http, "alice");
    let forged = impostor.create_group_request(&impostor.new_group());
    create(&alice, "k", &forged)
        .await
        .refused(ProblemType::InvalidCommit);
    alice
        .get_group_info(&id_of(&group))
        .await
        .refused(ProblemType::NotFound);

    let first = create(&alice, "k", &request).await;
    first.ok::<GroupCreated>();
    assert_eq!(create(&alice, "k", &request).await.body, first.body);
    create(&alice, "k", &other_id)
        .await
        .refused(ProblemType::IdempotencyMismatch);
    create(&alice, "k2", &request)
        .await
        .refused(ProblemType::GroupExists);
    alice
        .http
        .post("/v1/groups", &request)
        .await
        .refused(ProblemType::Malformed);

    // A group that has moved on, or has members that the directory never saw reserved, cannot be brought in.
    let mut grown = alice.new_group();
    let bobs = alice.validate(&bob.mint(crate::support::KeyPackageSpec::default()));
    alice.stage_adds(&mut grown, vec![bobs]);
    alice.merge(&mut grown);
    create(&alice, "k3", &alice.create_group_request(&grown))
        .await
        .refused(ProblemType::InvalidCommit);
}

#[tokio::test]
async fn an_inbox_belongs_to_its_device() {
    let server = TestServer::start().await;
    let (alice, mut alices, bob, _, _) = scene(&server).await;
    alice.send(&mut alices, "for bob").await;
    let mallory = server.device("mallory").await;
    assert!(mallory.inbox().await.is_empty());
    let rows = bob.inbox().await;
    mallory.ack(&rows[0]).await;
    assert_eq!(bob.inbox().await, rows);
    let request = MessagesRequest {
        messages: vec![rows[0].body.clone()],
    };
    let path = format!("/v1/groups/{}/messages", rows[0].group_id.as_ref().unwrap());
    mallory
        .http
        .post(&path, &request)
        .await
        .refused(ProblemType::NotFound);
}

/// One who is invited once writes as much as may wait: what others have to say comes all the same.
#[tokio::test]
async fn a_flood_in_one_group_takes_nothing_of_another() {
    let server = TestServer::unswept().await;
    let (alice, mut alices, bob, _, gid) = scene(&server).await;
    let mallory = server.device("mallory").await;
    let (mut mallorys, flooded) = mallory.create_group().await;
    mallory.invite(&mut mallorys, &[&bob]).await;
    let text = "x".repeat(60_000);
    let mut refused = None;
    for _ in 0..200 {
        let message = mallory.encrypt(&mut mallorys, &text);
        let answer = mallory.post_message(&flooded, &message).await;
        if answer.status != 200 {
            refused = Some(answer.refused(ProblemType::RateLimited));
            break;
        }
    }
    assert!(refused.is_some(), "no limit is met");
    let sent = alice.send(&mut alices, "from a friend").await;
    // Both have their part of the first page.
    let page = bob.inbox().await;
    let friends: Vec<u64> = page
        .iter()
        .filter(|row| row.group_id.as_ref() == Some(&gid))
        .map(|row| row.seq)
        .collect();
    assert_eq!(friends, [sent.seq]);
    assert!(page.iter().any(|row| row.group_id.as_ref() == Some(&flooded)));
    // Once bob has read, there is room again, without a sweep.
    mallory
        .ack_up_to(&flooded, u64::from(u16::MAX))
        .await
        .refused(ProblemType::PositionAhead);
    for device in [&bob, &mallory] {
        while let Some(last) = device
            .every_row()
            .await
            .iter()
            .rfind(|row| row.group_id.as_ref() == Some(&flooded))
        {
            device.ack(last).await;
        }
    }
    let message = mallory.encrypt(&mut mallorys, &text);
    mallory.post_message(&flooded, &message).await.ok::<Sent>();
}

/// The sender with most of what waits loses its own oldest, and who missed it learns that.
#[tokio::test]
async fn what_a_group_has_no_room_for_is_told_to_be_gone() {
    let server = TestServer::start_with(|config| config.group_waiting_bytes_max = 4000, false).await;
    let (alice, mut alices, bob, mut bobs, gid) = scene(&server).await;
    bob.send(&mut bobs, "small").await;
    for number in 0..4 {
        alice
            .send(&mut alices, &format!("{number}{}", "x".repeat(1000)))
            .await;
    }
    let rows = bob.rows(InboxKind::Message).await;
    let gone: Vec<_> = rows.iter().map(|row| row.gone).collect();
    assert_eq!(gone, [Some(Gone::Quota), None, None, None]);
    assert!(rows.iter().all(|row| row.body.is_empty() == row.gone.is_some()));
    let of_bob = alice.rows(InboxKind::Message).await;
    assert_eq!(of_bob[0].gone, None, "the other's is still there");
    let count = "SELECT waiting_bytes FROM groups";
    assert!(server.database.count(count).await <= 4000);
    bob.ack_up_to(&gid, rows[3].seq).await.ok::<Inbox>();
}
