//! `pool status` and `pool refresh`.

use std::process::ExitCode;

use anyhow::Result;
use larder_client::{Level, PoolHealth, PoolPolicy};

use super::Context;
use crate::record::{Pool, Record};

pub(super) async fn status(context: &Context<'_>) -> Result<ExitCode> {
    let client = context.open().await?;
    let health = client.pool_health().await?;
    context.output.print(&[Record::Pool(pool_record(&health))])?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn refresh(context: &Context<'_>) -> Result<ExitCode> {
    let client = context.open().await?;
    let refreshed = client.refresh_key_packages().await?;
    context.output.print(&[Record::Refreshed {
        minted: refreshed.minted,
        uploaded: refreshed.uploaded,
        revoked: refreshed.revoked,
        pool: pool_record(&refreshed.health),
    }])?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn pool_record(health: &PoolHealth) -> Pool {
    Pool {
        level: match health.level {
            Level::Good => "good",
            Level::Low => "low",
            Level::Empty => "empty",
        },
        available: health.available,
        target: PoolPolicy::default().target(),
        reserved: health.reserved,
        spent: health.spent,
        lapsed: health.lapsed,
        expired: health.expired,
        expiring_soon: health.expiring_soon,
        unconfirmed: health.unconfirmed,
        last_upload: health.last_upload.map(|at| at.0),
    }
}
