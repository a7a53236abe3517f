//! kill -9 in the middle of things: nothing acknowledged is lost, nothing is doubled.

use std::collections::BTreeSet;

use larder_pool::LocalStore;
use serde_json::Value;

use crate::support::{PATIENCE, Running, World, parse, texts};

/// Every private key has a live row in the pool and the other way round.
fn assert_keys_and_rows_agree(world: &World, user: &str) {
    let store = LocalStore::open(&world.profile(user).join("larder.db")).unwrap();
    let audit = store.audit().unwrap();
    assert!(audit.is_consistent(), "{user}: {audit:?}");
    assert!(audit.live > 0, "{user}: {audit:?}");
}

/// Whether this acknowledges a typed line: it is on the server, or in the outbox.
fn is_acknowledged(record: &Value) -> bool {
    record["type"] == "sent" && record["status"] != "failed"
}

/// Reads records until `enough` holds of all that were read so far.
fn read_until(process: &mut Running, records: &mut Vec<Value>, enough: impl Fn(&[Value]) -> bool) {
    while !enough(records) {
        let Ok(Some(line)) = process.next_in(PATIENCE) else {
            panic!("not enough after {} texts of {records:#?}", texts(records).len());
        };
        let record = parse(&line);
        assert!(record["error"].is_null(), "{record}");
        records.push(record);
    }
}

/// S5, X1.
#[test]
fn a_killed_server_loses_and_doubles_nothing_of_a_busy_exchange() {
    const LINES: usize = 24;
    let mut world = World::new();
    world.register(&["alice", "bob"]);
    world.ok("alice", &["group", "create", "room"]);
    world.ok("alice", &["invite", "room", "bob"]);
    // bob's chat finds the group without asking a server, which may be dead by then.
    world.ok("bob", &["recv"]);
    let mut alice = world.start("alice", &["--json", "chat", "room"]);
    let mut bob = world.start("bob", &["--json", "chat", "room"]);
    let (mut from_alice, mut from_bob) = (Vec::new(), Vec::new());
    let (mut at_alice, mut at_bob) = (Vec::new(), Vec::new());
    for (round, acknowledged) in [1, 7, 16].into_iter().enumerate() {
        for line in 0..LINES {
            from_alice.push(format!("alice {round}.{line}"));
            from_bob.push(format!("bob {round}.{line}"));
            alice.types(from_alice.last().unwrap());
            bob.types(from_bob.last().unwrap());
        }
        let target = round * LINES + acknowledged;
        let sent =
            |records: &[Value]| records.iter().filter(|record| is_acknowledged(record)).count() >= target;
        read_until(&mut alice, &mut at_alice, sent);
        world.kill_server();
        world.start_server();
    }
    read_until(&mut alice, &mut at_alice, |records| {
        texts(records).len() >= from_bob.len()
    });
    read_until(&mut bob, &mut at_bob, |records| {
        texts(records).len() >= from_alice.len()
    });
    assert_eq!(texts(&at_alice), from_bob);
    assert_eq!(texts(&at_bob), from_alice);
    for chat in [&mut alice, &mut bob] {
        chat.types("/quit");
        assert_eq!(chat.ended(), 0);
    }
    for user in ["alice", "bob"] {
        assert_eq!(world.ok(user, &["recv"]), "");
        assert_keys_and_rows_agree(&world, user);
    }
}

/// X1.
#[test]
fn a_killed_sender_loses_and_doubles_nothing_that_it_acknowledged() {
    const LINES: usize = 20;
    let world = World::new();
    world.register(&["alice", "bob"]);
    world.ok("alice", &["group", "create", "room"]);
    world.ok("alice", &["invite", "room", "bob"]);
    let (mut typed, mut acknowledged) = (Vec::new(), Vec::new());
    for (round, killed_after) in [1, 2, 3, 5, 8, 13].into_iter().enumerate() {
        let mut alice = world.start("alice", &["--json", "chat", "room"]);
        let lines: Vec<String> = (0..LINES).map(|line| format!("{round}.{line}")).collect();
        for line in &lines {
            alice.types(line);
        }
        let mut records = Vec::new();
        read_until(&mut alice, &mut records, |records| records.len() == killed_after);
        records.extend(alice.kill().iter().map(|line| parse(line)));
        acknowledged.extend(
            lines
                .iter()
                .take(records.iter().filter(|record| is_acknowledged(record)).count())
                .cloned(),
        );
        typed.extend(lines);
        assert_keys_and_rows_agree(&world, "alice");
    }
    // Whatever was accepted and not sent goes out now.
    world.ok("alice", &["recv"]);

    let received = texts(&world.json("bob", &["recv"]));
    let distinct: BTreeSet<&String> = received.iter().collect();
    assert_eq!(distinct.len(), received.len(), "doubled: {received:?}");
    let lost: Vec<&String> = acknowledged
        .iter()
        .filter(|line| !distinct.contains(line))
        .collect();
    assert!(lost.is_empty(), "lost: {lost:?}");
    let in_order: Vec<&String> = typed.iter().filter(|line| distinct.contains(line)).collect();
    assert_eq!(received.iter().collect::<Vec<_>>(), in_order);
    assert_keys_and_rows_agree(&world, "bob");
}

/// C4, X1.
#[test]
fn a_killed_receiver_joins_and_stores_everything_once() {
    const LINES: usize = 8;
    let world = World::new();
    world.register(&["alice", "bob"]);
    let (mut sent, mut received) = (Vec::new(), Vec::new());
    for (round, killed_after) in [0, 1, 2, 4, 7].into_iter().enumerate() {
        let group = format!("room-{round}");
        let mut bob = world.start("bob", &["--json", "recv", "--follow"]);
        world.ok("alice", &["group", "create", &group]);
        world.ok("alice", &["invite", &group, "bob"]);
        let mut alice = world.start("alice", &["--json", "chat", &group]);
        for line in 0..LINES {
            sent.push(format!("{round}.{line}"));
            alice.types(sent.last().unwrap());
        }
        alice.closes_input();
        let start = received.len();
        read_until(&mut bob, &mut received, |records| {
            records.len() >= start + killed_after
        });
        received.extend(bob.kill().iter().map(|line| parse(line)));
        assert_eq!(alice.ended(), 0);
        assert_keys_and_rows_agree(&world, "bob");
    }
    received.extend(world.json("bob", &["recv"]));

    // What was printed in the last moment may be shown again, but it is one row.
    let mut rows = BTreeSet::new();
    received.retain(|record| rows.insert(record["row"].as_i64().unwrap()));
    assert_eq!(texts(&received), sent);
    assert_eq!(world.json("bob", &["groups"]).len(), 5);
    assert_keys_and_rows_agree(&world, "bob");
}
