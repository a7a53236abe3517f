//! What the pool of KeyPackages says of itself, and what becomes of an empty one.

use larder_client::{Invitations, MlsConnection, Options, PoolPolicy, UnixSeconds};

use crate::support::World;

/// Invites a user to this many new groups, as registered accounts of their own: each may take six at once. They take
/// turns, so that each shares a group with the user before only those may go on.
fn take_key_packages(world: &World, user: &str, count: usize) {
    let options = |name: &str| Options {
        profile: world.path(name),
        key: None,
        clock: std::sync::Arc::new(|| UnixSeconds(std::time::UNIX_EPOCH.elapsed().unwrap().as_secs())),
        policy: PoolPolicy::default(),
        invitations: Invitations::Accept,
        access: larder_client::Access::default(),
        dates: |at| at.to_string(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut takers = Vec::new();
        for number in 0..count.div_ceil(6) {
            let name = format!("taker{number}");
            let taker = MlsConnection::register(options(&name), &world.url(), name.parse().unwrap())
                .await
                .unwrap();
            takers.push(taker);
        }
        for taker in takers.iter().cycle().take(count) {
            let group = taker.create_group("elsewhere").await.unwrap().id;
            let invited = taker.invite(&group, &[user.parse().unwrap()]).await.unwrap();
            assert!(invited.by_last_resort.is_empty());
        }
    });
}

#[test]
fn a_user_whose_pool_is_empty_is_invited_by_the_last_resort_and_it_is_told() {
    let world = World::new();
    world.register(&["alice", "bob"]);
    let pool = world.json("bob", &["pool", "status"]).remove(0);
    assert_eq!(
        (&pool["last_resort"], &pool["next_action"], &pool["quarantined"]),
        (&"unused".into(), &"none".into(), &0.into())
    );
    assert!(pool["last_resort_created_at"].is_u64());
    assert_eq!(
        world.ok("bob", &["pool", "probe"]),
        "this device can be added: the next KeyPackage is valid, and its private key is here\n"
    );
    take_key_packages(&world, "bob", 32);
    let probed = world.json("bob", &["pool", "probe"]).remove(0);
    assert_eq!(
        (&probed["addable"], &probed["code"]),
        (&true.into(), &"last-resort".into())
    );

    world.ok("alice", &["group", "create", "room"]);
    assert_eq!(
        world.ok("alice", &["invite", "room", "bob"]),
        "bob joined #room (by a last-resort KeyPackage: no other was left for you)\n"
    );
    world.ok("alice", &["group", "create", "hall"]);
    let invited = world.json("alice", &["invite", "hall", "bob"]).remove(0);
    assert_eq!(invited["added"], serde_json::json!(["bob"]));
    assert_eq!(invited["by_last_resort"], serde_json::json!(["bob"]));

    let refreshed = world.json("bob", &["pool", "refresh"]).remove(0);
    assert_eq!(refreshed["last_resort_replaced"], true);
    assert_eq!(refreshed["pool"]["available"], 32);
    assert_eq!(refreshed["pool"]["last_resort"], "unused");
    world.ok("bob", &["recv"]);
    assert_eq!(world.json("bob", &["groups"]).len(), 32 + 2);
    world.ok("alice", &["send", "room", "welcome"]);
    assert_eq!(world.ok("bob", &["recv"]), "#room <alice> welcome\n");
}

#[test]
fn an_invitation_that_fails_is_shown_with_the_pool() {
    let mut world = World::new();
    world.register(&["alice", "bob"]);
    world.ok("alice", &["group", "create", "room"]);
    world.ok("alice", &["invite", "room", "bob"]);
    assert_eq!(world.stop_server(), 0);
    // The server has lost the end of the Welcome.
    let database = rusqlite::Connection::open(world.path("server").join("server.db")).unwrap();
    let sql = "UPDATE bodies SET body = substr(body, 1, 40) WHERE part = 1";
    assert_eq!(database.execute(sql, []).unwrap(), 1);
    drop(database);
    world.start_server();

    let told = world.ok("bob", &["recv"]);
    assert!(told.contains("an invitation could not be accepted"), "{told}");
    let shown = world.ok("bob", &["pool", "status"]);
    let lines: Vec<&str> = shown.lines().collect();
    assert!(lines[0].contains("1 failed invitation;"), "{shown}");
    assert!(lines[1].starts_with("* an invitation failed on 20"), "{shown}");
    let records = world.json("bob", &["pool", "status"]);
    assert_eq!(records[0]["quarantined"], 1);
    assert_eq!(
        (
            &records[1]["type"],
            &records[1]["reason"],
            &records[1]["attempts"]
        ),
        (&"quarantined".into(), &"malformed".into(), &1.into())
    );
    assert_eq!(world.ok("bob", &["recv"]), "", "it is told once");
}

