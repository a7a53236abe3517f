//! `chat` on a terminal.

use expectrl::{Eof, Expect, Session, session::OsSession};

use crate::support::{PATIENCE, World};

/// Escape sequences of the line editor come between, so only texts are looked for.
fn chat(world: &World, user: &str) -> OsSession {
    let mut command = world.command(user, &["chat", "room"]);
    command.env("TERM", "xterm").env("COLUMNS", "200");
    // The pseudo-terminal takes the place of these.
    let mut fresh = std::process::Command::new(command.get_program());
    fresh.args(command.get_args());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => fresh.env(key, value),
            None => fresh.env_remove(key),
        };
    }
    let mut session = Session::spawn(fresh).unwrap();
    session.set_expect_timeout(Some(PATIENCE));
    session.expect("/help tells what can be typed").unwrap();
    session.expect("> ").unwrap();
    session
}

#[test]
fn two_chats_on_terminals_converse_and_obey_commands() {
    let world = World::new();
    world.register(&["alice", "bob", "carol"]);
    world.ok("alice", &["group", "create", "room"]);
    world.ok("alice", &["invite", "room", "bob"]);
    let mut alice = chat(&world, "alice");
    let mut bob = chat(&world, "bob");

    bob.send_line("hello alice").unwrap();
    alice.expect("#room <bob> hello alice").unwrap();
    // Somebody's message arrives in the middle of a line.
    bob.send("hello, it ").unwrap();
    bob.expect("hello, it ").unwrap();
    alice.send_line("hello bob").unwrap();
    bob.expect("#room <alice> hello bob").unwrap();
    bob.send_line("is me").unwrap();
    alice.expect("#room <bob> hello, it is me").unwrap();

    alice.send_line("/invite carol").unwrap();
    alice.expect("carol joined #room").unwrap();
    alice.send_line("/list").unwrap();
    for user in ["alice", "bob", "carol"] {
        alice.expect(format!("{user}  device ")).unwrap();
    }
    alice.send_line("/pool").unwrap();
    alice.expect("pool good: 32 of 32 available").unwrap();
    alice.send_line("/nonsense").unwrap();
    alice.expect("not understood").unwrap();
    alice.send_line("/invite nobody-of-that-name").unwrap();
    alice.expect("no such user").unwrap();

    for chat in [&mut alice, &mut bob] {
        chat.send_line("/quit").unwrap();
        chat.expect(Eof).unwrap();
    }
    world.ok("carol", &["recv"]);
    assert_eq!(world.json("carol", &["groups"]).len(), 1);
}
