//! What only the one writer of SQLite can get wrong.

use std::sync::mpsc;

use futures_util::FutureExt as _;
use larder_wire::ProblemType;

use super::harness::{NOW, Opened, ad_hoc};
use crate::error::ServiceError;
use crate::store::StoreLocation;

#[tokio::test]
async fn a_refusal_in_a_commit_that_failed_is_no_answer() {
    let opened = Opened::sqlite().await;
    let (release, held) = mpsc::channel::<()>();
    // It keeps the writer until the two others wait, so that one commit carries all three.
    let holding = opened.store.write(move |_| {
        held.recv().unwrap();
        Ok(())
    });
    let spoiling = opened.store.write(|tx| {
        ad_hoc(|| {
            tx.execute("PRAGMA defer_foreign_keys = ON", &[])?;
            tx.execute(
                "INSERT INTO sessions (user_id, hash, device_id, challenge_hash, expires_at)
                 VALUES (9, x'00', 99, x'00', 0)",
                &[],
            )
        })?;
        Ok(())
    });
    let refused = opened
        .store
        .write(|_| Err::<(), ServiceError>(ProblemType::NameTaken.into()));
    let (holding, spoiling, refused, ()) =
        tokio::join!(holding, spoiling, refused, async { release.send(()).unwrap() });
    assert!(
        matches!(spoiling, Err(ServiceError::Fault(_))),
        "the commit did not fail"
    );
    assert!(matches!(holding, Err(ServiceError::Fault(_))));
    assert!(
        matches!(refused, Err(ServiceError::Fault(_))),
        "nobody has the name"
    );
}

#[tokio::test]
async fn a_store_that_is_let_go_of_is_closed() {
    const INVITATIONS: u32 = 2000;
    let opened = Opened::sqlite().await;
    let StoreLocation::Sqlite(file) = opened.location.clone() else {
        unreachable!("it is SQLite")
    };
    let mut writing = Box::pin(opened.store.write(|tx| {
        for number in 0..INVITATIONS {
            let mut hash = [0; 32];
            hash[..4].copy_from_slice(&number.to_be_bytes());
            tx.insert_invitation(&hash, NOW, NOW.plus(1))?;
        }
        Ok(())
    }));
    assert!((&mut writing).now_or_never().is_none());
    drop(writing);
    let directory = opened.close();
    // SQLite removes its log when the last connection has closed the database.
    assert!(!file.with_extension("db-wal").exists());
    let database = rusqlite::Connection::open(&file).unwrap();
    let count = database.query_row("SELECT count(*) FROM invitations", [], |row| row.get::<_, u32>(0));
    assert_eq!(count.unwrap(), INVITATIONS, "what was begun is done");
    drop(directory);
}

#[tokio::test]
async fn few_large_rows_are_brought_into_the_database_as_many_small_ones_are() {
    const ROW_BYTES: usize = 1 << 20;
    let opened = Opened::sqlite().await;
    let StoreLocation::Sqlite(file) = opened.location.clone() else {
        unreachable!("it is SQLite")
    };
    let alice = opened.register("alice", 1).await.key;
    // A checkpoint is due after 16, and takes a while.
    for number in 0..400 {
        let written = opened.store.write(move |tx| {
            let answer = vec![7; ROW_BYTES];
            Ok(tx.insert_idempotent_answer(alice, &format!("{number}"), b"hash", &answer, NOW)?)
        });
        written.await.unwrap();
        if std::fs::metadata(&file).unwrap().len() > 8 * ROW_BYTES as u64 {
            return;
        }
    }
    panic!("everything is still in the log");
}
