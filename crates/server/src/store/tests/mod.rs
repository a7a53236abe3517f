//! What every engine must do. Each test of `conformance` runs on SQLite and on PostgreSQL.

mod concurrency;
mod conformance;
mod harness;
mod plans;

pub(super) use harness::record;
