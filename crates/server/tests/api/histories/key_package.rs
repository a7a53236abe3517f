//! What one ordinary KeyPackage does when everybody waits for their turn (S1, S2, S3, S8).

use larder_wire::{AuditTransition, GroupId, KeyPackageState};

use super::checker::{History, Specification};

/// A device, as a credential identifies it.
pub(super) type Identity = String;

/// A row of the audit, without its number, time and hash.
pub(super) type AuditEntry = (AuditTransition, Option<Identity>, Option<GroupId>);

#[derive(Debug, Clone)]
pub(super) enum Op {
    /// The owner uploads it, perhaps again.
    Upload,
    /// A device reserves for a group and is given it.
    Reserve {
        by: Identity,
        group: GroupId,
        /// The idempotency key.
        key: String,
    },
    /// A Commit adds it, and is for the right epoch.
    Commit {
        by: Identity,
        group: GroupId,
        /// Tells a Commit that is sent again from another one.
        sha256: Vec<u8>,
    },
    /// A device says that another delivery service carried a Commit that adds it.
    Spend { by: Identity, group: GroupId },
    /// The reservation on it is given up.
    Abandon { by: Identity },
    /// The owner withdraws it.
    Revoke,
    /// The sweeper runs, until `now` at the latest. It passes by what somebody else is changing, unless `alone`.
    Sweep { now: u64, alone: bool },
    /// The owner reads its state.
    Read,
    /// The owner reads its audit.
    Audit,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// These bytes, until then.
    Given {
        bytes: Vec<u8>,
        until: u64,
    },
    Done,
    AlreadySpent,
    ReservationLapsed,
    NotFound,
    /// Whether it is withdrawn now.
    Revoked(bool),
    State(KeyPackageState),
    Audit(Vec<AuditEntry>),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Disclosed {
    by: Identity,
    group: GroupId,
    key: String,
    /// Known as soon as an answer was seen.
    until: Option<u64>,
}

/// One KeyPackage. Written down independently of the transition function that the server uses.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct KeyPackage {
    owner: Identity,
    bytes: Vec<u8>,
    /// None before the upload.
    state: Option<KeyPackageState>,
    disclosed: Option<Disclosed>,
    /// The Commit that added it, if it came this way.
    commit: Option<Vec<u8>>,
    audit: Vec<AuditEntry>,
}

impl KeyPackage {
    /// A KeyPackage that only its owner knows.
    pub(super) fn unknown(owner: Identity, bytes: Vec<u8>) -> Self {
        Self {
            owner,
            bytes,
            state: None,
            disclosed: None,
            commit: None,
            audit: Vec::new(),
        }
    }

    fn moved(
        &self,
        state: KeyPackageState,
        why: AuditTransition,
        by: Option<&Identity>,
        group: Option<&GroupId>,
    ) -> Self {
        let mut next = self.clone();
        next.state = Some(state);
        next.audit.push((why, by.cloned(), group.cloned()));
        next
    }

    fn is_held_by(&self, device: &Identity, for_group: &GroupId) -> bool {
        self.disclosed
            .as_ref()
            .is_some_and(|held| held.by == *device && held.group == *for_group)
    }

    /// Everything but reservations: what comes next, and the answer to it. No answer is no answer that there can be.
    fn next(&self, op: &Op) -> Option<(Self, Answer)> {
        use KeyPackageState as State;
        let unchanged = |answer| Some((self.clone(), answer));
        match op {
            Op::Upload => match self.state {
                None => {
                    let state = State::Available;
                    let stored = self.moved(state, AuditTransition::Upload, Some(&self.owner), None);
                    Some((stored, Answer::State(state)))
                }
                Some(state) => unchanged(Answer::State(state)),
            },
            Op::Commit { by, group, sha256 } => match self.state? {
                State::Spent if self.commit.as_ref() == Some(sha256) => unchanged(Answer::Done),
                State::Spent => unchanged(Answer::AlreadySpent),
                State::Reserved if self.is_held_by(by, group) => {
                    let mut next = self.moved(State::Spent, AuditTransition::Commit, Some(by), Some(group));
                    next.commit = Some(sha256.clone());
                    Some((next, Answer::Done))
                }
                _ => unchanged(Answer::ReservationLapsed),
            },
            Op::Spend { by, group } => match self.state? {
                State::Spent if self.is_held_by(by, group) => unchanged(Answer::Done),
                State::Reserved if self.is_held_by(by, group) => {
                    let next = self.moved(State::Spent, AuditTransition::Commit, Some(by), Some(group));
                    Some((next, Answer::Done))
                }
                _ => unchanged(Answer::ReservationLapsed),
            },
            Op::Abandon { by } => match (self.state?, &self.disclosed) {
                (State::Reserved, Some(held)) if held.by != *by => unchanged(Answer::NotFound),
                (State::Reserved, held) => {
                    let group = held.as_ref().map(|held| &held.group);
                    let next = self.moved(State::Lapsed, AuditTransition::Abandon, Some(by), group);
                    Some((next, Answer::Done))
                }
                _ => unchanged(Answer::Done),
            },
            Op::Revoke => match self.state {
                Some(State::Available | State::Reserved) => {
                    let by = Some(&self.owner);
                    let next = self.moved(State::Revoked, AuditTransition::Revoke, by, None);
                    Some((next, Answer::Revoked(true)))
                }
                state => unchanged(Answer::Revoked(state == Some(State::Revoked))),
            },
            Op::Read => unchanged(Answer::State(self.state?)),
            Op::Audit => unchanged(Answer::Audit(self.audit.clone())),
            Op::Reserve { .. } | Op::Sweep { .. } => None,
        }
    }

