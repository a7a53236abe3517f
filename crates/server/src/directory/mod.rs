//! The KeyPackage directory: uploads, reservations and what the sweeper does.

mod inventory;
mod last_resort;
mod reserve;
mod transition;
mod upload;
mod validate;

pub(crate) use inventory::{inventory, pool_status};
pub(crate) use reserve::{abandon, probe, reserve};
pub(crate) use transition::{revoke, revoke_everything, spend, sweep};
pub(crate) use upload::upload;
pub(crate) use validate::{Validated, validate};
