use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use larder_wire::{Inbox, InboxKind, InboxRow, ProblemType, UserName};

use crate::connection::MlsConnection;
use crate::core::{self, Due, Fate, Outcome, Purpose, QueuedMessages, Settled, Taken, Verdict};
use crate::error::{Error, NotTheServer};
use crate::transport::{Accepted, Claim};
use crate::types::{GroupKey, GroupState, Synced};

/// How often one sync sends, catches up and makes requests again before it leaves the rest to the next one.
const ROUNDS_MAX: u32 = 16;

/// Inbox rows asked for at once. The server would give more; fewer keep an answer small when they are Commits of a large
/// group.
const PAGE_ROWS: u32 = 64;

/// One sync takes over so many answers of the inbox, and leaves the rest to the next one: an inbox may have no end.
const PAGES_MAX: u32 = 1024;

/// What happened so far.
#[derive(Default)]
pub(super) struct Progress {
    synced: Synced,
    settled: Vec<Settled>,
    /// The server was at an earlier epoch of a group than this device: its part of the outbox is set aside.
    set_aside: bool,
    /// Answers of the inbox that were taken over.
    pages: u32,
    /// Attempts to rejoin a group.
    pub(super) rejoins: BTreeMap<GroupKey, u32>,
    /// Groups that were left, and the server was asked for this device's leaf there.
    pub(super) leaves_asked: BTreeSet<GroupKey>,
    /// Lists of devices that were fetched.
    pub(super) lists: u32,
    /// Users whose lists were fetched and not believed.
    pub(super) distrusted: Vec<UserName>,
    /// The rows of files that have failed.
    pub(super) files_not_sent: Vec<(i64, Error)>,
}

impl Progress {
    pub(super) fn take(&mut self, id: i64) -> Option<Outcome> {
        let at = self.settled.iter().position(|settled| settled.id == id)?;
        Some(self.settled.swap_remove(at).outcome)
    }

    /// # Errors
    /// [`NotTheServer::WentBack`], when something was set aside.
    pub(super) fn require_nothing_set_aside(&self) -> Result<(), Error> {
        match self.set_aside {
            true => Err(NotTheServer::WentBack.into()),
            false => Ok(()),
        }
    }
}

impl MlsConnection {
    /// Sends what is in the outbox, takes over the inbox, and does what follows from it: makes requests again that lost
    /// a race, looks up the devices of users that it does not know yet, commits for members who asked to leave and for users
    /// who removed a device, joins the groups of its user's other devices, rejoins groups that this device lost track of,
    /// replaces its own leaf by a fresh one where that is due, and refreshes the pool: at the first call, after the server was
    /// gone, after every Welcome, even one that failed, and when the server says that the pool runs low.
    ///
    /// A leaf that a Welcome brought is replaced at once (RFC 9750 §5.1), and a later one under which something was sent after
    /// 7 days, or an hour for each member if that is more, ± a seventh: so a copy of this device's state reads no further.
    /// That goes by the server's clock, and waits while it and this computer's are more than a day apart.
    ///
    /// Each inbox row is one transaction with its effects; rows are acknowledged once they are stored. Call it at the
    /// start, whenever [`wait`](Self::wait) says so, after the network was gone, and once an hour.
    ///
    /// # Errors
    /// [`Error::Unreachable`] and [`Error::Refused`], with what was done so far kept: call it again. A fresh leaf that lost
    /// a race and a refresh of the pool that failed are left to the next sync; the latter not before the time that the
    /// server asked for.
    pub async fn sync(&self) -> Result<Synced, Error> {
        let mut progress = Progress::default();
        let synced = {
            let _operation = self.0.operation.lock().await;
            self.pump_and_update(&mut progress).await
        };
        // Where the server was not, or will not have this device, another attempt is for another time.
        let reachable = !matches!(
            synced,
            Err(Error::Unreachable(_) | Error::NotTheServer(_) | Error::UnknownAccount)
        );
        if reachable
            && self.refresh_is_due()
            && let Err(error) = self.refresh_key_packages().await
        {
            tracing::warn!(code = error.code(), "the pool could not be refreshed");
        }
        self.note_outage(synced.map(|()| progress.synced))
    }

    /// The rounds of a sync, and then one attempt to replace the leaves that are stale.
    async fn pump_and_update(&self, progress: &mut Progress) -> Result<(), Error> {
        self.pump_and_upload(progress).await?;
        if self.0.core.write(core::stage_updates).await? {
            self.pump(progress).await?;
        }
        progress.require_nothing_set_aside()
    }

