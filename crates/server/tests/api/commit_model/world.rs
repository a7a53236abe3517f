//! The real server and real MLS groups, which are led through the same steps as the model.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::join_all;
use larder_wire::{
    Accepted, Base64Url, CommitRequest, DeviceOutcome, GroupId, InboxKind, KeyPackageRef, KeyPackageState,
    Problem, ProblemType, Reserved, UploadOutcome,
};
use openmls::prelude::{LeafNodeIndex, MlsGroup, OpenMlsProvider as _};
use proptest::sample::Index;

use super::model::{Commit, Model, RESERVATION_SECONDS, Stored, Verdict, Who};
use super::{DEVICES, Damage, GROUPS, HARD_CAP, Pick, Step, What};
use crate::support::{Device, KeyPackageSpec, TestServer, generous};

pub(super) struct World {
    server: TestServer,
    devices: Vec<Device>,
    gids: Vec<GroupId>,
    /// What each member has of each group.
    groups: BTreeMap<(Who, usize), MlsGroup>,
    model: Model,
    /// The bytes of everything that was uploaded: who has them may try to add them.
    bytes: BTreeMap<KeyPackageRef, Vec<u8>>,
    /// Reservations that were made, ended ones included.
    reservations: Vec<String>,
    staged: Vec<Staged>,
    had_last_resort: BTreeSet<Who>,
    /// How each Commit that was sent fared.
    pub(super) verdicts: Vec<&'static str>,
}

/// What a Commit is to do.
#[derive(Default)]
struct Change {
    added: Vec<KeyPackageRef>,
    removed: Option<Who>,
}

struct Staged {
    commit: Commit,
    request: CommitRequest,
    /// Whether its sender can still merge it.
    is_pending: bool,
}

impl World {
    pub(super) async fn create(stock: usize) -> Self {
        let configure = |config: &mut larder_server::Config| {
            config.drain = generous();
            config.directory.hard_cap = HARD_CAP;
            config.directory.reservation_seconds = RESERVATION_SECONDS;
            // Time passes for KeyPackages, not for sessions.
            config.session_seconds = 365 * 24 * 60 * 60;
        };
        let server = TestServer::start_with(configure, false).await;
        let mut world = Self {
            devices: Vec::new(),
            gids: Vec::new(),
            groups: BTreeMap::new(),
            model: Model::new(HARD_CAP as usize, 0..GROUPS),
            bytes: BTreeMap::new(),
            reservations: Vec::new(),
            staged: Vec::new(),
            had_last_resort: BTreeSet::new(),
            verdicts: Vec::new(),
            server,
        };
        for who in 0..DEVICES {
            let device = world.server.device(&format!("device{who}")).await;
            if who < GROUPS {
                let (group, gid) = device.create_group().await;
                world.groups.insert((who, who), group);
                world.gids.push(gid);
            }
            world.devices.push(device);
            world.take(&Step::Upload { who, count: stock }).await;
        }
        world.begin().await;
        world
    }

    /// Groups of two, in the first of which Commits are refused for each reason once: too late, a KeyPackage that is spent,
    /// one that nobody has reserved, a sender who is no member.
    async fn begin(&mut self) {
        for group in 0..GROUPS {
            self.stage(group, group, Change::default(), None);
            self.reserve(group, GROUPS + group, group).await;
            let held = self.model.held(group, group).into_iter();
            let added = held.map(|held| held.key_package_ref.clone()).collect();
            self.stage_and_send(group, added, None).await;
        }
        self.send(0).await;
        let of_another_group = self
            .model
            .stored
            .iter()
            .filter(|stored| stored.owner == GROUPS + 1);
        let not_ours: Vec<_> = of_another_group
            .map(|stored| stored.key_package_ref.clone())
            .collect();
        for added in not_ours {
            self.stage_and_send(0, vec![added], None).await;
        }
        self.stage_and_send(0, vec![], Some(Damage::SentByAnother)).await;
    }

    /// The founder of a group commits.
    async fn stage_and_send(&mut self, group: usize, added: Vec<KeyPackageRef>, damage: Option<Damage>) {
        let removed = None;
        self.stage(group, group, Change { added, removed }, damage);
        self.send(self.staged.len() - 1).await;
    }

