//! What an outsider makes of a group's Commits: whoever has kept its public state, and is given what came after it by a server
//! that may lie.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

#[path = "support/device.rs"]
mod device;
#[path = "support/forger.rs"]
mod forger;
#[path = "support/gullible.rs"]
#[allow(dead_code, reason = "each test binary uses a part of it")]
mod gullible;

use device::{Device, SERVER, SUITE};
use forger::{PublicView, external_commit};
use larder_judge::{Evidence, Judge, NotTaken, PublicState, Replay, signed_by};
use openmls::group::GroupId;
use openmls::messages::group_info::VerifiableGroupInfo;
use openmls::prelude::tls_codec::{Deserialize as _, Serialize as _};
use openmls::prelude::{
    Extensions, LeafNodeIndex, LeafNodeParameters, MlsGroup, MlsGroupCreateConfig, MlsGroupJoinConfig,
    MlsMessageBodyIn, MlsMessageIn, MlsMessageOut, OpenMlsProvider, PURE_PLAINTEXT_WIRE_FORMAT_POLICY,
    ProcessedMessageContent, StagedWelcome, Verifiable,
};
use openmls_rust_crypto::RustCrypto;
use openmls_traits::signatures::Signer as _;

/// The length of a tag in this ciphersuite, and of a signature.
const MAC_BYTES: usize = 32;
const SIGNATURE_BYTES: usize = 64;

/// A device in the group.
struct Member {
    device: Device,
    group: MlsGroup,
}

/// A group, and what its server has seen of it.
struct Group {
    alice: Member,
    others: Vec<Member>,
    /// The public state before anything was sent.
    begins: Vec<u8>,
    /// Commits and proposals, in their order.
    log: Vec<Vec<u8>>,
}

fn id() -> GroupId {
    GroupId::from_slice(b"lunch")
}

impl Group {
    fn of(alice: Device) -> Self {
        let config = MlsGroupCreateConfig::builder()
            .ciphersuite(SUITE)
            .wire_format_policy(PURE_PLAINTEXT_WIRE_FORMAT_POLICY)
            .build();
        let group =
            MlsGroup::new_with_group_id(&alice.provider, &alice.keys, &config, id(), alice.credential())
                .unwrap();
        let begins = kept(&group);
        Self {
            alice: Member { device: alice, group },
            others: Vec::new(),
            begins,
            log: Vec::new(),
        }
    }

    /// Alice lets somebody in.
    fn add(&mut self, device: Device) {
        let alice = &mut self.alice;
        let (commit, welcome, _) = alice
            .group
            .add_members(
                &alice.device.provider,
                &alice.device.keys,
                &[device.key_package()],
            )
            .unwrap();
        self.commit_of_alice(&commit);
        let MlsMessageBodyIn::Welcome(welcome) = read(&welcome.to_bytes().unwrap()).extract() else {
            panic!("not a Welcome");
        };
        let config = MlsGroupJoinConfig::builder()
            .wire_format_policy(PURE_PLAINTEXT_WIRE_FORMAT_POLICY)
            .build();
        let tree = self.alice.group.export_ratchet_tree().into();
        let group = StagedWelcome::new_from_welcome(&device.provider, &config, welcome, Some(tree))
            .unwrap()
            .into_group(&device.provider)
            .unwrap();
        self.others.push(Member { device, group });
    }

    /// Alice removes the member at this place among the others.
    fn remove(&mut self, nth: usize) {
        let removed = self.others.remove(nth).group.own_leaf_index();
        let alice = &mut self.alice;
        let (commit, ..) = alice
            .group
            .remove_members(&alice.device.provider, &alice.device.keys, &[removed])
            .unwrap();
        self.commit_of_alice(&commit);
    }

    /// Alice commits what was proposed.
    fn commit_proposed(&mut self) {
        let alice = &mut self.alice;
        let (commit, ..) = alice
            .group
            .commit_to_pending_proposals(&alice.device.provider, &alice.device.keys)
            .unwrap();
        self.commit_of_alice(&commit);
    }

    fn commit_of_alice(&mut self, commit: &MlsMessageOut) {
        let alice = &mut self.alice;
        alice.group.merge_pending_commit(&alice.device.provider).unwrap();
        let bytes = commit.to_bytes().unwrap();
        for other in &mut self.others {
            other.take(&bytes);
        }
        self.log.push(bytes);
    }

