//! What a person is told and asked who makes a device: on a terminal, and nowhere else.

use std::io;

use anyhow::Result;
use larder_client::{Access, Error, MlsConnection, UserName};

use super::{Context, answer};
use crate::failure::{Exit, Failure};

/// Fails, before anything is asked, where no server answers that could be used.
pub(super) async fn require_server(server: &str, access: &Access) -> Result<()> {
    match MlsConnection::check_server(server, access).await {
        Err(error @ Error::Unreachable(_)) => {
            tracing::info!(%error, "no answer");
            let message = format!(
                "no larder server answers at {server}; --server names another, and `larder serve` runs one on this machine"
            );
            Err(Failure::new(Exit::Unreachable, error.code(), message).into())
        }
        Err(error @ Error::NotTheServer(_)) => {
            let failure = Failure::of_client(&error);
            let message = format!("{server}: {}", failure.message);
            Err(Failure { message, ..failure }.into())
        }
        checked => Ok(checked?),
    }
}

/// The name that was given, or else one that is asked for.
pub(super) fn user_name(context: &Context<'_>, given: Option<UserName>) -> Result<UserName> {
    let missing = || Failure::new(Exit::Usage, "usage", "name the user");
    match given {
        Some(user) => Ok(user),
        None if context.output.is_interactive() => Ok(ask_name("user name: ")?.ok_or_else(missing)?),
        None => Err(missing().into()),
    }
}

/// Another name, where this one is taken and there is somebody to ask. Nothing says that it is left at that.
pub(super) fn another_name(context: &Context<'_>, taken: &UserName) -> Result<Option<UserName>> {
    if !context.output.is_interactive() {
        return Ok(None);
    }
    ask_name(&format!(
        "{taken} is taken; another name, or nothing to give up: "
    ))
}

/// Asks until the answer is a name, or nothing.
fn ask_name(question: &str) -> Result<Option<UserName>> {
    let mut question = question.to_owned();
    loop {
        let answer = answer(&question)?;
        if answer.trim().is_empty() {
            return Ok(None);
        }
        match answer.trim().parse() {
            Ok(name) => return Ok(Some(name)),
            Err(error) => question = format!("{error}; once more: "),
        }
    }
}

/// Tells a person what is about to happen.
pub(super) fn before(context: &Context<'_>, what: &str) -> io::Result<()> {
    match context.output.is_interactive() {
        true => context.output.note(what),
        false => Ok(()),
    }
}

/// Tells a person what to type next: each command after `larder`, and what it does.
pub(super) fn next(context: &Context<'_>, commands: &[(&str, &str)]) -> io::Result<()> {
    if !context.output.is_interactive() {
        return Ok(());
    }
    let larder = larder(context);
    let width = commands.iter().map(|(command, _)| command.len()).max();
    let lines: Vec<String> = commands
        .iter()
        .map(|(command, does)| format!("  {larder} {command:<0$}  {does}", width.unwrap_or_default()))
        .collect();
    context.output.note(format!("next:\n{}", lines.join("\n")))
}

/// How this profile is meant in what is typed next.
fn larder(context: &Context<'_>) -> String {
    let profile = context.global.profile.to_string();
    let is_in_environment = std::env::var("LARDER_PROFILE").is_ok_and(|name| name == profile);
    match is_in_environment || profile == "default" {
        true => "larder".to_owned(),
        false => format!("larder --profile {profile}"),
    }
}
