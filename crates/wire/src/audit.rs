//! What the directory tells an owner about each of its KeyPackages, chained by hashes.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::bytes::{Base64Url, GroupId, KeyPackageRef};

/// Separates the chain's hashes from all others.
const AUDIT_DOMAIN: &[u8] = b"larder audit v1\0";
/// What the first row of a chain is hashed after.
const AUDIT_START: [u8; 32] = [0; 32];

/// `GET /v1/key-packages/audit`: a page of the caller's audit chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AuditPage {
    /// Changes when the server was restored from a backup: then it may have forgotten the end of the chain.
    pub incarnation: String,
    /// The end of the chain.
    pub head: AuditHead,
    /// Where the chain begins now, if rows after the one that was asked for were removed because of their age.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<AuditCheckpoint>,
    /// The rows after the one that was asked for, or after the checkpoint, in order.
    pub rows: Vec<AuditRow>,
}

/// How far an audit chain goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AuditHead {
    /// The number of the last row; 0 before the first.
    pub seq: u64,
    /// The hash of the last row; 32 zero bytes before the first.
    pub hash: Base64Url,
}

/// The last row of an audit chain that was removed because of its age: at least [`AUDIT_RETENTION_SECONDS_MIN`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AuditCheckpoint {
    /// The row's number.
    pub seq: u64,
    /// The row's hash: the next row is hashed after it.
    pub hash: Base64Url,
    /// A time that no removed row is later than, in Unix seconds.
    pub time: u64,
}

/// One thing that happened to a KeyPackage of the caller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AuditRow {
    /// Counts from 1, without a gap.
    pub seq: u64,
    /// When it happened, in Unix seconds.
    pub time: u64,
    /// The KeyPackage.
    #[serde(rename = "ref")]
    pub key_package_ref: KeyPackageRef,
    /// What happened.
    pub transition: AuditTransition,
    /// Who did it, as `user/device_id`; absent when the server did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// The group that it was done for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_id: Option<GroupId>,
    /// Hashes this row and, by the hash of the one before, all earlier ones.
    pub hash: Base64Url,
}

