//! What can be in a configuration file.

use clap::{ArgAction, Command, CommandFactory};

use crate::cli::Cli;

/// What every command understands, and the file may say.
const GLOBAL: [&str; 6] = [
    "profile",
    "server",
    "insecure_http",
    "ca",
    "passphrase_command",
    "invitations",
];
/// The command whose arguments are a table of the file.
pub(super) const SERVE: &str = "serve";
/// The command whose subcommands look after what [`SERVE`] has stored.
const ADMIN: &str = "admin";

/// A key that stands for an argument of the command line.
pub(super) struct Key {
    /// None for what every command understands.
    pub(super) table: Option<&'static str>,
    pub(super) id: String,
    pub(super) help: String,
    pub(super) form: Form,
    /// What holds when nobody says anything.
    pub(super) default: Vec<String>,
}

/// What a value looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// A text, or a whole number.
    Text,
    /// `true` or `false`.
    Switch,
    /// A list of texts.
    List,
}

/// A key of the table `chat`, which stands for no argument.
pub(super) struct ChatKey {
    pub(super) id: &'static str,
    pub(super) help: &'static str,
    pub(super) form: Form,
}

pub(super) const CHAT: &[ChatKey] = &[
    ChatKey {
        id: "bell",
        help: "Ring the terminal's bell when something arrives in a group that is not looked at",
        form: Form::Switch,
    },
    ChatKey {
        id: "notifications",
        help: "Tell the desktop of it, without a word of what was written",
        form: Form::Switch,
    },
    ChatKey {
        id: "groups",
        help: "Show the list of groups at first",
        form: Form::Switch,
    },
    ChatKey {
        id: "editor",
        help: "The program that messages are written with; none: what VISUAL or EDITOR name",
        form: Form::Text,
    },
];

/// Every key that stands for an argument, in the order of the file.
pub(super) fn arguments() -> Vec<Key> {
    let command = Cli::command();
    let mut keys = keys_of(&command, None, |id| GLOBAL.contains(&id));
    if let Some(serve) = command.find_subcommand(SERVE) {
        keys.extend(keys_of(serve, Some(SERVE), |_| true));
    }
    keys
}

fn keys_of(command: &Command, table: Option<&'static str>, wanted: impl Fn(&str) -> bool) -> Vec<Key> {
    command
        .get_arguments()
        .filter(|argument| argument.get_long().is_some() && wanted(argument.get_id().as_str()))
        .map(|argument| Key {
            table,
            id: argument.get_id().to_string(),
            help: argument.get_help().map(ToString::to_string).unwrap_or_default(),
            form: match argument.get_action() {
                ArgAction::Append => Form::List,
                _ if argument.get_value_parser().type_id() == std::any::TypeId::of::<bool>() => Form::Switch,
                _ => Form::Text,
            },
            default: argument
                .get_default_values()
                .iter()
                .map(|value| value.to_string_lossy().into_owned())
                .collect(),
        })
        .collect()
}

/// Why these values are none of the argument's, in words that do not repeat them.
pub(super) fn flaw(table: Option<&'static str>, id: &str, values: &[String]) -> Option<String> {
    let command = Cli::command();
    let holder = match table {
        None => &command,
        Some(name) => command.find_subcommand(name)?,
    };
    let argument = holder.get_arguments().find(|argument| argument.get_id() == id)?;
    let value = clap::Arg::new("value")
        .num_args(1..)
        .allow_hyphen_values(true)
        .value_parser(argument.get_value_parser().clone());
    let line = std::iter::once("larder").chain(values.iter().map(String::as_str));
    let error = Command::new("larder")
        .arg(value)
        .try_get_matches_from(line)
        .err()?;
    let possible: Vec<String> = argument
        .get_possible_values()
        .iter()
        .map(|value| value.get_name().to_owned())
        .collect();
    if !possible.is_empty() {
        return Some(format!("must be {}", possible.join(" or ")));
    }
    let reason = std::error::Error::source(&error).map(ToString::to_string);
    // It may be a password in the wrong place; a number is not.
    let repeats = |reason: &String| {
        let mut texts = values.iter().filter(|value| value.parse::<u64>().is_err());
        texts.any(|value| reason.contains(value.as_str()))
    };
    Some(
        reason
            .filter(|reason| !repeats(reason))
            .unwrap_or_else(|| "that cannot be".to_owned()),
    )
}

/// Makes these values an argument's default, wherever the argument is.
pub(super) fn set_default(
    command: Command,
    table: Option<&'static str>,
    id: &str,
    values: &[String],
) -> Command {
    let has = |command: &Command| command.get_arguments().any(|argument| argument.get_id() == id);
    let here = |command: Command| match has(&command) {
        true => command.mut_arg(id, |argument| argument.default_values(values.to_vec())),
        false => command,
    };
    match table {
        None => here(command),
        Some(name) => command
            .mut_subcommand(name, here)
            .mut_subcommand(ADMIN, |admin| admin.mut_subcommands(here)),
    }
}
