//! Joining from a Welcome: in one transaction, or not at all.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::support::{self, DAY, Device, Invitation, join_config, private_keys, single_use, tables_holding};
use larder_lifecycle::{DirectoryStatus, UnixSeconds};
use larder_pool::openmls::prelude::{GroupId, Lifetime, MlsGroup, OpenMlsProvider as _, StagedWelcome};
use larder_pool::{Corrupt, Erasure, JoinError, PoolError, StoreError, Upload, Verdict};
use openmls_traits::storage::StorageProvider as _;

fn invited() -> (Device, Device, Upload, Invitation) {
    let mut bob = Device::new("bob/phone");
    let mut alice = Device::new("alice/phone");
    let upload = bob.stock(3).remove(0);
    let invitation = alice.invite(&upload);
    (alice, bob, upload, invitation)
}

/// Refused without a trace, and the genuine Welcome still joins.
fn assert_harmless(
    bob: &mut Device,
    invitation: &Invitation,
    welcome: &[u8],
    tree: Option<&[u8]>,
) -> JoinError {
    let before = bob.dump();
    let error = bob.join_bytes(welcome, tree).unwrap_err();
    assert_eq!(bob.dump(), before, "{error:?}");
    bob.join(invitation).unwrap();
    bob.assert_consistent(2);
    error
}

#[test]
fn c4_r_c3_a_join_stores_the_group_and_spends_the_key_in_one_transaction() {
    let (_alice, mut bob, upload, invitation) = invited();
    let bundle = bob.bundle(&upload.key_package_ref).unwrap();
    let init_key = bundle.init_private_key().to_vec();
    let commits = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&commits);
    bob.store.connection_mut().commit_hook(Some(move || {
        counter.fetch_add(1, Ordering::SeqCst);
        false
    }));

    let joined = bob.join(&invitation).unwrap();
    assert_eq!(
        commits.load(Ordering::SeqCst),
        2,
        "one for the join, and one for the note that nothing is left in the log"
    );
    assert_eq!(joined.key_package_ref, upload.key_package_ref);
    assert_eq!(joined.group.group_id(), &invitation.group_id);
    assert_eq!(joined.group.members().count(), 2);

    assert!(bob.has_group(&invitation.group_id));
    assert!(bob.bundle(&upload.key_package_ref).is_none());
    bob.assert_consistent(2);
    let health = bob.health();
    assert_eq!((health.available, health.spent), (2, 1));
    assert_eq!(tables_holding(&bob.dump(), &init_key), [""; 0]);
    assert!(support::files_holding(bob.directory.path(), &init_key).is_empty());
}

#[test]
fn a_key_package_that_the_directory_calls_spent_still_joins() {
    let (_alice, mut bob, upload, invitation) = invited();
    bob.confirm(
        &upload.key_package_ref,
        Verdict::Held(single_use(DirectoryStatus::Spent)),
    );
    bob.join(&invitation).unwrap();
    bob.assert_consistent(2);
}

#[test]
fn an_error_after_the_join_undoes_it() {
    let (_alice, mut bob, _, invitation) = invited();
    let before = bob.dump();
    let (pool, now) = (&bob.pool, bob.now);
    let failed: Result<(), JoinError> = bob.store.transaction(|tx| {
        pool.join(
            tx,
            &invitation.welcome,
            Some(&invitation.ratchet_tree),
            &join_config(),
            now,
        )?;
        Err(JoinError::NotOurs)
    });
    assert!(failed.is_err());
    assert_eq!(bob.dump(), before);
    bob.join(&invitation).unwrap();
}

#[test]
fn r_c4_no_flipped_byte_of_a_welcome_burns_the_key() {
    let (_alice, mut bob, _, invitation) = invited();
    let before = bob.dump();
    for position in 0..invitation.welcome.len() {
        for mask in [0x01, 0x80] {
            let mut welcome = invitation.welcome.clone();
            welcome[position] ^= mask;
            // Every byte is authenticated, or decides whether the rest is found at all.
            let joined = bob.join_bytes(&welcome, Some(&invitation.ratchet_tree));
            assert!(joined.is_err(), "byte {position} ^ {mask:#x} joined");
            assert_eq!(bob.dump(), before, "byte {position} ^ {mask:#x}");
        }
    }
    bob.join(&invitation).unwrap();
    bob.assert_consistent(2);
}

#[test]
fn no_truncated_welcome_burns_the_key() {
    let (_alice, mut bob, _, invitation) = invited();
    let before = bob.dump();
    for length in 0..invitation.welcome.len() {
        let joined = bob.join_bytes(&invitation.welcome[..length], Some(&invitation.ratchet_tree));
        assert!(matches!(joined, Err(JoinError::Malformed)), "{length} bytes");
    }
    assert_eq!(bob.dump(), before);
    bob.join(&invitation).unwrap();
}

