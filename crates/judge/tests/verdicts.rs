//! What a group's public state lets a Commit do: every kind of Commit that a member, a device that comes back, a further device
//! and a stranger can make, with real MLS groups.

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
mod gullible;

use device::{Device, SERVER, SUITE};
use forger::{PublicView, external_commit};
use gullible::Gullible;
use larder_judge::{Entrance, Evidence, Judge, JudgedCommit, NotTaken, Rule, Unreadable};
use openmls::prelude::tls_codec::Serialize as _;
use openmls::prelude::{
    BasicCredential, CredentialWithKey, Extension, Extensions, GroupContext, KeyPackage, LeafNodeParameters,
    MlsGroup, MlsGroupCreateConfig, OpenMlsProvider, PURE_PLAINTEXT_WIRE_FORMAT_POLICY, Proposal,
    RequiredCapabilitiesExtension, SignatureScheme,
};
use openmls_basic_credential::SignatureKeyPair;
use openmls_rust_crypto::RustCrypto;

/// Alice's group, in which bob is.
struct Scene {
    alice: Device,
    bob: Device,
    group: MlsGroup,
}

impl Scene {
    fn set() -> Self {
        let (alice, bob) = (Device::new("alice", "a-1"), Device::new("bob", "b-1"));
        let config = MlsGroupCreateConfig::builder()
            .ciphersuite(SUITE)
            .wire_format_policy(PURE_PLAINTEXT_WIRE_FORMAT_POLICY)
            .build();
        let mut group = MlsGroup::new(&alice.provider, &alice.keys, &config, alice.credential()).unwrap();
        group
            .add_members_without_update(&alice.provider, &alice.keys, &[bob.key_package()])
            .unwrap();
        group.merge_pending_commit(&alice.provider).unwrap();
        Self { alice, bob, group }
    }

    /// What the server has.
    fn view(&self) -> PublicView {
        let info = self
            .group
            .export_group_info(self.alice.provider.crypto(), &self.alice.keys, false)
            .unwrap();
        PublicView {
            group_info: info.to_bytes().unwrap(),
            ratchet_tree: self.group.export_ratchet_tree().tls_serialize_detached().unwrap(),
        }
    }

    fn judged(&self, commit: &[u8]) -> Result<JudgedCommit, NotTaken> {
        let crypto = RustCrypto::default();
        Judge::new(&crypto, SERVER).commit(self.group.public_group(), commit)
    }

    fn against(&self, commit: &[u8]) -> Rule {
        match self.judged(commit) {
            Err(NotTaken::Against(rule)) => rule,
            Err(other) => panic!("{other:?}"),
            Ok(_) => panic!("taken over"),
        }
    }

    fn enters(&self, by: &Device, place_of: Option<&Device>, data: &[u8]) -> Vec<u8> {
        let victim = place_of.map(|victim| victim.leaf.signature_key.as_slice());
        external_commit(&self.view(), (&by.identity(), &by.keys), victim, data)
    }

    /// A Commit of alice's. It is not made.
    fn commit(&mut self, propose: impl FnOnce(&mut MlsGroup, &Device) -> Vec<u8>) -> Vec<u8> {
        let bytes = propose(&mut self.group, &self.alice);
        self.group
            .clear_pending_commit(self.alice.provider.storage())
            .unwrap();
        bytes
    }
}

/// A Commit with these proposals by value and parameters of the path's leaf.
fn staged(
    group: &mut MlsGroup,
    by: &Device,
    proposals: Vec<Proposal>,
    leaf: Option<LeafNodeParameters>,
) -> Vec<u8> {
    let mut builder = group.commit_builder().add_proposals(proposals);
    if let Some(leaf) = leaf {
        builder = builder.force_self_update(true).leaf_node_parameters(leaf);
    }
    builder
        .load_psks(by.provider.storage())
        .unwrap()
        .build(by.provider.rand(), by.provider.crypto(), &by.keys, |_| true)
        .unwrap()
        .stage_commit(&by.provider)
        .unwrap()
        .into_commit()
        .to_bytes()
        .unwrap()
}

