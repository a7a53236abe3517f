//! Deployments with other ciphersuites, on the command line.

use serde_json::Value;

use crate::support::World;

/// The first lines of a pool and of a probe, for one ciphersuite.
const PROBED: &str = "this device can be added: the next KeyPackage is valid, and its private key is here";

fn an_hour_later(world: &World, profile: &str) {
    let database = rusqlite::Connection::open(world.profile(profile).join("larder.db")).unwrap();
    let sql = "UPDATE profile SET suites_checked_at = suites_checked_at - 3600";
    assert_eq!(database.execute(sql, []).unwrap(), 1);
}

#[test]
fn several_suites_have_a_line_and_a_record_each_and_one_has_no_name() {
    let mut world = World::with_suites(&["x25519-chacha20poly1305"]);
    world.register(&["bob"]);
    let shown = world.ok("bob", &["pool", "status"]);
    assert!(
        shown.starts_with("pool good: 32 of 32 available; last resort unused;"),
        "{shown}"
    );
    assert_eq!(world.ok("bob", &["pool", "probe"]), format!("{PROBED}\n"));
    let record = world.json("bob", &["pool", "status"]).remove(0);
    assert_eq!((record.get("suite"), record.get("stocked")), (None, None));

    world.restart_with_suites(&["0x0001", "x25519-chacha20poly1305"]);
    an_hour_later(&world, "bob");
    let refreshed = world.json("bob", &["pool", "refresh"]).remove(0);
    let names = |pools: &[Value]| -> Vec<String> {
        let name = |pool: &Value| pool["suite"].as_str().unwrap().to_owned();
        pools.iter().map(name).collect()
    };
    let both = ["x25519-aes128gcm", "x25519-chacha20poly1305"];
    assert_eq!(names(refreshed["pools"].as_array().unwrap()), both);
    assert_eq!(refreshed["pool"], refreshed["pools"][0]);
    assert_eq!(
        (&refreshed["minted"], &refreshed["pool"]["target"]),
        (&16.into(), &16.into())
    );
    assert_eq!(names(&world.json("bob", &["pool", "status"])), both);
    let shown = world.ok("bob", &["pool", "status"]);
    let lines: Vec<&str> = shown.lines().collect();
    assert!(
        lines[0].starts_with("pool x25519-aes128gcm good: 16 of 16 available;"),
        "{shown}"
    );
    assert!(
        lines[1].starts_with("pool x25519-chacha20poly1305 good: 32 of 16 available;"),
        "{shown}"
    );
    let probed = both.map(|suite| format!("{suite}: {PROBED}\n")).concat();
    assert_eq!(world.ok("bob", &["pool", "probe"]), probed);
    assert_eq!(names(&world.json("bob", &["pool", "probe"])), both);

    world.restart_with_suites(&["0x0001"]);
    an_hour_later(&world, "bob");
    world.ok("bob", &["pool", "refresh"]);
    let records = world.json("bob", &["pool", "status"]);
    assert_eq!(
        (&records[1]["stocked"], &records[1]["next_action"]),
        (&false.into(), &"none".into())
    );
    let shown = world.ok("bob", &["pool", "status"]);
    assert!(
        shown.contains("\npool x25519-chacha20poly1305 is not kept full any more: 32 available"),
        "{shown}"
    );
    assert_eq!(world.ok("bob", &["pool", "probe"]), format!("{PROBED}\n"));
}

#[test]
fn a_user_without_the_groups_suite_is_explained_in_words() {
    let mut world = World::with_suites(&["x25519-chacha20poly1305"]);
    world.register(&["alice"]);
    world.ok("alice", &["group", "create", "room"]);
    world.restart_with_suites(&["x25519-aes128gcm"]);
    world.register(&["bob"]);
    let refused = world.run("alice", &["invite", "room", "bob"]);
    assert_eq!(refused.code, 3);
    assert_eq!(
        refused.out,
        "bob: has no KeyPackage of the group's ciphersuite, x25519-chacha20poly1305: their \
         program does not support it, or has not been online since the server asked for it\n"
    );
}

#[test]
fn a_server_refuses_to_start_with_a_suite_that_it_cannot_be_run_with_and_says_why() {
    let world = World::without_server();
    for (suite, why) in [
        ("0x0002", "the ciphersuite 0x0002 does not sign with Ed25519"),
        ("0x7777", "this build has no ciphersuite 0x7777"),
        ("rot13", "a ciphersuite is x25519-aes128gcm"),
    ] {
        let data = world.path("refused");
        let arguments = ["serve", "--store", data.to_str().unwrap(), "--suite", suite];
        let refused = world.run("server", &arguments);
        assert_eq!(refused.code, 2, "{suite}");
        assert!(refused.err.contains(why), "{}", refused.err);
        assert!(!data.exists());
    }
}