#[test]
fn no_flipped_or_missing_byte_of_a_ratchet_tree_burns_the_key() {
    let (_alice, mut bob, _, invitation) = invited();
    let before = bob.dump();
    let whole = &invitation.ratchet_tree;
    for position in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[position] ^= 0x01;
        for tree in [&flipped[..], &whole[..position]] {
            let joined = bob.join_bytes(&invitation.welcome, Some(tree));
            assert!(joined.is_err(), "byte {position} joined");
        }
        assert_eq!(bob.dump(), before, "byte {position}");
    }
    bob.join(&invitation).unwrap();
}

#[test]
fn a_failed_join_is_undone_even_if_the_caller_commits_a_note_of_it() {
    let (_alice, mut bob, _, invitation) = invited();
    bob.store
        .connection_mut()
        .execute_batch("CREATE TABLE note (text TEXT)")
        .unwrap();
    let mut before = bob.dump();
    let mut welcome = invitation.welcome.clone();
    *welcome.last_mut().unwrap() ^= 1;
    let (pool, now) = (&bob.pool, bob.now);
    bob.store
        .transaction(|tx| -> Result<(), StoreError> {
            let failed = pool.join(tx, &welcome, Some(&invitation.ratchet_tree), &join_config(), now);
            assert!(matches!(failed, Err(JoinError::Mls(_))), "{failed:?}");
            tx.connection()
                .execute("INSERT INTO note VALUES ('refused')", [])?;
            Ok(())
        })
        .unwrap();
    let mut after = bob.dump();
    let notes = after.iter().position(|(name, _)| name == "note").unwrap();
    assert_eq!(after.remove(notes).1.len(), 1);
    before.remove(notes);
    assert_eq!(after, before);
    bob.join(&invitation).unwrap();
}

#[test]
fn openmls_alone_would_have_burned_the_key() {
    let (_alice, mut bob, upload, invitation) = invited();
    let mut welcome = invitation.welcome.clone();
    *welcome.last_mut().unwrap() ^= 1;
    let burned = bob.store.transaction(|tx| -> Result<_, StoreError> {
        use larder_pool::openmls::prelude::{MlsMessageBodyIn, MlsMessageIn, tls_codec::Deserialize as _};
        let message = MlsMessageIn::tls_deserialize_exact(&welcome).unwrap();
        let MlsMessageBodyIn::Welcome(welcome) = message.extract() else {
            panic!("not a Welcome");
        };
        assert!(StagedWelcome::new_from_welcome(&tx.provider(), &join_config(), welcome, None).is_err());
        let left: Option<larder_pool::openmls::prelude::KeyPackageBundle> =
            tx.provider().storage().key_package(&upload.key_package_ref)?;
        Ok(left.is_none())
    });
    assert!(
        burned.unwrap(),
        "or the savepoint of `join` guards against nothing"
    );
}

#[test]
fn a_missing_ratchet_tree_is_harmless() {
    let (_alice, mut bob, _, invitation) = invited();
    let error = assert_harmless(&mut bob, &invitation, &invitation.welcome, None);
    assert!(matches!(error, JoinError::MissingRatchetTree));
}

#[test]
fn a_malformed_ratchet_tree_is_harmless() {
    let (_alice, mut bob, _, invitation) = invited();
    let mut tree = invitation.ratchet_tree.clone();
    tree.push(0);
    let error = assert_harmless(&mut bob, &invitation, &invitation.welcome, Some(&tree));
    assert!(matches!(error, JoinError::MalformedRatchetTree));
}

#[test]
fn the_ratchet_tree_of_another_group_is_harmless() {
    let (mut alice, mut bob, _, invitation) = invited();
    let mut carol = Device::new("carol/phone");
    let elsewhere = carol.stock(1).remove(0);
    let wrong = alice.invite(&elsewhere).ratchet_tree;
    let error = assert_harmless(&mut bob, &invitation, &invitation.welcome, Some(&wrong));
    assert!(matches!(error, JoinError::Mls(_)));
}

#[test]
fn trailing_bytes_and_other_messages_are_harmless() {
    let (_alice, mut bob, upload, invitation) = invited();
    let mut trailing = invitation.welcome.clone();
    trailing.push(0);
    let tree = Some(&invitation.ratchet_tree[..]);
    let before = bob.dump();
    for malformed in [&trailing[..], &invitation.welcome[1..], &upload.key_package, &[]] {
        assert!(matches!(
            bob.join_bytes(malformed, tree),
            Err(JoinError::Malformed)
        ));
    }
    assert_eq!(bob.dump(), before);
    bob.join(&invitation).unwrap();
}

