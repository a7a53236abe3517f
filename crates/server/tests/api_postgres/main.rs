//! The same tests of the HTTP API on PostgreSQL, and those of several nodes on one database.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

#[path = "../databases/postgres.rs"]
mod database;
#[path = "../../../judge/tests/support/gullible.rs"]
mod gullible;
#[path = "../support/mod.rs"]
mod support;

#[path = "../api/accounts.rs"]
mod accounts;
#[path = "../api/addable.rs"]
mod addable;
#[path = "../api/addresses.rs"]
mod addresses;
#[path = "../api/audit.rs"]
mod audit;
#[path = "../api/bad_input.rs"]
mod bad_input;
#[path = "../api/blobs.rs"]
mod blobs;
#[path = "../api/blocks.rs"]
mod blocks;
#[path = "../api/bounds.rs"]
mod bounds;
#[path = "../api/check.rs"]
mod check;
#[path = "../api/clock.rs"]
mod clock;
#[path = "../api/commit_model/mod.rs"]
mod commit_model;
#[path = "../api/commits.rs"]
mod commits;
#[path = "../api/commits_invalid.rs"]
mod commits_invalid;
#[path = "../api/commits_refused.rs"]
mod commits_refused;
#[path = "../api/delivery.rs"]
mod delivery;
#[path = "../api/devices.rs"]
mod devices;
#[path = "../api/draining.rs"]
mod draining;
#[path = "../api/events.rs"]
mod events;
#[path = "../api/external_commits.rs"]
mod external_commits;
#[path = "../api/forged_commits.rs"]
mod forged_commits;
#[path = "../api/histories/mod.rs"]
mod histories;
#[path = "../api/introductions.rs"]
mod introductions;
#[path = "../api/invitations.rs"]
mod invitations;
#[path = "../api/last_resort.rs"]
mod last_resort;
#[path = "../api/last_resort_commits.rs"]
mod last_resort_commits;
#[path = "../api/last_resort_uploads.rs"]
mod last_resort_uploads;
#[path = "../api/leaving.rs"]
mod leaving;
#[path = "../api/lifetimes.rs"]
mod lifetimes;
#[path = "../api/messages.rs"]
mod messages;
#[path = "../api/numbers.rs"]
mod numbers;
#[path = "../api/probe.rs"]
mod probe;
#[path = "../api/public_states.rs"]
mod public_states;
#[path = "../api/race.rs"]
mod race;
#[path = "../api/reserve.rs"]
mod reserve;
#[path = "../api/restored.rs"]
mod restored;
#[path = "../api/scene.rs"]
mod scene;
#[path = "../api/secrets.rs"]
mod secrets;
#[path = "../api/serving.rs"]
mod serving;
#[path = "../api/spend.rs"]
mod spend;
#[path = "../api/state.rs"]
mod state;
#[path = "../api/suites.rs"]
mod suites;
#[path = "../api/totals.rs"]
mod totals;
#[path = "../api/upload.rs"]
mod upload;

mod nodes;
