//! Nobody drains a pool: what one user, a crowd, and those who share a group with the owner get of it.

use larder_lifecycle::{DrainLimits, Rate};
use larder_server::AddressLimits;
use larder_wire::{DeviceOutcome, DeviceReservation, GroupId, KeyPackageState, Reserved};

use crate::support::{Device, TestServer, count, outcomes, snapshot};

const PATH: &str = "/v1/key-packages/reserve";
const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

fn a_group() -> GroupId {
    GroupId::from_bytes(b"a group of somebody").unwrap()
}

/// One reservation on the only device of `target`.
async fn ask(adder: &Device, target: &Device) -> DeviceReservation {
    only(adder.reserve(&[target], &a_group()).await)
}

fn only(mut reserved: Reserved) -> DeviceReservation {
    reserved.users.remove(0).devices.remove(0)
}

#[track_caller]
fn assert_rate_limited(device: &DeviceReservation, wait: u64) {
    assert_eq!(device.outcome, DeviceOutcome::RateLimited);
    assert_eq!(device.retry_after_seconds, Some(wait));
    assert_eq!((&device.key_package_ref, &device.key_package), (&None, &None));
}

async fn with_limits(limit: impl FnOnce(&mut DrainLimits)) -> TestServer {
    TestServer::start_with(|config| limit(&mut config.drain), false).await
}

/// A burst of two, and then one in ten minutes.
fn two_at_once(limits: &mut DrainLimits) {
    limits.live_per_pair = 100;
    limits.pair = Rate {
        burst: 2,
        interval_seconds: 10 * MINUTE,
    };
}

/// R-D5.
#[tokio::test]
async fn r_d5_who_asks_too_often_is_told_when_to_ask_again() {
    let server = with_limits(two_at_once).await;
    let bob = server.device_with_key_packages("bob", 20).await;
    let (mallory, alice) = (server.device("mallory").await, server.device("alice").await);
    for _ in 0..2 {
        assert_eq!(ask(&mallory, &bob).await.outcome, DeviceOutcome::Ok);
    }
    let before = snapshot(&[&bob], None).await;
    for _ in 0..2 {
        let refused = ask(&mallory, &bob).await;
        assert_eq!(refused.outcome, DeviceOutcome::RateLimited);
        assert!(refused.retry_after_seconds.unwrap().abs_diff(10 * MINUTE) <= 5);
    }
    assert_eq!(snapshot(&[&bob], None).await, before, "a refusal takes nothing");
    assert_eq!(
        ask(&alice, &bob).await.outcome,
        DeviceOutcome::Ok,
        "others are not held up"
    );

    server.pass(10 * MINUTE);
    assert_eq!(ask(&mallory, &bob).await.outcome, DeviceOutcome::Ok);
    assert_eq!(ask(&mallory, &bob).await.outcome, DeviceOutcome::RateLimited);
}

/// R-D5.
#[tokio::test]
async fn r_d5_reserving_and_never_committing_counts_against_the_user_for_a_day() {
    let server = TestServer::unswept().await;
    let mut bob = server.device_with_key_packages("bob", 20).await;
    let mut mallory = server.device("mallory").await;
    for number in 0..4 {
        let reserved = mallory.reserve(&[&bob], &a_group()).await;
        assert_eq!(outcomes(&reserved), [DeviceOutcome::Ok]);
        if number % 2 == 0 {
            let path = format!("/v1/reservations/{}/abandon", reserved.reservation_id.unwrap());
            mallory.http.post(&path, &()).await.done();
        }
    }
    assert_rate_limited(&ask(&mallory, &bob).await, 10 * MINUTE);
    server.pass(2 * HOUR);
    server.sweep().await;
    bob.open_session().await;
    assert_eq!(count(&bob.inventory().await, KeyPackageState::Lapsed), 4);
    mallory.open_session().await;
    assert_rate_limited(&ask(&mallory, &bob).await, 10 * MINUTE);
    server.pass(DAY - MINUTE);
    mallory.open_session().await;
    assert_eq!(ask(&mallory, &bob).await.outcome, DeviceOutcome::Ok);
}

