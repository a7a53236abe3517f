use std::sync::Arc;

use larder_wire::{
    Accepted, Base64Url, CommitRequest, CreateGroupRequest, EpochAnswer, GroupCreated, GroupId,
    GroupInfoAnswer, HANDSHAKES_PAGE_ROWS_MAX, Handshake, Handshakes, Membership, Memberships, Problem,
    ProblemType, Sent, TREE_BYTES_MAX,
};
use tokio::sync::OwnedMutexGuard;

use super::{Caller, Service};
use crate::accounts::{self, answered_once};
use crate::delivery::state::Held;
use crate::delivery::{self, Offer, OfferedMessage, OfferedProposal, Standing};
use crate::error::{Fault, ServiceError};
use crate::store::{GroupRow, Part, Tx};

/// What was judged against a state that is not the present one any more is judged again, this often.
const ATTEMPTS_MAX: u32 = 3;
/// An answer with Commits and proposals ends with the one that reaches this size, in bytes.
const HANDSHAKES_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The state of a group, for the one who judges against it.
type Turn = OwnedMutexGuard<Option<Held>>;

/// Groups.
impl Service {
    /// Creates a group with the caller as its only member. Refuses with `malformed`, `too-large`, `invalid-commit`,
    /// `group-exists` or `idempotency-mismatch`.
    pub async fn create_group(
        &self,
        caller: &Caller,
        idempotency_key: String,
        request: CreateGroupRequest,
    ) -> Result<GroupCreated, ServiceError> {
        let (inner, device, now) = (Arc::clone(&self.inner), Arc::clone(&caller.device), self.now());
        let request = Arc::new(request);
        let asked = Arc::clone(&request);
        // What is refused may be an answer that was given before under this key.
        let judged = self
            .judge(caller, move || {
                delivery::judge_new_group(&inner.crypto, &inner.suites, &device, &asked)
            })
            .await?;
        let judged = match judged {
            Err(ServiceError::Fault(fault)) => return Err(fault.into()),
            judged => Arc::new(judged),
        };
        let device = Arc::clone(&caller.device);
        self.change(caller, move |tx| {
            answered_once(
                tx,
                device.key,
                &idempotency_key,
                ("create-group", &*request),
                now,
                || match &*judged {
                    Ok(new) => delivery::create_group(tx, &device, &request, new, now),
                    Err(ServiceError::Refused(problem)) => Err(ServiceError::Refused(problem.clone())),
                    Err(ServiceError::Fault(_)) => Err(Fault::Closed.into()),
                },
            )
        })
        .await
    }

    /// Accepts a Commit and all that belongs to it. Refuses with `malformed`, `too-large`, `not-found`, `wrong-epoch`,
    /// `invalid-commit`, `already-spent` or `reservation-lapsed`.
    pub async fn commit(
        &self,
        caller: &Caller,
        group: GroupId,
        request: CommitRequest,
    ) -> Result<Accepted, ServiceError> {
        let asked = group.clone();
        let offer = self.judge(caller, move || Offer::read(asked, request)).await?;
        let offer = self.to_members_alone(caller, &group, offer).await?;
        let (offer, now) = (Arc::new(offer), self.now());
        for _ in 0..ATTEMPTS_MAX {
            let asked = Arc::clone(&offer);
            let standing = self
                .standing(caller, &offer.group, move |tx, caller| {
                    delivery::standing_of_commit(tx, caller, &asked.group, &asked.sha256)
                })
                .await?;
            let (turn, epoch) = match standing {
                Stand::Accepted(accepted) => return Ok(accepted),
                Stand::Open(turn, epoch) => (turn, epoch),
            };
            if offer.epoch() != epoch {
                return Err(Problem::wrong_epoch(epoch).into());
            }
            let (inner, device, asked) = (
                Arc::clone(&self.inner),
                Arc::clone(&caller.device),
                Arc::clone(&offer),
            );
            let (turn, judged) = self
                .judge_in_turn(caller, turn, move |held| {
                    let judged_by = (&inner.crypto, inner.config.server_name.as_str());
                    delivery::judge_commit(judged_by, &device, held, &asked)
                })
                .await?;
            let (judged, staged) = judged?;
            let (device, asked) = (Arc::clone(&caller.device), Arc::clone(&offer));
            let accepted = self
                .change(caller, move |tx| {
                    delivery::commit(tx, &device, &asked, &judged, now)
                })
                .await;
            match accepted {
                Ok(Some(accepted)) => {
                    let (seq, has_welcome) = (accepted.seq, offer.request.welcome.is_some());
                    let bytes = offer.request.commit.0.len();
                    self.follow(offer.group.clone(), turn, move |held| {
                        held.merge(seq, bytes, *staged)?;
                        match has_welcome {
                            true => held.keep_tree(),
                            false => Ok(()),
                        }
                    });
                    return Ok(accepted);
                }
                // Another node was faster.
                Ok(None) => {}
                Err(error) => return Err(evict_if_unknown(turn, error)),
            }
        }
        Err(Fault::Busy.into())
    }

