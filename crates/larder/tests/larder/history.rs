//! The past: pages of it, searching it, groups' names, trying again.

use crate::support::{World, parse, texts};
use crate::transcripts::fails;

/// alice and bob, who are in a group, and have read everything.
pub(crate) fn world() -> World {
    let world = World::new();
    world.register(&["alice", "bob"]);
    world.ok("alice", &["group", "create", "room"]);
    world.ok("alice", &["invite", "room", "bob"]);
    world.ok("bob", &["recv"]);
    world.ok("alice", &["recv"]);
    world
}

#[test]
fn the_history_is_printed_in_pages_and_searched_without_a_server() {
    let mut world = world();
    for text in ["Grüße", "one", "two", "GRÜSSE, Grüße"] {
        world.ok("alice", &["send", "room", text]);
    }
    world.ok("bob", &["recv"]);
    world.kill_server();
    let last = world.json("bob", &["history", "room", "--limit", "2"]);
    assert_eq!(texts(&last), ["two", "GRÜSSE, Grüße"]);
    let row = last[0]["row"].to_string();
    let before = world.json("bob", &["history", "room", "--limit", "2", "--before", &row]);
    assert_eq!(texts(&before), ["Grüße", "one"]);
    assert_eq!(before[0]["status"], "sent");
    let line = world.ok("bob", &["history", "room", "--limit", "1"]);
    assert!(line.ends_with("  #room <alice> GRÜSSE, Grüße\n"), "{line}");
    assert_eq!(line.split("  ").next().unwrap(), last[1]["row"].to_string());

    let found = world.json("bob", &["search", "grüße"]);
    assert_eq!(texts(&found), ["GRÜSSE, Grüße", "Grüße"], "the newest first");
    let found = world.json("bob", &["search", "--group", "room", "--limit", "1", "grüße"]);
    assert_eq!(texts(&found), ["GRÜSSE, Grüße"]);
    assert_eq!(world.ok("bob", &["search", "nothing", "of", "this"]), "");
}

#[test]
fn looking_at_the_past_does_not_mark_it_as_read() {
    let world = world();
    world.ok("alice", &["send", "room", "soup"]);
    // Fetches without printing.
    assert_eq!(world.run("bob", &["invite", "room", "zoe"]).code, 3);
    let history = world.json("bob", &["history", "room", "--limit", "1"]);
    assert_eq!(texts(&history), ["soup"]);
    assert_eq!(texts(&world.json("bob", &["search", "soup"])), ["soup"]);
    assert_eq!(world.ok("bob", &["recv"]), "#room <alice> soup\n");
}

#[test]
fn a_group_is_muted_and_renamed_and_the_others_are_told_its_name() {
    let world = world();
    assert_eq!(world.ok("alice", &["mute", "room"]), "#room is muted\n");
    let group = world.json("alice", &["groups"]).remove(0);
    assert_eq!(group["muted"], true);
    assert!(world.ok("alice", &["groups"]).contains(", muted  "));
    assert_eq!(world.ok("alice", &["unmute", "room"]), "#room is not muted\n");
    assert_eq!(world.json("alice", &["groups"])[0]["muted"], false);

    assert_eq!(
        world.ok("bob", &["group", "rename", "room", "tea & \u{202e}cake"]),
        "the group is called #\"tea & \\u{202e}cake\" now\n"
    );
    assert_eq!(
        world.ok("alice", &["recv"]),
        "#\"tea & \\u{202e}cake\" * bob renamed the group to \"tea & \\u{202e}cake\"\n"
    );
    world.ok("alice", &["send", "tea & \u{202e}cake", "hi"]);
    let (exit, _, code) = fails(&world, "alice", &["group", "rename", "tea & \u{202e}cake", ""]);
    assert_eq!((exit, code.as_str()), (2, "invalid-group-name"));
}

#[test]
fn what_failed_is_sent_again_once_it_can_be() {
    let mut world = world();
    assert_eq!(world.ok("bob", &["retry", "room"]), "no message has failed\n");
    world.kill_server();
    assert_eq!(world.run("bob", &["send", "room", "late"]).code, 4);
    world.start_server();
    world.ok("alice", &["remove", "room", "bob"]);
    world.ok("bob", &["recv"]);
    let line = world.ok("bob", &["history", "room"]);
    assert!(line.contains("<bob> late  (failed)\n"), "{line}");
    let (exit, sentence, code) = fails(&world, "bob", &["retry", "room"]);
    assert_eq!((exit, code.as_str()), (3, "group-not-active"));
    assert_eq!(sentence, "larder: the group is left\n");

    world.ok("alice", &["invite", "room", "bob"]);
    world.ok("bob", &["recv"]);
    world.kill_server();
    let waiting = world.run("bob", &["retry", "room"]);
    assert_eq!((waiting.code, waiting.out.as_str()), (4, "1 message pending\n"));
    world.start_server();
    world.ok("bob", &["recv"]);
    assert!(world.ok("alice", &["recv"]).ends_with("#room <bob> late\n"));
    let history = world.json("bob", &["history", "room"]);
    assert!(history.iter().all(|row| row["status"] == "sent"));
}

#[test]
fn all_or_nobody_is_invited_when_that_is_asked_for() {
    let world = world();
    world.register(&["carol"]);
    let nobody = world.run("alice", &["invite", "--all-or-nothing", "room", "carol", "zoe"]);
    assert_eq!(nobody.code, 3);
    assert_eq!(
        nobody.out,
        "carol: could be added, but not all of them; zoe: no such user\n"
    );
    let json = parse(
        &world
            .run(
                "alice",
                &["--json", "invite", "--all-or-nothing", "room", "carol", "zoe"],
            )
            .out,
    );
    assert_eq!(json["added"], serde_json::json!([]));
    assert_eq!(json["not_added"][0]["code"], "withheld");
    assert_eq!(
        world.ok("alice", &["invite", "--all-or-nothing", "room", "carol"]),
        "carol joined #room\n"
    );
}
