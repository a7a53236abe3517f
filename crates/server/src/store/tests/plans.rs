//! No statement of a request or of the sweeper reads a table that grows from one end to the other.

use larder_lifecycle::{DirectoryEvent, DirectoryPolicy, Kind};
use larder_wire::{AuditTransition, Base64Url, GroupId, Introduction, Voucher};
use tokio_postgres::NoTls;

use super::harness::{
    NOW, Opened, change_of, commit, disclosure, group, post, recorded, say, serving, start_group, take,
    waiting, with_key_package,
};
use super::many_rows::exercise_many;
use crate::sessions::SessionKey;
use crate::store::postgres::translated;
use crate::store::{Durations, NewBlob, NewKeyPackage, Part, ReservationId, StoreLocation};

/// Tables of one row, and one of which only the first rows are ever read.
const READ_FROM_ONE_END: [&str; 4] = ["FROM server", "clock", "totals", "WHERE b.part = 1"];

fn introduction() -> Introduction {
    Introduction {
        by: "d".parse().unwrap(),
        by_key: Base64Url(vec![1; 32]),
        root: "d".parse().unwrap(),
        root_key: Base64Url(vec![1; 32]),
        proof: Base64Url(vec![2; 32]),
        vouchers: [group(), GroupId::from_bytes(b"other").unwrap()]
            .map(|group_id| Voucher {
                group_id,
                epoch: 1,
                group_info: Base64Url(vec![3]),
                signature: Base64Url(vec![4; 64]),
            })
            .into(),
    }
}

