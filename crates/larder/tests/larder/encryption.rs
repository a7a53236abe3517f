//! Profiles that are encrypted: where the passphrase comes from, and what is said when it does not come.

use std::fs;
use std::time::Instant;

use crate::support::{PATIENCE, World, bytes_below, contains, parse};
use crate::transcripts::fails;

const PASSPHRASE: &str = "it's the canary's $ecret \"passphrase\"";
const TEXT: &str = "the canary sings at midnight";

/// A file with a passphrase, and the command that prints it.
fn command(world: &World, name: &str, passphrase: &str) -> String {
    let file = world.path(name);
    fs::write(&file, format!("{passphrase}\nnot of the passphrase\n")).unwrap();
    format!("cat '{}'", file.display())
}

#[test]
fn a_profile_that_is_encrypted_shows_nothing_and_opens_with_its_passphrase_alone() {
    let world = World::new();
    let right = command(&world, "right", PASSPHRASE);
    let wrong = command(&world, "wrong", "something else");
    world.register(&["bob"]);
    let registered = world
        .json("alice", &["--passphrase-command", &right, "register", "alice"])
        .remove(0);
    assert_eq!(registered["encrypted"], true);
    let alice =
        |arguments: &[&str]| world.ok("alice", &[&["--passphrase-command", &right], arguments].concat());
    alice(&["group", "create", "canary-lovers"]);
    alice(&["invite", "canary-lovers", "bob"]);
    alice(&["send", "canary-lovers", TEXT]);
    assert!(world.ok("bob", &["recv"]).contains(TEXT));

    let files = bytes_below(&world.profile("alice"));
    let plain = bytes_below(&world.profile("bob"));
    for word in [
        TEXT,
        "canary-lovers",
        "SQLite format 3",
        "CREATE TABLE",
        "openmls_",
    ] {
        assert!(!contains(&files, word.as_bytes()), "{word}");
        assert!(
            contains(&plain, word.as_bytes()),
            "{word}: what is not encrypted shows it"
        );
    }

    let (exit, sentence, code) = fails(&world, "alice", &["--passphrase-command", &wrong, "groups"]);
    assert_eq!((exit, code.as_str()), (7, "wrong-passphrase"));
    assert_eq!(
        sentence,
        "larder: the passphrase or key is wrong, or the profile is damaged\n"
    );
    let (exit, sentence, code) = fails(&world, "alice", &["groups"]);
    assert_eq!((exit, code.as_str()), (7, "no-terminal"));
    for way in [
        "--passphrase-command",
        "--passphrase-fd",
        "LARDER_PASSPHRASE_COMMAND",
    ] {
        assert!(sentence.contains(way), "{sentence}");
    }
    // The passphrase of somebody who has none is not needed.
    world.ok("bob", &["--passphrase-command", &wrong, "groups"]);
    let again = world.ok("alice", &["--passphrase-command", &right, "register", "alice"]);
    assert!(!again.contains("WARNING"), "{again}");
}

#[test]
fn a_passphrase_command_that_fails_or_prints_nothing_of_use_is_told_apart() {
    let world = World::new();
    for (given, expected, sentence) in [
        (
            "exit 3",
            "passphrase-command",
            "the passphrase command failed (exit status: 3)",
        ),
        (
            "echo secret; exit 1",
            "passphrase-command",
            "the passphrase command failed (exit status: 1)",
        ),
        (
            "no-such-program-anywhere 2>/dev/null",
            "passphrase-command",
            "the passphrase command failed (exit status: 127)",
        ),
        ("true", "passphrase-empty", "the passphrase is empty"),
        ("echo", "passphrase-empty", "the passphrase is empty"),
        (
            "head -c 3000 /dev/zero | tr '\\0' x",
            "passphrase-unusable",
            "a passphrase is 1,024 bytes at most",
        ),
        (
            "printf 'a\\0b'",
            "passphrase-unusable",
            "a passphrase has no NUL character",
        ),
        (
            "printf '\\377'",
            "passphrase-command",
            "the passphrase command cannot be read from: not UTF-8",
        ),
    ] {
        let (exit, told, code) = fails(
            &world,
            "alice",
            &["--passphrase-command", given, "register", "alice"],
        );
        assert_eq!((exit, code.as_str()), (7, expected), "{given}");
        assert_eq!(told, format!("larder: {sentence}\n"), "{given}");
    }
    assert!(!world.profile("alice").exists());
}

