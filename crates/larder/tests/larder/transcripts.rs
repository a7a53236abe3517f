//! What is said, and with which exit code, when things go well and when they do not.

use crate::support::{World, parse};

/// Runs a command that must fail: its exit code, the sentence on stderr, and the code that `--json` tells.
pub(crate) fn fails(world: &World, profile: &str, arguments: &[&str]) -> (i32, String, String) {
    let plain = world.run(profile, arguments);
    assert_eq!(plain.out, "", "{arguments:?}: failures are told on stderr");
    let json = world.run(profile, &[&["--json"], arguments].concat());
    assert_eq!(json.code, plain.code, "{arguments:?}");
    let error = parse(&json.out)["error"].clone();
    assert_eq!(error["exit"], plain.code, "{arguments:?}");
    let code = error["code"].as_str().unwrap().to_owned();
    (plain.code, plain.err, code)
}

#[test]
fn a_profile_without_an_account_says_how_to_get_one() {
    let world = World::without_server();
    for arguments in [
        &["groups"][..],
        &["recv"],
        &["send", "room", "hi"],
        &["pool", "status"],
        &["chat", "room"],
    ] {
        let (exit, sentence, code) = fails(&world, "nobody", arguments);
        assert_eq!((exit, code.as_str()), (5, "not-registered"));
        assert_eq!(
            sentence,
            "larder: the profile nobody has no account; create one with `larder register USER`\n"
        );
    }
    assert!(!world.profile("nobody").exists(), "looking creates nothing");
}

#[test]
fn names_that_cannot_be_are_usage_errors() {
    let world = World::without_server();
    for arguments in [
        &["register", "Alice"][..],
        &["register", "al/ice"],
        &["invite", "room", "B\u{202e}ob"],
        &["--profile", "../x", "groups"],
        &["serve", "--listen", "nowhere"],
        &["nonsense"],
        &["send", "room"],
        &[],
    ] {
        assert_eq!(world.run("p", arguments).code, 2, "{arguments:?}");
    }
    let json = world.run("p", &["--json", "register", "Alice"]);
    assert_eq!(json.code, 2);
    let error = &parse(&json.out)["error"];
    assert_eq!((&error["code"], &error["exit"]), (&"usage".into(), &2.into()));
}

#[test]
fn help_and_version_are_not_failures_and_tell_the_exit_codes() {
    let world = World::without_server();
    let help = world.ok("p", &["--help"]);
    for line in [
        "Exit codes:",
        "  0  done",
        "  6  the profile or the database is in use",
    ] {
        assert!(help.contains(line), "{help}");
    }
    assert!(world.ok("p", &["--version"]).starts_with("larder "));
}

#[test]
fn a_name_is_given_once() {
    let world = World::new();
    let told = world.ok("alice", &["register", "--no-encryption", "alice"]);
    assert!(
        told.starts_with(&format!(
            "registered alice at {} (profile alice); 32",
            world.url()
        )),
        "{told}"
    );
    let (exit, sentence, code) = fails(&world, "other", &["register", "--no-encryption", "alice"]);
    assert_eq!((exit, code.as_str()), (3, "name-taken"));
    assert_eq!(sentence, "larder: that name is taken; choose another\n");
    let (exit, _, code) = fails(&world, "alice", &["register", "--no-encryption", "bob"]);
    assert_eq!((exit, code.as_str()), (3, "already-registered"));
    world.ok("other", &["register", "--no-encryption", "other"]);
}

#[test]
fn a_group_that_is_not_there_is_named_in_the_answer() {
    let world = World::new();
    world.register(&["alice"]);
    for arguments in [
        &["send", "attic", "hi"][..],
        &["members", "attic"],
        &["invite", "attic", "bob"],
        &["leave", "attic"],
        &["chat", "attic"],
    ] {
        let (exit, sentence, code) = fails(&world, "alice", arguments);
        assert_eq!((exit, code.as_str()), (5, "unknown-group"));
        assert_eq!(sentence, "larder: no group called attic\n");
    }
}

#[test]
fn a_user_who_cannot_be_invited_is_refused_and_others_are_added_all_the_same() {
    let world = World::new();
    world.register(&["alice", "bob"]);
    world.ok("alice", &["group", "create", "room"]);
    let nobody = world.run("alice", &["invite", "room", "zoe"]);
    assert_eq!((nobody.code, nobody.out.as_str()), (3, "zoe: no such user\n"));
    let both = world.run("alice", &["--json", "invite", "room", "zoe", "bob"]);
    assert_eq!(both.code, 3);
    let invited = parse(&both.out);
    assert_eq!(invited["added"], serde_json::json!(["bob"]));
    assert_eq!(invited["not_added"][0]["user"], "zoe");
    assert_eq!(invited["not_added"][0]["code"], "not-found");
}

