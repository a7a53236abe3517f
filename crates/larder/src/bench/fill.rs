//! A directory that others have filled: users with a device each, sessions, KeyPackages. Written into the tables of a store that
//! the server has made; through HTTP it would take hours.

use anyhow::{Context as _, Result};
use larder_client::UnixSeconds;
use sha2::{Digest as _, Sha256};

use super::store::Place;
use crate::clock;

/// KeyPackages of one device.
pub(super) const POOL: u64 = 32;
const DAY: u64 = 24 * 60 * 60;

/// How much there is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stock {
    /// KeyPackages.
    pub(super) stored: u64,
    /// Users who reserve, and have none themselves.
    pub(super) reservers: u64,
    /// KeyPackages of one device beside them.
    pub(super) hot: u64,
}

impl Stock {
    /// Users with a device that has a full pool.
    pub(super) fn targets(self) -> u64 {
        self.stored.div_euclid(POOL).max(1)
    }
}

/// The user whose device has many.
pub(super) const HOT: &str = "hot";

/// The session of the reserver of this number.
pub(super) fn token(reserver: u64) -> String {
    format!("bench-session-{reserver}")
}

/// The user of this number, whose device has KeyPackages.
pub(super) fn target(number: u64) -> String {
    format!("target{number}")
}

const SQLITE: &str = "
    PRAGMA synchronous = OFF;
    BEGIN;
    CREATE TEMP TABLE n (i INTEGER PRIMARY KEY);
    WITH RECURSIVE c(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM c WHERE i + 1 < max({reservers}, {targets}))
        INSERT INTO n SELECT i FROM c;
    INSERT INTO users (id, name, created_at) SELECT 1000000000 + i, 'reserver' || i, 1 FROM n WHERE i < {reservers};
    INSERT INTO users (id, name, created_at) SELECT 2000000000 + i, 'target' || i, 1 FROM n WHERE i < {targets};
    INSERT INTO users (id, name, created_at) VALUES (3000000000, 'hot', 1);
    INSERT INTO devices (id, user_id, name, auth_key, signature_key, created_at)
        SELECT id, id, name || '-1', x'00', randomblob(32), 1 FROM users WHERE id >= 1000000000;
    DELETE FROM n;
    WITH RECURSIVE c(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM c WHERE i + 1 < {stored} + {hot})
        INSERT INTO n SELECT i FROM c;
    INSERT INTO key_packages (device_id, ref, kind, suite, status, used, init_key_hash, encryption_key_hash, not_before,
            not_after, uploaded_at)
        SELECT CASE WHEN i < {stored} THEN 2000000000 + i % {targets} ELSE 3000000000 END, randomblob(32), 0, 1, 0, 0,
            randomblob(32), randomblob(32), {now} - 86400, {now} + {life} + i % 100000, {now} FROM n;
    INSERT INTO key_package_bytes SELECT device_id, ref, randomblob(300) FROM key_packages;
    UPDATE devices SET stock_ends = {now} + {life} WHERE id >= 2000000000;
    DROP TABLE n;";

const SQLITE_SESSION: &str = "INSERT INTO sessions (hash, device_id, challenge_hash, expires_at)
    VALUES (?1, 1000000000 + ?2, randomblob(32), ?3)";

const POSTGRES: &str = "
    INSERT INTO users (id, name, created_at) OVERRIDING SYSTEM VALUE
        SELECT 1000000000 + i, 'reserver' || i, 1 FROM generate_series(0, {reservers} - 1) i;
    INSERT INTO users (id, name, created_at) OVERRIDING SYSTEM VALUE
        SELECT 2000000000 + i, 'target' || i, 1 FROM generate_series(0, {targets} - 1) i;
    INSERT INTO users (id, name, created_at) OVERRIDING SYSTEM VALUE VALUES (3000000000, 'hot', 1);
    INSERT INTO devices (id, user_id, name, auth_key, signature_key, created_at) OVERRIDING SYSTEM VALUE
        SELECT id, id, name || '-1', '\\x00', sha256(name::bytea), 1 FROM users WHERE id >= 1000000000;
    INSERT INTO sessions (hash, device_id, challenge_hash, expires_at)
        SELECT sha256(('bench-session-' || i)::bytea), 1000000000 + i, sha256(('c' || i)::bytea), {now} + 30 * 86400
        FROM generate_series(0, {reservers} - 1) i;
    INSERT INTO key_packages (device_id, ref, kind, suite, status, used, init_key_hash, encryption_key_hash, not_before,
            not_after, uploaded_at)
        SELECT CASE WHEN i < {stored} THEN 2000000000 + i % {targets} ELSE 3000000000 END, sha256(i::text::bytea), 0, 1, 0, 0,
            sha256(('k' || i)::bytea), sha256(('e' || i)::bytea), {now} - 86400, {now} + {life} + i % 100000, {now}
        FROM generate_series(0::bigint, {stored} + {hot} - 1) i;
    INSERT INTO key_package_bytes SELECT device_id, ref, ref || decode(repeat('5a', 268), 'hex') FROM key_packages;
    UPDATE devices SET stock_ends = {now} + {life} WHERE id >= 2000000000;
    ANALYZE users, devices, sessions, key_packages, key_package_bytes;";

/// Fills a store that nobody serves.
pub(super) async fn fill(place: &Place, stock: Stock) -> Result<()> {
    let UnixSeconds(now) = clock::system()();
    let filled = |template: &str| {
        let numbers = [
            ("{stored}", stock.stored),
            ("{reservers}", stock.reservers),
            ("{hot}", stock.hot),
            ("{targets}", stock.targets()),
            ("{now}", now),
            ("{life}", 60 * DAY),
        ];
        numbers.iter().fold(template.to_owned(), |sql, (name, number)| {
            sql.replace(name, &number.to_string())
        })
    };
    match place {
        Place::Sqlite(file) => {
            let connection = rusqlite::Connection::open(file)?;
            connection
                .execute_batch(&filled(SQLITE))
                .context("filling the store")?;
            for reserver in 0..stock.reservers {
                let hash = Sha256::digest(token(reserver)).to_vec();
                connection
                    .prepare_cached(SQLITE_SESSION)?
                    .execute((hash, reserver, now + 30 * DAY))?;
            }
            connection.execute_batch("COMMIT; PRAGMA wal_checkpoint(TRUNCATE)")?;
            drop(connection);
            // What the filling left to the operating system is not to be flushed by the first requests.
            std::fs::File::open(file)?.sync_all()?;
        }
        Place::Postgres(url) => {
            let client = super::store::connect(url).await?;
            client
                .batch_execute(&filled(POSTGRES))
                .await
                .context("filling the store")?;
        }
    }
    Ok(())
}
