//! What follows from the definition of the program: completions, the manual, the schema of the output.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::process::alone;
use crate::support::{World, schema_text};

/// Runs a script in a bash that reads nothing of anybody's.
fn bash(script: &str, argument: &Path) -> (bool, String) {
    let words = ["--norc", "--noprofile", "-c", script, "bash"];
    let output = alone("bash", &words, argument.parent().unwrap())
        .arg(argument)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), said)
}

#[test]
fn bash_completes_commands_flags_and_values() {
    let world = World::without_server();
    let script = world.path("larder.bash");
    fs::write(&script, world.ok("p", &["completions", "bash"])).unwrap();
    assert_eq!(bash("bash -n \"$1\"", &script), (true, String::new()));
    let completed = |words: &str| -> Vec<String> {
        let run = format!(
            "set -e; source \"$1\"; COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             _larder larder \"${{COMP_WORDS[-1]}}\" \"${{COMP_WORDS[-2]}}\"; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        );
        let (done, said) = bash(&run, &script);
        assert!(done, "{said}");
        said.lines().map(str::to_owned).collect()
    };
    assert_eq!(completed("larder inv"), ["invite"]);
    assert_eq!(completed("larder group cr"), ["create"]);
    assert_eq!(completed("larder send --tim"), ["--timeout"]);
    assert_eq!(completed("larder --invitations a"), ["ask", "accept"]);
}

#[test]
fn every_shell_gets_a_script() {
    let world = World::without_server();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = world.ok("p", &["completions", shell]);
        assert!(script.contains("migrate-legacy"), "{shell}");
    }
    assert_eq!(world.run("p", &["completions", "dos"]).code, 2);
}

/// The commands that `--help` lists, with those below them.
fn commands(world: &World, of: &[&str]) -> Vec<String> {
    let help = world.ok("p", &[of, &["--help"]].concat());
    let Some((_, list)) = help.split_once("\nCommands:\n") else {
        return Vec::new();
    };
    let names = list
        .lines()
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help");
    let mut found = Vec::new();
    for name in names {
        let path = [of, &[name]].concat();
        found.push(path.join("-"));
        found.extend(commands(world, &path));
    }
    found
}

#[test]
fn every_command_has_a_page_that_man_shows_without_complaint() {
    let world = World::without_server();
    let directory = world.path("man");
    let written = world.json("p", &["man", "--dir", directory.to_str().unwrap()]);
    let mut expected: Vec<String> = commands(&world, &[])
        .into_iter()
        .map(|command| format!("larder-{command}.1"))
        .chain(["larder.1".to_owned(), "larder-json.5".to_owned()])
        .collect();
    expected.sort();
    assert!(expected.len() > 30, "{expected:?}");
    let file_of = |page: &str| {
        directory
            .join(format!("man{}", &page[page.len() - 1..]))
            .join(page)
    };
    let mut pages: Vec<String> = ["man1", "man5"]
        .iter()
        .flat_map(|section| fs::read_dir(directory.join(section)).unwrap())
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    pages.sort();
    assert_eq!(pages, expected);
    assert_eq!(written.len(), pages.len());
    for page in pages {
        let text = fs::read_to_string(file_of(&page)).unwrap();
        let (name, section) = page.rsplit_once('.').unwrap();
        assert!(text.contains(&format!(".TH {name} {section} ")), "{page}");
        for heading in [".SH NAME", ".SH DESCRIPTION", ".SH \"SEE ALSO\""] {
            assert!(text.lines().any(|line| line == heading), "{page}: {heading}");
        }
        // A request that roff does not know would be left out without a word.
        let known = [
            "TH", "SH", "TP", "PP", "RS", "RE", "IP", "br", "nf", "fi", "ie", "el", "ds",
        ];
        for line in text.lines().filter(|line| line.starts_with('.')) {
            let request = line[1..].split([' ', '\\']).next().unwrap();
            assert!(known.contains(&request), "{page}: {line}");
        }
        assert_eq!(groff_warnings(&file_of(&page)), "", "{page}");
    }
    let send = world.ok("p", &["man", "send"]);
    assert_eq!(
        send.trim_end(),
        fs::read_to_string(file_of("larder-send.1")).unwrap().trim_end()
    );
    assert_eq!(world.run("p", &["man", "sendd"]).code, 2);
    let program = fs::read_to_string(file_of("larder.1")).unwrap();
    assert!(program.contains(".SH \"EXIT CODES\"\n.nf\n"), "{program}");
}

/// What groff has to say against a page; nothing where there is no groff.
fn groff_warnings(page: &Path) -> String {
    if Command::new("groff").arg("--version").output().is_err() {
        return String::new();
    }
    let words = ["-k", "-man", "-ww", "-z", "-Tutf8"];
    let output = alone("groff", &words, page.parent().unwrap()).arg(page).output();
    String::from_utf8_lossy(&output.unwrap().stderr).into_owned()
}

#[test]
fn the_manual_of_the_output_has_every_kind_of_object_and_every_key() {
    let world = World::without_server();
    let directory = world.path("man");
    world.ok("p", &["man", "--dir", directory.to_str().unwrap()]);
    let page = fs::read_to_string(directory.join("man5/larder-json.5")).unwrap();
    for kind in ["listening", "message", "refreshed", "legacy_migration", "error"] {
        assert!(page.contains(&format!("\\fB{kind}\\fR")), "{kind}");
    }
    for key in [
        "group_name",
        "next_action",
        "with_redundant_columns",
        "pools",
        "error.exit",
        "not_added[].retry_after_seconds",
    ] {
        let written = key.replace('-', "\\-");
        assert!(page.contains(&format!("\\fI{written}\\fR")), "{key}");
    }
}

/// The committed document is what the source says. With `LARDER_UPDATE_SCHEMA=1` this writes it.
#[test]
fn the_committed_schema_is_the_sources() {
    let world = World::without_server();
    let printed = world.ok("p", &["schema"]);
    if std::env::var_os("LARDER_UPDATE_SCHEMA").is_some() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/output.schema.json");
        fs::write(file, &printed).unwrap();
        return;
    }
    let (printed, committed): (Value, Value) = (
        serde_json::from_str(&printed).unwrap(),
        serde_json::from_str(schema_text()).unwrap(),
    );
    assert!(printed == committed, "run the test with LARDER_UPDATE_SCHEMA=1");
}

/// Every function below a directory of sources.
fn functions_below(directory: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            functions_below(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let source = fs::read_to_string(&path).unwrap();
            let names = source
                .split("fn ")
                .skip(1)
                .filter_map(|rest| rest.split(['(', '<']).next());
            found.extend(names.map(str::to_owned));
        }
    }
}

/// Each row of the tables of attackers ends with the tests that try the attack.
#[test]
fn every_answer_to_an_attacker_names_tests_that_exist() {
    let crates = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let mut functions = BTreeSet::new();
    functions_below(crates, &mut functions);
    let document = fs::read_to_string(crates.join("../docs/security.md")).unwrap();
    let (_, attackers) = document.split_once("## Attackers").unwrap();
    let (tables, _) = attackers.split_once("\n## ").unwrap();
    let rows = tables
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| tried"));
    let mut count = 0;
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").collect();
        assert_eq!(cells.len(), 3, "{row}");
        let tests: Vec<&str> = cells[2].split('`').skip(1).step_by(2).collect();
        assert!(!tests.is_empty(), "no test: {row}");
        for test in tests {
            assert!(functions.contains(test), "there is no test {test}");
        }
        count += 1;
    }
    assert!(count > 30, "{count}");
}