#[test]
fn the_command_may_come_from_the_environment_and_a_file_descriptor_goes_first() {
    let world = World::new();
    let right = command(&world, "right", PASSPHRASE);
    let mut register = world.command("alice", &["register", "alice"]);
    assert!(
        register
            .env("LARDER_PASSPHRASE_COMMAND", &right)
            .status()
            .unwrap()
            .success()
    );
    let mut groups = world.command("alice", &["--passphrase-fd", "0", "groups"]);
    groups
        .env("LARDER_PASSPHRASE_COMMAND", "exit 1")
        .stdin(fs::File::open(world.path("right")).unwrap());
    assert!(groups.status().unwrap().success());
}

#[cfg(unix)]
#[test]
fn a_file_descriptor_gives_a_line_and_no_more() {
    let world = World::new();
    command(&world, "right", PASSPHRASE);
    let shell = |profile: &str, script: &str| {
        let output = world
            .shell(profile, script)
            .env("RIGHT", world.path("right"))
            .stderr(std::process::Stdio::piped())
            .output()
            .unwrap();
        let told = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (
            output.status.code().unwrap(),
            told(output.stdout),
            told(output.stderr),
        )
    };
    let (code, out, err) = shell(
        "alice",
        "\"$LARDER\" --passphrase-fd 7 register alice 7<\"$RIGHT\"",
    );
    assert_eq!(code, 0, "{out}{err}");
    let (code, out, err) = shell(
        "alice",
        "cat \"$RIGHT\" | \"$LARDER\" --passphrase-fd 9 groups 9<&0 </dev/null",
    );
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.starts_with("no groups yet"), "{out}");
    let (code, _, err) = shell("alice", "\"$LARDER\" --passphrase-fd 7 groups");
    assert_eq!(code, 7);
    assert!(
        err.starts_with("larder: no passphrase can be read from file descriptor 7: "),
        "{err}"
    );

    // What follows the passphrase on stdin is for the chat.
    world.ok(
        "alice",
        &[
            "--passphrase-command",
            &command(&world, "right", PASSPHRASE),
            "group",
            "create",
            "room",
        ],
    );
    let (code, out, err) = shell(
        "alice",
        "printf '%s\\nhello\\n/members\\n' \"$(head -n 1 \"$RIGHT\")\" | \"$LARDER\" --json --passphrase-fd 0 chat room",
    );
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    let types: Vec<_> = out.lines().map(|line| parse(line)["type"].clone()).collect();
    assert_eq!(types, ["sent", "member", "epoch_code"], "{out}");
}

#[test]
fn without_anything_to_encrypt_with_a_new_profile_is_refused_at_once_and_every_way_is_named() {
    let world = World::new();
    let begun = Instant::now();
    let (exit, sentence, code) = fails(&world, "alice", &["register", "alice"]);
    if cfg!(target_os = "linux") {
        assert_eq!((exit, code.as_str()), (7, "no-terminal"));
        assert!(begun.elapsed() < PATIENCE / 2, "{:?}", begun.elapsed());
        for way in [
            "no keychain can be used",
            "--passphrase-command",
            "--passphrase-fd",
            "terminal",
            "--no-encryption",
        ] {
            assert!(sentence.contains(way), "{sentence}");
        }
        assert!(!world.profile("alice").exists(), "nothing is created");
    }
    let told = world.ok("alice", &["register", "--no-encryption", "alice"]);
    assert!(told.contains("WARNING: this profile is not encrypted"), "{told}");
    let json = world
        .json("bob", &["register", "--no-encryption", "bob"])
        .remove(0);
    assert_eq!(json["encrypted"], false);
}

#[cfg(target_os = "linux")]
#[test]
fn a_profile_whose_key_is_in_a_keychain_that_is_not_there_says_so() {
    let world = World::new();
    let right = command(&world, "right", PASSPHRASE);
    world.ok("alice", &["--passphrase-command", &right, "register", "alice"]);
    fs::write(world.profile("alice").join("keychain-entry"), "an-entry").unwrap();
    let (exit, sentence, code) = fails(&world, "alice", &["groups"]);
    assert_eq!((exit, code.as_str()), (7, "keychain-unavailable"));
    assert!(sentence.contains("--passphrase-command"), "{sentence}");
    world.ok("alice", &["--passphrase-command", &right, "groups"]);
    let (exit, _, code) = fails(
        &world,
        "alice",
        &["--passphrase-command", &right, "passphrase", "--keychain"],
    );
    assert_eq!((exit, code.as_str()), (7, "keychain-unavailable"));
    world.ok("alice", &["--passphrase-command", &right, "groups"]);
}

