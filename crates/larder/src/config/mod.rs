//! The configuration file: what is not on the command line, nor in the environment.
//!
//! * `keys` says what can be in it, which follows from the command line's own definition; `document` writes that down.
//! * `file` reads one.
//!
//! Values become the defaults of the arguments that they are named after, so that clap decides, as it always does, that the
//! command line comes before the environment and the environment before a default.

mod document;
mod file;
mod keys;

pub(crate) use document::document;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::{Command, CommandFactory, FromArgMatches};
use etcetera::BaseStrategy;

use crate::cli::{Cli, Global};
use crate::failure::{Exit, Failure};
use crate::tui::Settings;

/// The file's name, beside the profiles or in the directory of configurations.
const FILE: &str = "config.toml";

/// What a configuration file says.
#[derive(Debug, Default)]
pub(crate) struct Configuration {
    /// For the arguments of the command line: by table, none for what every command understands, and name.
    arguments: BTreeMap<(Option<&'static str>, String), Vec<String>>,
    /// How the chat is to be.
    pub(crate) chat: Settings,
}

/// Where the configuration is: where the command line says, beside the profiles if it says where those are, or else in the
/// XDG directory of configurations.
pub(crate) fn path(global: &Global) -> Result<PathBuf> {
    Ok(match (&global.config, &global.home) {
        (Some(file), _) => file.clone(),
        (None, Some(home)) => home.join(FILE),
        (None, None) => etcetera::base_strategy::Xdg::new()?
            .config_dir()
            .join("larder")
            .join(FILE),
    })
}

/// Reads a command line, and the configuration file for what it does not say.
///
/// # Errors
/// [`clap::Error`] for a command line that cannot be, and a request for help; [`Failure`] for a configuration.
pub(crate) fn understand(arguments: &[std::ffi::OsString]) -> Result<(Cli, Configuration)> {
    understand_as(Cli::command, arguments)
}

fn understand_as(
    command: impl Fn() -> Command,
    arguments: &[std::ffi::OsString],
) -> Result<(Cli, Configuration)> {
    let cli = Cli::from_arg_matches(&command().try_get_matches_from(arguments)?)?;
    // What is wrong with the file must not be in the way of who looks for it.
    if !cli.command.is_configured() {
        return Ok((cli, Configuration::default()));
    }
    let configuration = read(&path(&cli.global)?, cli.global.config.is_some())?;
    if configuration.arguments.is_empty() {
        return Ok((cli, configuration));
    }
    let command = configuration.apply(command());
    let cli = Cli::from_arg_matches(&command.try_get_matches_from(arguments)?)?;
    Ok((cli, configuration))
}

/// Reads a file. One that nobody asked for need not be there.
fn read(path: &Path, must_exist: bool) -> Result<Configuration> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound && !must_exist => {
            return Ok(Configuration::default());
        }
        Err(error) => {
            let message = format!("{} cannot be read: {error}", path.display());
            return Err(Failure::new(Exit::Usage, "config-unreadable", message).into());
        }
    };
    file::read(&text).map_err(|flaw| {
        let message = format!("{}:{}: {}", path.display(), flaw.line, flaw.what);
        Failure::new(Exit::Usage, "config-wrong", message).into()
    })
}

