//! S1, S2, S3 as a model: two adders race for two KeyPackages and one group, answers get lost, reservations lapse, the owner
//! withdraws. Every state that any order of these leads to is visited, and moved by the functions that the server calls.

use std::collections::{HashSet, VecDeque};

use larder_lifecycle::{DirectoryEvent, DirectoryState, End, Kind, Listed, Refusal, UnixSeconds};

const ADDERS: [u8; 2] = [0, 1];
const KEY_PACKAGES: [usize; 2] = [0, 1];
const GROUP: u8 = 0;
/// When reservations may lapse and KeyPackages expire.
const DEADLINE: UnixSeconds = UnixSeconds(1);

type Entry = Listed<u8, u8>;
type Event = DirectoryEvent<u8, u8>;
/// What decides on a transition.
type Apply = fn(&Entry, Event) -> Result<Entry, Refusal>;

/// What an adder is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Adder {
    /// Asks for a KeyPackage, until it is answered.
    Asking,
    /// Has the bytes.
    Holding(usize),
    /// Sends a Commit for this epoch, until it is answered.
    Committing(usize, u8),
    /// Gives the reservation up, until it is answered.
    Abandoning(usize),
    Finished,
}

/// An accepted Commit: of whom, which KeyPackage it adds, and for which epoch.
type Commit = (u8, usize, u8);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    now: UnixSeconds,
    key_packages: [Entry; 2],
    epoch: u8,
    /// What each adder's request was answered with.
    remembered: [Option<usize>; 2],
    accepted: Vec<Commit>,
    /// To whom the bytes went.
    seen_by: [Vec<u8>; 2],
    adders: [Adder; 2],
}

impl World {
    fn start() -> Self {
        Self {
            now: UnixSeconds(0),
            key_packages: [Kind::SingleUse; 2].map(Entry::uploaded),
            epoch: 0,
            remembered: [None; 2],
            accepted: Vec::new(),
            seen_by: [vec![], vec![]],
            adders: [Adder::Asking; 2],
        }
    }

    fn moved(&self, at: usize, event: Event, apply: Apply) -> Option<Self> {
        let mut next = self.clone();
        next.key_packages[at] = apply(&self.key_packages[at], event).ok()?;
        Some(next)
    }

    /// Everything that can happen next.
    fn next(&self, apply: Apply) -> Vec<Self> {
        let mut next = Vec::new();
        for by in ADDERS {
            next.extend(self.of_adder(by, apply));
        }
        for at in KEY_PACKAGES {
            let now = self.now;
            let of_use_before = DEADLINE;
            for event in [
                Event::Lapse { now },
                Event::Expire { now, of_use_before },
                Event::Revoke,
                Event::UploadAgain,
            ] {
                next.extend(self.moved(at, event, apply));
            }
        }
        if self.now < DEADLINE {
            next.push(Self {
                now: DEADLINE,
                ..self.clone()
            });
        }
        next
    }

    /// The server answers, and the answer arrives or does not.
    fn answered(self, by: u8, then: Adder) -> [Self; 2] {
        let lost = self.clone();
        let mut arrived = self;
        arrived.adders[usize::from(by)] = then;
        [arrived, lost]
    }

    fn of_adder(&self, by: u8, apply: Apply) -> Vec<Self> {
        let mut next = Vec::new();
        match self.adders[usize::from(by)] {
            Adder::Asking => next.extend(self.reserve(by, apply)),
            Adder::Holding(at) => {
                for then in [Adder::Committing(at, self.epoch), Adder::Abandoning(at)] {
                    next.push(self.clone().answered(by, then)[0].clone());
                }
            }
            Adder::Committing(at, epoch) => next.extend(self.commit((by, at, epoch), apply)),
            Adder::Abandoning(at) => {
                let given_up = self.moved(at, Event::Abandon { by }, apply);
                let given_up = given_up.unwrap_or_else(|| self.clone());
                next.extend(given_up.answered(by, Adder::Finished));
            }
            Adder::Finished => {}
        }
        next
    }

    fn reserve(&self, by: u8, apply: Apply) -> Vec<Self> {
        let mut next = Vec::new();
        let given = |world: Self, at: usize| {
            let [mut arrived, lost] = world.answered(by, Adder::Holding(at));
            arrived.seen_by[at].push(by);
            [arrived, lost]
        };
        if let Some(at) = self.remembered[usize::from(by)] {
            return given(self.clone(), at).into();
        }
        for at in KEY_PACKAGES {
            let reserve = Event::Reserve {
                by,
                group: GROUP,
                until: DEADLINE,
            };
            // The directory looks for those that are available.
            if self.key_packages[at].state == DirectoryState::Available
                && let Some(mut reserved) = self.moved(at, reserve, apply)
            {
                reserved.remembered[usize::from(by)] = Some(at);
                next.extend(given(reserved, at));
            }
        }
        if next.is_empty() {
            next.extend(self.clone().answered(by, Adder::Finished));
        }
        next
    }

