//! `chat` on the whole of a pseudo-terminal, which a terminal emulator reads.

use std::fs::File;
use std::io::{Read, Write};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Instant;

use expectrl::session::OsSession;

use crate::devices::linked;
use crate::support::{PATIENCE, World};
use crate::terminal::on_terminal;

const ENTER: &str = "\r";
const ESCAPE: &str = "\x1b";
const ALT_N: &str = "\x1bn";
const ALT_DOWN: &str = "\x1b[1;3B";
const PAGE_UP: &str = "\x1b[5~";
const CONTROL_END: &str = "\x1b[1;5F";
const CONTROL_Q: &str = "\x11";

/// A chat, and what is on its screen.
struct Screen {
    session: OsSession,
    keyboard: File,
    output: Receiver<Vec<u8>>,
    emulator: vt100::Parser,
    /// Everything that was written to the terminal.
    written: Vec<u8>,
}

impl Screen {
    fn of(world: &World, user: &str, arguments: &[&str]) -> Self {
        Self::sized(world, user, arguments, (80, 24), &[])
    }

    fn sized(
        world: &World,
        user: &str,
        arguments: &[&str],
        (columns, lines): (u16, u16),
        environment: &[(&str, &str)],
    ) -> Self {
        let arguments: Vec<&str> = std::iter::once("chat").chain(arguments.iter().copied()).collect();
        let mut session = on_terminal(world, user, &arguments, environment);
        session.get_process_mut().set_window_size(columns, lines).unwrap();
        let keyboard = session.get_process().get_raw_handle().unwrap();
        let mut reader = keyboard.try_clone().unwrap();
        let (sender, output) = channel();
        thread::spawn(move || {
            let mut buffer = [0; 16 * 1024];
            // A pseudo-terminal whose program is gone answers with an error.
            while let Ok(read @ 1..) = reader.read(&mut buffer) {
                if sender.send(buffer[..read].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self {
            session,
            keyboard,
            output,
            emulator: vt100::Parser::new(lines, columns, 0),
            written: Vec::new(),
        }
    }

    fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    fn enter(&mut self, text: &str) {
        self.press(text);
        self.press(ENTER);
    }

    fn contents(&self) -> String {
        self.emulator.screen().contents()
    }

    /// Waits for a screen, and returns it.
    fn until(&mut self, what: &str, is_there: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let contents = self.contents();
            if is_there(&contents) {
                return contents;
            }
            // A chat that waits for something else may go on drawing.
            match self
                .output
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(bytes) => {
                    self.emulator.process(&bytes);
                    self.written.extend(bytes);
                }
                Err(error) => panic!("{what}: {error}; the screen:\n{contents}"),
            }
        }
    }

    fn shows(&mut self, text: &str) -> String {
        self.until(text, |contents| contents.contains(text))
    }

    fn shows_no_more(&mut self, text: &str) -> String {
        self.until(text, |contents| !contents.contains(text))
    }

    fn resize(&mut self, columns: u16, lines: u16) {
        self.session
            .get_process_mut()
            .set_window_size(columns, lines)
            .unwrap();
        self.emulator.screen_mut().set_size(lines, columns);
    }

    /// Ends it, and returns everything that it wrote.
    fn quit(mut self) -> Vec<u8> {
        self.press(CONTROL_Q);
        while let Ok(bytes) = self.output.recv_timeout(PATIENCE) {
            self.emulator.process(&bytes);
            self.written.extend(bytes);
        }
        assert!(!self.emulator.screen().alternate_screen());
        assert!(!self.emulator.screen().hide_cursor());
        self.written
    }
}

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
    alice.shows("online");
    bob.shows("keys 32/32");

    alice.enter("who has the recipe?");
    bob.shows("who has the recipe?");
    bob.enter("I do");
    let screen = alice.shows("I do");
    assert!(screen.contains("bob           I do"), "{screen}");
    // What is sent has no mark any more.
    alice.shows_no_more("… who has");

    bob.enter("/rename pantry");
    alice.shows("pantry");
    alice.enter("/members");
    alice.shows("members");
    alice.press(ESCAPE);
    // What follows an escape at once is one key with it.
    alice.shows_no_more("members");
    alice.enter("/pool");
    alice.shows("of 32 available");
    alice.press(ESCAPE);
    alice.shows_no_more("of 32 available");
    alice.enter("/invite nobody-of-that-name");
    alice.shows("no such user");
    for chat in [alice, bob] {
        chat.quit();
    }
}

#[test]
fn a_chat_begins_where_nothing_is_and_makes_a_group() {
    let world = World::new();
    world.register(&["alice", "bob"]);
    let mut alice = Screen::of(&world, "alice", &[]);
    alice.shows("No group is open");
    alice.press("/ne");
    alice.shows("create a group");
    alice.press("\t");
    alice.enter("kitchen");
    alice.shows("kitchen · 1 device");
    alice.enter("/invite bob");
    alice.shows("bob joined");
    alice.enter("hello bob");
    alice.shows("hello bob");
    alice.shows_no_more("… hello bob");
    alice.quit();
    assert!(world.ok("bob", &["recv"]).contains("hello bob"));
}

#[test]
fn the_screen_follows_the_terminal_and_a_paste_is_one_text() {
    let world = kitchen();
    let mut alice = Screen::sized(&world, "alice", &["kitchen"], (80, 24), &[("NO_COLOR", "1")]);
    alice.shows("alt-n unread");
    alice.press("\x1b[200~first line\rsecond line\r/quit\r\x1b[201~");
    let screen = alice.shows("second line");
    assert!(screen.contains("> first line"), "{screen}");
    for size in [(200, 60), (40, 10), (80, 24)] {
        alice.resize(size.0, size.1);
        alice.until("the new size", |screen| {
            screen.contains("second line") && screen.lines().count() >= usize::from(size.1) - 1
        });
    }
    alice.press(ENTER);
    alice.shows("alice         first line");
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
    alice.shows("online");
    bob.shows("online");
    world.kill_server();
    alice.shows("offline");
    for text in ["one", "two", "three"] {
        alice.enter(text);
        alice.shows(&format!("… {text}"));
    }
    alice.shows("3 messages wait");
    alice.quit();
    let mut alice = Screen::of(&world, "alice", &["kitchen"]);
    alice.shows("… three");
    alice.enter("four");
    alice.shows("… four");
    world.start_server();
    let screen = bob.shows("four");
    let at = |text: &str| screen.find(&format!("alice         {text}")).unwrap();
    assert!(
        at("one") < at("two") && at("two") < at("three") && at("three") < at("four"),
        "{screen}"
    );
    alice.shows_no_more("… four");
    alice.shows("online");
    alice.quit();
    bob.quit();
}

#[test]
fn a_message_that_is_refused_says_so_and_is_sent_again_when_asked() {
    let mut world = kitchen();
    world.kill_server();
    let mut bob = Screen::of(&world, "bob", &["kitchen"]);
    bob.shows("offline");
    bob.enter("too late");
    bob.shows("… too late");
    bob.quit();
    world.start_server();
    world.ok("alice", &["remove", "kitchen", "bob"]);
    let mut bob = Screen::of(&world, "bob", &["kitchen"]);
    bob.shows("✗ too late");
    bob.shows("not sent: /retry tries again");
    world.ok("alice", &["invite", "kitchen", "bob"]);
    bob.shows("you joined");
    bob.enter("/retry");
    bob.shows("sending 1 message again");
    bob.shows_no_more("✗ too late");
    bob.shows("  too late");
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
    bob.shows("40 unread");
    // In passing it is not read.
    bob.press(ALT_DOWN);
    bob.shows("message 40");
    bob.press(ESCAPE);
    bob.shows("attic · 2 devices");
    bob.quit();

    let mut bob = Screen::of(&world, "bob", &["attic"]);
    bob.shows("40 unread");
    bob.press(ALT_N);
    let screen = bob.shows("message 1\n");
    assert!(screen.contains("─ new ─"), "{screen}");
    bob.shows("40 unread");
    bob.press(CONTROL_END);
    bob.shows("message 40");
    bob.shows_no_more("40 unread");
    bob.press(PAGE_UP);
    bob.shows_no_more("message 40");
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
    bob.shows("online");
    world.ok("alice", &["group", "create", "kitchen"]);
    world.ok("alice", &["invite", "kitchen", "bob"]);
    world.ok("alice", &["send", "kitchen", "do you know me?"]);
    bob.shows("invitations");
    bob.press(ALT_DOWN);
    bob.shows("alice invites you to kitchen: /accept or /decline");
    bob.shows("do you know me?");
    bob.enter("who is this?");
    bob.shows("alice invited you: /accept or /decline first");
    bob.press("\x15");
    bob.enter("/accept");
    bob.shows("accepted");
    bob.shows_no_more("invitations");
    bob.enter("I do");
    bob.shows("bob           I do");
    bob.shows_no_more("bob         … I do");
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
    bob.shows("invitations");
    bob.enter("/group trap");
    bob.shows("carol invites you to trap");
    bob.enter("/decline");
    bob.shows("declined");
    bob.shows_no_more("invitations");
    bob.quit();
}

#[test]
fn r_c8_numbers_are_compared_on_the_screen_and_what_changes_after_that_is_told() {
    let world = kitchen();
    let mut alice = Screen::sized(&world, "alice", &["kitchen"], (100, 50), &[]);
    alice.shows("online");
    alice.enter("/verify bob");
    let screen = alice.shows("/verify bob yes");
    let of_bob = world.json("bob", &["verify", "alice"]).remove(0);
    let number: Vec<&str> = of_bob["number"].as_str().unwrap().split(' ').collect();
    assert!(
        number.chunks(6).all(|groups| screen.contains(&groups.join(" "))),
        "{screen}"
    );
    assert!(
        screen.contains("not verified") && screen.contains('█'),
        "{screen}"
    );
    // All of the code fits on the smallest terminal.
    alice.resize(80, 24);
    alice.until("the panel from the first line on", |screen| {
        screen
            .lines()
            .next()
            .is_some_and(|line| line.contains("you and bob"))
    });
    alice.press("\x1b[B\x1b[B");
    alice.until("the code", |screen| {
        let code = screen
            .lines()
            .filter(|line| line.contains(['█', '▀', '▄']) && line.contains('│'));
        code.count() >= 21
    });
    alice.resize(100, 50);
    alice.shows("/verify bob yes");
    alice.press(ESCAPE);
    alice.shows_no_more("you and bob");
    alice.enter("/verify bob yes");
    alice.shows("bob is verified");
    linked(&world, "phone", "bob");
    alice.shows("keys changed: bob");
    alice.shows("WARNING: bob, whom you have verified");
    alice.enter("secret");
    alice.shows("the keys of bob are not those that you have verified");
    let screen = alice.shows("> secret");
    assert!(!screen.contains("alice         secret"), "{screen}");
    alice.press("\x15");
    alice.enter("/verify bob no");
    alice.shows_no_more("keys changed: bob");
    alice.quit();
}

#[test]
fn hostile_text_cannot_write_outside_its_place() {
    let world = kitchen();
    let attack = "\u{1b}[2J\u{1b}[H\u{1b}]0;title\u{7}\u{202e}\u{9b}31m z\u{301}\u{301}\u{301}\u{301}\u{301}\u{301}\u{301}";
    world.ok("alice", &["send", "kitchen", attack]);
    let mut bob = Screen::of(&world, "bob", &["kitchen"]);
    let screen = bob.shows(r"\u{1b}[2J");
    assert!(
        screen.contains("kitchen") && screen.contains(r"\u{202e}"),
        "{screen}"
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
    alice.shows("online");
    alice.press("some");
    alice.shows("> some");
    alice.press("\x1be");
    alice.shows("some and more");
    alice.press(ENTER);
    alice.shows("alice         some and more");
    alice.enter("/copy");
    alice.shows("copied");
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
    alice.shows("1 unread");
    alice.press("\x1b[17~");
    let screen = alice.shows_no_more("1 unread");
    assert!(
        screen.contains("f6 unread") && screen.contains("anybody here?"),
        "{screen}"
    );
    alice.press("\x1b[21~");
    alice.until("the end", |screen| !screen.contains("online"));

    std::fs::write(&file, "[keys]\nfly = [\"f6\"]\n").unwrap();
    let refused = world.run("alice", &["chat", "kitchen"]);
    assert_eq!(refused.code, 2, "{}", refused.err);
    assert!(refused.err.contains("fly"), "{}", refused.err);
}

#[test]
fn a_signal_gives_the_terminal_back() {
    let world = kitchen();
    let mut alice = Screen::of(&world, "alice", &["kitchen"]);
    alice.shows("online");
    alice
        .session
        .get_process_mut()
        .signal(expectrl::process::unix::Signal::SIGTERM)
        .unwrap();
    alice.until("the end", |screen| !screen.contains("online"));
    assert!(!alice.emulator.screen().alternate_screen());
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
    bob.shows("(file) list.txt, 4 bytes");
    bob.enter(&format!("/save {}", to.display()));
    bob.shows("saved ");
    assert_eq!(std::fs::read(to.join("list.txt")).unwrap(), b"soup");
    bob.enter(&format!("/attach {list}"));
    bob.shows("the file was sent");
    bob.enter("/attach /nonexistent");
    bob.shows("cannot be read");
    bob.quit();
    let received = world.ok("alice", &["recv"]);
    assert!(
        received.contains("<bob> (file) list.txt, 4 bytes: larder save "),
        "{received}"
    );
}
