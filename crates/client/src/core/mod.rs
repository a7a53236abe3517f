//! The synchronous core: everything that touches the database, in functions that take a transaction.

mod access;
mod actor;
mod adding;
mod attachments;
mod audit;
mod backup;
mod blocks;
mod chain;
mod clock;
mod commits;
mod committed;
mod contents;
mod denials;
mod departures;
mod devices;
mod doubts;
mod encryption;
mod epochs;
mod file_names;
mod gate;
mod groups;
mod history;
mod holds;
mod identity;
mod incoming;
mod invitation;
mod last_known;
mod leaves;
mod leaving;
mod legacy;
mod linking;
mod listed;
mod lost;
mod members;
mod messages;
mod mls;
mod naming;
mod outbox;
mod padding;
mod payload;
mod peers;
mod positions;
mod probe;
mod profile;
mod rejoin;
mod remake;
mod removals;
mod removed_leaves;
mod requests;
mod restore;
mod restored_server;
mod rows_seen;
mod safety_number;
mod schema;
mod settle;
mod state;
mod suites;
mod sweep;
mod timeline;
mod verdicts;
mod verification;
mod vouchers;
mod welcome;

pub(crate) use access::remember as remember_access;
pub(crate) use actor::Handle;
pub(crate) use attachments::{
    Ciphertext, attach, attachment, ciphertext, due_uploads, opened, stored_bytes, upload, upload_closed,
    upload_failed, uploaded,
};
pub(crate) use audit::{Told, joined as joined_by_invitation, judge as judge_audit};
pub(crate) use backup::import;
pub(crate) use blocks::{note as note_block, told as told_block, untold as untold_blocks};
pub(crate) use clock::heed_clocks;
pub(crate) use commits::{housekeeping, stage_remove};
pub(crate) use denials::{any_denied, lift_all as lift_denials};
pub(crate) use devices::{
    Listed, device_checks, groups_without_own_devices, has_other_devices, learn_devices, own_devices,
    own_devices_to_add, unknown_groups, users_to_look_up,
};
pub(crate) use doubts::{
    Caught, Place as DoubtedPlace, catch_up, doubted_branches, forget_server_epochs, groups_behind,
    lose_if_vouched_for, place as doubted_place, settle_branch, settle_other_branch,
};
pub(crate) use encryption::{form, is_key, set_key};
pub(crate) use file_names::{file_name, numbered};
pub(crate) use gate::{Closed, require_open};
pub(crate) use groups::{
    create, group_state, require_active, resolve, resolve_request, set_muted, summaries, summary,
};
pub(crate) use history::all_unanswered as unanswered;
pub(crate) use holds::trust;
pub(crate) use identity::{auth_signature, registration};
pub(crate) use incoming::{Taken, apply, apply_doubtful};
pub(crate) use invitation::{
    Checked, Extent, already_members, check_own_devices, check_reservation, not_members, reserve_finished,
    reserve_key, stage_invite,
};
pub(crate) use leaves::stage_updates;
pub(crate) use leaving::{leave, leave_as_told, leaves_to_ask};
pub(crate) use linking::{authorize, link_code, linked, read_link_code};
pub(crate) use listed::{
    any as any_unexplained, ask_about as ask_about_listed, drop as drop_listed, drop_all_but as keep_listed,
    groups_to_ask, take_note as take_note_of_listed,
};
pub(crate) use lost::{LostFile, file_is_gone, files as lost_files};
pub(crate) use members::{epoch_code, members};
pub(crate) use messages::{retry, send};
pub(crate) use naming::rename;
pub(crate) use outbox::{Due, QueuedMessages, QueuedRequest, fail_unsent, is_due, next_due, take_up, waits};
pub(crate) use payload::check_name;
pub(crate) use positions::{acknowledged, go_back, tell_everything_again, unacknowledged};
pub(crate) use probe::judge_probe;
pub(crate) use profile::{
    Context, Core, Registering, inventory_digest, is_registered, mark_registered, set_inventory_digest,
};
pub(crate) use rejoin::{Offer, Rejoined, groups_to_rejoin, last_known_epoch, not_let_in, stage_rejoin};
pub(crate) use remake::remake;
pub(crate) use removals::{removed_own, sign_removal};
pub(crate) use requests::{Forgotten, accept, decline, of_user as requests_of};
pub(crate) use restore::{finish_restoring, start_over};
pub(crate) use restored_server::{follow as follow_restored_server, heed_incarnation, server_was_restored};
pub(crate) use settle::{Fate, Outcome, Purpose, Settled, Verdict, settle};
pub(crate) use state::{
    Standing, admit_copy, claim_state, fall_behind, heed_mark, require_not_behind, standing,
};
pub(crate) use suites::{Suites, set_suites, suite_pools, suites_are_due, usable};
pub(crate) use sweep::{sweep, sweep_if_it_erases_nothing};
pub(crate) use timeline::{
    history_before, mark_group_read, mark_notices_read, mark_read, message, messages_after, search, unread,
    unsent,
};
pub(crate) use verification::{
    Keys, Offered, changed_users, known_keys, new_identity, safety_number, set_verified, take_new_identity,
    verification,
};
pub(crate) use vouchers::{
    are_used as vouchers_are_used, drop_all_but as keep_vouchers, epoch as vouched_epoch,
    forgotten as introduction_forgotten,
};
pub(crate) use welcome::welcome_epoch;