macro_rules! transitions {
    ($($(#[$doc:meta])* $variant:ident = $code:literal,)*) => {
        /// What can happen to a KeyPackage in the directory.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
        pub enum AuditTransition {
            $($(#[$doc])* #[serde(rename = $code)] $variant,)*
        }

        impl AuditTransition {
            /// Every transition.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The stable code, as it travels and as it is hashed.
            pub fn code(self) -> &'static str {
                match self {
                    $(Self::$variant => $code,)*
                }
            }
        }
    };
}

transitions! {
    /// Its owner uploaded it.
    Upload = "upload",
    /// It was handed out to `actor`, for `group_id`.
    Reserve = "reserve",
    /// A Commit of `actor` added it to `group_id`.
    Commit = "commit",
    /// `actor` gave the reservation up.
    Abandon = "abandon",
    /// No Commit came in time.
    Lapse = "lapse",
    /// Too little life was left to hand it out.
    Expire = "expire",
    /// Its owner withdrew it; without `actor`, the server did because it was restored from a backup.
    Revoke = "revoke",
    /// A newer last resort took its place.
    Retire = "retire",
    /// No Commit can add this last resort any more.
    Gone = "gone",
}

impl fmt::Display for AuditTransition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl AuditRow {
    /// The hash of this row after the one with the hash `previous`:
    /// `SHA-256("larder audit v1" 0x00 || previous || seq || time || ref || transition || actor || group_id)`, numbers as
    /// 64 bits big-endian, each of the last four with its length before it, an absent one empty.
    pub fn hash_after(&self, previous: &[u8]) -> [u8; 32] {
        let fields = [
            self.key_package_ref.as_bytes(),
            self.transition.code().as_bytes(),
            self.actor.as_deref().unwrap_or_default().as_bytes(),
            self.group_id.as_ref().map(GroupId::as_bytes).unwrap_or_default(),
        ];
        let mut hash = Sha256::new();
        hash.update(AUDIT_DOMAIN);
        hash.update(previous);
        hash.update(self.seq.to_be_bytes());
        hash.update(self.time.to_be_bytes());
        for field in fields {
            hash.update((field.len() as u64).to_be_bytes());
            hash.update(field);
        }
        hash.finalize().into()
    }
}

/// Follows an audit chain, row by row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditChain {
    seq: u64,
    hash: [u8; 32],
}

/// A server keeps the rows of an audit for this long at least, in seconds: 90 days.
pub const AUDIT_RETENTION_SECONDS_MIN: u64 = 90 * 24 * 60 * 60;

/// A row does not follow the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("row {expected} of the audit is missing or was changed")]
pub struct BrokenChain {
    /// The number of the row that should have come.
    pub expected: u64,
}

impl Default for AuditChain {
    fn default() -> Self {
        Self {
            seq: 0,
            hash: AUDIT_START,
        }
    }
}

impl AuditChain {
    /// The chain from a checkpoint on; `None` if that cannot be one.
    pub fn after(checkpoint: &AuditCheckpoint) -> Option<Self> {
        let hash = checkpoint.hash.0.as_slice().try_into().ok()?;
        (checkpoint.seq > 0).then_some(Self {
            seq: checkpoint.seq,
            hash,
        })
    }

    /// Takes the next row.
    ///
    /// # Errors
    /// [`BrokenChain`] when it is not the next row, or its hash is not that of its content after the row before.
    pub fn follow(&mut self, row: &AuditRow) -> Result<(), BrokenChain> {
        // Saturating: a checkpoint may name any number.
        let expected = self.seq.saturating_add(1);
        let hash = row.hash_after(&self.hash);
        if row.seq != expected || row.hash.0 != hash {
            return Err(BrokenChain { expected });
        }
        *self = Self { seq: expected, hash };
        Ok(())
    }

    /// The number of the last row.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// The hash of the last row.
    pub fn hash(&self) -> &[u8; 32] {
        &self.hash
    }

    /// Whether the chain ends here.
    pub fn ends_at(&self, head: &AuditHead) -> bool {
        self.seq == head.seq && self.hash[..] == head.hash.0
    }
}

/// What an audit tells of one KeyPackage: which of its transitions happened, and how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KeyPackageHistory {
    /// How often it was handed out: once at most, unless it is a last resort.
    pub reserved: u32,
    /// Reservations that are neither used nor given up.
    pub open: u32,
    /// Commits that added it.
    pub committed: u32,
    /// Whether a newer last resort took its place.
    pub retired: bool,
    /// The transition after which it is handed out no more, whoever asks, and no Commit can add it.
    pub ended: Option<AuditTransition>,
    /// Whether its first rows were removed because of their age: it may have been through more than is told.
    pub pruned: bool,
    uploaded: bool,
}

/// A transition that cannot happen after those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a KeyPackage cannot {0} after what happened to it before")]
pub struct ImpossibleTransition(pub AuditTransition);

impl KeyPackageHistory {
    /// The history of one whose first rows were removed because of their age.
    pub fn pruned() -> Self {
        Self {
            pruned: true,
            uploaded: true,
            ..Self::default()
        }
    }

    /// Takes the next transition.
    ///
    /// # Errors
    /// [`ImpossibleTransition`]; the history stays as it was.
    pub fn follow(&mut self, transition: AuditTransition) -> Result<(), ImpossibleTransition> {
        use AuditTransition as T;
        let live = self.uploaded && self.ended.is_none();
        // Whoever gave it up or used it had it: that row may be among those removed.
        let handed_out = self.open > 0 || self.pruned;
        let possible = match transition {
            T::Upload => !self.uploaded,
            T::Reserve => live && !self.retired,
            T::Commit => live && handed_out,
            // Also of a last resort that is gone: its reservations end in their own time.
            T::Abandon | T::Lapse => handed_out,
            T::Expire => live && self.reserved == 0,
            T::Revoke => live,
            T::Retire => live && !self.retired,
            T::Gone => live,
        };
        if !possible {
            return Err(ImpossibleTransition(transition));
        }
        match transition {
            T::Upload => self.uploaded = true,
            T::Reserve => {
                self.reserved += 1;
                self.open += 1;
            }
            T::Commit => {
                self.give_back();
                self.committed += 1;
            }
            T::Abandon | T::Lapse => self.give_back(),
            T::Retire => self.retired = true,
            T::Expire | T::Revoke | T::Gone => self.ended = Some(transition),
        }
        Ok(())
    }

    /// One reservation less is open; it may have been made by a row that was removed.
    fn give_back(&mut self) {
        match self.open {
            0 => self.reserved += 1,
            open => self.open = open - 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(seq: u64, transition: AuditTransition) -> AuditRow {
        AuditRow {
            seq,
            time: 1_800_000_000,
            key_package_ref: KeyPackageRef::from_bytes(&[7; 32]).unwrap(),
            transition,
            actor: Some("bob/bob-1".to_owned()),
            group_id: Some(GroupId::from_bytes(b"group").unwrap()),
            hash: Base64Url::default(),
        }
    }

    fn chain(transitions: &[AuditTransition]) -> Vec<AuditRow> {
        let mut previous = AUDIT_START;
        let numbered = (1..).zip(transitions);
        numbered
            .map(|(seq, transition)| {
                let mut row = row(seq, *transition);
                previous = row.hash_after(&previous);
                row.hash = Base64Url(previous.to_vec());
                row
            })
            .collect()
    }

    fn follows(rows: &[AuditRow]) -> Result<(), BrokenChain> {
        let mut chain = AuditChain::default();
        rows.iter().try_for_each(|row| chain.follow(row))
    }

    #[test]
    fn the_hash_is_of_the_documented_bytes() {
        let mut bytes = b"larder audit v1\0".to_vec();
        bytes.extend([0; 32]);
        bytes.extend(1_u64.to_be_bytes());
        bytes.extend(1_800_000_000_u64.to_be_bytes());
        for field in [&[7; 32][..], b"reserve", b"bob/bob-1", b"group"] {
            bytes.extend((field.len() as u64).to_be_bytes());
            bytes.extend(field);
        }
        let expected: [u8; 32] = Sha256::digest(&bytes).into();
        assert_eq!(row(1, AuditTransition::Reserve).hash_after(&[0; 32]), expected);
    }

    #[test]
    fn a_changed_dropped_or_moved_row_breaks_the_chain() {
        use AuditTransition::{Commit, Lapse, Reserve, Upload};
        let rows = chain(&[Upload, Reserve, Commit, Lapse]);
        assert_eq!(follows(&rows), Ok(()));
        let changes: [fn(&mut AuditRow); 6] = [
            |row| row.time += 1,
            |row| row.key_package_ref = KeyPackageRef::from_bytes(&[8; 32]).unwrap(),
            |row| row.transition = AuditTransition::Abandon,
            |row| row.actor = None,
            |row| row.group_id = None,
            |row| row.hash.0[0] ^= 1,
        ];
        for change in changes {
            let mut changed = rows.clone();
            change(&mut changed[1]);
            assert_eq!(follows(&changed), Err(BrokenChain { expected: 2 }));
        }
        let mut dropped = rows.clone();
        dropped.remove(1);
        assert_eq!(follows(&dropped), Err(BrokenChain { expected: 2 }));
        let mut moved = rows;
        moved.swap(1, 2);
        assert_eq!(follows(&moved), Err(BrokenChain { expected: 2 }));
    }

    #[test]
    fn a_chain_goes_on_from_a_checkpoint_as_from_the_row_itself() {
        use AuditTransition::{Commit, Lapse, Reserve, Upload};
        let rows = chain(&[Upload, Reserve, Commit, Lapse]);
        let at = |row: &AuditRow| AuditCheckpoint {
            seq: row.seq,
            hash: row.hash.clone(),
            time: row.time,
        };
        for (index, row) in rows.iter().enumerate() {
            let mut chain = AuditChain::after(&at(row)).unwrap();
            assert!(rows[index + 1..].iter().all(|row| chain.follow(row).is_ok()));
        }
        let mut chain = AuditChain::after(&at(&rows[0])).unwrap();
        assert_eq!(chain.follow(&rows[2]), Err(BrokenChain { expected: 2 }));
        let (seq, hash) = (u64::MAX, Base64Url(vec![0; 32]));
        let mut last = AuditChain::after(&AuditCheckpoint { seq, hash, time: 0 }).unwrap();
        assert_eq!(last.follow(&rows[0]), Err(BrokenChain { expected: u64::MAX }));
        for (seq, bytes) in [(0, 32), (1, 31), (1, 33)] {
            let hash = Base64Url(vec![0; bytes]);
            assert_eq!(AuditChain::after(&AuditCheckpoint { seq, hash, time: 0 }), None);
        }
    }

    #[test]
    fn a_history_whose_beginning_is_gone_takes_what_may_follow() {
        use AuditTransition as T;
        let after = |transitions: &[T]| {
            let mut history = KeyPackageHistory::pruned();
            let taken = transitions
                .iter()
                .try_for_each(|transition| history.follow(*transition));
            taken.map(|()| (history.reserved, history.open, history.committed))
        };
        assert_eq!(after(&[T::Commit]), Ok((1, 0, 1)));
        assert_eq!(after(&[T::Lapse]), Ok((1, 0, 0)));
        assert_eq!(after(&[T::Reserve, T::Commit]), Ok((1, 0, 1)));
        assert_eq!(after(&[T::Expire]), Ok((0, 0, 0)));
        assert!(after(&[T::Upload]).is_err());
        assert!(after(&[T::Commit, T::Expire]).is_err());
        assert!(after(&[T::Revoke, T::Commit]).is_err());
    }

    #[test]
    fn a_history_takes_only_what_can_happen_next() {
        use AuditTransition as T;
        let after = |transitions: &[T]| {
            let mut history = KeyPackageHistory::default();
            transitions
                .iter()
                .try_for_each(|transition| history.follow(*transition))
        };
        for possible in [
            &[T::Upload, T::Reserve, T::Commit][..],
            &[T::Upload, T::Reserve, T::Lapse],
            &[T::Upload, T::Expire],
            &[
                T::Upload,
                T::Reserve,
                T::Reserve,
                T::Retire,
                T::Commit,
                T::Gone,
                T::Lapse,
            ],
        ] {
            assert_eq!(after(possible), Ok(()));
        }
        for impossible in [
            &[T::Reserve][..],
            &[T::Upload, T::Upload],
            &[T::Upload, T::Commit],
            &[T::Upload, T::Reserve, T::Commit, T::Commit],
            &[T::Upload, T::Reserve, T::Expire],
            &[T::Upload, T::Revoke, T::Reserve],
            &[T::Upload, T::Retire, T::Reserve],
            &[T::Upload, T::Expire, T::Revoke],
        ] {
            assert!(after(impossible).is_err(), "{impossible:?}");
        }
    }
}
