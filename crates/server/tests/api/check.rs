//! The check of a store is checked by planting what it must find.

use std::collections::BTreeSet;

use larder_server::{Admin, Checked, Finding, FindingCode};
use larder_wire::GroupId;

use crate::scene::Scene;
use crate::support::{KeyPackageSpec, TestServer, reserved_refs};

async fn check(server: &TestServer) -> (Checked, Vec<Finding>) {
    let admin = Admin::open(&server.database.location()).await.unwrap();
    let mut findings = Vec::new();
    let checked = admin.check(|finding| findings.push(finding)).await.unwrap();
    assert_eq!(checked.findings, findings.len() as u64);
    (checked, findings)
}

/// A store in which everything has happened that can.
async fn busy() -> Scene {
    let mut scene = Scene::set().await;
    let Scene {
        server,
        alice,
        bob,
        carol,
        mallory,
        alices,
        bobs,
        ..
    } = &mut scene;
    let elsewhere = GroupId::from_bytes(b"elsewhere").unwrap();
    // Lapsed, abandoned, revoked; handed out until only the last resort is left, which is replaced.
    mallory.reserve(&[&*carol], &elsewhere).await;
    server.pass(2 * 3600);
    server.sweep().await;
    for device in [&mut *alice, &mut *bob, &mut *carol, &mut *mallory] {
        device.open_session().await;
    }
    let given_up = mallory.reserve(&[&*carol], &elsewhere).await;
    let path = format!("/v1/reservations/{}/abandon", given_up.reservation_id.unwrap());
    mallory.http.post(&path, &()).await.done();
    let inventory = carol.inventory().await;
    let last = inventory.items.last().unwrap();
    carol.revoke(std::slice::from_ref(&last.key_package_ref)).await;
    bob.stock_last_resort().await;
    for _ in 0..3 {
        assert_eq!(reserved_refs(&alice.reserve(&[&*bob], &elsewhere).await).len(), 1);
    }
    bob.stock_last_resort().await;
    // A Welcome and a message that wait.
    alice.invite(alices, &[&*carol]).await;
    bob.catch_up(bobs).await;
    alice.send(alices, "one").await;
    scene
}

#[tokio::test]
async fn s3_s6_s7_s8_s9_a_store_in_use_has_nothing_to_be_found() {
    let scene = busy().await;
    let (checked, findings) = check(&scene.server).await;
    assert_eq!(findings, []);
    assert_eq!((checked.devices, checked.groups), (4, 1));
    assert_eq!(checked.key_packages, 3 + 3 + 5 + 3 + 2);
    // Much later everything is over, the audits have lost their beginnings, and most of it is forgotten.
    for days in [61, 28, 2, 10, 20, 30] {
        scene.server.pass(days * 86_400);
        scene.server.sweep().await;
        assert_eq!(check(&scene.server).await.1, []);
    }
}

/// A KeyPackage may be remembered for longer than what happened to it.
#[tokio::test]
async fn pruned_history_is_no_finding_and_a_contradiction_is() {
    const LIFE: (i64, i64) = (-3600, 84 * 86_400);
    let server = TestServer::unswept().await;
    let (alice, mut bob) = (server.device("alice").await, server.device("bob").await);
    let minted: Vec<_> = (0..6)
        .map(|_| {
            bob.mint(KeyPackageSpec {
                lifetime: Some(LIFE),
                ..Default::default()
            })
        })
        .collect();
    let uploaded = bob.upload(&minted).await;
    bob.stock_last_resort().await;
    let refs: Vec<_> = uploaded
        .results
        .into_iter()
        .filter_map(|result| result.key_package_ref)
        .collect();
    // One is spent, one lapses, one is withdrawn at once and one later; the others expire.
    let (mut alices, _) = alice.create_group().await;
    alice.invite(&mut alices, &[&bob]).await;
    alice
        .reserve(&[&bob], &GroupId::from_bytes(b"elsewhere").unwrap())
        .await;
    bob.revoke(&refs[2..3]).await;
    for (days, revoked) in [(0, None), (1, None), (30, Some(3)), (30, None), (30, None)] {
        server.pass(days * 86_400 + 1);
        server.sweep().await;
        bob.open_session().await;
        if let Some(number) = revoked {
            bob.revoke(&refs[number..=number]).await;
        }
        assert_eq!(check(&server).await.1, []);
    }
    let kept = server.database.count("SELECT count(*) FROM key_packages").await;
    assert_eq!(kept, 7, "they are remembered, and the last resort is there");
    let gone = server
        .database
        .count("SELECT count(*) FROM audit_checkpoints WHERE seq > 6")
        .await;
    assert_eq!(gone, 1, "and nobody knows any more how they were uploaded");
    for (planted, code) in [
        // What expired after the checkpoint was not withdrawn.
        (
            "UPDATE key_packages SET status = 6 WHERE status = 5",
            FindingCode::AuditState,
        ),
        (
            "UPDATE devices SET audit_oldest = audit_oldest + 1",
            FindingCode::AuditHead,
        ),
        (
            "UPDATE audit_checkpoints SET seq = seq - 1",
            FindingCode::AuditBroken,
        ),
        (
            "UPDATE audit_checkpoints SET hash = ref FROM key_packages",
            FindingCode::AuditBroken,
        ),
    ] {
        server.database.corrupt(planted).await;
        let (_, findings) = check(&server).await;
        assert!(
            findings.iter().any(|finding| finding.code == code),
            "{planted}: {findings:?}"
        );
    }
}

