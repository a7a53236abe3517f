//! Commits that no MLS library builds, made by hand from the grammar of RFC 9420: signed by a member, and wrong.

use larder_wire::{
    Accepted, Base64Url, CommitCheck, CommitRequest, GroupId, GroupInfoAnswer, KeyPackageState, ProblemType,
    sign_with_label_content,
};
use openmls::prelude::tls_codec::{Deserialize as _, Serialize as _, VLByteSlice};
use openmls::prelude::{
    GroupContext, KeyPackage, LeafNodeParameters, MlsGroup, MlsMessageBodyIn, MlsMessageIn, OpenMlsProvider,
    ProcessedMessageContent, ProposalStore, PublicGroup, PublicMessageIn, RatchetTreeIn,
};
use openmls_rust_crypto::OpenMlsRustCrypto;
use openmls_traits::signatures::Signer as _;

use crate::gullible::Gullible;
use crate::support::{Answer, Device, KeyPackageSpec, TestServer, message_bytes, snapshot, state_of};

/// Nothing but a member's secrets can tell that these are not the right tags.
const TAG: [u8; 32] = [7; 32];

fn vector(bytes: &[u8]) -> Vec<u8> {
    VLByteSlice(bytes).tls_serialize_detached().unwrap()
}

/// A proposal in a Commit, by value (RFC 9420 §12.4).
fn by_value(proposal_type: u16, body: &[u8]) -> Vec<u8> {
    [&[1], &proposal_type.to_be_bytes()[..], body].concat()
}

fn add(key_package: &KeyPackage) -> Vec<u8> {
    by_value(1, &key_package.tls_serialize_detached().unwrap())
}

fn remove(leaf: u32) -> Vec<u8> {
    by_value(3, &leaf.to_be_bytes())
}

/// A Commit of `sender` over these proposals, without a path, as a PublicMessage.
fn forge(sender: &Device, group: &MlsGroup, proposals: &[Vec<u8>]) -> Vec<u8> {
    let content = [
        &vector(group.group_id().as_slice())[..],
        &group.epoch().as_u64().to_be_bytes(),
        // the sender: a member, and its leaf
        &[1],
        &group.own_leaf_index().u32().to_be_bytes(),
        // no authenticated data; a Commit; its proposals; no path
        &vector(&[]),
        &[3],
        &vector(&proposals.concat()),
        &[0],
    ]
    .concat();
    // MLS 1.0, PublicMessage
    let message = [&[0, 1, 0, 1], &content[..]].concat();
    let MlsMessageBodyIn::GroupInfo(info) = parse(&sender.group_info(group)) else {
        panic!("not a GroupInfo");
    };
    let context = info.group_context().tls_serialize_detached().unwrap();
    let to_sign = sign_with_label_content("FramedContentTBS", &[&message[..], &context].concat());
    let signature = sender.mls.sign(&to_sign).unwrap();
    [message, vector(&signature), vector(&TAG), vector(&TAG)].concat()
}

/// The group as the server sees it after the Commit, if OpenMLS alone is asked.
fn context_after(state: &GroupInfoAnswer, commit: &[u8]) -> Option<GroupContext> {
    let provider = OpenMlsRustCrypto::default();
    let MlsMessageBodyIn::GroupInfo(info) = parse(&state.group_info.0) else {
        panic!("not a GroupInfo")
    };
    let tree = RatchetTreeIn::tls_deserialize_exact(&state.ratchet_tree.0[..]).unwrap();
    let (group, _) = PublicGroup::from_external(
        provider.crypto(),
        provider.storage(),
        tree,
        info,
        ProposalStore::new(),
    )
    .unwrap();
    let MlsMessageBodyIn::PublicMessage(commit) = parse(commit) else {
        panic!("not a PublicMessage")
    };
    let commit: PublicMessageIn = commit;
    match group
        .process_message(provider.crypto(), commit)
        .ok()?
        .into_content()
    {
        ProcessedMessageContent::StagedCommitMessage(staged) => Some(staged.group_context().clone()),
        _ => panic!("not a Commit"),
    }
}

fn parse(message: &[u8]) -> MlsMessageBodyIn {
    MlsMessageIn::tls_deserialize_exact(message).unwrap().extract()
}

/// The GroupInfo that belongs to a forged Commit, as its sender can make it.
fn group_info(sender: &Device, group: &MlsGroup, context: &GroupContext) -> Vec<u8> {
    let own = sender.group_info(group);
    let MlsMessageBodyIn::GroupInfo(info) = parse(&own) else {
        panic!("not a GroupInfo")
    };
    let content = [
        context.tls_serialize_detached().unwrap(),
        info.extensions().tls_serialize_detached().unwrap(),
        vector(&TAG),
        group.own_leaf_index().u32().to_be_bytes().to_vec(),
    ]
    .concat();
    let signature = sender
        .mls
        .sign(&sign_with_label_content("GroupInfoTBS", &content))
        .unwrap();
    [&[0, 1, 0, 4], &content[..], &vector(&signature)].concat()
}

