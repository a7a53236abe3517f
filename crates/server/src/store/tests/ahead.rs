//! What is read ahead is what would have been read.

use super::harness::{Opened, ad_hoc};
use crate::error::Fault;
use crate::store::Tx;
use crate::store::statement::params;

on_both_engines! {
    what_is_read_ahead_is_found_and_read_anew_the_next_time;
    a_change_that_is_made_ahead_and_never_asked_for_is_not_kept;
}

const ABOVE: &str = "SELECT a FROM counted WHERE a > ?1 ORDER BY a";
const ADD: &str = "UPDATE counted SET a = a + ?1 RETURNING a";

async fn counted(opened: &Opened) {
    let sql = "CREATE TABLE counted (a BIGINT); INSERT INTO counted VALUES (1), (2), (3)";
    opened.batch(sql, sql).await;
}

fn above(tx: &Tx<'_>, least: i64) -> Result<Vec<i64>, Fault> {
    tx.rows(ABOVE, params![least], |row| row.get(0))
}

async fn what_is_read_ahead_is_found_and_read_anew_the_next_time(opened: Opened) {
    counted(&opened).await;
    let found = opened.store.write(|tx| {
        Ok(ad_hoc(|| {
            tx.queue("INSERT INTO counted VALUES (4)", params![])?;
            for least in [1_i64, 2] {
                tx.read_ahead(ABOVE, params![least]);
            }
            let (of_other, first, second) = (above(tx, 3)?, above(tx, 1)?, above(tx, 2)?);
            tx.queue("DELETE FROM counted WHERE a = ?1", params![3_i64])?;
            let each = tx.rows_of_each(ABOVE, &[[1_i64.into()], [2_i64.into()]], |row| row.get(0))?;
            Ok::<_, Fault>((of_other, first, second, each))
        })?)
    });
    let expected = (vec![4], vec![2, 3, 4], vec![3, 4], vec![vec![2_i64, 4], vec![4]]);
    assert_eq!(found.await.unwrap(), expected);
}

async fn a_change_that_is_made_ahead_and_never_asked_for_is_not_kept(opened: Opened) {
    counted(&opened).await;
    let sum = "SELECT CAST(sum(a) AS BIGINT) FROM counted";
    let forgotten = opened.store.write(|tx| {
        ad_hoc(|| tx.read_ahead(ADD, params![10_i64]));
        Ok(())
    });
    // SQLite, which waits for nobody, has not made it.
    assert_eq!(forgotten.await.is_err(), opened.looks_by_itself());
    assert_eq!(opened.count(sum).await, 6);
    let asked = opened.store.write(|tx| {
        Ok(ad_hoc(|| {
            tx.read_ahead(ADD, params![10_i64]);
            tx.rows(ADD, params![10_i64], |row| row.get::<i64>(0))
        })?)
    });
    assert_eq!(asked.await.unwrap(), [11, 12, 13]);
    assert_eq!(opened.count(sum).await, 36);
}
