//! When a device replaces its own leaf in a group by a fresh one, so that a state that somebody has copied reads no further.

use larder_pool::Tx;
use openmls::prelude::{MlsGroup, OpenMlsProvider, OpenMlsRand as _};
use openmls::treesync::LeafNodeSource;
use rusqlite::OptionalExtension;

use crate::core::outbox::{self, Intent};
use crate::core::profile::Context;
use crate::core::schema::corrupt;
use crate::core::{commits, denials, gate, mls};
use crate::error::Error;
use crate::types::{GroupKey, GroupState};

/// The mean age at which a leaf is replaced, in seconds, in a group of up to 168 members.
const AGE_SECONDS_MIN: u64 = 7 * 24 * 60 * 60;
/// The same for each member of a larger one: each member's Commit costs every other one, so a group of n has about one an hour.
const AGE_SECONDS_PER_MEMBER: u64 = 60 * 60;
/// It is this part of the mean earlier or later, drawn anew for each leaf: who came together does not commit together.
const JITTER_PART: u64 = 7;
/// Leaves that are replaced for their age in one sync. A device that was away for weeks, or whose clock was, spreads its Commits.
const RENEWALS_MAX: usize = 16;

/// The age at which a leaf is replaced, in seconds. `draw` is uniform over its type.
fn age_seconds(members: u32, draw: u16) -> u64 {
    let mean = (u64::from(members) * AGE_SECONDS_PER_MEMBER).max(AGE_SECONDS_MIN);
    let jitter = mean / JITTER_PART;
    mean - jitter + 2 * jitter * u64::from(draw) / u64::from(u16::MAX)
}