#[tokio::test]
async fn what_was_used_counts_against_nobody() {
    let server = with_limits(|limits| limits.pair.burst = 100).await;
    let bob = server.device_with_key_packages("bob", 12).await;
    let alice = server.device("alice").await;
    for number in 0..6 {
        let mut group = alice.new_group();
        let request = alice.create_group_request(&group);
        let key = format!("create-{number}");
        alice
            .http
            .post_with_key("/v1/groups", &key, &request)
            .await
            .ok::<larder_wire::GroupCreated>();
        alice.invite(&mut group, &[&bob]).await;
    }
    assert_eq!(count(&bob.inventory().await, KeyPackageState::Spent), 6);
}

/// R-D5.
#[tokio::test]
async fn r_d5_one_user_holds_so_many_reservations_and_no_more() {
    let server = with_limits(|limits| limits.live_per_requester = 3).await;
    let mallory = server.device("mallory").await;
    let mut targets = Vec::new();
    for number in 0..4 {
        targets.push(
            server
                .device_with_key_packages(&format!("target{number}"), 2)
                .await,
        );
    }
    let everyone: Vec<&Device> = targets.iter().collect();
    let reserved = mallory.reserve(&everyone, &a_group()).await;
    let [ok @ .., last] = &outcomes(&reserved)[..] else {
        panic!("four outcomes");
    };
    assert_eq!(ok, [DeviceOutcome::Ok; 3]);
    assert_eq!(*last, DeviceOutcome::RateLimited, "also within one request");
}

#[tokio::test]
async fn a_retry_is_charged_once_and_what_is_withheld_not_at_all() {
    let server = with_limits(two_at_once).await;
    let bob = server.device_with_key_packages("bob", 20).await;
    let empty = server.device("empty").await;
    let alice = server.device("alice").await;
    let request = alice.reserve_request(&[&bob], &a_group());
    for _ in 0..5 {
        let reserved: Reserved = alice.http.post_with_key(PATH, "k", &request).await.ok();
        assert_eq!(outcomes(&reserved), [DeviceOutcome::Ok]);
    }
    let mut both = alice.reserve_request(&[&bob, &empty], &a_group());
    both.all_or_nothing = true;
    for number in 0..5 {
        let key = format!("both-{number}");
        let reserved: Reserved = alice.http.post_with_key(PATH, &key, &both).await.ok();
        assert_eq!(
            outcomes(&reserved),
            [DeviceOutcome::Withheld, DeviceOutcome::Exhausted]
        );
    }
    assert_eq!(ask(&alice, &bob).await.outcome, DeviceOutcome::Ok, "the second");
    assert_eq!(ask(&alice, &bob).await.outcome, DeviceOutcome::RateLimited);
    empty.stock(2).await;
    let reserved: Reserved = alice.http.post_with_key(PATH, "last", &both).await.ok();
    assert_eq!(
        outcomes(&reserved),
        [DeviceOutcome::RateLimited, DeviceOutcome::Withheld],
        "who may not have one user's cannot have all"
    );
}

#[tokio::test]
async fn memories_of_rates_are_dropped_when_they_say_nothing_any_more() {
    let server = TestServer::unswept().await;
    let bob = server.device_with_key_packages("bob", 3).await;
    let alice = server.device("alice").await;
    ask(&alice, &bob).await;
    let memories = "SELECT count(*) FROM pair_rates";
    server.sweep().await;
    assert_eq!(server.database.count(memories).await, 1);
    server.pass(11 * MINUTE);
    server.sweep().await;
    assert_eq!(server.database.count(memories).await, 0);
}

/// Bob with a full pool and a last resort, in a group with each of two others.
async fn bob_and_acquaintances(server: &TestServer) -> (Device, [Device; 2]) {
    let bob = server.device_with_key_packages("bob", 2).await;
    let acquaintances = [server.device("alice").await, server.device("carol").await];
    for device in &acquaintances {
        let (mut group, _) = device.create_group().await;
        device.invite(&mut group, &[&bob]).await;
    }
    bob.stock(32).await;
    bob.stock_last_resort().await;
    (bob, acquaintances)
}

/// So many accounts ask for bob this often. Returns how often each outcome came.
async fn drain(
    server: &TestServer,
    bob: &Device,
    accounts: usize,
    rounds: usize,
) -> Vec<(DeviceOutcome, usize)> {
    let mut hostile = Vec::new();
    for number in 0..accounts {
        hostile.push(server.device(&format!("hostile{number}")).await);
    }
    let mut got = Vec::new();
    for _ in 0..rounds {
        for device in &hostile {
            got.push(ask(device, bob).await.outcome);
        }
    }
    [
        DeviceOutcome::Ok,
        DeviceOutcome::LastResort,
        DeviceOutcome::RateLimited,
        DeviceOutcome::Exhausted,
    ]
    .map(|outcome| (outcome, got.iter().filter(|found| **found == outcome).count()))
    .into_iter()
    .filter(|(_, times)| *times > 0)
    .collect()
}

