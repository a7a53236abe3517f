//! The KeyPackage directory: uploads, reservations and what the sweeper does.

mod inventory;
mod offer;
mod reserve;
mod transition;
mod upload;
mod validate;

pub(crate) use inventory::{inventory, pool_status};
pub(crate) use reserve::{Terms, probe, recall, reserve, reserve_ahead, tell_owners, without_bytes};
pub(crate) use transition::{abandon, revoke, revoke_all, spend, spend_reserved, sweep, withdraw_all};
pub(crate) use upload::upload;
pub(crate) use validate::{Validated, validate};
