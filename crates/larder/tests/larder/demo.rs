//! The demonstration.

use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::process::alone;
use crate::support::PROGRAM;

fn demo(directory: &TempDir) -> Command {
    let mut command = alone(PROGRAM, &["demo"], directory.path());
    command.stdin(Stdio::null());
    command
}

fn is_empty(directory: &TempDir) -> bool {
    std::fs::read_dir(directory.path()).unwrap().next().is_none()
}

#[test]
fn the_demonstration_tells_its_story_and_leaves_nothing_behind() {
    let directory = TempDir::new().unwrap();
    let output = demo(&directory).output().unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{out}{err}");
    assert!(
        out.contains("pool of bob: 31 left, 32 after the refresh"),
        "{out}"
    );
    assert!(is_empty(&directory));
}

#[cfg(unix)]
#[test]
fn an_interrupted_demonstration_leaves_nothing_behind_either() {
    use crate::support::Running;

    let directory = TempDir::new().unwrap();
    let mut command = demo(&directory);
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    let mut demo = Running::start(command);
    while !demo.line().contains("listening on") {}
    demo.signal("INT");
    assert_eq!(demo.ended(), 1);
    assert!(is_empty(&directory));
}