    /// One of the others renews its leaf.
    fn renew(&mut self, nth: usize) {
        let other = &mut self.others[nth];
        let commit = other
            .group
            .self_update(
                &other.device.provider,
                &other.device.keys,
                LeafNodeParameters::default(),
            )
            .unwrap()
            .into_commit();
        other.group.merge_pending_commit(&other.device.provider).unwrap();
        self.said_by(nth, commit.to_bytes().unwrap());
    }

    /// One of the others proposes something.
    fn propose(&mut self, nth: usize, what: impl FnOnce(&mut Member) -> MlsMessageOut) {
        let proposal = what(&mut self.others[nth]);
        self.said_by(nth, proposal.to_bytes().unwrap());
    }

    fn said_by(&mut self, nth: usize, bytes: Vec<u8>) {
        self.alice.take(&bytes);
        for (at, other) in self.others.iter_mut().enumerate() {
            if at != nth {
                other.take(&bytes);
            }
        }
        self.log.push(bytes);
    }

    /// A device comes in by an external Commit. It says nothing afterwards.
    fn enter(&mut self, device: &Device, evidence: &[u8]) {
        let view = PublicView {
            group_info: self.alice.info_bytes(),
            ratchet_tree: self
                .alice
                .group
                .export_ratchet_tree()
                .tls_serialize_detached()
                .unwrap(),
        };
        let commit = external_commit(&view, (&device.identity(), &device.keys), None, evidence);
        self.alice.take(&commit);
        for other in &mut self.others {
            other.take(&commit);
        }
        self.log.push(commit);
    }

    /// Follows a log from the beginning.
    fn follow<'l>(
        &self,
        log: impl IntoIterator<Item = &'l Vec<u8>>,
    ) -> Result<Replay<'static, RustCrypto>, NotTaken> {
        let mut replay = replay_of(&self.begins);
        for handshake in log {
            replay.follow(handshake)?;
        }
        Ok(replay)
    }

    /// Whether a log leads from the beginning to where alice is.
    fn is_led_to_by<'l>(&self, log: impl IntoIterator<Item = &'l Vec<u8>>) -> bool {
        self.follow(log)
            .is_ok_and(|replay| replay.leads_to(&self.alice.info()))
    }
}

impl Member {
    fn take(&mut self, bytes: &[u8]) {
        let provider = &self.device.provider;
        let message = read(bytes).try_into_protocol_message().unwrap();
        match self
            .group
            .process_message(provider, message)
            .unwrap()
            .into_content()
        {
            ProcessedMessageContent::StagedCommitMessage(staged) => {
                self.group.merge_staged_commit(provider, *staged).unwrap();
            }
            ProcessedMessageContent::ProposalMessage(queued) => {
                self.group
                    .store_pending_proposal(provider.storage(), *queued)
                    .unwrap();
            }
            other => panic!("{other:?}"),
        }
    }

    fn info_bytes(&self) -> Vec<u8> {
        let device = &self.device;
        let info = self
            .group
            .export_group_info(device.provider.crypto(), &device.keys, false);
        info.unwrap().to_bytes().unwrap()
    }

    fn info(&self) -> VerifiableGroupInfo {
        match read(&self.info_bytes()).extract() {
            MlsMessageBodyIn::GroupInfo(info) => info,
            _ => panic!("not a GroupInfo"),
        }
    }

    fn key(&self) -> &[u8] {
        self.device.keys.public()
    }
}

fn read(bytes: &[u8]) -> MlsMessageIn {
    MlsMessageIn::tls_deserialize_exact(bytes).unwrap()
}

/// The public state of a member's group, as it is stored.
fn kept(group: &MlsGroup) -> Vec<u8> {
    let state = PublicState::of(&RustCrypto::default(), group.public_group()).unwrap();
    state.encode().unwrap()
}

fn replay_of(kept: &[u8]) -> Replay<'static, RustCrypto> {
    // Where a client has one for as long as it runs.
    let crypto: &'static RustCrypto = Box::leak(Box::default());
    let state = PublicState::decode(kept).unwrap().load(&id()).unwrap();
    Replay::new(Judge::new(crypto, SERVER), state)
}

