//! Nothing that is typed, pasted or fed is dropped in silence: it is acted upon, or told with its line.

use std::fs::File;
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;

use larder_testkit::{Action, Proxy};
use serde_json::Value;

use crate::scripting::{alice_and_bob, fed};
use crate::support::{Ended, PATIENCE, World, parse, texts};

/// Feeds a chat in the group.
fn chat(world: &World, input: &[u8]) -> Ended {
    fed(world, "alice", &["chat", "room"], input)
}

fn received(world: &World) -> Vec<String> {
    texts(&world.json("bob", &["recv"]))
}

#[test]
fn a_line_that_is_no_text_is_told_and_the_others_are_sent() {
    let world = alice_and_bob();
    let input =
        b"one\n\xff\xfe\ntwo\r\n\0nul\nx\xe2\x80\xa8y\n\x1b[2Jz\na\rb\n\xc3\xa9t\xc3\xa9\xf0\x9f\nlast";
    let ended = chat(&world, input);
    assert_eq!(ended.code, 2, "{ended:?}");
    assert_eq!(
        ended.err,
        "larder: line 2: not UTF-8\nlarder: line 8: not UTF-8\n"
    );
    assert_eq!(
        received(&world),
        ["one", "two", "\0nul", "x\u{2028}y", "\x1b[2Jz", "a\rb", "last"]
    );
}

#[test]
fn a_line_without_an_end_is_told_as_too_long_and_not_kept() {
    let world = alice_and_bob();
    let input = format!("one\n{}\ntwo\n{}", "x".repeat(4 << 20), "y".repeat(40_000));
    let ended = chat(&world, input.as_bytes());
    assert_eq!(ended.code, 2, "{ended:?}");
    assert_eq!(
        ended.err,
        "larder: line 2: a message has 32768 bytes at most\n\
         larder: line 4: a message has 32768 bytes at most\n"
    );
    assert_eq!(received(&world), ["one", "two"]);
}

#[test]
fn a_command_that_fails_is_told_with_its_line_and_does_not_end_the_chat() {
    let world = alice_and_bob();
    let ended = chat(
        &world,
        b"/nonsense\n\n   \none\n/search x\n//slash\n/remove zoe\ntwo",
    );
    assert_eq!(ended.code, 3, "{ended:?}");
    let told: Vec<&str> = ended
        .err
        .lines()
        .map(|line| &line[..line.len().min(16)])
        .collect();
    assert_eq!(
        told,
        ["larder: line 1: ", "larder: line 5: ", "larder: line 7: "],
        "{}",
        ended.err
    );
    assert_eq!(received(&world), ["one", "/slash", "two"]);
    let lines = fed(
        &world,
        "alice",
        &["--json", "chat", "room"],
        b"\xff\n/help\nthree\n",
    );
    let told: Vec<Value> = lines.out.lines().map(parse).collect();
    assert_eq!((lines.code, told.len()), (2, 3), "{lines:?}");
    assert_eq!(told[0]["error"]["message"], "line 1: not UTF-8");
    assert!(
        told[1]["error"]["message"]
            .as_str()
            .unwrap()
            .starts_with("line 2: "),
        "{lines:?}"
    );
    assert_eq!(told[2]["status"], "sent");
}

#[test]
fn what_comes_after_quit_is_told_and_nothing_is_told_of_nothing() {
    let world = alice_and_bob();
    for input in [
        "one\n/quit\ntwo\nthree\n",
        "one\n/q\ntwo",
        "one\r\n/quit\r\n\r\ntwo\r\n",
    ] {
        let ended = chat(&world, input.as_bytes());
        assert_eq!(ended.code, 2, "{input:?}: {ended:?}");
        assert_eq!(
            ended.err,
            "larder: line 3: it comes after /quit, and was not read; nor was what follows\n"
        );
        assert_eq!(received(&world), ["one"]);
    }
    for input in ["/quit", "/quit\n", "/quit\n\n \r\n", "", "\n\n", "   "] {
        let ended = chat(&world, input.as_bytes());
        assert_eq!((ended.code, ended.err.as_str()), (0, ""), "{input:?}");
    }
    assert!(received(&world).is_empty());
}