    /// A reservation that ends up with this KeyPackage: the first one, or the same again, which gets the same.
    fn reserve(&self, asked: &Disclosed, answer: Option<&Answer>) -> Option<Self> {
        let (bytes, until) = match answer {
            Some(Answer::Given { bytes, until }) => (bytes, Some(*until)),
            Some(_) => return None,
            None => (&self.bytes, None),
        };
        let first = self.state == Some(KeyPackageState::Available);
        let mut next = if first {
            let (by, group) = (Some(&asked.by), Some(&asked.group));
            self.moved(KeyPackageState::Reserved, AuditTransition::Reserve, by, group)
        } else {
            self.clone()
        };
        let held = if first { asked } else { self.disclosed.as_ref()? };
        let is_same = held.key == asked.key && held.by == asked.by && held.group == asked.group;
        let told_otherwise = matches!((held.until, until), (Some(told), Some(now)) if told != now);
        if !is_same || told_otherwise || *bytes != self.bytes {
            return None;
        }
        next.disclosed = Some(Disclosed {
            until: until.or(held.until),
            ..asked.clone()
        });
        Some(next)
    }

    /// What a sweep leaves: it may or must lapse what is due, and nothing else.
    fn sweep(&self, now: u64, alone: bool) -> Vec<Self> {
        let reserved = self.state == Some(KeyPackageState::Reserved);
        // A deadline that nobody was told yet may be any.
        let (may_be_due, is_due) = match self.disclosed.as_ref().map(|held| held.until) {
            Some(Some(until)) => (until <= now, until <= now),
            Some(None) => (true, false),
            None => (false, false),
        };
        let mut possible = Vec::new();
        if reserved && may_be_due {
            let group = self.disclosed.as_ref().map(|held| &held.group);
            possible.push(self.moved(KeyPackageState::Lapsed, AuditTransition::Lapse, None, group));
        }
        if !(reserved && is_due && alone) {
            possible.push(self.clone());
        }
        possible
    }
}

impl Specification for KeyPackage {
    type Op = Op;
    type Answer = Answer;

    fn step(&self, op: &Op, answer: Option<&Answer>) -> Vec<Self> {
        match op {
            Op::Reserve { by, group, key } => {
                let asked = Disclosed {
                    by: by.clone(),
                    group: group.clone(),
                    key: key.clone(),
                    until: None,
                };
                self.reserve(&asked, answer).into_iter().collect()
            }
            Op::Sweep { now, alone } => self.sweep(*now, *alone),
            _ => match self.next(op) {
                Some((next, given)) if answer.is_none_or(|answer| *answer == given) => vec![next],
                Some(_) | None => vec![],
            },
        }
    }
}

pub(super) type KeyPackageHistory = History<KeyPackage>;

/// The checker is worth what it refuses: each history here is one of a server with a bug.
mod planted {
    use super::super::checker::{Operation, is_linearizable};
    use super::*;

    fn group(name: &str) -> GroupId {
        GroupId::from_bytes(name.as_bytes()).unwrap()
    }

    fn given() -> Answer {
        Answer::Given {
            bytes: b"bytes".to_vec(),
            until: 100,
        }
    }

    fn reserve(by: &str, key: &str) -> Op {
        Op::Reserve {
            by: by.to_owned(),
            group: group("kitchen"),
            key: key.to_owned(),
        }
    }

    fn commit(by: &str, sha256: &[u8]) -> Op {
        Op::Commit {
            by: by.to_owned(),
            group: group("kitchen"),
            sha256: sha256.to_vec(),
        }
    }

    fn read(state: KeyPackageState) -> (Op, Answer) {
        (Op::Read, Answer::State(state))
    }

