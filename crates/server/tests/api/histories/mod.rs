//! Recorded histories: clients that reserve, commit, give up, write, lose answers and ask again, all at once. What each of them
//! was answered, and what is stored in the end, must be what a server gives that serves one after the other.

mod checker;
mod finish;
mod group;
mod key_package;
mod member;
mod plan;
mod recorder;
mod world;

use std::sync::Arc;

use tokio::task::JoinSet;

use group::Group;
use member::Member;
use plan::Plan;
use recorder::Tally;
use world::{World, sha256};

use crate::support::id_of;

const GROUPS: usize = 2;
/// Of each group.
const FOUNDERS: usize = 3;
const OWNERS: usize = 3;

/// Founds a group; everybody has joined it.
async fn found(world: &Arc<World>, number: usize) -> Vec<Member> {
    let mut devices = Vec::new();
    for founder in 0..FOUNDERS {
        let name = format!("founder{number}.{founder}");
        devices.push(world.server.device_with_key_packages(&name, 1).await);
    }
    let (mut group, gid) = devices[0].create_group().await;
    let others: Vec<_> = devices[1..].iter().collect();
    let (key_packages, _) = devices[0].take(&others, &gid).await;
    let request = devices[0].stage_adds(&mut group, key_packages);
    devices[0].commit(&mut group, &request).await;
    world
        .recorder
        .expect_group(&gid, Group::after(sha256(&request.commit.0)));
    let mut groups = vec![group];
    for device in &devices[1..] {
        groups.push(device.join().await);
    }
    let joined = devices.into_iter().zip(groups);
    joined
        .map(|(device, group)| {
            let gid = id_of(&group);
            Member::new(world, device, group, gid)
        })
        .collect()
}

/// One run, from a seed; the order in which things happen is the machine's.
async fn run(seed: u64) -> Tally {
    let world = Arc::new(World::create(OWNERS).await);
    let mut members = Vec::new();
    for number in 0..GROUPS {
        members.extend(found(&world, number).await);
    }
    let plan = Plan::of(seed, members.len(), OWNERS);
    let (mut acting, mut around) = (JoinSet::new(), JoinSet::new());
    for (mut member, steps) in members.into_iter().zip(plan.members) {
        acting.spawn(async move {
            for (step, fate) in steps {
                member.take(step, fate).await;
            }
            member
        });
    }
    for (owner, steps) in plan.owners.into_iter().enumerate() {
        let world = Arc::clone(&world);
        around.spawn(async move {
            for (step, fate) in steps {
                world.own(owner, step, fate).await;
            }
        });
    }
    let sweeping = Arc::clone(&world);
    around.spawn(async move {
        for seconds in plan.sweeps {
            sweeping.sweep_after(seconds, false).await;
        }
    });
    let members = acting.join_all().await;
    around.join_all().await;
    finish::read_everything(&world, &members).await;
    world.recorder.check(seed)
}

/// S1, S2, S3, S8, S9, R-S1, X1: no KeyPackage goes to two or is spent twice, no number is left out, nothing is stored that no
/// order of what was answered explains.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whatever_clients_do_at_once_is_answered_and_stored_as_if_they_had_taken_turns() {
    let mut tally = Tally::default();
    for seed in 0..crate::database::HISTORIES {
        // Shown when the test fails.
        println!("seed {seed}");
        tally.add(run(seed.into()).await);
    }
    for (what, count) in [
        ("answers lost", tally.unanswered),
        ("KeyPackages given", tally.given),
        ("KeyPackages spent", tally.spent),
        ("KeyPackages refused", tally.key_packages_refused),
        ("Commits accepted", tally.commits),
        ("Commits too late", tally.wrong_epochs),
        ("messages", tally.messages),
    ] {
        assert!(count > 0, "no history has any {what}: {tally:?}");
    }
}
