//! `chat` on the whole of a terminal.

use crate::devices::linked;
use crate::screens::{ENTER, ESCAPE, Screen};
use crate::scripting::fed;
use crate::support::World;
use crate::terminal::on_terminal;

const ALT_N: &str = "\x1bn";
const ALT_DOWN: &str = "\x1b[1;3B";
const PAGE_UP: &str = "\x1b[5~";
const CONTROL_END: &str = "\x1b[1;5F";

/// Alice and bob in a group called kitchen.
fn kitchen() -> World {
    let world = World::new();
    world.register(&["alice", "bob"]);
    world.ok("alice", &["group", "create", "kitchen"]);
    world.ok("alice", &["invite", "kitchen", "bob"]);
    world.ok("bob", &["recv"]);
    world
}

#[test]
fn two_people_converse_on_whole_screens() {
    let world = kitchen();
    let mut alice = Screen::of(&world, "alice", &["kitchen"]);
    let mut bob = Screen::of(&world, "bob", &["kitchen"]);
    alice.status("online");
    bob.status("keys 32/32");

    alice.enter("who has the recipe?");
    bob.says("alice", "who has the recipe?");
    bob.enter("I do");
    alice.says("bob", "I do");
    // What is sent has no mark any more.
    alice.says("alice", "who has the recipe?");

    bob.enter("/rename pantry");
    alice.heading("pantry");
    alice.enter("/members");
    alice.panel(" members ");
    alice.closes_panel();
    alice.enter("/pool");
    alice.panel("of 32 available");
    alice.closes_panel();
    alice.enter("/invite nobody-of-that-name");
    alice.word("no such user");
    for chat in [alice, bob] {
        chat.quit();
    }
}

#[test]
fn a_chat_begins_where_nothing_is_and_makes_a_group() {
    let world = World::new();
    world.register(&["alice", "bob"]);
    let mut alice = Screen::of(&world, "alice", &[]);
    alice.reads("No group is open");
    alice.press("/ne");
    alice.until("a suggestion", |view| view.suggestions.contains("create a group"));
    alice.press("\t");
    alice.enter("kitchen");
    alice.heading("kitchen · 1 device");
    alice.enter("/invite bob");
    alice.word("bob joined");
    alice.enter("hello bob");
    alice.says("alice", "hello bob");
    alice.quit();
    assert!(world.ok("bob", &["recv"]).contains("hello bob"));
}

#[test]
fn the_screen_follows_the_terminal_and_a_paste_is_one_text() {
    let world = kitchen();
    let mut alice = Screen::sized(&world, "alice", &["kitchen"], (80, 24), &[("NO_COLOR", "1")]);
    alice.word("alt-n unread");
    alice.press("\x1b[200~first line\rsecond line\r/quit\r\x1b[201~");
    alice.until("what was pasted", |view| {
        view.composer.starts_with("first line") && view.composer.contains("second line")
    });
    for size in [(200, 60), (40, 10), (80, 24)] {
        alice.resize(size.0, size.1);
        // The last line of the new size is the status again.
        alice.until("the new size", |view| {
            view.composer.contains("second line") && view.status.starts_with(" alice · ")
        });
    }
    alice.press(ENTER);
    alice.says("alice", "first line");
    let written = alice.quit();
    // Nothing sets a colour where none is wanted.
    let text = String::from_utf8_lossy(&written).into_owned();
    let coloured = text.split("\x1b[").skip(1).any(|sequence| {
        let Some((parameters, _)) = sequence.split_once('m') else {
            return false;
        };
        parameters
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b';')
            && parameters
                .split(';')
                .any(|parameter| matches!(parameter, "31" | "32" | "33" | "34" | "35" | "36" | "38" | "48"))
    });
    assert!(!coloured, "{text:?}");
    let received = world.json("bob", &["recv"]);
    assert_eq!(received[0]["text"], "first line\nsecond line\n/quit");
}

#[test]
fn what_is_written_offline_is_sent_in_order_when_the_server_is_back_even_by_another_start() {
    let mut world = kitchen();
    let mut alice = Screen::of(&world, "alice", &["kitchen"]);
    let mut bob = Screen::of(&world, "bob", &["kitchen"]);
    alice.status("online");
    bob.status("online");
    world.kill_server();
    alice.status("offline");
    for text in ["one", "two", "three"] {
        alice.enter(text);
        alice.waits("alice", text);
    }
    alice.status("3 messages wait");
    alice.quit();
    let mut alice = Screen::of(&world, "alice", &["kitchen"]);
    alice.waits("alice", "three");
    alice.enter("four");
    alice.waits("alice", "four");
    world.start_server();
    let view = bob.says("alice", "four");
    let at = |text: &str| {
        let row = format!("alice         {text}");
        view.messages
            .iter()
            .position(|message| message.ends_with(&row))
            .unwrap()
    };
    assert!(
        at("one") < at("two") && at("two") < at("three") && at("three") < at("four"),
        "{view:#?}"
    );
    alice.says("alice", "four");
    alice.status("online");
    alice.quit();
    bob.quit();
}

