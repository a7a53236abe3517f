//! Which users a person has verified, by comparing keys with them, and what follows when their keys change.

use std::collections::BTreeSet;

use larder_judge::Leaf;
use larder_pool::Tx;
use larder_wire::{DeviceId, DeviceInfo, UserName};
use openmls::prelude::{MlsGroup, OpenMlsProvider};
use rusqlite::{Connection, named_params};

use crate::core::chain::{self, Judged};
use crate::core::devices::{self, Listed, groups_with, learn_devices, tell};
use crate::core::members::fingerprint;
use crate::core::mls;
use crate::core::peers::{self, Peer, Standing};
use crate::core::profile::Context;
use crate::core::safety_number::{Fingerprint, code, number};
use crate::core::schema::corrupt;
use crate::error::{Error, NotTheServer};
use crate::types::GroupKey;
use crate::verification::{NewIdentity, SafetyDevice, SafetyNumber, Verification};

/// Names the notice about a device of a verified user in a group's history, so that each is there once.
const NOTICE_CHANGED: &str = "verification-changed";

/// A user's devices with their signature keys.
pub(crate) type Keys = BTreeSet<(DeviceId, Vec<u8>)>;

/// The devices that are a user's, as this one judges. Of its own user it is one itself.
fn present(tx: &Tx<'_>, context: &Context, user: &UserName) -> Result<Keys, Error> {
    let mut keys: Keys = peers::of_user(tx.connection(), user)?
        .into_iter()
        .filter(|peer| match peer.standing {
            // It stays in its groups, so its key is one to be compared.
            Standing::Authorized | Standing::SaidRemoved => true,
            Standing::Seen | Standing::Removed | Standing::Unauthorized => false,
        })
        .map(|peer| (peer.device_id, peer.signature_key))
        .collect();
    let me = &context.identity.me;
    if *user == me.user {
        keys.insert((me.device_id.clone(), context.identity.mls.public().to_vec()));
    }
    Ok(keys)
}

/// What a user's devices and keys were when they were verified; `None` for a user who is not.
fn verified(connection: &Connection, user: &UserName) -> Result<Option<Keys>, Error> {
    let mut statement =
        connection.prepare_cached("SELECT device_id, signature_key FROM verified_keys WHERE user = ?1")?;
    let rows = statement.query_map([user.as_str()], |row| {
        Ok((row.get::<_, String>(0)?, row.get::<_, Vec<u8>>(1)?))
    })?;
    let keys = rows
        .map(|row| {
            let (device, key) = row?;
            Ok((corrupt(device.parse().ok(), "device id")?, key))
        })
        .collect::<Result<Keys, Error>>()?;
    Ok((!keys.is_empty()).then_some(keys))
}

/// What this device knows of a user's keys that was not verified: new devices of theirs, and leaves in groups that are not
/// known to be theirs. That a device is gone is no change: the others were verified.
fn changed(tx: &Tx<'_>, user: &UserName, verified: &Keys) -> Result<Vec<Peer>, Error> {
    let mut others = peers::of_user(tx.connection(), user)?;
    others.retain(|peer| {
        let known = (peer.device_id.clone(), peer.signature_key.clone());
        peer.standing != Standing::Removed && !verified.contains(&known)
    });
    if others.iter().any(|peer| peer.standing == Standing::Unauthorized) {
        let shared = groups_with(tx, user)?;
        let is_leaf = |device: &DeviceId| {
            let mut leaves = shared.iter().flat_map(|(_, leaves)| leaves);
            leaves.any(|leaf| leaf.device == *device)
        };
        others.retain(|peer| peer.standing != Standing::Unauthorized || is_leaf(&peer.device_id));
    }
    Ok(others)
}

/// Whether a user is verified.
pub(crate) fn verification(tx: &Tx<'_>, user: &UserName) -> Result<Verification, Error> {
    let Some(verified) = verified(tx.connection(), user)? else {
        return Ok(Verification::Unverified);
    };
    Ok(match changed(tx, user, &verified)?.is_empty() {
        true => Verification::Verified,
        false => Verification::Changed,
    })
}

