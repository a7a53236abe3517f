//! Commits that are not valid for the group, or say more than a Commit here may say, are refused whole.

use larder_wire::{Base64Url, CommitCheck, CommitRequest, GroupId, KeyPackageState, ProblemType};
use openmls::prelude::tls_codec::Deserialize as _;
use openmls::prelude::{
    Extension, Extensions, GroupContext, LeafNodeParameters, MlsMessageBodyIn, MlsMessageIn,
    OpenMlsProvider as _, PreSharedKeyProposal, Proposal, RequiredCapabilitiesExtension,
};
use openmls::schedule::PreSharedKeyId;
use openmls_basic_credential::SignatureKeyPair;

use crate::scene::Scene;
use crate::support::{KeyPackageSpec, SUITE, state_of};

#[tokio::test]
async fn a_commit_comes_from_a_member_and_from_its_own_leaf() {
    let mut scene = Scene::set().await;
    let request = scene.alice.stage_update(&mut scene.alices);
    scene.alice.clear(&mut scene.alices);
    // Not a member: no such group. The same words as for a group that does not exist.
    let outsider = scene.mallory.post_commit(&scene.gid, &request).await;
    scene
        .refused(&scene.mallory, &request, ProblemType::NotFound)
        .await;
    let nowhere = GroupId::from_bytes(b"nowhere").unwrap();
    let unknown = scene.mallory.post_commit(&nowhere, &request).await;
    assert_eq!(outsider.body, unknown.body);
    // A member, with another member's Commit.
    scene.invalid(&scene.bob, &request, CommitCheck::Sender).await;
    scene.still_works().await;
}

#[tokio::test]
async fn a_commit_is_one_valid_public_message_for_this_group() {
    let mut scene = Scene::set().await;
    let update = scene.alice.stage_update(&mut scene.alices);
    scene.alice.clear(&mut scene.alices);
    let with = |bytes: Vec<u8>| CommitRequest {
        commit: Base64Url(bytes),
        ..update.clone()
    };
    let genuine = update.commit.0.clone();

    let mut trailing = genuine.clone();
    trailing.push(0);
    for bytes in [
        vec![],
        vec![0; 64],
        trailing,
        genuine[..genuine.len() - 1].to_vec(),
    ] {
        scene
            .refused(&scene.alice, &with(bytes), ProblemType::Malformed)
            .await;
    }
    let text = scene.alice.encrypt(&mut scene.alices, "hello");
    let key_package = scene.alice.mint(KeyPackageSpec::default());
    for bytes in [text, key_package, update.group_info.0.clone()] {
        scene
            .invalid(&scene.alice, &with(bytes), CommitCheck::MessageKind)
            .await;
    }
    let mut elsewhere = scene.alice.new_group();
    let of_another_group = scene.alice.stage_update(&mut elsewhere);
    scene
        .invalid(&scene.alice, &with(of_another_group.commit.0), CommitCheck::Group)
        .await;
    let mut tampered = genuine;
    let middle = tampered.len() / 2;
    tampered[middle] ^= 1;
    let answer = scene.alice.post_commit(&scene.gid, &with(tampered)).await;
    assert!(matches!(answer.status, 400 | 422), "{answer:?}");
    scene.still_works().await;
}

/// S4, R-S5.
#[tokio::test]
async fn the_group_info_is_the_senders_for_exactly_the_new_epoch() {
    let mut scene = Scene::set().await;
    let of_this_epoch = scene.alice.group_info(&scene.alices);
    let update = scene.alice.stage_update(&mut scene.alices);
    scene.alice.clear(&mut scene.alices);
    let other_update = scene.alice.stage_update(&mut scene.alices);
    scene.alice.clear(&mut scene.alices);
    let of_bob = scene.bob.stage_update(&mut scene.bobs);
    scene.bob.clear(&mut scene.bobs);
    let mut elsewhere = scene.alice.new_group();
    let of_another_group = scene.alice.stage_update(&mut elsewhere);
    let mut flipped = update.group_info.0.clone();
    *flipped.last_mut().unwrap() ^= 1;

    let with = |bytes: Vec<u8>| CommitRequest {
        group_info: Base64Url(bytes),
        ..update.clone()
    };
    for bytes in [
        of_this_epoch,
        other_update.group_info.0,
        of_bob.group_info.0,
        of_another_group.group_info.0,
        flipped,
        update.commit.0.clone(),
    ] {
        scene
            .invalid(&scene.alice, &with(bytes), CommitCheck::GroupInfo)
            .await;
    }
    let mut trailing = update.group_info.0.clone();
    trailing.push(0);
    for bytes in [vec![], b"garbage".to_vec(), trailing] {
        scene
            .refused(&scene.alice, &with(bytes), ProblemType::Malformed)
            .await;
    }
    scene.still_works().await;
}