#[test]
fn a_message_that_is_refused_says_so_and_is_sent_again_when_asked() {
    let mut world = kitchen();
    world.kill_server();
    let mut bob = Screen::of(&world, "bob", &["kitchen"]);
    bob.status("offline");
    bob.enter("too late");
    bob.waits("bob", "too late");
    bob.quit();
    world.start_server();
    world.ok("alice", &["remove", "kitchen", "bob"]);
    let mut bob = Screen::of(&world, "bob", &["kitchen"]);
    bob.fails("bob", "too late");
    bob.reads("not sent: /retry tries again");
    bob.heading("left");
    world.ok("alice", &["invite", "kitchen", "bob"]);
    bob.until("a member again", |view| {
        view.heading.trim() == "kitchen · 2 devices"
    });
    bob.enter("/retry");
    bob.word("sending 1 message again");
    bob.says("bob", "too late");
    bob.quit();
    assert!(world.ok("alice", &["recv"]).contains("too late"));
}

#[test]
fn unread_messages_are_counted_and_survive_a_restart_until_they_are_read() {
    let world = kitchen();
    world.ok("alice", &["group", "create", "attic"]);
    world.ok("alice", &["invite", "attic", "bob"]);
    world.ok("bob", &["recv"]);
    for number in 1..=40 {
        world.ok("alice", &["send", "kitchen", &format!("message {number}")]);
    }
    let mut bob = Screen::of(&world, "bob", &["attic"]);
    bob.status("40 unread");
    // In passing it is not read.
    bob.press(ALT_DOWN);
    bob.says("alice", "message 40");
    bob.press(ESCAPE);
    bob.heading("attic · 2 devices");
    bob.quit();

    let mut bob = Screen::of(&world, "bob", &["attic"]);
    bob.status("40 unread");
    bob.press(ALT_N);
    let view = bob.says("alice", "message 1");
    assert!(view.reads("─ new ─"), "{view:#?}");
    assert!(view.status.contains("40 unread"), "{view:#?}");
    bob.press(CONTROL_END);
    bob.says("alice", "message 40");
    bob.until("nothing unread", |view| {
        !view.status.is_empty() && !view.status.contains("unread")
    });
    bob.press(PAGE_UP);
    bob.until("older messages", |view| {
        view.reads("message 20") && !view.reads("message 40")
    });
    bob.quit();
    assert_eq!(
        world
            .json("bob", &["groups"])
            .iter()
            .map(|group| group["unread"].as_u64().unwrap())
            .sum::<u64>(),
        0
    );
}

#[test]
fn an_invitation_from_a_stranger_waits_apart_and_nothing_is_sent_there_until_it_is_accepted() {
    let world = World::new();
    world.register(&["alice", "bob"]);
    let ask = [("LARDER_INVITATIONS", "ask")];
    let mut bob = Screen::sized(&world, "bob", &[], (80, 24), &ask);
    bob.status("online");
    world.ok("alice", &["group", "create", "kitchen"]);
    world.ok("alice", &["invite", "kitchen", "bob"]);
    world.ok("alice", &["send", "kitchen", "do you know me?"]);
    bob.until("a request", |view| view.groups.contains("invitations"));
    bob.press(ALT_DOWN);
    bob.heading("alice invites you to kitchen: /accept or /decline");
    bob.says("alice", "do you know me?");
    bob.refuses("who is this?", "alice invited you: /accept or /decline first");
    bob.clears();
    bob.enter("/accept");
    bob.word("accepted");
    bob.until("no request", |view| {
        !view.groups.is_empty() && !view.groups.contains("invitations")
    });
    bob.enter("I do");
    bob.says("bob", "I do");
    bob.quit();
    let received = world.ok("alice", &["recv"]);
    assert!(
        received.contains("I do") && !received.contains("who is this"),
        "{received}"
    );

    world.ok("alice", &["group", "create", "attic"]);
    world.register(&["carol"]);
    world.ok("carol", &["group", "create", "trap"]);
    world.ok("carol", &["invite", "trap", "bob"]);
    let mut bob = Screen::sized(&world, "bob", &["kitchen"], (80, 24), &ask);
    bob.until("a request", |view| view.groups.contains("invitations"));
    bob.enter("/group trap");
    bob.heading("carol invites you to trap");
    bob.enter("/decline");
    bob.word("declined");
    bob.until("no request", |view| {
        !view.groups.is_empty() && !view.groups.contains("invitations")
    });
    bob.quit();
}

