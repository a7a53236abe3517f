//! The server through its HTTP API on SQLite: real requests, a real database, and OpenMLS on the other end.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

#[path = "../databases/sqlite.rs"]
mod database;
#[path = "../../../judge/tests/support/gullible.rs"]
mod gullible;
#[path = "../support/mod.rs"]
mod support;

mod accounts;
mod addable;
mod addresses;
mod audit;
mod bad_input;
mod blobs;
mod blocks;
mod bounds;
mod check;
mod clock;
mod commit_model;
mod commits;
mod commits_invalid;
mod commits_refused;
mod delivery;
mod devices;
mod draining;
mod events;
mod external_commits;
mod forged_commits;
mod histories;
mod introductions;
mod invitations;
mod last_resort;
mod last_resort_commits;
mod last_resort_uploads;
mod leaving;
mod lifetimes;
mod limits;
mod messages;
mod numbers;
mod openapi;
mod probe;
mod public_states;
mod race;
mod reserve;
mod restored;
mod scene;
mod secrets;
mod serving;
mod spend;
mod state;
mod suites;
mod totals;
mod upload;
