//! Welcomes that fail: noted, shown, explained, bounded, and no harm to the genuine one.

use std::collections::BTreeSet;

use crate::support::{self, DAY, Device, Dump, Invitation, join_config, single_use};
use larder_lifecycle::{DirectoryStatus, TOMBSTONE_SECONDS, UnixSeconds};
use larder_pool::openmls::prelude::GroupId;
use larder_pool::{
    Corrupt, Erasure, JOIN_ATTEMPTS_MAX, JoinError, KeyPackageRef, PoolError, QUARANTINE_WELCOMES_MAX,
    QuarantineReason, Quarantined, StoreError, Upload, Verdict, key_package_ref_from_slice,
};
use sha2::{Digest as _, Sha256};

const QUARANTINE: &str = "keypackage_pool_quarantine";

fn invited() -> (Device, Upload, Invitation) {
    let mut bob = Device::new("bob/phone");
    let upload = bob.stock(3).remove(0);
    let invitation = Device::new("alice/phone").invite(&upload);
    (bob, upload, invitation)
}

/// The same Welcome with its last byte changed: it names our KeyPackage and does not decrypt.
fn broken(invitation: &Invitation) -> Vec<u8> {
    let mut welcome = invitation.welcome.clone();
    *welcome.last_mut().unwrap() ^= 1;
    welcome
}

/// Joins and, when that fails, notes it in the same transaction.
fn join_or_note(bob: &mut Device, welcome: &[u8], tree: Option<&[u8]>) -> Result<(), JoinError> {
    let (pool, now) = (&bob.pool, bob.now);
    bob.store
        .transaction(|tx| -> Result<_, PoolError> {
            match pool.join(tx, welcome, tree, &join_config(), now) {
                Ok(_) => Ok(Ok(())),
                Err(error) => {
                    pool.quarantine(tx, welcome, &error, now)?;
                    Ok(Err(error))
                }
            }
        })
        .unwrap()
}

fn quarantined(bob: &mut Device) -> Vec<Quarantined> {
    bob.in_tx(|tx, pool, _| pool.quarantined(tx))
}

fn split(dump: Dump) -> (Dump, usize) {
    let mut notes = 0;
    let others = dump.into_iter().filter(|(name, rows)| {
        if name == QUARANTINE {
            notes = rows.len();
        }
        name != QUARANTINE
    });
    let others = others.collect();
    (others, notes)
}

#[test]
fn c3_a_failed_welcome_changes_nothing_but_its_quarantine_row() {
    let (mut bob, upload, invitation) = invited();
    let (before, notes) = split(bob.dump());
    assert_eq!(notes, 0);
    let welcome = broken(&invitation);
    let error = join_or_note(&mut bob, &welcome, Some(&invitation.ratchet_tree)).unwrap_err();
    assert_eq!(error.code(), "refused");
    assert_eq!(split(bob.dump()), (before, 1));
    let noted = quarantined(&mut bob);
    assert_eq!(
        noted,
        [Quarantined {
            welcome_hash: Sha256::digest(&welcome).into(),
            key_package_ref: Some(upload.key_package_ref),
            reason: QuarantineReason::Refused,
            attempts: 1,
            first_at: bob.now,
            last_at: bob.now,
        }]
    );
    assert_eq!(bob.health().quarantined, 1);
    bob.join(&invitation).unwrap();
    bob.assert_consistent(2);
    assert_eq!(quarantined(&mut bob), noted, "another Welcome joined");
}

#[test]
fn c3_the_note_of_a_failure_survives_the_rollback_of_everything_else() {
    let (mut bob, _, invitation) = invited();
    let (before, _) = split(bob.dump());
    let welcome = broken(&invitation);
    let error = bob
        .join_bytes(&welcome, Some(&invitation.ratchet_tree))
        .unwrap_err();
    assert_eq!(split(bob.dump()), (before.clone(), 0), "the caller rolled back");
    bob.in_tx(|tx, pool, now| pool.quarantine(tx, &welcome, &error, now));
    assert_eq!(split(bob.dump()), (before, 1));
    bob.store = larder_pool::LocalStore::open(&bob.path()).unwrap();
    assert_eq!(quarantined(&mut bob).len(), 1, "after a restart too");
}