#[test]
fn r_c8_numbers_are_compared_on_the_screen_and_what_changes_after_that_is_told() {
    let world = kitchen();
    let mut alice = Screen::sized(&world, "alice", &["kitchen"], (100, 50), &[]);
    alice.status("online");
    alice.enter("/verify bob");
    let panel = alice.panel("/verify bob yes").panel.join("\n");
    let of_bob = world.json("bob", &["verify", "alice"]).remove(0);
    let number: Vec<&str> = of_bob["number"].as_str().unwrap().split(' ').collect();
    assert!(
        number.chunks(6).all(|groups| panel.contains(&groups.join(" "))),
        "{panel}"
    );
    assert!(panel.contains("not verified") && panel.contains('█'), "{panel}");
    // All of the code fits on the smallest terminal.
    alice.resize(80, 24);
    alice.until("the panel from the first line on", |view| {
        view.panel_at == 0
            && view
                .panel
                .first()
                .is_some_and(|line| line.contains("you and bob"))
    });
    alice.press("\x1b[B\x1b[B");
    alice.until("the code", |view| {
        let code = view
            .panel
            .iter()
            .filter(|line| line.contains(['█', '▀', '▄']) && line.contains('│'));
        code.count() >= 21
    });
    alice.resize(100, 50);
    alice.panel("/verify bob yes");
    alice.closes_panel();
    alice.enter("/verify bob yes");
    alice.word("bob is verified");
    linked(&world, "phone", "bob");
    alice.status("keys changed: bob");
    alice.reads("WARNING: bob, whom you have verified");
    alice.refuses("secret", "the keys of bob are not those that you have verified");
    assert!(!alice.view().reads("secret"), "{:#?}", alice.view());
    alice.clears();
    alice.enter("/verify bob no");
    alice.until("no warning", |view| {
        !view.status.is_empty() && !view.status.contains("keys changed")
    });
    alice.quit();
}

#[test]
fn r_c8_neither_a_file_nor_a_line_leaves_for_a_device_that_nobody_looked_at() {
    let world = kitchen();
    world.ok("alice", &["verify", "bob", "--mark"]);
    linked(&world, "phone", "bob");
    let file = world.path("list.txt");
    std::fs::write(&file, "soup").unwrap();
    let file = file.to_str().unwrap();
    let why = "the keys of bob are not those that you have verified: larder verify bob";
    let mut alice = Screen::of(&world, "alice", &["kitchen"]);
    alice.status("keys changed: bob");
    alice.enter(&format!("/attach {file}"));
    alice.word("the keys of bob are not those that you have verified");
    alice.quit();
    let lines = fed(&world, "alice", &["send", "kitchen", "--stdin"], b"one\ntwo\n");
    assert_eq!((lines.code, lines.out.as_str()), (3, ""));
    assert_eq!(
        lines.err,
        format!("larder: line 1: {why}\nlarder: line 2: {why}\n")
    );
    let sent = world.run("alice", &["send", "kitchen", "--attach", file]);
    assert_eq!((sent.code, sent.err), (3, format!("larder: {why}\n")));
    // Nothing of it was kept, either, to leave later.
    world.ok("alice", &["verify", "bob", "--mark"]);
    world.ok("alice", &["send", "kitchen", "now"]);
    for device in ["bob", "phone"] {
        let mut received = world.json(device, &["recv"]);
        received
            .retain(|record| ["text", "attachment"].contains(&record["kind"].as_str().unwrap_or_default()));
        let received: Vec<&str> = received
            .iter()
            .map(|record| record["text"].as_str().unwrap())
            .collect();
        assert_eq!(received, ["now"], "{device}");
    }
}

#[test]
fn hostile_text_cannot_write_outside_its_place() {
    let world = kitchen();
    let attack = "\u{1b}[2J\u{1b}[H\u{1b}]0;title\u{7}\u{202e}\u{9b}31m z\u{301}\u{301}\u{301}\u{301}\u{301}\u{301}\u{301}";
    world.ok("alice", &["send", "kitchen", attack]);
    let mut bob = Screen::of(&world, "bob", &["kitchen"]);
    let view = bob.reads(r"\u{1b}[2J");
    assert!(
        view.heading.contains("kitchen") && view.reads(r"\u{202e}"),
        "{view:#?}"
    );
    let written = bob.quit();
    let written = String::from_utf8_lossy(&written);
    assert!(
        !written.contains("0;title\u{7}") && !written.contains('\u{202e}') && !written.contains('\u{9b}')
    );
}