    /// The rounds of a sync, and then what waits for them: files, which may be large.
    pub(super) async fn pump_and_upload(&self, progress: &mut Progress) -> Result<(), Error> {
        self.pump(progress).await?;
        if self.upload_due(progress).await? {
            self.pump(progress).await?;
        }
        Ok(())
    }

    /// Works until a request of the outbox has ended; `None` when it did not within the bounds of one sync.
    pub(super) async fn settle(&self, id: i64) -> Result<Option<Outcome>, Error> {
        let mut progress = Progress::default();
        self.flush(&mut progress).await?;
        if let Some(outcome) = progress.take(id) {
            return Ok(Some(outcome));
        }
        self.pump(&mut progress).await?;
        if let Some(outcome) = progress.take(id) {
            return Ok(Some(outcome));
        }
        self.left_waiting(id, &progress).await
    }

    /// The same for several requests, which go out together where they can. What ends before something else fails has ended.
    pub(super) async fn settle_each(&self, ids: &[i64]) -> Vec<Result<Option<Outcome>, Arc<Error>>> {
        let mut progress = Progress::default();
        let mut failure = self.flush(&mut progress).await.err();
        let has_all = |progress: &Progress| {
            let ended = |id: &i64| progress.settled.iter().any(|settled| settled.id == *id);
            ids.iter().all(ended)
        };
        if failure.is_none() && !has_all(&progress) {
            failure = self.pump(&mut progress).await.err();
        }
        let failure = failure.map(Arc::new);
        let mut outcomes = Vec::with_capacity(ids.len());
        for id in ids {
            outcomes.push(match (progress.take(*id), &failure) {
                (Some(outcome), _) => Ok(Some(outcome)),
                (None, Some(error)) => Err(Arc::clone(error)),
                (None, None) => self.left_waiting(*id, &progress).await.map_err(Arc::new),
            });
        }
        outcomes
    }

    /// What it means that a request has not ended within the bounds of one sync; `None` while it waits.
    async fn left_waiting(&self, id: i64, progress: &Progress) -> Result<Option<Outcome>, Error> {
        // A row that is gone without an outcome went with the group: this device was removed meanwhile.
        if !self.0.core.write(move |tx, _| core::waits(tx, id)).await? {
            return Ok(Some(Outcome::NotActive(GroupState::Left)));
        }
        progress.require_nothing_set_aside()?;
        Ok(None)
    }

    /// The rounds of a sync, of a profile that is no older copy, or not any more. The outbox goes first: nothing is taken from
    /// the inbox while the fate of a Commit of ours is not known.
    pub(super) async fn pump(&self, progress: &mut Progress) -> Result<(), Error> {
        self.restore_if_behind(progress).await?;
        self.0.core.write(|tx, _| core::take_up(tx)).await?;
        match self.rounds(progress).await {
            Err(Error::Refused(problem))
                if matches!(
                    problem.problem_type,
                    ProblemType::StateBehind | ProblemType::OtherIncarnation
                ) =>
            {
                self.restore_if_behind(progress).await?;
                self.rounds(progress).await
            }
            done => done,
        }
    }

    async fn rounds(&self, progress: &mut Progress) -> Result<(), Error> {
        let core = &self.0.core;
        for _ in 0..ROUNDS_MAX {
            self.flush(progress).await?;
            self.tell_of_blocks().await?;
            self.drain(progress).await?;
            self.check_devices(progress).await?;
            self.follow_groups(progress).await?;
            self.settle_epochs().await?;
            let (settled, ready) = core.write(core::remake).await?;
            progress.settled.extend(settled);
            self.ask_about_denials().await?;
            self.ask_about_listed().await?;
            let rejoining = self.rejoin(progress).await?;
            self.forget_introduction().await?;
            let adding = self.add_own_devices().await?;
            let leaving = self.leave_as_told(progress).await?;
            let for_others = self.0.others_first.left().is_some();
            let queued = core
                .write(move |tx, context| core::housekeeping(tx, context, for_others))
                .await?;
            if ready == 0 && !rejoining && !adding && !leaving && !queued {
                // What the last steps finished may have freed a request that waited behind it.
                if !core.write(|tx, _| core::is_due(tx)).await? {
                    return Ok(());
                }
            }
        }
        tracing::warn!("a sync left work to the next one");
        Ok(())
    }