    /// One after the other, after the upload.
    fn check(then: &[(Op, Answer)]) -> bool {
        let upload = (Op::Upload, Answer::State(KeyPackageState::Available));
        let history: KeyPackageHistory = std::iter::once(&upload)
            .chain(then)
            .zip(0..)
            .map(|((op, answer), at)| Operation {
                invoked: 2 * at,
                op: op.clone(),
                answer: Some((2 * at + 1, answer.clone())),
            })
            .collect();
        is_linearizable(
            &KeyPackage::unknown("bob".to_owned(), b"bytes".to_vec()),
            &history,
        )
    }

    #[test]
    fn s2_a_key_package_that_is_given_to_two_is_found_out() {
        assert!(check(&[
            (reserve("alice", "1"), given()),
            (reserve("alice", "1"), given())
        ]));
        assert!(!check(&[
            (reserve("alice", "1"), given()),
            (reserve("mallory", "1"), given())
        ]));
        assert!(!check(&[
            (reserve("alice", "1"), given()),
            (reserve("alice", "2"), given())
        ]));
    }

    #[test]
    fn s2_a_retry_that_gets_other_bytes_or_another_deadline_is_found_out() {
        for (bytes, until) in [(b"other".to_vec(), 100), (b"bytes".to_vec(), 101)] {
            let other = Answer::Given { bytes, until };
            assert!(!check(&[
                (reserve("alice", "1"), given()),
                (reserve("alice", "1"), other)
            ]));
        }
    }

    #[test]
    fn s1_a_key_package_that_two_commits_add_is_found_out() {
        let reserved = (reserve("alice", "1"), given());
        let first = (commit("alice", b"a"), Answer::Done);
        assert!(
            check(&[reserved.clone(), first.clone(), first.clone()]),
            "the same one again"
        );
        assert!(check(&[
            reserved.clone(),
            first.clone(),
            (commit("alice", b"b"), Answer::AlreadySpent)
        ]));
        assert!(!check(&[
            reserved.clone(),
            first.clone(),
            (commit("alice", b"b"), Answer::Done)
        ]));
        assert!(
            !check(&[reserved, (commit("mallory", b"m"), Answer::Done)]),
            "another's"
        );
        assert!(!check(&[first]), "nobody's");
    }

    #[test]
    fn s3_a_key_package_that_comes_back_is_found_out() {
        let reserved = (reserve("alice", "1"), given());
        let abandoned = (
            Op::Abandon {
                by: "alice".to_owned(),
            },
            Answer::Done,
        );
        let (lapsed, available) = (read(KeyPackageState::Lapsed), read(KeyPackageState::Available));
        assert!(check(&[reserved.clone(), abandoned.clone(), lapsed]));
        assert!(!check(&[reserved.clone(), abandoned.clone(), available.clone()]));
        assert!(!check(&[
            reserved.clone(),
            abandoned,
            (commit("alice", b"a"), Answer::Done)
        ]));
        assert!(!check(&[reserved, available]), "a stale read");
    }

    #[test]
    fn s3_a_sweep_that_comes_early_or_forgets_is_found_out() {
        let reserved = (reserve("alice", "1"), given());
        let sweep = |now| (Op::Sweep { now, alone: true }, Answer::Done);
        let (lapsed, held) = (read(KeyPackageState::Lapsed), read(KeyPackageState::Reserved));
        assert!(check(&[reserved.clone(), sweep(100), lapsed.clone()]));
        assert!(check(&[reserved.clone(), sweep(99), held.clone()]));
        assert!(!check(&[reserved.clone(), sweep(99), lapsed]));
        assert!(!check(&[reserved, sweep(100), held]));
    }

    #[test]
    fn s8_an_audit_that_leaves_out_or_makes_up_a_row_is_found_out() {
        let entry = |transition, by: &str, of: Option<&str>| (transition, Some(by.to_owned()), of.map(group));
        let uploaded = entry(AuditTransition::Upload, "bob", None);
        let reserved = entry(AuditTransition::Reserve, "alice", Some("kitchen"));
        let audit = |rows: &[&AuditEntry]| {
            let rows = rows.iter().map(|row| (*row).clone()).collect();
            check(&[(reserve("alice", "1"), given()), (Op::Audit, Answer::Audit(rows))])
        };
        assert!(audit(&[&uploaded, &reserved]));
        assert!(!audit(&[&uploaded]));
        assert!(!audit(&[&uploaded, &reserved, &reserved]));
        assert!(!audit(&[
            &uploaded,
            &entry(AuditTransition::Reserve, "mallory", Some("kitchen"))
        ]));
    }
}
