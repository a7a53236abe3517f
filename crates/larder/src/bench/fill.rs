//! A directory that others have filled: users with a device each, sessions, KeyPackages. Written into the tables of a store that
//! the server has made; through HTTP it would take hours.

use anyhow::{Context as _, Result};
use larder_client::UnixSeconds;
use larder_wire::Base64Url;
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

/// The id of the user of whom this is the order: those of a server whose users registered one after the other, 256 a second.
const fn user(order: u64) -> u64 {
    FIRST + order * STEP
}

/// In 2026.
const FIRST: u64 = 200_000_000 << 24;
const STEP: u64 = (1 << 24) / 256;
/// Where the reservers begin in the order, and where the hot one is. The targets come first.
const RESERVERS: u64 = 12_000_000;
const HOT_ORDER: u64 = 24_000_000;

/// The session of the reserver of this number: its user's key and what could be random.
pub(super) fn token(reserver: u64) -> String {
    let secret = Sha256::digest(format!("bench-session-{reserver}"));
    let user = user(RESERVERS + reserver).to_be_bytes();
    Base64Url([user.as_slice(), &secret].concat()).to_string()
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
    INSERT INTO users (id, name, created_at)
        SELECT {first} + ({first_reserver} + i) * {step}, 'reserver' || i, 1 FROM n WHERE i < {reservers}
        UNION ALL SELECT {first} + i * {step}, 'target' || i, 1 FROM n WHERE i < {targets}
        UNION ALL SELECT {hot_user}, 'hot', 1;
    INSERT INTO user_names SELECT name, id FROM users ORDER BY name;
    INSERT INTO devices (user_id, id, name, auth_key, signature_key, created_at, stock_ends)
        SELECT id, id << 8, name || '-1', x'00', randomblob(32), 1, CASE WHEN name NOT LIKE 'reserver%' THEN {now} + {life} END
        FROM users;
    INSERT INTO device_names SELECT name, id FROM devices ORDER BY name;
    INSERT INTO signature_keys SELECT signature_key, id FROM devices ORDER BY signature_key;
    DELETE FROM n;
    WITH RECURSIVE c(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM c WHERE i + 1 < {stored} + {hot})
        INSERT INTO n SELECT i FROM c;
    CREATE TEMP VIEW owned AS
        SELECT i, CASE WHEN i < {stored} THEN {first} + i % {targets} * {step} ELSE {hot_user} END AS u FROM n;
    INSERT INTO key_packages (user_id, device_id, ref, kind, suite, status, used, init_key_hash, encryption_key_hash,
            not_before, not_after, uploaded_at)
        SELECT u, u << 8, randomblob(32), 0, 1, 0, 0,
            randomblob(32), randomblob(32), {now} - 86400, {now} + {life} + i % 100000, {now} FROM owned ORDER BY u;
    INSERT INTO key_package_bytes SELECT user_id, device_id, ref, randomblob(300) FROM key_packages;
    DROP VIEW owned;
    DROP TABLE n;";

const SQLITE_SESSION: &str = "INSERT INTO sessions (user_id, hash, device_id, challenge_hash, expires_at)
    VALUES (?1, ?2, ?1 << 8, randomblob(32), ?3)";

const POSTGRES: &str = "
    INSERT INTO users (id, name, created_at)
        SELECT {first} + ({first_reserver} + i) * {step}, 'reserver' || i, 1
            FROM generate_series(0::bigint, {reservers} - 1) i
        UNION ALL SELECT {first} + i * {step}, 'target' || i, 1 FROM generate_series(0::bigint, {targets} - 1) i
        UNION ALL SELECT {hot_user}, 'hot', 1;
    INSERT INTO user_names SELECT name, id FROM users;
    INSERT INTO devices (user_id, id, name, auth_key, signature_key, created_at, stock_ends)
        SELECT id, id << 8, name || '-1', '\\x00', sha256(name::bytea), 1,
            CASE WHEN name NOT LIKE 'reserver%' THEN {now} + {life} END
        FROM users;
    INSERT INTO device_names SELECT name, id FROM devices;
    INSERT INTO signature_keys SELECT signature_key, id FROM devices;
    INSERT INTO sessions (user_id, hash, device_id, challenge_hash, expires_at)
        SELECT u, sha256(translate(encode(int8send(u) || sha256(('bench-session-' || i)::bytea), 'base64'), '+/=', '-_')::bytea),
            u << 8, sha256(('c' || i)::bytea), {now} + 30 * 86400
        FROM (SELECT i, {first} + ({first_reserver} + i) * {step} AS u
            FROM generate_series(0::bigint, {reservers} - 1) i) AS reservers;
    INSERT INTO key_packages (user_id, device_id, ref, kind, suite, status, used, init_key_hash, encryption_key_hash,
            not_before, not_after, uploaded_at)
        SELECT u, u << 8, sha256(i::text::bytea), 0, 1, 0, 0,
            sha256(('k' || i)::bytea), sha256(('e' || i)::bytea), {now} - 86400, {now} + {life} + i % 100000, {now}
        FROM (SELECT i, CASE WHEN i < {stored} THEN {first} + i % {targets} * {step} ELSE {hot_user} END AS u
            FROM generate_series(0::bigint, {stored} + {hot} - 1) i) AS owned;
    INSERT INTO key_package_bytes
        SELECT user_id, device_id, ref, ref || decode(repeat('5a', 268), 'hex') FROM key_packages;
    ANALYZE users, user_names, devices, sessions, key_packages, key_package_bytes;";

/// Fills a store that nobody serves.
pub(super) async fn fill(place: &Place, stock: Stock) -> Result<()> {
    let UnixSeconds(now) = clock::system()();
    let filled = |template: &str| {
        let numbers = [
            ("{stored}", stock.stored),
            ("{reservers}", stock.reservers),
            ("{hot}", stock.hot),
            ("{targets}", stock.targets()),
            ("{first_reserver}", RESERVERS),
            ("{hot_user}", user(HOT_ORDER)),
            ("{first}", FIRST),
            ("{step}", STEP),
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
                connection.prepare_cached(SQLITE_SESSION)?.execute((
                    user(RESERVERS + reserver),
                    hash,
                    now + 30 * DAY,
                ))?;
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
