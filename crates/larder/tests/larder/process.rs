//! Processes that inherit nothing of whoever runs the tests.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

/// A command with an environment, signals, a umask, file descriptors and a working directory of its own. `directory`
/// is its home, and where its temporary files are.
///
/// A shell hands to what it runs in the background an ignored SIGINT, `nohup` an ignored SIGHUP; and whoever ignores a
/// signal passes that on through every exec. A program may keep to that, so what the tests start must begin with the defaults.
/// Rust sets them with `unsafe` only; `env` of coreutils does it, and a shell what is left: both are replaced by the program,
/// which has their process id.
pub(crate) fn alone<S: AsRef<OsStr>>(program: &str, arguments: &[S], directory: &Path) -> Command {
    const SHELL: [&str; 3] = [
        "sh",
        "-c",
        "umask 022 && exec 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&- && exec \"$0\" \"$@\"",
    ];
    let mut words = match cfg!(unix) {
        true => SHELL.to_vec(),
        false => Vec::new(),
    };
    if cfg!(target_os = "linux") {
        words.splice(0..0, ["env", "--default-signal"]);
    }
    words.push(program);
    let mut command = Command::new(words[0]);
    command
        .args(&words[1..])
        .args(arguments)
        .env_clear()
        .env(
            "PATH",
            std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into()),
        )
        .env("HOME", directory)
        .env("TMPDIR", directory)
        .env("LC_ALL", "C.UTF-8")
        .env("TZ", "UTC")
        // Nobody's keychain is for tests.
        .env("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nonexistent/bus")
        .current_dir(directory);
    command
}
