//! What an operator does with a server's store.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use crate::support::{Running, World};
use crate::transcripts::fails;

pub(crate) fn database(world: &World) -> String {
    world
        .path("server")
        .join("server.db")
        .to_str()
        .unwrap()
        .to_owned()
}

#[test]
fn a_store_is_checked_saved_while_it_is_served_and_made_safe_after_a_restore() {
    let mut world = World::new();
    world.register(&["alice", "bob"]);
    let (store, copy) = (database(&world), world.path("backup.db"));
    let copy = copy.to_str().unwrap().to_owned();
    // While the server runs, it is saved but not checked.
    assert_eq!(
        world.ok("admin", &["admin", "backup", "--store", &store, &copy]),
        format!("backed up to {copy}\n")
    );
    let (exit, _, code) = fails(&world, "admin", &["admin", "check", "--store", &store]);
    assert_eq!((exit, code.as_str()), (6, "database-locked"));
    let (exit, _, code) = fails(&world, "admin", &["admin", "restored", "--store", &store]);
    assert_eq!((exit, code.as_str()), (6, "database-locked"));
    let (exit, sentence, _) = fails(&world, "admin", &["admin", "backup", "--store", &store, &copy]);
    assert_eq!(exit, 1, "a backup is never written over");
    assert!(sentence.contains("backup.db"), "{sentence}");
    let (exit, _, code) = fails(
        &world,
        "admin",
        &["admin", "check", "--store", "/nowhere/larder.db"],
    );
    assert_eq!((exit, code.as_str()), (3, "no-database"));

    assert_eq!(
        world.ok("admin", &["admin", "check", "--store", &copy]),
        "nothing is wrong; checked 2 devices, 66 KeyPackages, 0 groups\n"
    );
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(&copy).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    // The copy takes the place of the database.
    world.kill_server();
    for file in std::fs::read_dir(world.path("server")).unwrap() {
        std::fs::remove_file(file.unwrap().path()).unwrap();
    }
    std::fs::copy(&copy, &store).unwrap();
    assert_eq!(
        world.ok("admin", &["admin", "restored", "--store", &store]),
        "withdrew 66 KeyPackages of 2 devices; the store can be served\n"
    );
    rusqlite::Connection::open(&store)
        .unwrap()
        .execute("UPDATE audit SET time = 0 WHERE seq = 1", [])
        .unwrap();
    let run = world.run("admin", &["--json", "admin", "check", "--store", &store]);
    assert_eq!(run.code, 3);
    let first = crate::support::parse(run.out.lines().next().unwrap());
    assert_eq!(
        (&first["type"], &first["code"]),
        (&"finding".into(), &"audit-broken".into())
    );
}

