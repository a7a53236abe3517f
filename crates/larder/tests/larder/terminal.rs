//! `chat` on a terminal.

use expectrl::{Eof, Expect, Session, session::OsSession};

use crate::support::{PATIENCE, World};
#[cfg(feature = "sqlcipher")]
use crate::support::{bytes_below, contains};

/// Runs a command on a terminal of its own, a wide one that can do everything.
pub(crate) fn on_terminal(
    world: &World,
    profile: &str,
    arguments: &[&str],
    environment: &[(&str, &str)],
) -> OsSession {
    let mut command = world.bare(profile, arguments);
    command.env("TERM", "xterm").env("COLUMNS", "200");
    command.envs(environment.iter().copied());
    let mut session = Session::spawn(command).unwrap();
    session.set_expect_timeout(Some(PATIENCE));
    session
}

/// Escape sequences of the line editor come between, so only texts are looked for.
fn chat(world: &World, user: &str) -> OsSession {
    let mut session = on_terminal(world, user, &["chat", "--plain", "room"], &[]);
    session.expect("/help tells what can be typed").unwrap();
    session.expect("> ").unwrap();
    session
}

/// Answers a question with a passphrase, which the terminal must not show.
#[cfg(feature = "sqlcipher")]
fn answer(session: &mut OsSession, question: &str, passphrase: &str) {
    session.expect(question).unwrap();
    session.send_line(passphrase).unwrap();
}

/// What a command says from here to its end.
#[cfg(feature = "sqlcipher")]
fn rest(session: &mut OsSession) -> String {
    let said = session.expect(Eof).unwrap();
    String::from_utf8_lossy(said.as_bytes()).into_owned()
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
    alice.send_line("/members").unwrap();
    for user in ["alice", "bob", "carol"] {
        alice.expect(format!("{user}  device ")).unwrap();
    }
    alice.send_line("/pool").unwrap();
    alice.expect("pool good: 32 of 32 available").unwrap();
    alice.send_line("/nonsense").unwrap();
    alice.expect("there is no /nonsense").unwrap();
    alice.send_line("/invite nobody-of-that-name").unwrap();
    alice.expect("no such user").unwrap();

    for chat in [&mut alice, &mut bob] {
        chat.send_line("/quit").unwrap();
        chat.expect(Eof).unwrap();
    }
    world.ok("carol", &["recv"]);
    assert_eq!(world.json("carol", &["groups"]).len(), 1);
}

#[test]
fn whoever_registers_without_a_code_is_asked_for_one_where_it_takes_one() {
    let world = World::with_registration("invited", "warn");
    let code = world.invitation();
    let register = || on_terminal(&world, "alice", &["register", "--no-encryption", "alice"], &[]);
    let mut mistyped = register();
    mistyped.expect("invitation code: ").unwrap();
    mistyped.send_line(&code[..code.len() - 4]).unwrap();
    mistyped.expect("not an invitation code").unwrap();
    mistyped.expect(Eof).unwrap();
    let mut session = register();
    session.expect("invitation code: ").unwrap();
    session.send_line(&code).unwrap();
    session.expect("registered alice at ").unwrap();
    session.expect(Eof).unwrap();
    // Who is registered is not asked.
    let mut session = register();
    session.expect("registered alice at ").unwrap();
    session.expect(Eof).unwrap();
}

/// The README's chat between two terminals, with the questions that it mentions.
#[cfg(feature = "sqlcipher")]
#[test]
fn two_people_whose_profiles_are_encrypted_are_asked_for_their_passphrases() {
    let world = World::new();
    for user in ["alice", "bob"] {
        let mut register = on_terminal(&world, user, &["register", user], &[]);
        answer(
            &mut register,
            &format!("new passphrase for profile {user}: "),
            "open sesame",
        );
        answer(&mut register, "the same again: ", "open sesame");
        let said = rest(&mut register);
        assert!(said.contains(&format!("registered {user} at ")), "{said}");
        assert!(!said.contains("sesame"), "{said}");
    }
    let run = |user: &str, arguments: &[&str]| {
        let mut session = on_terminal(&world, user, arguments, &[]);
        answer(
            &mut session,
            &format!("passphrase of profile {user}: "),
            "open sesame",
        );
        rest(&mut session)
    };
    run("alice", &["group", "create", "room"]);
    assert!(run("alice", &["invite", "room", "bob"]).contains("bob joined #room"));
    assert!(run("bob", &["recv"]).contains("#room * you joined a group of 2"));
    let chat = |user: &str| {
        let mut session = on_terminal(&world, user, &["chat", "--plain", "room"], &[]);
        answer(
            &mut session,
            &format!("passphrase of profile {user}: "),
            "open sesame",
        );
        session.expect("/help tells what can be typed").unwrap();
        session.expect("> ").unwrap();
        session
    };
    let mut alice = chat("alice");
    let mut bob = chat("bob");
    alice.send_line("bread at noon?").unwrap();
    bob.expect("#room <alice> bread at noon?").unwrap();
    bob.send_line("yes, and soup").unwrap();
    alice.expect("#room <bob> yes, and soup").unwrap();
    for chat in [&mut alice, &mut bob] {
        chat.send_line("/quit").unwrap();
        chat.expect(Eof).unwrap();
    }
    assert!(!contains(&bytes_below(&world.profile("bob")), b"bread at noon?"));
}

