//! The command line.

mod backup;
mod bench;
mod messages;

pub(crate) use backup::{Export, Import};
pub(crate) use bench::{BenchCommand, BenchGroups};
pub(crate) use messages::{Recv, Send};

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use larder_client::Invitations;
use larder_server::InvitationId;
use larder_wire::{Registration, UserName, parse_suite};

use crate::profile::ProfileName;

/// Where `register` looks for a server, and where `serve` listens.
pub(crate) const DEFAULT_SERVER: &str = "http://127.0.0.1:4000";

pub(crate) const AFTER_HELP: &str = "\
GROUP is a group's name, or the beginning (4 characters or more) of its id.

Output:
  Results go to stdout, logs to stderr. With --json every line of stdout is one
  JSON object; a failure is {\"error\":{\"code\":…,\"message\":…,\"exit\":…}}.

Exit codes:
  0  done
  1  failed
  2  the command line is wrong
  3  refused: by the server, or by the state of things (a name is taken, a user
     cannot be invited, a port is in use, another server answers, or one whose
     certificate does not verify)
  4  the server cannot be reached; a message to send is kept and sent later
  5  not registered, or no such group or file
  6  the profile or the database is in use by another process
  7  the profile cannot be unlocked: the passphrase is wrong or was not given,
     or the keychain does not have it or is locked

Files:
  $XDG_DATA_HOME/larder (~/.local/share/larder), or the directory --home names:
  profiles/NAME for each profile, server/ for the server's database.
  $XDG_CONFIG_HOME/larder/config.toml (~/.config/larder/config.toml), or
  config.toml in the directory --home names, or the file --config names:
  what is not said otherwise. `larder config` prints one that changes nothing.";

/// End-to-end encrypted group chat in which an invitation does not fail.
#[derive(Debug, Parser)]
#[command(name = "larder", version, max_term_width = 100, after_help = AFTER_HELP)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command understands.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// The profile to use: one account on one device
    #[arg(
        long,
        global = true,
        env = "LARDER_PROFILE",
        value_name = "NAME",
        default_value = "default"
    )]
    pub(crate) profile: ProfileName,
    /// The server to register with (default http://127.0.0.1:4000); any other command refuses a profile of another
    #[arg(long, global = true, env = "LARDER_SERVER", value_name = "URL")]
    pub(crate) server: Option<String>,
    /// Talk to a server that is not on this machine without TLS: whoever is on the way sees who talks to
    /// whom, and can take this device's place. The profile remembers it
    #[arg(
        long,
        global = true,
        num_args = 0..=1,
        require_equals = true,
        value_name = "true|false",
        default_value = "false",
        default_missing_value = "true",
        hide_default_value = true,
        hide_possible_values = true,
        action = ArgAction::Set
    )]
    pub(crate) insecure_http: bool,
    /// Let the authorities whose certificates (PEM) are in this file vouch for the server, too. The profile
    /// remembers them
    #[arg(long, global = true, env = "LARDER_CA", value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// Print one JSON object per line
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Keep everything in this directory
    #[arg(long, global = true, env = "LARDER_HOME", value_name = "DIR")]
    pub(crate) home: Option<PathBuf>,
    /// Read this configuration file
    #[arg(long, global = true, env = "LARDER_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Take the passphrase from the first line that this command prints; it is run by `sh -c`
    #[arg(long, global = true, env = "LARDER_PASSPHRASE_COMMAND", value_name = "CMD")]
    pub(crate) passphrase_command: Option<String>,
    /// Take the passphrase from a line of this file descriptor
    #[arg(long, global = true, value_name = "N")]
    pub(crate) passphrase_fd: Option<u32>,
    /// What to make of invitations from users with whom you share no group: wait for `accept` or `decline`, or take them
    /// all, as a program does that talks to everybody
    #[arg(
        long,
        global = true,
        env = "LARDER_INVITATIONS",
        value_name = "WHAT",
        default_value = "ask"
    )]
    pub(crate) invitations: OnInvitation,
    /// Log more to stderr; twice for more still (RUST_LOG overrides)
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
}

/// `--invitations`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnInvitation {
    /// Nothing is sent to the group before `accept`.
    Ask,
    /// The group is one like any other.
    Accept,
}

