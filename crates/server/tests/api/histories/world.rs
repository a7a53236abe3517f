//! Those who act in a recorded run: members of groups, owners of KeyPackages, the sweeper.

use std::collections::BTreeMap;
use std::sync::Mutex;

use larder_lifecycle::{DrainLimits, Rate};
use larder_server::Config;
use larder_wire::{
    Accepted, Base64Url, GroupInfoAnswer, Inventory, KeyPackageRef, ProblemType, RevokeRequest, Revoked,
    Sent, UploadRequest, Uploaded,
};
use openmls::prelude::OpenMlsProvider as _;
use sha2::{Digest as _, Sha256};

use super::checker::Operation;
use super::group::{self, Id};
use super::key_package::{self, Identity, KeyPackage};
use super::plan::OwnerStep;
use super::recorder::{Fate, Recorder, last};
use crate::support::{Answer, Device, KeyPackageSpec, TestServer, generous};

/// KeyPackages of each owner when it starts.
const STOCK: usize = 8;

pub(super) fn sha256(bytes: &[u8]) -> Id {
    Sha256::digest(bytes).to_vec()
}

pub(super) fn identity(device: &Device) -> Identity {
    format!("{}/{}", device.user, device.id)
}

/// The type of a refusal.
pub(super) fn refusal(answer: &Answer) -> ProblemType {
    let problem: larder_wire::Problem = serde_json::from_slice(&answer.body).expect("a problem");
    problem.problem_type
}

type Stock = Vec<(KeyPackageRef, Vec<u8>)>;

/// A KeyPackage that left the directory.
#[derive(Clone)]
pub(super) struct Disclosed {
    pub(super) key_package_ref: KeyPackageRef,
    pub(super) bytes: Vec<u8>,
    pub(super) owner: usize,
    pub(super) reservation_id: String,
}

/// What a member sent, to tell what its receivers must find.
#[derive(Clone)]
pub(super) enum Message {
    Commit {
        sender: Identity,
        /// An owner, and the Welcome for it.
        added: Option<(usize, Id)>,
        removed: Option<usize>,
    },
    Text {
        sender: Identity,
        epoch: u64,
    },
}

pub(super) struct World {
    pub(super) server: TestServer,
    pub(super) recorder: Recorder,
    pub(super) owners: Vec<Device>,
    /// Everything that was handed out, to anybody.
    pub(super) disclosed: Mutex<Vec<Disclosed>>,
    pub(super) sent: Mutex<BTreeMap<Id, Message>>,
    /// What each owner uploaded.
    stocks: Vec<Mutex<Stock>>,
}

impl World {
    pub(super) async fn create(owners: usize) -> Self {
        let configure = |config: &mut Config| {
            config.external_delivery = true;
            // A request under way while the clock jumps finds buckets that were filled later, and no limit must mind.
            let plenty = Rate {
                burst: 1_000_000,
                interval_seconds: 1,
            };
            config.drain = DrainLimits {
                pair: plenty,
                target: plenty,
                ..generous()
            };
            // Time passes for reservations, not for sessions.
            config.session_seconds = 30 * 24 * 60 * 60;
        };
        let server = TestServer::start_with(configure, false).await;
        let mut world = Self {
            owners: Vec::new(),
            stocks: (0..owners).map(|_| Mutex::default()).collect(),
            recorder: Recorder::default(),
            disclosed: Mutex::default(),
            sent: Mutex::default(),
            server,
        };
        for owner in 0..owners {
            world
                .owners
                .push(world.server.device(&format!("owner{owner}")).await);
            let minted = (0..STOCK).map(|_| world.mint(owner)).collect();
            world.upload(owner, minted, Fate::Answered).await;
        }
        world
    }

    /// A new KeyPackage, whose history begins before anybody can be given it.
    fn mint(&self, owner: usize) -> Vec<u8> {
        let device = &self.owners[owner];
        let bytes = device.mint(KeyPackageSpec::default());
        let hash_ref = device.validate(&bytes).hash_ref(device.provider.crypto());
        let key_package_ref = KeyPackageRef::from_bytes(hash_ref.expect("a hash").as_slice());
        let unknown = KeyPackage::unknown(identity(device), bytes.clone());
        self.recorder
            .expect_key_package(&key_package_ref.expect("a reference"), unknown);
        bytes
    }

