//! Servers that are silent, gone, others, or not to be trusted: each is told by name, with its exit code, and
//! in time.

use std::fs;

use larder_testkit::{ANOTHER_AUTHORITY, AUTHORITY, FakeServer, Proxy, Reply, ServerCertificate, TlsFront};
use serde_json::Value;

use crate::support::{Running, World, parse, texts};

/// Runs a command with `--json`, which ends within the patience of a test; its last line and its exit code.
fn ends(world: &World, profile: &str, arguments: &[&str]) -> (Value, i32) {
    let mut running = world.start(profile, &[&["--json"], arguments].concat());
    running.closes_input();
    let mut last = Value::Null;
    while let Some(line) = running.next() {
        last = parse(&line);
    }
    (last, running.ended())
}

/// The code, the sentence and the exit code of a command that fails.
fn fails(world: &World, profile: &str, arguments: &[&str]) -> (String, String, i32) {
    let (last, exit) = ends(world, profile, arguments);
    let error = &last["error"];
    assert_eq!(error["exit"], exit, "{arguments:?}: {last}");
    let text = |key: &str| error[key].as_str().unwrap().to_owned();
    (text("code"), text("message"), exit)
}

fn registered(users: &[&str]) -> World {
    let world = World::new();
    world.register(users);
    world.ok(users[0], &["group", "create", "room"]);
    world
}

/// It takes as long as a request may, twice: 40 seconds.
#[test]
fn a_silent_server_ends_every_command_in_time() {
    let world = registered(&["alice"]);
    world.register(&["bob"]);
    world.signal_server("STOP");
    let mut receiving = world.start("bob", &["--json", "recv", "--wait", "3"]);
    let (sent, exit) = ends(&world, "alice", &["send", "room", "hello"]);
    assert_eq!(
        (sent["status"].as_str(), sent["code"].as_str(), exit),
        (Some("pending"), Some("unreachable"), 4)
    );
    let told = parse(&receiving.line());
    assert_eq!(told["error"]["code"], "unreachable");
    assert_eq!(receiving.ended(), 4);
    // Each line waits with the first one, not after it.
    let mut lines = world.start("alice", &["--json", "send", "room", "--stdin"]);
    for line in ["one", "two", "three", "four"] {
        lines.types(line);
    }
    lines.closes_input();
    for _ in 0..4 {
        assert_eq!(parse(&lines.line())["status"], "pending");
    }
    assert_eq!(lines.ended(), 4);
    world.signal_server("CONT");
    world.ok("alice", &["recv"]);
    let history = world.json("alice", &["history", "room"]);
    assert_eq!(texts(&history), ["hello", "one", "two", "three", "four"]);
    assert!(history.iter().all(|row| row["status"] == "sent"), "{history:?}");
}

#[test]
fn a_removed_device_promises_nothing() {
    let world = registered(&["alice"]);
    world.ok("alice", &["send", "room", "--offline", "hello"]);
    let device = world.json("alice", &["device", "list"]).remove(0);
    world.ok(
        "alice",
        &["device", "remove", device["device_id"].as_str().unwrap()],
    );
    let ended = world.run("alice", &["send", "room", "hello"]);
    assert_eq!(ended.code, 3);
    assert!(
        ended.err.contains("this device was removed") && !ended.err.contains("will be sent"),
        "{ended:?}"
    );
    for arguments in [
        &["send", "room", "hello"][..],
        &["recv"],
        &["send", "room", "--wait", "hello"],
    ] {
        let (code, _, exit) = fails(&world, "alice", arguments);
        assert_eq!((code.as_str(), exit), ("device-removed", 3), "{arguments:?}");
    }
    let history = world.json("alice", &["history", "room"]);
    assert_eq!(
        texts(&history),
        ["hello"],
        "what was not kept is not promised either"
    );
    assert!(
        history
            .iter()
            .all(|row| row["kind"] != "text" || row["status"] == "failed"),
        "{history:?}"
    );
}