#[test]
fn r_c4_a_welcome_is_tried_three_times_and_the_genuine_one_joins_after_that() {
    let (mut bob, upload, invitation) = invited();
    let welcome = broken(&invitation);
    let tree = Some(&invitation.ratchet_tree[..]);
    let first_at = bob.now;
    for attempt in 1..=JOIN_ATTEMPTS_MAX {
        bob.now = bob.now.plus(1);
        let error = join_or_note(&mut bob, &welcome, tree).unwrap_err();
        assert_eq!(error.code(), "refused", "attempt {attempt}");
        assert_eq!(quarantined(&mut bob)[0].attempts, attempt);
    }
    let before = bob.dump();
    let last_at = bob.now;
    bob.now = bob.now.plus(60);
    let error = join_or_note(&mut bob, &welcome, tree).unwrap_err();
    assert_eq!(error.code(), "quarantined");
    let JoinError::Quarantined {
        key_package_ref,
        reason: QuarantineReason::Refused,
        attempts: JOIN_ATTEMPTS_MAX,
        last_at: told_at,
    } = error
    else {
        panic!("{error:?}");
    };
    assert_eq!(
        (key_package_ref, told_at),
        (Some(upload.key_package_ref), last_at)
    );
    assert_eq!(bob.dump(), before, "a refusal is no attempt");
    assert_eq!(quarantined(&mut bob)[0].first_at, first_at.plus(1));
    bob.join(&invitation).unwrap();
    bob.assert_consistent(2);
}

#[test]
fn a_missing_ratchet_tree_is_noted_and_never_held_against_the_welcome() {
    let (mut bob, _, invitation) = invited();
    for _ in 0..5 {
        let error = join_or_note(&mut bob, &invitation.welcome, None).unwrap_err();
        assert_eq!(error.code(), "missing-ratchet-tree");
        let error = join_or_note(&mut bob, &invitation.welcome, Some(&[1])).unwrap_err();
        assert_eq!(error.code(), "malformed-ratchet-tree");
    }
    for _ in 0..4 {
        join_or_note(&mut bob, &invitation.welcome, None).unwrap_err();
    }
    assert_eq!(quarantined(&mut bob)[0].attempts, 4, "for this reason");
    join_or_note(&mut bob, &invitation.welcome, Some(&invitation.ratchet_tree)).unwrap();
    assert_eq!(quarantined(&mut bob), [], "it was joined after all");
}

#[test]
fn a_failure_of_the_store_is_not_held_against_the_welcome() {
    let (mut bob, _, invitation) = invited();
    let before = bob.dump();
    let failed = JoinError::Pool(PoolError::Randomness);
    assert_eq!((failed.code(), failed.reason()), ("pool", None));
    bob.in_tx(|tx, pool, now| pool.quarantine(tx, &invitation.welcome, &failed, now));
    assert_eq!(bob.dump(), before);
}

#[test]
fn the_quarantine_is_bounded_and_forgets_what_failed_longest_ago() {
    let mut bob = Device::new("bob/phone");
    let beginning = bob.now;
    let noise = |number: u32| number.to_be_bytes();
    for number in 0..QUARANTINE_WELCOMES_MAX + 8 {
        bob.now = beginning.plus(u64::from(number));
        join_or_note(&mut bob, &noise(number), None).unwrap_err();
    }
    let noted = quarantined(&mut bob);
    assert_eq!(noted.len(), usize::try_from(QUARANTINE_WELCOMES_MAX).unwrap());
    assert_eq!(bob.health().quarantined, QUARANTINE_WELCOMES_MAX);
    assert_eq!(noted[0].last_at, bob.now, "the latest first");
    assert_eq!(noted.last().unwrap().last_at, beginning.plus(8));
    assert!(
        noted
            .iter()
            .all(|noted| noted.reason == QuarantineReason::Malformed)
    );

    bob.now = beginning.plus(8 + TOMBSTONE_SECONDS);
    assert_eq!(bob.sweep().released, 1);
    bob.now = bob.now.plus(DAY);
    assert_eq!(bob.sweep().released, QUARANTINE_WELCOMES_MAX - 1);
    assert_eq!(quarantined(&mut bob), []);
}