/// The users who were verified and have other keys now, by name.
pub(crate) fn changed_users(tx: &Tx<'_>) -> Result<Vec<UserName>, Error> {
    let mut query = tx
        .connection()
        .prepare_cached("SELECT DISTINCT user FROM verified_keys ORDER BY user")?;
    let users: Vec<String> = query.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    let mut changed_users = Vec::new();
    for user in users {
        let user: UserName = corrupt(user.parse().ok(), "user")?;
        if verification(tx, &user)? == Verification::Changed {
            changed_users.push(user);
        }
    }
    Ok(changed_users)
}

/// The same of a member of a group, whose leaf may have another key than the user's devices.
pub(super) fn of_leaf(
    tx: &Tx<'_>,
    user: &UserName,
    device: &DeviceId,
    signature_key: &[u8],
) -> Result<Verification, Error> {
    match verified(tx.connection(), user)? {
        None => Ok(Verification::Unverified),
        Some(keys) if keys.contains(&(device.clone(), signature_key.to_vec())) => verification(tx, user),
        Some(_) => Ok(Verification::Changed),
    }
}

/// Whether anybody is verified.
fn anybody(connection: &Connection) -> Result<bool, Error> {
    Ok(connection
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM verified_keys)")?
        .query_row([], |row| row.get(0))?)
}

/// A verified member of the group whose keys have changed.
pub(super) fn changed_member(tx: &Tx<'_>, group: &MlsGroup) -> Result<Option<UserName>, Error> {
    if !anybody(tx.connection())? {
        return Ok(None);
    }
    for member in group.members() {
        if let Some((user, device)) = mls::who(&member.credential)
            && has_changed(tx, &user, &device, &member.signature_key)?
        {
            return Ok(Some(user));
        }
    }
    Ok(None)
}

/// Whether a leaf is of a user who was verified and has other keys now.
pub(super) fn has_changed(
    tx: &Tx<'_>,
    user: &UserName,
    device: &DeviceId,
    signature_key: &[u8],
) -> Result<bool, Error> {
    Ok(of_leaf(tx, user, device, signature_key)? == Verification::Changed)
}

/// Remembers that the person has compared these keys of a user, or that a user is not verified any more.
pub(crate) fn set_verified(
    tx: &Tx<'_>,
    context: &Context,
    user: &UserName,
    keys: Option<&Keys>,
) -> Result<(), Error> {
    let connection = tx.connection();
    connection.execute("DELETE FROM verified_keys WHERE user = ?1", [user.as_str()])?;
    for (device, key) in keys.into_iter().flatten() {
        connection.execute(
            "INSERT INTO verified_keys (user, device_id, signature_key, verified_at)
             VALUES (:user, :device, :key, :now)",
            named_params! {
                ":user": user.as_str(),
                ":device": device.as_str(),
                ":key": key,
                ":now": context.now().0.cast_signed(),
            },
        )?;
    }
    Ok(())
}

/// What this device shows of itself and of a user to be compared, and which keys that stands for.
pub(crate) fn safety_number(
    tx: &Tx<'_>,
    context: &Context,
    user: &UserName,
) -> Result<(SafetyNumber, Keys), Error> {
    let theirs = known_keys(tx, context, user)?;
    Ok((number_of(tx, context, user, &theirs)?, theirs))
}

/// What this device shows of itself and of a user with these keys.
fn number_of(tx: &Tx<'_>, context: &Context, user: &UserName, theirs: &Keys) -> Result<SafetyNumber, Error> {
    let (my_fingerprint, fingerprint_of_user) = fingerprints(tx, context, user, theirs)?;
    let verified = verified(tx.connection(), user)?;
    let devices = theirs
        .iter()
        .map(|(device, key)| SafetyDevice {
            device_id: device.clone(),
            signature_key_fingerprint: fingerprint(key),
            is_new: verified
                .as_ref()
                .is_some_and(|verified| !verified.contains(&(device.clone(), key.clone()))),
        })
        .collect();
    Ok(SafetyNumber {
        number: number(&my_fingerprint, &fingerprint_of_user),
        qr: code(&my_fingerprint, &fingerprint_of_user).into_bytes(),
        qr_of_user: code(&fingerprint_of_user, &my_fingerprint).into_bytes(),
        verification: verification(tx, user)?,
        devices,
        other_identity: peers::is_distrusted(tx.connection(), user)?,
    })
}

/// A list of a user's devices that contradicts what is known of them, as it was shown to be compared.
pub(crate) struct Offered {
    devices: Vec<DeviceInfo>,
    keys: Keys,
}

