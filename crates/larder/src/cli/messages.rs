//! `send` and `recv`.

use std::path::PathBuf;

use clap::Args;

/// `larder send`.
#[derive(Debug, Args)]
pub(crate) struct Send {
    /// The group
    pub(crate) group: String,
    /// The text; several words are joined by spaces
    #[arg(
        required_unless_present_any = ["attach", "stdin"],
        conflicts_with = "stdin",
        allow_negative_numbers = true
    )]
    pub(crate) text: Vec<String>,
    /// Send this file, before the text if there is one
    #[arg(long, value_name = "FILE", conflicts_with_all = ["offline", "stdin"])]
    pub(crate) attach: Option<PathBuf>,
    /// Send each line of the standard input that is not empty. One that cannot be sent is told with its number, and the
    /// others are sent all the same
    #[arg(long)]
    pub(crate) stdin: bool,
    /// Send all of the standard input as one message
    #[arg(long, requires = "stdin", conflicts_with = "text")]
    pub(crate) whole: bool,
    /// Try until the server has it
    #[arg(long, conflicts_with = "offline")]
    pub(crate) wait: bool,
    /// Give that up after this long, and leave it to the next command
    #[arg(long, value_name = "SECONDS", requires = "wait")]
    pub(crate) timeout: Option<u64>,
    /// Leave it to the next command that reaches the server, and do not try
    #[arg(long)]
    pub(crate) offline: bool,
}

/// `larder recv`.
#[derive(Debug, Args)]
pub(crate) struct Recv {
    /// Go on until interrupted, or until nobody reads any more
    #[arg(long)]
    pub(crate) follow: bool,
    /// When there is nothing new, wait this long for something
    #[arg(long, value_name = "SECONDS", conflicts_with = "follow")]
    pub(crate) wait: Option<u64>,
    /// Only what concerns this group
    #[arg(long)]
    pub(crate) group: Option<String>,
    /// Print what came after this row, shown before or not and own ones included, and let it count as it did; 0 prints all
    #[arg(long, value_name = "ROW")]
    pub(crate) since: Option<i64>,
    /// Print so many at most, and then end
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
}
