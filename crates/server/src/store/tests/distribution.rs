//! What belongs to groups can be distributed over shards by the group.

use std::collections::BTreeSet;

use tokio_postgres::NoTls;

use super::harness::{Opened, recorded};
use super::plans::exercise;
use crate::store::StoreLocation;

/// The tables, each with the column that it is distributed by.
const TABLES: [(&str, &str); 7] = [
    ("groups", "id"),
    ("group_states", "group_id"),
    ("group_infos", "group_id"),
    ("log", "group_id"),
    ("bodies", "group_id"),
    ("members", "group_id"),
    ("gaps", "group_id"),
];

/// What names the group. A device's inbox is one query over all of its groups, and so are those of its user, and whether two users
/// share one.
const NAMED_BY: [&str; 8] = [
    "group_id = ?1",
    "g.id = ?1",
    "WHERE id = ?1",
    "VALUES (?1",
    "m.device_id = ?1",
    "d.user_id = ?1",
    "theirs.user_id = ?1",
    "me.id = ?1",
];

/// What looks for something that is due, wherever it is.
const OF_THE_SWEEPER: [&str; 5] = [
    "waiting_bytes > 0 AND id > ?1",
    "b.part = 1 AND NOT EXISTS",
    "accepted_at < ?1",
    "accepted_at > ?3",
    "empty_since",
];

#[tokio::test]
async fn on_sqlite_the_group_comes_first_in_every_key_of_what_is_its_own() {
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
    for (table, column) in TABLES {
        let only = BTreeSet::from([column.to_owned()]);
        let primary = "SELECT name FROM pragma_table_info(?1) WHERE pk = 1";
        assert_eq!(names(primary, table), only, "{table}");
        let unique = "SELECT i.name FROM pragma_index_list(?1) l JOIN pragma_index_info(l.name) i
                      WHERE l.\"unique\" = 1 AND i.seqno = 0";
        assert!(names(unique, table).is_subset(&only), "{table}");
        let referred = "SELECT \"table\" FROM pragma_foreign_key_list(?1)";
        let of_groups = TABLES.map(|(name, _)| name.to_owned()).into();
        assert!(names(referred, table).is_subset(&of_groups), "{table}");
    }
}

#[tokio::test]
async fn on_postgresql_the_group_comes_first_in_every_key_of_what_is_its_own() {
    let opened = Opened::postgres().await;
    let StoreLocation::Postgres(location) = &opened.location else {
        panic!("a PostgreSQL store");
    };
    let (client, connection) = location.config().connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    for (table, column) in TABLES {
        let unique = "SELECT DISTINCT a.attname::text FROM pg_index i
             JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
             WHERE i.indisunique AND i.indrelid = $1::text::regclass";
        let found: Vec<String> = client
            .query(unique, &[&table])
            .await
            .unwrap()
            .iter()
            .map(|row| row.get(0))
            .collect();
        assert_eq!(found, [column], "{table}");
        let referred = "SELECT c.confrelid::regclass::text FROM pg_constraint c
             WHERE c.contype = 'f' AND c.conrelid = $1::text::regclass";
        for row in client.query(referred, &[&table]).await.unwrap() {
            let referred: String = row.get(0);
            assert!(
                TABLES.iter().any(|(name, _)| *name == referred),
                "{table}: {referred}"
            );
        }
    }
}

#[tokio::test]
async fn every_statement_of_a_request_names_the_group_whose_rows_it_touches() {
    let opened = Opened::sqlite().await;
    exercise(&opened).await;
    let (mut looked_at, mut nameless) = (0, Vec::new());
    for sql in recorded(false) {
        let touches = |table: &str| {
            ["FROM", "JOIN", "INTO", "UPDATE"]
                .iter()
                .any(|word| sql.contains(&format!("{word} {table} ")))
        };
        if !TABLES.iter().any(|(table, _)| touches(table)) {
            continue;
        }
        looked_at += 1;
        let is_named = NAMED_BY.iter().any(|name| sql.contains(name));
        let is_swept = OF_THE_SWEEPER.iter().any(|part| sql.contains(part));
        if !is_named && !is_swept {
            nameless.push(sql);
        }
    }
    assert_eq!(nameless, [""; 0]);
    assert!(looked_at > 40, "only {looked_at} statements were looked at");
}
