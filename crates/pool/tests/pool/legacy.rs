//! What becomes of an older pool's rows.

use std::fs;

use crate::older::{
    CREATED, Legacy, Scene, bundles, expected_of_scene, foreign, pool_row, raw, reference, scene, status,
};
use crate::support::{self, DAY, Device, dump, message};
use larder_lifecycle::UnixSeconds;
use larder_pool::legacy::{LegacyReason, LegacyReport};
use larder_pool::openmls::prelude::{
    Capabilities, ExtensionType, KeyPackage, KeyPackageBundle, tls_codec::Serialize as _,
};
use larder_pool::rusqlite::params;
use larder_pool::rusqlite::types::Value;
use larder_pool::{StoreError, Upload};

#[test]
fn states_and_times_are_kept_and_the_private_keys_leave_the_file() {
    let Scene {
        mut device,
        legacy,
        live,
        gone,
    } = scene();
    assert_eq!(legacy.keys_left(), 14, "all of them are seen before");
    let mut report = legacy.migration().apply(&mut device.store).unwrap();
    let left = std::mem::take(&mut report.left);
    assert_eq!(
        report,
        LegacyReport {
            erased: true,
            ..expected_of_scene()
        }
    );
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].reason, LegacyReason::NoBundle);
    let lost: String = reference(&gone[2])
        .as_slice()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(left[0].key_package_ref, lost);

    let ends = i64::try_from(device.now.0 + 50 * DAY).unwrap();
    let mut row = |bundle: &KeyPackageBundle| pool_row(&mut device.store, &reference(bundle));
    let uploaded = Some(CREATED + 1);
    assert_eq!(row(&live[0]), Some((1, CREATED, ends, None, None, None, None)));
    assert_eq!(
        row(&live[1]),
        Some((2, CREATED, ends, uploaded, None, None, None))
    );
    let until = Some(CREATED + 3600);
    assert_eq!(
        row(&live[2]),
        Some((3, CREATED, ends, uploaded, until, None, None))
    );
    let spent = (
        6,
        CREATED,
        ends,
        uploaded,
        None,
        Some(CREATED + 3),
        Some(b"gr".to_vec()),
    );
    assert_eq!(row(&gone[0]), Some(spent));
    assert_eq!(
        row(&gone[1]),
        Some((8, CREATED, ends, None, None, Some(ends), None))
    );
    assert_eq!(row(&gone[2]), None);

    device.assert_consistent(4);
    let health = device.health();
    assert_eq!(
        (
            health.unconfirmed,
            health.available,
            health.reserved,
            health.spent
        ),
        (1, 2, 1, 1)
    );
    assert_eq!(legacy.keys_left(), 0);
    assert!(
        !legacy
            .columns()
            .iter()
            .any(|column| column.starts_with("private_"))
    );
    assert!(!legacy.columns().contains(&"keypackage_bytes".to_owned()));
    let kept: (i64, String) = legacy
        .connection
        .query_row(
            "SELECT count(*), max(reserved_by) FROM keypackages WHERE status IS NOT NULL",
            [],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .unwrap();
    assert_eq!(kept, (7, "bob".to_owned()), "the rest of the table stays");
}

#[test]
fn a_dry_run_tells_what_would_be_done_and_changes_nothing() {
    let Scene {
        mut device, legacy, ..
    } = scene();
    let before = (
        device.dump(),
        dump(&legacy.connection),
        fs::read(legacy.path()).unwrap(),
    );
    let planned = legacy.migration().plan(&mut device.store).unwrap();
    let after = (
        device.dump(),
        dump(&legacy.connection),
        fs::read(legacy.path()).unwrap(),
    );
    assert_eq!(before, after);
    let done = legacy.migration().apply(&mut device.store).unwrap();
    assert!(!planned.erased);
    assert_eq!(
        LegacyReport {
            erased: true,
            ..planned
        },
        done
    );
}

