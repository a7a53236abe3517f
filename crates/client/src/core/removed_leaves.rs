//! The leaves that this device has seen removed from its groups. A server that was restored may bring them back.

use larder_judge::Leaf;
use larder_pool::Tx;
use openmls::prelude::{MlsGroup, StagedCommit};

use crate::error::Error;
use crate::types::GroupKey;

/// Takes note of whom a Commit removes and whom it brings, before it is merged. Whoever comes in by itself beside the others, and
/// was removed before, stays noted: no member has brought it.
pub(super) fn note(
    tx: &Tx<'_>,
    group: &GroupKey,
    state: &MlsGroup,
    staged: &StagedCommit,
) -> Result<(), Error> {
    for remove in staged.remove_proposals() {
        let index = remove.remove_proposal().removed();
        let removed = state.members().find(|member| member.index == index);
        if let Some(leaf) = removed.and_then(|member| Leaf::of_member(&member)) {
            execute(
                tx,
                "INSERT INTO removed_leaves (group_id, user, device_id, signature_key) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT DO NOTHING",
                group,
                &leaf,
            )?;
        }
    }
    let added = staged
        .add_proposals()
        .filter_map(|add| Leaf::of_node(add.add_proposal().key_package().leaf_node()));
    // An external Commit that removes a leaf puts another one of the same device in its place.
    let in_its_place = staged
        .remove_proposals()
        .next()
        .and_then(|_| staged.update_path_leaf_node());
    for leaf in added.chain(in_its_place.and_then(Leaf::of_node)) {
        execute(
            tx,
            "DELETE FROM removed_leaves
             WHERE group_id = ?1 AND user = ?2 AND device_id = ?3 AND signature_key = ?4",
            group,
            &leaf,
        )?;
    }
    Ok(())
}

/// Whether this device has seen a leaf removed, and not come again.
pub(super) fn was_removed(tx: &Tx<'_>, group: &GroupKey, leaf: &Leaf) -> Result<bool, Error> {
    Ok(tx
        .connection()
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM removed_leaves
             WHERE group_id = ?1 AND user = ?2 AND device_id = ?3 AND signature_key = ?4)",
        )?
        .query_row(params(group, leaf), |row| row.get(0))?)
}

fn execute(tx: &Tx<'_>, sql: &str, group: &GroupKey, leaf: &Leaf) -> Result<(), Error> {
    tx.connection()
        .prepare_cached(sql)?
        .execute(params(group, leaf))?;
    Ok(())
}

fn params<'a>(group: &'a GroupKey, leaf: &'a Leaf) -> (&'a [u8], &'a str, &'a str, &'a [u8]) {
    (
        group.as_bytes(),
        leaf.user.as_str(),
        leaf.device.as_str(),
        &leaf.signature_key,
    )
}
