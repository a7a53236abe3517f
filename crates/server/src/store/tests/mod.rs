//! What every engine must do. Each test of `conformance`, `in_use`, `key_packages`, `limits`, `log` and `many_rows` runs on SQLite and on PostgreSQL.

/// Each of these functions, which are given a store, as a test on each engine.
macro_rules! on_both_engines {
    ($($test:ident;)*) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $test() {
                super::$test(super::Opened::sqlite().await).await;
            })*
        }

        mod postgres {
            $(#[tokio::test]
            async fn $test() {
                super::$test(super::Opened::postgres().await).await;
            })*
        }
    };
}

mod ahead;
mod concurrency;
mod conformance;
mod distribution;
mod harness;
mod in_use;
mod key_packages;
mod limits;
mod log;
mod many_rows;
mod plans;
mod sqlite_only;

pub(super) use harness::record;