impl From<OnInvitation> for Invitations {
    fn from(on: OnInvitation) -> Self {
        match on {
            OnInvitation::Ask => Self::Ask,
            OnInvitation::Accept => Self::Accept,
        }
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a server until SIGINT or SIGTERM
    Serve(Serve),
    /// Look after what a server has stored
    #[command(subcommand)]
    Admin(AdminCommand),
    /// Create an account on a server, with this profile as its device
    Register {
        /// 1 to 64 of a-z 0-9 . _ -, starting with a letter; asked for on a terminal
        user: Option<UserName>,
        /// The code that the server's operator gave out, if the server wants one. Others on this machine can read a command
        /// line; without this, a person is asked
        #[arg(long, env = "LARDER_INVITE", hide_env_values = true, value_name = "CODE")]
        invite: Option<InviteText>,
        #[command(flatten)]
        new: NewProfile,
    },
    /// Make this profile a further device of a user: show a code, and wait until a device that they have authorizes it
    Link {
        /// The user, who has an account; asked for on a terminal
        user: Option<UserName>,
        #[command(flatten)]
        new: NewProfile,
    },
    /// Authorize, list and remove devices of yours
    #[command(subcommand)]
    Device(DeviceCommand),
    /// Encrypt the profile, or encrypt it with another passphrase
    Passphrase(Passphrase),
    /// Create groups
    #[command(subcommand)]
    Group(GroupCommand),
    /// Add users to a group, whether they are online or not
    Invite {
        /// The group
        group: String,
        /// The users to add
        #[arg(required = true)]
        users: Vec<UserName>,
        /// Add nobody if one of them cannot be added
        #[arg(long)]
        all_or_nothing: bool,
    },
    /// Accept an invitation: from then on the group is one like any other
    Accept {
        /// The group
        group: String,
    },
    /// Decline an invitation: leave the group and forget what came with it
    Decline {
        /// The group
        group: String,
    },
    /// Hide from a user and decline their invitations: they can neither find nor invite you any more
    Block {
        /// The user, who is not told
        user: UserName,
    },
    /// Let a user find and invite you again
    Unblock {
        /// The user
        user: UserName,
    },
    /// Remove a user from a group
    Remove {
        /// The group
        group: String,
        /// The user to remove
        user: UserName,
    },
    /// Leave a group
    Leave {
        /// The group
        group: String,
    },
    /// Send a message or a file, after taking over what has happened meanwhile
    Send(Send),
    /// Save a file that was sent. One that is there is not touched: the new one gets a number
    Save {
        /// The number of its message
        row: i64,
        /// The directory to save it in (default: the present one)
        #[arg(long, value_name = "DIR")]
        to: Option<PathBuf>,
        /// Another name than the sender's
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
    },
    /// Send the messages of a group again that have failed
    Retry {
        /// The group
        group: String,
    },
    /// Fetch messages and print those not shown yet
    Recv(Recv),
    /// Print what is known of a group's past, without asking the server
    History {
        /// The group
        group: String,
        /// The most rows to print
        #[arg(long, value_name = "N", default_value = "50")]
        limit: u32,
        /// Print what came before this row
        #[arg(long, value_name = "ROW")]
        before: Option<i64>,
    },
    /// Look for a text in messages, in whatever case; the newest first
    Search {
        /// The text; several words are joined by spaces
        #[arg(required = true, allow_negative_numbers = true)]
        text: Vec<String>,
        /// Only in this group
        #[arg(long)]
        group: Option<String>,
        /// The most messages to print
        #[arg(long, value_name = "N", default_value = "50")]
        limit: u32,
    },
    /// List groups
    Groups,
    /// Mark a group as one that should not disturb
    Mute {
        /// The group
        group: String,
    },
    /// Undo `mute`
    Unmute {
        /// The group
        group: String,
    },
    /// List the members of a group
    Members {
        /// The group
        group: String,
    },
    /// Compare keys with a user, so that neither has to believe the server
    Verify(Verify),
    /// Look after the KeyPackages that others use to invite this device
    #[command(subcommand)]
    Pool(PoolCommand),
    /// Chat on the whole terminal; where that is not possible, line by line: what is typed is sent, what arrives is printed
    Chat {
        /// The group to begin with; line by line, the only one
        group: Option<String>,
        /// Line by line, whatever the terminal can do
        #[arg(long)]
        plain: bool,
    },
    /// Write all that is in the profile to a new file, encrypted with a passphrase or for a recipient
    Export(Export),
    /// Make a profile of such a file. It takes the place of the one that the file was made from, which must not be used any
    /// more
    Import(Import),
    /// Print a configuration file that changes nothing: every key, with what holds without it
    Config {
        /// Print where the configuration file is looked for instead
        #[arg(long)]
        path: bool,
    },
    /// Print a script that makes a shell complete what is typed after `larder`
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print a page of the manual
    Man {
        /// The command whose page it is; none: that of `larder`
        #[arg(conflicts_with = "dir")]
        command: Vec<String>,
        /// Write every page instead, into `man1` and `man5` in this directory
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
    /// Print the JSON Schema of what is printed with --json
    Schema,
    /// Measure how this program does on this machine
    #[command(subcommand, hide = true)]
    Bench(BenchCommand),
    /// Show all of it: a server and three accounts on this machine, gone again at the end
    Demo,
}

impl Command {
    /// Whether what it does depends on the configuration.
    pub(crate) fn is_configured(&self) -> bool {
        !matches!(
            self,
            Self::Config { .. } | Self::Completions { .. } | Self::Man { .. } | Self::Schema
        )
    }
}

/// `larder verify`.
#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// The user
    pub(crate) user: UserName,
    /// Do not draw the code to be scanned
    #[arg(long)]
    pub(crate) no_qr: bool,
    /// Mark the user as verified: the numbers were compared
    #[arg(long, conflicts_with_all = ["unmark", "compare"])]
    pub(crate) mark: bool,
    /// Do not count the user as verified any more
    #[arg(long, conflicts_with = "compare")]
    pub(crate) unmark: bool,
    /// Mark the user as verified if this is the number that they see, or what was scanned from their screen
    #[arg(long, value_name = "NUMBER")]
    pub(crate) compare: Option<String>,
}

/// `larder serve`.
#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// The address to listen on; port 0 picks a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:4000")]
    pub(crate) listen: SocketAddr,
    #[command(flatten)]
    pub(crate) store: StoreOptions,
    /// A ciphersuite that clients stock, by name (x25519-aes128gcm, x25519-chacha20poly1305, xwing-aes128gcm) or number
    /// (0x0001); may be repeated. New groups have the first (default x25519-aes128gcm)
    #[arg(long = "suite", value_name = "SUITE", value_parser = parse_suite)]
    pub(crate) suites: Vec<u16>,
    /// Serve counts for Prometheus at http://ADDRESS/metrics, to anybody who can reach it
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) metrics: Option<SocketAddr>,
    /// Let clients say themselves which KeyPackages they have spent, because another service delivers their Commits
    #[arg(
        long,
        num_args = 0..=1,
        require_equals = true,
        value_name = "true|false",
        default_value = "false",
        default_missing_value = "true",
        hide_default_value = true,
        hide_possible_values = true,
        action = ArgAction::Set
    )]
    pub(crate) external_delivery: bool,
    /// Who may create an account. Linking a further device takes no code, whatever this says
    #[arg(long, value_name = "WHO", default_value = "open")]
    pub(crate) registration: WhoMayRegister,
    /// How many devices a user may have at a time
    #[arg(long, value_name = "N", default_value = "8", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) user_devices: u32,
    /// How large a file that members of a group send each other may be, in MiB; 0 for no files
    #[arg(long, value_name = "MIB", default_value = "16", value_parser = clap::value_parser!(u64).range(0..=64))]
    pub(crate) attachment_mib: u64,
    /// How much of such files is kept for each user, in MiB
    #[arg(long, value_name = "MIB", default_value = "512", value_parser = clap::value_parser!(u64).range(0..=1_048_576))]
    pub(crate) user_attachments_mib: u64,
    /// The name that clients sign their sessions for; it must not change later
    #[arg(long, value_name = "NAME", default_value = "localhost")]
    pub(crate) server_name: String,
}

