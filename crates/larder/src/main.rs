//! `larder`: the server and the terminal client in one binary.
//!
//! * `cli` says what can be typed, `commands` does it, `chat` and `demo` are the two longer ones.
//! * `tui` is the chat on a whole terminal, `slash` what can be typed in a chat, `files` what is sent and saved there.
//! * `record` is everything that is printed, `output` prints it, `text` makes it harmless; `schema` and `manual` describe it.
//! * `input` reads lines that are sent or obeyed, `follow` keeps up with the server.
//! * `failure` gives each failure its code and exit code, `profile` finds the files, `passphrase` what
//!   unlocks them, `clock` tells the time, `descriptors` asks the system for enough of them, `dumps`
//!   forbids core dumps.
//! * `backup` reads and writes encrypted copies of a profile.
//! * `bench` measures a server, `process` starts this program as a child, for that and for the demonstration.
//! * `config` is what a person has written down once instead of typing it each time.
//!
//! # Architecture invariant
//!
//! This crate alone has a terminal, a real clock, jitter and `anyhow`. Absent here, but for `bench`, which holds a server
//! against what MLS, SQL and HTTP cost alone: MLS, SQL and HTTP. Whatever else is said to a server is said by
//! `larder-client`.

mod backup;
mod bench;
mod chat;
mod cli;
mod clock;
mod commands;
mod config;
mod demo;
mod descriptors;
mod dumps;
mod failure;
mod files;
mod follow;
mod input;
mod logging;
mod manual;
mod migration;
mod output;
mod passphrase;
mod process;
mod profile;
mod record;
mod schema;
mod shutdown;
mod slash;
mod terminal;
mod text;
mod tui;

use std::ffi::OsString;
use std::io;
use std::process::ExitCode;

use clap::error::ErrorKind;

use crate::failure::{Exit, Failure};
use crate::output::Output;

fn main() -> ExitCode {
    dumps::forbid();
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let (cli, configuration) = match config::understand(&arguments) {
        Ok(understood) => understood,
        Err(error) => return misunderstood(&error, &arguments),
    };
    logging::start(cli.global.verbose);
    let output = Output::new(cli.global.json);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return report(&output, &error.into()),
    };
    let result = runtime.block_on(commands::run(cli, configuration, &output));
    // A thread that waits for a line of stdin would keep the runtime from ending.
    runtime.shutdown_background();
    match result {
        Ok(code) => code,
        Err(error) => report(&output, &error),
    }
}

/// Answers help and version, command lines that are neither, and configurations that are wrong.
fn misunderstood(error: &anyhow::Error, arguments: &[OsString]) -> ExitCode {
    let json = arguments
        .iter()
        .take_while(|argument| *argument != "--")
        .any(|argument| argument == "--json");
    let Some(error) = error.downcast_ref::<clap::Error>() else {
        return report(&Output::new(json), error);
    };
    let asked_for = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
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
