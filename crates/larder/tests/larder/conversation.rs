//! People who talk to each other.

use crate::support::{World, texts};

#[test]
fn two_processes_chat_both_ways_and_one_who_was_away_catches_up_in_order_and_once() {
    let world = World::new();
    world.register(&["alice", "bob"]);
    world.ok("alice", &["group", "create", "room"]);
    assert_eq!(
        world.ok("alice", &["invite", "room", "bob"]),
        "bob joined #room\n"
    );
    for text in ["one", "two", "three"] {
        assert_eq!(world.ok("alice", &["send", "room", text]), "sent\n");
    }

    let caught_up = world.json("bob", &["recv"]);
    assert_eq!(texts(&caught_up), ["one", "two", "three"]);
    assert_eq!(
        world.json("bob", &["recv"]),
        Vec::<serde_json::Value>::new(),
        "exactly once"
    );

    let mut alice = world.start("alice", &["chat", "room"]);
    let mut bob = world.start("bob", &["chat", "room"]);
    bob.types("four, from bob");
    alice.sees("#room <bob> four, from bob");
    alice.types("five, from alice");
    bob.sees("#room <alice> five, from alice");
    for chat in [&mut alice, &mut bob] {
        chat.types("/quit");
        assert_eq!(chat.ended(), 0);
    }
    assert_eq!(
        world.ok("bob", &["recv"]),
        "",
        "what chat has shown is not shown again"
    );
}

#[test]
fn an_invitation_takes_one_key_package_and_the_pool_is_filled_up_again() {
    let world = World::new();
    world.register(&["alice", "bob"]);
    world.ok("alice", &["group", "create", "room"]);
    let pool = world.json("bob", &["pool", "status"]).remove(0);
    assert_eq!((&pool["available"], &pool["level"]), (&32.into(), &"good".into()));
    world.ok("alice", &["invite", "room", "bob"]);

    let refreshed = world.json("bob", &["pool", "refresh"]).remove(0);
    assert_eq!(
        (&refreshed["minted"], &refreshed["uploaded"]),
        (&1.into(), &1.into())
    );
    assert_eq!(
        (&refreshed["pool"]["available"], &refreshed["pool"]["reserved"]),
        (&32.into(), &1.into())
    );
    world.ok("bob", &["recv"]);
    let pool = world.json("bob", &["pool", "status"]).remove(0);
    assert_eq!(
        (&pool["available"], &pool["reserved"], &pool["spent"]),
        (&32.into(), &0.into(), &1.into())
    );
}

#[test]
fn a_removed_member_reads_nothing_more_and_one_who_leaves_is_gone() {
    let world = World::new();
    world.register(&["alice", "bob", "carol"]);
    world.ok("alice", &["group", "create", "room"]);
    world.ok("alice", &["invite", "room", "bob", "carol"]);
    world.ok("bob", &["recv"]);
    world.ok("carol", &["recv"]);
    for _ in 0..2 {
        for member in ["alice", "bob", "carol"] {
            world.ok(member, &["recv"]);
        }
    }
    let shown = ["alice", "bob", "carol"].map(|member| world.json(member, &["members", "room"]));
    assert!(shown.iter().all(|members| members.len() == 3 + 1));
    let [of_alice, of_bob, of_carol] = shown.map(|mut members| members.pop().unwrap());
    assert_eq!(of_alice["type"], "epoch_code");
    assert!(of_alice == of_bob && of_bob == of_carol);
    let code = of_alice["code"].as_str().unwrap();
    let line = format!(
        "everybody in epoch {} sees the code {code}, unless the group was split\n",
        of_alice["epoch"]
    );
    assert!(world.ok("bob", &["members", "room"]).ends_with(&line));

    assert_eq!(
        world.ok("alice", &["remove", "room", "carol"]),
        "carol was removed from #room\n"
    );
    world.ok("alice", &["send", "room", "only for bob"]);
    assert_eq!(texts(&world.json("carol", &["recv"])), Vec::<String>::new());
    assert_eq!(texts(&world.json("bob", &["recv"])), ["only for bob"]);
    assert_eq!(world.run("carol", &["send", "room", "let me in"]).code, 3);

    world.ok("bob", &["leave", "room"]);
    assert_eq!(world.ok("alice", &["recv"]), "#room * bob left\n");
    let members = world.json("alice", &["members", "room"]);
    assert_eq!(members.len(), 1 + 1);
    assert_eq!(members[0]["user"], "alice");
    world.ok("bob", &["recv"]);
    assert_eq!(world.json("bob", &["groups"])[0]["state"], "left");
}