#[test]
fn a_server_that_lost_the_account_is_not_unreachable() {
    let mut world = registered(&["alice"]);
    world.kill_server();
    fs::remove_dir_all(world.path("server")).unwrap();
    world.start_server();
    let ended = world.run("alice", &["send", "room", "hello"]);
    assert_eq!(ended.code, 3);
    let told = &ended.out;
    assert!(
        told.starts_with("pending: the server does not know this account"),
        "{told}"
    );
    assert!(!told.contains("will be sent"), "{told}");
    for arguments in [
        &["send", "room", "hello"][..],
        &["send", "room", "--wait", "hello"],
    ] {
        let (sent, exit) = ends(&world, "alice", arguments);
        assert_eq!(
            (sent["status"].as_str(), sent["code"].as_str(), exit),
            (Some("pending"), Some("unknown-account"), 3)
        );
    }
    let (code, _, exit) = fails(&world, "alice", &["recv"]);
    assert_eq!((code.as_str(), exit), ("unknown-account", 3));
    let (code, _, exit) = fails(&world, "alice", &["recv", "--follow"]);
    assert_eq!((code.as_str(), exit), ("unknown-account", 3));
}

#[test]
fn a_web_page_in_the_servers_place_is_told_by_name() {
    let page = larder_testkit::Answer::of_type(200, "text/html", "<html>");
    let web = FakeServer::start(move |_| Reply::Answer(page.clone()));
    let world = World::without_server();
    let arguments = ["--server", &web.url, "register", "--no-encryption", "alice"];
    let (code, told, exit) = fails(&world, "alice", &arguments);
    assert_eq!((code.as_str(), exit), ("not-larder", 3));
    assert!(
        told.contains(&web.url) && told.contains("not a Larder server"),
        "{told}"
    );
}

#[test]
fn http_beyond_this_machine_needs_a_word_that_is_remembered() {
    let world = World::new();
    let elsewhere = [
        "--server",
        "http://vm.invalid:5300",
        "register",
        "--no-encryption",
        "alice",
    ];
    let (code, told, exit) = fails(&world, "alice", &elsewhere);
    assert_eq!((code.as_str(), exit), ("insecure-http", 3));
    assert!(
        told.contains("http://vm.invalid:5300") && told.contains("--insecure-http"),
        "{told}"
    );
    assert!(!world.profile("alice").exists());
    let (code, _, exit) = fails(&world, "alice", &[&["--insecure-http"], &elsewhere[..]].concat());
    assert_eq!((code.as_str(), exit), ("unreachable", 4), "it was tried");

    // What leads to this machine all the same, on Linux.
    if cfg!(target_os = "linux") {
        let proxy = Proxy::start(&world.url());
        let url = proxy.url.replace("127.0.0.1", "0.0.0.0");
        let spy = FakeServer::start(|_| Reply::Close);
        let run = |arguments: &[&str]| {
            let mut command = world.command("alice", arguments);
            for name in [
                "http_proxy",
                "HTTP_PROXY",
                "all_proxy",
                "ALL_PROXY",
                "https_proxy",
                "HTTPS_PROXY",
            ] {
                command.env(name, &spy.url);
            }
            command
                .env_remove("NO_PROXY")
                .env_remove("no_proxy")
                .env("LARDER_SERVER", &url);
            Running::start(command).ended()
        };
        assert_eq!(run(&["register", "--no-encryption", "alice"]), 3);
        assert_eq!(
            run(&["register", "--no-encryption", "alice", "--insecure-http"]),
            0
        );
        assert_eq!(run(&["group", "create", "room"]), 0, "it is remembered");
        assert_eq!(spy.seen(), [], "no proxy sees what is not encrypted");
        // What is encrypted may go through one.
        assert_eq!(
            run(&[
                "--profile",
                "bob",
                "--server",
                "https://vm.invalid",
                "register",
                "bob"
            ]),
            4
        );
        assert!(
            spy.seen().iter().all(|seen| seen.method == "CONNECT"),
            "{:?}",
            spy.seen()
        );
        assert!(!spy.seen().is_empty());
    }
}

