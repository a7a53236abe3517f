//! `larder`: the server and the terminal client in one binary.
//!
//! * `cli` says what can be typed, `commands` does it, `chat` and `demo` are the two longer ones.
//! * `record` is everything that is printed, `output` prints it, `text` makes it harmless.
//! * `failure` gives each failure its code and exit code, `profile` finds the files, `passphrase` what
//!   unlocks them, `clock` tells the time, `descriptors` asks the system for enough of them.
//!
//! # Architecture invariant
//!
//! This crate alone has a terminal, a real clock, jitter and `anyhow`. Absent here: MLS, SQL and HTTP; whatever is said
//! to a server is said by `larder-client`.

mod chat;
mod cli;
mod clock;
mod commands;
mod demo;
mod descriptors;
mod failure;
mod files;
mod follow;
mod logging;
mod migration;
mod output;
mod passphrase;
mod profile;
mod record;
mod shutdown;
mod slash;
mod terminal;
mod text;
mod tui;

use std::io;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use crate::cli::Cli;
use crate::failure::{Exit, Failure};
use crate::output::Output;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return misunderstood(&error),
    };
    logging::start(cli.global.verbose);
    let output = Output::new(cli.global.json);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return report(&output, &error.into()),
    };
    let result = runtime.block_on(commands::run(cli, &output));
    // A thread that waits for a line of stdin would keep the runtime from ending.
    runtime.shutdown_background();
    match result {
        Ok(code) => code,
        Err(error) => report(&output, &error),
    }
}

/// Answers help and version, and command lines that are neither.
fn misunderstood(error: &clap::Error) -> ExitCode {
    let asked_for = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    let json = std::env::args_os()
        .take_while(|argument| argument != "--")
        .any(|argument| argument == "--json");
    if json && !asked_for {
        let message = error.render().to_string();
        let sentence = message
            .trim_start_matches("error: ")
            .lines()
            .next()
            .unwrap_or_default();
        return report(
            &Output::new(true),
            &Failure::new(Exit::Usage, "usage", sentence).into(),
        );
    }
    // Nowhere is left to tell of a failure to print this.
    let _ = error.print();
    if asked_for {
        ExitCode::SUCCESS
    } else {
        Exit::Usage.into()
    }
}

fn report(output: &Output, error: &anyhow::Error) -> ExitCode {
    if error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    {
        // Nobody reads any more, which is how `larder recv --follow | head` ends.
        return ExitCode::SUCCESS;
    }
    let failure = Failure::of(error);
    // Nowhere is left to tell of a failure to print this.
    let _ = output.failure(&failure);
    failure.exit.into()
}
