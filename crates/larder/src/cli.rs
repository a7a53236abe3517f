//! The command line.

mod backup;
mod bench;
mod limits;
mod messages;
mod server;

pub(crate) use backup::{Export, Import};
pub(crate) use bench::{BenchCommand, BenchGroups, BenchServer};
pub(crate) use messages::{Recv, Send};
pub(crate) use server::{AdminCommand, Serve, StoreOption};

use std::fmt;
use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use larder_client::Invitations;
use larder_wire::UserName;

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
    Serve(Box<Serve>),
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
    /// Say that a user is rightly in the groups, or out of them, that nothing is sent to until you have looked
    Trust {
        /// The user
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
    /// The server shows other devices of the user than those known before: show both numbers. Once the new one was compared, it
    /// takes the place of all that was known of the user
    #[arg(long, conflicts_with = "unmark")]
    pub(crate) new_identity: bool,
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
mod tests;
