//! What belongs to a user can be distributed over shards by the user, what belongs to a group by the group, and each registry by
//! what it registers.

use std::collections::BTreeSet;

use tokio_postgres::NoTls;

use super::harness::{Opened, recorded};
use super::plans::exercise;
use crate::store::StoreLocation;

/// Tables that are distributed alike, each with the column that it is distributed by.
struct Kind {
    tables: &'static [(&'static str, &'static str)],
    /// What names a row's shard in a statement of a request.
    named_by: &'static [&'static str],
    /// The same, of statements that may visit all shards, each for the reason that it stands with.
    of_all_shards: &'static [(&'static str, &'static str)],
}

const BY_USER: Kind = Kind {
    tables: &[
        ("users", "id"),
        ("devices", "user_id"),
        ("sessions", "user_id"),
        ("idempotent_answers", "user_id"),
        ("key_packages", "user_id"),
        ("key_package_bytes", "user_id"),
        ("reservations", "user_id"),
        ("audit", "user_id"),
        ("audit_checkpoints", "user_id"),
        ("pair_rates", "user_id"),
        ("blocks", "user_id"),
        ("introductions", "user_id"),
        ("mail", "user_id"),
        ("blobs", "user_id"),
        ("blob_parts", "user_id"),
        ("blob_rates", "user_id"),
    ],
    named_by: &[
        "user_id = ?1",
        "FROM users WHERE id = ?1",
        "INTO users (id, name, created_at) VALUES (?1",
        "(user_id,",
    ],
    of_all_shards: &[
        (
            "WHERE r.id = ?1 AND r.state = 0",
            "one request reserves of several users",
        ),
        ("FROM reservations WHERE id = ?1", "the same"),
        ("holder_user = ?1", "what a user holds is of many"),
        (
            "SELECT max(id) FROM users",
            "who registers comes behind all others",
        ),
    ],
};

const BY_GROUP: Kind = Kind {
    tables: &[
        ("groups", "id"),
        ("group_states", "group_id"),
        ("group_infos", "group_id"),
        ("log", "group_id"),
        ("bodies", "group_id"),
        ("members", "group_id"),
        ("gaps", "group_id"),
        ("vouchers", "group_id"),
    ],
    named_by: &[
        "group_id = ?1",
        "g.id = ?1",
        "WHERE id = ?1",
        "INTO groups (id, suite, epoch, created_at) VALUES (?1",
        "(group_id,",
    ],
    of_all_shards: &[
        (
            "device_id >> 8 = ?1",
            "a device's inbox is one query over all of its groups",
        ),
        ("WHERE device_id = ?1", "and what others vouch for to it is"),
    ],
};

const REGISTRIES: [(&str, &str); 6] = [
    ("user_names", "name"),
    ("device_names", "name"),
    ("signature_keys", "key"),
    ("blob_names", "name"),
    ("key_package_keys", "hash"),
    ("invitations", "hash"),
];

/// One row each, and what notes the migrations.
const APART: [&str; 4] = ["server", "totals", "clock", "larder_server_migrations"];

/// What looks for something that is due, wherever it is.
const OF_THE_SWEEPER: [&str; 8] = [
    "LIMIT ?1",
    "LIMIT ?2",
    "b.part = 1 AND NOT EXISTS",
    "accepted_at < ?1",
    "accepted_at > ?3",
    "empty_since < ?1",
    "expires_at <= ?1",
    "BETWEEN ?1 AND ?2",
];

/// Each table with the column that it is distributed by, and the tables that it may refer to.
fn distributed() -> Vec<(&'static str, &'static str, BTreeSet<String>)> {
    let names = |tables: &[(&str, &str)]| tables.iter().map(|(name, _)| (*name).to_owned()).collect();
    let alike = |kind: &Kind| {
        let of_kind: BTreeSet<String> = names(kind.tables);
        let tables = kind.tables.iter();
        let tables = tables.map(|(table, column)| (*table, *column, of_kind.clone()));
        tables.collect::<Vec<_>>()
    };
    let registries = REGISTRIES.map(|(table, column)| (table, column, BTreeSet::new()));
    [alike(&BY_USER), alike(&BY_GROUP), registries.into()].concat()
}

fn known(tables: BTreeSet<String>) {
    let distributed = distributed().into_iter().map(|(table, ..)| table.to_owned());
    let known: BTreeSet<String> = distributed.chain(APART.map(str::to_owned)).collect();
    assert_eq!(tables, known);
}