#[cfg(unix)]
#[test]
fn an_input_that_cannot_be_read_is_a_failure() {
    let world = alice_and_bob();
    for arguments in [
        &["chat", "room"][..],
        &["send", "room", "--stdin"],
        &["send", "room", "--stdin", "--whole"],
    ] {
        let output = world
            .command("alice", arguments)
            .stdin(File::open(world.path("home")).unwrap())
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {told}");
        assert!(told.contains("the standard input cannot be read: "), "{told}");
    }
}

/// The exit code, and what is told on stderr, when nobody reads stdout.
fn unheard(world: &World, arguments: &[&str], input: &'static [u8]) -> (i32, String) {
    let mut child = world
        .command("alice", arguments)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), input).unwrap();
    let output = child.wait_with_output().unwrap();
    (
        output.status.code().unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

#[test]
fn who_reads_no_results_is_told_what_was_not_sent() {
    let world = alice_and_bob();
    let (code, told) = unheard(&world, &["send", "room", "--stdin"], b"one\ntwo\nthree\n");
    assert_eq!(code, 1, "{told}");
    assert_eq!(
        told,
        "larder: line 2 and what follows were not sent: nobody reads the output\n"
    );
    assert_eq!(received(&world), ["one"]);
    let (code, told) = unheard(&world, &["chat", "room"], b"/members\nfour\n");
    assert_eq!(code, 1, "{told}");
    assert_eq!(
        told,
        "larder: line 2: the chat has ended: this and what follows was not taken\n"
    );
    let (code, told) = unheard(&world, &["send", "room", "--stdin"], b"five\n");
    assert_eq!((code, told.as_str()), (0, ""), "nothing was left");
    assert_eq!(received(&world), ["five"]);
}

/// The exit code, and what is told on stderr, of a command of alice's that a signal comes to while it sends the first line.
#[cfg(unix)]
fn interrupted(world: &World, proxy: &Proxy, arguments: &[&str], signal: &str, input: &str) -> (i32, String) {
    let (gate, held) = channel();
    let (sending, is_sending) = channel();
    let mut first = Some(held);
    proxy.rule_for("POST", "/messages", move |_| match first.take() {
        Some(held) => {
            sending.send(()).unwrap();
            Action::Hold(held)
        }
        None => Action::Forward,
    });
    let mut command = world.command("alice", &[&["--server", &proxy.url], arguments].concat());
    let mut child = command
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes()).unwrap();
    is_sending.recv_timeout(PATIENCE).unwrap();
    let kill = format!("kill -{signal} {}", child.id());
    assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    drop(gate);
    let output = child.wait_with_output().unwrap();
    let code = output.status.code();
    (
        code.expect("killed by the signal"),
        String::from_utf8(output.stderr).unwrap(),
    )
}

#[cfg(unix)]
#[test]
fn a_signal_names_the_first_line_that_was_not_sent() {
    let world = World::new();
    world.register(&["bob"]);
    let proxy = Proxy::start(&world.url());
    for command in [
        &["register", "--no-encryption", "alice"][..],
        &["group", "create", "room"],
        &["invite", "room", "bob"],
    ] {
        world.ok("alice", &[&["--server", &proxy.url], command].concat());
    }
    world.ok("bob", &["recv"]);
    // More than can be sent until it has noticed.
    let lines: Vec<String> = (1..=500).map(|number| format!("line {number}")).collect();
    let input = format!("{}\n\n", lines.join("\n"));
    let sending = &["send", "room", "--stdin"][..];
    let (unsent, not_taken) = (
        " and what follows were not sent: a signal came",
        ": a signal ended the chat: this and what follows was not taken",
    );
    for (arguments, signal, why) in [
        (sending, "INT", unsent),
        (sending, "TERM", unsent),
        (&["chat", "room"], "INT", not_taken),
        (&["chat", "room"], "TERM", not_taken),
    ] {
        let (code, told) = interrupted(&world, &proxy, arguments, signal, &input);
        let sent = received(&world);
        assert_eq!(sent, lines[..sent.len()], "{arguments:?}, {signal}");
        assert_eq!(told, format!("larder: line {}{why}\n", sent.len() + 1));
        assert_eq!(code, 1, "{arguments:?}, {signal}");
    }
    // Nothing is told of what was sent.
    let (code, told) = interrupted(&world, &proxy, sending, "TERM", "one\n\n");
    assert_eq!((code, told.as_str()), (0, ""));
    assert_eq!(received(&world), ["one"]);
}