    fn commit(&self, commit: Commit, apply: Apply) -> Vec<Self> {
        let (by, at, epoch) = commit;
        let answered = |world: Self, then| world.answered(by, then).to_vec();
        if self.accepted.contains(&commit) {
            return answered(self.clone(), Adder::Finished);
        }
        if epoch != self.epoch {
            // The loser rebases with the same KeyPackage.
            return answered(self.clone(), Adder::Holding(at));
        }
        match self.moved(at, Event::Commit { by, group: GROUP }, apply) {
            Some(mut accepted) => {
                accepted.epoch += 1;
                accepted.accepted.push(commit);
                answered(accepted, Adder::Finished)
            }
            None => answered(self.clone(), Adder::Finished),
        }
    }

    /// The invariants that do not hold in this state.
    fn violated(&self) -> Vec<&'static str> {
        let mut violated = Vec::new();
        for at in KEY_PACKAGES {
            let adding = self.accepted.iter().filter(|(_, added, _)| *added == at);
            if adding.count() > 1 {
                violated.push("S1");
            }
            if self.seen_by[at].iter().any(|by| *by != self.seen_by[at][0]) {
                violated.push("S2");
            }
        }
        violated
    }

    /// The invariants that do not hold from this state to the next.
    fn violated_by(&self, next: &Self) -> Vec<&'static str> {
        let mut violated = Vec::new();
        for (before, after) in self.key_packages.iter().zip(&next.key_packages) {
            let (before, after) = (before.state, after.state);
            let is_revived = before.has_ended() || after == DirectoryState::Available;
            if before != after && is_revived {
                violated.push("S3");
            }
        }
        violated
    }

    /// Whether both adders have got through in the end.
    fn is_over(&self) -> bool {
        self.adders == [Adder::Finished; 2]
    }
}

/// Visits every state; how many there are and how many are ends, or after how many steps `invariant` is violated.
fn explore(invariant: &str, apply: Apply) -> Result<(usize, usize), usize> {
    let mut visited = HashSet::from([World::start()]);
    let mut to_visit = VecDeque::from([(World::start(), 0)]);
    let mut ends = 0;
    while let Some((world, steps)) = to_visit.pop_front() {
        ends += usize::from(world.is_over());
        for next in world.next(apply) {
            let violated = [next.violated(), world.violated_by(&next)];
            if violated.concat().contains(&invariant) {
                return Err(steps + 1);
            }
            if visited.insert(next.clone()) {
                to_visit.push_back((next, steps + 1));
            }
        }
    }
    Ok((visited.len(), ends))
}

#[test]
fn s1_s2_s3_hold_in_every_state_that_any_order_leads_to() {
    for invariant in ["S1", "S2", "S3"] {
        let (states, ends) = explore(invariant, Entry::apply).unwrap();
        assert!(states > 1000, "{states} states are not those of a race");
        assert!(ends > 0, "nobody gets through");
    }
}

// A model that finds nothing must be one that would have: each function here has a bug.

/// What is not used in time is handed out again.
fn recycle(entry: &Entry, event: Event) -> Result<Entry, Refusal> {
    match entry.apply(event) {
        Ok(lapsed) if lapsed.state == DirectoryState::Ended(End::Lapsed) => Ok(Entry::uploaded(entry.kind)),
        other => other,
    }
}

#[test]
fn s2_s3_a_reservation_that_is_recycled_is_found_out() {
    assert!(explore("S3", recycle).is_err());
    assert!(explore("S2", recycle).is_err());
}

#[test]
fn s2_a_key_package_that_stays_available_when_it_is_given_is_found_out() {
    let forget: Apply = |entry, event| match &event {
        Event::Reserve { .. } => Ok(entry.clone()),
        _ => entry.apply(event),
    };
    assert!(explore("S2", forget).is_err());
}

#[test]
fn s1_a_recycled_key_package_that_whoever_has_it_may_add_is_found_out() {
    let add_anything: Apply = |entry, event| match event {
        Event::Commit { .. } => Ok(Entry {
            state: DirectoryState::Ended(End::Spent),
            ..entry.clone()
        }),
        _ => recycle(entry, event),
    };
    assert!(explore("S1", add_anything).is_err());
    // A recycled one goes to two, but as long as the holder is looked at it is added once.
    assert!(explore("S1", recycle).is_ok());
}