/// Does all that requests and the sweeper do with the store.
pub(super) async fn exercise(opened: &Opened) {
    let alice = opened.register("alice", 1).await;
    let bob = opened.register("bob", 2).await.key;
    let ordinary = opened.store_key_package(alice.key, 1).await;
    let write =
        async |work: fn(&crate::store::Tx<'_>, i64, i64) -> Result<(), crate::error::ServiceError>| {
            let (alice, bob) = (alice.key.0, bob.0);
            opened.store.write(move |tx| work(tx, alice, bob)).await.unwrap();
        };
    // Accounts.
    write(|tx, alice, _| {
        let alice = crate::store::DeviceKey(alice);
        let (alice_name, bob_name) = ("alice".parse().unwrap(), "bob".parse().unwrap());
        let user = tx.user_by_name(&alice_name)?.unwrap();
        let session = SessionKey { user, hash: [1; 32] };
        assert_eq!(tx.devices_of_users(&[alice_name], &bob_name)?[0].len(), 1);
        tx.devices_of(user)?;
        tx.has_blocked(user, &bob_name)?;
        tx.insert_block(user, &bob_name, 9)?;
        tx.remove_block(user, &bob_name)?;
        tx.insert_session(&session.hash, alice, b"challenge", NOW)?;
        tx.end_session(&session, NOW)?;
        tx.ended_sessions()?;
        tx.device_by_session(&session, NOW)?;
        tx.state_mark(alice)?;
        tx.last_state_mark(alice)?;
        tx.set_state_mark(alice, &larder_wire::StateMark::from_bytes(&[1; 16]).unwrap())?;
        tx.idempotent_answer(alice, "key")?;
        tx.insert_idempotent_answer(alice, "key", b"hash", b"answer", NOW)?;
        tx.insert_invitation(&[1; 32], NOW, NOW.plus(1))?;
        tx.take_invitation(&[1; 32], NOW)?;
        tx.remove_invitations(&[1; 32], &[2; 32])?;
        tx.sweep_accounts(NOW, NOW, 9)?;
        tx.device_list(user)?;
        tx.removed_device(&"alice-1".parse().unwrap())?;
        let further = larder_wire::RegisterRequest {
            user: "alice".parse().unwrap(),
            device_id: "further".parse().unwrap(),
            auth_key: larder_wire::Base64Url(vec![8; 32]),
            mls_signature_key: larder_wire::Base64Url(vec![9; 32]),
            proofs: larder_wire::Proofs {
                auth: larder_wire::Base64Url::default(),
                mls: larder_wire::Base64Url::default(),
            },
        };
        let linked = tx.insert_linked_device(&further, (alice, 1), b"signature", NOW)?;
        let further = tx.device_by_id(&further.device_id)?.unwrap().key;
        assert_eq!(linked, Some(further));
        tx.device_that_was(&"further".parse().unwrap())?;
        let introduction = introduction();
        tx.set_introduction(further, &introduction, |_| true, NOW)?;
        tx.introduction(further)?;
        tx.vouched_tree(&group(), further, 1)?;
        tx.vouched_epochs(&group())?;
        tx.keep_vouched_tree(&group(), 1, b"tree")?;
        tx.sweep_introductions(NOW, 9)?;
        tx.end_state(further)?;
        tx.remove_device(further, NOW)?;
        tx.sign_removal(user, &"further".parse().unwrap(), (alice, b"signature"))?;
        Ok(())
    })
    .await;
    // The directory.
    let user = alice.user_key();
    opened
        .store
        .write(move |tx| {
            let id = ReservationId::made_at(NOW);
            tx.lock_devices([alice.key])?;
            tx.lock_reservation(id)?;
            tx.lock_user(user)?;
            tx.held_by_user(user, (NOW, NOW), NOW)?;
            tx.stocks(Some(user), &[bob], (&[1], serving()), 9)?;
            tx.are_acquainted(user, user)?;
            tx.remember_pairs(&[(user, bob, NOW)])?;
            tx.sweep_rates(NOW, 9)?;
            let known = tx.clock()?;
            tx.note_sweep(NOW, "node", &known)?;
            tx.accept_clock(NOW)?;
            let durations = Durations {
                session: 1,
                reservation: 1,
                blob: 1,
            };
            tx.bring_back_to(NOW, &durations, 9)?;
            for kind in [Kind::SingleUse, Kind::LastResort] {
                tx.count_available(alice.key, kind, serving())?;
            }
            tx.count_single_use(alice.key)?;
            tx.bytes_of([(alice.key, &ordinary)])?;
            take(tx, alice.key, bob, NOW)?;
            let head = tx.audit_head(alice.key)?;
            let disclosed = disclosure(alice.key, &head, &ordinary);
            tx.append_disclosures(&[disclosed], ("alice", &group()), NOW)?;
            let upload = AuditTransition::Upload;
            tx.append_audits(&[(alice.key, &ordinary)], upload, (None, None), NOW)?;
            tx.audit_rows(alice.key, 0, 9)?;
            tx.audit_oldest(alice.key)?;
            tx.audit_checkpoint(alice.key)?;
            tx.prune_audits(NOW.plus(1), 9)?;
            tx.bump_generations(&[alice.key].into())?;
            tx.generation(alice.key)?;
            tx.key_packages_of(alice.key)?;
            tx.reserved_under(id)?;
            tx.spent_under(id, bob, &group())?;
            let row = tx.key_packages([(alice.key, &ordinary)])?.remove(0).unwrap();
            let lapsed = row.listed.apply(DirectoryEvent::Lapse { now: NOW }).unwrap();
            tx.write_states(&[change_of(&row, &lapsed)])?;
            tx.forget_key_packages(NOW, 9)?;
            tx.forget_reservations(NOW, 9)?;

            tx.known_keys(&[b"key"])?;
            tx.note_upload(alice.key, Some(NOW), NOW)?;
            tx.end_of_stock(alice.key)?;
            tx.count_last_resorts(alice.key, 1)?;
            with_key_package(alice.key, 2, 2, |new| {
                let kind = Kind::LastResort;
                tx.insert_key_packages(&[NewKeyPackage { kind, ..*new }], NOW)
            })?;
            let row = tx.available_last_resort(alice.key, 1)?.unwrap();
            let named = (alice.key, &row.key_package_ref);
            tx.reserved_last_resort(named, bob, &group())?;
            tx.count_open_on_last_resort(alice.key, &row.key_package_ref)?;
            crate::directory::sweep(tx, &DirectoryPolicy::default(), NOW, 9)
        })
        .await
        .unwrap();
    // Delivery.
    opened
        .store
        .write(move |tx| {
            start_group(tx, &[alice.key])?;
            assert!(!tx.insert_group(&group(), 1, NOW)?);
            tx.lock_group(&group())?;
            tx.group(&group())?;
            tx.set_group_info(&group(), b"info")?;
            tx.group_info(&group())?;
            let said = say(tx, alice.key, b"said")?;
            let seq = commit(tx, alice.key, (0, 0), &[bob])?;
            tx.trim_handshakes(&group(), u64::MAX)?;
            tx.accepted(&group(), [&[7; 32]].into_iter())?;
            tx.next_for_messages(&group(), (1, 3))?;
            tx.count_waiting(&group(), alice.key, 3)?;
            tx.give_back(&group(), alice.key, (1, 3))?;
            tx.snapshot(&group())?;
            tx.handshakes(&group(), 0, (9, 9))?;
            tx.commit_of(&group(), 0)?;
            tx.body(&group(), seq, Part::Tree)?;
            tx.is_welcomed_at(&group(), bob, seq)?;
            tx.append_device_change(&group(), &"alice".parse().unwrap(), NOW)?;
            tx.members(&group())?;
            tx.memberships(bob)?;
            tx.memberships_of_user(bob.user())?;
            tx.gaps(bob)?;
            tx.gaps_of_user(bob.user())?;
            tx.groups_of_user(user)?;
            tx.is_member_user(&group(), bob.user())?;
            tx.raise_interval(&group(), alice.key, 1)?;
            waiting(tx, alice.key)?;
            tx.waiting_bytes(&group(), alice.key)?;
            tx.acknowledge(&group(), alice.key, 99)?;
            tx.end_intervals(&group(), &[alice.key], said)?;
            tx.acknowledge(&group(), alice.key, said)?;
            tx.forget_oldest_of_largest_sender(&group(), 1)?;
            tx.groups_waiting(None, 9)?;
            tx.sweep_bodies(&group(), (NOW, NOW), 9)?;
            tx.sweep_welcomes(9)?;
            tx.sweep_handshakes(NOW, 9)?;
            tx.drop_intervals(&group(), bob)?;
            tx.note_roster_change(&group(), NOW)?;
            while tx.sweep_empty_groups(NOW.plus(1), 9)? > 0 {}
            post(tx, bob)?;
            tx.mail(bob)?;
            tx.acknowledge_mail(bob, 9)?;
            Ok(())
        })
        .await
        .unwrap();
    exercise_many(opened, user, [alice.key, bob]).await;
    // Blobs.
    opened
        .store
        .write(move |tx| {
            let name = larder_wire::BlobId::from_bytes([1; 32]);
            let (later, user) = (NOW.plus(9), alice.user_key());
            tx.blob_of_key(alice.key, "key")?;
            let blob = tx.insert_blob(&NewBlob {
                name: &name,
                device: alice.key,
                idempotency_key: "key",
                size: 4,
                expires_at: later,
            })?;
            assert!(tx.append_to_blob(blob, 0, b"part", (NOW, later))?);
            assert!(tx.complete_blob(blob, b"hash", (NOW, later))?);
            assert!(tx.blob(&name, NOW)?.is_some());
            assert!(tx.blob_part(blob, 0)?.is_some());
            assert_eq!(tx.blob_bytes_of_user(user)?, 4);
            tx.blob_rate_memory(user)?;
            tx.remember_blob(user, later)?;
            tx.end_blob(blob)?;
            assert_eq!(tx.sweep_blobs(NOW, (9, 9))?, 2);
            Ok(())
        })
        .await
        .unwrap();
}

