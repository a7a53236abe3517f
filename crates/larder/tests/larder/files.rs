//! Files between real processes.

use std::path::Path;

use serde_json::Value;

use crate::history::world;
use crate::support::{Running, World, bytes_below, contains};
use crate::transcripts::fails;

fn write(world: &World, name: &str, content: &[u8]) -> String {
    let path = world.path(name);
    std::fs::write(&path, content).unwrap();
    path.to_str().unwrap().to_owned()
}

fn is_file(message: &Value) -> bool {
    message["kind"] == "attachment"
}

#[test]
fn a_file_is_sent_told_of_and_saved_beside_what_is_there() {
    let world = world();
    let content: Vec<u8> = (0..40_000_u32).flat_map(u32::to_le_bytes).collect();
    let file = write(&world, "soup \u{202e}recipe.pdf", &content);
    assert_eq!(
        world.ok("alice", &["send", "room", "--attach", &file, "as", "promised"]),
        "sent\nsent\n"
    );
    let line = world.ok("bob", &["recv"]);
    let row = line
        .split("larder save ")
        .nth(1)
        .and_then(|rest| rest.lines().next())
        .unwrap();
    assert_eq!(
        line,
        format!(
            "#room <alice> (file) soup recipe.pdf, 157 KiB: larder save {row}\n#room <alice> as promised\n"
        )
    );
    let history = world.json("bob", &["history", "room"]);
    let message = history.iter().find(|message| is_file(message)).unwrap();
    assert_eq!(message["text"], "soup recipe.pdf, 157 KiB");
    assert_eq!(message["row"].to_string(), row);

    let downloads = world.path("downloads");
    std::fs::create_dir(&downloads).unwrap();
    let to = downloads.to_str().unwrap();
    let first = world.ok("bob", &["save", row, "--to", to]);
    assert_eq!(first, format!("saved {to}/soup recipe.pdf\n"));
    let saved = world.json("bob", &["save", row, "--to", to]).remove(0);
    assert_eq!(
        (saved["type"].as_str(), saved["row"].to_string().as_str()),
        (Some("saved"), row)
    );
    let second = saved["file"].as_str().unwrap();
    assert_eq!(second, format!("{to}/soup recipe (2).pdf"));
    let third = world.ok("bob", &["save", row, "--to", to, "--name", "../soup.pdf"]);
    assert_eq!(third, format!("saved {to}/soup.pdf\n"));
    assert!(std::fs::read(second).unwrap() == content);
    // Here, when nothing else is said.
    let mut here = world.command("bob", &["save", row]);
    assert!(here.current_dir(&downloads).status().unwrap().success());
    assert!(std::fs::read(downloads.join("soup recipe (3).pdf")).unwrap() == content);

    for (arguments, exit, code) in [
        (vec!["save", "9999"], 5, "unknown-attachment"),
        (vec!["save", row, "--to", "/nonexistent"], 1, "file"),
        (
            vec!["send", "room", "--attach", "/nonexistent"],
            2,
            "unreadable-file",
        ),
        (vec!["send", "room", "--attach", to], 2, "unreadable-file"),
        (
            vec!["send", "room", "--attach", "/dev/zero"],
            2,
            "unreadable-file",
        ),
    ] {
        let (is_exit, _, is_code) = fails(&world, "bob", &arguments);
        assert_eq!((is_exit, is_code.as_str()), (exit, code), "{arguments:?}");
    }
}

#[test]
fn a_file_waits_for_the_server_and_its_original_is_not_needed_any_more() {
    let mut world = world();
    let file = write(&world, "note.txt", b"short-lived");
    world.kill_server();
    let sent = world.run("alice", &["send", "room", "--attach", &file]);
    assert_eq!(sent.code, 4, "{sent:?}");
    assert!(sent.out.starts_with("pending"), "{sent:?}");
    std::fs::remove_file(file).unwrap();
    world.start_server();
    world.ok("alice", &["recv"]);
    let received = world.json("bob", &["recv"]);
    let message = received.iter().find(|message| is_file(message)).unwrap();
    let to = world.path("saved");
    std::fs::create_dir(&to).unwrap();
    let row = message["row"].to_string();
    world.ok("bob", &["save", &row, "--to", to.to_str().unwrap()]);
    assert_eq!(std::fs::read(to.join("note.txt")).unwrap(), b"short-lived");
}

/// The server again, on the same address and database, with more options.
fn serve(world: &World, options: &[&str]) -> Running {
    let data = world.path("server").join("server.db");
    let serve = [
        "serve",
        "--listen",
        world.address(),
        "--store",
        data.to_str().unwrap(),
    ];
    let mut server = world.start("server", &[&serve, options].concat());
    assert!(server.line().starts_with("listening"));
    server
}

#[test]
fn an_operator_decides_how_large_files_are_and_whether_there_are_any() {
    let mut world = world();
    let fits = write(&world, "fits", &vec![7; 1 << 20]);
    let large = write(&world, "large", &vec![7; (1 << 20) + 4096]);
    world.kill_server();
    let server = serve(&world, &["--attachment-mib", "1", "--user-attachments-mib", "2"]);
    world.ok("alice", &["send", "room", "--attach", &fits]);
    let (exit, _, code) = fails(&world, "alice", &["send", "room", "--attach", &large]);
    assert_eq!((exit, code.as_str()), (3, "attachment-too-large"));
    // A second one does not fit beside what encryption adds to the first.
    let (exit, why, code) = fails(&world, "alice", &["send", "room", "--attach", &fits]);
    assert_eq!((exit, code.as_str()), (3, "too-large"), "{why}");
    drop(server);
    let _server = serve(&world, &["--attachment-mib", "0"]);
    let (exit, _, code) = fails(&world, "bob", &["send", "room", "--attach", &fits]);
    assert_eq!((exit, code.as_str()), (3, "no-attachments"));
}

fn has(directory: &Path, needle: &[u8]) -> bool {
    contains(&bytes_below(directory), needle)
}

#[test]
fn neither_the_server_nor_a_log_has_anything_of_a_file() {
    let world = World::logging("trace");
    world.register(&["alice", "bob"]);
    world.ok("alice", &["group", "create", "room"]);
    world.ok("alice", &["invite", "room", "bob"]);
    let file = write(&world, "canary-name.txt", &b"canary-content".repeat(100));
    world.ok("alice", &["send", "room", "--attach", &file]);
    let received = world.json("bob", &["recv"]);
    let row = received.iter().find(|message| is_file(message)).unwrap()["row"].to_string();
    let to = world.path("saved");
    std::fs::create_dir(&to).unwrap();
    world.ok("bob", &["save", &row, "--to", to.to_str().unwrap()]);
    assert!(has(&to, b"canary-content"), "the search works");
    assert!(!has(&world.path("server"), b"canary"));
    for profile in ["alice", "bob", "server"] {
        let log = world.logs(profile);
        assert!(!log.is_empty());
        for secret in [&b"canary-content"[..], b"canary-name"] {
            assert!(!contains(&log, secret), "{profile}");
        }
    }
}
