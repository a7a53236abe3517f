//! The public states of groups: who judges against one, has the turn; what was accepted is followed behind the answer, and stored
//! behind that.

use std::sync::Arc;

use larder_wire::GroupId;
use tokio::sync::OwnedMutexGuard;

use super::groups::commit_to;
use super::{Caller, Service};
use crate::accounts;
use crate::delivery::Standing;
use crate::delivery::state::{Held, Stored, Unwritten};
use crate::error::{Fault, ServiceError};
use crate::store::{DeviceRow, GroupRow, Tx};

/// What was judged against a state that is not the present one any more is judged again, this often.
pub(super) const ATTEMPTS_MAX: u32 = 3;

/// The state of a group, for the one who judges against it.
pub(super) type Turn = OwnedMutexGuard<Option<Held>>;

/// Where a group stands, for who is about to judge.
pub(super) enum Stand<T> {
    Accepted(T),
    /// The turn, and the group's epoch.
    Open(Turn, u64),
}

impl Service {
    /// Stores the states that are in memory and ahead of what is stored of them.
    pub async fn store_states(&self) {
        for (group, place) in self.inner.states.all() {
            self.store_state(&group, place.lock_owned().await, true).await;
        }
        // What was on its way before.
        drop(self.inner.states.storing.write().await);
    }

    /// Stores the states of all groups that are ahead of what is stored of them, whoever accepted what led to them. OpenMLS judges
    /// lifetimes by the clock, so that Commits cannot be followed for ever.
    pub async fn store_states_behind(&self) -> Result<(), ServiceError> {
        let mut last = None;
        loop {
            let behind = self
                .groups_after(last, |tx, after, most| tx.groups_behind(after, most))
                .await?;
            for group in &behind {
                self.store_state_behind(group).await?;
            }
            last = behind.last().cloned();
            if last.is_none() {
                return Ok(());
            }
        }
    }

    async fn store_state_behind(&self, group: &GroupId) -> Result<(), ServiceError> {
        if let Some(place) = self.inner.states.known(group) {
            self.store_state(group, place.lock_owned().await, true).await;
        }
        // Another node may have gone on, or accepted what nobody here has asked for since.
        let asked = group.clone();
        let stored = self
            .inner
            .store
            .read(move |tx| Ok(Stored::read(tx, &asked)?))
            .await?;
        let (inner, asked) = (Arc::clone(&self.inner), group.clone());
        let unwritten = tokio::task::spawn_blocking(move || {
            let mut held = stored.lead_on(&inner.crypto, &asked, None)?;
            held.take_unwritten(&inner.crypto, true)
        });
        match unwritten.await.map_err(|_| Fault::Closed)? {
            Ok(Some(unwritten)) => self.write_state(group, unwritten).await,
            Ok(None) => Ok(()),
            Err(Fault::Unfollowable) => {
                crate::metrics::unfollowable();
                tracing::error!("a group's public state cannot be made again from what is stored");
                Ok(())
            }
            Err(fault) => Err(fault.into()),
        }
    }

    /// Runs what may take time for a caller where nobody waits for it but what the same user asks for.
    pub(crate) async fn judge<T: Send + 'static>(
        &self,
        caller: &Caller,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Fault> {
        self.inner.judges.run(caller.device.user_key(), work).await
    }