    pub(super) async fn take(&mut self, step: &Step) {
        match step {
            Step::Upload { who, count } => {
                let minted = (0..*count).map(|_| self.devices[*who].mint(KeyPackageSpec::default()));
                let minted = minted.collect();
                self.upload(*who, minted, false).await;
            }
            Step::UploadLastResort { who } => {
                let minted = vec![self.devices[*who].mint_last_resort()];
                self.upload(*who, minted, true).await;
            }
            Step::Reserve { by, of, group } => {
                let by = self.member(*group, by);
                let others = (0..DEVICES).filter(|who| *who != by);
                let (mut others, members): (Vec<_>, Vec<_>) =
                    others.partition(|who| !self.model.groups[*group].members.contains(who));
                if others.is_empty() {
                    others = members;
                }
                self.reserve(by, *of.get(&others), *group).await;
            }
            Step::Abandon { by, at } => self.abandon(*by, *at).await,
            Step::Revoke { at } => self.revoke(*at).await,
            Step::Pass { seconds } => {
                self.server.pass(*seconds);
                return;
            }
            Step::Sweep => {
                self.server.sweep().await;
                self.model.sweep(self.server.time());
            }
            Step::Stage {
                by,
                group,
                what,
                damage,
                send,
            } => {
                let by = self.member(*group, by);
                self.stage(by, *group, self.change(by, *group, what), *damage);
                if !*send {
                    return;
                }
                self.send(self.staged.len() - 1).await;
            }
            Step::Send { at } if !self.staged.is_empty() => {
                self.send(at.index(self.staged.len())).await;
            }
            Step::Send { .. } => {}
        }
        self.check().await;
    }

    fn member(&self, group: usize, at: &Index) -> Who {
        let members: Vec<_> = self.model.groups[group].members.iter().collect();
        **at.get(&members)
    }

    async fn upload(&mut self, who: Who, minted: Vec<Vec<u8>>, is_last_resort: bool) {
        let uploaded = self.devices[who].upload(&minted).await;
        let now = self.server.time();
        for (result, bytes) in uploaded.results.into_iter().zip(minted) {
            let key_package_ref = result.key_package_ref.expect("a reference");
            let taken = self
                .model
                .upload(who, key_package_ref.clone(), is_last_resort, now);
            let outcome = if taken {
                UploadOutcome::Accepted
            } else {
                UploadOutcome::Rejected
            };
            assert_eq!(result.outcome, outcome, "S7: {:?}", result.problem);
            if taken {
                self.bytes.insert(key_package_ref, bytes);
                if is_last_resort {
                    self.had_last_resort.insert(who);
                }
            }
        }
    }

    async fn reserve(&mut self, by: Who, of: Who, group: usize) {
        let request = self.devices[by].reserve_request(&[&self.devices[of]], &self.gids[group]);
        let key = uuid::Uuid::new_v4().to_string();
        let http = &self.devices[by].http;
        let answer = http
            .post_with_key("/v1/key-packages/reserve", &key, &request)
            .await;
        let again = http
            .post_with_key("/v1/key-packages/reserve", &key, &request)
            .await;
        assert_eq!(again.body, answer.body, "S2: a retry gets the same");
        let reserved: Reserved = answer.ok();
        let given = &reserved.users[0].devices;
        let offered = self.model.offered(of);
        let expected = match offered.first() {
            Some(first) if first.is_last_resort => DeviceOutcome::LastResort,
            Some(_) => DeviceOutcome::Ok,
            None => DeviceOutcome::Exhausted,
        };
        assert_eq!(given[0].outcome, expected);
        if offered.is_empty() {
            return;
        }
        let key_package_ref = given[0].key_package_ref.clone().expect("a reference");
        let is_offered = offered
            .iter()
            .any(|offered| offered.key_package_ref == key_package_ref);
        assert!(is_offered, "S2: {key_package_ref} is not to be given");
        let bytes = &given[0].key_package.as_ref().expect("a KeyPackage").0;
        assert_eq!(*bytes, self.bytes[&key_package_ref]);
        let id = reserved.reservation_id.expect("a reservation");
        self.reservations.push(id.clone());
        self.model
            .reserve(by, group, &key_package_ref, id, reserved.expires_at);
    }

    async fn abandon(&mut self, by: Who, at: Index) {
        if self.reservations.is_empty() {
            return;
        }
        let id = at.get(&self.reservations);
        let answer = self.devices[by]
            .http
            .post(&format!("/v1/reservations/{id}/abandon"), &())
            .await;
        if self.model.abandon(by, id) {
            answer.done();
        } else {
            answer.refused(ProblemType::NotFound);
        }
    }

