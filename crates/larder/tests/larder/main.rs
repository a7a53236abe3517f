//! The binary as people and programs meet it: real processes, a real server, real files.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail like tests"
)]

mod admin;
mod backups;
mod bench;
mod clocks;
#[cfg(unix)]
mod configuration;
mod conversation;
mod crashes;
mod demo;
#[cfg(unix)]
mod devices;
#[cfg(unix)]
mod documents;
#[cfg(feature = "sqlcipher")]
mod encryption;
mod files;
mod history;
mod invitations;
mod legacy;
#[cfg(unix)]
mod modes;
mod names;
mod pool;
mod process;
#[cfg(unix)]
mod reach;
#[cfg(feature = "sqlcipher")]
mod readme;
mod refused_input;
mod requests;
#[cfg(unix)]
mod screen;
#[cfg(unix)]
mod screens;
mod scripting;
mod secrets;
mod suites;
mod support;
#[cfg(unix)]
mod terminal;
mod transcripts;
#[cfg(unix)]
mod waiting;
