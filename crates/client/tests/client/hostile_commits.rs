//! A server, or a member, who makes Commits that nobody may make: real ones, which every secret of the group agrees with.
#![allow(clippy::disallowed_methods, reason = "an attacker passes no gate")]

use crate::forger::{PublicView, external_commit};
use crate::gullible::Gullible;
use crate::member::with_state;
use crate::support::{Client, Proxy, TestServer, they_talk};
use larder_client::{GroupKey, GroupState};
use larder_pool::openmls::prelude::tls_codec::Serialize as _;
use larder_pool::openmls::prelude::{
    BasicCredential, CredentialWithKey, Extension, Extensions, GroupContext, LeafNodeParameters,
    OpenMlsProvider, RequiredCapabilitiesExtension, SignatureScheme,
};
use larder_wire::{Inbox, InboxKind};
use openmls_basic_credential::SignatureKeyPair;

/// What a server has of the group that a client is in.
pub(crate) fn public_view(client: &Client, group: &GroupKey) -> PublicView {
    with_state(client, group, |provider, state, keys| PublicView {
        group_info: state
            .export_group_info(provider.crypto(), keys, false)
            .unwrap()
            .to_bytes()
            .unwrap(),
        ratchet_tree: state.export_ratchet_tree().tls_serialize_detached().unwrap(),
    })
}

pub(crate) fn new_keys() -> SignatureKeyPair {
    SignatureKeyPair::new(SignatureScheme::ED25519).unwrap()
}

fn identity(client: &Client) -> Vec<u8> {
    larder_wire::credential_identity(&client.me().user, &client.me().device_id)
}

fn signature_key(client: &Client, group: &GroupKey) -> Vec<u8> {
    with_state(client, group, |_, _, keys| keys.to_public_vec())
}

/// Delivers these Commits, one in the place of each row of this kind.
pub(crate) fn deliver(
    proxy: &Proxy,
    in_the_place_of: InboxKind,
    group: &GroupKey,
    epoch: u64,
    commits: Vec<Vec<u8>>,
) {
    let group = group.clone();
    proxy.lie("POST", "/v1/inbox/next", move |inbox: &mut Inbox| {
        let rows = inbox.rows.iter_mut().filter(|row| row.kind == in_the_place_of);
        for (row, commit) in rows.zip(&commits) {
            row.kind = InboxKind::Commit;
            row.group_id = Some(group.clone());
            row.epoch = Some(epoch + 1);
            row.body.0.clone_from(commit);
        }
    });
}

/// The group is as it was, nothing was sent, and the person was told once.
async fn assert_refused(client: &Client, proxy: &Proxy, group: &GroupKey, rule: &str) {
    let (users, epoch) = (client.users(group).await, client.epoch(group).await);
    let sent = proxy.seen("POST", "/commits").len();
    let told = client.told().await;
    let of_commits: Vec<_> = told
        .iter()
        .filter(|text| {
            text.starts_with("the server delivered a change of this group that nobody can have made")
        })
        .collect();
    assert_eq!(of_commits.len(), 1, "{told:?}");
    assert!(of_commits[0].contains(rule), "{told:?}");
    let summary = client.summary(group).await;
    assert_eq!((summary.state, summary.epoch), (GroupState::Active, epoch));
    assert_eq!(client.users(group).await, users);
    assert_eq!(proxy.seen("POST", "/commits").len(), sent);
}

#[tokio::test]
async fn a_server_does_not_enter_a_group_under_any_name() {
    let names: [(&str, bool, &str); 4] = [
        ("carol/c-1", false, "lets in a device that no member"),
        ("carol/c-1", true, "changes other members in coming"),
        ("bob", false, "is in the group already"),
        ("bob", true, "changes other members in coming"),
    ];
    for (name, takes_bobs_place, rule) in names {
        let server = TestServer::start().await;
        let (alice, proxy) = server.proxied("alice").await;
        let bob = server.client("bob").await;
        let group = alice.group_with(&[&bob]).await;
        they_talk(&alice, &bob, &group).await;

        let keys = new_keys();
        let name = match name {
            "bob" => identity(&bob),
            other => other.as_bytes().to_vec(),
        };
        let bobs_key = signature_key(&bob, &group);
        let victim = takes_bobs_place.then_some(bobs_key.as_slice());
        let forged = external_commit(&public_view(&alice, &group), (&name, &keys), victim, &[]);
        // What follows on the server's branch does not make alice go there: neither what is no Commit, nor the same again.
        bob.send(&group, "swallowed").await.unwrap();
        bob.send(&group, "swallowed").await.unwrap();
        bob.send(&group, "swallowed").await.unwrap();
        let epoch = alice.epoch(&group).await;
        let commits = vec![forged.clone(), b"garbage".to_vec(), forged];
        deliver(&proxy, InboxKind::Message, &group, epoch, commits);
        assert_refused(&alice, &proxy, &group, rule).await;

        proxy.forward();
        they_talk(&alice, &bob, &group).await;
        alice
            .invite(&group, &[server.client("dave").await.me().user.clone()])
            .await
            .unwrap();
        they_talk(&alice, &bob, &group).await;
        assert_eq!(alice.users(&group).await, ["alice", "bob", "dave"]);
    }
}