#[test]
fn r_c13_a_second_welcome_to_a_joined_group_is_harmless() {
    let mut bob = Device::new("bob/phone");
    let uploads = bob.stock(3);
    let mut alice = Device::new("alice/phone");
    let first = alice.invite(&uploads[0]);
    bob.join(&first).unwrap();
    // Anyone can call a group of theirs by the same id.
    let mut mallory = Device::new("mallory/phone");
    let second = same_group_again(&mut mallory, &first.group_id, &uploads[1]);
    let before = bob.dump();
    let error = bob.join(&second).unwrap_err();
    let JoinError::GroupExists { group_id } = error else {
        panic!("{error:?}");
    };
    assert_eq!(group_id, first.group_id);
    assert_eq!(bob.dump(), before);
    bob.assert_consistent(2);
    let third = alice_invites_elsewhere(&uploads[1]);
    bob.join(&third).unwrap();
    bob.assert_consistent(1);
}

fn same_group_again(mallory: &mut Device, group_id: &GroupId, upload: &Upload) -> Invitation {
    let Device {
        store,
        signer,
        credential,
        ..
    } = mallory;
    store
        .transaction(|tx| -> Result<(), StoreError> {
            MlsGroup::builder()
                .with_group_id(group_id.clone())
                .ciphersuite(support::SUITE)
                .with_wire_format_policy(larder_pool::openmls::prelude::PURE_PLAINTEXT_WIRE_FORMAT_POLICY)
                .build(&tx.provider(), signer, credential.clone())
                .unwrap();
            Ok(())
        })
        .unwrap();
    mallory.invite_to(group_id, upload)
}

fn alice_invites_elsewhere(upload: &Upload) -> Invitation {
    Device::new("alice/laptop").invite(upload)
}

#[test]
fn a_group_that_this_device_was_removed_from_is_joined_again() {
    let (mut alice, mut bob, _, invitation) = invited();
    let group_id = invitation.group_id.clone();
    let mut group = bob.join(&invitation).unwrap().group;
    let Device { store, signer, .. } = &mut alice;
    let commit = store
        .transaction(|tx| -> Result<_, StoreError> {
            let mut group = MlsGroup::load(tx.provider().storage(), &group_id)?.unwrap();
            let bob = group
                .members()
                .find(|member| member.index != group.own_leaf_index())
                .unwrap();
            let (commit, ..) = group
                .remove_members(&tx.provider(), signer, &[bob.index])
                .unwrap();
            group.merge_pending_commit(&tx.provider()).unwrap();
            Ok(commit)
        })
        .unwrap();
    bob.store
        .transaction(|tx| -> Result<(), StoreError> {
            use larder_pool::openmls::prelude::{
                MlsMessageIn, ProcessedMessageContent, tls_codec::Deserialize as _,
            };
            let commit = MlsMessageIn::tls_deserialize_exact(commit.to_bytes().unwrap()).unwrap();
            let message = group
                .process_message(&tx.provider(), commit.try_into_protocol_message().unwrap())
                .unwrap();
            let ProcessedMessageContent::StagedCommitMessage(staged) = message.into_content() else {
                panic!("not a Commit");
            };
            group.merge_staged_commit(&tx.provider(), *staged).unwrap();
            assert!(!group.is_active());
            Ok(())
        })
        .unwrap();
    bob.mint(1);
    let upload = bob.begin_upload().remove(0);
    let again = alice.invite_to(&group_id, &upload);
    let joined = bob.join(&again).unwrap();
    assert!(joined.group.is_active());
    let epochs = bob.in_tx(|tx, _, _| {
        let sql = "SELECT count(*) FROM openmls_epoch_keys_pairs";
        Ok::<i64, PoolError>(tx.connection().query_row(sql, [], |row| row.get(0)).unwrap())
    });
    assert_eq!(epochs, 1, "R-C14: no key of the group's former life is left");
    assert_eq!(joined.group.epoch().as_u64(), 3);
    assert!(bob.has_group(&group_id));
    bob.assert_consistent(2);
}

#[test]
fn an_expired_leaf_of_another_member_does_not_keep_us_out() {
    let mut bob = Device::new("bob/phone");
    let upload = bob.stock(1).remove(0);
    let mut alice = Device::new("alice/phone");
    let long_ago = Lifetime::init(bob.now.0 - 90 * DAY, bob.now.0 - DAY);
    let invitation = alice.invite_with(&upload, Some(long_ago));

    let strict = bob.store.transaction(|tx| -> Result<(), PoolError> {
        use larder_pool::openmls::prelude::tls_codec::Deserialize as _;
        use larder_pool::openmls::prelude::{MlsMessageBodyIn, MlsMessageIn, RatchetTreeIn};
        let message = MlsMessageIn::tls_deserialize_exact(&invitation.welcome).unwrap();
        let MlsMessageBodyIn::Welcome(welcome) = message.extract() else {
            panic!("not a Welcome");
        };
        let tree = RatchetTreeIn::tls_deserialize_exact(&invitation.ratchet_tree).unwrap();
        StagedWelcome::new_from_welcome(&tx.provider(), &join_config(), welcome, Some(tree))
            .map(|_| ())
            .map_err(|_| PoolError::Randomness)
    });
    assert!(strict.is_err(), "the leaf has really expired");

    bob.join(&invitation).unwrap();
    bob.assert_consistent(0);
}