    pub(super) async fn judge_in_turn<T: Send + 'static>(
        &self,
        caller: &Caller,
        turn: Turn,
        work: impl FnOnce(&Held) -> T + Send + 'static,
    ) -> Result<(Turn, T), Fault> {
        self.judge(caller, move || {
            let result = turn.as_ref().map(work);
            result.map(|result| (turn, result)).ok_or(Fault::Closed)
        })
        .await?
    }

    pub(super) async fn turn(&self, group: &GroupId) -> Turn {
        self.inner.states.place(group).lock_owned().await
    }

    /// Where a group stands, and the turn to judge against its present state.
    pub(super) async fn standing<T: Send + 'static>(
        &self,
        caller: &Caller,
        group: &GroupId,
        ask: impl Fn(&Tx<'_>, &DeviceRow) -> Result<Standing<T>, ServiceError> + Send + Sync + 'static,
    ) -> Result<Stand<T>, ServiceError> {
        let ask = Arc::new(ask);
        // Nobody who is refused here makes others wait for a place.
        for attempt in 0..=ATTEMPTS_MAX {
            let turn = match attempt {
                0 => self
                    .inner
                    .states
                    .known(group)
                    .and_then(|place| place.try_lock_owned().ok()),
                _ => Some(self.turn(group).await),
            };
            let (device, claim, asked) = (Arc::clone(&caller.device), caller.claim.clone(), Arc::clone(&ask));
            let mut standing = self
                .inner
                .store
                .read(move |tx| {
                    accounts::may_follow(tx, device.key, claim.as_deref())?;
                    asked(tx, &device)
                })
                .await?;
            if let Standing::Accepted(_) = standing {
                // An answer that is given is remembered with the mark of its request.
                let (device, asked) = (Arc::clone(&caller.device), Arc::clone(&ask));
                standing = self.change(caller, move |tx| asked(tx, &device)).await?;
            }
            let row = match standing {
                Standing::Accepted(answer) => return Ok(Stand::Accepted(answer)),
                Standing::Open(row) => row,
            };
            let Some(turn) = turn else { continue };
            if let Some(turn) = self.caught_up(caller, group, turn, &row).await? {
                return Ok(Stand::Open(turn, row.epoch));
            }
        }
        Err(Fault::Busy.into())
    }

    /// The turn, with the state that the row tells of; `None` when the store has gone on meanwhile.
    pub(super) async fn caught_up(
        &self,
        caller: &Caller,
        group: &GroupId,
        turn: Turn,
        row: &GroupRow,
    ) -> Result<Option<Turn>, ServiceError> {
        let known = turn.as_ref().map(Held::known);
        if known.as_ref().is_some_and(|known| known.is_at(row)) {
            return Ok(Some(turn));
        }
        let known = known.filter(|known| known.is_before(row));
        let asked = group.clone();
        let stored = self
            .inner
            .store
            .read(move |tx| {
                Ok(match &known {
                    Some(known) => Stored::read_after(tx, &asked, known)?,
                    None => Stored::read(tx, &asked)?,
                })
            })
            .await?;
        let (inner, asked) = (Arc::clone(&self.inner), group.clone());
        let mut turn = turn;
        let (turn, followed) = self
            .judge(caller, move || {
                // Taken out, so that nothing is left of it if this fails half way.
                let held = turn.take();
                let followed = stored.lead_on(&inner.crypto, &asked, held);
                let followed = followed.map(|held| *turn = Some(held));
                (turn, followed)
            })
            .await?;
        if let Err(fault) = followed {
            if matches!(fault, Fault::Unfollowable) {
                crate::metrics::unfollowable();
            }
            return Err(fault.into());
        }
        let is_there = turn.as_ref().is_some_and(|held| held.known().is_at(row));
        Ok(is_there.then_some(turn))
    }

    /// Lets the state in memory follow what was accepted, and stores behind it what is due. Whoever comes next waits for the
    /// former.
    pub(super) fn follow(
        &self,
        group: GroupId,
        mut turn: Turn,
        follow: impl FnOnce(&mut Held) -> Result<(), Fault> + Send + 'static,
    ) {
        let service = self.clone();
        tokio::spawn(async move {
            let followed = tokio::task::spawn_blocking(move || {
                // Taken out, so that nothing is left of it if this fails half way.
                if let Some(mut held) = turn.take()
                    && follow(&mut held).is_ok()
                {
                    let tree_bytes = held.ratchet_tree_bytes();
                    *turn = Some(held);
                    return (turn, tree_bytes);
                }
                (turn, 0)
            });
            let Ok((turn, tree_bytes)) = followed.await else {
                return;
            };
            service.store_state(&group, turn, false).await;
            for (group, place) in service.inner.states.weigh(&group, tree_bytes) {
                service.store_state(&group, place.lock_owned().await, true).await;
            }
        });
    }

    /// Stores what is due of a state, or all that is not stored.
    async fn store_state(&self, group: &GroupId, mut turn: Turn, everything: bool) {
        let inner = Arc::clone(&self.inner);
        let storing = self.inner.states.storing.read().await;
        let unwritten = tokio::task::spawn_blocking(move || {
            let unwritten = turn
                .as_mut()
                .and_then(|held| held.take_unwritten(&inner.crypto, everything).transpose())
                .transpose();
            if unwritten.is_err() {
                *turn = None;
            }
            unwritten
        });
        let Ok(Ok(Some(unwritten))) = unwritten.await else {
            return;
        };
        let written = self.write_state(group, unwritten).await;
        // Not beside a turn.
        drop(storing);
        if let Err(error) = written {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "a group's state was not stored"
            );
            // It is made again from what is stored.
            *self.turn(group).await = None;
        }
    }

    async fn write_state(&self, group: &GroupId, unwritten: Unwritten) -> Result<(), ServiceError> {
        if let Some((seq, _)) = &unwritten.snapshot {
            self.keep_vouched_trees(group, *seq).await?;
        }
        let group = group.clone();
        let written = self.inner.store.write(move |tx| {
            for (seq, tree) in &unwritten.trees {
                tx.insert_tree(&group, *seq, tree)?;
            }
            if let Some((seq, snapshot)) = &unwritten.snapshot {
                tx.set_snapshot(&group, *seq, snapshot)?;
            }
            Ok(())
        });
        written.await
    }

    /// What the state of a group after a row can be made of, where none after a later one has been stored.
    pub(super) async fn stored_up_to(&self, group: &GroupId, seq: u64) -> Result<Stored, ServiceError> {
        let asked = group.clone();
        let mut stored = self
            .inner
            .store
            .read(move |tx| Ok(Stored::read(tx, &asked)?))
            .await?;
        stored.rows.retain(|row| row.seq <= seq);
        Ok(stored)
    }

    /// Keeps the ratchet trees of epochs that there are vouchers for, before a snapshot of the state after row `seq` takes the place
    /// of the one that they can be made of.
    async fn keep_vouched_trees(&self, group: &GroupId, seq: u64) -> Result<(), ServiceError> {
        let asked = group.clone();
        let vouched = self.inner.store.read(move |tx| {
            let mut found = Vec::new();
            for epoch in tx.vouched_epochs(&asked)? {
                let (led_to_by, _) = commit_to(tx, &asked, epoch)?;
                if led_to_by < seq {
                    found.push((epoch, led_to_by));
                }
            }
            Ok(found)
        });
        for (epoch, led_to_by) in vouched.await? {
            let stored = self.stored_up_to(group, led_to_by).await?;
            let (inner, asked) = (Arc::clone(&self.inner), group.clone());
            let made = tokio::task::spawn_blocking(move || {
                let held = stored.lead_on(&inner.crypto, &asked, None)?;
                let is_there = held.commit_seq() == led_to_by;
                let tree = is_there.then(|| held.ratchet_tree()).transpose()?;
                Ok(tree.and_then(|tree| larder_judge::compress(&tree)))
            });
            let tree = match made.await.map_err(|_| Fault::Closed)? {
                // The voucher is lost, and the state is not.
                Err(Fault::Unfollowable) => None,
                made => made?,
            };
            if let Some(tree) = tree {
                let asked = group.clone();
                self.inner
                    .store
                    .write(move |tx| Ok(tx.keep_vouched_tree(&asked, epoch, &tree)?))
                    .await?;
            }
        }
        Ok(())
    }
}

/// A fault leaves open what has become of the transaction: the state is read from the store again.
pub(super) fn evict_if_unknown(mut turn: Turn, error: ServiceError) -> ServiceError {
    if matches!(error, ServiceError::Fault(_)) {
        *turn = None;
    }
    error
}