fn added(device: &Device) -> Vec<KeyPackage> {
    vec![device.key_package()]
}

#[test]
fn members_add_remove_and_renew() {
    let mut scene = Scene::set();
    let carol = Device::new("carol", "c-1");
    let bobs_leaf = scene.group.members().nth(1).unwrap().index;
    let commits = [
        scene.commit(|group, alice| {
            let (commit, ..) = group
                .add_members(&alice.provider, &alice.keys, &added(&carol))
                .unwrap();
            commit.to_bytes().unwrap()
        }),
        scene.commit(|group, alice| {
            let (commit, ..) = group
                .remove_members(&alice.provider, &alice.keys, &[bobs_leaf])
                .unwrap();
            commit.to_bytes().unwrap()
        }),
        scene.commit(|group, alice| staged(group, alice, Vec::new(), Some(LeafNodeParameters::default()))),
    ];
    for commit in commits {
        let judged = scene.judged(&commit).unwrap_or_else(|reason| panic!("{reason}"));
        assert_eq!(judged.committer, scene.group.own_leaf_index());
        assert_eq!(judged.entrance, None);
    }
}

#[test]
fn a_member_does_nothing_else() {
    let mut scene = Scene::set();
    let required = Extension::RequiredCapabilities(RequiredCapabilitiesExtension::new(&[], &[], &[]));
    let extensions = Extensions::<GroupContext>::single(required).unwrap();
    let other_context = scene.commit(|group, alice| {
        let builder = group
            .commit_builder()
            .propose_group_context_extensions(extensions)
            .unwrap();
        let bundle = builder
            .load_psks(alice.provider.storage())
            .unwrap()
            .build(
                alice.provider.rand(),
                alice.provider.crypto(),
                &alice.keys,
                |_| true,
            )
            .unwrap();
        let bundle = bundle.stage_commit(&alice.provider).unwrap();
        bundle.into_commit().to_bytes().unwrap()
    });
    assert_eq!(scene.against(&other_context), Rule::ProposalKind);
    let with_data = scene.commit(|group, alice| {
        group.set_aad(b"a word aside".to_vec());
        staged(group, alice, Vec::new(), Some(LeafNodeParameters::default()))
    });
    assert_eq!(scene.against(&with_data), Rule::AuthenticatedData);
    // Its own leaf under another name.
    for name in ["mallory/m-1", "alice/a-2", "alice"] {
        let credential = CredentialWithKey {
            credential: BasicCredential::new(name.as_bytes().to_vec()).into(),
            signature_key: scene.alice.keys.to_public_vec().into(),
        };
        let leaf = LeafNodeParameters::builder()
            .with_credential_with_key(credential)
            .build();
        let renamed = scene.commit(|group, alice| staged(group, alice, Vec::new(), Some(leaf)));
        assert_eq!(scene.against(&renamed), Rule::LeafChanged, "{name}");
    }
}

#[test]
fn nobody_is_added_twice_or_without_being_somebodys_device() {
    let mut scene = Scene::set();
    let bobs_name = Device::new("bob", "b-1");
    let (one, other) = (Device::new("carol", "c-1"), Device::new("carol", "c-1"));
    let mut nobody = Device::new("carol", "c-1");
    nobody.keys = SignatureKeyPair::new(SignatureScheme::ED25519).unwrap();
    let without_device = KeyPackage::builder()
        .build(
            SUITE,
            &nobody.provider,
            &nobody.keys,
            CredentialWithKey {
                credential: BasicCredential::new(b"carol".to_vec()).into(),
                signature_key: nobody.keys.to_public_vec().into(),
            },
        )
        .unwrap()
        .into_key_package();
    for (adds, rule) in [
        (added(&bobs_name), Rule::LeafTwice),
        (vec![one.key_package(), other.key_package()], Rule::LeafTwice),
        (vec![without_device], Rule::LeafUnreadable),
    ] {
        let commit = scene.commit(|group, alice| {
            let (commit, ..) = group.add_members(&alice.provider, &alice.keys, &adds).unwrap();
            commit.to_bytes().unwrap()
        });
        assert_eq!(scene.against(&commit), rule);
    }
}