#[tokio::test]
async fn on_sqlite_each_key_begins_with_its_distribution() {
    let opened = Opened::sqlite().await;
    let StoreLocation::Sqlite(file) = &opened.location else {
        panic!("a SQLite store");
    };
    let connection = rusqlite::Connection::open(file).unwrap();
    let names = |sql: &str, table: &str| -> BTreeSet<String> {
        let mut statement = connection.prepare(sql).unwrap();
        let names = statement.query_map([table], |row| row.get(0)).unwrap();
        names.collect::<Result<_, _>>().unwrap()
    };
    known(names(
        "SELECT name FROM sqlite_schema WHERE type = ?1 AND name NOT LIKE 'sqlite%'",
        "table",
    ));
    for (table, column, alike) in distributed() {
        let only = BTreeSet::from([column.to_owned()]);
        let primary = "SELECT name FROM pragma_table_info(?1) WHERE pk = 1";
        assert!(names(primary, table).is_subset(&only), "{table}");
        let unique = "SELECT i.name FROM pragma_index_list(?1) l JOIN pragma_index_info(l.name) i
                      WHERE l.\"unique\" = 1 AND i.seqno = 0";
        let (primary, unique) = (names(primary, table), names(unique, table));
        assert_eq!(&primary | &unique, only, "{table}");
        let referred = "SELECT \"table\" FROM pragma_foreign_key_list(?1)";
        assert!(names(referred, table).is_subset(&alike), "{table}");
    }
}

#[tokio::test]
async fn on_postgresql_each_key_begins_with_its_distribution() {
    let opened = Opened::postgres().await;
    let StoreLocation::Postgres(location) = &opened.location else {
        panic!("a PostgreSQL store");
    };
    let (client, connection) = location.config().connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    let names = async |sql: &str, of: &str| -> BTreeSet<String> {
        let rows = client.query(sql, &[&of]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    };
    let tables =
        "SELECT tablename::text FROM pg_tables WHERE schemaname = current_schema() AND tablename <> $1::text";
    let states = "device_states";
    known(names(tables, states).await);
    let mut distributed = distributed();
    let by_user = distributed[0].2.clone();
    distributed.push((states, "user_id", by_user));
    for (table, column, alike) in distributed {
        let unique = "SELECT DISTINCT a.attname::text FROM pg_index i
             JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
             WHERE i.indisunique AND i.indrelid = $1::text::regclass";
        assert_eq!(
            names(unique, table).await,
            BTreeSet::from([column.to_owned()]),
            "{table}"
        );
        let referred = "SELECT c.confrelid::regclass::text FROM pg_constraint c
             WHERE c.contype = 'f' AND c.conrelid = $1::text::regclass";
        assert!(names(referred, table).await.is_subset(&alike), "{table}");
    }
}

#[tokio::test]
async fn each_statement_of_a_request_names_the_shard_of_its_rows() {
    let opened = Opened::sqlite().await;
    exercise(&opened).await;
    let (mut looked_at, mut nameless) = (0, Vec::new());
    for sql in recorded(false) {
        let touches = |table: &str| {
            ["FROM", "JOIN", "INTO", "UPDATE"].iter().any(|word| {
                sql.contains(&format!("{word} {table} ")) || sql.ends_with(&format!("{word} {table}"))
            })
        };
        let any = |tables: &[(&str, &str)]| tables.iter().any(|(table, _)| touches(table));
        let is_registered = any(&REGISTRIES);
        let [by_user, by_group] = [&BY_USER, &BY_GROUP].map(|kind| any(kind.tables));
        if !is_registered && !by_user && !by_group {
            continue;
        }
        looked_at += 1;
        if OF_THE_SWEEPER.iter().any(|part| sql.contains(part)) {
            continue;
        }
        let names = |kind: &Kind| {
            let of_all = kind.of_all_shards.iter().map(|(part, _)| part);
            kind.named_by.iter().chain(of_all).any(|part| sql.contains(part))
        };
        let is_named = match (is_registered, by_user, by_group) {
            (true, false, false) => REGISTRIES.iter().any(|(table, column)| {
                touches(table) && (sql.contains(&format!("{column} = ?1")) || sql.contains("VALUES (?1"))
            }),
            (false, true, false) => names(&BY_USER),
            (false, false, true) => names(&BY_GROUP),
            // What is distributed by one thing lies nowhere near what is by another.
            _ => false,
        };
        if !is_named {
            nameless.push(sql);
        }
    }
    assert_eq!(nameless, [""; 0]);
    assert!(looked_at > 100, "only {looked_at} statements were looked at");
}