#[test]
fn a_server_counts_what_it_does_and_names_nobody() {
    let world = World::without_server();
    let data = database(&world);
    let arguments = [
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--metrics",
        "127.0.0.1:0",
        "--store",
        &data,
    ];
    let mut server = Running::start(world.command("server", &arguments));
    let ready = server.line();
    let (url, metrics) = ready
        .strip_prefix("listening on ")
        .and_then(|line| line.split_once(", metrics on "))
        .unwrap();
    let ok = |user: &str, arguments: &[&str]| world.ok(user, &[&["--server", url], arguments].concat());
    for user in ["alice", "bob"] {
        ok(user, &["register", user, "--no-encryption"]);
    }
    ok("alice", &["group", "create", "room"]);
    ok("alice", &["invite", "room", "bob"]);
    ok("bob", &["recv"]);
    let text = get(metrics);
    for expected in [
        "larder_http_requests_total{method=\"POST\",route=\"/v1/key-packages/reserve\",status=\"200\"} 1",
        "larder_http_requests_total{method=\"POST\",route=\"/v1/groups/{gid}/commits\",status=\"200\"}",
        "larder_reserve_outcomes_total{outcome=\"ok\"} 1",
        "larder_http_request_seconds_bucket{",
        "larder_commit_requests_bucket{",
        "larder_inbox_rows_total ",
        "larder_swept_total{kind=\"key_packages\"} 0",
        "larder_connections ",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    for name in ["alice", "bob", "room"] {
        assert!(!text.contains(name), "{name}: {text}");
    }
    server.signal("TERM");
    assert_eq!(server.ended(), 0);
}

#[test]
fn a_server_whose_clock_is_not_believed_says_so_until_accepted() {
    let world = World::without_server();
    let data = database(&world);
    let data = &data;
    let serve = || {
        let on = "127.0.0.1:0";
        let arguments = ["serve", "--listen", on, "--metrics", on, "--store", data];
        let mut server = Running::start(world.command("server", &arguments));
        let ready = server.line();
        let (url, metrics) = ready
            .strip_prefix("listening on ")
            .and_then(|line| line.split_once(", metrics on "))
            .unwrap();
        let ready = get(&format!("{url}/readyz"));
        // The first sweep is under way.
        let says = |text: &str| (0..1000).any(|_| get(metrics).contains(text));
        let suspended = says("larder_clock_suspended 1");
        server.signal("TERM");
        assert_eq!(server.ended(), 0);
        (ready, suspended)
    };
    serve();
    // The last sweep was at a time that is two days ahead of this computer.
    let database = rusqlite::Connection::open(database(&world)).unwrap();
    let ahead = "UPDATE clock SET last_sweep = last_sweep + 2 * 86400";
    assert_eq!(database.execute(ahead, []).unwrap(), 1);
    let (ready, suspended) = serve();
    assert!(
        ready.ends_with("ok\nclock: suspended, 2 d 0 h behind: it does not fit the last sweep\n")
            || ready.ends_with("ok\nclock: suspended, 1 d 23 h behind: it does not fit the last sweep\n"),
        "{ready}"
    );
    assert!(suspended);
    let log = String::from_utf8(world.logs("server")).unwrap();
    assert!(log.contains("the clock is not believed"), "{log}");
    let accepted = world.admin(&["accept-clock"]);
    let [accepted] = accepted.as_slice() else {
        panic!("{accepted:?}");
    };
    let (time, before) = (accepted["time"].as_u64(), accepted["last_sweep"].as_u64());
    assert!(time.unwrap() + 86_400 < before.unwrap());
    let said = world.ok("server", &["admin", "accept-clock", "--store", data]);
    assert!(said.starts_with("the time is "), "{said}");
    let (ready, _) = serve();
    assert!(ready.ends_with("\r\n\r\nok\n"), "{ready}");
}

/// The soft and the hard limit of a process's file descriptors.
#[cfg(target_os = "linux")]
fn limits(process: &str) -> (u64, u64) {
    let limits = std::fs::read_to_string(format!("/proc/{process}/limits")).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files"));
    let numbers: Vec<u64> = line
        .unwrap()
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    (numbers[0], numbers[1])
}

/// The soft limit of a server when it listens, which a shell has started with other limits.
#[cfg(target_os = "linux")]
fn limit_of_server(world: &World, ulimit: &str) -> u64 {
    let script = format!("{ulimit} && exec \"$LARDER\" serve --listen 127.0.0.1:0");
    let mut command = world.shell("server", &script);
    command.stderr(std::fs::File::create(world.path("server.log")).unwrap());
    let mut server = Running::start(command);
    assert!(server.line().starts_with("listening on "));
    limits(&server.id().to_string()).0
}

#[cfg(target_os = "linux")]
#[test]
fn a_server_raises_its_limit_of_file_descriptors_and_warns_where_it_cannot() {
    const NEEDED: u64 = 18_432;
    let world = World::without_server();
    let warned = || String::from_utf8(world.logs("server")).unwrap();
    let few = limit_of_server(&world, "ulimit -Sn 500 && ulimit -Hn 1000");
    assert_eq!(few, 1000, "as many as it can have");
    assert!(
        warned().contains("allowed=1000 needed=18432 connections=16384"),
        "{}",
        warned()
    );
    let (_, most) = limits("self");
    assert_eq!(limit_of_server(&world, "ulimit -Sn 500"), NEEDED.min(most));
    assert_eq!(warned().is_empty(), most >= NEEDED, "{}", warned());
}

/// The body of an answer, asked for over a plain connection.
fn get(url: &str) -> String {
    let (host, path) = url.trim_start_matches("http://").split_once('/').unwrap();
    let mut stream = TcpStream::connect(host).unwrap();
    write!(
        stream,
        "GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    answer
}
