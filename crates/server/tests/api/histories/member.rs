//! A founding member of a group: it invites, removes, writes, and gives others' KeyPackages a try.

use std::sync::Arc;

use larder_wire::{
    DeviceOutcome, GroupId, Inbox, InboxKind, InboxRow, Position, ProblemType, Reserved, SpendRequest,
};
use openmls::prelude::{LeafNodeIndex, MlsGroup};
use proptest::sample::Index;

use super::group;
use super::key_package;
use super::plan::Step;
use super::recorder::{Asked, Fate, last};
use super::world::{Disclosed, Message, World, identity, refusal, sha256};
use crate::support::{Answer, Device};

pub(super) struct Member {
    pub(super) device: Device,
    pub(super) group: MlsGroup,
    pub(super) gid: GroupId,
    world: Arc<World>,
    reserved: Vec<Disclosed>,
    /// What it has found in its inbox, to be counted in the end.
    pub(super) found: Vec<InboxRow>,
    texts: u32,
}

impl Member {
    pub(super) fn new(world: &Arc<World>, device: Device, group: MlsGroup, gid: GroupId) -> Self {
        Self {
            device,
            group,
            gid,
            world: Arc::clone(world),
            reserved: Vec::new(),
            found: Vec::new(),
            texts: 0,
        }
    }

    pub(super) async fn take(&mut self, step: Step, fate: Fate) {
        match step {
            Step::Reserve(at) => self.reserve(at, fate).await,
            Step::Add(at) => {
                if !self.reserved.is_empty() {
                    self.add(at.get(&self.reserved).clone(), fate).await;
                }
            }
            Step::AddAnothers(at) => {
                if let Some(another) = self.anybodys(at) {
                    self.add(another, fate).await;
                }
            }
            Step::Update => {
                let request = self.device.stage_update(&mut self.group);
                self.commit(request, None, None, fate).await;
            }
            Step::Abandon(at) => {
                if let Some(reservation) = self.anybodys(at) {
                    self.abandon(&reservation, fate).await;
                }
            }
            Step::Spend(at) => {
                if !self.reserved.is_empty() {
                    self.spend(at.get(&self.reserved).clone(), fate).await;
                }
            }
            Step::Say => self.say(fate).await,
            Step::Ask => self.ask(fate).await,
        }
    }

    fn anybodys(&self, at: Index) -> Option<Disclosed> {
        let disclosed = self.world.disclosed.lock().unwrap();
        (!disclosed.is_empty()).then(|| at.get(&disclosed).clone())
    }

    async fn reserve(&mut self, at: Index, fate: Fate) {
        let owner = at.index(self.world.owners.len());
        let request = self
            .device
            .reserve_request(&[&self.world.owners[owner]], &self.gid);
        let key = uuid::Uuid::new_v4().to_string();
        let http = &self.device.http;
        let send = || http.post_with_key("/v1/key-packages/reserve", &key, &request);
        let asked = self.world.recorder.ask(fate, send).await;
        // The owner may have withdrawn it before the answer was asked for again.
        let lapsed = |answer: &Answer| answer.status == ProblemType::ReservationLapsed.status();
        let taken = match lapsed(last(&asked)) {
            true => None,
            false => match given(last(&asked), owner) {
                Some(taken) => Some(taken),
                None => return,
            },
        };
        let key_package_ref = match &taken {
            Some(taken) => taken.key_package_ref.clone(),
            None => last(&asked).refused(ProblemType::ReservationLapsed).refs[0].clone(),
        };
        let op = key_package::Op::Reserve {
            by: identity(&self.device),
            group: self.gid.clone(),
            key: key.clone(),
        };
        // Each sending gets the same one; another one would have nobody who asked for it.
        let happened = asked.iter().filter_map(|asked| {
            asked.about(op.clone(), |answer| {
                if lapsed(answer) {
                    return None;
                }
                let given = given(answer, owner).expect("a retry gets what the first got");
                assert_eq!(given.key_package_ref, key_package_ref, "S2");
                Some(key_package::Answer::Given {
                    bytes: given.bytes,
                    until: answer.ok::<Reserved>().expires_at,
                })
            })
        });
        self.world.recorder.key_package(&key_package_ref, happened);
        if let Some(taken) = taken {
            self.world.disclosed.lock().unwrap().push(taken.clone());
            self.reserved.push(taken);
        }
    }

