//! Names of groups: what hides in them is seen, and what people take for the same is the same.

use crate::support::{World, texts};
use crate::transcripts::fails;

#[test]
fn what_hides_in_the_name_of_a_group_is_seen() {
    let world = World::new();
    world.register(&["alice", "bob"]);
    for hidden in [
        "\u{3164}",
        "\u{115f}",
        "\u{2800}",
        "\u{34f}",
        "\u{ad}",
        "\u{fe0f}",
        "\u{200d}",
        "\u{e0100}",
    ] {
        world.ok("alice", &["group", "create", &format!("room{hidden}")]);
        let escaped = format!("\"room{}\"", hidden.escape_unicode());
        assert!(world.ok("alice", &["groups"]).contains(&escaped), "{escaped}");
    }
    // Also where somebody else says how a group is called.
    world.ok("alice", &["group", "create", "kitchen"]);
    world.ok("alice", &["invite", "kitchen", "bob"]);
    world.ok("bob", &["recv"]);
    world.ok("alice", &["group", "rename", "kitchen", "kit\u{fe0f}chen"]);
    let told = world.ok("bob", &["recv"]);
    assert!(
        told.contains("renamed the group to \"kit\\u{fe0f}chen\""),
        "{told}"
    );
}

#[test]
fn a_group_is_found_however_its_name_is_typed() {
    let world = World::new();
    world.register(&["alice", "bob"]);
    world.ok("alice", &["group", "create", "café"]);
    world.ok("alice", &["group", "create", "Große Straße"]);
    world.ok("alice", &["invite", "CAFE\u{301}", "bob"]);
    world.ok("bob", &["recv"]);
    for (name, text) in [("cafe\u{301}", "one"), ("CAFÉ", "two"), ("Café", "three")] {
        assert_eq!(world.ok("alice", &["send", name, text]), "sent\n");
        assert_eq!(texts(&world.json("bob", &["recv", "--group", name])), [text]);
    }
    assert_eq!(
        world.ok("alice", &["send", "GROSSE STRASSE", "Auf der straße"]),
        "sent\n"
    );
    assert_eq!(world.run("alice", &["send", "cafe", "not it"]).code, 5);
    for wanted in ["STRASSE", "strasse", "Straße"] {
        assert_eq!(
            texts(&world.json("alice", &["search", wanted])),
            ["Auf der straße"],
            "{wanted}"
        );
    }
    world.ok("alice", &["send", "café", "un thé glace\u{301}"]);
    for wanted in ["GLACÉ", "glace\u{301}", "the\u{301}"] {
        assert_eq!(
            texts(&world.json("alice", &["search", wanted])).len(),
            1,
            "{wanted}"
        );
    }
    assert!(texts(&world.json("alice", &["search", "glace"])).is_empty());
}

#[test]
fn groups_whose_names_are_alike_are_told_by_their_ids() {
    let world = World::new();
    world.register(&["alice"]);
    for name in ["café", "CAFE\u{301}"] {
        world.ok("alice", &["group", "create", name]);
    }
    let (exit, sentence, code) = fails(&world, "alice", &["send", "Café", "which?"]);
    assert_eq!((exit, code.as_str()), (2, "ambiguous"));
    for group in world.json("alice", &["groups"]) {
        let id = group["id"].as_str().unwrap();
        assert!(sentence.contains(id), "{sentence}");
        assert_eq!(world.ok("alice", &["send", id, "this one"]), "sent\n");
    }
}
