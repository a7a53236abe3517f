use std::sync::Arc;

use larder_wire::{
    Accepted, Base64Url, CommitRequest, CreateGroupRequest, EpochAnswer, GroupCreated, GroupId,
    GroupInfoAnswer, HANDSHAKES_PAGE_ROWS_MAX, Handshake, Handshakes, LeaveRequest, Membership, Memberships,
    MessagesSent, Problem, ProblemType, Sent, TREE_BYTES_MAX,
};

use super::states::{ATTEMPTS_MAX, Stand, evict_if_unknown};
use super::{Caller, Service};
use crate::accounts::{self, answered_once};
use crate::delivery::state::Held;
use crate::delivery::{self, Offer, Offered, OfferedMessages, OfferedProposal};
use crate::error::{Fault, ServiceError};
use crate::store::{Part, Tx};

/// A Commit with what belongs to it, or messages, of this size, in bytes, are read in less time than it takes to change to a thread that may take longer.
const READ_AT_ONCE_BYTES_MAX: usize = 16 * 1024;
/// An answer with Commits and proposals ends with the one that reaches this size, in bytes.
const HANDSHAKES_BYTES_MAX: usize = 4 * 1024 * 1024;

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
        let welcome = request.welcome.as_ref().map_or(0, |welcome| welcome.0.len());
        let size = request.commit.0.len() + welcome + request.group_info.0.len();
        let read = move || Offer::read(asked, request);
        let offer = match size <= READ_AT_ONCE_BYTES_MAX {
            true => read(),
            false => self.judge(caller, read).await?,
        };
        self.accept(caller, &group, offer).await
    }

    /// Queues a standalone Remove or Update. Refuses like [`commit`](Self::commit).
    pub async fn propose(
        &self,
        caller: &Caller,
        group: GroupId,
        proposal: Vec<u8>,
    ) -> Result<Sent, ServiceError> {
        let offer = OfferedProposal::read(group.clone(), proposal);
        self.accept(caller, &group, offer).await
    }

    /// Judges a Commit or a proposal against the group's public state, outside of any transaction, and accepts it in one, if it is
    /// still that state.
    async fn accept<O: Offered>(
        &self,
        caller: &Caller,
        group: &GroupId,
        offer: Result<O, ServiceError>,
    ) -> Result<O::Answer, ServiceError> {
        let offer = Arc::new(self.to_members_alone(caller, group, offer).await?);
        let now = self.now();
        for _ in 0..ATTEMPTS_MAX {
            let asked = Arc::clone(&offer);
            let standing = self
                .standing(caller, group, move |tx, caller| asked.standing(tx, caller))
                .await?;
            let (turn, epoch) = match standing {
                Stand::Accepted(answer) => return Ok(answer),
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
                    asked.judge(judged_by, &device, held)
                })
                .await?;
            let (judged, staged) = judged?;
            let asked = (Arc::clone(&offer), Arc::clone(&caller.device), Arc::new(judged));
            let ahead = {
                let (offer, device, judged) = asked.clone();
                move |tx: &Tx<'_>| {
                    offer.accept_ahead(tx, &device, &judged);
                    Ok(())
                }
            };
            let (asked, device, judged) = asked;
            let accepted = self
                .change_ahead(caller, ahead, move |tx| asked.accept(tx, &device, &judged, now))
                .await;
            match accepted {
                Ok(Some(answer)) => {
                    let seq = O::seq(&answer);
                    self.follow(group.clone(), turn, move |held| offer.follow(held, seq, staged));
                    return Ok(answer);
                }
                // Another node was faster.
                Ok(None) => {}
                Err(error) => return Err(evict_if_unknown(turn, error)),
            }
        }
        Err(Fault::Busy.into())
    }

    /// Delivers application messages. Refuses with `malformed` (their number), `not-found` or `rate-limited`; one of them with
    /// `malformed`, `too-large`, `wrong-epoch`, `forbidden` or `rate-limited`.
    pub async fn send_messages(
        &self,
        caller: &Caller,
        group: GroupId,
        messages: Vec<Base64Url>,
    ) -> Result<MessagesSent, ServiceError> {
        let size: usize = messages.iter().map(|message| message.0.len()).sum();
        let asked = group.clone();
        let read = move || OfferedMessages::read(asked, messages);
        let offered = match size <= READ_AT_ONCE_BYTES_MAX {
            true => read(),
            false => self.judge(caller, read).await?,
        };
        let offered = self.to_members_alone(caller, &group, offered).await?;
        let (device, now, keep) = (Arc::clone(&caller.device), self.now(), self.keep());
        let offered = Arc::new(offered);
        let ahead = {
            let (device, offered) = (Arc::clone(&device), Arc::clone(&offered));
            move |tx: &Tx<'_>| {
                delivery::send_messages_ahead(tx, &device, &offered);
                Ok(())
            }
        };
        self.change_ahead(caller, ahead, move |tx| {
            delivery::send_messages(tx, &device, &offered, keep, now)
        })
        .await
    }

    /// Takes the calling device off the roster at its own word. Refuses with `not-found`, or `forbidden` (not its word).
    pub async fn leave(
        &self,
        caller: &Caller,
        group: GroupId,
        request: LeaveRequest,
    ) -> Result<(), ServiceError> {
        let (asked, now) = (group.clone(), self.now());
        let standing = self
            .standing(caller, &group, move |tx, caller| {
                delivery::standing_of_member::<()>(tx, caller, &asked)
            })
            .await?;
        let Stand::Open(turn, _) = standing else {
            return Ok(());
        };
        let (inner, device, asked) = (Arc::clone(&self.inner), Arc::clone(&caller.device), group.clone());
        let (_, departure) = self
            .judge_in_turn(caller, turn, move |held| {
                let judged_by = (&inner.crypto, inner.config.server_name.as_str());
                delivery::judge_departure(judged_by, &device, &asked, held, request.signature.0)
            })
            .await?;
        let (departure, device) = (departure?, Arc::clone(&caller.device));
        self.change(caller, move |tx| {
            delivery::leave(tx, &device, &group, &departure, now)
        })
        .await
    }

    /// The groups that the caller is a member of; or, `of_user`, that any device of its user is.
    pub async fn memberships(&self, caller: &Caller, of_user: bool) -> Result<Memberships, ServiceError> {
        let device = caller.device.key;
        let (rows, gaps) = self
            .inner
            .store
            .read(move |tx| {
                Ok(if of_user {
                    (
                        tx.memberships_of_user(device.user())?,
                        tx.gaps_of_user(device.user())?,
                    )
                } else {
                    (tx.memberships(device)?, tx.gaps(device)?)
                })
            })
            .await?;
        let groups = rows.into_iter().map(|row| {
            let of_group = gaps.iter().filter(|(group, _)| *group == row.group);
            Membership {
                gaps: of_group.map(|(_, gap)| *gap).collect(),
                group_id: row.group,
                epoch: row.epoch,
                head: row.head,
            }
        });
        Ok(Memberships {
            groups: groups.collect(),
        })
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
                    if !tx.is_member_user(&asked, device.user())? {
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
            let Some(turn) = self.caught_up(caller, &group, turn, &row).await? else {
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

    /// The ratchet tree of the epoch of a Welcome that the caller has not acknowledged, or of a voucher that the caller has.
    /// Refuses with `not-found`.
    pub async fn ratchet_tree(
        &self,
        caller: &Caller,
        group: GroupId,
        epoch: u64,
    ) -> Result<Vec<u8>, ServiceError> {
        let (device, asked) = (caller.device.key, group.clone());
        let (seq, tree, is_welcomed) = self
            .inner
            .store
            .read(move |tx| {
                let (seq, _) = commit_to(tx, &asked, epoch)?;
                if tx.is_welcomed_at(&asked, device, seq)? {
                    return Ok((seq, tx.body(&asked, seq, Part::Tree)?, true));
                }
                match tx.vouched_tree(&asked, device, epoch)? {
                    Some(tree) if tx.is_member_user(&asked, device.user())? => Ok((seq, tree, false)),
                    Some(_) | None => Err(ProblemType::NotFound.into()),
                }
            })
            .await?;
        if let Some(tree) = tree {
            return Ok(larder_judge::decompress(&tree, 2 * TREE_BYTES_MAX)
                .ok_or(Fault::Corrupt("a ratchet tree"))?);
        }
        // It is stored behind the Commit, and not yet there.
        let turn = self.turn(&group).await;
        let is_present = turn.as_ref().is_some_and(|held| held.commit_seq() == seq);
        if is_present {
            return Ok(self.judge_in_turn(caller, turn, Held::ratchet_tree).await?.1?);
        }
        drop(turn);
        let stored = self.stored_up_to(&group, seq).await?;
        let inner = Arc::clone(&self.inner);
        self.judge(caller, move || {
            let held = stored.lead_on(&inner.crypto, &group, None)?;
            match held.commit_seq() == seq {
                true => Ok(held.ratchet_tree()?),
                // A snapshot of a later epoch has been stored, and the tree with it.
                false if is_welcomed => Err(Fault::Busy.into()),
                // The group had moved on when the voucher came.
                false => Err(ProblemType::NotFound.into()),
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
                if !tx.is_member_user(&group, device.user())? {
                    return Err(ProblemType::NotFound.into());
                }
                let (after, _) = commit_to(tx, &group, from_epoch)?;
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
                if !tx.is_member_user(&group, device.user())? {
                    return Err(ProblemType::NotFound.into());
                }
                let (seq, hash) = commit_to(tx, &group, epoch)?;
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
                match tx.is_member_user(&group, device.user())? {
                    true => Ok(()),
                    false => Err(ProblemType::NotFound.into()),
                }
            })
            .await?;
        Err(ServiceError::Refused(refusal))
    }
}

/// The row of the Commit that led to an epoch, and the confirmed transcript hash after it; 0 and none for the first epoch.
pub(super) fn commit_to(tx: &Tx<'_>, group: &GroupId, epoch: u64) -> Result<(u64, Vec<u8>), ServiceError> {
    match epoch.checked_sub(1) {
        None => Ok((0, Vec::new())),
        Some(made_in) => Ok(tx.commit_of(group, made_in)?.ok_or(ProblemType::NotFound)?),
    }
}