#[test]
fn a_passphrase_is_changed_and_a_plain_profile_encrypted() {
    let world = World::new();
    let first = command(&world, "first", PASSPHRASE);
    let second = command(&world, "second", "another passphrase");
    world.register(&["alice", "bob"]);
    world.ok("alice", &["group", "create", "room"]);
    world.ok("alice", &["invite", "room", "bob"]);
    world.ok("alice", &["send", "room", TEXT]);
    world.ok("bob", &["recv"]);
    world.ok("bob", &["send", "room", "an answer"]);
    assert!(contains(&bytes_below(&world.profile("alice")), TEXT.as_bytes()));

    let (exit, _, code) = fails(
        &world,
        "nobody",
        &["passphrase", "--new-passphrase-command", &first],
    );
    assert_eq!((exit, code.as_str()), (5, "not-registered"));
    let (exit, _, code) = fails(&world, "alice", &["passphrase"]);
    assert_eq!((exit, code.as_str()), (7, "no-terminal"));
    let told = world.ok("alice", &["passphrase", "--new-passphrase-command", &first]);
    assert_eq!(told, "the profile alice is encrypted with the new passphrase\n");
    assert!(!contains(&bytes_below(&world.profile("alice")), TEXT.as_bytes()));
    let mut chat = world.start("alice", &["--passphrase-command", &first, "recv", "--follow"]);
    assert_eq!(chat.line(), "#room <bob> an answer");
    let (exit, _, code) = fails(
        &world,
        "alice",
        &["passphrase", "--new-passphrase-command", &second],
    );
    assert_eq!((exit, code.as_str()), (6, "profile-locked"));
    drop(chat);

    let (exit, _, code) = fails(
        &world,
        "alice",
        &[
            "--passphrase-command",
            &second,
            "passphrase",
            "--new-passphrase-command",
            &first,
        ],
    );
    assert_eq!((exit, code.as_str()), (7, "wrong-passphrase"));
    let changed = world.json(
        "alice",
        &[
            "--passphrase-command",
            &first,
            "passphrase",
            "--new-passphrase-command",
            &second,
        ],
    );
    assert_eq!(changed[0]["type"], "passphrase_changed");
    let (_, _, code) = fails(&world, "alice", &["--passphrase-command", &first, "groups"]);
    assert_eq!(code, "wrong-passphrase");
    world.ok(
        "alice",
        &[
            "--passphrase-command",
            &second,
            "send",
            "room",
            "after the change",
        ],
    );
    assert!(
        world
            .ok("bob", &["recv"])
            .contains("#room <alice> after the change")
    );
}

/// X5: as `ps` would show it, in the logs at their most talkative, and in the files of the profile.
#[cfg(target_os = "linux")]
#[test]
fn x5_a_passphrase_is_no_argument_no_variable_and_in_no_log() {
    let world = World::logging("trace");
    let secret = "canary-passphrase-of-leeds";
    let right = command(&world, "right", secret);
    world.ok("alice", &["--passphrase-command", &right, "register", "alice"]);
    world.ok(
        "alice",
        &["--passphrase-command", &right, "group", "create", "room"],
    );
    let mut seen = 0;
    for by_fd in [false, true] {
        let mut chat = match by_fd {
            true => world.start("alice", &["--passphrase-fd", "0", "--json", "chat", "room"]),
            false => world.start(
                "alice",
                &["--passphrase-command", &right, "--json", "chat", "room"],
            ),
        };
        if by_fd {
            chat.types(secret);
        }
        chat.types("hello");
        assert_eq!(parse(&chat.line())["status"], "sent");
        // This process, and everything that the test has started: whoever may look sees all of them.
        for process in fs::read_dir("/proc").unwrap() {
            let process = process.unwrap().path();
            for file in ["cmdline", "environ"] {
                let Ok(bytes) = fs::read(process.join(file)) else {
                    continue;
                };
                seen += usize::from(contains_if_any(&bytes, world.path("home").to_str().unwrap()));
                assert!(!contains_if_any(&bytes, secret), "{}: {file}", process.display());
            }
        }
        chat.types("/quit");
        assert_eq!(chat.ended(), 0);
    }
    assert!(seen >= 2, "the processes were looked at");
    let log = world.logs("alice");
    assert!(contains(&log, b"TRACE"), "logs everything");
    assert!(!contains(&log, secret.as_bytes()));
    assert!(!contains(
        &bytes_below(&world.profile("alice")),
        secret.as_bytes()
    ));
}

#[cfg(target_os = "linux")]
fn contains_if_any(haystack: &[u8], needle: &str) -> bool {
    haystack.len() >= needle.len() && contains(haystack, needle.as_bytes())
}