/// `serve --registration`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum WhoMayRegister {
    /// Anyone
    Open,
    /// Whoever has a code of `larder admin invite`
    Invited,
    /// Nobody
    Closed,
}

impl From<WhoMayRegister> for Registration {
    fn from(who: WhoMayRegister) -> Self {
        match who {
            WhoMayRegister::Open => Self::Open,
            WhoMayRegister::Invited => Self::Invited,
            WhoMayRegister::Closed => Self::Closed,
        }
    }
}

/// Where a server keeps everything.
#[derive(Debug, Args)]
pub(crate) struct StoreOptions {
    /// Keep the database in this directory
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Keep the database in this file
    #[arg(long, value_name = "FILE", conflicts_with = "data")]
    pub(crate) database: Option<PathBuf>,
    /// Keep everything in postgres://USER:PASSWORD@HOST/DATABASE, which several servers may share, or in sqlite://FILE.
    /// Others on this machine can read a command line: a password belongs into the variable
    #[arg(
        long,
        env = "LARDER_STORE",
        hide_env_values = true,
        value_name = "URL|FILE",
        conflicts_with_all = ["data", "database"]
    )]
    pub(crate) store: Option<StoreUrl>,
}

macro_rules! secret_text {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone)]
        pub(crate) struct $name(pub(crate) String);

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(..)"))
            }
        }
    )*};
}