#[test]
fn a_dumb_terminal_and_a_pipe_get_lines() {
    let world = kitchen();
    let mut session = on_terminal(&world, "alice", &["chat", "kitchen"], &[("TERM", "dumb")]);
    expectrl::Expect::expect(&mut session, "/help tells what can be typed").unwrap();
    expectrl::Expect::send_line(&mut session, "hello from a teletype").unwrap();
    expectrl::Expect::send_line(&mut session, "/quit").unwrap();
    expectrl::Expect::expect(&mut session, expectrl::Eof).unwrap();
    assert!(world.ok("bob", &["recv"]).contains("hello from a teletype"));
    let refused = world.run("alice", &["chat"]);
    assert_eq!(refused.code, 2);
    assert!(refused.err.contains("name the group"), "{}", refused.err);
}

#[test]
fn an_editor_writes_and_a_message_is_copied() {
    let world = kitchen();
    let editor = world.path("editor.sh");
    std::fs::write(&editor, "#!/bin/sh\necho ' and more' >> \"$1\"\n").unwrap();
    let editor = format!("sh {}", editor.display());
    let mut alice = Screen::sized(&world, "alice", &["kitchen"], (80, 24), &[("EDITOR", &editor)]);
    alice.status("online");
    alice.types("some");
    alice.press("\x1be");
    alice.until("what the editor left", |view| {
        view.composer.trim_end() == "some and more"
    });
    alice.press(ENTER);
    alice.says("alice", "some and more");
    alice.enter("/copy");
    alice.word("copied");
    let written = alice.quit();
    let written = String::from_utf8_lossy(&written);
    // "some and more", in base64.
    assert!(written.contains("\x1b]52;c;c29tZSBhbmQgbW9yZQ=="), "{written:?}");
}

#[test]
fn keys_do_what_the_configuration_says() {
    let world = kitchen();
    world.ok("bob", &["send", "kitchen", "anybody here?"]);
    let file = world.path("home").join("config.toml");
    std::fs::write(&file, "[keys]\nnext-unread = [\"f6\"]\nquit = [\"f10\"]\n").unwrap();
    let mut alice = Screen::of(&world, "alice", &[]);
    alice.status("1 unread");
    alice.press("\x1b[17~");
    alice.says("bob", "anybody here?");
    let view = alice.until("nothing unread", |view| {
        view.status.contains("alice") && !view.status.contains("unread")
    });
    assert!(view.word.contains("f6 unread"), "{view:#?}");
    alice.press("\x1b[21~");
    alice.ends();

    std::fs::write(&file, "[keys]\nfly = [\"f6\"]\n").unwrap();
    let refused = world.run("alice", &["chat", "kitchen"]);
    assert_eq!(refused.code, 2, "{}", refused.err);
    assert!(refused.err.contains("fly"), "{}", refused.err);
}

#[test]
fn a_signal_gives_the_terminal_back() {
    let world = kitchen();
    let mut alice = Screen::of(&world, "alice", &["kitchen"]);
    alice.status("online");
    alice
        .session
        .get_process_mut()
        .signal(expectrl::process::unix::Signal::SIGTERM)
        .unwrap();
    alice.ends();
}

#[test]
fn files_are_sent_and_saved() {
    let world = kitchen();
    let (list, to) = (world.path("list.txt"), world.path("saved"));
    std::fs::write(&list, "soup").unwrap();
    std::fs::create_dir(&to).unwrap();
    let list = list.to_str().unwrap();
    world.ok("alice", &["send", "kitchen", "--attach", list]);
    let mut bob = Screen::of(&world, "bob", &["kitchen"]);
    bob.reads("(file) list.txt, 4 bytes");
    bob.enter(&format!("/save {}", to.display()));
    bob.word("saved ");
    assert_eq!(std::fs::read(to.join("list.txt")).unwrap(), b"soup");
    bob.enter(&format!("/attach {list}"));
    bob.word("the file was sent");
    bob.enter("/attach /nonexistent");
    bob.word("cannot be read");
    bob.quit();
    let received = world.ok("alice", &["recv"]);
    assert!(
        received.contains("<bob> (file) list.txt, 4 bytes: larder save "),
        "{received}"
    );
}