impl Configuration {
    /// The command with these values as defaults.
    fn apply(&self, mut command: Command) -> Command {
        for ((table, id), values) in &self.arguments {
            command = keys::set_default(command, *table, id, values);
        }
        command
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use tempfile::TempDir;

    use super::*;

    /// The command as it is where nothing is in the environment.
    fn alone(command: Command) -> Command {
        use clap::builder::Resettable;

        command
            .mut_args(|argument| argument.env(Resettable::<clap::builder::OsStr>::Reset))
            .mut_subcommands(alone)
    }

    fn with(text: &str, arguments: &[&str]) -> Result<(Cli, Configuration)> {
        let home = TempDir::new().unwrap();
        std::fs::write(home.path().join(FILE), text).unwrap();
        let mut line: Vec<OsString> = vec!["larder".into(), "--home".into(), home.path().into()];
        line.extend(arguments.iter().map(OsString::from));
        understand_as(|| alone(Cli::command()), &line).map(|(mut cli, configuration)| {
            cli.global.home = None;
            (cli, configuration)
        })
    }

    fn shown(text: &str, arguments: &[&str]) -> String {
        format!("{:?}", with(text, arguments).unwrap().0)
    }

    fn flaw(text: &str) -> String {
        let error = with(text, &["groups"]).unwrap_err();
        let failure = Failure::of(&error);
        assert_eq!(
            (failure.code.as_ref(), failure.exit),
            ("config-wrong", Exit::Usage)
        );
        let (_, place) = failure.message.split_once(FILE).unwrap();
        place.to_owned()
    }

    #[test]
    fn the_generated_file_uncommented_changes_nothing() {
        let generated = document();
        let uncommented: Vec<&str> = generated
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(key) if !key.is_empty() && !key.starts_with(' ') => key,
                _ => line,
            })
            .collect();
        let uncommented = uncommented.join("\n");
        for arguments in [
            &["groups"][..],
            &["serve"],
            &["admin", "check"],
            &["admin", "backup", "copy"],
        ] {
            assert_eq!(shown(&uncommented, arguments), shown("", arguments));
            assert_eq!(shown(&generated, arguments), shown("", arguments));
        }
        let (_, configuration) = with(&uncommented, &["groups"]).unwrap();
        let nothing = Settings::default();
        assert_eq!(configuration.chat.alert.bell, nothing.alert.bell);
        assert_eq!(configuration.chat.alert.notify, nothing.alert.notify);
        assert_eq!(configuration.chat.groups_shown, nothing.groups_shown);
        assert_eq!(configuration.chat.editor, nothing.editor);
        // Each key is in it, commented out: uncommented there is one for each line that was.
        let keys = keys::arguments().len() + keys::CHAT.len() + crate::tui::actions().count();
        let lines = |text: &str| {
            text.lines()
                .filter(|line| !line.is_empty() && !line.starts_with(['#', '[']))
                .count()
        };
        assert_eq!((lines(&generated), lines(&uncommented)), (0, keys));
    }

    #[test]
    fn every_flag_of_serve_has_a_key_and_every_other_flag_has_one_or_a_reason() {
        let known = keys::arguments();
        let has = |table, id: &str| known.iter().any(|key| key.table == table && key.id == id);
        let command = Cli::command();
        let serve = command.find_subcommand("serve").unwrap();
        for argument in serve.get_arguments().filter(|argument| !argument.is_global_set()) {
            let id = argument.get_id().as_str();
            assert!(has(Some("serve"), id) || id == "help", "serve.{id}");
        }
        for argument in command.get_arguments() {
            let id = argument.get_id().as_str();
            // Where the file is; how it is said; what a descriptor is depends on who starts the program.
            let elsewhere = [
                "config",
                "home",
                "json",
                "verbose",
                "passphrase_fd",
                "help",
                "version",
            ];
            assert!(has(None, id) != elsewhere.contains(&id), "{id}");
        }
    }

    #[test]
    fn a_flag_comes_before_the_file_and_the_file_before_what_is_built_in() {
        let text = "profile = \"work\"\ninvitations = \"accept\"\n[serve]\nlisten = \"127.0.0.1:4001\"\nuser_devices = 3\n\
                    suites = [\"0x0003\", \"x25519-aes128gcm\"]\nexternal_delivery = true\n";
        let serve = shown(text, &["serve", "--user-devices", "5"]);
        for part in [
            "listen: 127.0.0.1:4001",
            "user_devices: 5",
            "suites: [3, 1]",
            "external_delivery: true",
        ] {
            assert!(serve.contains(part), "{part}: {serve}");
        }
        let serve = shown(text, &["serve", "--external-delivery=false", "--suite", "1"]);
        for part in ["user_devices: 3", "suites: [1]", "external_delivery: false"] {
            assert!(serve.contains(part), "{part}: {serve}");
        }
        let groups = shown(text, &["groups"]);
        assert!(
            groups.contains("ProfileName(\"work\")") && groups.contains("Accept"),
            "{groups}"
        );
        let groups = shown(text, &["--profile", "home", "groups", "--invitations", "ask"]);
        assert!(
            groups.contains("ProfileName(\"home\")") && groups.contains("Ask"),
            "{groups}"
        );
    }

    #[test]
    fn the_store_of_the_file_is_the_servers_and_that_of_who_looks_after_it() {
        let text = "[serve]\nstore = \"postgres://h/d\"\n";
        for command in [&["serve"][..], &["admin", "check"], &["admin", "backup", "copy"]] {
            assert_ne!(shown(text, command), shown("", command));
            let given = [command, &["--store", "f"]].concat();
            assert_eq!(shown(text, &given), shown("", &given));
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line_and_without_its_value() {
        for (text, told) in [
            ("\nprofil = \"x\"\n", ":2: profil: there is no such key"),
            ("[servers]\n", ":1: servers: there is no such table"),
            ("[serve]\n\nlisen = 1\n", ":3: serve.lisen: there is no such key"),
            (
                "[serve]\nexternal_delivery = \"hunter2\"\n",
                ":2: serve.external_delivery: must be true or false",
            ),
            (
                "[serve]\nsuites = \"hunter2\"\n",
                ":2: serve.suites: must be a list of texts",
            ),
            (
                "[serve]\nlisten = [\"hunter2\"]\n",
                ":2: serve.listen: must be a text",
            ),
            (
                "[serve]\nlisten = \"hunter2\"\n",
                ":2: serve.listen: invalid socket address syntax",
            ),
            (
                "[serve]\nuser_devices = 0\n",
                ":2: serve.user_devices: 0 is not in 1..=256",
            ),
            (
                "invitations = \"hunter2\"\n",
                ":1: invitations: must be ask or accept",
            ),
            ("serve = 5\n", ":1: serve: must be a table"),
            ("[chat]\nbell = 1\n", ":2: chat.bell: must be true or false"),
            (
                "[keys]\nquit = [\"ctrl-x\"]\nsend = [\"ctrl-x\"]\n",
                ":3: keys.send: ctrl-x does something else already",
            ),
            (
                "[keys]\nfly = [\"f5\"]\n",
                ":2: keys.fly: there is no such action",
            ),
        ] {
            assert_eq!(flaw(text), told);
        }
        for broken in [
            "profile = \"hunter2\n",
            "[serve]\nstore = hunter2\n",
            "profile = \"hunter2\"\nprofile = \"hunter2\"\n",
        ] {
            let told = flaw(broken);
            assert!(!told.contains("hunter2") && told.starts_with(':'), "{told}");
        }
        let password = "[serve]\nlisten = \"postgres://larder:hunter2@db/larder\"\nsuites = [\"postgres://larder:hunter2@db\"]\n";
        assert!(!flaw(password).contains("hunter2"));
    }

    #[test]
    fn the_chat_is_as_the_file_says() {
        let text = "[chat]\nbell = false\nnotifications = true\ngroups = false\neditor = \"ed\"\n[keys]\nquit = [\"ctrl-x\"]\n";
        let (_, Configuration { chat, .. }) = with(text, &["chat"]).unwrap();
        assert!(!chat.alert.bell && chat.alert.notify && !chat.groups_shown);
        assert_eq!(chat.editor.as_deref(), Some("ed"));
        let keys = format!("{:?}", chat.keys);
        assert!(
            keys.contains("Char('x')") && !keys.contains("Char('q')"),
            "{keys}"
        );
    }

    #[test]
    fn a_file_that_is_named_must_be_there_and_one_that_is_not_need_not() {
        let home = TempDir::new().unwrap();
        let line = |config: Option<&str>| -> Vec<OsString> {
            let mut line: Vec<OsString> = vec!["larder".into(), "--home".into(), home.path().into()];
            if let Some(config) = config {
                line.extend(["--config".into(), home.path().join(config).into()]);
            }
            line.push("groups".into());
            line
        };
        assert!(understand(&line(None)).is_ok());
        let error = understand(&line(Some("other.toml"))).unwrap_err();
        assert_eq!(Failure::of(&error).code, "config-unreadable");
        std::fs::write(home.path().join(FILE), "nonsense").unwrap();
        std::fs::write(home.path().join("other.toml"), "profile = \"other\"").unwrap();
        let (cli, _) = understand(&line(Some("other.toml"))).unwrap();
        assert_eq!(cli.global.profile.to_string(), "other");
    }
}
