use larder_judge::Entrance;
use larder_lifecycle::UnixSeconds;
use larder_wire::{Accepted, CommitCheck, KeyPackageRef, Problem, ProblemType};

use crate::delivery::judge::{JudgedCommit, Named};
use crate::delivery::offer::Offer;
use crate::directory;
use crate::error::{Fault, ServiceError};
use crate::store::{DeviceKey, DeviceRow, LogKind, NewRow, Part, Tx};

/// The Commit transaction: everything that a Commit does happens here, together, or not at all. `None` when the group's public
/// state is not the one any more that the Commit was judged against.
///
/// Whom it adds must be registered devices, their KeyPackages reserved by the caller for this group. The KeyPackages are
/// spent, the group moves on, the log has the Commit with its Welcome, and the roster follows.
pub(crate) fn commit(
    tx: &Tx<'_>,
    caller: &DeviceRow,
    offer: &Offer,
    judged: &JudgedCommit,
    now: UnixSeconds,
) -> Result<Option<Accepted>, ServiceError> {
    let group = &offer.group;
    let bytes = &offer.request.commit.0;
    let Some(appended) = tx.next_for_handshake(group, judged.state_seq, (true, bytes.len()))? else {
        return Ok(None);
    };
    let is_allowed = match judged.entrance {
        Some(_) => tx.is_member_user(group, caller.user_key())?,
        None => tx.is_member(group, caller.key)?,
    };
    if !is_allowed {
        return Err(ProblemType::NotFound.into());
    }
    let added = registered(tx, &judged.added)?;
    let names = judged.added.iter().map(|added| added.key_package_ref.clone());
    let key_packages: Vec<(DeviceKey, KeyPackageRef)> = added.iter().copied().zip(names).collect();
    tx.lock_devices(added.iter().copied())?;
    directory::spend(tx, &key_packages, caller, group, now)?;

    let row = NewRow {
        kind: LogKind::Commit,
        epoch: judged.epoch,
        sender: caller.key,
        sha256: &offer.sha256,
        transcript_hash: Some(&judged.transcript_hash),
        body: bytes,
    };
    tx.insert_rows(group, &[(appended.seq, row)], now)?;
    if let Some(welcome) = &offer.request.welcome {
        tx.insert_bodies(group, [(appended.seq, Part::Welcome, welcome.0.as_slice())])?;
    }
    tx.set_group_info(group, &offer.request.group_info.0)?;
    update_roster(tx, caller, offer, judged, (appended.seq, &added), now)?;
    tx.trim_handshakes(group, appended.handshake_bytes)?;
    tx.wake_group(group);
    Ok(Some(Accepted {
        epoch: appended.epoch,
        seq: appended.seq,
    }))
}

/// Reads ahead what [`commit`] asks for first.
pub(crate) fn commit_ahead(tx: &Tx<'_>, caller: &DeviceRow, offer: &Offer, judged: &JudgedCommit) {
    let size = offer.request.commit.0.len();
    tx.next_for_handshake_ahead(&offer.group, judged.state_seq, (true, size));
    if judged.entrance.is_none() {
        tx.is_member_ahead(&offer.group, caller.key);
    }
    tx.device_ids_ahead(judged.added.iter().map(|added| &added.device));
}

/// The registered devices of added leaves; a leaf that is not exactly that of a registered device is refused.
fn registered(tx: &Tx<'_>, added: &[Named]) -> Result<Vec<DeviceKey>, ServiceError> {
    let devices = tx.devices_by_id(added.iter().map(|added| &added.device))?;
    let devices = added.iter().zip(devices).map(|(added, device)| {
        device
            .filter(|device| device.user == added.user && device.signature_key == added.signature_key)
            .map(|device| device.key)
            .ok_or_else(|| Problem::commit(CommitCheck::Credential).into())
    });
    devices.collect()
}

fn update_roster(
    tx: &Tx<'_>,
    caller: &DeviceRow,
    offer: &Offer,
    judged: &JudgedCommit,
    (seq, added): (u64, &[DeviceKey]),
    now: UnixSeconds,
) -> Result<(), Fault> {
    let (group, new_epoch) = (&offer.group, judged.epoch + 1);
    let mut changed = false;
    if judged.entrance.is_none() {
        let devices = tx.devices_by_id(judged.removed.iter().map(|(_, device_id)| device_id))?;
        let devices = judged.removed.iter().zip(devices);
        // A device that is gone from the accounts has left the roster already.
        let known = devices.filter_map(|((user, _), device)| device.filter(|device| device.user == *user));
        let removed: Vec<DeviceKey> = known.map(|device| device.key).collect();
        tx.end_intervals(group, &removed, seq)?;
        changed |= !judged.removed.is_empty();
    }
    tx.begin_by_welcome(group, added, (seq, new_epoch))?;
    changed |= !added.is_empty();
    match &judged.entrance {
        Some(Entrance::Back(_) | Entrance::Beside(_)) => {
            if !tx.raise_interval(group, caller.key, new_epoch)? {
                tx.begin_interval(group, caller.key, (seq, new_epoch))?;
            }
            changed = true;
        }
        None => {}
    }
    if changed {
        tx.note_roster_change(group, now)?;
    }
    Ok(())
}
