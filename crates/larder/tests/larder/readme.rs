//! The README's chat between two terminals, typed as it stands there; what is typed into the chat, as the commands for it.

use std::process::Stdio;
use std::time::Duration;

use crate::support::{Ended, World, texts};

/// From nothing to a first message and its answer, of the processor's time: what a person waits where nothing else runs.
const FIRST_MESSAGE: Duration = Duration::from_secs(60);

#[test]
fn what_the_readme_says_works_and_the_first_message_takes_less_than_a_minute() {
    let readme = include_str!("../../../../README.md");
    let (_, section) = readme.split_once("## A chat between two terminals").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let world = World::new();
    let mut spent = Duration::ZERO;
    let mut run = |profile: &str, arguments: &[&str]| -> Ended {
        let script = "\"$LARDER\" \"$@\" 2>/dev/null; code=$?; times >&2; exit $code";
        let mut command = world.shell(profile, script);
        command
            .arg("sh")
            .args(arguments)
            .env_remove("LARDER_INVITATIONS")
            .env("LARDER_PASSPHRASE_COMMAND", "echo open sesame")
            .stderr(Stdio::piped());
        let output = command.output().unwrap();
        spent += spent_by_children(&String::from_utf8(output.stderr).unwrap());
        Ended {
            code: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::new(),
        }
    };
    let mut profile = "";
    let (mut chatting, mut typed, mut said) = (false, 0, Vec::new());
    for line in section.lines() {
        let Some(line) = line.strip_prefix("    ") else {
            // Who does what follows.
            let person = line.split(' ').next().unwrap();
            if ["alice", "bob"].contains(&person) {
                profile = person;
            }
            chatting &= line.is_empty();
            continue;
        };
        let commands: Vec<Vec<&str>> = if let Some(name) = line.strip_prefix("$ export LARDER_PROFILE=") {
            profile = name;
            continue;
        } else if let Some(command) = line.strip_prefix("$ larder ") {
            match command {
                "serve" => continue,
                // What is typed there comes in the lines that follow.
                "chat" => {
                    chatting = true;
                    continue;
                }
                command => vec![command.split(' ').collect()],
            }
        } else if !chatting {
            continue;
        } else if let Some(command) = line.strip_prefix('/') {
            match command.split(' ').collect::<Vec<_>>().as_slice() {
                ["new", name] => vec![vec!["group", "create", *name]],
                ["invite", user] => vec![vec!["invite", "kitchen", *user]],
                ["accept"] => vec![vec!["recv"], vec!["accept", "kitchen"]],
                other => panic!("{other:?} is new in the README"),
            }
        } else {
            said.push(line);
            vec![vec!["send", "kitchen", line]]
        };
        for command in commands {
            let ended = run(profile, &command);
            assert_eq!(ended.code, 0, "{profile}: {command:?}: {ended:?}");
            typed += 1;
        }
    }
    assert!(typed >= 8 && said.len() == 2, "{typed} commands, {said:?}");
    run("alice", &["recv"]);
    let history = run("alice", &["--json", "history", "kitchen"]).out;
    let history: Vec<_> = history.lines().map(crate::support::parse).collect();
    assert_eq!(texts(&history), said);
    assert!(spent < FIRST_MESSAGE, "{spent:?}");
}

/// The processor's time of a shell's children, of what its `times` says: `0m0.51s 0m0.02s` in its second line.
fn spent_by_children(times: &str) -> Duration {
    let of_children = times.lines().nth(1).unwrap();
    let parts = of_children.split_whitespace().map(|part| {
        let (minutes, seconds) = part.trim_end_matches('s').split_once('m').unwrap();
        Duration::from_secs(60 * minutes.parse::<u64>().unwrap())
            + Duration::from_secs_f64(seconds.parse().unwrap())
    });
    parts.sum()
}