secret_text! {
    /// What `--store` was given. It may hold a password, so it is not shown, not even when it makes no sense.
    StoreUrl;
    /// What `--invite` was given. It may be a code with a slip in it, so it is not shown either.
    InviteText;
}

/// How a new profile is encrypted.
#[derive(Debug, Clone, Copy, Default, Args)]
pub(crate) struct NewProfile {
    /// Leave the profile unencrypted: whoever reads the disk reads its messages and keys
    #[arg(long)]
    pub(crate) no_encryption: bool,
    /// Take a passphrase of fewer than 8 characters
    #[arg(long, conflicts_with = "no_encryption")]
    pub(crate) weak_passphrase: bool,
}

/// `larder passphrase`. The present passphrase comes from where it always does.
#[derive(Debug, Args)]
pub(crate) struct Passphrase {
    /// Let a random key take the passphrase's place, and keep it in the keychain of the operating system
    #[arg(long, conflicts_with_all = ["new_passphrase_command", "new_passphrase_fd"])]
    pub(crate) keychain: bool,
    /// Take the new passphrase from the first line that this command prints
    #[arg(long, value_name = "CMD", conflicts_with = "new_passphrase_fd")]
    pub(crate) new_passphrase_command: Option<String>,
    /// Take the new passphrase from a line of this file descriptor
    #[arg(long, value_name = "N")]
    pub(crate) new_passphrase_fd: Option<u32>,
    /// Take a passphrase of fewer than 8 characters
    #[arg(long, conflicts_with = "keychain")]
    pub(crate) weak_passphrase: bool,
}

/// `larder admin`.
#[derive(Debug, Subcommand)]
pub(crate) enum AdminCommand {
    /// Check all that a server has stored against itself. No server may use it meanwhile
    Check {
        #[command(flatten)]
        store: StoreOptions,
    },
    /// Copy a server's SQLite database to a new file. The server may go on meanwhile
    Backup {
        #[command(flatten)]
        store: StoreOptions,
        /// The file to create
        file: PathBuf,
    },
    /// Make codes for people who are to register, while the server goes on. Whoever has one can use it, once
    Invite {
        #[command(flatten)]
        store: StoreOptions,
        /// How many
        #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(1..=1000))]
        count: u32,
        /// How long they can be used
        #[arg(long, value_name = "DAYS", default_value = "7", value_parser = clap::value_parser!(u32).range(1..=366))]
        valid: u32,
    },
    /// List the invitations that can be used, or withdraw some
    Invitations {
        #[command(flatten)]
        store: StoreOptions,
        /// Withdraw this one; may be repeated
        #[arg(long, value_name = "ID")]
        revoke: Vec<InvitationId>,
    },
    /// After a backup was restored, and before it is served: withdraw what may have been handed out since. No server may use
    /// it meanwhile
    Restored {
        #[command(flatten)]
        store: StoreOptions,
    },
    /// Take what the clock of this computer says for the time, after it was set to another while servers ran. They may go on
    /// meanwhile
    AcceptClock {
        #[command(flatten)]
        store: StoreOptions,
    },
}