#[test]
fn r_c2_every_welcome_that_cannot_be_opened_is_explained_from_what_is_left() {
    let mut bob = Device::new("bob/phone");
    let uploads = bob.stock(5);
    let last_resort = bob.stock_last_resort();
    let mut alice = Device::new("alice/phone");
    let invitations: Vec<_> = uploads.iter().map(|upload| alice.invite(upload)).collect();
    let by_last_resort = alice.invite(&last_resort);
    bob.join(&invitations[0]).unwrap();
    let joined_at = bob.now;

    bob.now = bob.now.plus(60);
    for (upload, status) in [
        (&uploads[1], DirectoryStatus::Lapsed),
        (&uploads[2], DirectoryStatus::Revoked),
        (&uploads[3], DirectoryStatus::Expired),
    ] {
        bob.confirm(&upload.key_package_ref, Verdict::Held(single_use(status)));
    }
    let gone = support::last_resort(DirectoryStatus::Gone);
    bob.confirm(&last_resort.key_package_ref, Verdict::Held(gone));
    let erased_at = bob.now;
    let mut carol = Device::new("carol/phone");
    let not_ours = alice.invite(&carol.stock(1)[0]);

    let explain = |bob: &mut Device, invitation: &Invitation| {
        let tree = Some(&invitation.ratchet_tree[..]);
        let error = join_or_note(bob, &invitation.welcome, tree).unwrap_err();
        (error.code(), error.to_string())
    };
    for (invitation, code, words, at) in [
        (&invitations[0], "already-spent", "joined", Some(joined_at)),
        (
            &invitations[1],
            "lapsed",
            "nobody used it in time",
            Some(erased_at),
        ),
        (&invitations[2], "revoked", "withdrawn", Some(erased_at)),
        (&invitations[3], "expired", "its life was over", Some(erased_at)),
        (&by_last_resort, "replaced", "last resort", Some(erased_at)),
        (
            &not_ours,
            "not-ours",
            "no KeyPackage that this device has had",
            None,
        ),
    ] {
        let (told, text) = explain(&mut bob, invitation);
        assert_eq!(told, code);
        assert!(text.contains(words), "{text}");
        if let Some(UnixSeconds(at)) = at {
            assert!(text.contains(&at.to_string()), "{text}");
        }
    }
    let noted = quarantined(&mut bob);
    assert_eq!(noted.len(), 6);
    let unknown: Vec<_> = noted
        .iter()
        .filter(|noted| noted.key_package_ref.is_none())
        .collect();
    assert_eq!(unknown.len(), 1, "only the one of another device");

    let not_after = support::key_package(&uploads[4]).life_time().not_after();
    bob.now = UnixSeconds(not_after + DAY);
    let (code, text) = explain(&mut bob, &invitations[4]);
    assert_eq!(code, "expired");
    assert!(text.contains(&not_after.to_string()), "{text}");
}

#[test]
fn every_join_error_has_a_stable_code() {
    let key_package_ref: KeyPackageRef = key_package_ref_from_slice(&[7; 32]).unwrap();
    let at = UnixSeconds(1);
    let erased = |cause| JoinError::Erased {
        key_package_ref: key_package_ref.clone(),
        cause,
        at,
    };
    let refused = {
        let (mut bob, _, invitation) = invited();
        let tree = Some(&invitation.ratchet_tree[..]);
        bob.join_bytes(&broken(&invitation), tree).unwrap_err()
    };
    let group_id = GroupId::from_slice(b"group");
    let errors = [
        (JoinError::Malformed, "malformed"),
        (JoinError::MalformedRatchetTree, "malformed-ratchet-tree"),
        (JoinError::NotOurs, "not-ours"),
        (
            JoinError::AlreadySpent {
                key_package_ref: key_package_ref.clone(),
                group_id: group_id.clone(),
                at,
            },
            "already-spent",
        ),
        (
            JoinError::Replayed {
                key_package_ref: key_package_ref.clone(),
                group_id: group_id.clone(),
                at,
            },
            "replayed",
        ),
        (erased(Erasure::Lapsed), "lapsed"),
        (erased(Erasure::Expired), "expired"),
        (erased(Erasure::Revoked), "revoked"),
        (erased(Erasure::Replaced), "replaced"),
        (JoinError::GroupExists { group_id }, "group-exists"),
        (JoinError::MissingRatchetTree, "missing-ratchet-tree"),
        (JoinError::NotOurLeaf(key_package_ref.clone()), "not-our-leaf"),
        (refused, "refused"),
    ];
    let mut reasons = BTreeSet::new();
    for (error, code) in &errors {
        assert_eq!(error.code(), *code);
        assert_eq!(error.reason().unwrap().code(), *code);
        assert!(!error.to_string().is_empty() && !error.reason().unwrap().to_string().is_empty());
        reasons.insert(error.reason().unwrap().code());
    }
    assert_eq!(reasons.len(), QuarantineReason::ALL.len(), "all of them are here");
    let too_late = JoinError::Expired {
        key_package_ref,
        not_after: at,
    };
    assert_eq!(too_late.code(), "expired");
    assert_eq!(JoinError::Pool(PoolError::Randomness).code(), "pool");
}

#[test]
fn a_reason_that_was_never_written_fails_closed() {
    let (mut bob, _, invitation) = invited();
    join_or_note(&mut bob, &invitation.welcome, None).unwrap_err();
    bob.store
        .connection_mut()
        .execute("UPDATE keypackage_pool_quarantine SET reason = 99", [])
        .unwrap();
    let error = bob.join(&invitation).unwrap_err();
    assert!(
        matches!(
            error,
            JoinError::Pool(PoolError::Store(StoreError::Corrupt(Corrupt::UnknownReason(99))))
        ),
        "{error:?}"
    );
}