/// A Commit that renews alice's leaf and the root above it, as this provider makes it. It is staged.
fn renewed(group: &mut MlsGroup, alice: &Device, forger: &Gullible) -> Vec<u8> {
    group
        .commit_builder()
        .force_self_update(true)
        .load_psks(alice.provider.storage())
        .unwrap()
        .build(forger.rand(), forger.crypto(), &alice.keys, |_| true)
        .unwrap()
        .stage_commit(&alice.provider)
        .unwrap()
        .into_commit()
        .to_bytes()
        .unwrap()
}

impl Scene {
    /// Why the keys that this forger derives are not taken over: in a Commit of alice's as its first two (the root and her leaf), in
    /// an added leaf as the second, after the init key, and in a proposed leaf as the first. Last, one that it derives as none of these.
    fn flaws_of_keys(&mut self, forger: impl Fn(usize) -> Gullible) -> Vec<Option<NotTaken>> {
        let mut flaws = Vec::new();
        for nth in [0, 1] {
            let commit = self.commit(|group, alice| renewed(group, alice, &forger(nth)));
            flaws.push(self.judged(&commit).err());
        }
        let carol = Device::new("carol", "c-1");
        let key_package = KeyPackage::builder()
            .build(SUITE, &forger(1), &carol.keys, carol.credential())
            .unwrap()
            .into_key_package();
        let commit = self.commit(|group, alice| {
            let (commit, ..) = group
                .add_members(&alice.provider, &alice.keys, &[key_package])
                .unwrap();
            commit.to_bytes().unwrap()
        });
        flaws.push(self.judged(&commit).err());
        let (proposal, _) = self
            .group
            .propose_self_update(&forger(0), &self.alice.keys, LeafNodeParameters::default())
            .unwrap();
        let crypto = RustCrypto::default();
        let judge = Judge::new(&crypto, SERVER);
        let proposal = proposal.to_bytes().unwrap();
        flaws.push(judge.proposal(self.group.public_group(), &proposal).err());
        self.group
            .clear_pending_proposals(self.alice.provider.storage())
            .unwrap();
        let commit = self.commit(|group, alice| renewed(group, alice, &forger(9)));
        flaws.push(self.judged(&commit).err());
        flaws
    }
}

#[test]
fn no_key_is_taken_over_that_nothing_can_be_encrypted_to() {
    let mut scene = Scene::set();
    let useless = Some(NotTaken::Against(Rule::UnusableKey));
    let flaws = scene.flaws_of_keys(Gullible::with_a_useless_key);
    assert_eq!(flaws, [useless, useless, useless, useless, None]);
}

/// Whoever is below that parent could not merge the Commit, and nobody could join by its tree.
#[test]
fn no_key_of_a_parent_node_is_taken_over_again() {
    let mut scene = Scene::set();
    let provider = Gullible::default();
    renewed(&mut scene.group, &scene.alice, &provider);
    scene.group.merge_pending_commit(&scene.alice.provider).unwrap();
    let root = provider.pair(0);
    let twice = Some(NotTaken::Against(Rule::KeyTwice));
    let flaws = scene.flaws_of_keys(|nth| Gullible::with_the_pair(nth, root.clone()));
    assert_eq!(flaws, [twice, twice, twice, twice, None]);
}

