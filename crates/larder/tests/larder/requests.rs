//! Invitations from strangers, as people and programs are asked about them.

use crate::support::{World, texts};
use crate::transcripts::fails;

/// As somebody who wants to be asked.
fn asked<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    [&["--invitations", "ask"], arguments].concat()
}

#[test]
fn somebody_who_is_invited_by_a_stranger_is_asked_once_and_accepts_or_declines() {
    let world = World::new();
    world.register(&["alice", "bob"]);
    for room in ["kitchen", "tea & \u{202e}cake"] {
        world.ok("alice", &["group", "create", room]);
        world.ok("alice", &["invite", room, "bob"]);
        world.ok("alice", &["send", room, "hello"]);
    }
    let told = world.ok("bob", &asked(&["recv"]));
    // Groups have no order among themselves within a second.
    let mut told: Vec<&str> = told.lines().collect();
    told.sort_unstable();
    let [cake, kitchen] = told[..] else {
        panic!("{told:?}");
    };
    assert_eq!(
        kitchen,
        "#kitchen * alice invites you to a group of 2; larder accept kitchen, or larder decline kitchen"
    );
    let handle = cake.rsplit(' ').next().unwrap();
    assert_eq!(handle.len(), 8, "a name that is no word is not one to type");
    assert_eq!(
        cake,
        format!(
            "#\"tea & \\u{{202e}}cake\" * alice invites you to a group of 2; larder accept {handle}, or larder decline \
             {handle}"
        )
    );
    assert_eq!(world.ok("bob", &["recv"]), "", "once");

    let groups = world.json("bob", &["groups"]);
    assert!(
        groups
            .iter()
            .all(|group| group["request"] == "alice" && group["unread"] == 0)
    );
    let listed = world.ok("bob", &["groups"]);
    assert!(
        listed.contains("#kitchen  2 members, alice invites you  "),
        "{listed}"
    );
    let (exit, sentence, code) = fails(&world, "bob", &["send", "kitchen", "hi"]);
    assert_eq!((exit, code.as_str()), (3, "not-accepted"));
    let id = groups.iter().find(|group| group["name"] == "kitchen").unwrap()["id"]
        .as_str()
        .unwrap();
    assert_eq!(
        sentence,
        format!(
            "larder: accept the invitation first: larder accept {}\n",
            &id[..8]
        )
    );

    assert_eq!(world.ok("bob", &["accept", "kitchen"]), "you are in #kitchen\n");
    assert_eq!(world.ok("bob", &["send", "kitchen", "hi"]), "sent\n");
    assert_eq!(texts(&world.json("bob", &["recv"])), ["hello"]);
    assert_eq!(
        world.ok("bob", &["decline", handle]),
        "the invitation to #\"tea & \\u{202e}cake\" is declined\n"
    );
    let told = world.ok("alice", &["recv"]);
    assert!(
        told.contains("bob left") && told.contains("#kitchen <bob> hi"),
        "{told}"
    );
    let (exit, sentence, code) = fails(&world, "bob", &["accept", "kitchen"]);
    assert_eq!((exit, code.as_str()), (5, "unknown-group"));
    assert_eq!(sentence, "larder: no invitation to a group called kitchen\n");
}

#[test]
fn an_invitation_is_a_record_of_its_own_and_ends_when_its_author_is_blocked() {
    let world = World::new();
    world.register(&["mallory", "bob"]);
    world.ok("mallory", &["group", "create", "room"]);
    world.ok("mallory", &["invite", "room", "bob"]);
    let invitation = world.json("bob", &asked(&["recv"])).remove(0);
    assert_eq!(invitation["type"], "invitation");
    assert_eq!(
        (&invitation["by"], &invitation["group_name"]),
        (&"mallory".into(), &"room".into())
    );
    assert_eq!(
        world.ok("bob", &["block", "mallory"]),
        "mallory is blocked: they can no longer find or invite you; their invitation is declined\n"
    );
    assert!(world.ok("mallory", &["recv"]).contains("bob left"));
    assert!(world.json("bob", &["groups"]).is_empty());
}

