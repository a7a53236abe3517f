//! The client against a real server: whole profiles, and between them what answers late, never or with lies.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

#[path = "../../../judge/tests/support/forger.rs"]
#[expect(clippy::disallowed_methods, reason = "the attacker keeps to nothing")]
mod forger;
#[path = "../../../judge/tests/support/gullible.rs"]
mod gullible;
#[path = "../support/mod.rs"]
mod support;

mod device_lists;
mod made_up;
mod member;

mod all_or_nothing;
mod attachments;
mod audit;
mod away;
mod backups;
mod bad_key_packages;
mod blocking;
mod clocks;
mod conversation;
mod devices;
mod ended_invitations;
mod epoch_codes;
mod failover;
mod fresh_leaf;
mod hostile_commits;
mod hostile_devices;
mod hostile_handshakes;
mod hostile_links;
mod hostile_numbers;
mod hostile_rejoins;
mod hostile_removals;
mod hostile_server;
mod hostile_welcomes;
mod interruptions;
mod invented_groups;
mod last_resort;
mod leaving;
mod lost_answers;
mod lost_messages;
mod many_devices;
mod messages_together;
mod new_identity;
mod refresh;
mod refusals;
mod requests;
mod restored_backup;
mod restored_server;
mod stock;
mod suites;
mod timeline;
mod verification;
