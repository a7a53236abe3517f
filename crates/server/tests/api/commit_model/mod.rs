//! S4 and S7 as a model: random sequences of everything that touches a KeyPackage or a group, against a real server with real
//! Commits. A model of a few lines says beforehand which Commits are accepted.

mod model;
mod world;

use std::collections::BTreeMap;
use std::sync::Mutex;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use world::World;

const DEVICES: usize = 4;
/// Groups, each of the device with its number.
const GROUPS: usize = 2;
/// Small, so that it is met.
const HARD_CAP: u32 = 5;
/// KeyPackages of each device when it starts.
const STOCK: usize = 2;
const STEPS: usize = 36;

#[derive(Debug, Clone)]
enum Step {
    Upload {
        who: usize,
        count: usize,
    },
    UploadLastResort {
        who: usize,
    },
    /// A member reserves for its group.
    Reserve {
        by: Index,
        /// Somebody who is not a member, if there is anybody.
        of: Index,
        group: usize,
    },
    Abandon {
        by: usize,
        at: Index,
    },
    Revoke {
        at: Index,
    },
    Pass {
        seconds: u64,
    },
    Sweep,
    /// A member makes a Commit, to be sent at once or perhaps later.
    Stage {
        by: Index,
        group: usize,
        what: What,
        damage: Option<Damage>,
        send: bool,
    },
    /// Sends any Commit that was made, perhaps again.
    Send {
        at: Index,
    },
}

#[derive(Debug, Clone)]
enum What {
    /// Adds of KeyPackages that the sender holds for the group, or of others. Without any it is an update.
    Add(Vec<Pick>),
    Remove(Index),
}

/// Among the KeyPackages of a kind.
#[derive(Debug, Clone, Copy)]
enum Pick {
    Held(Index),
    Any(Index),
    Spent(Index),
}

/// What the public state of a group does not accept.
#[derive(Debug, Clone, Copy)]
enum Damage {
    GroupInfoSignature,
    GroupInfoOfBefore,
    WelcomeMissingOrSuperfluous,
    SentByAnother,
}

fn damages() -> impl Strategy<Value = Damage> {
    prop_oneof![
        Just(Damage::GroupInfoSignature),
        Just(Damage::GroupInfoOfBefore),
        Just(Damage::WelcomeMissingOrSuperfluous),
        Just(Damage::SentByAnother),
    ]
}

fn picks() -> impl Strategy<Value = Pick> {
    prop_oneof![
        5 => any::<Index>().prop_map(Pick::Held),
        2 => any::<Index>().prop_map(Pick::Any),
        1 => any::<Index>().prop_map(Pick::Spent),
    ]
}

fn steps() -> impl Strategy<Value = Step> {
    const MINUTE: u64 = 60;
    let (who, group) = (0..DEVICES, 0..GROUPS);
    let at = any::<Index>;
    let what = prop_oneof![
        6 => vec(picks(), 1..=2).prop_map(What::Add),
        3 => at().prop_map(What::Remove),
    ];
    // Neither an hour nor a day is a sum of a few of them, so that it does not matter how long a test takes.
    let seconds = prop_oneof![
        Just(7 * MINUTE),
        Just(26 * MINUTE),
        Just(61 * MINUTE),
        Just(25 * 60 * MINUTE)
    ];
    prop_oneof![
        3 => (who.clone(), 1..4_usize).prop_map(|(who, count)| Step::Upload { who, count }),
        1 => who.clone().prop_map(|who| Step::UploadLastResort { who }),
        8 => (at(), at(), group.clone()).prop_map(|(by, of, group)| Step::Reserve { by, of, group }),
        1 => (who, at()).prop_map(|(by, at)| Step::Abandon { by, at }),
        1 => at().prop_map(|at| Step::Revoke { at }),
        2 => seconds.prop_map(|seconds| Step::Pass { seconds }),
        1 => Just(Step::Sweep),
        9 => (at(), group, what, prop::option::weighted(0.2, damages()), prop::bool::weighted(0.7))
            .prop_map(|(by, group, what, damage, send)| Step::Stage { by, group, what, damage, send }),
        5 => at().prop_map(|at| Step::Send { at }),
    ]
}

/// S2, S3, S4, S7, X4, R-S2.
#[test]
fn a_commit_is_accepted_if_and_only_if_the_model_says_so_and_pools_stay_within_their_bounds() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let config = Config {
        cases: 2 * crate::database::HISTORIES,
        failure_persistence: None,
        max_shrink_iters: 32,
        ..Config::default()
    };
    let verdicts = Mutex::new(BTreeMap::<_, u32>::new());
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    TestRunner::new_with_rng(config, rng)
        .run(&vec(steps(), STEPS), |steps| {
            runtime.block_on(async {
                let mut world = World::create(STOCK).await;
                for step in &steps {
                    world.take(step).await;
                }
                for verdict in world.verdicts {
                    *verdicts.lock().unwrap().entry(verdict).or_default() += 1;
                }
            });
            Ok(())
        })
        .unwrap();
    let verdicts = verdicts.into_inner().unwrap();
    for expected in [
        "an Add accepted",
        "another accepted",
        "accepted before",
        "not-found",
        "wrong-epoch",
        "invalid-commit",
        "already-spent",
        "reservation-lapsed",
    ] {
        assert!(
            verdicts.contains_key(expected),
            "no case has {expected}: {verdicts:?}"
        );
    }
}
