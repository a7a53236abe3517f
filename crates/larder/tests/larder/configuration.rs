//! The configuration file.

use std::fs;

use crate::support::{Ended, World, parse};

/// Runs a command whose profile nothing names but the file.
fn unnamed(world: &World, arguments: &[&str], environment: &[(&str, &str)]) -> Ended {
    let mut command = world.command("unnamed", arguments);
    command
        .env_remove("LARDER_PROFILE")
        .stderr(std::process::Stdio::piped());
    command.envs(environment.iter().copied());
    let output = command.output().unwrap();
    Ended {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

#[test]
fn a_flag_comes_before_the_environment_and_that_before_the_file() {
    let world = World::without_server();
    fs::create_dir_all(world.path("home")).unwrap();
    fs::write(world.path("home").join("config.toml"), "profile = \"filed\"\n").unwrap();
    let profile = |arguments: &[&str], environment: &[(&str, &str)]| {
        let told = unnamed(&world, arguments, environment).err;
        let (_, name) = told.split_once("the profile ").unwrap();
        name.split(' ').next().unwrap().to_owned()
    };
    assert_eq!(profile(&["groups"], &[]), "filed");
    assert_eq!(profile(&["groups"], &[("LARDER_PROFILE", "named")]), "named");
    let flag = ["groups", "--profile", "flagged"];
    assert_eq!(profile(&flag, &[("LARDER_PROFILE", "named")]), "flagged");
    let nothing = [("LARDER_CONFIG", "/dev/null")];
    assert_eq!(profile(&["groups"], &nothing), "default");
}

#[test]
fn a_server_is_run_as_the_file_says_and_admin_finds_its_store() {
    let world = World::without_server();
    let (config, store) = (world.path("server.toml"), world.path("elsewhere").join("s.db"));
    let text = format!(
        "[serve]\nlisten = \"127.0.0.1:0\"\nstore = {:?}\nserver_name = \"filed\"\n",
        store.to_str().unwrap()
    );
    fs::write(&config, text).unwrap();
    let config = config.to_str().unwrap();
    let mut server = world.start("server", &["--json", "serve", "--config", config]);
    assert_eq!(parse(&server.line())["server_name"], "filed");
    assert!(store.is_file());
    server.signal("TERM");
    assert_eq!(server.ended(), 0);
    let checked = world.ok("server", &["admin", "check", "--config", config]);
    assert!(checked.starts_with("nothing is wrong"), "{checked}");
}

#[test]
fn a_file_that_is_wrong_is_told_with_its_line_and_is_not_in_the_way_of_who_mends_it() {
    let world = World::without_server();
    fs::create_dir_all(world.path("home")).unwrap();
    let file = world.path("home").join("config.toml");
    fs::write(&file, "[serve]\nstor = \"postgres://larder:hunter2@db/larder\"\n").unwrap();
    let wrong = world.run("p", &["groups"]);
    assert_eq!((wrong.code, wrong.out.as_str()), (2, ""));
    let place = format!("larder: {}:2: serve.stor: there is no such key\n", file.display());
    assert_eq!(wrong.err, place);
    let json = parse(&world.run("p", &["--json", "serve"]).out);
    assert_eq!(
        (&json["error"]["code"], &json["error"]["exit"]),
        (&"config-wrong".into(), &2.into())
    );
    assert_eq!(
        world.ok("p", &["config", "--path"]),
        format!("{}\n", file.display())
    );
    let generated = world.ok("p", &["config"]);
    fs::write(&file, &generated).unwrap();
    assert_eq!(
        world.run("p", &["groups"]).code,
        5,
        "it says nothing, and is not wrong"
    );
    assert!(
        generated.contains("\n#listen = \"127.0.0.1:4000\"\n"),
        "{generated}"
    );
    assert!(
        generated.contains("\n#next-unread = [\"alt-n\", \"f4\"]\n"),
        "{generated}"
    );
}

#[test]
fn the_file_is_looked_for_in_the_xdg_directory_where_no_home_is_named() {
    let world = World::without_server();
    let xdg = world.path("xdg");
    fs::create_dir_all(xdg.join("larder")).unwrap();
    fs::write(xdg.join("larder/config.toml"), "profile = \"filed\"\n").unwrap();
    let mut command = world.command("unnamed", &["groups"]);
    command
        .env_remove("LARDER_PROFILE")
        .env_remove("LARDER_HOME")
        .env("XDG_DATA_HOME", world.path("data"))
        .env("XDG_CONFIG_HOME", &xdg)
        .stderr(std::process::Stdio::piped());
    let told = String::from_utf8(command.output().unwrap().stderr).unwrap();
    assert!(told.contains("the profile filed has no account"), "{told}");
}

#[test]
fn the_limits_of_a_server_are_as_the_file_says() {
    let world = World::without_server();
    let config = world.path("server.toml");
    let text = format!(
        "[serve]\nlisten = \"127.0.0.1:0\"\nstore = {:?}\naddress_registrations = 1\ntrusted_proxies = [\"10.0.0.0/8\"]\n\
         drain_floor = 4\nmessage_days = 7\nsession_minutes = 10\naccounts_per_hour = 5\npostgres_connections = 4\n",
        world.path("elsewhere").join("s.db").to_str().unwrap()
    );
    fs::write(&config, &text).unwrap();
    let mut server = world.start("server", &["serve", "--config", config.to_str().unwrap()]);
    let ready = server.line();
    let url = ready.strip_prefix("listening on ").unwrap();
    let register = |user| {
        let arguments = ["--json", "--server", url, "register", "--no-encryption", user];
        world.run(user, &arguments)
    };
    assert_eq!(register("alice").code, 0);
    let refused = register("bob");
    assert_eq!(
        (refused.code, parse(&refused.out)["error"]["code"].as_str()),
        (3, Some("rate-limited"))
    );
    for (line, what) in [
        ("message_days = 31", "message_days: 31 is not in 1..=30"),
        (
            "trusted_proxies = [\"10.0.0.0/99\"]",
            "trusted_proxies: not an address or a network",
        ),
    ] {
        fs::write(&config, format!("[serve]\n{line}\n")).unwrap();
        let told = world.run("server", &["serve", "--config", config.to_str().unwrap()]);
        assert!(told.code == 2 && told.err.contains(what), "{told:?}");
    }
}
