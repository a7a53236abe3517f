//! `admin check`, `admin backup`, `admin invite`, `admin invitations`, `admin restored` and `admin accept-clock`.

use std::fs::File;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use larder_server::{Admin, Invitation, InvitationId, NewInvitation, StoreLocation, backup_sqlite};

use super::Context;
use super::serve::{cannot_open, location, lock};
use crate::cli::{AdminCommand, StoreOption};
use crate::clock;
use crate::failure::{Exit, Failure};
use crate::record::Record;

pub(super) async fn run(context: &Context<'_>, command: AdminCommand) -> Result<ExitCode> {
    match command {
        AdminCommand::Check { store } => check(context, store).await,
        AdminCommand::Backup { store, file } => backup(context, store, &file),
        AdminCommand::Invite { store, count, valid } => invite(context, store, count, valid).await,
        AdminCommand::Invitations { store, revoke } if revoke.is_empty() => invitations(context, store).await,
        AdminCommand::Invitations { store, revoke } => withdraw(context, store, &revoke).await,
        AdminCommand::Restored { store } => restored(context, store).await,
        AdminCommand::AcceptClock { store } => accept_clock(context, store).await,
    }
}

const DAY_SECONDS: u64 = 24 * 60 * 60;

async fn check(context: &Context<'_>, store: StoreOption) -> Result<ExitCode> {
    let (admin, _lock) = open(context, store).await?;
    let mut printed = Ok(());
    let checked = admin
        .check(|finding| {
            if printed.is_ok() {
                printed = context.output.print(&[Record::Finding {
                    code: finding.code.code(),
                    subject: finding.subject,
                    detail: finding.detail,
                }]);
            }
        })
        .await?;
    printed?;
    context.output.print(&[Record::Checked {
        devices: checked.devices,
        key_packages: checked.key_packages,
        groups: checked.groups,
        findings: checked.findings,
    }])?;
    Ok(match checked.findings {
        0 => ExitCode::SUCCESS,
        _ => Exit::Refused.into(),
    })
}

fn backup(context: &Context<'_>, store: StoreOption, file: &Path) -> Result<ExitCode> {
    match location(context, store)? {
        StoreLocation::Sqlite(database) => {
            must_exist(&database)?;
            backup_sqlite(&database, file)
                .with_context(|| format!("{} cannot be written", file.display()))?;
        }
        StoreLocation::Postgres(_) => {
            return Err(Failure::new(
                Exit::Refused,
                "not-sqlite",
                "PostgreSQL has tools of its own: pg_dump, or continuous archiving",
            )
            .into());
        }
    }
    context.output.print(&[Record::BackedUp {
        file: file.display().to_string(),
    }])?;
    Ok(ExitCode::SUCCESS)
}

async fn invite(context: &Context<'_>, store: StoreOption, count: u32, valid_days: u32) -> Result<ExitCode> {
    let admin = open_in_use(context, store).await?;
    let now = clock::system()();
    let expires_at = now.plus(u64::from(valid_days) * DAY_SECONDS);
    let invited = admin.invite(count, now, expires_at).await?;
    let records: Vec<Record> = invited
        .into_iter()
        .map(|NewInvitation { code, invitation }| Record::InviteCode {
            code,
            id: invitation.id.to_string(),
            expires_at: invitation.expires_at.0,
        })
        .collect();
    context.output.print(&records)?;
    Ok(ExitCode::SUCCESS)
}

async fn invitations(context: &Context<'_>, store: StoreOption) -> Result<ExitCode> {
    let admin = open_in_use(context, store).await?;
    let outstanding = admin.invitations(clock::system()()).await?;
    let records: Vec<Record> = outstanding
        .into_iter()
        .map(
            |Invitation {
                 id,
                 created_at,
                 expires_at,
             }| Record::OutstandingInviteCode {
                id: id.to_string(),
                created_at: created_at.0,
                expires_at: expires_at.0,
            },
        )
        .collect();
    context.output.print(&records)?;
    Ok(ExitCode::SUCCESS)
}

async fn withdraw(context: &Context<'_>, store: StoreOption, ids: &[InvitationId]) -> Result<ExitCode> {
    let admin = open_in_use(context, store).await?;
    let mut unknown = Vec::new();
    for id in ids {
        if admin.withdraw_invitation(*id).await? {
            context
                .output
                .print(&[Record::InviteCodeWithdrawn { id: id.to_string() }])?;
        } else {
            unknown.push(id.to_string());
        }
    }
    if unknown.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let sentence = format!("no invitation (any more): {}", unknown.join(", "));
    Err(Failure::new(Exit::Refused, "no-invitation", sentence).into())
}

async fn restored(context: &Context<'_>, store: StoreOption) -> Result<ExitCode> {
    let (admin, _lock) = open(context, store).await?;
    let restored = admin.restored(clock::system()()).await?;
    context.output.print(&[Record::Restored {
        incarnation: restored.incarnation,
        devices: restored.devices,
        revoked: restored.revoked,
    }])?;
    Ok(ExitCode::SUCCESS)
}

async fn accept_clock(context: &Context<'_>, store: StoreOption) -> Result<ExitCode> {
    let admin = open_in_use(context, store).await?;
    let now = clock::system()();
    let last_sweep = admin.accept_clock(now).await?;
    context.output.print(&[Record::ClockAccepted {
        time: now.0,
        last_sweep: last_sweep.map(|time| time.0),
    }])?;
    Ok(ExitCode::SUCCESS)
}

/// Opens a store that exists. On SQLite no server may use it meanwhile; on PostgreSQL that is up to the operator.
async fn open(context: &Context<'_>, store: StoreOption) -> Result<(Admin, Option<File>)> {
    let store = location(context, store)?;
    let lock = match &store {
        StoreLocation::Sqlite(database) => {
            must_exist(database)?;
            Some(lock(database)?)
        }
        StoreLocation::Postgres(_) => None,
    };
    let admin = Admin::open(&store)
        .await
        .map_err(|fault| cannot_open(&store, fault))?;
    Ok((admin, lock))
}

/// Opens a store that exists, whether its server is running or not.
async fn open_in_use(context: &Context<'_>, store: StoreOption) -> Result<Admin> {
    let store = location(context, store)?;
    if let StoreLocation::Sqlite(database) = &store {
        must_exist(database)?;
    }
    Admin::open_in_use(&store)
        .await
        .map_err(|fault| cannot_open(&store, fault))
}

/// A mistyped name is not a new, empty store in which nothing is wrong.
fn must_exist(database: &Path) -> Result<()> {
    if database.exists() {
        return Ok(());
    }
    Err(Failure::new(
        Exit::Refused,
        "no-database",
        format!("there is no database {}", database.display()),
    )
    .into())
}
