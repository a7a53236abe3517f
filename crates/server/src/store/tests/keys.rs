//! The names and the keys of KeyPackages.

use super::harness::{NOW, Opened, with_key_package};
use crate::store::NewKeyPackage;

on_both_engines! {
    a_reference_and_a_key_belong_to_one_key_package_of_either_kind;
}

async fn a_reference_and_a_key_belong_to_one_key_package_of_either_kind(opened: Opened) {
    let alice = opened.register("alice", 1).await.key;
    opened.store_key_package(alice, 1).await;
    let as_last_resort = async |name: u8, init_key: u8| {
        let stored = opened.store.write(move |tx| {
            Ok(with_key_package(alice, name, init_key, |new| {
                tx.insert_last_resort(new, NOW)
            })?)
        });
        stored.await.is_ok()
    };
    let as_ordinary = async |name: u8, init_key: u8| {
        let stored = opened.store.write(move |tx| {
            Ok(with_key_package(alice, name, init_key, |new| {
                tx.insert_key_package(new, NOW)
            })?)
        });
        stored.await.is_ok()
    };
    assert!(!as_last_resort(1, 2).await, "the reference is an ordinary one's");
    assert!(!as_last_resort(2, 1).await, "the init key is an ordinary one's");
    assert!(as_last_resort(2, 2).await);
    assert!(!as_ordinary(2, 3).await, "the reference is a last resort's");
    assert!(!as_ordinary(3, 2).await, "the init key is a last resort's");
    let knows = async |key: u8| {
        let knows = opened
            .store
            .read(move |tx| Ok(!tx.known_keys(&[&[key; 32]])?.is_empty()));
        knows.await.unwrap()
    };
    assert!(knows(1).await && knows(2).await && !knows(3).await);
    assert!(as_ordinary(3, 3).await);

    // A key is of one, whichever of its two it is, until its tombstone is forgotten.
    let with_keys = async |name: u8, init_key: u8, encryption_key: u8, last_resort: bool| {
        let stored = opened.store.write(move |tx| {
            Ok(with_key_package(alice, name, init_key, |new| {
                let encryption_key_hash = &[encryption_key; 32];
                let new = NewKeyPackage {
                    encryption_key_hash,
                    suite: name.into(),
                    ..*new
                };
                match last_resort {
                    true => tx.insert_last_resort(&new, NOW),
                    false => tx.insert_key_package(&new, NOW),
                }
            })?)
        });
        stored.await.is_ok()
    };
    for last_resort in [false, true] {
        assert!(!with_keys(10, 10, 1, last_resort).await, "an init key of another");
        assert!(!with_keys(10, 10, 2, last_resort).await, "of a last resort");
    }
    assert!(with_keys(10, 10, 11, false).await);
    assert!(with_keys(12, 12, 13, true).await);
    for last_resort in [false, true] {
        for taken in [10, 11, 12, 13] {
            assert!(!with_keys(14, 14, taken, last_resort).await, "{taken}");
            assert!(!with_keys(14, taken, 15, last_resort).await, "{taken}");
        }
        assert!(!with_keys(14, 14, 14, last_resort).await, "both keys are one");
    }
    for table in ["key_packages", "last_resorts"] {
        let bytes = match table {
            "key_packages" => "key_package_bytes",
            _ => "last_resort_bytes",
        };
        opened.execute(&format!("DELETE FROM {bytes}"), &[]).await;
        opened.execute(&format!("DELETE FROM {table}"), &[]).await;
    }
    assert_eq!(opened.count("SELECT count(*) FROM key_package_keys").await, 0);
}
