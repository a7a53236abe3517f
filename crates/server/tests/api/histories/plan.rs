//! What the clients of one run do, from a seed.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::recorder::Fate;

/// What a member of a group does next. An index chooses among what there is.
#[derive(Debug, Clone)]
pub(super) enum Step {
    /// Reserves a KeyPackage of somebody for the group.
    Reserve(Index),
    /// Commits an Add of what this member reserved; a Remove when its owner is in the group.
    Add(Index),
    /// The same with what somebody else may have reserved, perhaps for another group.
    AddAnothers(Index),
    /// Commits nothing but an update of its own leaf.
    Update,
    /// Gives a reservation up, be it another's.
    Abandon(Index),
    /// Says that another delivery service carried a Commit with what this member reserved.
    Spend(Index),
    /// Sends a message.
    Say,
    /// Asks at which epoch the group is.
    Ask,
}

/// What an owner of KeyPackages does next.
#[derive(Debug, Clone)]
pub(super) enum OwnerStep {
    Upload,
    UploadAgain(Index),
    Revoke(Index),
    Read,
}

#[derive(Debug)]
pub(super) struct Plan {
    pub(super) members: Vec<Vec<(Step, Fate)>>,
    pub(super) owners: Vec<Vec<(OwnerStep, Fate)>>,
    /// Seconds that pass before each sweep.
    pub(super) sweeps: Vec<u64>,
}

const STEPS: usize = 12;
const OWNER_STEPS: usize = 6;
const SWEEPS: usize = 6;

fn fates() -> impl Strategy<Value = Fate> {
    prop_oneof![
        4 => Just(Fate::Answered),
        1 => Just(Fate::Doubled),
        2 => (0..6000_u64).prop_map(|after_micros| Fate::Lost { after_micros }),
    ]
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => any::<Index>().prop_map(Step::Reserve),
        6 => any::<Index>().prop_map(Step::Add),
        2 => any::<Index>().prop_map(Step::AddAnothers),
        1 => Just(Step::Update),
        1 => any::<Index>().prop_map(Step::Abandon),
        1 => any::<Index>().prop_map(Step::Spend),
        4 => Just(Step::Say),
        1 => Just(Step::Ask),
    ]
}

fn owner_steps() -> impl Strategy<Value = OwnerStep> {
    prop_oneof![
        2 => Just(OwnerStep::Upload),
        1 => any::<Index>().prop_map(OwnerStep::UploadAgain),
        2 => any::<Index>().prop_map(OwnerStep::Revoke),
        2 => Just(OwnerStep::Read),
    ]
}

impl Plan {
    /// The same for the same seed.
    pub(super) fn of(seed: u64, members: usize, owners: usize) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
        let mut runner = TestRunner::new_with_rng(Config::default(), rng);
        let plan = (
            vec(vec((steps(), fates()), STEPS), members),
            vec(vec((owner_steps(), fates()), OWNER_STEPS), owners),
            vec(600..3000_u64, SWEEPS),
        );
        let (members, owners, sweeps) = plan.new_tree(&mut runner).unwrap().current();
        Self {
            members,
            owners,
            sweeps,
        }
    }
}
