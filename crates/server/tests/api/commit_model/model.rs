//! What the directory and the delivery service must do, small enough to be read: which Commits are accepted (S4), and what
//! becomes of KeyPackages.

use std::collections::BTreeSet;

use larder_wire::{Accepted, KeyPackageRef, KeyPackageState, ProblemType};

pub(super) const RESERVATION_SECONDS: u64 = 60 * 60;
const RETIRING_SECONDS: u64 = 24 * 60 * 60;
/// Live last resorts of one device.
const LAST_RESORTS_MAX: usize = 8;

/// A device, by its number.
pub(super) type Who = usize;

/// A KeyPackage in the directory.
pub(super) struct Stored {
    pub(super) key_package_ref: KeyPackageRef,
    pub(super) owner: Who,
    pub(super) is_last_resort: bool,
    pub(super) state: KeyPackageState,
    /// When a retiring last resort is gone.
    gone_at: Option<u64>,
}

/// Who may add which KeyPackage to which group. One on an ordinary KeyPackage is never another's again.
pub(super) struct Reservation {
    pub(super) id: String,
    pub(super) by: Who,
    group: usize,
    key_package: KeyPackageRef,
    until: u64,
}

pub(super) struct Group {
    pub(super) epoch: u64,
    seq: u64,
    pub(super) members: BTreeSet<Who>,
}

/// A Commit, as it is meant.
#[derive(Debug, Clone)]
pub(super) struct Commit {
    pub(super) group: usize,
    pub(super) sender: Who,
    pub(super) epoch: u64,
    pub(super) added: Vec<KeyPackageRef>,
    pub(super) removed: Option<Who>,
    /// Whether the group's public state accepts it, with all that comes with it.
    pub(super) is_sound: bool,
    pub(super) accepted: Option<Accepted>,
}

/// What must be answered to a Commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Accepted(Accepted),
    Refused(ProblemType),
    WrongEpoch(u64),
    /// These KeyPackages cannot be added.
    KeyPackages(ProblemType, BTreeSet<KeyPackageRef>),
}

pub(super) struct Model {
    pub(super) hard_cap: usize,
    pub(super) stored: Vec<Stored>,
    pub(super) reservations: Vec<Reservation>,
    pub(super) groups: Vec<Group>,
}

fn is_live(state: KeyPackageState) -> bool {
    use KeyPackageState as State;
    match state {
        State::Available | State::Reserved | State::Retiring => true,
        State::Spent | State::Lapsed | State::Expired | State::Revoked | State::Gone => false,
    }
}

impl Model {
    /// Groups of one each, and nothing in the directory.
    pub(super) fn new(hard_cap: usize, founders: impl IntoIterator<Item = Who>) -> Self {
        let group = |founder| Group {
            epoch: 0,
            seq: 0,
            members: BTreeSet::from([founder]),
        };
        Self {
            hard_cap,
            stored: Vec::new(),
            reservations: Vec::new(),
            groups: founders.into_iter().map(group).collect(),
        }
    }

    /// What of this kind is live.
    fn live(&self, owner: Who, last_resorts: bool) -> usize {
        let of_kind = |stored: &&Stored| stored.owner == owner && stored.is_last_resort == last_resorts;
        let mut live = 0;
        for stored in self.stored.iter().filter(of_kind) {
            live += usize::from(is_live(stored.state));
        }
        live
    }

    pub(super) fn find(&self, key_package_ref: &KeyPackageRef) -> &Stored {
        let mut stored = self.stored.iter();
        stored
            .find(|stored| stored.key_package_ref == *key_package_ref)
            .expect("a KeyPackage of the model")
    }

    fn change(&mut self, key_package_ref: &KeyPackageRef, state: KeyPackageState) {
        let stored = self.stored.iter_mut();
        for stored in stored.filter(|stored| stored.key_package_ref == *key_package_ref) {
            stored.state = state;
        }
    }

    /// Whether a new KeyPackage is taken.
    pub(super) fn upload(
        &mut self,
        owner: Who,
        key_package_ref: KeyPackageRef,
        is_last_resort: bool,
        now: u64,
    ) -> bool {
        let most = if is_last_resort {
            LAST_RESORTS_MAX
        } else {
            self.hard_cap
        };
        if self.live(owner, is_last_resort) >= most {
            return false;
        }
        for older in &mut self.stored {
            let is_replaced = is_last_resort && older.is_last_resort && older.owner == owner;
            if is_replaced && older.state == KeyPackageState::Available {
                older.state = KeyPackageState::Retiring;
                older.gone_at = Some(now + RETIRING_SECONDS);
            }
        }
        self.stored.push(Stored {
            key_package_ref,
            owner,
            is_last_resort,
            state: KeyPackageState::Available,
            gone_at: None,
        });
        true
    }

    /// What a reservation may be given: any ordinary KeyPackage that is available, else the active last resort.
    pub(super) fn offered(&self, owner: Who) -> Vec<&Stored> {
        let available = |last_resort: bool| {
            let mut found: Vec<&Stored> = self.stored.iter().collect();
            found.retain(|stored| stored.owner == owner && stored.is_last_resort == last_resort);
            found.retain(|stored| stored.state == KeyPackageState::Available);
            found
        };
        let ordinary = available(false);
        if ordinary.is_empty() {
            available(true)
        } else {
            ordinary
        }
    }