#[tokio::test]
async fn a_server_does_not_take_a_members_own_place() {
    let server = TestServer::start().await;
    let (alice, proxy) = server.proxied("alice").await;
    let bob = server.client("bob").await;
    let group = alice.create_group("lunch").await.unwrap().id;
    alice.invite(&group, &[bob.me().user.clone()]).await.unwrap();
    alice.send(&group, "kept").await.unwrap();
    alice.sync().await.unwrap();
    let key = signature_key(&alice, &group);
    let view = public_view(&alice, &group);
    let (keys, name) = (new_keys(), identity(&alice));
    // Alice is told of a device of bob's; instead of that she gets the Commit that expels her.
    let _second = bob.link().await;
    let forged = external_commit(&view, (&name, &keys), Some(&key), &[]);
    deliver(
        &proxy,
        InboxKind::DeviceChange,
        &group,
        alice.epoch(&group).await,
        vec![forged],
    );
    assert_refused(&alice, &proxy, &group, "changes other members in coming").await;
    let history = alice.history(&group, 10).await.unwrap();
    assert!(history.iter().any(|message| message.text == "kept"));
    proxy.forward();
    they_talk(&alice, &bob, &group).await;
}

/// Proposes a fresh leaf of this client's, with the keys that this forger derives.
fn fresh_leaf(client: &Client, group: &GroupKey, forger: &Gullible) -> Vec<u8> {
    with_state(client, group, |_, state, keys| {
        let (proposal, _) = state
            .propose_self_update(forger, keys, LeafNodeParameters::default())
            .unwrap();
        proposal.to_bytes().unwrap()
    })
}

/// Two members, who may be one person, propose fresh leaves with one key. No Commit can have both.
#[tokio::test]
async fn fresh_leaves_that_do_not_go_together_hold_up_nobody() {
    let server = TestServer::start().await;
    let (alice, proxy) = server.proxied("alice").await;
    let (bob, carol) = (server.client("bob").await, server.client("carol").await);
    let (group, other) = (
        alice.group_with(&[&bob, &carol]).await,
        alice.group_with(&[&bob]).await,
    );
    they_talk(&alice, &bob, &group).await;
    they_talk(&alice, &bob, &other).await;
    carol.sync().await.unwrap();
    let forger = Gullible::default();
    let mut proposals = vec![fresh_leaf(&bob, &group, &forger)];
    let forger = Gullible::with_the_pair(0, forger.pair(0));
    proposals.push(fresh_leaf(&carol, &group, &forger));
    for text in ["swallowed", "and this"] {
        bob.send(&group, text).await.unwrap();
    }
    let epoch = alice.epoch(&group).await;
    let of = group.clone();
    proxy.lie("POST", "/v1/inbox/next", move |inbox: &mut Inbox| {
        let rows = inbox.rows.iter_mut().filter(|row| row.kind == InboxKind::Message);
        for (row, proposal) in rows.zip(&proposals) {
            row.kind = InboxKind::Proposal;
            row.group_id = Some(of.clone());
            row.epoch = Some(epoch);
            row.body.0.clone_from(proposal);
        }
    });
    alice.sync().await.unwrap();
    proxy.forward();
    they_talk(&alice, &bob, &other).await;
    they_talk(&alice, &bob, &group).await;
    assert_eq!(
        alice.epoch(&group).await,
        epoch + 1,
        "a Commit without them has ended the epoch"
    );
}

#[tokio::test]
async fn a_member_does_not_become_another_nor_change_what_a_group_is() {
    enum Does {
        RenamesItself,
        RequiresSomething,
        WedgesTheGroup,
    }
    for (does, rule) in [
        (Does::RenamesItself, "turns a member into another one"),
        (
            Does::RequiresSomething,
            "something else than to add, remove or renew members",
        ),
        (Does::WedgesTheGroup, "a key that nothing can be encrypted to"),
    ] {
        let server = TestServer::start().await;
        let (alice, proxy) = server.proxied("alice").await;
        let bob = server.client("bob").await;
        let group = alice.group_with(&[&bob]).await;
        they_talk(&alice, &bob, &group).await;
        bob.send(&group, "swallowed").await.unwrap();
        let forged = with_state(&bob, &group, |provider, state, keys| {
            let credential = CredentialWithKey {
                credential: BasicCredential::new(b"carol/c-1".to_vec()).into(),
                signature_key: keys.to_public_vec().into(),
            };
            let required = Extension::RequiredCapabilities(RequiredCapabilitiesExtension::new(&[], &[], &[]));
            let builder = state.commit_builder();
            let mut forger = Gullible::default();
            let builder = match does {
                Does::RenamesItself => builder.force_self_update(true).leaf_node_parameters(
                    LeafNodeParameters::builder()
                        .with_credential_with_key(credential)
                        .build(),
                ),
                Does::RequiresSomething => builder
                    .propose_group_context_extensions(Extensions::<GroupContext>::single(required).unwrap())
                    .unwrap(),
                Does::WedgesTheGroup => {
                    forger = Gullible::with_a_useless_key(1);
                    builder.force_self_update(true)
                }
            };
            let staged = builder
                .load_psks(provider.storage())
                .unwrap()
                .build(forger.rand(), forger.crypto(), keys, |_| true)
                .unwrap()
                .stage_commit(provider)
                .unwrap();
            staged.into_commit().to_bytes().unwrap()
        });
        let epoch = alice.epoch(&group).await;
        deliver(&proxy, InboxKind::Message, &group, epoch, vec![forged]);
        assert_refused(&alice, &proxy, &group, rule).await;
        proxy.forward();
        they_talk(&alice, &bob, &group).await;
    }
}
