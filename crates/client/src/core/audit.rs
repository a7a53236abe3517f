//! Whether what the directory tells of this device's KeyPackages holds together, and agrees with what is known here.

use std::collections::BTreeMap;

use larder_lifecycle::{CLOCK_APART_SECONDS_MAX, INBOX_RETENTION_SECONDS, Kind, UnixSeconds};
use larder_pool::Tx;
use larder_wire::{
    AUDIT_RETENTION_SECONDS_MIN, AuditChain, AuditCheckpoint, AuditHead, AuditRow, AuditTransition,
    Base64Url, KeyPackageHistory, KeyPackageRef,
};
use rusqlite::OptionalExtension;

use crate::audited::{AuditFlaw, Audited, Pruned};
use crate::core::groups;
use crate::core::profile::Context;
use crate::error::Error;
use crate::types::GroupKey;

/// Clocks of server and device may be this far apart before what was forgotten here looks like what was never here, in
/// seconds: one day.
const CLOCKS_APART_SECONDS: u64 = 24 * 60 * 60;

/// A server may have removed what happened this long ago, in seconds, by its clock and by this one, which may be a day apart
/// when it happened and when it was removed.
const PRUNED_SECONDS: u64 = AUDIT_RETENTION_SECONDS_MIN - 2 * CLOCK_APART_SECONDS_MAX;

/// An audit chain as the server told it.
pub(crate) struct Told {
    pub(crate) incarnation: String,
    pub(crate) head: AuditHead,
    /// Where it begins, if its beginning was removed.
    pub(crate) checkpoint: Option<AuditCheckpoint>,
    pub(crate) rows: Vec<AuditRow>,
}

/// A KeyPackage that joined a group: an invitation that the audit has to tell of.
pub(crate) struct Joining {
    key_package_ref: KeyPackageRef,
    group: GroupKey,
    joined_at: Option<UnixSeconds>,
}

/// All of them.
pub(crate) type Joined = Vec<Joining>;

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
            joined.push(Joining {
                key_package_ref: wire_ref(&known.key_package_ref)?,
                group,
                joined_at: known.ended_at,
            });
        }
    }
    Ok(joined)
}

/// Verifies a chain from its beginning or its checkpoint, holds it against what this device saw earlier and what it knows of its pool, and
/// remembers how far it goes.
pub(crate) fn judge(tx: &Tx<'_>, context: &Context, told: Told, joined: &Joined) -> Result<Audited, Error> {
    let seen = seen(tx)?;
    let same_server = seen
        .as_ref()
        .is_none_or(|seen| seen.incarnation == told.incarnation);
    let led_through = seen.as_ref().is_none_or(|seen| told.leads_through(seen));
    let flaw = hidden(&told, seen.as_ref(), context)
        .or_else(|| broken(&told, seen.as_ref().filter(|_| same_server)));
    let flaw = match flaw {
        Some(flaw) => Some(flaw),
        None => contradicts(tx, context, &told, joined)?,
    };
    if flaw.is_none() {
        remember(tx, &told, context)?;
    }
    let pruned = told.checkpoint.as_ref().map(|checkpoint| Pruned {
        through: checkpoint.seq,
        unverifiable_after: seen
            .map(|seen| seen.seq)
            .filter(|seen| *seen > 0 && *seen < checkpoint.seq),
    });
    Ok(Audited {
        rows: told.rows,
        pruned,
        restored: !same_server && !led_through,
        flaw,
    })
}

/// How far an earlier chain was verified.
struct Seen {
    incarnation: String,
    seq: u64,
    hash: Vec<u8>,
    verified_at: UnixSeconds,
}

impl Told {
    fn leads_through(&self, seen: &Seen) -> bool {
        // What was removed may have led through it.
        let begins = self.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.seq);
        seen.seq == 0
            || seen.seq < begins
            || self
                .links()
                .any(|(seq, hash)| seq == seen.seq && *hash == seen.hash)
    }

    /// The numbers and hashes of the checkpoint and the rows.
    fn links(&self) -> impl Iterator<Item = (u64, &Vec<u8>)> {
        let checkpoint = self.checkpoint.iter().map(|begin| (begin.seq, &begin.hash.0));
        checkpoint.chain(self.rows.iter().map(|row| (row.seq, &row.hash.0)))
    }
}

/// Whether rows were removed that cannot be old enough: the last is too young by what the server says of it, or there was nothing
/// after the row that was seen when it was seen. It does not matter whether the server was restored since: what it has forgotten
/// by that has no later numbers.
fn hidden(told: &Told, seen: Option<&Seen>, context: &Context) -> Option<AuditFlaw> {
    let checkpoint = told.checkpoint.as_ref()?;
    let clocks = context.server_clock.clocks();
    // With clocks like that nobody knows how old anything is, and the person is told so.
    if clocks.are_too_far_apart() {
        return None;
    }
    let old_enough = clocks.here.minus(PRUNED_SECONDS);
    let unseen = seen.filter(|seen| seen.seq < checkpoint.seq);
    let too_young =
        checkpoint.time > old_enough.0 || unseen.is_some_and(|seen| seen.verified_at > old_enough);
    too_young.then_some(AuditFlaw::Hidden {
        through: checkpoint.seq,
    })
}