/// Whether our leaf is to be replaced by the next Commit of ours.
///
/// That of a KeyPackage is (RFC 9750 §5.1): it has an end, and others may hold copies of its keys. A later one is once it is old
/// and this device has sent something under it.
pub(super) fn is_stale(tx: &Tx<'_>, context: &Context, group: &MlsGroup) -> Result<bool, Error> {
    let Some(leaf) = group.own_leaf_node() else {
        return Ok(false);
    };
    if matches!(leaf.leaf_node_source(), LeafNodeSource::KeyPackage(_)) {
        return Ok(true);
    }
    // By clocks that are more than a day apart nothing has an age: it waits until they agree again.
    if context.require_clocks_close().is_err() {
        return Ok(false);
    }
    let leaf: Option<(Option<i64>, i64)> = tx
        .connection()
        .prepare_cached("SELECT leaf_at, leaf_draw FROM groups WHERE group_id = ?1 AND sent_since_leaf = 1")?
        .query_row([group.group_id().as_slice()], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .optional()?;
    let Some((Some(since), draw)) = leaf else {
        return Ok(false);
    };
    let draw = corrupt(u16::try_from(draw).ok(), "age of a leaf")?;
    let age = context.server_now().0.saturating_sub(since.cast_unsigned());
    let members = u32::try_from(group.members().count()).unwrap_or(u32::MAX);
    Ok(age >= age_seconds(members, draw))
}

/// Notes that our leaf is a fresh one, of a Commit that the server has accepted.
pub(super) fn renewed(tx: &Tx<'_>, context: &Context, group: &GroupKey) -> Result<(), Error> {
    let draw: [u8; 2] = tx
        .provider()
        .rand()
        .random_array()
        .map_err(|error| Error::mls("drawing the age of a leaf")(error.to_string()))?;
    tx.connection()
        .prepare_cached(
            "UPDATE groups SET leaf_at = ?2, leaf_draw = ?3, sent_since_leaf = 0 WHERE group_id = ?1",
        )?
        .execute((
            group.as_bytes(),
            context.cautious_now().0.cast_signed(),
            u16::from_be_bytes(draw),
        ))?;
    Ok(())
}

/// Notes that something was encrypted under our leaf.
pub(super) fn used(tx: &Tx<'_>, group: &GroupKey) -> Result<(), Error> {
    tx.connection()
        .prepare_cached("UPDATE groups SET sent_since_leaf = 1 WHERE group_id = ?1 AND sent_since_leaf = 0")?
        .execute([group.as_bytes()])?;
    Ok(())
}

/// Stages a Commit that does nothing but replace our leaf in every group where it [is stale](is_stale). A group without other
/// members can wait: the Commit that adds the first one does it. Whether anything was put into the outbox.
pub(crate) fn stage_updates(tx: &Tx<'_>, context: &Context) -> Result<bool, Error> {
    let (mut queued, mut renewals) = (false, 0);
    for (group, is_of_commit) in candidates(tx, context)? {
        if (is_of_commit && renewals == RENEWALS_MAX)
            || outbox::handshake_waits(tx.connection(), &group)?
            || denials::is_denied(tx.connection(), &group)?
        {
            continue;
        }
        let state = mls::load(tx, &group)?;
        if !is_stale(tx, context, &state)? || state.members().count() == 1 {
            continue;
        }
        // It waits while keys are looked at.
        if let Ok(cleared) = gate::clear(tx, &group)? {
            let request = commits::stage(tx, context, cleared.nobody(), None)?;
            commits::push(tx, &group, &request, &Intent::Update)?;
            queued = true;
            renewals += usize::from(is_of_commit);
        }
    }
    Ok(queued)
}

/// The groups that are worth loading, and whether our leaf there is one of a Commit; those first that have waited longest.
fn candidates(tx: &Tx<'_>, context: &Context) -> Result<Vec<(GroupKey, bool)>, Error> {
    let (connection, now) = (tx.connection(), context.server_now());
    if context.require_clocks_close().is_ok() {
        // Whatever wrote that was wrong about the time: such a leaf is as good as made now, neither old nor young for ever.
        connection
            .prepare_cached("UPDATE groups SET leaf_at = ?1 WHERE leaf_at > ?1")?
            .execute([now.0.cast_signed()])?;
    }
    let youngest = now.0.saturating_sub(age_seconds(0, 0));
    let mut statement = connection.prepare_cached(
        "SELECT group_id, leaf_at IS NOT NULL FROM groups
         WHERE state = ?1 AND (leaf_at IS NULL OR (sent_since_leaf = 1 AND leaf_at <= ?2)) ORDER BY leaf_at, group_id",
    )?;
    let rows = statement.query_map((GroupState::Active.column(), youngest.cast_signed()), |row| {
        Ok((row.get::<_, Vec<u8>>(0)?, row.get(1)?))
    })?;
    rows.map(|row| {
        let (id, is_of_commit) = row?;
        Ok((corrupt(GroupKey::from_bytes(&id).ok(), "group id")?, is_of_commit))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const HOUR: u64 = 60 * 60;
    const DAY: u64 = 24 * HOUR;

    #[test]
    fn a_leaf_is_replaced_after_a_week_or_an_hour_for_each_member() {
        for (members, mean) in [
            (0, 7 * DAY),
            (2, 7 * DAY),
            (168, 7 * DAY),
            (336, 14 * DAY),
            (1_000, 1_000 * HOUR),
        ] {
            let (earliest, latest) = (age_seconds(members, 0), age_seconds(members, u16::MAX));
            assert_eq!(earliest, mean - mean / 7);
            assert_eq!(latest, mean + mean / 7);
        }
    }

    #[test]
    fn two_devices_do_not_replace_their_leaves_at_one_moment() {
        // Two that differ by 1 in 65,536 are seconds apart, in the smallest group.
        let moments: BTreeSet<u64> = (0..=u16::MAX).map(|draw| age_seconds(2, draw)).collect();
        assert_eq!(moments.len(), 1 << 16);
        let apart: Vec<u64> = moments
            .iter()
            .zip(moments.iter().skip(1))
            .map(|(a, b)| b - a)
            .collect();
        assert!(apart.iter().all(|seconds| *seconds >= 2));
    }
}