    /// Queues a standalone Remove or Update. Refuses like [`commit`](Self::commit).
    pub async fn propose(
        &self,
        caller: &Caller,
        group: GroupId,
        proposal: Vec<u8>,
    ) -> Result<Sent, ServiceError> {
        let asked = group.clone();
        let offer = self
            .judge(caller, move || OfferedProposal::read(asked, proposal))
            .await?;
        let offer = self.to_members_alone(caller, &group, offer).await?;
        let (offer, now) = (Arc::new(offer), self.now());
        for _ in 0..ATTEMPTS_MAX {
            let asked = Arc::clone(&offer);
            let standing = self
                .standing(caller, &offer.group, move |tx, caller| {
                    delivery::standing_of_proposal(tx, caller, &asked.group, &asked.sha256)
                })
                .await?;
            let (turn, epoch) = match standing {
                Stand::Accepted(sent) => return Ok(sent),
                Stand::Open(turn, epoch) => (turn, epoch),
            };
            if offer.epoch() != epoch {
                return Err(Problem::wrong_epoch(epoch).into());
            }
            let (inner, device, asked) = (
                Arc::clone(&self.inner),
                Arc::clone(&caller.device),
                Arc::clone(&offer),
            );
            let (turn, judged) = self
                .judge_in_turn(caller, turn, move |held| {
                    let judged_by = (&inner.crypto, inner.config.server_name.as_str());
                    delivery::judge_proposal(judged_by, &device, held, &asked)
                })
                .await?;
            let (judged, queued) = judged?;
            let (device, asked) = (Arc::clone(&caller.device), Arc::clone(&offer));
            let sent = self
                .change(caller, move |tx| {
                    delivery::propose(tx, &device, &asked, &judged, now)
                })
                .await;
            match sent {
                Ok(Some(sent)) => {
                    let (seq, bytes) = (sent.seq, offer.bytes.len());
                    self.follow(offer.group.clone(), turn, move |held| {
                        held.queue(seq, bytes, *queued)
                    });
                    return Ok(sent);
                }
                Ok(None) => {}
                Err(error) => return Err(evict_if_unknown(turn, error)),
            }
        }
        Err(Fault::Busy.into())
    }

    /// Delivers an application message. Refuses with `malformed`, `not-found`, `too-large`, `rate-limited` or `wrong-epoch`.
    pub async fn send_message(
        &self,
        caller: &Caller,
        group: GroupId,
        message: Vec<u8>,
    ) -> Result<Sent, ServiceError> {
        let message = OfferedMessage::read(group.clone(), message);
        let message = self.to_members_alone(caller, &group, message).await?;
        let (device, now, keep) = (Arc::clone(&caller.device), self.now(), self.keep());
        self.change(caller, move |tx| {
            delivery::send_message(tx, &device, &message, keep, now)
        })
        .await
    }

    /// The groups that the caller is a member of; or, `of_user`, that any device of its user is.
    pub async fn memberships(&self, caller: &Caller, of_user: bool) -> Result<Memberships, ServiceError> {
        let device = caller.device.key;
        let groups = self
            .inner
            .store
            .read(move |tx| {
                Ok(if of_user {
                    tx.memberships_of_user(device)?
                } else {
                    tx.memberships(device)?
                })
            })
            .await?
            .into_iter()
            .map(|row| Membership {
                group_id: row.group,
                epoch: row.epoch,
                head: row.head,
            })
            .collect();
        Ok(Memberships { groups })
    }

    /// What an external Commit needs. Refuses with `not-found`.
    pub async fn group_info(&self, caller: &Caller, group: GroupId) -> Result<GroupInfoAnswer, ServiceError> {
        for _ in 0..ATTEMPTS_MAX {
            let (device, asked) = (caller.device.key, group.clone());
            let (row, group_info) = self
                .inner
                .store
                .read(move |tx| {
                    let row = tx.group(&asked)?.ok_or(ProblemType::NotFound)?;
                    if !tx.is_member_user(&asked, device)? {
                        return Err(ProblemType::NotFound.into());
                    }
                    let group_info = tx.group_info(&asked)?;
                    Ok((
                        row,
                        group_info.ok_or(Fault::Corrupt("a group without GroupInfo"))?,
                    ))
                })
                .await?;
            let turn = self.turn(&group).await;
            let Some(turn) = self.caught_up(caller, &group, turn, row).await? else {
                continue;
            };
            let (_, ratchet_tree) = self.judge_in_turn(caller, turn, Held::ratchet_tree).await?;
            return Ok(GroupInfoAnswer {
                epoch: row.epoch,
                group_info: Base64Url(group_info),
                ratchet_tree: Base64Url(ratchet_tree?),
            });
        }
        Err(Fault::Busy.into())
    }