    fn leaf_of(&self, device: &Device) -> Option<LeafNodeIndex> {
        let identity = identity(device).into_bytes();
        let mut members = self.group.members();
        let found = members.find(|member| member.credential.serialized_content() == identity);
        found.map(|member| member.index)
    }

    async fn add(&mut self, taken: Disclosed, fate: Fate) {
        if let Some(leaf) = self.leaf_of(&self.world.owners[taken.owner]) {
            let request = self.device.stage_remove(&mut self.group, leaf);
            self.commit(request, None, Some(taken.owner), fate).await;
        } else {
            let key_package = self.device.validate(&taken.bytes);
            let request = self.device.stage_adds(&mut self.group, vec![key_package]);
            self.commit(request, Some(&taken), None, fate).await;
        }
    }

    async fn commit(
        &mut self,
        request: larder_wire::CommitRequest,
        added: Option<&Disclosed>,
        removed: Option<usize>,
        fate: Fate,
    ) {
        let (id, epoch) = (sha256(&request.commit.0), self.group.epoch().as_u64());
        let welcome = request.welcome.as_ref().map(|welcome| sha256(&welcome.0));
        let message = Message::Commit {
            sender: identity(&self.device),
            added: added.map(|added| added.owner).zip(welcome),
            removed,
        };
        self.world.note(id.clone(), message);
        let send = || self.device.post_commit(&self.gid, &request);
        let asked = self.world.recorder.ask(fate, send).await;

        let of_group = asked.iter().filter_map(|asked| {
            let op = group::Op::Commit {
                id: id.clone(),
                epoch,
            };
            asked.about(op, |answer| Some(World::of_commit(answer)))
        });
        self.world.recorder.group(&self.gid, of_group);
        if let Some(added) = added {
            let of_key_package = asked.iter().filter_map(|asked| {
                let op = key_package::Op::Commit {
                    by: identity(&self.device),
                    group: self.gid.clone(),
                    sha256: id.clone(),
                };
                asked.about(op, of_added)
            });
            self.world
                .recorder
                .key_package(&added.key_package_ref, of_key_package);
        }

        match World::of_commit(last(&asked)) {
            group::Answer::Accepted { .. } => self.device.merge(&mut self.group),
            _ => {
                self.device.clear(&mut self.group);
                self.catch_up().await;
            }
        }
    }

    async fn abandon(&self, reservation: &Disclosed, fate: Fate) {
        let path = format!("/v1/reservations/{}/abandon", reservation.reservation_id);
        let send = || self.device.http.post(&path, &());
        let asked = self.world.recorder.ask(fate, send).await;
        let op = key_package::Op::Abandon {
            by: identity(&self.device),
        };
        self.about(reservation, &asked, &op);
    }

    async fn spend(&self, reservation: Disclosed, fate: Fate) {
        let path = format!("/v1/reservations/{}/spend", reservation.reservation_id);
        let request = SpendRequest {
            refs: vec![reservation.key_package_ref.clone()],
            group_id: self.gid.clone(),
        };
        let send = || self.device.http.post(&path, &request);
        let asked = self.world.recorder.ask(fate, send).await;
        let op = key_package::Op::Spend {
            by: identity(&self.device),
            group: self.gid.clone(),
        };
        self.about(&reservation, &asked, &op);
    }

    fn about(&self, reservation: &Disclosed, asked: &[Asked], op: &key_package::Op) {
        let happened = asked
            .iter()
            .filter_map(|asked| asked.about(op.clone(), |answer| Some(of_reservation(answer))));
        self.world
            .recorder
            .key_package(&reservation.key_package_ref, happened);
    }