/// Everything that may happen in a group: Adds, Removes, fresh leaves, proposals that waited, and who comes in from outside.
fn eventful() -> Group {
    let mut group = Group::of(Device::new("alice", "a-1"));
    for (user, device) in [("bob", "b-1"), ("carol", "c-1"), ("dave", "d-1")] {
        group.add(Device::new(user, device));
    }
    group.renew(0);
    group.propose(1, |carol| {
        let device = &carol.device;
        let leaf = LeafNodeParameters::default();
        carol
            .group
            .propose_self_update(&device.provider, &device.keys, leaf)
            .unwrap()
            .0
    });
    group.propose(2, |dave| {
        let device = &dave.device;
        dave.group.leave_group(&device.provider, &device.keys).unwrap()
    });
    group.commit_proposed();
    group.others.pop();
    group.remove(0);
    let phone = Device::new("alice", "a-2");
    let listed = [
        group.alice.device.listed(None),
        phone.listed(Some(&group.alice.device)),
    ];
    let evidence = Evidence::gather(&[group.alice.device.leaf.clone()], &phone.leaf, &listed).unwrap();
    group.enter(&phone, &evidence.to_bytes());
    let carol = group.others.pop().unwrap();
    group.enter(&carol.device, &[]);
    group
}

#[test]
fn the_commits_of_a_group_lead_to_where_it_is() {
    let group = eventful();
    let replay = group.follow(&group.log).unwrap();
    assert!(replay.leads_to(&group.alice.info()));
    let users: Vec<_> = replay
        .state()
        .members()
        .map(|member| larder_judge::who(&member.credential).unwrap().0.to_string())
        .collect();
    assert_eq!(users, ["alice", "alice", "carol"]);
    // Nobody else has to be at the end.
    assert!(
        !group
            .follow(&group.log[..9])
            .unwrap()
            .leads_to(&group.alice.info())
    );
}

#[test]
fn a_kept_state_is_followed_from_any_commit_on() {
    let group = eventful();
    let mut replay = replay_of(&group.begins);
    for (at, handshake) in group.log.iter().enumerate() {
        let epoch = replay.state().group_context().epoch();
        replay.follow(handshake).unwrap();
        if replay.state().group_context().epoch() == epoch {
            // Proposals that wait are not kept.
            continue;
        }
        let state = PublicState::of(&RustCrypto::default(), replay.state()).unwrap();
        let mut later = replay_of(&state.encode().unwrap());
        for handshake in &group.log[at + 1..] {
            later.follow(handshake).unwrap();
        }
        assert!(later.leads_to(&group.alice.info()), "from {at}");
    }
}

#[test]
fn a_commit_that_is_left_out_or_out_of_order_is_noticed() {
    let group = eventful();
    for at in 0..group.log.len() {
        let mut log = group.log.clone();
        log.remove(at);
        assert!(!group.is_led_to_by(&log), "without {at}");
    }
    for at in 1..group.log.len() {
        let mut log = group.log.clone();
        log.swap(at - 1, at);
        // The order of two proposals is nobody's.
        assert_eq!(group.is_led_to_by(&log), at == 5, "{at} before {}", at - 1);
    }
    let twice = group.log.iter().chain(group.log.last());
    assert!(!group.is_led_to_by(twice));
}

#[test]
fn what_was_changed_on_the_way_was_signed_by_nobody_or_leads_elsewhere() {
    let group = eventful();
    for (at, handshake) in group.log.iter().enumerate() {
        // A member's message ends with a tag that only members can check, and that nothing depends on.
        let is_from_outside = at >= 8;
        let end = handshake.len() - if is_from_outside { 0 } else { MAC_BYTES };
        // All of what is signed would take long.
        let signed = end - 2 * MAC_BYTES;
        for byte in (0..signed).step_by(11).chain(signed..end) {
            let mut log = group.log.clone();
            log[at][byte] ^= 1;
            match group.follow(&log[..=at]).map(|_| ()) {
                Ok(()) => assert!(!group.is_led_to_by(&log), "byte {byte} of {at}"),
                Err(NotTaken::Unsigned | NotTaken::Unreadable(_) | NotTaken::Against(_)) => {}
                Err(other) => panic!("byte {byte} of {at}: {other:?}"),
            }
        }
    }
}

#[test]
fn the_commits_of_another_group_are_signed_by_nobody_here() {
    let mut ours = Group::of(Device::new("alice", "a-1"));
    ours.add(Device::new("bob", "b-1"));
    // Of the same name, with the same people: made by somebody else.
    let mut theirs = Group::of(Device::new("alice", "a-1"));
    theirs.add(Device::new("bob", "b-1"));
    assert_eq!(ours.follow(&theirs.log).err(), Some(NotTaken::Unsigned));
    let replay = ours.follow(&ours.log).unwrap();
    assert!(replay.leads_to(&ours.alice.info()));
    assert_eq!(ours.alice.info().epoch(), theirs.alice.info().epoch());
    assert!(!replay.leads_to(&theirs.alice.info()));
    let keys = [ours.alice.key(), ours.others[0].key()];
    assert!(!signed_by(&RustCrypto::default(), &theirs.alice.info(), keys));

    theirs.renew(0);
    let later = ours.log.iter().chain(&theirs.log[1..]);
    assert_eq!(ours.follow(later).err(), Some(NotTaken::Unsigned));
}