#[tokio::test]
async fn on_sqlite_every_statement_finds_its_rows_by_an_index() {
    let opened = Opened::sqlite().await;
    exercise(&opened).await;
    let StoreLocation::Sqlite(file) = &opened.location else {
        panic!("a SQLite store");
    };
    let connection = rusqlite::Connection::open(file).unwrap();
    let mut explained = 0;
    for sql in recorded(false) {
        if READ_FROM_ONE_END.iter().any(|part| sql.contains(part)) {
            continue;
        }
        let mut statement = connection
            .prepare(&format!("EXPLAIN QUERY PLAN {sql}"))
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
        let parameters = vec![rusqlite::types::Null; statement.parameter_count()];
        let plan: Vec<String> = statement
            .query_map(rusqlite::params_from_iter(parameters), |row| row.get(3))
            .unwrap()
            .collect::<Result<_, _>>()
            .unwrap();
        let scan = plan
            .iter()
            // What a part of the statement has found may be read whole.
            .find(|step| match step.strip_prefix("SCAN ") {
                Some(found) => found != "CONSTANT ROW" && !plan.contains(&format!("CO-ROUTINE {found}")),
                None => false,
            });
        assert_eq!(scan, None, "{sql}\n{plan:#?}");
        explained += 1;
    }
    assert!(explained > 60, "only {explained} statements were explained");
}