#[test]
fn a_device_comes_back_in_the_place_of_its_own_leaf() {
    let scene = Scene::set();
    let commit = scene.enters(&scene.bob, Some(&scene.bob), &[]);
    let judged = scene.judged(&commit).unwrap_or_else(|reason| panic!("{reason}"));
    assert_eq!(judged.entrance, Some(Entrance::Back(scene.bob.leaf.clone())));
    let chatty = scene.enters(&scene.bob, Some(&scene.bob), b"a word aside");
    assert_eq!(scene.against(&chatty), Rule::AuthenticatedData);
}

#[test]
fn a_stranger_does_not_come_in_nor_take_a_place() {
    let scene = Scene::set();
    let carol = Device::new("carol", "c-1");
    let (as_bob, as_bobs_second) = (Device::new("bob", "b-1"), Device::new("bob", "b-2"));
    for (by, place_of, rule) in [
        (&carol, None, Rule::Unproven),
        (&carol, Some(&scene.bob), Rule::Intrusion),
        (&carol, Some(&scene.alice), Rule::Intrusion),
        (&as_bob, None, Rule::LeafTwice),
        (&as_bob, Some(&scene.bob), Rule::Intrusion),
        (&as_bob, Some(&scene.alice), Rule::LeafTwice),
        (&as_bobs_second, None, Rule::Unproven),
        (&as_bobs_second, Some(&scene.bob), Rule::Intrusion),
    ] {
        let commit = scene.enters(by, place_of, &[]);
        let who = (&by.leaf, place_of.map(|victim| &victim.leaf));
        assert_eq!(scene.against(&commit), rule, "{who:?}");
    }
    let nobody = external_commit(&scene.view(), (b"nobody", &carol.keys), None, &[]);
    assert_eq!(scene.against(&nobody), Rule::LeafUnreadable);
}

#[test]
fn a_further_device_comes_in_with_the_chain_from_a_leaf() {
    let scene = Scene::set();
    let (second, third) = (Device::new("bob", "b-2"), Device::new("bob", "b-3"));
    let listed = [
        scene.bob.listed(None),
        second.listed(Some(&scene.bob)),
        third.listed(Some(&second)),
    ];
    let leaves = [scene.alice.leaf.clone(), scene.bob.leaf.clone()];
    for joiner in [&second, &third] {
        let evidence = Evidence::gather(&leaves, &joiner.leaf, &listed)
            .unwrap()
            .to_bytes();
        let judged = scene
            .judged(&scene.enters(joiner, None, &evidence))
            .unwrap_or_else(|reason| panic!("{reason}"));
        assert_eq!(judged.entrance, Some(Entrance::Beside(joiner.leaf.clone())));
    }
    // Nobody comes in with what was shown for another.
    let of_second = Evidence::gather(&leaves, &second.leaf, &listed)
        .unwrap()
        .to_bytes();
    let other_key = Device::new("bob", "b-2");
    let of_alice = Device::new("alice", "b-2");
    for thief in [&third, &other_key, &of_alice] {
        assert_eq!(
            scene.against(&scene.enters(thief, None, &of_second)),
            Rule::Unproven
        );
    }
    // Nor at another server.
    let crypto = RustCrypto::default();
    let elsewhere = Judge::new(&crypto, "other.example");
    let commit = scene.enters(&second, None, &of_second);
    assert!(matches!(
        elsewhere.commit(scene.group.public_group(), &commit),
        Err(NotTaken::Against(Rule::Unproven))
    ));
}

#[test]
fn a_root_that_is_made_up_lets_nobody_in() {
    let scene = Scene::set();
    let (root, ghost) = (Device::new("bob", "b-0"), Device::new("bob", "b-9"));
    // It lets in the leaf that is there and a device of the server's.
    let listed = [
        root.listed(None),
        scene.bob.listed(Some(&root)),
        ghost.listed(Some(&root)),
    ];
    let leaves = [scene.alice.leaf.clone(), scene.bob.leaf.clone()];
    assert_eq!(Evidence::gather(&leaves, &ghost.leaf, &listed), None);
    // Told as if the root were the leaf, or the leaf had let the ghost in.
    for leaf in [&root.leaf, &scene.bob.leaf] {
        let mut forged = listed.clone();
        if let Some(authorization) = &mut forged[2].authorization {
            authorization.by = leaf.device.clone();
        }
        let evidence = Evidence::gather(std::slice::from_ref(leaf), &ghost.leaf, &forged).unwrap();
        let commit = scene.enters(&ghost, None, &evidence.to_bytes());
        assert_eq!(scene.against(&commit), Rule::Unproven);
    }
}

