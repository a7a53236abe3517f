//! `pool migrate-legacy`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;

use super::Context;
use crate::migration::Migration;
use crate::record::Record;

pub(super) async fn migrate(context: &Context<'_>, from: PathBuf, apply: bool) -> Result<ExitCode> {
    let client = context.open().await?;
    let report = match apply {
        true => client.migrate_legacy_pool(from).await?,
        false => client.plan_legacy_migration(from).await?,
    };
    context
        .output
        .print(&[Record::LegacyMigration(Migration::new(report, apply))])?;
    Ok(ExitCode::SUCCESS)
}