#[test]
fn a_migration_that_is_done_again_does_nothing() {
    let Scene {
        mut device, legacy, ..
    } = scene();
    let first = legacy.migration().apply(&mut device.store).unwrap();
    let done = (device.dump(), dump(&legacy.connection));
    let again = legacy.migration().apply(&mut device.store).unwrap();
    assert_eq!((device.dump(), dump(&legacy.connection)), done);
    assert_eq!(
        again,
        LegacyReport {
            rows: 7,
            present: 6,
            left: first.left,
            erased: true,
            ..LegacyReport::default()
        }
    );
    assert_eq!(legacy.migration().plan(&mut device.store).unwrap(), again);
}

#[test]
fn a_reference_may_be_a_hash_or_tls_bytes_or_hexadecimal_text() {
    let mut device = Device::new("alice/phone");
    let live = bundles(&mut device, 6);
    let mut legacy = Legacy::new();
    let hash = |at: usize| reference(&live[at]).as_slice().to_vec();
    let tls = |at: usize| reference(&live[at]).tls_serialize_detached().unwrap();
    let hex = |bytes: Vec<u8>| -> String { bytes.iter().map(|byte| format!("{byte:02x}")).collect() };
    for (at, key) in [
        Value::Blob(hash(0)),
        Value::Blob(tls(1)),
        Value::Text(hex(hash(2))),
        Value::Text(hex(hash(3)).to_uppercase()),
        Value::Text(hex(tls(4))),
        Value::Blob(hex(hash(5)).into_bytes()),
    ]
    .into_iter()
    .enumerate()
    {
        legacy.insert(key, &live[at], "available");
    }
    let report = legacy.migration().apply(&mut device.store).unwrap();
    assert_eq!((report.available, report.left), (6, vec![]));
    device.assert_consistent(6);
    assert_eq!(legacy.keys_left(), 0);
}

#[test]
fn what_cannot_be_understood_is_reported_and_not_guessed() {
    let mut device = Device::new("alice/phone");
    let live = bundles(&mut device, 8);
    let mut legacy = Legacy::new();
    for bundle in &live {
        legacy.insert(raw(bundle), bundle, "available");
    }
    let text: String = reference(&live[1])
        .as_slice()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    legacy.insert(Value::Text(text), &live[1], "spent");
    legacy.set(&reference(&live[2]), "status = 'on\x1bhold'");
    legacy.set(&reference(&live[3]), "status = 'Available'");
    legacy.set(&reference(&live[4]), "not_after = not_after * 1000");
    legacy.set(&reference(&live[5]), "created_at = -5");
    legacy.set(&reference(&live[6]), "status = x'07'");
    legacy.set(&reference(&live[7]), "ciphersuite = 65536");
    let others = foreign(3);
    legacy.insert(Value::Null, &others[0], "available");
    legacy.insert(Value::Blob(vec![7; 31]), &others[1], "available");
    legacy.insert(Value::Text("x".repeat(9000)), &others[2], "available");

    let report = legacy.migration().apply(&mut device.store).unwrap();
    assert_eq!((report.rows, report.available, report.spent), (12, 1, 0));
    let mut reasons: Vec<String> = report.left.iter().map(|left| left.reason.to_string()).collect();
    reasons.sort();
    assert_eq!(
        reasons,
        [
            "malformed ciphersuite",
            "malformed created_at",
            "malformed keypackage_ref",
            "malformed keypackage_ref",
            "malformed keypackage_ref",
            "malformed not_after",
            "malformed status",
            "several rows are about this KeyPackage",
            "several rows are about this KeyPackage",
            "unknown status Available",
            "unknown status on\\u{1b}hold",
        ]
    );
    assert_eq!(status(&mut device.store, &live[0]), Some(2));
    assert!(
        live[1..]
            .iter()
            .all(|bundle| status(&mut device.store, bundle).is_none())
    );
    assert_eq!(
        legacy.keys_left(),
        0,
        "their keys are in OpenMLS's storage or in none"
    );

    // A person has looked at it.
    legacy.set(&reference(&live[3]), "status = 'available'");
    let report = legacy.migration().apply(&mut device.store).unwrap();
    assert_eq!((report.available, report.present), (1, 1));
}