    /// The owner withdraws an ordinary KeyPackage; one without a last resort has chosen so, which S7 is not about.
    async fn revoke(&mut self, at: Index) {
        let ordinary: Vec<_> = self
            .model
            .stored
            .iter()
            .filter(|stored| !stored.is_last_resort)
            .collect();
        if ordinary.is_empty() {
            return;
        }
        let chosen = at.get(&ordinary);
        let (owner, key_package_ref) = (chosen.owner, chosen.key_package_ref.clone());
        self.devices[owner]
            .revoke(std::slice::from_ref(&key_package_ref))
            .await;
        self.model.revoke(&key_package_ref);
    }

    /// A KeyPackage of a kind, of somebody who can be added.
    fn pick(&self, pick: Pick, by: Who, group: usize) -> Option<&Stored> {
        let (at, mut from): (_, Vec<&Stored>) = match pick {
            Pick::Held(at) => (at, self.model.held(by, group)),
            Pick::Any(at) | Pick::Spent(at) => (at, self.model.stored.iter().collect()),
        };
        let must_be_spent = matches!(pick, Pick::Spent(_));
        from.retain(|stored| !must_be_spent || stored.state == KeyPackageState::Spent);
        let members = &self.model.groups[group].members;
        from.retain(|stored| !members.contains(&stored.owner));
        (!from.is_empty()).then(|| *at.get(&from))
    }

    /// What is meant by a step, now.
    fn change(&self, by: Who, group: usize, what: &What) -> Change {
        let mut change = Change::default();
        match what {
            What::Add(picks) => {
                let mut owners = BTreeSet::new();
                for picked in picks.iter().filter_map(|pick| self.pick(*pick, by, group)) {
                    if owners.insert(picked.owner) {
                        change.added.push(picked.key_package_ref.clone());
                    }
                }
            }
            What::Remove(at) => {
                let others = self.model.groups[group].members.iter();
                let others: Vec<_> = others.filter(|member| **member != by).collect();
                change.removed = (!others.is_empty()).then(|| **at.get(&others));
            }
        }
        change
    }

    fn stage(&mut self, by: Who, group: usize, change: Change, damage: Option<Damage>) {
        let Change { added, removed } = change;
        let own = self.groups.remove(&(by, group));
        let mut own = own.expect("a member has the group");
        let device = &self.devices[by];
        // A device has one pending Commit, and could not merge the one before.
        device.clear(&mut own);
        let epoch = own.epoch().as_u64();
        for staged in &mut self.staged {
            staged.is_pending &= staged.commit.sender != by || staged.commit.group != group;
        }
        let before = device.group_info(&own);
        let key_packages = added.iter().map(|added| device.validate(&self.bytes[added]));
        let key_packages: Vec<_> = key_packages.collect();
        let removed_leaf = removed.map(|removed| leaf_of(&own, &self.devices[removed]));
        let mut request = device.stage(&mut own, |commit| {
            commit.propose_adds(key_packages).propose_removals(removed_leaf)
        });
        let mut commit = Commit {
            group,
            sender: by,
            epoch,
            added,
            removed,
            is_sound: damage.is_none(),
            accepted: None,
        };
        match damage {
            None => {}
            Some(Damage::GroupInfoSignature) => {
                let last = request.group_info.0.last_mut().expect("a GroupInfo");
                *last ^= 1;
            }
            Some(Damage::GroupInfoOfBefore) => request.group_info = Base64Url(before),
            Some(Damage::WelcomeMissingOrSuperfluous) => {
                request.welcome = match request.welcome {
                    Some(_) => None,
                    None => self
                        .staged
                        .iter()
                        .find_map(|staged| staged.request.welcome.clone()),
                };
                let nothing_to_spare = commit.added.is_empty() && request.welcome.is_none();
                commit.is_sound = nothing_to_spare;
            }
            Some(Damage::SentByAnother) => commit.sender = (by + 1) % DEVICES,
        }
        if !commit.is_sound {
            device.clear(&mut own);
        }
        self.groups.insert((by, group), own);
        self.staged.push(Staged {
            is_pending: commit.is_sound,
            commit,
            request,
        });
    }

    async fn send(&mut self, at: usize) {
        let Staged {
            commit,
            request,
            is_pending,
        } = &self.staged[at];
        let verdict = self.model.judge(commit);
        // What its sender could not merge is sent once it is too late.
        if matches!(verdict, Verdict::Accepted(_)) && commit.accepted.is_none() && !is_pending {
            return;
        }
        let answer = self.devices[commit.sender]
            .post_commit(&self.gids[commit.group], request)
            .await;
        let found = if answer.status == 200 {
            Verdict::Accepted(answer.ok::<Accepted>())
        } else {
            verdict_of(&serde_json::from_slice(&answer.body).expect("a problem"))
        };
        assert_eq!(found, verdict, "S4: {commit:?}");
        self.verdicts.push(match &verdict {
            Verdict::Accepted(_) if commit.accepted.is_some() => "accepted before",
            Verdict::Accepted(_) if commit.added.is_empty() => "another accepted",
            Verdict::Accepted(_) => "an Add accepted",
            Verdict::WrongEpoch(_) => ProblemType::WrongEpoch.code(),
            Verdict::Refused(refused) | Verdict::KeyPackages(refused, _) => refused.code(),
        });
        if let Verdict::Accepted(accepted) = verdict
            && commit.accepted.is_none()
        {
            self.accepted(at, accepted).await;
        }
    }