#[test]
fn a_blocked_user_is_told_that_there_is_no_such_user_until_unblocked() {
    let world = World::new();
    world.register(&["alice", "mallory"]);
    world.ok("mallory", &["group", "create", "room"]);
    let nobody = world.run("mallory", &["invite", "room", "zoe"]);
    for _ in 0..2 {
        assert_eq!(
            world.ok("alice", &["block", "mallory"]),
            "mallory is blocked: they can no longer find or invite you\n"
        );
    }
    let blocked = world.run("mallory", &["invite", "room", "alice"]);
    assert_eq!(
        (blocked.code, blocked.out.replace("alice", "zoe"), blocked.err),
        (nobody.code, nobody.out, nobody.err)
    );
    // A name that nobody has is blocked like any other.
    let json = world.json("alice", &["block", "zoe"]).remove(0);
    assert_eq!((&json["type"], &json["user"]), (&"blocked".into(), &"zoe".into()));
    let json = world.json("alice", &["unblock", "zoe"]).remove(0);
    assert_eq!(json["type"], "unblocked");
    assert_eq!(
        world.ok("alice", &["unblock", "mallory"]),
        "mallory is not blocked\n"
    );
    world.ok("mallory", &["invite", "room", "alice"]);
    let (exit, sentence, code) = fails(&world, "alice", &["block", "alice"]);
    assert_eq!((exit, code.as_str()), (2, "oneself"));
    assert_eq!(sentence, "larder: alice is you\n");
    assert_eq!(world.run("alice", &["unblock", "Zoe!"]).code, 2);
}

#[test]
fn who_invites_somebody_too_often_is_told_when_to_try_again() {
    let world = World::new();
    world.register(&["alice", "bob"]);
    for number in 0..7 {
        let room = format!("room{number}");
        world.ok("alice", &["group", "create", &room]);
        let invited = world.run("alice", &["invite", &room, "bob"]);
        if number < 6 {
            assert_eq!(invited.out, format!("bob joined #{room}\n"));
            continue;
        }
        assert_eq!(invited.code, 3);
        let expected = "bob: was asked for too often; try again in ";
        assert!(invited.out.starts_with(expected), "{}", invited.out);
        assert!(invited.out.ends_with(" min\n"), "{}", invited.out);
        let json = parse(&world.run("alice", &["--json", "invite", &room, "bob"]).out);
        let not_added = &json["not_added"][0];
        assert_eq!(not_added["code"], "rate-limited");
        let wait = not_added["retry_after_seconds"].as_u64().unwrap();
        assert!((1..=600).contains(&wait), "{wait}");
    }
}

#[test]
fn without_a_server_messages_are_kept_and_everything_else_says_so() {
    let mut world = World::new();
    world.register(&["alice", "bob"]);
    world.ok("alice", &["group", "create", "room"]);
    world.ok("alice", &["invite", "room", "bob"]);
    world.kill_server();

    let sent = world.run("alice", &["send", "room", "kept"]);
    assert_eq!(sent.code, 4);
    assert_eq!(
        sent.out,
        "pending: the server cannot be reached; the message is kept and will be sent\n"
    );
    assert_eq!(
        parse(&world.run("alice", &["--json", "send", "room", "kept too"]).out)["status"],
        "pending"
    );
    for arguments in [&["recv"][..], &["invite", "room", "bob"], &["pool", "refresh"]] {
        let (exit, _, code) = fails(&world, "alice", arguments);
        assert_eq!((exit, code.as_str()), (4, "unreachable"), "{arguments:?}");
    }
    let (exit, _, code) = fails(&world, "carol", &["register", "--no-encryption", "carol"]);
    assert_eq!((exit, code.as_str()), (4, "unreachable"));
    assert_eq!(
        world.run("alice", &["groups"]).code,
        0,
        "what is here needs no server"
    );

    world.start_server();
    world.ok("alice", &["recv"]);
    let received = world.ok("bob", &["recv"]);
    assert!(
        received.ends_with("#room <alice> kept\n#room <alice> kept too\n"),
        "{received}"
    );
    world.ok("carol", &["register", "--no-encryption", "carol"]);
}