#[test]
fn a_spent_or_expired_row_whose_key_is_still_here_can_still_be_joined_with() {
    let mut device = Device::new("alice/phone");
    let live = bundles(&mut device, 2);
    let mut legacy = Legacy::new();
    legacy.insert(raw(&live[0]), &live[0], "spent");
    legacy.insert(raw(&live[1]), &live[1], "expired");
    let report = legacy.migration().apply(&mut device.store).unwrap();
    assert_eq!((report.reserved, report.in_flight, report.spent), (2, 2, 0));
    let upload = Upload {
        key_package_ref: reference(&live[0]),
        key_package: message(live[0].key_package().clone()),
        kind: larder_lifecycle::Kind::SingleUse,
    };
    let invitation = Device::new("bob/phone").invite(&upload);
    device.join(&invitation).unwrap();
    assert_eq!(status(&mut device.store, &live[0]), Some(6));
    // The other one goes when its life and the grace are over.
    device.now = UnixSeconds(device.now.0 + 52 * DAY);
    assert_eq!(device.in_tx(|tx, pool, now| pool.sweep(tx, now)).expired, 1);
    device.assert_consistent(0);
}

#[test]
fn a_last_resort_is_not_made_single_use() {
    let mut device = Device::new("alice/phone");
    let Device {
        store,
        signer,
        credential,
        ..
    } = &mut device;
    let last_resort = store
        .transaction(|tx| -> Result<_, StoreError> {
            let extensions = vec![ExtensionType::LastResort];
            Ok(KeyPackage::builder()
                .leaf_node_capabilities(Capabilities::builder().extensions(extensions).build())
                .mark_as_last_resort()
                .build(support::SUITE, &tx.provider(), signer, credential.clone())
                .unwrap())
        })
        .unwrap();
    let mut legacy = Legacy::new();
    legacy.insert(raw(&last_resort), &last_resort, "available");
    let report = legacy.migration().apply(&mut device.store).unwrap();
    assert_eq!(report.left[0].reason, LegacyReason::LastResort);
    assert_eq!(status(&mut device.store, &last_resort), None);
}

#[test]
fn a_table_without_the_optional_columns_is_enough() {
    let mut device = Device::new("alice/phone");
    let live = bundles(&mut device, 1).remove(0);
    let gone = foreign(1).remove(0);
    let legacy = Legacy::with_schema(
        "CREATE TABLE KeyPackages (
             Keypackage_Ref TEXT NOT NULL, status TEXT, created_at INTEGER, not_after INTEGER,
             note TEXT, \"od\"\"d\" BLOB)",
        "DELETE",
    );
    for (bundle, status) in [(&live, "available"), (&gone, "spent")] {
        let key: String = reference(bundle)
            .as_slice()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        legacy
            .connection
            .execute(
                "INSERT INTO keypackages (keypackage_ref, status, created_at, not_after) VALUES (?1, ?2, ?3, ?4)",
                params![key, status, CREATED, CREATED + 5],
            )
            .unwrap();
    }
    let report = legacy.migration().apply(&mut device.store).unwrap();
    assert_eq!((report.available, report.spent, report.erased), (1, 1, true));
    assert_eq!(report.unknown_columns, ["note", "od\\\"d"]);
    let ends = i64::try_from(device.now.0 + 50 * DAY).unwrap();
    let mut row = |bundle| pool_row(&mut device.store, &reference(bundle));
    // What OpenMLS holds tells its lifetime itself.
    assert_eq!(row(&live), Some((2, CREATED, ends, None, None, None, None)));
    let spent = (6, CREATED, CREATED + 5, None, None, Some(CREATED), Some(vec![]));
    assert_eq!(row(&gone), Some(spent));
}
