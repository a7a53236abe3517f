//! What a reservation costs among ten thousand and among a million stored KeyPackages, on both engines. PostgreSQL is the
//! server that `LARDER_TEST_POSTGRES` names; without it, SQLite alone is measured.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a benchmark that fails may panic"
)]

use std::sync::Arc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use larder_lifecycle::{ClockReading, UnixSeconds};
use larder_server::{Caller, Config, Service, StoreLocation};
use larder_wire::{DeviceOutcome, GroupId, ReserveRequest};
use sha2::{Digest, Sha256};
use tokio::runtime::Runtime;
use tokio_postgres::NoTls;

const NOW: UnixSeconds = UnixSeconds(1_800_000_000);
const STORED: [u64; 2] = [10_000, 1_000_000];
/// KeyPackages of one device.
const POOL: u64 = 32;
const TOKEN: &str = "the adder's";

const SQLITE_FILL: &str = "
    PRAGMA synchronous = OFF;
    BEGIN;
    INSERT INTO users (id, name, created_at) VALUES (0, 'adder', 1);
    INSERT INTO devices (id, user_id, name, auth_key, signature_key, created_at) VALUES (0, 0, 'adder-1', x'00', x'00', 1);
    INSERT INTO sessions SELECT x'{token}', 0, 4000000000;
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {devices})
        INSERT INTO users (id, name, created_at) SELECT i, 'u' || i, 1 FROM n;
    INSERT INTO devices (id, user_id, name, auth_key, signature_key, created_at)
        SELECT id, id, name || '-1', x'00', randomblob(32), 1 FROM users WHERE id > 0;
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {stored})
        INSERT INTO key_packages
            (ref, device_id, suite, status, init_key_hash, encryption_key_hash, not_before, not_after, uploaded_at)
        SELECT randomblob(32), 1 + i % {devices}, 1, 0, randomblob(32), randomblob(32), 0, 1805000000 + i % 1000, 1800000000 FROM n;
    INSERT INTO key_package_bytes SELECT ref, randomblob(300) FROM key_packages;
    COMMIT;
    PRAGMA wal_checkpoint(TRUNCATE);";

const POSTGRES_FILL: &str = "
    INSERT INTO users (id, name, created_at) VALUES (0, 'adder', 1);
    INSERT INTO devices (id, user_id, name, auth_key, signature_key, created_at)
        VALUES (0, 0, 'adder-1', '\\x00', '\\x00', 1);
    INSERT INTO sessions SELECT '\\x{token}'::bytea, 0, 4000000000;
    INSERT INTO users (id, name, created_at) SELECT i, 'u' || i, 1 FROM generate_series(1, {devices}) i;
    INSERT INTO devices (id, user_id, name, auth_key, signature_key, created_at)
        SELECT id, id, name || '-1', '\\x00', sha256(name::bytea), 1 FROM users WHERE id > 0;
    INSERT INTO key_packages
            (ref, device_id, suite, status, init_key_hash, encryption_key_hash, not_before, not_after, uploaded_at)
        SELECT sha256(i::text::bytea), 1 + i % {devices}, 1, 0, sha256(('k' || i)::bytea), sha256(('e' || i)::bytea), 0,
            1805000000 + i % 1000,
            1800000000 FROM generate_series(1, {stored}) i;
    INSERT INTO key_package_bytes SELECT ref, ref || decode(repeat('5a', 268), 'hex') FROM key_packages;
    ANALYZE;
    CHECKPOINT;";

fn filled(template: &str, stored: u64) -> String {
    let token: String = Sha256::digest(TOKEN)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    template
        .replace("{token}", &token)
        .replace("{devices}", &(stored / POOL).to_string())
        .replace("{stored}", &stored.to_string())
}

/// One user reserves for all the others here, which nobody may: its reservations are over as soon as they are made.
fn open(runtime: &Runtime, location: StoreLocation) -> Service {
    let mut config = Config::new(location);
    config.directory.reservation_seconds = 0;
    config.drain.lapsed_counts_seconds = 0;
    config.drain.pair.burst = u32::MAX;
    config.drain.target.burst = u32::MAX;
    runtime
        .block_on(Service::open(config, Arc::new(|| ClockReading::steady(NOW))))
        .unwrap()
}

fn measure(c: &mut Criterion, runtime: &Runtime, service: &Service, engine: &str, stored: u64) {
    let adder: Caller = runtime.block_on(service.authenticate(TOKEN)).unwrap();
    let mut group = c.benchmark_group("reserve");
    group
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3));
    let mut number = 0;
    group.bench_function(BenchmarkId::new(engine, stored), |b| {
        b.iter(|| {
            number += 1;
            let request = ReserveRequest {
                users: vec![format!("u{}", 1 + number % (stored / POOL)).parse().unwrap()],
                group_id: GroupId::from_bytes(b"a group").unwrap(),
                suites: vec![1],
                all_or_nothing: false,
            };
            let reserved = runtime
                .block_on(service.reserve(&adder, number.to_string(), request))
                .unwrap();
            assert_eq!(reserved.users[0].devices[0].outcome, DeviceOutcome::Ok);
        });
    });
    group.finish();
}

fn reserve(c: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    for stored in STORED {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("larder.db");
        drop(open(&runtime, file.clone().into()));
        let connection = rusqlite::Connection::open(&file).unwrap();
        connection.execute_batch(&filled(SQLITE_FILL, stored)).unwrap();
        drop(connection);
        // What the filling left to the operating system is not to be flushed by the first reservations.
        std::fs::File::open(&file).unwrap().sync_all().unwrap();
        let service = open(&runtime, file.into());
        measure(c, &runtime, &service, "sqlite", stored);
    }
    let Ok(server) = std::env::var("LARDER_TEST_POSTGRES") else {
        return;
    };
    for stored in STORED {
        let schema = format!("bench_{}", uuid::Uuid::new_v4().simple());
        let url = format!("{server}?options=-csearch_path%3D{schema}");
        let client = runtime.block_on(async {
            let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
            tokio::spawn(connection);
            let create = format!("CREATE SCHEMA {schema}");
            client.batch_execute(&create).await.unwrap();
            client
        });
        let service = open(&runtime, url.parse().unwrap());
        runtime
            .block_on(client.batch_execute(&filled(POSTGRES_FILL, stored)))
            .unwrap();
        measure(c, &runtime, &service, "postgresql", stored);
        let drop_schema = format!("DROP SCHEMA {schema} CASCADE");
        drop(service);
        runtime.block_on(client.batch_execute(&drop_schema)).unwrap();
    }
}

criterion_group!(benches, reserve);
criterion_main!(benches);