#[tokio::test]
async fn a_group_info_without_a_usable_external_pub_is_refused() {
    let mut scene = Scene::set().await;
    let update = scene.alice.stage_update(&mut scene.alices);
    scene.alice.clear(&mut scene.alices);
    // Signed by Alice and right in every other way, so the signature is made anew over the changed bytes.
    let mut bytes = update.group_info.0.clone();
    let public = {
        let message = MlsMessageIn::tls_deserialize_exact(&bytes[..]).unwrap();
        let MlsMessageBodyIn::GroupInfo(info) = message.extract() else {
            panic!("not a GroupInfo")
        };
        info.extensions()
            .external_pub()
            .unwrap()
            .external_pub()
            .as_slice()
            .to_vec()
    };
    let at = bytes
        .windows(public.len())
        .position(|window| window == public)
        .unwrap();
    bytes[at..at + public.len()].fill(0);
    let signed = bytes.len() - 66;
    let content = larder_wire::sign_with_label_content("GroupInfoTBS", &bytes[4..signed]);
    let signature = openmls_traits::signatures::Signer::sign(&scene.alice.mls, &content).unwrap();
    bytes[signed + 2..].copy_from_slice(&signature);
    let request = CommitRequest {
        group_info: Base64Url(bytes),
        ..update
    };
    scene
        .invalid(&scene.alice, &request, CommitCheck::GroupInfo)
        .await;
    scene.still_works().await;
}

#[tokio::test]
async fn nothing_but_adds_removes_and_updates_is_committed() {
    let mut scene = Scene::set().await;
    let (alice, alices) = (&scene.alice, &mut scene.alices);
    let psk = PreSharedKeyId::new(
        SUITE,
        alice.provider.rand(),
        openmls::schedule::Psk::External(openmls::schedule::ExternalPsk::new(b"psk".to_vec())),
    )
    .unwrap();
    psk.store(&alice.provider, b"a secret that only Alice has")
        .unwrap();
    let with_psk = alice.stage(alices, |commit| {
        commit.add_proposal(Proposal::PreSharedKey(Box::new(PreSharedKeyProposal::new(psk))))
    });
    alice.clear(alices);
    let required = Extension::RequiredCapabilities(RequiredCapabilitiesExtension::new(&[], &[], &[]));
    let extensions = Extensions::<GroupContext>::single(required).unwrap();
    let with_extensions = alice.stage(alices, |commit| {
        commit.propose_group_context_extensions(extensions).unwrap()
    });
    alice.clear(alices);
    for request in [with_psk, with_extensions] {
        scene
            .invalid(&scene.alice, &request, CommitCheck::ProposalType)
            .await;
    }
    scene.still_works().await;
}

#[tokio::test]
async fn an_added_leaf_names_a_registered_device_with_its_registered_key() {
    let mut scene = Scene::set().await;
    let (reserved, refs) = scene.alice.take(&[&scene.carol], &scene.gid).await;
    drop(reserved);
    let stranger = SignatureKeyPair::new(openmls::prelude::SignatureScheme::ED25519).unwrap();
    let ghost = KeyPackageSpec {
        signer: Some(stranger),
        ..Default::default()
    };
    let ghost = scene.alice.validate(&scene.carol.mint(ghost));
    let nobody = KeyPackageSpec {
        identity: Some(b"nobody/nobody-1".to_vec()),
        ..Default::default()
    };
    let nobody = scene.alice.validate(&scene.carol.mint(nobody));
    let bobs_name = KeyPackageSpec {
        identity: Some(b"bob/bob-1".to_vec()),
        ..Default::default()
    };
    let bobs_name = scene.alice.validate(&scene.mallory.mint(bobs_name));
    let no_identity = KeyPackageSpec {
        identity: Some(b"carol".to_vec()),
        ..Default::default()
    };
    let no_identity = scene.alice.validate(&scene.carol.mint(no_identity));
    for key_package in [ghost, nobody, bobs_name, no_identity] {
        let request = scene.stage(vec![key_package]);
        scene
            .invalid(&scene.alice, &request, CommitCheck::Credential)
            .await;
    }
    assert_eq!(state_of(&scene.carol, &refs[0]).await, KeyPackageState::Reserved);
    scene.still_works().await;
}

#[tokio::test]
async fn a_committer_cannot_rename_itself() {
    let mut scene = Scene::set().await;
    let mut credential = scene.mallory.credential();
    credential.signature_key = scene.alice.mls.to_public_vec().into();
    let parameters = LeafNodeParameters::builder()
        .with_credential_with_key(credential)
        .build();
    let request = scene.alice.stage(&mut scene.alices, |commit| {
        commit.force_self_update(true).leaf_node_parameters(parameters)
    });
    scene.alice.clear(&mut scene.alices);
    scene
        .invalid(&scene.alice, &request, CommitCheck::Credential)
        .await;
    scene.still_works().await;
}