#[test]
fn only_what_a_member_has_signed_of_this_very_epoch_is_led_to() {
    let mut group = Group::of(Device::new("alice", "a-1"));
    group.add(Device::new("bob", "b-1"));
    let older = group.alice.info();
    group.renew(0);
    let (of_alice, of_bob) = (group.alice.info(), group.others[0].info());
    let replay = group.follow(&group.log).unwrap();
    assert!(replay.leads_to(&of_alice) && replay.leads_to(&of_bob));
    assert!(!replay.leads_to(&older));

    let tag = replay.state().confirmation_tag();
    let with = |signer: u32, extensions: Extensions<_>, of: &VerifiableGroupInfo| {
        VerifiableGroupInfo::new(
            of.group_context().clone(),
            extensions,
            tag.clone(),
            LeafNodeIndex::new(signer),
            of.signature().clone(),
        )
    };
    let same = of_alice.extensions();
    assert!(
        replay.leads_to(&with(0, same.clone(), &of_alice)),
        "the same once more"
    );
    for (what, forged) in [
        (
            "a key for joiners of the server's",
            with(0, of_bob.extensions().clone(), &older),
        ),
        ("no key for joiners", with(0, Extensions::empty(), &of_alice)),
        ("in the name of another", with(1, same.clone(), &of_alice)),
        ("in the name of nobody", with(7, same.clone(), &of_alice)),
        ("the signature of another", with(0, same.clone(), &of_bob)),
    ] {
        assert!(!replay.leads_to(&forged), "{what}");
        let keys = [group.alice.key(), group.others[0].key()];
        assert!(!signed_by(&RustCrypto::default(), &forged, keys), "{what}");
    }
}

#[test]
fn a_group_info_is_signed_by_whoever_has_the_key() {
    let mut group = Group::of(Device::new("alice", "a-1"));
    group.add(Device::new("bob", "b-1"));
    let crypto = RustCrypto::default();
    let (alice, bob) = (group.alice.key(), group.others[0].key());
    let info = group.alice.info();
    assert!(signed_by(&crypto, &info, [bob, alice]));
    assert!(!signed_by(&crypto, &info, [bob]));
    assert!(!signed_by(&crypto, &info, []));
    assert!(!signed_by(&crypto, &info, [&alice[1..], &[]]));
}

#[test]
fn what_a_member_signed_and_nobody_can_follow_is_told_apart() {
    let mut group = Group::of(Device::new("alice", "a-1"));
    group.add(Device::new("bob", "b-1"));
    let context = group
        .alice
        .group
        .public_group()
        .group_context()
        .tls_serialize_detached();
    let before = group.log.clone();
    group.renew(0);
    let (commit, keys) = (group.log.pop().unwrap(), &group.others[0].device.keys);
    // The signature is followed by the two tags. What is signed begins with the fields of the MLSMessage and ends with the
    // GroupContext (RFC 9420 §6.1).
    let signature_at = commit.len() - 2 * (1 + MAC_BYTES) - SIGNATURE_BYTES;
    let mut flipped = commit.clone();
    flipped[commit.len() / 2] ^= 1;
    let signed = [&flipped[..signature_at - 2], &context.unwrap()].concat();
    let labelled = larder_wire::sign_with_label_content("FramedContentTBS", &signed);
    let mut resigned = flipped.clone();
    resigned[signature_at..signature_at + SIGNATURE_BYTES].copy_from_slice(&keys.sign(&labelled).unwrap());
    for (bytes, expected) in [
        (&commit, None),
        (&flipped, Some(NotTaken::Unsigned)),
        (&resigned, Some(NotTaken::Unfollowable)),
    ] {
        assert_eq!(group.follow(before.iter().chain([bytes])).err(), expected);
    }
}

#[test]
fn a_commit_whose_proposal_was_withheld_is_told_apart() {
    let mut group = Group::of(Device::new("alice", "a-1"));
    group.add(Device::new("bob", "b-1"));
    group.propose(0, |bob| {
        let device = &bob.device;
        bob.group.leave_group(&device.provider, &device.keys).unwrap()
    });
    group.others.pop();
    group.commit_proposed();
    group.log.remove(1);
    assert_eq!(group.follow(&group.log).err(), Some(NotTaken::ProposalUnknown));
}