/// What a user's devices would be if nothing were known of them, beside what is known.
pub(crate) fn new_identity(
    tx: &Tx<'_>,
    context: &Context,
    user: &UserName,
    listed: Listed,
) -> Result<(NewIdentity, Offered), Error> {
    if learn_devices(tx, context, user, &listed)? {
        return Err(Error::NoOtherIdentity { user: user.clone() });
    }
    let devices = listed.into_devices();
    let server = (context.identity.me.server_name.as_str(), user);
    // What was too long, or contradicts itself, has nothing to be shown.
    let entries = chain::verify(tx.provider().crypto(), server, &devices, &[])
        .map_err(|_| NotTheServer::ForgedDevices)?;
    let theirs = devices
        .iter()
        .zip(entries)
        .filter(|(_, entry)| match entry.judged {
            Judged::Theirs | Judged::SaidRemoved => true,
            Judged::Removed | Judged::NotTheirs => false,
        });
    let keys: Keys = theirs
        .map(|(device, _)| (device.device_id.clone(), device.mls_signature_key.0.clone()))
        .collect();
    if keys.is_empty() {
        return Err(NotTheServer::ForgedDevices.into());
    }
    let known = match present(tx, context, user)? {
        known if known.is_empty() => None,
        known => Some(number_of(tx, context, user, &known)?),
    };
    let new = number_of(tx, context, user, &keys)?;
    Ok((NewIdentity { known, new }, Offered { devices, keys }))
}

/// The person has compared what was [offered](new_identity): it takes the place of all that was known of the user, and counts as
/// verified. In groups that have a leaf of what was given up the keys are other ones than those.
pub(crate) fn take_new_identity(
    tx: &Tx<'_>,
    context: &Context,
    user: &UserName,
    offered: Offered,
) -> Result<(), Error> {
    let Offered { devices, keys } = offered;
    set_verified(tx, context, user, None)?;
    peers::give_up(tx.connection(), user)?;
    for (group, leaves) in groups_with(tx, user)? {
        let given_up = leaves
            .iter()
            .map(|leaf| &leaf.device)
            .filter(|leaf| keys.iter().all(|(device, _)| device != *leaf));
        for device in given_up {
            let text = format!(
                "the device {} is of the identity of {user} that you have given up: nothing is sent here until {user} is \
                 removed, and can be invited again",
                devices::short(device)
            );
            tell(tx, context, &group, (user, device), NOTICE_CHANGED, &text)?;
        }
    }
    if !learn_devices(tx, context, user, &Listed::Given(devices))? {
        return Err(Error::Corrupt("a list of devices that was shown"));
    }
    set_verified(tx, context, user, Some(&keys))
}

/// The keys of a user with at least one device.
pub(crate) fn known_keys(tx: &Tx<'_>, context: &Context, user: &UserName) -> Result<Keys, Error> {
    let keys = present(tx, context, user)?;
    match keys.is_empty() {
        true => Err(Error::UnknownUser(user.clone())),
        false => Ok(keys),
    }
}

/// Of this user and of another.
fn fingerprints(
    tx: &Tx<'_>,
    context: &Context,
    user: &UserName,
    theirs: &Keys,
) -> Result<(Fingerprint, Fingerprint), Error> {
    let me = &context.identity.me.user;
    let mine = present(tx, context, me)?;
    let of = |user, keys: &Keys| Fingerprint::of(user, keys.iter().map(|(_, key)| key.as_slice()));
    Ok((of(me, &mine), of(user, theirs)))
}

/// Warns in every group that a verified user is in of what was not verified, once of each device.
pub(super) fn warn(
    tx: &Tx<'_>,
    context: &Context,
    user: &UserName,
    shared: &[(GroupKey, Vec<Leaf>)],
) -> Result<(), Error> {
    let Some(verified) = verified(tx.connection(), user)? else {
        return Ok(());
    };
    for Peer { device_id, .. } in changed(tx, user, &verified)? {
        let text = format!(
            "WARNING: {user}, whom you have verified, has a device {} that you have not: nothing is sent here until you have \
             verified {user} again, or no longer count {user} as verified",
            devices::short(&device_id)
        );
        for (group, _) in shared {
            tell(tx, context, group, (user, &device_id), NOTICE_CHANGED, &text)?;
        }
    }
    Ok(())
}