/// Everybody honest can still be added; acquaintances with a KeyPackage of their own, strangers perhaps with the last
/// resort.
async fn honest_invitations_succeed(
    server: &TestServer,
    bob: &Device,
    acquaintances: &[Device],
    stranger_gets: DeviceOutcome,
) {
    for number in 0..3 {
        for device in acquaintances {
            assert_eq!(ask(device, bob).await.outcome, DeviceOutcome::Ok, "{number}");
        }
        let stranger = server.device(&format!("stranger{number}")).await;
        assert_eq!(ask(&stranger, bob).await.outcome, stranger_gets);
    }
}

/// R-D5.
#[tokio::test]
async fn r_d5_one_hostile_account_takes_four_and_then_nothing() {
    let server = TestServer::start().await;
    let (bob, acquaintances) = bob_and_acquaintances(&server).await;
    let got = drain(&server, &bob, 1, 20).await;
    assert_eq!(got, [(DeviceOutcome::Ok, 4), (DeviceOutcome::RateLimited, 16)]);
    honest_invitations_succeed(&server, &bob, &acquaintances, DeviceOutcome::Ok).await;
}

/// R-D5.
#[tokio::test]
async fn r_d5_two_hundred_hostile_accounts_leave_the_floor_and_make_nobody_unreachable() {
    // They come from everywhere.
    let server = TestServer::start_with(|config| config.addresses = AddressLimits::none(), true).await;
    let (bob, acquaintances) = bob_and_acquaintances(&server).await;
    let got = drain(&server, &bob, 200, 2).await;
    assert_eq!(
        got,
        [(DeviceOutcome::Ok, 24), (DeviceOutcome::LastResort, 376)],
        "what is above the floor, and then the last resort, which nobody can drain"
    );
    honest_invitations_succeed(&server, &bob, &acquaintances, DeviceOutcome::LastResort).await;
}

/// R-D5.
#[tokio::test]
async fn r_d5_a_crowd_that_goes_on_gets_the_last_resort_however_much_is_stocked() {
    let server = with_limits(|limits| {
        limits.target = Rate {
            burst: 5,
            interval_seconds: 30,
        };
    })
    .await;
    let bob = server.device_with_key_packages("bob", 32).await;
    bob.stock_last_resort().await;
    let mut got = Vec::new();
    for number in 0..7 {
        let stranger = server.device(&format!("stranger{number}")).await;
        got.push(ask(&stranger, &bob).await.outcome);
    }
    assert_eq!(got[..5], [DeviceOutcome::Ok; 5]);
    assert_eq!(got[5..], [DeviceOutcome::LastResort; 2]);
    server.pass(31);
    let stranger = server.device("late").await;
    assert_eq!(ask(&stranger, &bob).await.outcome, DeviceOutcome::Ok);
}

#[tokio::test]
async fn a_device_without_a_last_resort_keeps_nothing_back() {
    let server = TestServer::start().await;
    let bob = server.device_with_key_packages("bob", 2).await;
    let stranger = server.device("stranger").await;
    assert_eq!(ask(&stranger, &bob).await.outcome, DeviceOutcome::Ok);
    bob.stock_last_resort().await;
    assert_eq!(ask(&stranger, &bob).await.outcome, DeviceOutcome::LastResort);
}

#[tokio::test]
async fn the_owner_is_shown_what_a_stranger_gets_and_it_is_charged_to_nobody() {
    let server = with_limits(|limits| limits.target.burst = 1).await;
    let bob = server.device_with_key_packages("bob", 20).await;
    bob.stock_last_resort().await;
    let stranger = server.device("stranger").await;
    let probe = async || -> DeviceReservation { bob.http.get("/v1/key-packages/probe?suite=1").await.ok() };
    for _ in 0..10 {
        assert_eq!(probe().await.outcome, DeviceOutcome::Ok);
    }
    assert_eq!(ask(&stranger, &bob).await.outcome, DeviceOutcome::Ok);
    assert_eq!(
        probe().await.outcome,
        DeviceOutcome::LastResort,
        "one was handed out just now"
    );
    server.pass(MINUTE);
    assert_eq!(probe().await.outcome, DeviceOutcome::Ok);
}