    /// The ratchet tree of the epoch of a Welcome that the caller has not acknowledged. Refuses with `not-found`.
    pub async fn ratchet_tree(
        &self,
        caller: &Caller,
        group: GroupId,
        epoch: u64,
    ) -> Result<Vec<u8>, ServiceError> {
        let (device, asked) = (caller.device.key, group.clone());
        let (seq, tree) = self
            .inner
            .store
            .read(move |tx| {
                let made_in = epoch.checked_sub(1).ok_or(ProblemType::NotFound)?;
                let (seq, _) = tx.commit_of(&asked, made_in)?.ok_or(ProblemType::NotFound)?;
                if !tx.is_welcomed_at(&asked, device, seq)? {
                    return Err(ProblemType::NotFound.into());
                }
                Ok((seq, tx.body(&asked, seq, Part::Tree)?))
            })
            .await?;
        if let Some(tree) = tree {
            return Ok(delivery::decompress(&tree, 2 * TREE_BYTES_MAX)?);
        }
        // It is stored behind the Commit, and not yet there.
        let turn = self.turn(&group).await;
        let is_present = turn.as_ref().is_some_and(|held| held.commit_seq() == seq);
        if is_present {
            return Ok(self.judge_in_turn(caller, turn, Held::ratchet_tree).await?.1?);
        }
        drop(turn);
        let asked = group.clone();
        let (snapshot, mut rows) = self.inner.store.read(move |tx| stored(tx, &asked, 0)).await?;
        rows.retain(|row| row.seq <= seq);
        let inner = Arc::clone(&self.inner);
        self.judge(caller, move || {
            let mut held = Held::load(&group, &snapshot)?;
            held.follow(&inner.crypto, rows)?;
            match held.commit_seq() == seq {
                true => Ok(held.ratchet_tree()?),
                // A snapshot of a later epoch has been stored, and the tree with it.
                false => Err(Fault::Busy.into()),
            }
        })
        .await?
    }

    /// The Commits and proposals that led a group on from an epoch, for a device of a member user. Refuses with `not-found`.
    pub async fn handshakes(
        &self,
        caller: &Caller,
        group: GroupId,
        from_epoch: u64,
    ) -> Result<Handshakes, ServiceError> {
        let device = caller.device.key;
        let rows = self
            .inner
            .store
            .read(move |tx| {
                if !tx.is_member_user(&group, device)? {
                    return Err(ProblemType::NotFound.into());
                }
                let after = match from_epoch.checked_sub(1) {
                    None => 0,
                    Some(made_in) => tx.commit_of(&group, made_in)?.ok_or(ProblemType::NotFound)?.0,
                };
                let most = (HANDSHAKES_PAGE_ROWS_MAX, HANDSHAKES_BYTES_MAX);
                Ok(tx.handshakes(&group, after, most)?)
            })
            .await?;
        let handshakes = rows
            .into_iter()
            .map(|row| Handshake {
                seq: row.seq,
                epoch: row.epoch,
                message: row.body.map(Base64Url),
            })
            .collect();
        Ok(Handshakes { handshakes })
    }

    /// What an epoch of a group is known by, for a device of a member user. Refuses with `not-found`.
    pub async fn epoch(
        &self,
        caller: &Caller,
        group: GroupId,
        epoch: u64,
    ) -> Result<EpochAnswer, ServiceError> {
        let device = caller.device.key;
        self.inner
            .store
            .read(move |tx| {
                if !tx.is_member_user(&group, device)? {
                    return Err(ProblemType::NotFound.into());
                }
                let (seq, hash) = match epoch.checked_sub(1) {
                    None => (0, Vec::new()),
                    Some(made_in) => tx.commit_of(&group, made_in)?.ok_or(ProblemType::NotFound)?,
                };
                Ok(EpochAnswer {
                    epoch,
                    seq,
                    confirmed_transcript_hash: Base64Url(hash),
                })
            })
            .await
    }

    /// What is wrong with something learns only who is a member, of a user in the group at least. Refuses with `not-found`, and
    /// with what a device learns whose state is behind.
    async fn to_members_alone<T>(
        &self,
        caller: &Caller,
        group: &GroupId,
        read: Result<T, ServiceError>,
    ) -> Result<T, ServiceError> {
        let refusal = match read {
            Err(ServiceError::Refused(problem)) => problem,
            other => return other,
        };
        let (device, claim, group) = (caller.device.key, caller.claim.clone(), group.clone());
        self.inner
            .store
            .read(move |tx| {
                accounts::may_follow(tx, device, claim.as_deref())?;
                match tx.is_member_user(&group, device)? {
                    true => Ok(()),
                    false => Err(ProblemType::NotFound.into()),
                }
            })
            .await?;
        Err(ServiceError::Refused(refusal))
    }