/// `larder device`.
#[derive(Debug, Subcommand)]
pub(crate) enum DeviceCommand {
    /// Let a new device in, which shows this code with `larder link`
    Authorize {
        /// The code
        code: String,
        /// Do not ask whether the fingerprints are the same: they were compared
        #[arg(long)]
        yes: bool,
    },
    /// List your devices
    List,
    /// Remove a device of yours, a lost one or this one; the last one ends the account
    Remove {
        /// Its id, or the beginning (4 characters or more)
        device: String,
    },
}

/// `larder group`.
#[derive(Debug, Subcommand)]
pub(crate) enum GroupCommand {
    /// Create a group with yourself in it
    Create {
        /// Its name; only members learn it
        name: String,
    },
    /// Give a group another name. Every member may
    Rename {
        /// The group
        group: String,
        /// The new name; only members learn it
        name: String,
    },
}

/// `larder pool`.
#[derive(Debug, Subcommand)]
pub(crate) enum PoolCommand {
    /// Show how many KeyPackages there are, and their states
    Status,
    /// Agree with the server and fill the pool up
    Refresh,
    /// Who took my KeyPackages? Verify what the server tells of them
    Audit,
    /// Can I be added? Check what somebody who invites this device would get now
    Probe,
    /// Take over the states of an older pool, and erase the private keys from its file; without --apply only tell
    MigrateLegacy {
        /// The older pool's database, with a table `keypackages`
        #[arg(long, value_name = "FILE")]
        from: PathBuf,
        /// Do it. Look at what it would do first
        #[arg(long)]
        apply: bool,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_can_be_typed_in_the_chat_can_be_done_from_a_script() {
        let mut program = Cli::command();
        program.build();
        for (usage, _) in crate::slash::all() {
            let name = usage.trim_start_matches('/').split(' ').next().unwrap();
            let path: &[&str] = match name {
                "new" => &["group", "create"],
                "rename" => &["group", "rename"],
                "pool" => &["pool", "status"],
                // The argument of a command.
                "attach" => &["send"],
                // Of the screen.
                "copy" | "edit" | "group" | "help" | "quit" => continue,
                same => &[same],
            };
            let mut command = Some(&program);
            for name in path {
                command = command.and_then(|command| command.find_subcommand(name));
            }
            assert!(command.is_some(), "{usage}");
        }
    }

    #[test]
    fn a_store_shows_no_password() {
        let cli =
            Cli::try_parse_from(["larder", "serve", "--store", "postgres://a:secret@db/larder"]).unwrap();
        assert!(!format!("{cli:?}").contains("secret"));
    }

    #[test]
    fn an_invitation_code_is_not_shown_not_even_a_wrong_one() {
        let cli = Cli::try_parse_from(["larder", "register", "alice", "--invite", "nearly-a-code"]).unwrap();
        assert!(!format!("{cli:?}").contains("nearly"));
    }

    #[test]
    fn suites_of_a_server_are_named_in_order_and_unknown_names_are_refused() {
        let cli = Cli::try_parse_from([
            "larder",
            "serve",
            "--suite",
            "0x0003",
            "--suite",
            "x25519-aes128gcm",
        ]);
        assert!(matches!(cli.unwrap().command, Command::Serve(Serve { suites, .. }) if suites == [3, 1]));
        assert!(Cli::try_parse_from(["larder", "serve", "--suite", "rot13"]).is_err());
    }

    #[test]
    fn a_message_is_words_and_takes_flags_only_after_two_hyphens() {
        let cli = Cli::try_parse_from(["larder", "send", "room", "-5", "degrees", "--json"]).unwrap();
        assert!(cli.global.json);
        assert!(matches!(cli.command, Command::Send(Send { text, .. }) if text == ["-5", "degrees"]));
        let cli = Cli::try_parse_from(["larder", "send", "room", "--", "--json"]).unwrap();
        assert!(!cli.global.json);
        assert!(matches!(cli.command, Command::Send(Send { text, .. }) if text == ["--json"]));
    }
}