    /// Sends what is due, in order, and takes over each answer in one transaction. What is neither accepted nor refused for good
    /// stays in the outbox, with all that is behind it.
    async fn flush(&self, progress: &mut Progress) -> Result<(), Error> {
        let core = &self.0.core;
        let transport = &self.0.transport;
        while let Some((claim, due)) = transport.claim(|tx, _| core::next_due(tx)).await? {
            let Delivered { verdicts, hindrance } = self.deliver(claim, due).await?;
            let fates: Vec<Fate> = core
                .write(move |tx, context| {
                    let fates = verdicts
                        .into_iter()
                        .map(|(id, verdict)| core::settle(tx, context, id, verdict));
                    fates.collect()
                })
                .await?;
            for fate in fates {
                let settled = match fate {
                    Fate::Ended(settled) => settled,
                    Fate::Again => continue,
                    Fate::ServerIsBehind => {
                        progress.set_aside = true;
                        continue;
                    }
                };
                progress.synced.flushed += 1;
                let done = u64::from(matches!(settled.outcome, Outcome::Done));
                match settled.purpose {
                    Purpose::Proposals => progress.synced.committed += done,
                    Purpose::Rejoin => progress.synced.rejoined += done,
                    Purpose::Update => progress.synced.updated += done,
                    Purpose::Asked => {}
                }
                progress.settled.push(settled);
            }
            if let Some(error) = hindrance {
                return Err(error);
            }
        }
        Ok(())
    }

    async fn deliver(&self, claim: Claim<'_>, due: Due) -> Result<Delivered, Error> {
        let transport = &self.0.transport;
        let (ids, answers) = match due {
            Due::Request(request) => {
                let id = request.id;
                (vec![id], vec![transport.deliver(claim, request).await])
            }
            Due::Messages(QueuedMessages { path, ids, messages }) => {
                let answers = match transport.deliver_messages(claim, &path, messages).await {
                    Ok(answers) => answers,
                    Err(Error::Refused(problem)) => {
                        let each = ids.iter().map(|_| Err(Error::Refused(problem.clone())));
                        each.collect()
                    }
                    Err(other) => return Err(other),
                };
                (ids, answers)
            }
        };
        let mut delivered = Delivered::default();
        for (id, answer) in ids.into_iter().zip(answers) {
            match verdict(answer) {
                Ok(verdict) => delivered.verdicts.push((id, verdict)),
                Err(hindrance) => {
                    delivered.hindrance = Some(hindrance);
                    break;
                }
            }
        }
        Ok(delivered)
    }

    /// Takes over inbox rows until there are none, or one sync has taken over very many. Whether there are more.
    ///
    /// # Errors
    /// [`NotTheServer::LeavesOut`] and [`NotTheServer::WentBack`], with all taken over that could be.
    pub(super) async fn drain(&self, progress: &mut Progress) -> Result<bool, Error> {
        if self.0.tell_everything.swap(false, Ordering::Relaxed) {
            self.0.core.write(|tx, _| core::tell_everything_again(tx)).await?;
        }
        // Rows that are known come once more where the server has forgotten that they are; no more than that.
        let (mut told_again, mut went_back) = (false, false);
        while progress.pages < PAGES_MAX {
            progress.pages += 1;
            let inbox = self.acknowledge_and_next(PAGE_ROWS).await?;
            let (mut over, mut known, mut beyond) = (false, false, false);
            for row in inbox.rows {
                match self.take_over(row, progress).await? {
                    Taken::Over(applied) => {
                        over = true;
                        went_back |= applied.went_back;
                    }
                    Taken::Again => over = true,
                    Taken::Known => known = true,
                    Taken::Beyond => beyond = true,
                }
            }
            if over {
                told_again = false;
            } else if beyond {
                return Err(NotTheServer::LeavesOut.into());
            } else if known && !told_again {
                told_again = true;
            } else if went_back {
                return Err(NotTheServer::WentBack.into());
            } else {
                return Ok(false);
            }
        }
        tracing::warn!("the inbox has more than one sync takes over");
        Ok(true)
    }