    /// Stores the states that are in memory and ahead of what is stored of them.
    pub async fn store_states(&self) {
        for (group, place) in self.inner.states.all() {
            self.store_state(&group, place.lock_owned().await, true).await;
        }
    }

    async fn judge<T: Send + 'static>(
        &self,
        caller: &Caller,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Fault> {
        self.inner.judges.run(caller.device.user_key, work).await
    }

    async fn judge_in_turn<T: Send + 'static>(
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

    async fn turn(&self, group: &GroupId) -> Turn {
        self.inner.states.place(group).lock_owned().await
    }

    /// Where a group stands, and the turn to judge against its present state.
    async fn standing<T: Send + 'static>(
        &self,
        caller: &Caller,
        group: &GroupId,
        ask: impl Fn(&Tx<'_>, &crate::store::DeviceRow) -> Result<Standing<T>, ServiceError>
        + Send
        + Sync
        + 'static,
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
            let (epoch, state_seq) = match standing {
                Standing::Accepted(answer) => return Ok(Stand::Accepted(answer)),
                Standing::Open { epoch, state_seq } => (epoch, state_seq),
            };
            let Some(turn) = turn else { continue };
            let row = GroupRow {
                epoch,
                next_seq: 0,
                state_seq,
            };
            if let Some(turn) = self.caught_up(caller, group, turn, row).await? {
                return Ok(Stand::Open(turn, epoch));
            }
        }
        Err(Fault::Busy.into())
    }

    /// The turn, with the state that the row tells of; `None` when the store has gone on meanwhile.
    async fn caught_up(
        &self,
        caller: &Caller,
        group: &GroupId,
        turn: Turn,
        row: GroupRow,
    ) -> Result<Option<Turn>, ServiceError> {
        let known = turn.as_ref().map(Held::seq);
        if known == Some(row.state_seq) {
            return Ok(Some(turn));
        }
        // A store that went back has another state.
        let from = known.filter(|known| *known < row.state_seq).unwrap_or(0);
        let asked = group.clone();
        let (snapshot, rows) = self.inner.store.read(move |tx| stored(tx, &asked, from)).await?;
        let (inner, asked) = (Arc::clone(&self.inner), group.clone());
        let mut turn = turn;
        let (turn, followed) = self
            .judge(caller, move || {
                // Taken out, so that nothing is left of it if this fails half way.
                let held = turn.take().filter(|held| from > 0 && held.seq() == from);
                let followed = held
                    .map_or_else(|| Held::load(&asked, &snapshot), Ok)
                    .and_then(|mut held| {
                        held.follow(&inner.crypto, rows)?;
                        Ok(held)
                    });
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
        Ok((turn.as_ref().map(Held::seq) == Some(row.state_seq)).then_some(turn))
    }

    /// Lets the state in memory follow what was accepted, and stores behind it what is due. Whoever comes next waits for the
    /// former.
    fn follow(
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
        let stored = group.clone();
        let written = self
            .inner
            .store
            .write(move |tx| {
                for (seq, tree) in &unwritten.trees {
                    tx.insert_tree(&stored, *seq, tree)?;
                }
                if let Some((seq, snapshot)) = &unwritten.snapshot {
                    tx.set_snapshot(&stored, *seq, snapshot)?;
                }
                Ok(())
            })
            .await;
        if let Err(error) = written {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "a group's state was not stored"
            );
            // It is made again from what is stored.
            *self.turn(group).await = None;
        }
    }
}

/// Where a group stands, for who is about to judge.
enum Stand<T> {
    Accepted(T),
    /// The turn, and the group's epoch.
    Open(Turn, u64),
}

/// What is stored of a group's public state, and the rows after that, or after `from`.
fn stored(
    tx: &Tx<'_>,
    group: &GroupId,
    from: u64,
) -> Result<((u64, Vec<u8>), Vec<crate::store::HandshakeRow>), ServiceError> {
    let snapshot = tx
        .snapshot(group)?
        .ok_or(Fault::Corrupt("a group without public state"))?;
    let rows = tx.handshakes(group, snapshot.0.max(from), (u32::MAX, usize::MAX))?;
    Ok((snapshot, rows))
}

/// A fault leaves open what has become of the transaction: the state is read from the store again.
fn evict_if_unknown(mut turn: Turn, error: ServiceError) -> ServiceError {
    if matches!(error, ServiceError::Fault(_)) {
        *turn = None;
    }
    error
}
