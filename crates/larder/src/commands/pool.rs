//! `pool status`, `pool refresh` and `pool probe`.

use std::process::ExitCode;

use anyhow::Result;
use larder_client::{Level, PoolHealth, PoolPolicy, Probe, Quarantined};
use larder_lifecycle::last_resort_is_due;
use larder_wire::KeyPackageRef;

use super::Context;
use crate::clock;
use crate::failure::Exit;
use crate::record::{Pool, Record};

pub(super) async fn status(context: &Context<'_>) -> Result<ExitCode> {
    let client = context.open().await?;
    let health = client.pool_health().await?;
    let mut records = vec![Record::Pool(pool_record(&health))];
    records.extend(
        client
            .quarantined_welcomes()
            .await?
            .iter()
            .map(quarantined_record),
    );
    context.output.print(&records)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn refresh(context: &Context<'_>) -> Result<ExitCode> {
    let client = context.open().await?;
    let refreshed = client.refresh_key_packages().await?;
    context.output.print(&[Record::Refreshed {
        minted: refreshed.minted,
        uploaded: refreshed.uploaded,
        revoked: refreshed.revoked,
        last_resort_replaced: refreshed.last_resort_replaced,
        pool: pool_record(&refreshed.health),
    }])?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn probe(context: &Context<'_>) -> Result<ExitCode> {
    let client = context.open().await?;
    let probe = client.probe().await?;
    let record = match &probe {
        Probe::Addable {
            key_package_ref,
            last_resort: false,
        } => Record::Probed {
            addable: true,
            code: "ok",
            reason: "the next KeyPackage is valid, and its private key is here".to_owned(),
            key_package: Some(key_package_ref.to_string()),
        },
        Probe::Addable { key_package_ref, .. } => Record::Probed {
            addable: true,
            code: "last-resort",
            reason: "by the last resort only, because the pool is empty".to_owned(),
            key_package: Some(key_package_ref.to_string()),
        },
        Probe::NoPrivateKey { key_package_ref } => Record::Probed {
            addable: false,
            code: "no-private-key",
            reason: "the private key of the next KeyPackage is not here; larder pool refresh withdraws it"
                .to_owned(),
            key_package: Some(key_package_ref.to_string()),
        },
        Probe::NotAddable(reason) => Record::Probed {
            addable: false,
            code: reason.code(),
            reason: reason.to_string(),
            key_package: None,
        },
    };
    context.output.print(&[record])?;
    Ok(match probe {
        Probe::Addable { .. } => ExitCode::SUCCESS,
        Probe::NoPrivateKey { .. } | Probe::NotAddable(_) => Exit::Refused.into(),
    })
}

pub(crate) fn pool_record(health: &PoolHealth) -> Pool {
    let target = PoolPolicy::default().target();
    let last_resort_is_due = last_resort_is_due(
        health
            .last_resort
            .map(|present| (clock::system()().since(present.created_at), present.used)),
    );
    let lasting = health.available.saturating_sub(health.expiring_soon);
    Pool {
        level: match health.level {
            Level::Good => "good",
            Level::Low => "low",
            Level::Empty => "empty",
        },
        available: health.available,
        target,
        reserved: health.reserved,
        spent: health.spent,
        lapsed: health.lapsed,
        expired: health.expired,
        expiring_soon: health.expiring_soon,
        unconfirmed: health.unconfirmed,
        last_upload: health.last_upload.map(|at| at.0),
        last_resort: match health.last_resort {
            None => "none",
            Some(present) if present.used => "used",
            Some(_) => "unused",
        },
        last_resort_created_at: health.last_resort.map(|present| present.created_at.0),
        quarantined: health.quarantined,
        next_action: match lasting < target || health.unconfirmed > 0 || last_resort_is_due {
            true => "refresh",
            false => "none",
        },
    }
}

fn quarantined_record(quarantined: &Quarantined) -> Record {
    Record::Quarantined {
        reason: quarantined.reason.code(),
        explanation: quarantined.reason.to_string(),
        key_package: quarantined
            .key_package_ref
            .as_ref()
            .and_then(|known| KeyPackageRef::from_bytes(known.as_slice()).ok())
            .map(|known| known.to_string()),
        attempts: quarantined.attempts,
        first_at: quarantined.first_at.0,
        last_at: quarantined.last_at.0,
    }
}
