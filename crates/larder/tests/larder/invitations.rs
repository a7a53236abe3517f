//! A server where whoever registers needs an invitation code.

use crate::support::{World, parse};
use crate::transcripts::fails;

/// What `register` says and with which exit code when it is refused.
fn refused(world: &World, user: &str, more: &[&str]) -> (i32, String, String) {
    let arguments = [&["register", "--no-encryption", user], more].concat();
    fails(world, user, &arguments)
}

#[test]
fn an_operator_invites_beside_the_running_server_and_a_code_is_good_once() {
    let world = World::with_registration("invited", "warn");
    let (exit, sentence, code) = refused(&world, "alice", &[]);
    assert_eq!((exit, code.as_str()), (3, "invitation-required"));
    assert_eq!(
        sentence,
        "larder: this server wants an invitation code: --invite CODE\n"
    );

    let invited = world.admin(&["invite", "--count", "3"]);
    assert_eq!(invited.len(), 3);
    let codes: Vec<&str> = invited.iter().map(|new| new["code"].as_str().unwrap()).collect();
    let made = world.admin(&["invitations"]);
    let mut ids: Vec<&str> = invited.iter().map(|new| new["id"].as_str().unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(
        made.iter()
            .map(|row| row["id"].as_str().unwrap())
            .collect::<Vec<_>>(),
        ids
    );
    for row in &made {
        let (from, until) = (
            row["created_at"].as_u64().unwrap(),
            row["expires_at"].as_u64().unwrap(),
        );
        assert_eq!(until - from, 7 * 24 * 60 * 60);
        assert!(row.get("code").is_none());
    }

    // What was begun without a code goes on with one, typed as people do.
    let typed = codes[0]
        .to_lowercase()
        .replace('-', " ")
        .replace("larder invite:", "");
    world.ok(
        "alice",
        &["register", "--no-encryption", "alice", "--invite", &typed],
    );
    // Who is registered needs none.
    world.ok("alice", &["register", "--no-encryption", "alice"]);
    let (exit, sentence, code) = refused(&world, "bob", &["--invite", codes[0]]);
    assert_eq!((exit, code.as_str()), (3, "invitation-required"));
    assert_eq!(
        sentence,
        "larder: the invitation code is not good: unknown, used or expired\n"
    );

    // A name that is taken does not cost the code.
    let taken = ["register", "--no-encryption", "alice", "--invite", codes[1]];
    let (exit, _, code) = fails(&world, "bob", &taken);
    assert_eq!((exit, code.as_str()), (3, "name-taken"));
    let mut by_environment = world.command("bob", &["register", "--no-encryption", "bob"]);
    let registered = by_environment.env("LARDER_INVITE", codes[1]).output().unwrap();
    assert!(registered.status.success());

    let left = invited[2]["id"].as_str().unwrap();
    let withdrawn = world.admin(&["invitations", "--revoke", left]);
    assert_eq!(
        (&withdrawn[0]["type"], &withdrawn[0]["id"]),
        (&"invite_code_withdrawn".into(), &left.into())
    );
    assert!(world.admin(&["invitations"]).is_empty());
    let (exit, _, code) = refused(&world, "carol", &["--invite", codes[2]]);
    assert_eq!((exit, code.as_str()), (3, "invitation-required"));
    let data = world.path("server").join("server.db");
    let again = [
        "admin",
        "invitations",
        "--revoke",
        left,
        "--store",
        data.to_str().unwrap(),
    ];
    let (exit, sentence, code) = fails(&world, "admin", &again);
    assert_eq!((exit, code.as_str()), (3, "no-invitation"));
    assert_eq!(sentence, format!("larder: no invitation (any more): {left}\n"));
}

#[test]
fn a_code_with_a_slip_in_it_is_told_before_anything_happens_and_not_repeated() {
    let world = World::without_server();
    for slip in [
        "larder-invite:60RK-4CSM-6MV3-EE1S-C5H6-6S35-CTCH",
        "60RK-4CSM",
        "",
    ] {
        let (exit, sentence, code) = refused(&world, "alice", &["--invite", slip]);
        assert_eq!((exit, code.as_str()), (2, "malformed-invite-code"));
        assert_eq!(
            sentence,
            "larder: that is not an invitation code: something in it is missing or mistyped\n"
        );
    }
    assert!(!world.profile("alice").exists());
}

#[test]
fn a_closed_server_says_so_and_lets_its_users_go_on() {
    let mut world = World::new();
    world.register(&["alice"]);
    world.restart_with_registration("closed");
    let code = world.invitation();
    for more in [&[][..], &["--invite", &code]] {
        let (exit, sentence, code) = refused(&world, "bob", more);
        assert_eq!((exit, code.as_str()), (3, "registration-closed"));
        assert_eq!(sentence, "larder: this server takes no new accounts\n");
    }
    world.ok("alice", &["pool", "refresh"]);
}

#[test]
fn invitations_are_made_whether_a_server_runs_or_not_but_not_in_a_database_of_another_version() {
    let mut world = World::with_registration("invited", "warn");
    assert_eq!(world.stop_server(), 0);
    let lines = world.ok(
        "admin",
        &[
            "admin",
            "invite",
            "--store",
            world.path("server").join("server.db").to_str().unwrap(),
        ],
    );
    let (code, until) = lines.trim_end().split_once("  until ").unwrap();
    assert_eq!((code.len(), until.len()), (48, "2026-12-03 02:00".len()));
    world.start_server();
    world.ok(
        "alice",
        &["register", "--no-encryption", "alice", "--invite", code],
    );

    world.kill_server();
    let database = world.path("server").join("server.db");
    let older = "DELETE FROM larder_server_migrations
        WHERE version = (SELECT max(version) FROM larder_server_migrations)";
    rusqlite::Connection::open(&database)
        .unwrap()
        .execute(older, [])
        .unwrap();
    let database = database.to_str().unwrap();
    let (exit, sentence, _) = fails(&world, "admin", &["admin", "invite", "--store", database]);
    assert_eq!(exit, 1);
    assert!(sentence.contains("start its server first"), "{sentence}");
    let (exit, _, code) = fails(
        &world,
        "admin",
        &["admin", "invitations", "--store", "/nowhere/larder.db"],
    );
    assert_eq!((exit, code.as_str()), (3, "no-database"));
}

#[test]
fn a_command_line_for_invitations_has_bounds() {
    let world = World::without_server();
    for arguments in [
        &["serve", "--registration", "friends"][..],
        &["admin", "invite", "--count", "0"],
        &["admin", "invite", "--count", "1001"],
        &["admin", "invite", "--valid", "0"],
        &["admin", "invite", "--valid", "367"],
        &["admin", "invitations", "--revoke", "not-an-id"],
    ] {
        let run = world.run("p", &[&["--json"], arguments].concat());
        assert_eq!(run.code, 2, "{arguments:?}");
        assert_eq!(parse(&run.out)["error"]["code"], "usage");
    }
}