#[cfg(unix)]
mod on_terminals {
    use expectrl::{Eof, Expect};

    use super::*;
    use crate::screens::Screen;
    use crate::terminal::on_terminal;

    #[test]
    fn what_is_typed_ahead_is_not_forgotten() {
        let world = alice_and_bob();
        let mut alice = on_terminal(&world, "alice", &["chat", "--plain", "room"], &[]);
        alice.expect("/help tells what can be typed").unwrap();
        alice.expect("> ").unwrap();
        alice.send("one\rtwo\rthree\r/quit\r").unwrap();
        alice.expect(Eof).unwrap();
        assert_eq!(received(&world), ["one", "two", "three"]);
    }

    #[test]
    fn what_is_typed_and_is_no_text_is_told_and_the_chat_goes_on() {
        let world = alice_and_bob();
        let mut alice = on_terminal(&world, "alice", &["chat", "--plain", "room"], &[]);
        alice.expect("/help tells what can be typed").unwrap();
        alice.expect("> ").unwrap();
        alice.send([0xff]).unwrap();
        alice.expect("what was typed is not UTF-8").unwrap();
        alice.send("one\r/quit\r").unwrap();
        alice.expect(Eof).unwrap();
        assert_eq!(received(&world), ["one"]);
    }

    #[test]
    fn what_is_no_text_on_a_screen_is_told_and_takes_no_key_along() {
        let world = alice_and_bob();
        let mut alice = Screen::of(&world, "alice", &["room"]);
        alice.status("online");
        // The emulator shows nothing for U+FFFD; what was written to it tells.
        for (typed, end) in [
            (&b"caf\xe9 au lait"[..], "au lait"),
            (b"\xf0\x9f\x98thumb", "thumb"),
            (b"\x1b[200~in a \xffpaste\x1b[201~", "paste"),
        ] {
            alice.press(typed);
            alice.until("what was typed, and that it is no text", |view| {
                view.composer.trim_end().ends_with(end) && view.word.contains("is not UTF-8 text")
            });
            alice.press("\r");
            alice.until("nothing more", |view| {
                !view.status.is_empty() && view.composer.trim().is_empty() && !view.word.contains("UTF-8")
            });
        }
        // Nor is the end of the line lost behind it.
        alice.press(b"na\xefve\xe9\r");
        alice.reads("na");
        let written = String::from_utf8(alice.quit()).unwrap();
        assert!(written.contains("caf\u{fffd} au lait"), "{written:?}");
        world.ok("alice", &["recv"]);
        let sent = [
            "caf\u{fffd} au lait",
            "\u{fffd}thumb",
            "in a \u{fffd}paste",
            "na\u{fffd}ve\u{fffd}",
        ];
        assert_eq!(received(&world), sent);
    }

    #[test]
    fn what_is_entered_last_is_sent_before_a_screen_ends() {
        let world = alice_and_bob();
        let mut alice = Screen::of(&world, "alice", &["room"]);
        alice.status("online");
        alice.press("last words\r\x11");
        alice.ends();
        world.ok("alice", &["recv"]);
        assert_eq!(received(&world), ["last words"]);
    }

    #[test]
    fn a_paste_that_is_too_long_is_refused_and_told() {
        let world = alice_and_bob();
        let mut alice = Screen::of(&world, "alice", &["room"]);
        alice.status("online");
        alice.press(format!("\x1b[200~{}\x1b[201~", "x".repeat(70_000)));
        let view = alice.word("nothing was pasted: it has 70000 bytes");
        assert_eq!(view.composer.trim(), "");
        alice.quit();
    }
}