#[test]
fn a_program_may_accept_whatever_comes_and_a_person_is_asked_unless_told_otherwise() {
    let world = World::new();
    world.register(&["alice", "bob"]);
    world.ok("alice", &["group", "create", "room"]);
    world.ok("alice", &["invite", "room", "bob"]);
    assert_eq!(
        world.ok("bob", &["--invitations", "accept", "recv"]),
        "#room * you joined a group of 2\n"
    );
    world.ok("bob", &["send", "room", "hi"]);
    world.register(&["carol"]);
    world.ok("alice", &["invite", "room", "carol"]);
    let mut command = world.command("carol", &["recv"]);
    let output = command.env_remove("LARDER_INVITATIONS").output().unwrap();
    assert!(
        String::from_utf8(output.stdout)
            .unwrap()
            .contains("alice invites you")
    );
    assert_eq!(world.run("bob", &["--invitations", "maybe", "recv"]).code, 2);
}

#[test]
fn who_declines_to_come_back_keeps_the_history_and_is_told_so() {
    let world = World::new();
    world.register(&["alice", "bob"]);
    world.ok("alice", &["group", "create", "kitchen"]);
    world.ok("alice", &["invite", "kitchen", "bob"]);
    world.ok("alice", &["send", "kitchen", "hello"]);
    world.ok("bob", &asked(&["recv"]));
    world.ok("bob", &["accept", "kitchen"]);
    world.ok("bob", &["recv"]);
    world.ok("alice", &["send", "kitchen", "not read"]);
    world.ok("alice", &["remove", "kitchen", "bob"]);
    world.ok("alice", &["invite", "kitchen", "bob"]);
    world.ok("alice", &["send", "kitchen", "come back"]);
    let told = world.ok("bob", &asked(&["recv"]));
    assert!(told.contains("not read") && !told.contains("come back"), "{told}");
    assert!(
        told.ends_with("larder accept kitchen, or larder decline kitchen\n"),
        "{told}"
    );
    assert_eq!(
        world.ok("bob", &["decline", "kitchen"]),
        "the invitation to #kitchen is declined; what you had of it before is kept\n"
    );
    world.ok("alice", &["recv"]);
    world.ok("bob", &["recv"]);
    let group = world.json("bob", &["groups"]).remove(0);
    assert_eq!(
        (&group["name"], &group["state"]),
        (&"kitchen".into(), &"left".into())
    );
    let history = world.ok("bob", &["history", "kitchen"]);
    assert!(
        history.contains("hello") && history.contains("not read"),
        "{history}"
    );
    assert!(!history.contains("come back"), "{history}");
}

#[test]
fn who_was_removed_before_the_answer_is_told_that_it_is_over() {
    let world = World::new();
    world.register(&["alice", "bob"]);
    for room in ["kitchen", "garden"] {
        world.ok("alice", &["group", "create", room]);
        world.ok("alice", &["invite", room, "bob"]);
        world.ok("alice", &["send", room, "hello"]);
        world.ok("alice", &["remove", room, "bob"]);
    }
    world.ok("bob", &asked(&["recv"]));
    let listed = world.ok("bob", &["groups"]);
    assert!(listed.contains(", left, alice invited you  "), "{listed}");
    assert_eq!(
        world.ok("bob", &["accept", "kitchen"]),
        "#kitchen is over: you were removed before you answered; what was written there is kept\n"
    );
    assert!(world.ok("bob", &["history", "kitchen"]).contains("hello"));
    assert!(world.ok("bob", &["recv"]).contains("hello"));
    assert_eq!(
        world.ok("bob", &["decline", "garden"]),
        "the invitation to #garden is declined; you had been removed from the group already\n"
    );
    assert_eq!(world.json("bob", &["groups"]).len(), 1);
}

#[test]
fn who_leaves_without_a_server_is_out_and_the_next_command_tells_it() {
    let mut world = World::new();
    world.register(&["alice", "bob"]);
    world.ok("alice", &["group", "create", "room"]);
    world.ok("alice", &["invite", "room", "bob"]);
    world.ok("bob", &["--invitations", "accept", "recv"]);
    world.stop_server();
    assert_eq!(
        world.ok("bob", &["leave", "room"]),
        "you have left #room; the server is told when it can be reached\n"
    );
    assert_eq!(world.json("bob", &["groups"]).remove(0)["state"], "left");
    world.start_server();
    world.ok("bob", &["recv"]);
    assert!(world.ok("alice", &["recv"]).contains("bob left"));
    let members = world.json("alice", &["members", "room"]);
    assert_eq!(
        members.iter().filter(|record| record["type"] == "member").count(),
        1
    );
    assert_eq!(world.ok("alice", &["leave", "room"]), "you have left #room\n");
}
