//! What the sequence of one group does when everybody waits for their turn (S9, R-S1).

use super::checker::{History, Specification};

/// SHA-256 of a message.
pub(super) type Id = Vec<u8>;

#[derive(Debug, Clone)]
pub(super) enum Op {
    /// A Commit that was made in this epoch.
    Commit { id: Id, epoch: u64 },
    /// An application message that was encrypted in this epoch.
    Message { id: Id, epoch: u64 },
    /// A member asks where the group is.
    Info,
    /// All that was accepted, in order.
    Sequence,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// Accepted under this number; a Commit leads to this epoch.
    Accepted {
        epoch: u64,
        seq: u64,
    },
    Sent {
        seq: u64,
    },
    WrongEpoch {
        current: u64,
    },
    /// The epoch was right, the KeyPackages were not.
    KeyPackagesRefused,
    Epoch(u64),
    Sequence(Vec<Id>),
}

/// A group, as the delivery service orders it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Group {
    epoch: u64,
    /// What was accepted, and the epoch that it was made in. The first has the number 1.
    sequence: Vec<(Id, u64)>,
}

impl Group {
    /// A group in which nothing but its first Commit has happened.
    pub(super) fn after(first: Id) -> Self {
        Self {
            epoch: 1,
            sequence: vec![(first, 0)],
        }
    }

    /// The number and the epoch of what was accepted before.
    fn earlier(&self, id: &Id) -> Option<(u64, u64)> {
        let at = self.sequence.iter().position(|(accepted, _)| accepted == id)?;
        Some((at as u64 + 1, self.sequence[at].1))
    }

    fn append(&self, id: &Id, made_in: u64, epoch: u64) -> (Self, u64) {
        let mut next = self.clone();
        next.epoch = epoch;
        next.sequence.push((id.clone(), made_in));
        let seq = next.sequence.len() as u64;
        (next, seq)
    }

    fn next(&self, op: &Op) -> (Self, Answer) {
        let unchanged = |answer| (self.clone(), answer);
        let wrong_epoch = Answer::WrongEpoch { current: self.epoch };
        match op {
            Op::Commit { id, epoch } => match self.earlier(id) {
                Some((seq, made_in)) => unchanged(Answer::Accepted {
                    epoch: made_in + 1,
                    seq,
                }),
                None if *epoch != self.epoch => unchanged(wrong_epoch),
                None => {
                    let epoch = self.epoch + 1;
                    let (next, seq) = self.append(id, self.epoch, epoch);
                    (next, Answer::Accepted { epoch, seq })
                }
            },
            Op::Message { id, epoch } => match self.earlier(id) {
                Some((seq, _)) => unchanged(Answer::Sent { seq }),
                None if *epoch > self.epoch || epoch + 1 < self.epoch => unchanged(wrong_epoch),
                None => {
                    let (next, seq) = self.append(id, *epoch, self.epoch);
                    (next, Answer::Sent { seq })
                }
            },
            Op::Info => unchanged(Answer::Epoch(self.epoch)),
            Op::Sequence => unchanged(Answer::Sequence(
                self.sequence.iter().map(|(id, _)| id.clone()).collect(),
            )),
        }
    }
}

impl Specification for Group {
    type Op = Op;
    type Answer = Answer;

    fn step(&self, op: &Op, answer: Option<&Answer>) -> Vec<Self> {
        if let (Op::Commit { id, epoch }, Some(Answer::KeyPackagesRefused)) = (op, answer) {
            let reached_them = self.earlier(id).is_none() && *epoch == self.epoch;
            return reached_them.then(|| self.clone()).into_iter().collect();
        }
        let (next, given) = self.next(op);
        if answer.is_none_or(|answer| *answer == given) {
            vec![next]
        } else {
            vec![]
        }
    }
}

pub(super) type GroupHistory = History<Group>;

/// The checker is worth what it refuses: each history here is one of a server with a bug.
mod planted {
    use super::super::checker::{Operation, is_linearizable};
    use super::*;

