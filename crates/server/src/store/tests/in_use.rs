//! A store that its server is using while its operator invites people.

use super::harness::{NOW, Opened};
use crate::error::Fault;
use crate::store::Store;

on_both_engines! {
    a_store_in_use_is_opened_as_it_is_and_both_write_to_it;
    a_store_of_another_version_is_not_opened_while_it_is_in_use;
    an_invitation_is_taken_once_and_until_it_expires;
}

async fn a_store_in_use_is_opened_as_it_is_and_both_write_to_it(opened: Opened) {
    const EACH: u8 = 50;
    let other = Store::open_in_use(&opened.location).await.unwrap();
    let write = async |store: Store, by: u8| {
        for number in 0..EACH {
            let written = store.write(move |tx| {
                let mut hash = [by; 32];
                hash[0] = number;
                Ok(tx.insert_invitation(&hash, NOW, NOW.plus(1))?)
            });
            written.await.unwrap();
        }
    };
    tokio::join!(write(opened.store.clone(), 1), write(other, 2));
    let count = opened.count("SELECT count(*) FROM invitations").await;
    assert_eq!(count, 2 * u64::from(EACH));
}

async fn a_store_of_another_version_is_not_opened_while_it_is_in_use(opened: Opened) {
    const OLDER: &str = "DELETE FROM larder_server_migrations
        WHERE version = (SELECT max(version) FROM larder_server_migrations)";
    for statement in [OLDER, "DROP TABLE larder_server_migrations"] {
        opened.batch(statement, statement).await;
        let refused = Store::open_in_use(&opened.location).await;
        assert!(matches!(refused, Err(Fault::OtherSchema)), "{statement}");
    }
}

async fn an_invitation_is_taken_once_and_until_it_expires(opened: Opened) {
    let (first, second) = ([1; 32], [2; 32]);
    opened
        .store
        .write(move |tx| {
            tx.insert_invitation(&first, NOW, NOW.plus(1))?;
            tx.insert_invitation(&second, NOW, NOW.plus(1))?;
            assert!(!tx.take_invitation(&[3; 32], NOW)?);
            assert!(tx.take_invitation(&first, NOW)?);
            assert!(!tx.take_invitation(&first, NOW)?);
            assert!(!tx.take_invitation(&second, NOW.plus(1))?);
            assert_eq!(tx.invitations(NOW)?.len(), 1);
            assert!(tx.invitations(NOW.plus(1))?.is_empty());
            Ok(())
        })
        .await
        .unwrap();
}
