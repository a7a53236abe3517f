//! `save`.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;

use super::Context;
use crate::record::Record;

pub(super) async fn save(
    context: &Context<'_>,
    row: i64,
    to: Option<&Path>,
    name: Option<&str>,
) -> Result<ExitCode> {
    let client = context.open().await?;
    let directory = to.unwrap_or(Path::new("."));
    let saved = client.save_attachment(row, directory, name).await?;
    context.output.print(&[Record::Saved {
        row,
        file: saved.display().to_string(),
    }])?;
    Ok(ExitCode::SUCCESS)
}