#[tokio::test]
async fn what_is_planted_is_found() {
    use FindingCode as F;
    let of = |device: &str| format!("(SELECT id FROM devices WHERE name = '{device}-1')");
    let planted = [
        (
            "UPDATE audit SET actor = 'eve/eve-1' WHERE transition = 'commit'".to_owned(),
            F::AuditBroken,
        ),
        (
            "DELETE FROM audit WHERE transition = 'commit'".to_owned(),
            F::AuditBroken,
        ),
        (
            "DELETE FROM audit WHERE transition = 'commit'".to_owned(),
            F::AuditState,
        ),
        (
            "DELETE FROM audit WHERE seq = (SELECT audit_seq FROM devices WHERE id = audit.device_id)"
                .to_owned(),
            F::AuditHead,
        ),
        (
            "UPDATE audit SET transition = 'commit' WHERE transition = 'upload' AND seq = 1".to_owned(),
            F::AuditTransition,
        ),
        (
            "UPDATE audit SET transition = 'vanish' WHERE seq = 2".to_owned(),
            F::Unreadable,
        ),
        // A spent one can be handed out again; a reserved one is forgotten.
        (
            "UPDATE key_packages SET status = 0, used = 0 WHERE status = 3".to_owned(),
            F::AuditState,
        ),
        (
            "DELETE FROM key_packages WHERE status = 1".to_owned(),
            F::AuditState,
        ),
        (
            "UPDATE key_packages SET used = 1 - used WHERE kind = 1".to_owned(),
            F::AuditState,
        ),
        (
            "UPDATE key_packages SET kind = 0, used = 0, status = 0, retiring_until = NULL WHERE kind = 1"
                .to_owned(),
            F::KeyPackageRow,
        ),
        (
            "DELETE FROM reservations WHERE kind = 1".to_owned(),
            F::AuditState,
        ),
        (
            "DELETE FROM reservations WHERE state = 0 AND kind = 0".to_owned(),
            F::Unreadable,
        ),
        (
            "UPDATE reservations SET state = 2 WHERE state = 0 AND kind = 0".to_owned(),
            F::AuditState,
        ),
        (
            "DELETE FROM key_packages WHERE used = 1".to_owned(),
            F::Reservation,
        ),
        (
            "UPDATE totals SET blob_bytes = blob_bytes + 1".to_owned(),
            F::Totals,
        ),
        ("DELETE FROM key_package_bytes".to_owned(), F::KeyPackageBytes),
        (
            "INSERT INTO key_package_bytes SELECT user_id, device_id, ref, ref FROM key_packages WHERE status = 3"
                .to_owned(),
            F::KeyPackageBytes,
        ),
        (
            format!(
                "UPDATE key_package_bytes SET bytes = (
                     SELECT b.bytes FROM key_package_bytes b WHERE b.device_id = {0} ORDER BY b.ref LIMIT 1
                 ) WHERE device_id = {0}",
                of("alice")
            ),
            F::KeyPackageRow,
        ),
        (
            "UPDATE key_packages SET init_key_hash = ref WHERE status = 0".to_owned(),
            F::KeyPackageRow,
        ),
        (
            "UPDATE devices SET stock_ends = stock_ends + 1".to_owned(),
            F::KeyPackageRow,
        ),
        (
            "UPDATE key_packages SET not_after = not_after + 1 WHERE status = 0".to_owned(),
            F::KeyPackageRow,
        ),
        (
            format!(
                "UPDATE key_packages SET user_id = {0} >> 8, device_id = {0} WHERE device_id = {1};
                 UPDATE key_package_bytes SET user_id = {0} >> 8, device_id = {0} WHERE device_id = {1}",
                of("mallory"),
                of("alice")
            ),
            F::KeyPackageInvalid,
        ),
        (
            "UPDATE devices SET signature_key = auth_key WHERE name = 'alice-1'".to_owned(),
            F::KeyPackageInvalid,
        ),
        (
            "UPDATE devices SET signature_key = auth_key WHERE name = 'alice-1'".to_owned(),
            F::GroupState,
        ),
        (
            "UPDATE devices SET signature_key = auth_key WHERE name = 'alice-1'".to_owned(),
            F::Registry,
        ),
        ("DELETE FROM user_names WHERE name = 'alice'".to_owned(), F::Registry),
        ("DELETE FROM device_names WHERE name = 'alice-1'".to_owned(), F::Registry),
        ("UPDATE device_names SET device_id = device_id + 1".to_owned(), F::Registry),
        (
            "INSERT INTO user_names SELECT 'nobody', id FROM users WHERE name = 'alice'".to_owned(),
            F::Registry,
        ),
        (
            format!("DELETE FROM members WHERE device_id = {}", of("bob")),
            F::Roster,
        ),
        (
            format!(
                "UPDATE members SET device_id = {} WHERE device_id = {}",
                of("mallory"),
                of("bob")
            ),
            F::Roster,
        ),
        ("UPDATE groups SET epoch = epoch + 1".to_owned(), F::GroupState),
        (
            "UPDATE group_infos SET group_info = group_id".to_owned(),
            F::GroupState,
        ),
        (
            "UPDATE group_states SET snapshot = group_id".to_owned(),
            F::Unreadable,
        ),
        ("UPDATE group_states SET seq = 99".to_owned(), F::GroupState),
        (
            "DELETE FROM bodies WHERE part = 0 AND seq = 1".to_owned(),
            F::GroupState,
        ),
        (
            "UPDATE groups SET next_seq = state_seq + 1".to_owned(),
            F::GroupSequence,
        ),
        ("UPDATE groups SET state_seq = 0".to_owned(), F::GroupSequence),
        (
            "UPDATE groups SET waiting_bytes = waiting_bytes + 1".to_owned(),
            F::GroupSequence,
        ),
        (
            "UPDATE groups SET handshake_bytes = 0".to_owned(),
            F::GroupSequence,
        ),
        (
            "UPDATE log SET epoch = epoch + 7 WHERE kind = 0".to_owned(),
            F::GroupSequence,
        ),
        (
            "DROP INDEX log_one_commit_per_epoch; UPDATE log SET epoch = 0 WHERE kind = 0".to_owned(),
            F::GroupSequence,
        ),
        (
            "UPDATE members SET acknowledged_seq = acknowledged_seq + 99".to_owned(),
            F::InboxNumbers,
        ),
        ("UPDATE members SET until_seq = 99".to_owned(), F::InboxNumbers),
        (
            "INSERT INTO bodies SELECT group_id, seq + 99, part, body FROM bodies WHERE part = 0".to_owned(),
            F::Body,
        ),
        ("DELETE FROM bodies WHERE part = 0".to_owned(), F::Body),
        ("UPDATE log SET gone = 0 WHERE kind = 2".to_owned(), F::Body),
        ("UPDATE log SET size = size + 1".to_owned(), F::Body),
        ("DELETE FROM bodies WHERE part = 1".to_owned(), F::RatchetTree),
    ];
    for (sql, expected) in planted {
        let scene = busy().await;
        scene.server.database.corrupt(&sql).await;
        let (_, findings) = check(&scene.server).await;
        let codes: BTreeSet<_> = findings.iter().map(|finding| finding.code.code()).collect();
        assert!(codes.contains(expected.code()), "{sql}: {findings:?}");
    }
}

#[tokio::test]
async fn s7_more_live_key_packages_than_any_device_may_have_are_found() {
    let server = TestServer::start_with(|config| config.directory.hard_cap = 100, false).await;
    let bob = server.device("bob").await;
    bob.stock(60).await;
    assert_eq!(check(&server).await.1, []);
    bob.stock(5).await;
    let (_, findings) = check(&server).await;
    assert_eq!(findings.len(), 1);
    assert_eq!(findings[0].code, FindingCode::OverCap);
    assert_eq!(findings[0].subject, "bob/bob-1");
}
