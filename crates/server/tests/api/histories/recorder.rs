//! What was asked and answered, object by object: linearizability is local, so each object's history is judged by itself.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use larder_wire::{GroupId, KeyPackageRef};

use super::checker::{Operation, is_linearizable};
use super::group::{self, Group, GroupHistory};
use super::key_package::{self, KeyPackage, KeyPackageHistory};
use crate::support::Answer;

/// What becomes of a request.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fate {
    Answered,
    /// It is sent twice at once, and once more.
    Doubled,
    /// The connection is dropped after this time, whether an answer was there or not, and it is sent again.
    Lost {
        after_micros: u64,
    },
}

/// A request, one sending of it.
pub(super) struct Asked {
    invoked: u64,
    answer: Option<(u64, Answer)>,
}

impl Asked {
    /// What it says of an object, if it says anything.
    pub(super) fn about<O, A>(
        &self,
        op: O,
        read: impl FnOnce(&Answer) -> Option<A>,
    ) -> Option<Operation<O, A>> {
        let answer = match &self.answer {
            Some((answered, answer)) => Some((*answered, read(answer)?)),
            None => None,
        };
        Some(Operation {
            invoked: self.invoked,
            op,
            answer,
        })
    }
}

/// The last answer to a request, which was sent until one came.
#[track_caller]
pub(super) fn last(asked: &[Asked]) -> &Answer {
    let last = asked.last().and_then(|asked| asked.answer.as_ref());
    &last.expect("a request is sent until it is answered").1
}

#[derive(Default)]
pub(super) struct Recorder {
    ticks: AtomicU64,
    key_packages: Mutex<BTreeMap<KeyPackageRef, (KeyPackage, KeyPackageHistory)>>,
    groups: Mutex<BTreeMap<GroupId, (Group, GroupHistory)>>,
}

impl Recorder {
    pub(super) fn tick(&self) -> u64 {
        self.ticks.fetch_add(1, Ordering::SeqCst)
    }

    async fn once<F: Future<Output = Answer>>(&self, send: impl FnOnce() -> F) -> Asked {
        let invoked = self.tick();
        let answer = send().await;
        Asked {
            invoked,
            answer: Some((self.tick(), answer)),
        }
    }

    /// Sends a request as its fate wants it, and then until it is answered.
    pub(super) async fn ask<F: Future<Output = Answer>>(
        &self,
        fate: Fate,
        send: impl Fn() -> F,
    ) -> Vec<Asked> {
        let mut asked = Vec::new();
        match fate {
            Fate::Answered => {}
            Fate::Doubled => asked.extend(<[_; 2]>::from(tokio::join!(self.once(&send), self.once(&send)))),
            Fate::Lost { after_micros } => {
                let invoked = self.tick();
                let sent = self.once(&send);
                let lost = Asked {
                    invoked,
                    answer: None,
                };
                let early = tokio::time::timeout(Duration::from_micros(after_micros), sent).await;
                asked.push(early.unwrap_or(lost));
            }
        }
        asked.push(self.once(&send).await);
        asked
    }

    /// There is this KeyPackage.
    pub(super) fn expect_key_package(&self, key_package_ref: &KeyPackageRef, initial: KeyPackage) {
        let mut known = self.key_packages.lock().unwrap();
        known.insert(key_package_ref.clone(), (initial, Vec::new()));
    }

    pub(super) fn expect_group(&self, group: &GroupId, initial: Group) {
        let mut known = self.groups.lock().unwrap();
        known.insert(group.clone(), (initial, Vec::new()));
    }

    #[track_caller]
    pub(super) fn key_package(
        &self,
        key_package_ref: &KeyPackageRef,
        happened: impl IntoIterator<Item = Operation<key_package::Op, key_package::Answer>>,
    ) {
        let mut known = self.key_packages.lock().unwrap();
        let history = known.get_mut(key_package_ref);
        history.expect("a KeyPackage of the tests").1.extend(happened);
    }

    /// The same about every KeyPackage.
    pub(super) fn every_key_package(&self, happened: &Operation<key_package::Op, key_package::Answer>) {
        for (_, history) in self.key_packages.lock().unwrap().values_mut() {
            history.push(happened.clone());
        }
    }

    #[track_caller]
    pub(super) fn group(
        &self,
        group: &GroupId,
        happened: impl IntoIterator<Item = Operation<group::Op, group::Answer>>,
    ) {
        let mut known = self.groups.lock().unwrap();
        known
            .get_mut(group)
            .expect("a group of the tests")
            .1
            .extend(happened);
    }

    /// Judges every history, and counts what they have in them.
    pub(super) fn check(&self, seed: u64) -> Tally {
        let mut tally = Tally::default();
        for (key_package_ref, (initial, history)) in self.key_packages.lock().unwrap().iter() {
            assert!(
                is_linearizable(initial, history),
                "seed {seed}: no order explains what happened to {key_package_ref}: {history:#?}"
            );
            tally.count_key_package(history);
        }
        for (group, (initial, history)) in self.groups.lock().unwrap().iter() {
            assert!(
                is_linearizable(initial, history),
                "seed {seed}: no order explains what happened in {group}: {history:#?}"
            );
            tally.count_group(history);
        }
        tally
    }
}

/// What happened, so that a run in which nothing did is noticed.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Tally {
    pub(super) operations: usize,
    pub(super) unanswered: usize,
    pub(super) given: usize,
    pub(super) spent: usize,
    pub(super) key_packages_refused: usize,
    pub(super) commits: usize,
    pub(super) wrong_epochs: usize,
    pub(super) messages: usize,
}

impl Tally {
    fn count_key_package(&mut self, history: &KeyPackageHistory) {
        use key_package::{Answer, Op};
        for happened in history {
            self.operations += 1;
            match (&happened.op, happened.answer.as_ref().map(|(_, answer)| answer)) {
                (_, None) => self.unanswered += 1,
                (_, Some(Answer::Given { .. })) => self.given += 1,
                (Op::Commit { .. } | Op::Spend { .. }, Some(Answer::Done)) => self.spent += 1,
                (_, Some(Answer::AlreadySpent | Answer::ReservationLapsed)) => self.key_packages_refused += 1,
                (_, Some(_)) => {}
            }
        }
    }

    fn count_group(&mut self, history: &GroupHistory) {
        use group::Answer;
        for happened in history {
            self.operations += 1;
            match happened.answer.as_ref().map(|(_, answer)| answer) {
                None => self.unanswered += 1,
                Some(Answer::Accepted { .. }) => self.commits += 1,
                Some(Answer::WrongEpoch { .. }) => self.wrong_epochs += 1,
                Some(Answer::Sent { .. }) => self.messages += 1,
                Some(Answer::KeyPackagesRefused | Answer::Epoch(_) | Answer::Sequence(_)) => {}
            }
        }
    }

    pub(super) fn add(&mut self, other: Self) {
        self.operations += other.operations;
        self.unanswered += other.unanswered;
        self.given += other.given;
        self.spent += other.spent;
        self.key_packages_refused += other.key_packages_refused;
        self.commits += other.commits;
        self.wrong_epochs += other.wrong_epochs;
        self.messages += other.messages;
    }
}
