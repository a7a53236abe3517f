use std::collections::BTreeSet;

use larder_judge::Departure;
use larder_wire::GroupId;
use openmls_rust_crypto::RustCrypto;

use crate::delivery::state::Stored;
use crate::delivery::{checks, parse};
use crate::error::{Fault, ServiceError};
use crate::store::Tx;

/// Something about a stored group that cannot be right.
pub(crate) enum GroupProblem {
    /// The roster is not the leaves.
    Roster(String),
    /// The public state or the GroupInfo is not what it should be.
    State(String),
}

impl GroupProblem {
    pub(crate) fn detail(&self) -> &str {
        match self {
            Self::Roster(detail) | Self::State(detail) => detail,
        }
    }
}

/// Checks a group's public state against its epoch, its GroupInfo and its roster.
pub(crate) fn check_group(
    tx: &Tx<'_>,
    group: &GroupId,
    mut report: impl FnMut(GroupProblem),
) -> Result<(), ServiceError> {
    let row = tx.group(group)?.ok_or(Fault::Corrupt("a group is missing"))?;
    let stored = Stored::read(tx, group)?;
    let held = match stored.lead_on(&RustCrypto::default(), group, None) {
        Err(Fault::Unfollowable) => {
            report(GroupProblem::State(
                "the public state cannot be followed to the present epoch".to_owned(),
            ));
            return Ok(());
        }
        held => held?,
    };
    let public_group = &held.public_group;
    let context = public_group.group_context();
    if context.epoch().as_u64() != row.epoch || context.group_id().as_slice() != group.as_bytes() {
        let found = context.epoch().as_u64();
        report(GroupProblem::State(format!(
            "the public state is of epoch {found}, the group at epoch {}",
            row.epoch
        )));
    }
    let group_info = tx.group_info(group)?.unwrap_or_default();
    match parse::group_info(&group_info) {
        Ok(group_info) if group_info.group_context() == context => {}
        Ok(_) => report(GroupProblem::State(
            "the GroupInfo is not that of the public state".to_owned(),
        )),
        Err(_) => report(GroupProblem::State("the GroupInfo cannot be read".to_owned())),
    }
    let departures: Vec<Departure> = tx
        .departures(group)?
        .iter()
        .filter_map(|bytes| Departure::from_bytes(bytes).ok())
        .collect();
    let mut leaves = BTreeSet::new();
    for member in public_group.members() {
        let device = checks::device_named_by(tx, &member.credential)?
            .filter(|device| device.signature_key == member.signature_key);
        let has_left = public_group
            .leaf(member.index)
            .is_some_and(|leaf| departures.iter().any(|departure| departure.is_of_leaf(leaf)));
        match device {
            Some(_) if has_left => {}
            Some(device) => {
                leaves.insert(device.key);
            }
            None if checks::names_removed_device(tx, &member.credential)? => {}
            None => report(GroupProblem::State(format!(
                "leaf {} is not a registered device's",
                member.index.u32()
            ))),
        }
    }
    let roster: BTreeSet<_> = tx.members(group)?.into_iter().collect();
    let (absent, extra) = (
        leaves.difference(&roster).count(),
        roster.difference(&leaves).count(),
    );
    if absent + extra > 0 {
        report(GroupProblem::Roster(format!(
            "{absent} leaves are not on the roster, {extra} of the roster have no leaf"
        )));
    }
    Ok(())
}