/// Alice, her group with Bob, and Carol outside with a stock.
async fn scene(server: &TestServer) -> (Device, MlsGroup, GroupId, Device, Device) {
    let alice = server.device("alice").await;
    let bob = server.device_with_key_packages("bob", 10).await;
    let carol = server.device_with_key_packages("carol", 10).await;
    let (mut group, gid) = alice.create_group().await;
    alice.invite(&mut group, &[&bob]).await;
    (alice, group, gid, bob, carol)
}

#[tokio::test]
async fn the_forgery_itself_is_sound() {
    let server = TestServer::start().await;
    let (alice, mut group, gid, _, carol) = scene(&server).await;
    let (taken, refs) = alice.take(&[&carol], &gid).await;
    let welcome = alice.stage_adds(&mut group, taken.clone()).welcome;
    alice.clear(&mut group);
    let commit = forge(&alice, &group, &[add(&taken[0])]);
    let state: GroupInfoAnswer = alice.get_group_info(&gid).await.ok();
    let context = context_after(&state, &commit).expect("OpenMLS accepts it");
    let request = CommitRequest {
        commit: Base64Url(commit),
        welcome,
        group_info: Base64Url(group_info(&alice, &group, &context)),
        reservation_id: None,
    };
    // The server cannot check tags that need the group's secrets.
    assert_eq!(alice.post_commit(&gid, &request).await.ok::<Accepted>().epoch, 2);
    assert_eq!(state_of(&carol, &refs[0]).await, KeyPackageState::Spent);
}

#[tokio::test]
async fn the_same_key_package_twice_in_one_commit_is_refused() {
    let server = TestServer::start().await;
    let (alice, mut group, gid, bob, carol) = scene(&server).await;
    let (taken, refs) = alice.take(&[&carol], &gid).await;
    let genuine = alice.stage_adds(&mut group, taken.clone());
    alice.clear(&mut group);
    let commit = forge(&alice, &group, &[add(&taken[0]), add(&taken[0])]);
    let state: GroupInfoAnswer = alice.get_group_info(&gid).await.ok();
    let info = match context_after(&state, &commit) {
        Some(context) => group_info(&alice, &group, &context),
        None => genuine.group_info.0.clone(),
    };
    let request = CommitRequest {
        commit: Base64Url(commit),
        group_info: Base64Url(info),
        ..genuine
    };
    let before = snapshot(&[&alice, &bob, &carol], Some(&gid)).await;
    alice
        .post_commit(&gid, &request)
        .await
        .refused(ProblemType::InvalidCommit);
    assert_eq!(snapshot(&[&alice, &bob, &carol], Some(&gid)).await, before);
    assert_eq!(state_of(&carol, &refs[0]).await, KeyPackageState::Reserved);
}

#[tokio::test]
async fn proposals_of_another_kind_and_commits_that_the_grammar_forbids_are_refused() {
    let server = TestServer::start().await;
    let (alice, mut group, gid, bob, _) = scene(&server).await;
    let update = alice.stage_update(&mut group);
    alice.clear(&mut group);
    let reinit = by_value(5, &[&vector(b"other")[..], &[0, 1, 0, 1], &vector(&[])].concat());
    let external_init = by_value(6, &vector(&[9; 32]));
    let self_remove = by_value(10, &[]);
    let unknown = by_value(0xf123, &vector(b"?"));
    let own = group.own_leaf_index().u32();
    for proposals in [
        vec![],
        vec![reinit],
        vec![external_init],
        vec![self_remove],
        vec![unknown],
        vec![remove(own)],
        vec![remove(999)],
        // A Remove needs a path.
        vec![remove(1)],
        vec![remove(1), remove(1)],
        vec![b"\x02\x20 not a reference".to_vec()],
    ] {
        let commit = Base64Url(forge(&alice, &group, &proposals));
        let request = CommitRequest {
            commit,
            ..update.clone()
        };
        let before = snapshot(&[&alice, &bob], Some(&gid)).await;
        let answer = alice.post_commit(&gid, &request).await;
        assert!(matches!(answer.status, 400 | 422), "{proposals:?} {answer:?}");
        assert_eq!(snapshot(&[&alice, &bob], Some(&gid)).await, before);
    }
    let reinit = by_value(5, &[&vector(b"other")[..], &[0, 1, 0, 1], &vector(&[])].concat());
    let request = CommitRequest {
        commit: Base64Url(forge(&alice, &group, &[reinit])),
        ..update
    };
    let problem = alice
        .post_commit(&gid, &request)
        .await
        .refused(ProblemType::InvalidCommit);
    assert_eq!(problem.check.as_deref(), Some(CommitCheck::ProposalType.code()));
}