#[test]
fn a_port_and_a_database_have_one_server() {
    let world = World::new();
    let elsewhere = world.path("elsewhere");
    let arguments = [
        "serve",
        "--listen",
        world.address(),
        "--store",
        elsewhere.to_str().unwrap(),
    ];
    let (exit, sentence, code) = fails(&world, "x", &arguments);
    assert_eq!((exit, code.as_str()), (3, "address-in-use"));
    assert!(
        sentence.starts_with(&format!("larder: {} is in use", world.address())),
        "{sentence}"
    );

    let data = world.path("server").join("server.db");
    let arguments = [
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--store",
        data.to_str().unwrap(),
    ];
    let (exit, _, code) = fails(&world, "x", &arguments);
    assert_eq!((exit, code.as_str()), (6, "database-locked"));
}

#[test]
fn a_profile_serves_one_process_at_a_time() {
    let world = World::new();
    world.register(&["alice"]);
    world.ok("alice", &["group", "create", "room"]);
    let mut chat = world.start("alice", &["--json", "chat", "room"]);
    chat.types("hello");
    assert_eq!(parse(&chat.line())["status"], "sent");
    let (exit, _, code) = fails(&world, "alice", &["groups"]);
    assert_eq!((exit, code.as_str()), (6, "profile-locked"));
    chat.types("/quit");
    assert_eq!(chat.ended(), 0);
    world.ok("alice", &["groups"]);
}

#[test]
fn a_profile_is_not_used_at_another_server() {
    let world = World::new();
    world.register(&["alice"]);
    let (exit, sentence, code) = fails(&world, "alice", &["--server", "http://127.0.0.1:9", "groups"]);
    assert_eq!((exit, code.as_str()), (2, "other-server"));
    assert!(sentence.contains(&world.url()), "{sentence}");
}

#[test]
fn json_is_one_object_with_a_type_on_each_line() {
    let world = World::new();
    let registered = world
        .json("alice", &["register", "--no-encryption", "alice"])
        .remove(0);
    assert_eq!(registered["type"], "registered");
    assert_eq!(registered["user"], "alice");
    let created = world.json("alice", &["group", "create", "tea & cake"]).remove(0);
    assert_eq!(
        (&created["type"], &created["name"]),
        (&"group".into(), &"tea & cake".into())
    );
    let group = created["id"].as_str().unwrap();
    let by_prefix = world
        .json("alice", &["send", "--", &group[..8], "alone"])
        .remove(0);
    assert_eq!(
        (&by_prefix["type"], &by_prefix["status"]),
        (&"sent".into(), &"sent".into())
    );
    assert_eq!(by_prefix["group"], group);
    let member = world.json("alice", &["members", "tea & cake"]).remove(0);
    assert_eq!((&member["type"], &member["me"]), (&"member".into(), &true.into()));
    assert_eq!(member["fingerprint"].as_str().unwrap().len(), 64);
    assert_eq!(world.json("alice", &["pool", "status"])[0]["type"], "pool");
    assert_eq!(world.json("alice", &["groups"]), [created]);
}

#[test]
fn a_server_tells_programs_too_when_it_is_ready() {
    let world = World::without_server();
    let database = world.path("elsewhere.db");
    let arguments = [
        "--json",
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--store",
        database.to_str().unwrap(),
    ];
    let mut server = world.start("server", &arguments);
    let ready = parse(&server.line());
    assert_eq!(
        (&ready["type"], &ready["server_name"]),
        (&"listening".into(), &"localhost".into())
    );
    let address = ready["url"].as_str().unwrap().strip_prefix("http://").unwrap();
    assert!(std::net::TcpStream::connect(address).is_ok());
    assert!(database.is_file());
}

#[test]
fn the_server_ends_in_order_on_a_signal_while_somebody_waits() {
    let mut world = World::new();
    world.register(&["alice"]);
    let alice = world.start("alice", &["recv", "--follow"]);
    assert_eq!(world.stop_server(), 0);
    drop(alice);
}

#[test]
fn data_is_kept_in_the_xdg_directory_where_only_its_owner_looks() {
    let world = World::new();
    let xdg = world.path("xdg");
    let mut command = world.command("default", &["register", "--no-encryption", "alice"]);
    command
        .env_remove("LARDER_HOME")
        .env("XDG_DATA_HOME", &xdg)
        .env("XDG_CONFIG_HOME", &xdg);
    assert!(command.status().unwrap().success());
    let profile = xdg.join("larder/profiles/default");
    assert!(profile.is_dir());
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(profile.metadata().unwrap().permissions().mode() & 0o077, 0);
    }
}