    /// Everybody follows a Commit that was accepted.
    async fn accepted(&mut self, at: usize, accepted: Accepted) {
        let commit = self.staged[at].commit.clone();
        self.model.accept(&commit, &accepted);
        // The same Adds in the same epoch by the same sender are the same bytes, however often they are made: without a path
        // there is nothing random in a Commit.
        let bytes = self.staged[at].request.commit.clone();
        for staged in &mut self.staged {
            staged.is_pending &= staged.commit.group != commit.group;
            if staged.request.commit == bytes && staged.commit.sender == commit.sender {
                staged.commit.accepted = Some(accepted.clone());
            }
        }
        for (who, device) in self.devices.iter().enumerate() {
            let place = (who, commit.group);
            let own = self.groups.remove(&place);
            let mut own = match own {
                Some(mut own) if who == commit.sender => {
                    device.merge(&mut own);
                    own
                }
                Some(mut own) => {
                    device.clear(&mut own);
                    device.catch_up(&mut own).await;
                    own
                }
                None => {
                    let invited = !device.rows(InboxKind::Welcome).await.is_empty();
                    let is_member = self.model.groups[commit.group].members.contains(&who);
                    assert_eq!(
                        invited, is_member,
                        "R-S2: a Welcome for who was added, and for nobody else"
                    );
                    if !invited {
                        continue;
                    }
                    device.join().await
                }
            };
            if own.is_active() {
                self.groups.insert(place, own);
            } else {
                own.delete(device.provider.storage()).expect("the group goes");
            }
        }
    }

    /// What must hold after every step.
    async fn check(&self) {
        let inventories = join_all(self.devices.iter().map(Device::inventory)).await;
        for (who, inventory) in inventories.iter().enumerate() {
            let mut found: BTreeMap<_, _> = BTreeMap::new();
            for item in &inventory.items {
                found.insert(&item.key_package_ref, item.state);
            }
            let stored = self.model.stored.iter().filter(|stored| stored.owner == who);
            let expected = stored.map(|stored| (&stored.key_package_ref, stored.state));
            assert_eq!(found, expected.collect::<BTreeMap<_, _>>(), "S3: of {who}");

            let ordinary = inventory.items.iter().filter(|item| !item.last_resort);
            let is_live = |state| matches!(state, KeyPackageState::Available | KeyPackageState::Reserved);
            let live = ordinary.filter(|item| is_live(item.state)).count();
            assert!(live <= HARD_CAP as usize, "S7: {live} live");
            let mut last_resorts = inventory.items.iter().filter(|item| item.last_resort);
            assert_eq!(
                last_resorts.any(|item| item.state == KeyPackageState::Available),
                self.had_last_resort.contains(&who),
                "S7: a last resort from the first upload on"
            );
        }
        for ((who, group), own) in &self.groups {
            let expected = &self.model.groups[*group];
            assert!(expected.members.contains(who));
            assert_eq!(own.epoch().as_u64(), expected.epoch, "X4: one epoch for all");
            let authenticator = own.epoch_authenticator().as_slice();
            let mut others = self.groups.iter().filter(|((_, of), _)| of == group);
            assert!(
                others.all(|(_, other)| other.epoch_authenticator().as_slice() == authenticator),
                "X4"
            );
        }
    }
}

fn leaf_of(group: &MlsGroup, device: &Device) -> LeafNodeIndex {
    let mut members = group.members();
    let found = members.find(|member| member.signature_key == device.mls.to_public_vec());
    found.expect("a member").index
}

fn verdict_of(problem: &Problem) -> Verdict {
    match problem.problem_type {
        ProblemType::WrongEpoch => Verdict::WrongEpoch(problem.current_epoch.expect("the current epoch")),
        refused @ (ProblemType::AlreadySpent | ProblemType::ReservationLapsed) => {
            Verdict::KeyPackages(refused, problem.refs.iter().cloned().collect())
        }
        other => Verdict::Refused(other),
    }
}