#[tokio::test]
async fn a_member_cannot_sign_for_another_members_leaf() {
    let server = TestServer::start().await;
    let (alice, mut group, gid, bob, carol) = scene(&server).await;
    let bobs = bob.join().await;
    let (taken, refs) = bob.take(&[&carol], &gid).await;
    let welcome = alice.stage_adds(&mut group, taken.clone()).welcome;
    alice.clear(&mut group);
    // Bob's reservation, Bob's message, Alice's leaf: signed by Bob, or by Alice.
    for signer in [&bob, &alice] {
        let commit = forge(signer, &group, &[add(&taken[0])]);
        let request = CommitRequest {
            commit: Base64Url(commit),
            welcome: welcome.clone(),
            group_info: Base64Url(bob.group_info(&bobs)),
            reservation_id: None,
        };
        let before = snapshot(&[&alice, &bob, &carol], Some(&gid)).await;
        let problem = bob
            .post_commit(&gid, &request)
            .await
            .refused(ProblemType::InvalidCommit);
        assert_eq!(problem.check.as_deref(), Some(CommitCheck::Sender.code()));
        assert_eq!(snapshot(&[&alice, &bob, &carol], Some(&gid)).await, before);
    }
    assert_eq!(state_of(&carol, &refs[0]).await, KeyPackageState::Reserved);
}

#[tokio::test]
async fn no_key_that_nothing_can_be_encrypted_to_comes_into_a_group() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.device("alice").await, server.device("bob").await);
    let refused = |answer: &Answer, check: CommitCheck| {
        assert_eq!(
            answer.refused(ProblemType::InvalidCommit).check.as_deref(),
            Some(check.code())
        );
    };

    let group = alice.new_group_with(&Gullible::with_a_useless_key(0));
    let create = alice.create_group_request(&group);
    let answer = alice.http.post_with_key("/v1/groups", "create", &create).await;
    refused(&answer, CommitCheck::PublicState);

    bob.upload(&[bob.mint(KeyPackageSpec::default())]).await;
    let (mut group, id) = alice.create_group().await;
    alice.invite(&mut group, &[&bob]).await;
    // Of the committer's leaf, of the parent node above both, and of those who come by the GroupInfo.
    for (nth, check) in [
        (0, CommitCheck::PublicState),
        (1, CommitCheck::PublicState),
        (2, CommitCheck::GroupInfo),
    ] {
        let forger = Gullible::with_a_useless_key(nth);
        let commit = alice.stage_with(forger.crypto(), &mut group, |commit| {
            commit.force_self_update(true)
        });
        refused(&alice.post_commit(&id, &commit).await, check);
        alice.clear(&mut group);
    }
    let (proposal, _) = group
        .propose_self_update(
            &Gullible::with_a_useless_key(0),
            &alice.mls,
            LeafNodeParameters::default(),
        )
        .unwrap();
    let answer = alice.post_proposal(&id, &message_bytes(&proposal)).await;
    refused(&answer, CommitCheck::PublicState);
    group.clear_pending_proposals(alice.provider.storage()).unwrap();

    let commit = alice.stage_update(&mut group);
    alice.commit(&mut group, &commit).await;
}

/// Whoever had to keep its private key twice could not merge the Commit.
#[tokio::test]
async fn no_key_of_a_parent_node_comes_into_a_group_again() {
    let server = TestServer::start().await;
    let (alice, bob) = (server.device("alice").await, server.device("bob").await);
    bob.upload(&[bob.mint(KeyPackageSpec::default())]).await;
    let (mut group, id) = alice.create_group().await;
    alice.invite(&mut group, &[&bob]).await;
    let first = Gullible::default();
    let commit = alice.stage_with(first.crypto(), &mut group, |commit| {
        commit.force_self_update(true)
    });
    alice.commit(&mut group, &commit).await;
    for nth in [0, 1] {
        let forger = Gullible::with_the_pair(nth, first.pair(0));
        let commit = alice.stage_with(forger.crypto(), &mut group, |commit| {
            commit.force_self_update(true)
        });
        let answer = alice.post_commit(&id, &commit).await;
        assert_eq!(
            answer.refused(ProblemType::InvalidCommit).check.as_deref(),
            Some(CommitCheck::PublicState.code())
        );
        alice.clear(&mut group);
    }
    let commit = alice.stage_update(&mut group);
    alice.commit(&mut group, &commit).await;
}
