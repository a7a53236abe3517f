//! `group create`, `group rename`, `invite`, `remove`, `leave`, `groups`, `mute`, `unmute`, `members`.

use std::process::ExitCode;

use anyhow::Result;
use larder_client::{ContactRequest, Error, GroupKey, GroupSummary, Invited, MlsConnection, UserName};

use super::{Context, group_name};
use crate::failure::Exit;
use crate::output::Output;
use crate::record::{HeldFor, Listed, NotAdded, Record};

pub(super) async fn create(context: &Context<'_>, name: &str) -> Result<ExitCode> {
    let client = context.open().await?;
    let group = client.create_group(name).await?;
    context.output.print(&[group_record(&group)])?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn invite_command(
    context: &Context<'_>,
    group: &str,
    users: &[UserName],
    all_or_nothing: bool,
) -> Result<ExitCode> {
    let (client, key) = context.open_group(group).await?;
    client.sync().await?;
    if all_or_nothing {
        let invited = client.invite_all(&key, users).await?;
        return tell_invited(&client, &key, &invited, context.output).await;
    }
    invite(&client, &key, users, context.output).await
}

/// Invites, and tells of each user. Not everybody added is a refusal.
pub(crate) async fn invite(
    client: &MlsConnection,
    key: &GroupKey,
    users: &[UserName],
    output: &Output,
) -> Result<ExitCode> {
    let invited = match client.invite(key, users).await {
        Err(Error::NoKeyPackages { outcomes }) => Invited {
            not_added: outcomes,
            ..Invited::default()
        },
        invited => invited?,
    };
    tell_invited(client, key, &invited, output).await
}

async fn tell_invited(
    client: &MlsConnection,
    key: &GroupKey,
    invited: &Invited,
    output: &Output,
) -> Result<ExitCode> {
    let code = match invited.not_added.is_empty() {
        true => ExitCode::SUCCESS,
        false => Exit::Refused.into(),
    };
    output.print(&[Record::Invited {
        group: group_name(client, key).await?,
        added: invited.added.iter().map(ToString::to_string).collect(),
        by_last_resort: invited.by_last_resort.iter().map(ToString::to_string).collect(),
        not_added: invited
            .not_added
            .iter()
            .map(|(user, why)| NotAdded {
                user: user.to_string(),
                code: why.code(),
                reason: why.to_string(),
                retry_after_seconds: why.retry_after_seconds(),
            })
            .collect(),
    }])?;
    Ok(code)
}

pub(super) async fn rename(context: &Context<'_>, group: &str, name: &str) -> Result<ExitCode> {
    let (client, key) = context.open_group(group).await?;
    client.sync().await?;
    client.rename_group(&key, name).await?;
    context.output.print(&[Record::Renamed {
        group: key.to_string(),
        group_name: name.to_owned(),
    }])?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn set_muted(context: &Context<'_>, group: &str, muted: bool) -> Result<ExitCode> {
    let (client, key) = context.open_group(group).await?;
    client.set_muted(&key, muted).await?;
    let (group, group_name) = (key.to_string(), group_name(&client, &key).await?);
    context.output.print(&[match muted {
        true => Record::Muted { group, group_name },
        false => Record::Unmuted { group, group_name },
    }])?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn remove(context: &Context<'_>, group: &str, user: &UserName) -> Result<ExitCode> {
    let (client, key) = context.open_group(group).await?;
    client.sync().await?;
    client.remove(&key, user).await?;
    context.output.print(&[Record::Removed {
        group: group_name(&client, &key).await?,
        user: user.to_string(),
    }])?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn leave(context: &Context<'_>, group: &str) -> Result<ExitCode> {
    let (client, key) = context.open_group(group).await?;
    let told = client.leave(&key).await?;
    context.output.print(&[Record::Left {
        group: group_name(&client, &key).await?,
        told,
    }])?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn list(context: &Context<'_>) -> Result<ExitCode> {
    let client = context.open().await?;
    let groups = client.groups().await?;
    if groups.is_empty() {
        context
            .output
            .note("no groups yet; create one with `larder group create NAME`")?;
    }
    let (requests, groups): (Vec<_>, Vec<_>) = groups.iter().partition(|group| group.request.is_some());
    let records: Vec<Record> = groups.into_iter().chain(requests).map(group_record).collect();
    context.output.print(&records)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn members_command(context: &Context<'_>, group: &str) -> Result<ExitCode> {
    let (client, key) = context.open_group(group).await?;
    members(&client, &key, context.output).await?;
    Ok(ExitCode::SUCCESS)
}

/// Lists the members of a group.
pub(crate) async fn members(client: &MlsConnection, key: &GroupKey, output: &Output) -> Result<()> {
    let members = client.members(key).await?;
    let code = client.epoch_code(key).await?;
    let records = members
        .into_iter()
        .map(|member| Record::Member {
            group: key.to_string(),
            user: member.user.to_string(),
            device_id: member.device_id.to_string(),
            fingerprint: member.signature_key_fingerprint,
            me: member.is_me,
            verification: member.verification.as_str(),
        })
        .chain(code.map(|shown| Record::EpochCode {
            group: key.to_string(),
            epoch: shown.epoch,
            code: shown.code,
        }));
    output.print(&records.collect::<Vec<_>>())?;
    Ok(())
}

/// Who asks this user into a group, and what the server alone says of it.
pub(super) fn asked(request: Option<&ContactRequest>) -> (Option<String>, Option<Listed>) {
    match request {
        None => (None, None),
        Some(ContactRequest::Invitation { by }) => (Some(by.to_string()), None),
        Some(ContactRequest::Listed { users }) => {
            let users = users
                .as_ref()
                .map(|users| users.iter().map(ToString::to_string).collect());
            (None, Some(Listed { users }))
        }
    }
}

fn group_record(group: &GroupSummary) -> Record {
    let (request, listed) = asked(group.request.as_ref());
    Record::Group {
        id: group.id.to_string(),
        name: group.name.clone(),
        epoch: group.epoch,
        members: group.members,
        state: group.state.as_str(),
        unread: group.unread,
        muted: group.muted,
        denied: group.denied,
        held: group
            .held
            .iter()
            .map(|held| HeldFor {
                user: held.user.to_string(),
                difference: held.difference.as_str(),
            })
            .collect(),
        request,
        listed,
    }
}
