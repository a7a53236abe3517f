//! Whether what the directory tells of this device's KeyPackages holds together, and agrees with what is known here.

use std::collections::BTreeMap;

use larder_pool::Tx;
use larder_wire::{
    AuditChain, AuditHead, AuditRow, AuditTransition, Base64Url, KeyPackageHistory, KeyPackageRef,
};
use rusqlite::OptionalExtension;

use crate::audited::{AuditFlaw, Audited};
use crate::core::groups;
use crate::core::profile::Context;
use crate::error::Error;
use crate::types::GroupKey;

/// Clocks of server and device may be this far apart before what was forgotten here looks like what was never here, in
/// seconds: one day.
const CLOCKS_APART_SECONDS: u64 = 24 * 60 * 60;

/// An audit chain as the server told it.
pub(crate) struct Told {
    pub(crate) incarnation: String,
    pub(crate) head: AuditHead,
    pub(crate) rows: Vec<AuditRow>,
}

/// KeyPackages that joined a group: an invitation that the audit has to tell of.
pub(crate) type Joined = Vec<(KeyPackageRef, GroupKey)>;

/// The invitations that were accepted here. Taken before the audit is fetched: the server has told of all of them by then.
pub(crate) fn joined(tx: &Tx<'_>, context: &Context) -> Result<Joined, Error> {
    let mut joined = Vec::new();
    for known in context.pool.known(tx)? {
        // The group of a KeyPackage that came from an older pool may have been another directory's.
        let Some(group) = known
            .joined
            .and_then(|id| GroupKey::from_bytes(id.as_slice()).ok())
        else {
            continue;
        };
        if groups::find(tx.connection(), &group)?.is_some() {
            joined.push((wire_ref(&known.key_package_ref)?, group));
        }
    }
    Ok(joined)
}

/// Verifies a chain from its beginning, holds it against what this device saw earlier and what it knows of its pool, and
/// remembers how far it goes.
pub(crate) fn judge(tx: &Tx<'_>, context: &Context, told: Told, joined: &Joined) -> Result<Audited, Error> {
    let seen = seen(tx)?;
    let same_server = seen
        .as_ref()
        .is_none_or(|seen| seen.incarnation == told.incarnation);
    let led_through = seen.as_ref().is_none_or(|seen| told.leads_through(seen));
    let flaw = match broken(&told, seen.as_ref().filter(|_| same_server)) {
        Some(flaw) => Some(flaw),
        None => contradicts(tx, context, &told, joined)?,
    };
    if flaw.is_none() {
        remember(tx, &told)?;
    }
    Ok(Audited {
        rows: told.rows,
        restored: !same_server && !led_through,
        flaw,
    })
}

/// How far an earlier chain was verified.
struct Seen {
    incarnation: String,
    seq: u64,
    hash: Vec<u8>,
}

impl Told {
    fn leads_through(&self, seen: &Seen) -> bool {
        seen.seq == 0
            || self
                .rows
                .iter()
                .any(|row| row.seq == seen.seq && row.hash.0 == seen.hash)
    }
}

/// The first place where the chain does not hold, or is not the one that was seen before.
fn broken(told: &Told, seen: Option<&Seen>) -> Option<AuditFlaw> {
    let mut chain = AuditChain::default();
    for row in &told.rows {
        if let Err(broken) = chain.follow(row) {
            return Some(AuditFlaw::Broken { seq: broken.expected });
        }
        if let Some(seen) = seen.filter(|seen| seen.seq == row.seq && seen.hash != row.hash.0) {
            return Some(AuditFlaw::Rewritten { seen: seen.seq });
        }
    }
    if let Some(seen) = seen.filter(|seen| chain.seq() < seen.seq) {
        return Some(AuditFlaw::Shortened {
            seen: seen.seq,
            now: chain.seq(),
        });
    }
    (!chain.ends_at(&told.head)).then_some(AuditFlaw::Broken { seq: chain.seq() + 1 })
}

