//! What all devices of a user share, and how many requests use the store at once.

use std::sync::Mutex;
use std::sync::mpsc;

use larder_lifecycle::{DirectoryPolicy, DrainLimits};
use larder_wire::{DeviceOutcome, ReserveRequest};

use super::harness::{NOW, Opened, group, take};
use crate::directory::{self, Terms};
use crate::error::{Fault, ServiceError};
use crate::store::{DeviceRow, ReservationId, Store};

on_both_engines! {
    a_request_keeps_its_place_in_the_store_even_when_its_caller_has_gone;
    all_devices_of_a_user_hold_together;
    a_user_s_own_devices_are_not_limited;
}

async fn is_busy(store: &Store) -> bool {
    let written = store.write(|_| Ok(())).await;
    let read = store.read(|_| Ok(())).await;
    match (written, read) {
        (Ok(()), Ok(())) => false,
        (Err(ServiceError::Fault(Fault::Busy)), Err(ServiceError::Fault(Fault::Busy))) => true,
        other => panic!("{other:?}"),
    }
}

async fn a_request_keeps_its_place_in_the_store_even_when_its_caller_has_gone(opened: Opened) {
    let store = opened.store.clone().for_requests(1);
    let (go_on, waits) = mpsc::channel::<()>();
    let (begun, mut begins) = tokio::sync::mpsc::unbounded_channel();
    let (waits, held) = (Mutex::new(waits), store.clone());
    let request = tokio::spawn(async move {
        held.write(move |_| {
            let _ = begun.send(());
            let _ = waits.lock().unwrap().recv();
            Ok(())
        })
        .await
    });
    begins.recv().await.unwrap();
    assert!(is_busy(&store).await);
    request.abort();
    assert!(request.await.is_err());
    assert!(is_busy(&store).await, "its work is still under way");
    go_on.send(()).unwrap();
    // Its place is free at some moment from now on.
    while store.write(|_| Ok(())).await.is_err() {
        tokio::task::yield_now().await;
    }
}

/// A second device of a user.
async fn second_device(opened: &Opened, first: &DeviceRow) -> DeviceRow {
    opened
        .execute(
            "INSERT INTO devices (user_id, id, name, auth_key, signature_key, created_at)
             SELECT user_id, id + 1, 'second', auth_key, auth_key, 0 FROM devices WHERE id = ?1",
            &[first.key.into()],
        )
        .await;
    opened
        .execute(
            "INSERT INTO device_names SELECT name, id FROM devices WHERE name = 'second'",
            &[],
        )
        .await;
    opened
        .store
        .read(|tx| Ok(tx.device_by_id(&"second".parse().unwrap())?.unwrap()))
        .await
        .unwrap()
}

async fn all_devices_of_a_user_hold_together(opened: Opened) {
    let alice = opened.register("alice", 1).await;
    let bob = opened.register("bob", 2).await;
    let second = second_device(&opened, &alice).await;
    for number in [1, 2, 3] {
        opened.store_key_package(bob.key, number).await;
    }
    let (user, target) = (alice.user_key(), bob.key);
    let held = opened
        .store
        .write(move |tx| {
            for by in [alice.key, second.key, bob.key] {
                assert!(take(tx, target, by, NOW.plus(10))?.is_some());
            }
            Ok(tx.held_by_user(user, (NOW, NOW.plus(99_999)), NOW)?)
        })
        .await
        .unwrap();
    assert_eq!(held, [target; 2]);
}

async fn a_user_s_own_devices_are_not_limited(opened: Opened) {
    let alice = opened.register("alice", 1).await;
    let bob = opened.register("bob", 2).await;
    let second = second_device(&opened, &alice).await;
    for number in [1, 2] {
        opened.store_key_package(second.key, number).await;
    }
    for (by, expected) in [
        (bob, DeviceOutcome::RateLimited),
        (alice.clone(), DeviceOutcome::Ok),
        (alice, DeviceOutcome::Ok),
    ] {
        let id = ReservationId::made_at(NOW);
        let reserved = opened
            .store
            .write(move |tx| {
                let (mut policy, mut limits) = (DirectoryPolicy::default(), DrainLimits::default());
                policy.serving_margin_seconds = 0;
                limits.pair.burst = 0;
                let request = ReserveRequest {
                    users: vec!["alice".parse().unwrap()],
                    group_id: group(),
                    suites: vec![1],
                    all_or_nothing: false,
                };
                let terms = Terms {
                    policy: &policy,
                    limits: &limits,
                    now: NOW,
                };
                directory::reserve(tx, &by, &request, id, terms)
            })
            .await
            .unwrap();
        let of_second = &reserved.users[0].devices;
        let outcome = of_second
            .iter()
            .find(|device| device.device_id.as_str() == "second");
        assert_eq!(outcome.unwrap().outcome, expected);
    }
}