#[test]
fn a_removed_leaf_lets_nobody_in() {
    let mut scene = Scene::set();
    let second = Device::new("bob", "b-2");
    let listed = [scene.bob.listed(None), second.listed(Some(&scene.bob))];
    let leaves = [scene.alice.leaf.clone(), scene.bob.leaf.clone()];
    let evidence = Evidence::gather(&leaves, &second.leaf, &listed)
        .unwrap()
        .to_bytes();
    let bobs_leaf = scene.group.members().nth(1).unwrap().index;
    let provider = &scene.alice.provider;
    scene
        .group
        .remove_members(provider, &scene.alice.keys, &[bobs_leaf])
        .unwrap();
    scene.group.merge_pending_commit(provider).unwrap();
    assert_eq!(
        scene.against(&scene.enters(&second, None, &evidence)),
        Rule::Unproven
    );
}

#[test]
fn a_member_proposes_to_leave_or_to_renew_and_nothing_for_others() {
    let mut scene = Scene::set();
    let (alice, bobs_leaf) = (&scene.alice, scene.group.members().nth(1).unwrap().index);
    let crypto = RustCrypto::default();
    let carol = Device::new("carol", "c-1");
    let group = &mut scene.group;
    let (renews, _) = group
        .propose_self_update(&alice.provider, &alice.keys, LeafNodeParameters::default())
        .unwrap();
    let (expels, _) = group
        .propose_remove_member(&alice.provider, &alice.keys, bobs_leaf)
        .unwrap();
    let (adds, _) = group
        .propose_add_member(&alice.provider, &alice.keys, &carol.key_package())
        .unwrap();
    let leaves = group.leave_group(&alice.provider, &alice.keys).unwrap();
    let verdict = |message: &openmls::prelude::MlsMessageOut| {
        Judge::new(&crypto, SERVER)
            .proposal(scene.group.public_group(), &message.to_bytes().unwrap())
            .map(|judged| judged.proposer)
    };
    let own = scene.group.own_leaf_index();
    assert_eq!(verdict(&renews), Ok(own));
    assert_eq!(verdict(&leaves), Ok(own));
    let in_others_name = Err(NotTaken::Against(Rule::ProposedByAnother));
    assert_eq!(verdict(&expels), in_others_name);
    assert_eq!(verdict(&adds), in_others_name);
}

#[test]
fn what_is_no_commit_of_this_group_at_this_epoch_is_told_apart() {
    let mut scene = Scene::set();
    let commit =
        scene.commit(|group, alice| staged(group, alice, Vec::new(), Some(LeafNodeParameters::default())));
    let reason = |bytes: &[u8]| scene.judged(bytes).err();
    for cut in [
        &[][..],
        &commit[..commit.len() - 1],
        &[&commit[..], &[0]].concat(),
    ] {
        assert_eq!(reason(cut), Some(NotTaken::Unreadable(Unreadable::NotAMessage)));
    }
    assert_eq!(
        reason(&scene.view().group_info),
        Some(NotTaken::Unreadable(Unreadable::Kind))
    );
    let mut flipped = commit.clone();
    flipped[commit.len() / 2] ^= 1;
    assert!(matches!(
        reason(&flipped),
        Some(NotTaken::Unsigned | NotTaken::Unreadable(_))
    ));
    assert_eq!(
        Scene::set().judged(&commit).err(),
        Some(NotTaken::Unsigned),
        "another group"
    );
}