/// What the sweeper runs to find at most so many rows that are due. For a small table PostgreSQL may well prefer to read
/// it whole, unless it is told not to.
fn of_the_sweeper(sql: &str) -> bool {
    [
        "LIMIT ?2",
        "WHERE b.part = 1",
        "empty_since < ?1",
        "expires_at = 0 ",
    ]
    .iter()
    .any(|part| sql.contains(part))
}

/// Tables as they are after a while: many devices, of whose KeyPackages a few are reserved and most are tombstones.
const FILL: &str = "
    INSERT INTO users (id, name, created_at) SELECT n, 'u' || n, n FROM generate_series(1, 5000) n;
    INSERT INTO user_names SELECT name, id FROM users WHERE name LIKE 'u%';
    INSERT INTO devices (user_id, id, name, auth_key, signature_key, created_at)
        SELECT id, id << 8, 'd' || id, name::bytea, name::bytea, 1 FROM users WHERE name LIKE 'u%';
    INSERT INTO device_names SELECT name, id FROM devices WHERE name LIKE 'd%';
    INSERT INTO signature_keys SELECT signature_key, id FROM devices WHERE name LIKE 'd%';
    CREATE TEMP VIEW spread AS SELECT n, sha256(n::text::bytea) AS hash,
        (n % 5000 + 1)::bigint AS u, (n % 5000 + 1)::bigint << 8 AS device FROM generate_series(1, 40000) n;
    INSERT INTO sessions SELECT u, hash, device, hash, n FROM spread;
    INSERT INTO invitations SELECT hash, n, n FROM spread;
    INSERT INTO idempotent_answers SELECT u, device, n::text, hash, hash, n FROM spread;
    INSERT INTO key_packages (user_id, ref, device_id, kind, suite, status, used, init_key_hash, encryption_key_hash,
            not_before, not_after, uploaded_at)
        SELECT u, hash, device, 0, 1, 0, 0, hash, sha256(hash || 'k'), 0, n, n FROM spread
        UNION ALL SELECT u, sha256(hash), device, 1, n, 0, 0, sha256(hash), sha256(hash || 'l'), 0, n, n FROM spread;
    UPDATE key_packages SET status = 1, used = 1 WHERE kind = 0 AND status = 0 AND not_after % 2 = 0;
    UPDATE key_packages SET used = 1 WHERE kind = 1 AND status = 0 AND not_after % 10 = 0;
    INSERT INTO reservations SELECT user_id, device_id, ref, kind, substr(ref, 1, 16), device_id, user_id, ref, not_after, 0
        FROM key_packages WHERE used = 1 AND status = 1 - kind;
    UPDATE reservations SET state = 2 WHERE state = 0 AND reserved_until % 100 <> 0;
    UPDATE key_packages SET status = 4 WHERE status = 1 AND not_after % 100 <> 0;
    UPDATE key_packages SET status = 6 WHERE kind = 1 AND status = 0 AND not_after % 10 > 1;
    INSERT INTO key_package_bytes SELECT user_id, device_id, ref, ref FROM key_packages WHERE status < 3 ON CONFLICT DO NOTHING;
    INSERT INTO audit SELECT u, device, n, n, hash, 'upload', NULL, NULL, hash FROM spread;
    INSERT INTO audit_checkpoints SELECT u, device, min(n), '', min(n) FROM spread GROUP BY u, device
        ON CONFLICT DO NOTHING;
    UPDATE devices SET audit_oldest = id, stock_ends = id;
    INSERT INTO groups (id, suite, epoch, next_seq, waiting_bytes, created_at, empty_since)
        SELECT hash, 1, 1, 2, n % 2, n, CASE WHEN n % 10 = 0 THEN n END FROM spread;
    INSERT INTO members SELECT hash, device, 1, 1, 0, CASE WHEN n % 10 = 0 THEN 1 END, 0, 0 FROM spread;
    INSERT INTO group_states SELECT hash, 0, hash FROM spread;
    INSERT INTO group_infos SELECT hash, hash FROM spread;
    INSERT INTO gaps SELECT hash, n, n FROM spread;
    INSERT INTO pair_rates SELECT u, device, n, n FROM spread;
    INSERT INTO blocks SELECT u, n::text FROM spread;
    INSERT INTO log SELECT hash, 1, n % 3, 1, device, hash, CASE WHEN n % 3 = 0 THEN hash END, 32, NULL, n FROM spread;
    INSERT INTO bodies SELECT hash, 1, 0, hash FROM spread;
    INSERT INTO bodies SELECT hash, 1, 1, hash FROM spread WHERE n % 10 = 0;
    INSERT INTO mail SELECT DISTINCT u, device, 0, 1, 1 FROM spread;
    INSERT INTO blobs (user_id, id, name, device_id, idempotency_key, size, stored, sha256, expires_at)
        SELECT u, n, hash, device, n::text, 1, 1, hash, n FROM spread;
    INSERT INTO blob_names SELECT name, user_id, id FROM blobs;
    INSERT INTO blob_parts SELECT user_id, id, 0, name FROM blobs;
    INSERT INTO introductions SELECT DISTINCT ON (device) u, device, 'd', hash, 'd', hash, hash, n FROM spread;
    INSERT INTO vouchers SELECT hash, device, n, hash, hash, CASE WHEN n % 2 = 0 THEN hash END FROM spread;
    INSERT INTO blob_rates SELECT id, id FROM users ON CONFLICT DO NOTHING";

