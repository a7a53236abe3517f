//! Sending and receiving from scripts.

use std::io::Write;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use larder_testkit::{Action, Proxy};
use serde_json::Value;

use crate::support::{Ended, World, parse, texts};

/// Runs a command with this standard input.
pub(crate) fn fed(world: &World, profile: &str, arguments: &[&str], input: &[u8]) -> Ended {
    let mut child = world
        .command(profile, arguments)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let feeding = std::thread::spawn(move || {
        let _ = stdin.write_all(&input);
    });
    let output = child.wait_with_output().unwrap();
    feeding.join().unwrap();
    Ended {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Alice and bob in a group called room.
pub(crate) fn alice_and_bob() -> World {
    let world = World::new();
    world.register(&["alice", "bob"]);
    world.ok("alice", &["group", "create", "room"]);
    world.ok("alice", &["invite", "room", "bob"]);
    world.ok("bob", &["recv"]);
    world
}

#[test]
fn each_line_of_the_standard_input_is_a_message_and_one_that_cannot_be_does_not_keep_the_others_back() {
    let world = alice_and_bob();
    let long = "x".repeat(40_000);
    let input = format!("one\n\n{long}\ntwo --json\r\nthree");
    let sent = fed(&world, "alice", &["send", "room", "--stdin"], input.as_bytes());
    assert_eq!(sent.code, 2);
    assert_eq!(sent.out, "sent\nsent\nsent\n");
    assert_eq!(sent.err, "larder: line 3: a message has 32768 bytes at most\n");
    assert_eq!(
        texts(&world.json("bob", &["recv"])),
        ["one", "two --json", "three"]
    );

    let sent = fed(
        &world,
        "alice",
        &["--json", "send", "room", "--stdin"],
        b"four\n\xff\nfive\n",
    );
    let lines: Vec<Value> = sent.out.lines().map(parse).collect();
    assert_eq!(sent.code, 2);
    assert_eq!(lines[0]["status"], "sent");
    assert_eq!(lines[1]["error"]["code"], "not-text");
    assert_eq!(lines[2]["status"], "sent");
    assert_eq!(texts(&world.json("bob", &["recv"])), ["four", "five"]);
}

#[test]
fn lines_that_are_there_go_together_and_a_later_one_at_once() {
    const LINES: usize = 200;
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
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&requests);
    proxy.rule_for("POST", "/messages", move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        Action::Forward
    });
    let arguments = ["--server", &proxy.url, "--json", "send", "room", "--stdin"];
    let lines: Vec<String> = (1..=LINES).map(|number| format!("line {number}")).collect();
    let sent = fed(&world, "alice", &arguments, lines.join("\n").as_bytes());
    assert_eq!((sent.code, sent.err.as_str()), (0, ""));
    let records: Vec<Value> = sent.out.lines().map(parse).collect();
    assert_eq!(records.len(), LINES);
    assert!(records.iter().all(|record| record["status"] == "sent"));
    assert_eq!(texts(&world.json("bob", &["recv"])), lines);
    let together = requests.load(Ordering::SeqCst);
    assert!(together < LINES / 4, "{together} requests");

    let mut typed = world.start("alice", &arguments);
    for line in ["one", "two", "three"] {
        typed.types(line);
        assert_eq!(parse(&typed.line())["status"], "sent");
    }
    typed.closes_input();
    assert_eq!(typed.ended(), 0);
    assert_eq!(requests.load(Ordering::SeqCst), together + 3);
}

#[test]
fn the_whole_standard_input_can_be_one_message() {
    let world = alice_and_bob();
    let sent = fed(
        &world,
        "alice",
        &["send", "room", "--stdin", "--whole"],
        b"one\n\ntwo\n",
    );
    assert_eq!((sent.code, sent.out.as_str()), (0, "sent\n"));
    assert_eq!(texts(&world.json("bob", &["recv"])), ["one\n\ntwo"]);
    let nothing = fed(&world, "alice", &["send", "room", "--stdin", "--whole"], b"");
    assert_eq!(nothing.code, 2, "{nothing:?}");
    for wrong in [
        &["send", "room"][..],
        &["send", "room", "x", "--stdin"],
        &["send", "room", "x", "--whole"],
    ] {
        assert_eq!(world.run("alice", wrong).code, 2, "{wrong:?}");
    }
}

#[test]
fn a_message_that_is_waited_for_is_sent_once_the_server_is_there_and_not_waited_for_longer_than_asked() {
    let mut world = alice_and_bob();
    world.kill_server();
    let begun = Instant::now();
    let gave_up = world.run(
        "alice",
        &["--json", "send", "room", "--wait", "--timeout", "1", "first"],
    );
    assert_eq!(gave_up.code, 4);
    assert_eq!(parse(&gave_up.out)["status"], "pending");
    assert!(begun.elapsed() >= Duration::from_secs(1));
    let mut waiting = world.start("alice", &["--json", "send", "room", "--wait", "second"]);
    world.start_server();
    assert_eq!(parse(&waiting.line())["status"], "sent");
    assert_eq!(waiting.ended(), 0);
    assert_eq!(texts(&world.json("bob", &["recv"])), ["first", "second"]);
}

