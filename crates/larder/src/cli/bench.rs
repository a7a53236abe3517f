//! `bench`.

use clap::{Args, Subcommand};

use super::StoreUrl;

/// `larder bench`.
#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// How long a keystroke takes to be on the screen, with 10,000 messages in a group and 200 groups
    Chat,
    /// What messages and Commits cost in groups of 10, 100 and 1,000 devices, how fast rows reach connected devices, and what
    /// memory a server needs, each beside its limit in the same run
    Groups(BenchGroups),
    /// What reservations, reads, uploads and sessions cost, among 10,000, 100,000 and 1,000,000 stored KeyPackages, beside HTTP and
    /// durable rows alone in the same run
    Server(BenchServer),
}

/// `larder bench groups`.
#[derive(Debug, Args)]
pub(crate) struct BenchGroups {
    /// Measure on postgres://USER:PASSWORD@HOST/DATABASE, in a schema of its own that is dropped at the end, instead of on
    /// SQLite in a temporary directory. Others on this machine can read a command line: a password belongs into the variable
    #[arg(long, env = "LARDER_BENCH_STORE", hide_env_values = true, value_name = "URL")]
    pub(crate) store: Option<StoreUrl>,
    /// Groups of 3 and 10 devices and few rounds: whether it works, not how fast
    #[arg(long)]
    pub(crate) quick: bool,
}

/// `larder bench server`.
#[derive(Debug, Args)]
pub(crate) struct BenchServer {
    /// Measure on postgres://USER:PASSWORD@HOST/DATABASE, in a schema of its own that is dropped at the end, instead of on
    /// SQLite in a temporary directory. Others on this machine can read a command line: a password belongs into the variable
    #[arg(long, env = "LARDER_BENCH_STORE", hide_env_values = true, value_name = "URL")]
    pub(crate) store: Option<StoreUrl>,
    /// Measure among so many stored KeyPackages only
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(320..=100_000_000))]
    pub(crate) stored: Option<u64>,
    /// Few KeyPackages and short rounds: whether it works, not how fast
    #[arg(long)]
    pub(crate) quick: bool,
}