/// The first place where the chain does not hold, or is not the one that was seen before.
fn broken(told: &Told, seen: Option<&Seen>) -> Option<AuditFlaw> {
    let mut chain = match &told.checkpoint {
        None => AuditChain::default(),
        Some(checkpoint) => match AuditChain::after(checkpoint) {
            Some(chain) => chain,
            None => return Some(AuditFlaw::Broken { seq: checkpoint.seq }),
        },
    };
    let another = |chain: &AuditChain| {
        let seen = seen.filter(|seen| seen.seq == chain.seq() && seen.seq > 0)?;
        (seen.hash != chain.hash()).then_some(AuditFlaw::Rewritten { seen: seen.seq })
    };
    if let Some(flaw) = another(&chain) {
        return Some(flaw);
    }
    for row in &told.rows {
        if let Err(broken) = chain.follow(row) {
            return Some(AuditFlaw::Broken { seq: broken.expected });
        }
        if let Some(flaw) = another(&chain) {
            return Some(flaw);
        }
    }
    if let Some(seen) = seen.filter(|seen| chain.seq() < seen.seq) {
        return Some(AuditFlaw::Shortened {
            seen: seen.seq,
            now: chain.seq(),
        });
    }
    (!chain.ends_at(&told.head)).then_some(AuditFlaw::Broken {
        seq: chain.seq().saturating_add(1),
    })
}

/// The first row that cannot be, by what came before or by what is known here.
fn contradicts(
    tx: &Tx<'_>,
    context: &Context,
    told: &Told,
    joined: &Joined,
) -> Result<Option<AuditFlaw>, Error> {
    let mut kinds = BTreeMap::new();
    for known in context.pool.known(tx)? {
        kinds.insert(wire_ref(&known.key_package_ref)?, known.kind);
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
        let begins = told.checkpoint.is_none() || row.transition == AuditTransition::Upload;
        let history = histories.entry(key_package_ref).or_insert_with(|| match begins {
            true => KeyPackageHistory::default(),
            false => KeyPackageHistory::pruned(),
        });
        if history.follow(row.transition).is_err() {
            return Ok(Some(AuditFlaw::Impossible { seq }));
        }
        let known = kinds.get(key_package_ref);
        if known == Some(&Kind::SingleUse) && history.reserved > 1 {
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
    let tells_of = |joining: &Joining| {
        told.rows.iter().any(|row| {
            row.transition == AuditTransition::Commit
                && row.key_package_ref == joining.key_package_ref
                && row.group_id.as_ref() == Some(&joining.group)
        })
    };
    // An invitation may have waited for as long as an inbox is kept before it was accepted.
    let may_be_gone = |joining: &Joining| {
        told.checkpoint.as_ref().is_some_and(|checkpoint| {
            let invited =
                |joined: UnixSeconds| joined.minus(INBOX_RETENTION_SECONDS + 2 * CLOCK_APART_SECONDS_MAX);
            joining
                .joined_at
                .is_none_or(|joined| invited(joined).0 <= checkpoint.time)
        })
    };
    let untold = joined
        .iter()
        .find(|joining| !tells_of(joining) && !may_be_gone(joining));
    Ok(untold.map(|joining| AuditFlaw::Untold {
        key_package_ref: joining.key_package_ref.clone(),
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
        .query_row(
            "SELECT incarnation, seq, hash, verified_at FROM audit_head",
            [],
            |row| {
                Ok(Seen {
                    incarnation: row.get(0)?,
                    seq: row.get::<_, i64>(1)?.cast_unsigned(),
                    hash: row.get(2)?,
                    verified_at: UnixSeconds(row.get::<_, i64>(3)?.cast_unsigned()),
                })
            },
        )
        .optional()?)
}

/// There is nothing yet to be told of a device that is only now registered, by whatever incarnation of the server.
pub(super) fn begin(tx: &Tx<'_>, context: &Context) -> Result<(), Error> {
    tx.connection().execute(
        "INSERT INTO audit_head (id, incarnation, seq, hash, verified_at) VALUES (1, '', 0, zeroblob(32), ?1)
         ON CONFLICT DO NOTHING",
        [verified_at(context)],
    )?;
    Ok(())
}

fn remember(tx: &Tx<'_>, told: &Told, context: &Context) -> Result<(), Error> {
    let Told {
        incarnation,
        head: AuditHead {
            seq,
            hash: Base64Url(hash),
        },
        ..
    } = told;
    tx.connection().execute(
        "INSERT INTO audit_head (id, incarnation, seq, hash, verified_at) VALUES (1, ?1, ?2, ?3, ?4)
         ON CONFLICT (id) DO UPDATE SET incarnation = excluded.incarnation, seq = excluded.seq, hash = excluded.hash,
             verified_at = excluded.verified_at",
        (incarnation, seq.cast_signed(), hash, verified_at(context)),
    )?;
    Ok(())
}

/// The time by the clock that is behind the other: nothing is found to be hidden because one of them was ahead.
fn verified_at(context: &Context) -> i64 {
    let clocks = context.server_clock.clocks();
    clocks.here.min(clocks.there).0.cast_signed()
}

fn wire_ref(key_package_ref: &larder_pool::KeyPackageRef) -> Result<KeyPackageRef, Error> {
    KeyPackageRef::from_bytes(key_package_ref.as_slice()).map_err(|_| Error::Corrupt("KeyPackageRef"))
}