#[test]
fn what_is_sent_offline_is_kept_for_the_next_command() {
    let world = alice_and_bob();
    let kept = world.run("alice", &["send", "--offline", "room", "later"]);
    assert_eq!(kept.code, 0);
    assert_eq!(kept.out, "pending: the message is kept and will be sent\n");
    assert!(texts(&world.json("bob", &["recv"])).is_empty());
    world.ok("alice", &["recv"]);
    assert_eq!(texts(&world.json("bob", &["recv"])), ["later"]);
}

/// A device that joined meanwhile is in an epoch that the sender does not know before it asks.
#[test]
fn what_is_sent_reaches_who_has_joined_since_the_sender_last_asked() {
    let world = alice_and_bob();
    world.register(&["carol"]);
    world.ok("bob", &["invite", "room", "carol"]);
    world.ok("carol", &["recv"]);
    world.ok("alice", &["send", "room", "welcome"]);
    assert_eq!(texts(&world.json("carol", &["recv"])), ["welcome"]);
}

#[test]
fn what_is_received_can_be_of_one_group_of_so_many_and_from_a_row_on() {
    let world = alice_and_bob();
    world.ok("alice", &["group", "create", "hall"]);
    world.ok("alice", &["invite", "hall", "bob"]);
    for (group, text) in [("room", "1"), ("hall", "2"), ("room", "3"), ("hall", "4")] {
        world.ok("alice", &["send", group, text]);
    }
    let hall = world.json("bob", &["recv", "--group", "hall"]);
    assert_eq!(texts(&hall), ["2", "4"]);
    assert!(hall.iter().all(|record| record["group_name"] == "hall"));
    assert_eq!(
        texts(&world.json("bob", &["recv", "--group", "hall"])),
        [] as [&str; 0]
    );
    let one = world.json("bob", &["recv", "--count", "1"]);
    assert_eq!((one.len(), texts(&one)), (1, vec!["1".to_owned()]));
    world.ok("bob", &["send", "room", "mine"]);

    // What came within one second may come group by group.
    let rows = [&hall[0], &one[0]].map(|record| record["row"].as_i64().unwrap());
    let before = (rows[0].min(rows[1]) - 1).to_string();
    let since = ["recv", "--since", before.as_str()];
    for _ in 0..2 {
        let mut since = texts(&world.json("bob", &since));
        since.sort();
        assert_eq!(since, ["1", "2", "3", "4", "mine"], "whether it was shown or not");
    }
    let some = [&since[..], &["--group", "room", "--count", "1"]].concat();
    assert_eq!(texts(&world.json("bob", &some)), ["1"]);
    assert_eq!(
        texts(&world.json("bob", &["recv"])),
        ["3"],
        "rows asked for count as they did"
    );
    assert_eq!(world.run("bob", &["recv", "--count", "0"]).code, 2);
    assert_eq!(world.run("bob", &["recv", "--group", "attic"]).code, 5);
}

#[test]
fn following_ends_after_so_many() {
    let world = alice_and_bob();
    let mut following = world.start(
        "bob",
        &["--json", "recv", "--follow", "--group", "room", "--count", "2"],
    );
    for text in ["one", "two", "three"] {
        world.ok("alice", &["send", "room", text]);
    }
    let received = [parse(&following.line()), parse(&following.line())];
    assert_eq!(texts(&received), ["one", "two"]);
    assert_eq!(following.ended(), 0);
    assert_eq!(texts(&world.json("bob", &["recv"])), ["three"]);
}

/// Only that somebody invites is shown, also of what is asked for by its row.
#[test]
fn rows_of_a_group_that_a_stranger_invites_to_are_not_shown() {
    let world = World::new();
    world.register(&["alice", "bob"]);
    world.ok("alice", &["group", "create", "room"]);
    world.ok("alice", &["invite", "room", "bob"]);
    world.ok("alice", &["send", "room", "psst"]);
    let since = world.json("bob", &["--invitations", "ask", "recv", "--since", "0"]);
    let types: Vec<&str> = since
        .iter()
        .map(|record| record["type"].as_str().unwrap())
        .collect();
    assert_eq!(types, ["invitation"]);
}

#[cfg(unix)]
#[test]
fn an_interrupt_ends_a_wait_for_messages() {
    use std::os::unix::process::ExitStatusExt;
    let world = alice_and_bob();
    let wait = || world.command("bob", &["recv", "--wait", "3600"]).spawn().unwrap();
    let mut waiting = wait();
    // Once it has the profile it is past its beginning. Whoever looks may have been faster.
    while world.run("bob", &["groups"]).code != 6 {
        if waiting.try_wait().unwrap().is_some() {
            waiting = wait();
        }
    }
    let kill = format!("kill -INT {}", waiting.id());
    assert!(
        std::process::Command::new("sh")
            .args(["-c", &kill])
            .status()
            .unwrap()
            .success()
    );
    assert!(waiting.wait().unwrap().signal().is_some());
}