    pub(super) fn reserve(
        &mut self,
        by: Who,
        group: usize,
        key_package: &KeyPackageRef,
        id: String,
        until: u64,
    ) {
        if !self.find(key_package).is_last_resort {
            self.change(key_package, KeyPackageState::Reserved);
        }
        self.reservations.push(Reservation {
            id,
            by,
            group,
            key_package: key_package.clone(),
            until,
        });
    }

    /// Whether `by` may say so.
    pub(super) fn abandon(&mut self, by: Who, id: &str) -> bool {
        let Some(at) = self
            .reservations
            .iter()
            .position(|reservation| reservation.id == id)
        else {
            return true;
        };
        if self.reservations[at].by != by {
            return false;
        }
        self.end(at, KeyPackageState::Lapsed);
        true
    }

    /// Ends a reservation, and with it an ordinary KeyPackage.
    fn end(&mut self, at: usize, becomes: KeyPackageState) {
        let ended = self.reservations.remove(at);
        if !self.find(&ended.key_package).is_last_resort {
            self.change(&ended.key_package, becomes);
        }
    }

    pub(super) fn revoke(&mut self, key_package_ref: &KeyPackageRef) {
        let stored = self.find(key_package_ref);
        if !is_live(stored.state) {
            return;
        }
        if !stored.is_last_resort {
            self.reservations
                .retain(|reservation| reservation.key_package != *key_package_ref);
        }
        self.change(key_package_ref, KeyPackageState::Revoked);
    }

    pub(super) fn sweep(&mut self, now: u64) {
        let due = |reservation: &Reservation| reservation.until <= now;
        while let Some(at) = self.reservations.iter().position(due) {
            self.end(at, KeyPackageState::Lapsed);
        }
        for stored in &mut self.stored {
            let is_due = stored.gone_at.is_some_and(|gone_at| gone_at <= now);
            if stored.state == KeyPackageState::Retiring && is_due {
                stored.state = KeyPackageState::Gone;
            }
        }
    }

    /// What a device holds for a group.
    pub(super) fn held(&self, by: Who, group: usize) -> Vec<&Stored> {
        let of_both = |held: &&Reservation| held.by == by && held.group == group;
        let held = self.reservations.iter().filter(of_both);
        held.map(|held| self.find(&held.key_package)).collect()
    }

    /// The reservation by which a Commit may add a KeyPackage.
    fn reservation_for(&self, commit: &Commit, key_package: &KeyPackageRef) -> Option<usize> {
        if !is_live(self.find(key_package).state) {
            return None;
        }
        let may_add = |(_, held): &(usize, &Reservation)| {
            held.key_package == *key_package && held.by == commit.sender && held.group == commit.group
        };
        let held = self.reservations.iter().enumerate().filter(may_add);
        // Of several on a last resort, the first to lapse is used up.
        held.min_by_key(|(_, held)| (held.until, &held.id))
            .map(|(at, _)| at)
    }

    /// S4: the epoch matches, the public state accepts it, and each KeyPackage is the sender's to add to this group.
    pub(super) fn judge(&self, commit: &Commit) -> Verdict {
        if let Some(accepted) = &commit.accepted {
            return Verdict::Accepted(accepted.clone());
        }
        let group = &self.groups[commit.group];
        if !group.members.contains(&commit.sender) {
            return Verdict::Refused(ProblemType::NotFound);
        }
        if commit.epoch != group.epoch {
            return Verdict::WrongEpoch(group.epoch);
        }
        if !commit.is_sound {
            return Verdict::Refused(ProblemType::InvalidCommit);
        }
        let is_refused = |added: &&KeyPackageRef| self.reservation_for(commit, added).is_none();
        let (spent, unreserved): (BTreeSet<_>, BTreeSet<_>) = commit
            .added
            .iter()
            .filter(is_refused)
            .cloned()
            .partition(|added| self.find(added).state == KeyPackageState::Spent);
        if !spent.is_empty() {
            return Verdict::KeyPackages(ProblemType::AlreadySpent, spent);
        }
        if !unreserved.is_empty() {
            return Verdict::KeyPackages(ProblemType::ReservationLapsed, unreserved);
        }
        Verdict::Accepted(Accepted {
            epoch: group.epoch + 1,
            seq: group.seq + 1,
        })
    }

    /// Does what an accepted Commit does.
    pub(super) fn accept(&mut self, commit: &Commit, accepted: &Accepted) {
        for added in &commit.added {
            if let Some(at) = self.reservation_for(commit, added) {
                self.end(at, KeyPackageState::Spent);
            }
        }
        let joined: Vec<Who> = commit.added.iter().map(|added| self.find(added).owner).collect();
        let group = &mut self.groups[commit.group];
        group.epoch = accepted.epoch;
        group.seq = accepted.seq;
        group.members.extend(joined);
        if let Some(removed) = &commit.removed {
            group.members.remove(removed);
        }
    }
}