#[test]
fn our_own_key_package_joins_until_the_end_of_grace_and_not_after_it() {
    let (_alice, mut bob, upload, invitation) = invited();
    let end = support::key_package(&upload).life_time().not_after();
    let before = bob.dump();
    bob.now.0 = end + DAY;
    let error = bob.join(&invitation).unwrap_err();
    assert!(
        matches!(error, JoinError::Expired { not_after, .. } if not_after == UnixSeconds(end)),
        "{error:?}"
    );
    assert_eq!(bob.dump(), before);
    bob.now.0 = end + DAY - 1;
    bob.join(&invitation).unwrap();
}

#[test]
fn a_welcome_that_cannot_be_opened_is_explained() {
    let (mut alice, mut bob, upload, invitation) = invited();
    bob.join(&invitation).unwrap();
    let before = bob.dump();
    let again = alice.invite(&upload);
    for second in [&invitation, &again] {
        match bob.join(second).unwrap_err() {
            JoinError::AlreadySpent {
                key_package_ref,
                group_id,
                at,
            } => {
                assert_eq!(key_package_ref, upload.key_package_ref);
                assert_eq!((group_id, at), (invitation.group_id.clone(), bob.now));
            }
            other => panic!("{other:?}"),
        }
    }

    let mut carol = Device::new("carol/phone");
    let for_carol = carol.stock(1).remove(0);
    let invitation = alice.invite(&for_carol);
    assert!(matches!(bob.join(&invitation), Err(JoinError::NotOurs)));
    assert_eq!(bob.dump(), before);

    carol.confirm(
        &for_carol.key_package_ref,
        Verdict::Held(single_use(DirectoryStatus::Lapsed)),
    );
    let error = carol.join(&invitation).unwrap_err();
    assert!(
        matches!(&error, JoinError::Erased { cause: Erasure::Lapsed, at, .. } if *at == carol.now),
        "{error:?}"
    );
    let told = error.to_string();
    assert!(told.contains("nobody used it in time"), "{told}");
}

#[test]
fn private_keys_without_metadata_fail_closed() {
    let (_alice, mut bob, upload, invitation) = invited();
    let connection = bob.store.connection_mut();
    let live = connection.execute("DELETE FROM keypackage_pool_metadata", []);
    assert!(live.is_err(), "a live row cannot be dropped");
    connection
        .execute_batch(
            "DROP TRIGGER keypackage_pool_metadata_live_rows_stay; DELETE FROM keypackage_pool_metadata",
        )
        .unwrap();
    let audit = bob.store.audit().unwrap();
    assert_eq!((audit.bundles, audit.live, audit.without_row.len()), (3, 0, 3));
    assert!(audit.without_row.contains(&upload.key_package_ref));
    assert!(matches!(
        bob.join(&invitation),
        Err(JoinError::Pool(PoolError::Store(StoreError::Corrupt(
            Corrupt::Bundle
        ))))
    ));
}

#[test]
fn metadata_without_private_keys_fails_closed() {
    let (_alice, mut bob, upload, invitation) = invited();
    bob.in_tx(|tx, _, _| {
        Ok(tx
            .provider()
            .storage()
            .delete_key_package(&upload.key_package_ref)?)
    });
    let audit = bob.store.audit().unwrap();
    assert_eq!(
        audit.without_bundle,
        std::slice::from_ref(&upload.key_package_ref)
    );
    assert!(!audit.is_consistent());
    assert!(matches!(
        bob.join(&invitation),
        Err(JoinError::Pool(PoolError::Store(StoreError::Corrupt(
            Corrupt::Bundle
        ))))
    ));
}

#[test]
fn errors_and_debug_output_hold_no_private_key() {
    let (_alice, mut bob, upload, invitation) = invited();
    let bundle = bob.bundle(&upload.key_package_ref).unwrap();
    let mut welcome = invitation.welcome.clone();
    *welcome.last_mut().unwrap() ^= 1;
    let error = bob.join_bytes(&welcome, None).unwrap_err();
    let text = format!("{error} {error:?} {bundle:?} {:?} {:?}", bob.pool, bob.signer);
    for key in private_keys(&bundle) {
        let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(!text.to_lowercase().contains(&hex));
        assert!(!text.contains(&format!("{key:?}")));
    }
}