#[cfg(feature = "sqlcipher")]
#[test]
fn a_passphrase_that_is_mistyped_empty_or_wrong_is_told_and_does_nothing() {
    let world = World::new();
    let mut register = on_terminal(&world, "alice", &["register", "alice"], &[]);
    answer(&mut register, "new passphrase for profile alice: ", "open sesame");
    answer(&mut register, "the same again: ", "open simsim");
    let said = rest(&mut register);
    assert!(said.contains("the two passphrases are not the same"), "{said}");
    let mut register = on_terminal(&world, "alice", &["register", "alice"], &[]);
    answer(&mut register, "new passphrase for profile alice: ", "");
    let said = rest(&mut register);
    assert!(said.contains("the passphrase is empty"), "{said}");
    assert!(!world.profile("alice").exists());

    let mut register = on_terminal(&world, "alice", &["register", "alice"], &[]);
    for question in ["new passphrase for profile alice: ", "the same again: "] {
        answer(&mut register, question, "open sesame");
    }
    rest(&mut register);
    let mut groups = on_terminal(&world, "alice", &["groups"], &[]);
    answer(&mut groups, "passphrase of profile alice: ", "open simsim");
    let said = rest(&mut groups);
    assert!(said.contains("the passphrase or key is wrong"), "{said}");

    let mut change = on_terminal(&world, "alice", &["passphrase"], &[]);
    answer(&mut change, "passphrase of profile alice: ", "open sesame");
    answer(&mut change, "new passphrase for profile alice: ", "shut sesame");
    answer(&mut change, "the same again: ", "shut sesame");
    let said = rest(&mut change);
    assert!(said.contains("encrypted with the new passphrase"), "{said}");
    world.ok("alice", &["--passphrase-command", "echo shut sesame", "groups"]);
}

#[test]
fn who_registers_on_a_terminal_is_asked_for_what_is_missing_and_told_what_comes_next() {
    let mut world = World::new();
    world.register(&["alice"]);
    let mut register = on_terminal(&world, "second", &["register", "--no-encryption"], &[]);
    register.expect("user name: ").unwrap();
    register.send_line("Alice!").unwrap();
    register.expect("once more: ").unwrap();
    register.send_line("alice").unwrap();
    register.expect("alice will be registered at ").unwrap();
    register
        .expect("alice is taken; another name, or nothing to give up: ")
        .unwrap();
    register.send_line("alina").unwrap();
    register.expect("registered alina at ").unwrap();
    register.expect("next:").unwrap();
    register.expect("  larder group create NAME").unwrap();
    register.expect("  larder invite NAME USER").unwrap();
    register.expect("  larder chat NAME").unwrap();
    register.expect(Eof).unwrap();

    let mut register = on_terminal(&world, "third", &["register", "--no-encryption", "alice"], &[]);
    register.expect("nothing to give up: ").unwrap();
    register.send_line("").unwrap();
    register.expect("that name is taken").unwrap();
    register.expect(Eof).unwrap();

    // Nobody types a passphrase for nothing.
    world.kill_server();
    for command in ["register", "link"] {
        let mut session = on_terminal(&world, "fourth", &[command, "zoe"], &[]);
        session.expect("no larder server answers at ").unwrap();
        session.expect(Eof).unwrap();
    }
}

#[test]
fn who_links_a_device_on_a_terminal_is_told_what_comes_next() {
    let world = World::new();
    world.register(&["alice"]);
    let mut link = on_terminal(&world, "laptop", &["link", "--no-encryption", "alice"], &[]);
    link.expect("one that alice has must let it in").unwrap();
    link.expect("larder device authorize ").unwrap();
    let code = link.expect("\r\n").unwrap();
    let code = String::from_utf8_lossy(code.before()).into_owned();
    link.expect("waiting for that").unwrap();
    world.ok("alice", &["device", "authorize", "--yes", code.trim()]);
    link.expect("linked to alice at ").unwrap();
    link.expect("next:").unwrap();
    link.expect("  larder groups").unwrap();
    link.expect(Eof).unwrap();
}

#[test]
fn somebody_at_a_terminal_is_asked_whether_the_numbers_are_the_same() {
    let world = World::new();
    world.register(&["alice", "bob"]);
    for (answer, verification) in [("", "unverified"), ("n", "unverified"), ("y", "verified")] {
        let mut session = on_terminal(&world, "alice", &["verify", "--no-qr", "bob"], &[]);
        session.expect("Does bob see the same number? [y/N] ").unwrap();
        session.send_line(answer).unwrap();
        session.expect(Eof).unwrap();
        let shown = world.json("alice", &["verify", "bob"]).remove(0);
        assert_eq!(shown["verification"], verification, "{answer}");
    }
}