#[test]
fn a_member_who_missed_several_epochs_can_still_write_at_once() {
    let world = World::new();
    world.register(&["alice", "bob", "carol"]);
    world.ok("alice", &["group", "create", "room"]);
    world.ok("alice", &["invite", "room", "bob"]);
    world.ok("bob", &["recv"]);
    for _ in 0..2 {
        world.ok("alice", &["invite", "room", "carol"]);
        world.ok("alice", &["remove", "room", "carol"]);
    }
    assert_eq!(world.ok("bob", &["send", "room", "still here"]), "sent\n");
    assert_eq!(texts(&world.json("alice", &["recv"])), ["still here"]);
}

#[test]
fn what_is_typed_while_the_server_is_away_is_kept_and_sent_when_it_is_back() {
    let mut world = World::new();
    world.register(&["alice", "bob"]);
    world.ok("alice", &["group", "create", "room"]);
    world.ok("alice", &["invite", "room", "bob"]);
    let mut alice = world.start("alice", &["chat", "room"]);
    alice.types("before");
    let mut bob = world.start("bob", &["recv", "--follow"]);
    bob.sees("#room <alice> before");

    world.kill_server();
    alice.types("meanwhile");
    alice.sees("pending: the server cannot be reached; the message is kept and will be sent");
    world.start_server();
    bob.sees("#room <alice> meanwhile");
    alice.types("after");
    bob.sees("#room <alice> after");
}

#[cfg(unix)]
#[test]
fn following_ends_well_on_a_signal_and_shows_again_what_a_closed_pipe_did_not_take() {
    let world = World::new();
    world.register(&["alice", "bob"]);
    world.ok("alice", &["group", "create", "room"]);
    world.ok("alice", &["invite", "room", "bob"]);
    for signal in ["TERM", "INT"] {
        let mut bob = world.start("bob", &["recv", "--follow"]);
        world.ok("alice", &["send", "room", signal]);
        bob.sees(&format!("#room <alice> {signal}"));
        bob.signal(signal);
        assert_eq!(bob.ended(), 0, "SIG{signal}");
    }

    let mut command = world.command("bob", &["recv", "--follow"]);
    let mut bob = command.spawn().unwrap();
    drop(bob.stdout.take());
    world.ok("alice", &["send", "room", "into the void"]);
    assert!(bob.wait().unwrap().success());
    assert_eq!(world.ok("bob", &["recv"]), "#room <alice> into the void\n");
}

#[test]
fn receiving_waits_for_something_new_and_no_longer() {
    let world = World::new();
    world.register(&["alice", "bob"]);
    world.ok("alice", &["group", "create", "room"]);
    world.ok("alice", &["invite", "room", "bob"]);
    world.ok("bob", &["recv"]);
    let mut bob = world.start("bob", &["recv", "--wait", "3600"]);
    world.ok("alice", &["send", "room", "here"]);
    bob.sees("#room <alice> here");
    assert_eq!(bob.ended(), 0);
    assert_eq!(world.ok("bob", &["recv", "--wait", "0"]), "");
}

#[test]
fn hostile_text_reaches_a_terminal_as_text_and_a_program_as_it_was_written() {
    let world = World::new();
    world.register(&["alice", "bob"]);
    world.ok("alice", &["group", "create", "a <b> c"]);
    world.ok("alice", &["invite", "a <b> c", "bob"]);
    let hostile = "\u{1b}[2J\n#room <bob> \u{202e}hi";
    world.ok("alice", &["send", "a <b> c", hostile]);
    world.ok("alice", &["send", "a <b> c", hostile]);
    let shown = world.ok("bob", &["recv"]);
    let expected = r##"#"a <b> c" <alice> \u{1b}[2J\n#room <bob> \u{202e}hi"##;
    assert_eq!(
        shown.lines().filter(|line| *line == expected).count(),
        2,
        "{shown}"
    );
    world.ok("alice", &["send", "a <b> c", hostile]);
    assert_eq!(texts(&world.json("bob", &["recv"])), [hostile]);
}