    /// Tells the server what has taken effect here, and gets what comes after it.
    pub(super) async fn acknowledge_and_next(&self, rows: u32) -> Result<Inbox, Error> {
        let (core, transport) = (&self.0.core, &self.0.transport);
        let mail = Some(self.0.mail_read.load(Ordering::Relaxed)).filter(|mail| *mail > 0);
        let Some(acknowledgement) = core.write(move |tx, _| core::unacknowledged(tx, mail)).await? else {
            return transport.next(rows, Duration::ZERO).await;
        };
        let positions = acknowledgement.groups.clone();
        match transport.acknowledge_and_next(acknowledgement, rows).await {
            Ok(inbox) => {
                core.write(move |tx, _| core::acknowledged(tx, &positions))
                    .await?;
                if let Some(mail) = mail {
                    // Unless more has come meanwhile.
                    let _ = self
                        .0
                        .mail_read
                        .compare_exchange(mail, 0, Ordering::Relaxed, Ordering::Relaxed);
                }
                Ok(inbox)
            }
            Err(Error::Refused(problem)) if problem.problem_type == ProblemType::PositionAhead => {
                core.write(move |tx, context| core::go_back(tx, context, &problem.positions))
                    .await?;
                Err(NotTheServer::WentBack.into())
            }
            Err(other) => Err(other),
        }
    }

    pub(super) async fn take_over(&self, row: InboxRow, progress: &mut Progress) -> Result<Taken, Error> {
        let tree = match (row.kind, &row.group_id) {
            (InboxKind::Welcome, Some(group)) => self.tree_for(group, row.body.0.clone()).await?,
            _ => None,
        };
        let mail = row.group_id.is_none().then_some(row.seq);
        let counts = row.kind != InboxKind::Passed;
        let core = &self.0.core;
        let (taken, row) = core
            .write(move |tx, context| {
                let taken = core::apply(tx, context, &row, tree.as_deref())?;
                Ok((taken, row))
            })
            .await?;
        let taken = match taken {
            Some(taken) => taken,
            None => {
                if let Some(group) = &row.group_id {
                    self.settle_doubt(group, Some(row.seq)).await?;
                }
                core.write(move |tx, context| core::apply_doubtful(tx, context, &row))
                    .await?
            }
        };
        if let Taken::Over(applied) = &taken {
            if let Some(seq) = mail {
                self.0.mail_read.fetch_max(seq, Ordering::Relaxed);
            }
            progress.synced.rows += u64::from(counts);
            progress.synced.joined += u64::from(applied.joined);
            if applied.refresh {
                self.0.refresh_due.store(true, Ordering::Relaxed);
            }
            if applied.own_devices {
                self.0.groups_due.store(true, Ordering::Relaxed);
            }
            if applied.unknown_group {
                self.0.own_groups_due.store(true, Ordering::Relaxed);
            }
            if applied.own_devices || applied.joined {
                self.0.own_devices_due.store(true, Ordering::Relaxed);
            }
        }
        Ok(taken)
    }

    /// The tree that a Welcome needs. A server that does not give it says so for good; one that cannot be reached is
    /// asked again, and the Welcome waits.
    async fn tree_for(&self, group: &GroupKey, welcome: Vec<u8>) -> Result<Option<Vec<u8>>, Error> {
        let core = &self.0.core;
        let epoch = core.write(move |tx, context| core::welcome_epoch(tx, context, &welcome));
        // What cannot be opened is not joined with any tree.
        let Some(epoch) = epoch.await? else {
            return Ok(None);
        };
        match self.0.transport.ratchet_tree(group, epoch).await {
            Ok(tree) => Ok(Some(tree)),
            Err(Error::Refused(problem)) => match problem.problem_type {
                ProblemType::RateLimited | ProblemType::Unauthenticated | ProblemType::DeviceRemoved => {
                    Err(Error::Refused(problem))
                }
                _ => Ok(None),
            },
            Err(other) => Err(other),
        }
    }
}

/// What became of what was sent.
#[derive(Default)]
struct Delivered {
    verdicts: Vec<(i64, Verdict)>,
    /// Why what is behind those stays in the outbox.
    hindrance: Option<Error>,
}

/// What an answer means for good.
fn verdict(answer: Result<Accepted, Error>) -> Result<Verdict, Error> {
    match answer {
        Ok(accepted) => Ok(Verdict::Accepted(accepted)),
        Err(Error::Refused(problem)) => match problem.problem_type {
            ProblemType::WrongEpoch => Ok(Verdict::WrongEpoch(problem.current_epoch)),
            other if is_final(other) => Ok(Verdict::Refused(problem)),
            _ => Err(Error::Refused(problem)),
        },
        Err(other) => Err(other),
    }
}

/// Whether a request that was refused for this reason will be refused for ever: not if it is to be made later, or after the
/// session is mended.
pub(super) fn is_final(problem: ProblemType) -> bool {
    !matches!(
        problem,
        ProblemType::RateLimited
            | ProblemType::Unauthenticated
            | ProblemType::DeviceRemoved
            | ProblemType::StateBehind
            | ProblemType::OtherIncarnation
            | ProblemType::Unavailable
    )
}