#[test]
fn an_authority_of_ones_own_is_named_once_and_remembered() {
    let mut world = World::new();
    let front = TlsFront::start(&world.url(), ServerCertificate::Good);
    let file = |name: &str, text: &str| {
        let path = world.path(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (own, other) = (file("own.pem", AUTHORITY), file("other.pem", ANOTHER_AUTHORITY));
    let (noise, missing) = (file("noise.pem", "noise"), "/nowhere/at/all.pem".to_owned());
    let register = ["--server", &front.url, "register", "--no-encryption", "alice"];
    let with = |ca: &str| fails(&world, "alice", &[&["--ca", ca], &register[..]].concat());
    let (code, told, exit) = with(&other);
    assert_eq!((code.as_str(), exit), ("certificate", 3));
    assert!(told.contains("--ca"), "{told}");
    for (ca, expected) in [(&noise, "invalid-authorities"), (&missing, "ca-unreadable")] {
        let (code, told, exit) = with(ca);
        assert_eq!((code.as_str(), exit), (expected, 2));
        assert!(told.contains(ca.as_str()), "{told}");
    }
    world.ok("alice", &[&["--ca", &own], &register[..]].concat());
    fs::remove_file(&own).unwrap();
    let at = ["--server", front.url.as_str()];
    world.ok("alice", &[&at[..], &["group", "create", "room"]].concat());
    // Another one takes its place, and a message waits for the right one, by name.
    let send = [&["--ca", &other], &at[..], &["send", "room", "hello"]].concat();
    let (sent, exit) = ends(&world, "alice", &send);
    assert_eq!((sent["code"].as_str(), exit), (Some("certificate"), 3));
    world.kill_server();
}

#[cfg(target_os = "linux")]
#[test]
fn no_process_leaves_a_core_dump() {
    use std::os::unix::fs::MetadataExt;
    let world = registered(&["alice"]);
    let mut following = world.start("alice", &["recv", "--follow"]);
    world.ok("bob", &["register", "--no-encryption", "bob"]);
    world.ok("bob", &["group", "create", "yard"]);
    world.ok("bob", &["invite", "yard", "alice"]);
    // It has begun long ago.
    following.line();
    for process in [following.id(), world.server_id()] {
        let limits = fs::read_to_string(format!("/proc/{process}/limits")).unwrap();
        let core = limits
            .lines()
            .find(|line| line.starts_with("Max core file size"))
            .unwrap();
        let numbers: Vec<&str> = core
            .split_whitespace()
            .filter(|word| word.parse::<u64>().is_ok())
            .collect();
        assert_eq!(numbers, ["0", "0"], "{core}");
        // What is not dumpable belongs to root, whoever runs it.
        assert_eq!(fs::metadata(format!("/proc/{process}/environ")).unwrap().uid(), 0);
    }
}

#[cfg(feature = "sqlcipher")]
#[test]
fn a_new_passphrase_that_is_short_has_to_be_insisted_on() {
    let world = World::new();
    let (short, long) = ("echo sesame", "echo open sesame");
    let refused = |arguments: &[&str]| {
        let (code, told, exit) = fails(&world, "alice", arguments);
        assert_eq!((code.as_str(), exit), ("passphrase-short", 7), "{arguments:?}");
        assert!(told.contains("--weak-passphrase"), "{told}");
    };
    refused(&["--passphrase-command", short, "register", "alice"]);
    assert!(!world.profile("alice").exists());
    let by_short = ["--passphrase-command", short];
    let with = |arguments: &[&str]| world.ok("alice", &[&by_short[..], arguments].concat());
    with(&["register", "alice", "--weak-passphrase"]);
    // One that is there opens what it opens.
    with(&["groups"]);
    refused(&[
        "--passphrase-command",
        short,
        "passphrase",
        "--new-passphrase-command",
        short,
    ]);
    let file = world.path("alice.age");
    let file = file.to_str().unwrap();
    refused(&[
        "--passphrase-command",
        short,
        "export",
        file,
        "--backup-passphrase-command",
        short,
    ]);
    with(&[
        "export",
        file,
        "--backup-passphrase-command",
        short,
        "--weak-passphrase",
    ]);
    with(&["passphrase", "--new-passphrase-command", long]);
    let import = [
        "--passphrase-command",
        short,
        "import",
        file,
        "--backup-passphrase-command",
        short,
    ];
    let (code, _, _) = fails(&world, "copy", &import);
    assert_eq!(code, "passphrase-short");
    world.ok("copy", &[&import[..], &["--weak-passphrase"]].concat());
}