    fn commit(id: u8, epoch: u64) -> Op {
        Op::Commit { id: vec![id], epoch }
    }

    fn message(id: u8, epoch: u64) -> Op {
        Op::Message { id: vec![id], epoch }
    }

    fn accepted(epoch: u64, seq: u64) -> Answer {
        Answer::Accepted { epoch, seq }
    }

    fn sent(seq: u64) -> Answer {
        Answer::Sent { seq }
    }

    fn check_with(length: u64, history: &[(Op, Answer)]) -> bool {
        let history: GroupHistory = history
            .iter()
            .zip(0..)
            .map(|((op, answer), at)| Operation {
                invoked: 10 * at,
                op: op.clone(),
                answer: Some((10 * at + length, answer.clone())),
            })
            .collect();
        is_linearizable(&Group::after(vec![0]), &history)
    }

    /// One after the other.
    fn check(history: &[(Op, Answer)]) -> bool {
        check_with(1, history)
    }

    /// All at once.
    fn check_together(history: &[(Op, Answer)]) -> bool {
        check_with(1000, history)
    }

    #[test]
    fn s9_a_number_that_is_left_out_or_given_twice_is_found_out() {
        assert!(check(&[(message(1, 1), sent(2)), (message(2, 1), sent(3))]));
        for wrong in [2, 4] {
            let history = [(message(1, 1), sent(2)), (message(2, 1), sent(wrong))];
            assert!(!check(&history));
            assert!(!check_together(&history));
        }
        assert!(
            !check(&[(message(1, 1), sent(3)), (message(2, 1), sent(2))]),
            "out of order"
        );
        assert!(check_together(&[
            (message(1, 1), sent(3)),
            (message(2, 1), sent(2))
        ]));
    }

    #[test]
    fn s9_two_commits_of_one_epoch_are_found_out() {
        let first = (commit(1, 1), accepted(2, 2));
        for second in [accepted(2, 3), accepted(3, 3), accepted(2, 2)] {
            let history = [first.clone(), (commit(2, 1), second)];
            assert!(!check(&history));
            assert!(!check_together(&history));
        }
        let refused = Answer::WrongEpoch { current: 2 };
        assert!(check_together(&[first, (commit(2, 1), refused)]));
    }

    #[test]
    fn r_s1_a_loser_that_is_told_a_wrong_epoch_is_found_out() {
        let first = (commit(1, 1), accepted(2, 2));
        for current in [1, 3] {
            let history = [first.clone(), (commit(2, 1), Answer::WrongEpoch { current })];
            assert!(!check_together(&history));
        }
    }

    #[test]
    fn s4_a_commit_that_is_accepted_again_instead_of_answered_again_is_found_out() {
        let first = (commit(1, 1), accepted(2, 2));
        assert!(check(&[first.clone(), (message(2, 2), sent(3)), first.clone()]));
        assert!(!check(&[
            first.clone(),
            (message(2, 2), sent(3)),
            (commit(1, 1), accepted(2, 4))
        ]));
        assert!(!check(&[
            first,
            (commit(1, 1), Answer::WrongEpoch { current: 2 })
        ]));
    }

    #[test]
    fn s9_a_stale_read_and_a_lost_message_are_found_out() {
        let first = (commit(1, 1), accepted(2, 2));
        assert!(!check(&[first.clone(), (Op::Info, Answer::Epoch(1))]));
        assert!(check_together(&[first.clone(), (Op::Info, Answer::Epoch(1))]));
        let ends_with = |ids: &[u8]| {
            let ids = ids.iter().map(|id| vec![*id]).collect();
            check(&[
                first.clone(),
                (message(2, 1), sent(3)),
                (Op::Sequence, Answer::Sequence(ids)),
            ])
        };
        assert!(ends_with(&[0, 1, 2]));
        assert!(!ends_with(&[0, 1]));
        assert!(!ends_with(&[0, 2, 1]));
        assert!(!ends_with(&[0, 1, 2, 2]));
    }
}
