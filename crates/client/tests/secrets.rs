//! Nothing that should stay secret shows up in logs, errors or tables that are not OpenMLS's.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

mod support;

use std::fmt::{Debug, Write};
use std::sync::{Arc, Mutex};

use larder_pool::openmls::prelude::{OpenMlsProvider, SignatureScheme};
use larder_pool::rusqlite::types::Value;
use larder_pool::{LocalStore, StoreError};
use openmls_basic_credential::SignatureKeyPair;
use support::{Action, TestServer, user};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// Writes down everything that is logged, at every level.
#[derive(Clone, Default)]
struct Captured(Arc<Mutex<String>>);

struct Writer<'a>(&'a mut String);

impl Visit for Writer<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, "{field}={value:?} ").unwrap();
    }
}

impl Subscriber for Captured {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        span.record(&mut Writer(&mut self.0.lock().unwrap()));
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, values: &Record<'_>) {
        values.record(&mut Writer(&mut self.0.lock().unwrap()));
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        event.record(&mut Writer(&mut self.0.lock().unwrap()));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[tokio::test]
async fn logs_and_debug_output_hold_no_token_text_or_group_name() {
    let captured = Captured::default();
    tracing::subscriber::set_global_default(captured.clone()).unwrap();
    let server = TestServer::start().await;
    let (mut alice, proxy) = server.proxied("alice").await;
    let bob = server.client("bob").await;
    let token = Arc::new(Mutex::new(String::new()));
    let seen = Arc::clone(&token);
    proxy.rule(move |request| {
        if !request.is("POST", "/v1/sessions") {
            return Action::Forward;
        }
        let seen = Arc::clone(&seen);
        Action::rewrite_body(move |body| {
            let session: larder_wire::Session = serde_json::from_slice(&body).unwrap();
            *seen.lock().unwrap() = session.token;
            body
        })
    });
    alice.restart().await;
    let group = alice.create_group("canary-name").await.unwrap().id;
    alice.invite(&group, &[user("bob")]).await.unwrap();
    alice.send(&group, "canary-text").await.unwrap();
    alice
        .attach(&group, "canary-name", "canary/type", b"canary-text".to_vec())
        .await
        .unwrap();
    bob.sync().await.unwrap();
    bob.send(&group, "canary-text").await.unwrap();
    let file = bob.unread().await.unwrap().last().unwrap().row;
    let directory = tempfile::tempdir().unwrap();
    bob.save_attachment(file, directory.path(), None).await.unwrap();
    alice.sync().await.unwrap();
    proxy.cut_before("POST", "/messages");
    alice.send(&group, "canary-text").await.unwrap();
    let unreachable = alice.sync().await.unwrap_err();

    let mut shown = captured.0.lock().unwrap().clone();
    assert!(shown.contains("pool refreshed"), "the capture works");
    write!(shown, "{:?}", alice.groups().await.unwrap()).unwrap();
    write!(shown, "{:?}", bob.attachment(file).await.unwrap().unwrap()).unwrap();
    let stored = rusqlite::Connection::open(bob.directory.path().join("larder.db")).unwrap();
    let blob: Vec<u8> = stored
        .query_row("SELECT blob_id FROM attachments", [], |row| row.get(0))
        .unwrap();
    let blob = larder_wire::Base64Url(blob).to_string();
    write!(shown, "{:?}", bob.unread().await.unwrap()).unwrap();
    write!(shown, "{:?} {unreachable} {unreachable:?}", *alice).unwrap();
    let token = token.lock().unwrap().clone();
    assert!(token.len() > 20);
    for secret in ["canary-name", "canary-text", "canary/type", &token, &blob] {
        assert!(!shown.contains(secret), "found {secret}");
    }
}

#[tokio::test]
async fn private_keys_are_in_the_tables_of_openmls_only() {
    let server = TestServer::start().await;
    let (mut alice, bob) = (server.client("alice").await, server.client("bob").await);
    alice.group_with(&[&bob]).await;
    alice.stop().await;
    let mut store = LocalStore::open(&alice.directory.path().join("larder.db")).unwrap();
    let privates: Vec<Vec<u8>> = store
        .transaction(|tx| {
            let publics: (Vec<u8>, Vec<u8>) = tx
                .connection()
                .query_row("SELECT auth_public_key, mls_public_key FROM profile", [], |row| {
                    Ok((row.get(0)?, row.get(1)?))
                })
                .map_err(StoreError::from)?;
            Ok::<_, StoreError>(
                [publics.0, publics.1]
                    .iter()
                    .map(|public| {
                        let keys =
                            SignatureKeyPair::read(tx.provider().storage(), public, SignatureScheme::ED25519)
                                .expect("stored by OpenMLS");
                        let json = serde_json::to_value(&keys).unwrap();
                        serde_json::from_value(json["private"].clone()).unwrap()
                    })
                    .collect(),
            )
        })
        .unwrap();
    let connection = store.connection_mut();
    let mut tables = connection
        .prepare("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'openmls_%'")
        .unwrap();
    let tables: Vec<String> = tables
        .query_map([], |row| row.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert!(tables.iter().any(|table| table == "profile") && tables.iter().any(|table| table == "outbox"));
    for table in tables {
        let mut statement = connection.prepare(&format!("SELECT * FROM {table}")).unwrap();
        let columns = statement.column_count();
        let mut rows = statement.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            for column in 0..columns {
                let bytes = match row.get(column).unwrap() {
                    Value::Blob(bytes) => bytes,
                    Value::Text(text) => text.into_bytes(),
                    Value::Null | Value::Integer(_) | Value::Real(_) => continue,
                };
                for private in &privates {
                    let found = bytes.windows(private.len()).any(|window| window == private);
                    assert!(!found, "a private key in {table}");
                }
            }
        }
    }
}
