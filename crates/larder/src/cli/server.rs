//! `serve` and `admin`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{ArgAction, Args, Subcommand, ValueEnum};
use larder_server::InvitationId;
use larder_wire::{Registration, parse_suite};

use super::StoreUrl;
use super::limits::{AddressOptions, DrainOptions, Durations};

/// `larder serve`.
#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// The address to listen on; port 0 picks a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:4000")]
    pub(crate) listen: SocketAddr,
    #[command(flatten)]
    pub(crate) store: StoreOption,
    /// How long to wait for a PostgreSQL that is down when the server starts, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = clap::value_parser!(u64).range(0..=86_400))]
    pub(crate) postgres_wait_seconds: u64,
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
    /// How long a device can ask what happened to its KeyPackages, in days
    #[arg(long, value_name = "DAYS", default_value = "90", value_parser = clap::value_parser!(u64).range(90..=36_500))]
    pub(crate) audit_days: u64,
    /// How large a file that members of a group send each other may be, in MiB; 0 for no files
    #[arg(long, value_name = "MIB", default_value = "16", value_parser = clap::value_parser!(u64).range(0..=64))]
    pub(crate) attachment_mib: u64,
    /// How much of such files is kept for each user, in MiB
    #[arg(long, value_name = "MIB", default_value = "512", value_parser = clap::value_parser!(u64).range(0..=1_048_576))]
    pub(crate) user_attachments_mib: u64,
    /// How much of such files is kept for all users together, in MiB
    #[arg(long, value_name = "MIB", default_value = "65536", value_parser = clap::value_parser!(u64).range(0..=1_073_741_824))]
    pub(crate) store_attachments_mib: u64,
    /// How many accounts may be created in an hour, on all servers that share the store; 0 for any number
    #[arg(long, value_name = "N", default_value = "1000", value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub(crate) accounts_per_hour: u32,
    #[command(flatten)]
    pub(crate) addresses: AddressOptions,
    #[command(flatten)]
    pub(crate) drain: DrainOptions,
    #[command(flatten)]
    pub(crate) durations: Durations,
    /// How many connections to PostgreSQL this server has at most, beside the one that listens
    #[arg(long, value_name = "N", default_value = "16", value_parser = clap::value_parser!(u32).range(2..=1024))]
    pub(crate) postgres_connections: u32,
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
pub(crate) struct StoreOption {
    /// Keep everything in this SQLite database, or in postgres://USER:PASSWORD@HOST/DATABASE, which several servers may
    /// share (default server/server.db where the profiles are, too). Others on this machine can read a command line: a
    /// password belongs into the variable
    #[arg(long, env = "LARDER_STORE", hide_env_values = true, value_name = "FILE|URL")]
    pub(crate) store: Option<StoreUrl>,
}

/// `larder admin`.
#[derive(Debug, Subcommand)]
pub(crate) enum AdminCommand {
    /// Check all that a server has stored against itself. No server may use it meanwhile
    Check {
        #[command(flatten)]
        store: StoreOption,
    },
    /// Copy a server's SQLite database to a new file. The server may go on meanwhile
    Backup {
        #[command(flatten)]
        store: StoreOption,
        /// The file to create
        file: PathBuf,
    },
    /// Make codes for people who are to register, while the server goes on. Whoever has one can use it, once
    Invite {
        #[command(flatten)]
        store: StoreOption,
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
        store: StoreOption,
        /// Withdraw this one; may be repeated
        #[arg(long, value_name = "ID")]
        revoke: Vec<InvitationId>,
    },
    /// After a backup was restored, and before it is served: withdraw what may have been handed out since. No server may use
    /// it meanwhile
    Restored {
        #[command(flatten)]
        store: StoreOption,
    },
    /// Take what the clock of this computer says for the time, after it was set to another while servers ran. They may go on
    /// meanwhile
    AcceptClock {
        #[command(flatten)]
        store: StoreOption,
    },
}