#[tokio::test]
async fn on_postgresql_every_statement_finds_its_rows_by_an_index() {
    let opened = Opened::postgres().await;
    exercise(&opened).await;
    let StoreLocation::Postgres(location) = &opened.location else {
        panic!("a PostgreSQL store");
    };
    let (client, connection) = location.config().connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client.batch_execute(FILL).await.unwrap();
    // Of this schema alone: those of all tests are more than PostgreSQL can lock at once.
    let own =
        "SELECT 'ANALYZE ' || string_agg(tablename, ', ') FROM pg_tables WHERE schemaname = current_schema()";
    let analyze: String = client.query_one(own, &[]).await.unwrap().get(0);
    client.batch_execute(&analyze).await.unwrap();
    // The plan for any parameters, not that for those of one execution.
    client
        .batch_execute("SET plan_cache_mode = force_generic_plan")
        .await
        .unwrap();
    let mut explained = 0;
    for sql in recorded(true) {
        // Each has one row.
        if ["FROM server", "UPDATE server", "clock", "totals"]
            .iter()
            .any(|table| sql.contains(table))
        {
            continue;
        }
        // Whether there is an index at all, and whether it is used.
        let whole = if of_the_sweeper(&sql) { "off" } else { "on" };
        client
            .batch_execute(&format!("SET enable_seqscan = {whole}"))
            .await
            .unwrap();
        let sql = translated(&sql);
        let parameters = (1..=12)
            .take_while(|number| sql.contains(&format!("${number}")))
            .count();
        let arguments = match parameters {
            0 => String::new(),
            _ => format!("({})", vec!["NULL"; parameters].join(", ")),
        };
        client
            .batch_execute(&format!("PREPARE explained AS {sql}"))
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        let plan: Vec<String> = client
            .query(&format!("EXPLAIN EXECUTE explained{arguments}"), &[])
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error:?}"))
            .iter()
            .map(|row| row.get(0))
            .collect();
        client.batch_execute("DEALLOCATE explained").await.unwrap();
        let scan = plan.iter().find(|step| step.contains("Seq Scan"));
        assert_eq!(scan, None, "{sql}\n{}", plan.join("\n"));
        explained += 1;
    }
    assert!(explained > 60, "only {explained} statements were explained");
}
