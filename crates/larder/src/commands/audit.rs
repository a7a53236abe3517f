//! `pool audit`.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::Result;
use larder_client::{AuditRow, Audited, GroupKey};

use super::Context;
use crate::failure::Exit;
use crate::record::Record;

pub(super) async fn audit(context: &Context<'_>) -> Result<ExitCode> {
    let client = context.open().await?;
    let audited = client.audit().await?;
    let groups = client.groups().await?;
    let names: BTreeMap<GroupKey, Option<String>> =
        groups.into_iter().map(|group| (group.id, group.name)).collect();
    let mut records: Vec<Record> = audited.rows.iter().map(|row| row_record(row, &names)).collect();
    records.push(audited_record(&audited));
    context.output.print(&records)?;
    Ok(match audited.flaw {
        None => ExitCode::SUCCESS,
        Some(_) => Exit::Refused.into(),
    })
}

fn audited_record(audited: &Audited) -> Record {
    let pruned = audited.pruned;
    let code = match (&audited.flaw, pruned.and_then(|pruned| pruned.unverifiable_after)) {
        (Some(flaw), _) => flaw.code(),
        (None, Some(_)) => "pruned",
        (None, None) => "ok",
    };
    let flaw = audited.flaw.as_ref().map(ToString::to_string);
    Record::Audited {
        rows: audited.rows.len(),
        holds: audited.flaw.is_none(),
        code,
        reason: flaw.or_else(|| pruned.map(|pruned| pruned.to_string())),
        restored: audited.restored,
        pruned_through: pruned.map(|pruned| pruned.through),
    }
}

fn row_record(row: &AuditRow, names: &BTreeMap<GroupKey, Option<String>>) -> Record {
    Record::AuditRow {
        seq: row.seq,
        time: row.time,
        key_package: row.key_package_ref.to_string(),
        transition: row.transition.code(),
        actor: row.actor.clone(),
        group: row.group_id.as_ref().map(ToString::to_string),
        group_name: row
            .group_id
            .as_ref()
            .and_then(|group| names.get(group).cloned().flatten()),
    }
}
