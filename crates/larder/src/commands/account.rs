//! `register`, `block`, `unblock`.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use anyhow::Result;
use larder_client::{Error, InviteCode, MlsConnection, Options, ProblemType, UserName};

use super::Context;
use crate::cli::{DEFAULT_SERVER, InviteText};
use crate::failure::{Exit, Failure};
use crate::record::Record;

pub(super) async fn register(
    context: &Context<'_>,
    user: UserName,
    invite: Option<InviteText>,
    no_encryption: bool,
) -> Result<ExitCode> {
    let code = invite.map(|InviteText(text)| parsed(&text)).transpose()?;
    let key = context.sources().of_new(no_encryption)?;
    let encrypted = key.is_some();
    let options = context.options(key);
    let server = context.global.server.as_deref().unwrap_or(DEFAULT_SERVER);
    let registered = match code {
        Some(code) => invited(options, server, user, code).await,
        None => match MlsConnection::register(options.clone(), server, user.clone()).await {
            Err(Error::Refused(problem))
                if problem.problem_type == ProblemType::InvitationRequired && can_ask() =>
            {
                invited(options, server, user, asked()?).await
            }
            registered => {
                registered.map_err(|error| told(error, "this server wants an invitation code: --invite CODE"))
            }
        },
    };
    let client = registered?;
    // Without KeyPackages nobody can invite this device.
    let refreshed = client.refresh_key_packages().await?;
    let me = client.me();
    context.output.print(&[Record::Registered {
        user: me.user.to_string(),
        device_id: me.device_id.to_string(),
        server: me.server.clone(),
        profile: context.global.profile.to_string(),
        pool_available: refreshed.health.available,
        encrypted,
    }])?;
    Ok(ExitCode::SUCCESS)
}

async fn invited(options: Options, server: &str, user: UserName, code: InviteCode) -> Result<MlsConnection> {
    MlsConnection::register_invited(options, server, user, code)
        .await
        .map_err(|error| told(error, "the invitation code is not good: unknown, used or expired"))
}

/// A refusal in the words of somebody who registers.
fn told(error: Error, no_invitation: &str) -> anyhow::Error {
    let Error::Refused(problem) = &error else {
        return error.into();
    };
    let sentence = match problem.problem_type {
        ProblemType::NameTaken => "that name is taken; choose another",
        ProblemType::InvitationRequired => no_invitation,
        ProblemType::RegistrationClosed => "this server takes no new accounts",
        _ => return error.into(),
    };
    Failure::new(Exit::Refused, problem.problem_type.code(), sentence).into()
}

fn parsed(text: &str) -> Result<InviteCode> {
    text.parse().map_err(|_| {
        let sentence = "that is not an invitation code: something in it is missing or mistyped";
        Failure::new(Exit::Usage, "malformed-invite-code", sentence).into()
    })
}

/// Whether a person can be asked for a code: somebody who reads the question and types the answer.
fn can_ask() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Asks a person. What they type is shown: it is long, and good once.
fn asked() -> Result<InviteCode> {
    let mut asked = io::stderr();
    write!(asked, "invitation code: ")?;
    asked.flush()?;
    let mut text = String::new();
    io::stdin().read_line(&mut text)?;
    parsed(&text)
}

pub(super) async fn block(context: &Context<'_>, user: &UserName) -> Result<ExitCode> {
    let client = open_as_other_than(context, user).await?;
    let declined = client.block(user).await?;
    context.output.print(&[Record::Blocked {
        user: user.to_string(),
        declined: declined.iter().map(ToString::to_string).collect(),
    }])?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn unblock(context: &Context<'_>, user: &UserName) -> Result<ExitCode> {
    let client = open_as_other_than(context, user).await?;
    client.unblock(user).await?;
    context.output.print(&[Record::Unblocked {
        user: user.to_string(),
    }])?;
    Ok(ExitCode::SUCCESS)
}

async fn open_as_other_than(context: &Context<'_>, user: &UserName) -> Result<MlsConnection> {
    let client = context.open().await?;
    match client.me().user == *user {
        true => Err(Failure::new(Exit::Usage, "oneself", format!("{user} is you")).into()),
        false => Ok(client),
    }
}
