//! Whether a history is linearizable: whether its operations can be put in an order that respects which was over before
//! which began, and in which a sequential specification gives every answer that was given.
//!
//! The search is Wing and Gong's with Lowe's memory of what was tried: without it, a history that cannot be ordered costs as
//! many attempts as its concurrent operations have orders, and a checker that does not come back has found nothing.

use std::collections::HashSet;
use std::hash::Hash;

/// One request about one object, in the ticks of a clock that all clients share.
#[derive(Debug, Clone)]
pub(super) struct Operation<O, A> {
    pub(super) invoked: u64,
    pub(super) op: O,
    /// When which answer came; none came when the request or its answer was lost.
    pub(super) answer: Option<(u64, A)>,
}

/// What one object does when everybody waits for their turn.
pub(super) trait Specification: Clone + Eq + Hash {
    type Op;
    type Answer;

    /// The states in which `op` can leave the object when it is answered like this; none when it cannot be. An answer that
    /// nobody saw may have been any.
    fn step(&self, op: &Self::Op, answer: Option<&Self::Answer>) -> Vec<Self>;
}

pub(super) type History<S> = Vec<Operation<<S as Specification>::Op, <S as Specification>::Answer>>;

/// Whether the history is one of an object that starts as `initial`.
pub(super) fn is_linearizable<S: Specification>(initial: &S, history: &History<S>) -> bool {
    let search = Search { history };
    search.completes(initial, &mut vec![false; history.len()], &mut HashSet::new())
}

struct Search<'a, S: Specification> {
    history: &'a History<S>,
}

impl<S: Specification> Search<'_, S> {
    /// Whether what is not `taken` yet can be ordered from `state` on.
    fn completes(&self, state: &S, taken: &mut Vec<bool>, tried: &mut HashSet<(Vec<bool>, S)>) -> bool {
        let left = || self.history.iter().enumerate().filter(|(at, _)| !taken[*at]);
        let Some(first_answer) = left()
            .filter_map(|(_, operation)| operation.answer.as_ref())
            .map(|(answered, _)| *answered)
            .min()
        else {
            // Whatever was not answered need not have happened.
            return true;
        };
        if !tried.insert((taken.clone(), state.clone())) {
            return false;
        }
        let may_be_next: Vec<usize> = left()
            .filter(|(_, operation)| operation.invoked < first_answer)
            .map(|(at, _)| at)
            .collect();
        for at in may_be_next {
            let Operation { op, answer, .. } = &self.history[at];
            for next in state.step(op, answer.as_ref().map(|(_, answer)| answer)) {
                if answer.is_none() && next == *state {
                    continue;
                }
                taken[at] = true;
                if self.completes(&next, taken, tried) {
                    return true;
                }
                taken[at] = false;
            }
        }
        false
    }
}

mod tests {
    use super::*;

    /// A number that is written and read.
    #[derive(Clone, PartialEq, Eq, Hash)]
    struct Register(u8);

    #[derive(Debug, Clone, Copy)]
    enum Op {
        Write(u8),
        Read,
    }

    impl Specification for Register {
        type Op = Op;
        type Answer = u8;

        fn step(&self, op: &Op, answer: Option<&u8>) -> Vec<Self> {
            let next = match op {
                Op::Write(value) => Self(*value),
                Op::Read => self.clone(),
            };
            if answer.is_none_or(|answer| *answer == next.0) {
                vec![next]
            } else {
                vec![]
            }
        }
    }

    /// When what was asked for, and when what was answered.
    type Happened = (u64, Op, Option<(u64, u8)>);

    fn check(history: &[Happened]) -> bool {
        let history = history
            .iter()
            .map(|(invoked, op, answer)| Operation {
                invoked: *invoked,
                op: *op,
                answer: *answer,
            })
            .collect();
        is_linearizable(&Register(0), &history)
    }

    #[test]
    fn a_read_during_a_write_may_see_either_and_one_after_it_only_what_was_written() {
        let write = (1, Op::Write(7), Some((4, 7)));
        for seen in [0, 7] {
            assert!(check(&[write, (2, Op::Read, Some((3, seen)))]));
        }
        assert!(check(&[write, (5, Op::Read, Some((6, 7)))]));
        assert!(!check(&[write, (5, Op::Read, Some((6, 0)))]), "a stale read");
    }

    #[test]
    fn what_was_seen_once_is_not_unseen() {
        let write = (1, Op::Write(7), Some((9, 7)));
        let (new, old) = ((2, Op::Read, Some((3, 7))), (4, Op::Read, Some((5, 0))));
        assert!(!check(&[write, new, old]));
    }

    #[test]
    fn a_request_without_an_answer_may_have_happened_at_any_time_since_or_never() {
        let lost = (1, Op::Write(7), None);
        assert!(check(&[
            lost,
            (2, Op::Read, Some((3, 0))),
            (4, Op::Read, Some((5, 7)))
        ]));
        assert!(check(&[lost, (2, Op::Read, Some((3, 0)))]));
        assert!(
            !check(&[(0, Op::Read, Some((1, 7))), (2, Op::Write(7), None)]),
            "before it began"
        );
    }

    #[test]
    fn a_history_that_has_no_order_is_refused_however_many_orders_there_are_to_try() {
        let mut history: Vec<_> = (0..12).map(|at| (at, Op::Read, Some((100 + at, 0)))).collect();
        history.extend((0..6).map(|at| (200 + at, Op::Write(at as u8), None)));
        history.push((300, Op::Read, Some((301, 99))));
        assert!(!check(&history));
    }
}