    async fn say(&mut self, fate: Fate) {
        self.texts += 1;
        let text = format!("{} of {}", self.texts, self.device.user);
        let epoch = self.group.epoch().as_u64();
        let bytes = self.device.encrypt(&mut self.group, &text);
        let id = sha256(&bytes);
        let message = Message::Text {
            sender: identity(&self.device),
            epoch,
        };
        self.world.note(id.clone(), message);
        let send = || self.device.post_message(&self.gid, &bytes);
        let asked = self.world.recorder.ask(fate, send).await;
        let happened = asked.iter().filter_map(|asked| {
            let op = group::Op::Message {
                id: id.clone(),
                epoch,
            };
            asked.about(op, |answer| Some(World::of_message(answer)))
        });
        self.world.recorder.group(&self.gid, happened);
        if matches!(World::of_message(last(&asked)), group::Answer::WrongEpoch { .. }) {
            self.catch_up().await;
        }
    }

    pub(super) async fn ask(&self, fate: Fate) {
        let send = || self.device.get_group_info(&self.gid);
        let asked = self.world.recorder.ask(fate, send).await;
        let happened = asked
            .iter()
            .filter_map(|asked| asked.about(group::Op::Info, |answer| Some(World::of_info(answer))));
        self.world.recorder.group(&self.gid, happened);
    }

    /// Follows the others' Commits.
    async fn catch_up(&mut self) {
        for row in read_all(&self.device).await {
            if row.kind == InboxKind::Commit {
                self.device.process(&mut self.group, &row.body.0);
            }
            self.found.push(row);
        }
    }
}

/// Reads an inbox to its end, page by page, and acknowledges it.
pub(super) async fn read_all(device: &Device) -> Vec<InboxRow> {
    let mut rows: Vec<InboxRow> = Vec::new();
    loop {
        let page = device.every_row().await;
        if page.is_empty() {
            return rows;
        }
        let mut acknowledgement = device.acknowledgement();
        for row in page {
            match &row.group_id {
                Some(group_id) => acknowledgement.groups.push(Position {
                    group_id: group_id.clone(),
                    seq: row.seq,
                }),
                None => acknowledgement.mail = Some(row.seq),
            }
            rows.push(row);
        }
        device.acknowledge(acknowledgement).await.ok::<Inbox>();
    }
}

/// The KeyPackage that a reservation holds, if it holds one.
fn given(answer: &Answer, owner: usize) -> Option<Disclosed> {
    let reserved: Reserved = answer.ok();
    let device = &reserved.users[0].devices[0];
    if device.outcome != DeviceOutcome::Ok {
        assert_eq!(device.outcome, DeviceOutcome::Exhausted);
        return None;
    }
    Some(Disclosed {
        key_package_ref: device.key_package_ref.clone().expect("a reference"),
        bytes: device.key_package.clone().expect("a KeyPackage").0,
        owner,
        reservation_id: reserved.reservation_id.clone().expect("a reservation"),
    })
}

/// What an answer to a Commit says of the KeyPackage that it adds. One for another epoch did not come to it.
fn of_added(answer: &Answer) -> Option<key_package::Answer> {
    match World::of_commit(answer) {
        group::Answer::Accepted { .. } => Some(key_package::Answer::Done),
        group::Answer::KeyPackagesRefused => Some(of_reservation(answer)),
        _ => None,
    }
}

fn of_reservation(answer: &Answer) -> key_package::Answer {
    if matches!(answer.status, 200 | 204) {
        return key_package::Answer::Done;
    }
    match refusal(answer) {
        ProblemType::AlreadySpent => key_package::Answer::AlreadySpent,
        ProblemType::ReservationLapsed => key_package::Answer::ReservationLapsed,
        ProblemType::NotFound => key_package::Answer::NotFound,
        other => panic!("a refusal that is none of a reservation: {other:?}"),
    }
}