    async fn upload(&self, owner: usize, key_packages: Vec<Vec<u8>>, fate: Fate) {
        let device = &self.owners[owner];
        let request = UploadRequest {
            key_packages: key_packages.iter().cloned().map(Base64Url).collect(),
        };
        let send = || device.http.post("/v1/key-packages", &request);
        let asked = self.recorder.ask(fate, send).await;
        let uploaded: Uploaded = last(&asked).ok();
        for (at, (result, bytes)) in uploaded.results.into_iter().zip(key_packages).enumerate() {
            let key_package_ref = result.key_package_ref.expect("a reference");
            let happened = asked.iter().filter_map(|asked| {
                asked.about(key_package::Op::Upload, |answer| {
                    let state = answer.ok::<Uploaded>().results[at].state.expect("a state");
                    Some(key_package::Answer::State(state))
                })
            });
            self.recorder.key_package(&key_package_ref, happened);
            let mut stock = self.stocks[owner].lock().unwrap();
            if !stock.iter().any(|(known, _)| *known == key_package_ref) {
                stock.push((key_package_ref, bytes));
            }
        }
    }

    fn stock(&self, owner: usize) -> Stock {
        self.stocks[owner].lock().unwrap().clone()
    }

    /// One step of an owner.
    pub(super) async fn own(&self, owner: usize, step: OwnerStep, fate: Fate) {
        let stock = self.stock(owner);
        match step {
            OwnerStep::Upload => self.upload(owner, vec![self.mint(owner)], fate).await,
            OwnerStep::UploadAgain(at) => {
                let (_, bytes) = at.get(&stock).clone();
                self.upload(owner, vec![bytes], fate).await;
            }
            OwnerStep::Revoke(at) => self.revoke(owner, &at.get(&stock).0, fate).await,
            OwnerStep::Read => self.read(owner).await,
        }
    }

    async fn revoke(&self, owner: usize, key_package_ref: &KeyPackageRef, fate: Fate) {
        let request = RevokeRequest {
            refs: vec![key_package_ref.clone()],
        };
        let send = || self.owners[owner].http.post("/v1/key-packages/revoke", &request);
        let asked = self.recorder.ask(fate, send).await;
        let happened = asked.iter().filter_map(|asked| {
            asked.about(key_package::Op::Revoke, |answer| {
                let revoked = answer.ok::<Revoked>().refs == request.refs;
                Some(key_package::Answer::Revoked(revoked))
            })
        });
        self.recorder.key_package(key_package_ref, happened);
    }

    /// Reads the states of all KeyPackages of an owner, which the directory must know all.
    pub(super) async fn read(&self, owner: usize) {
        let stock = self.stock(owner);
        let send = || self.owners[owner].http.get("/v1/key-packages");
        let asked = self.recorder.ask(Fate::Answered, send).await;
        let inventory: Inventory = last(&asked).ok();
        for (key_package_ref, _) in stock {
            let mut items = inventory.items.iter();
            let item = items.find(|item| item.key_package_ref == key_package_ref);
            let state = item.expect("an inventory has every KeyPackage").state;
            let happened = asked.iter().filter_map(|asked| {
                asked.about(key_package::Op::Read, |_| Some(key_package::Answer::State(state)))
            });
            self.recorder.key_package(&key_package_ref, happened);
        }
    }

    /// Lets time pass and sweeps.
    pub(super) async fn sweep_after(&self, seconds: u64, alone: bool) {
        self.server.pass(seconds);
        let invoked = self.recorder.tick();
        self.server.sweep().await;
        let answered = self.recorder.tick();
        let op = key_package::Op::Sweep {
            now: self.server.time(),
            alone,
        };
        self.recorder.every_key_package(&Operation {
            invoked,
            op,
            answer: Some((answered, key_package::Answer::Done)),
        });
    }

    /// What one sending of a Commit says of its group.
    pub(super) fn of_commit(answer: &Answer) -> group::Answer {
        if answer.status == 200 {
            let Accepted { epoch, seq } = answer.ok();
            return group::Answer::Accepted { epoch, seq };
        }
        match refusal(answer) {
            ProblemType::AlreadySpent | ProblemType::ReservationLapsed => group::Answer::KeyPackagesRefused,
            _ => Self::wrong_epoch(answer),
        }
    }

    pub(super) fn of_message(answer: &Answer) -> group::Answer {
        if answer.status == 200 {
            return group::Answer::Sent {
                seq: answer.ok::<Sent>().seq,
            };
        }
        Self::wrong_epoch(answer)
    }

    pub(super) fn of_info(answer: &Answer) -> group::Answer {
        group::Answer::Epoch(answer.ok::<GroupInfoAnswer>().epoch)
    }

    fn wrong_epoch(answer: &Answer) -> group::Answer {
        let current = answer.refused(ProblemType::WrongEpoch).current_epoch;
        group::Answer::WrongEpoch {
            current: current.expect("the loser learns the current epoch"),
        }
    }

    /// What was sent in a group.
    pub(super) fn note(&self, id: Id, message: Message) {
        self.sent.lock().unwrap().insert(id, message);
    }
}