#[test]
fn a_device_that_has_lost_its_private_keys_is_told_that_it_cannot_be_added() {
    let world = World::new();
    world.register(&["bob"]);
    let database = rusqlite::Connection::open(world.profile("bob").join("larder.db")).unwrap();
    assert_eq!(
        database.execute("DELETE FROM openmls_key_packages", []).unwrap(),
        33
    );
    drop(database);
    let ended = world.run("bob", &["pool", "probe"]);
    let (code, told) = (ended.code, ended.out);
    assert_eq!(code, 3);
    assert!(
        told.starts_with("this device cannot be added: the private key of the next KeyPackage is not here"),
        "{told}"
    );
}

#[test]
fn r_d8_the_audit_says_who_took_what_for_which_group_and_fails_when_the_server_has_changed_it() {
    let world = World::new();
    world.register(&["alice", "bob"]);
    world.ok("alice", &["group", "create", "room"]);
    world.ok("alice", &["invite", "room", "bob"]);
    world.ok("bob", &["recv"]);
    let told = world.json("bob", &["pool", "audit"]);
    let reserve = told.iter().find(|row| row["transition"] == "reserve").unwrap();
    assert_eq!(reserve["type"], "audit");
    assert!(reserve["actor"].as_str().unwrap().starts_with("alice/"));
    assert_eq!(reserve["group_name"], "room");
    let last = told.last().unwrap();
    assert_eq!((&last["type"], &last["holds"]), (&"audited".into(), &true.into()));
    let text = world.ok("bob", &["pool", "audit"]);
    assert!(text.contains("  commit by alice/"), "{text}");
    assert!(text.ends_with("the audit holds: 36 rows\n"), "{text}");

    let server = rusqlite::Connection::open(world.path("server").join("server.db")).unwrap();
    server
        .execute(
            "UPDATE audit SET actor = 'eve/eve-1' WHERE transition = 'reserve'",
            [],
        )
        .unwrap();
    let run = world.run("bob", &["pool", "audit"]);
    assert_eq!(run.code, 3);
    assert!(
        run.out
            .ends_with("the audit does not hold: row 34 is missing or was changed\n"),
        "{}",
        run.out
    );
}

#[test]
fn pruned_rows_of_an_audit_are_told_as_too_old_or_as_hidden() {
    let world = World::new();
    world.register(&["alice", "bob"]);
    let rows = world.json("bob", &["pool", "audit"]).len() - 1;
    world.ok("alice", &["group", "create", "room"]);
    world.ok("alice", &["invite", "room", "bob"]);
    // The reservation and the Commit. What follows is bob's refill.
    let through = rows + 2;
    let server = rusqlite::Connection::open(world.path("server").join("server.db")).unwrap();
    let bob = "(SELECT d.id FROM devices d JOIN users u ON u.id = d.user_id WHERE u.name = 'bob')";
    let prune = format!(
        "INSERT INTO audit_checkpoints SELECT user_id, device_id, seq, hash, 0 FROM audit WHERE device_id = {bob} AND seq = {through};
         DELETE FROM audit WHERE device_id = {bob} AND seq <= {through};"
    );
    server.execute_batch(&prune).unwrap();
    let run = world.run("bob", &["pool", "audit"]);
    assert_eq!(run.code, 3);
    let hidden = format!(
        "the audit does not hold: the rows up to {through} are gone, which cannot all be 90 days old yet\n"
    );
    assert!(run.out.ends_with(&hidden), "{}", run.out);

    // As if it had been 100 days.
    let profile = rusqlite::Connection::open(world.profile("bob").join("larder.db")).unwrap();
    profile
        .execute(
            "UPDATE audit_head SET verified_at = verified_at - 100 * 24 * 60 * 60",
            [],
        )
        .unwrap();
    drop(profile);
    let told = world.json("bob", &["pool", "audit"]);
    let last = told.last().unwrap();
    assert_eq!((&last["code"], &last["holds"]), (&"pruned".into(), &true.into()));
    assert_eq!(last["pruned_through"], through);
    let text = world.ok("bob", &["pool", "audit"]);
    let removed = format!("; the rows up to {through} were removed after 90 days or more\n");
    assert!(text.ends_with(&removed), "{text}");
}
