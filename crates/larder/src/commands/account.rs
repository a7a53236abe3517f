//! `register`, `block`, `unblock`.

use std::io::{self, IsTerminal};
use std::process::ExitCode;

use anyhow::Result;
use larder_client::{Blocked, Error, InviteCode, MlsConnection, ProblemType, UserName};

use super::pool::clock_record;
use super::{Context, answer, guide};
use crate::cli::{DEFAULT_SERVER, InviteText, NewProfile};
use crate::failure::{Exit, Failure};
use crate::record::Record;

pub(super) async fn register(
    context: &Context<'_>,
    user: Option<UserName>,
    invite: Option<InviteText>,
    new: NewProfile,
) -> Result<ExitCode> {
    let mut code = invite.map(|InviteText(text)| parsed(&text)).transpose()?;
    let server = context.global.server.as_deref().unwrap_or(DEFAULT_SERVER);
    guide::require_server(server, &context.access()?).await?;
    let mut user = guide::user_name(context, user)?;
    guide::before(
        context,
        &format!(
            "{user} will be registered at {server}, and the profile {} is the first device",
            context.global.profile
        ),
    )?;
    let key = context.sources().of_new(new)?;
    let encrypted = key.is_some();
    let options = context.options(key)?;
    let client = loop {
        let registered = match &code {
            Some(code) => {
                MlsConnection::register_invited(options.clone(), server, user.clone(), code.clone()).await
            }
            None => MlsConnection::register(options.clone(), server, user.clone()).await,
        };
        let error = match registered {
            Ok(client) => break client,
            Err(error) => error,
        };
        match refusal(&error) {
            Some(ProblemType::NameTaken) => match guide::another_name(context, &user)? {
                Some(other) => user = other,
                None => return Err(told(error, code.is_some())),
            },
            Some(ProblemType::InvitationRequired) if code.is_none() && can_ask() => code = Some(asked()?),
            Some(_) | None => return Err(told(error, code.is_some())),
        }
    };
    // Without KeyPackages nobody can invite this device.
    let refreshed = client.refresh_key_packages().await?;
    let me = client.me();
    let mut records = vec![Record::Registered {
        user: me.user.to_string(),
        device_id: me.device_id.to_string(),
        server: me.server.clone(),
        profile: context.global.profile.to_string(),
        pool_available: refreshed.health.available,
        encrypted,
    }];
    records.extend(clock_record(&client));
    context.output.print(&records)?;
    guide::next(
        context,
        &[
            ("group create NAME", "makes a group"),
            (
                "invite NAME USER",
                "adds somebody to it, whether they are there or not",
            ),
            ("chat NAME", "writes to it, and shows what others write"),
            ("recv", "tells who has invited you"),
        ],
    )?;
    Ok(ExitCode::SUCCESS)
}

fn refusal(error: &Error) -> Option<ProblemType> {
    match error {
        Error::Refused(problem) => Some(problem.problem_type),
        _ => None,
    }
}

/// A refusal in the words of somebody who registers, with a code or without one.
fn told(error: Error, with_code: bool) -> anyhow::Error {
    let Some(problem_type) = refusal(&error) else {
        return error.into();
    };
    let sentence = match problem_type {
        ProblemType::NameTaken => "that name is taken; choose another",
        ProblemType::InvitationRequired if with_code => {
            "the invitation code is not good: unknown, used or expired"
        }
        ProblemType::InvitationRequired => "this server wants an invitation code: --invite CODE",
        ProblemType::RegistrationClosed => "this server takes no new accounts",
        _ => return error.into(),
    };
    Failure::new(Exit::Refused, problem_type.code(), sentence).into()
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
    parsed(&answer("invitation code: ")?)
}

pub(super) async fn block(context: &Context<'_>, user: &UserName) -> Result<ExitCode> {
    let client = open_as_other_than(context, user).await?;
    let Blocked { declined, told } = client.block(user).await?;
    context.output.print(&[Record::Blocked {
        user: user.to_string(),
        declined: declined.iter().map(ToString::to_string).collect(),
        told,
    }])?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn trust(context: &Context<'_>, user: &UserName) -> Result<ExitCode> {
    let client = context.open().await?;
    let groups = client.trust(user).await?;
    context.output.print(&[Record::Trusted {
        user: user.to_string(),
        groups,
    }])?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn unblock(context: &Context<'_>, user: &UserName) -> Result<ExitCode> {
    let client = open_as_other_than(context, user).await?;
    let told = client.unblock(user).await?;
    context.output.print(&[Record::Unblocked {
        user: user.to_string(),
        told,
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