/// The first row that cannot be, by what came before or by what is known here.
fn contradicts(
    tx: &Tx<'_>,
    context: &Context,
    told: &Told,
    joined: &Joined,
) -> Result<Option<AuditFlaw>, Error> {
    let mut is_last_resort = BTreeMap::new();
    for known in context.pool.known(tx)? {
        is_last_resort.insert(wire_ref(&known.key_package_ref)?, known.last_resort);
    }
    let me = context.identity.me.credential_text();
    // What ended longer ago may be forgotten here.
    let forgotten = context
        .server_now()
        .plus(CLOCKS_APART_SECONDS)
        .minus(context.policy.tombstone_seconds);
    let was_a_copy: bool =
        tx.connection()
            .query_row("SELECT restored_at IS NOT NULL FROM profile", [], |row| {
                row.get(0)
            })?;
    let mut histories: BTreeMap<&KeyPackageRef, KeyPackageHistory> = BTreeMap::new();
    for row in &told.rows {
        let (seq, key_package_ref) = (row.seq, &row.key_package_ref);
        let history = histories.entry(key_package_ref).or_default();
        if history.follow(row.transition).is_err() {
            return Ok(Some(AuditFlaw::Impossible { seq }));
        }
        let known = is_last_resort.get(key_package_ref);
        if known == Some(&false) && history.reserved > 1 {
            return Ok(Some(AuditFlaw::HandedOutTwice { seq }));
        }
        if row.transition == AuditTransition::Upload {
            let never_here = known.is_none() && !was_a_copy && row.time >= forgotten.0;
            if never_here || row.actor.as_deref() != Some(&me) {
                return Ok(Some(AuditFlaw::NotOurs { seq }));
            }
        }
    }
    if server_was_restored(tx)? {
        // It may have forgotten any of them.
        return Ok(None);
    }
    let tells_of = |(key_package_ref, group): &&(KeyPackageRef, GroupKey)| {
        told.rows.iter().any(|row| {
            row.transition == AuditTransition::Commit
                && row.key_package_ref == *key_package_ref
                && row.group_id.as_ref() == Some(group)
        })
    };
    let untold = joined.iter().find(|joined| !tells_of(joined));
    Ok(untold.map(|(key_package_ref, _)| AuditFlaw::Untold {
        key_package_ref: key_package_ref.clone(),
    }))
}

fn server_was_restored(tx: &Tx<'_>) -> Result<bool, Error> {
    Ok(tx
        .connection()
        .query_row("SELECT server_restored_at IS NOT NULL FROM profile", [], |row| {
            row.get(0)
        })?)
}

fn seen(tx: &Tx<'_>) -> Result<Option<Seen>, Error> {
    Ok(tx
        .connection()
        .query_row("SELECT incarnation, seq, hash FROM audit_head", [], |row| {
            Ok(Seen {
                incarnation: row.get(0)?,
                seq: row.get::<_, i64>(1)?.cast_unsigned(),
                hash: row.get(2)?,
            })
        })
        .optional()?)
}

fn remember(tx: &Tx<'_>, told: &Told) -> Result<(), Error> {
    let Told {
        incarnation,
        head: AuditHead {
            seq,
            hash: Base64Url(hash),
        },
        ..
    } = told;
    tx.connection().execute(
        "INSERT INTO audit_head (id, incarnation, seq, hash) VALUES (1, ?1, ?2, ?3)
         ON CONFLICT (id) DO UPDATE SET incarnation = excluded.incarnation, seq = excluded.seq, hash = excluded.hash",
        (incarnation, seq.cast_signed(), hash),
    )?;
    Ok(())
}

fn wire_ref(key_package_ref: &larder_pool::KeyPackageRef) -> Result<KeyPackageRef, Error> {
    KeyPackageRef::from_bytes(key_package_ref.as_slice()).map_err(|_| Error::Corrupt("KeyPackageRef"))
}
