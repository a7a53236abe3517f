//! The README's chat between two terminals, typed as it stands there.

use std::time::{Duration, Instant};

use crate::support::{Ended, World, texts};

/// From nothing to a first message and its answer.
const FIRST_MESSAGE: Duration = Duration::from_secs(60);

#[test]
fn what_the_readme_says_works_and_the_first_message_takes_less_than_a_minute() {
    let readme = include_str!("../../../../README.md");
    let (_, section) = readme.split_once("## A chat between two terminals").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let begun = Instant::now();
    let world = World::new();
    let run = |profile: &str, arguments: &[&str]| -> Ended {
        let mut command = world.command(profile, arguments);
        command
            .env_remove("LARDER_INVITATIONS")
            .env("LARDER_PASSPHRASE_COMMAND", "echo open sesame");
        let output = command.output().unwrap();
        Ended {
            code: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::new(),
        }
    };
    let (mut profile, mut group, mut typed, mut said) = ("", "", 0, Vec::new());
    for line in section.lines() {
        let Some(line) = line.strip_prefix("    ") else {
            continue;
        };
        if let Some(name) = line.strip_prefix("$ export LARDER_PROFILE=") {
            profile = name;
        } else if let Some(command) = line.strip_prefix("$ larder ") {
            let words: Vec<&str> = command.split_whitespace().collect();
            typed += 1;
            match words.as_slice() {
                ["serve"] => {}
                // What is typed there comes in the lines that follow.
                ["chat", name] => group = name,
                words => {
                    // Each of the two has a terminal; who does something for the other comes back to theirs.
                    profile = match words {
                        ["group" | "invite", ..] => "alice",
                        ["recv" | "accept", ..] => "bob",
                        _ => profile,
                    };
                    let ended = run(profile, words);
                    assert_eq!(ended.code, 0, "{command}: {ended:?}");
                }
            }
        } else if let Some(text) = line.strip_prefix("> ") {
            let ended = run(profile, &["send", group, text]);
            assert_eq!((ended.code, ended.out.as_str()), (0, "sent\n"), "{text}");
            said.push(text);
        }
    }
    assert!(typed >= 8 && said.len() >= 2, "{typed} commands, {said:?}");
    let history = run("alice", &["--json", "history", "kitchen"]).out;
    let history: Vec<_> = history.lines().map(crate::support::parse).collect();
    assert!(texts(&history).starts_with(&[said[0].to_owned()]), "{history:?}");
    assert!(begun.elapsed() < FIRST_MESSAGE, "{:?}", begun.elapsed());
}
