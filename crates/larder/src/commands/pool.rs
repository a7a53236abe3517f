//! `pool status`, `pool refresh` and `pool probe`.

use std::process::ExitCode;

use anyhow::Result;
use larder_client::{Level, MlsConnection, NextAction, NotAdded, Probe, Quarantined, SuitePool};
use larder_wire::{KeyPackageRef, suite_name};

use super::Context;
use crate::failure::{Exit, clock_sentence};
use crate::record::{Pool, Record};

pub(super) async fn status(context: &Context<'_>) -> Result<ExitCode> {
    let client = context.open().await?;
    // Without the server it is told from what is known here.
    if let Err(error) = client.take_inventory().await {
        tracing::info!(code = error.code(), "the directory could not be asked");
    }
    let mut records = pool_records(&client.pools().await?);
    records.extend(clock_record(&client));
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
    let mut records = vec![Record::Refreshed {
        minted: refreshed.minted,
        uploaded: refreshed.uploaded,
        revoked: refreshed.revoked,
        last_resort_replaced: refreshed.last_resort_replaced,
        pools: pools_of(&refreshed.pools),
    }];
    records.extend(clock_record(&client));
    context.output.print(&records)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn probe(context: &Context<'_>) -> Result<ExitCode> {
    let client = context.open().await?;
    let mut stocked = client.pools().await?;
    stocked.retain(|pool| pool.stocked);
    let several = stocked.len() > 1;
    let (mut records, mut addable) = (Vec::new(), !stocked.is_empty());
    for pool in stocked {
        let probe = client.probe(pool.suite).await?;
        addable &= matches!(probe, Probe::Addable { .. });
        let suite = several.then(|| suite_name(pool.suite));
        records.push(probe_record(probe, suite));
    }
    if records.is_empty() {
        records.push(Record::Probed {
            suite: None,
            addable,
            code: "unsupported-suites",
            reason: "this program supports no ciphersuite that the server is run with".to_owned(),
            key_package: None,
        });
    }
    records.extend(clock_record(&client));
    context.output.print(&records)?;
    Ok(match addable {
        true => ExitCode::SUCCESS,
        false => Exit::Refused.into(),
    })
}

fn probe_record(probe: Probe, suite: Option<String>) -> Record {
    match probe {
        Probe::Addable {
            key_package_ref,
            last_resort: false,
        } => Record::Probed {
            suite,
            addable: true,
            code: "ok",
            reason: "the next KeyPackage is valid, and its private key is here".to_owned(),
            key_package: Some(key_package_ref.to_string()),
        },
        Probe::Addable { key_package_ref, .. } => Record::Probed {
            suite,
            addable: true,
            code: "last-resort",
            reason: "by strangers with the last resort only, because the pool is low or was drained".to_owned(),
            key_package: Some(key_package_ref.to_string()),
        },
        Probe::NoPrivateKey { key_package_ref } => Record::Probed {
            suite,
            addable: false,
            code: "no-private-key",
            reason: "the private key of the next KeyPackage is not here; larder pool refresh withdraws it"
                .to_owned(),
            key_package: Some(key_package_ref.to_string()),
        },
        Probe::NotAddable(reason) => Record::Probed {
            suite,
            addable: false,
            code: reason.code(),
            reason: match reason {
                NotAdded::Incompatible { .. } => {
                    "the directory has KeyPackages of other ciphersuites only; larder pool refresh uploads some".to_owned()
                }
                other => other.to_string(),
            },
            key_package: None,
        },
    }
}

/// A line when this computer's clock is off by so much that a person should hear of it.
pub(crate) fn clock_record(client: &MlsConnection) -> Option<Record> {
    let clocks = client.clocks();
    let fast = i128::from(clocks.here.0) - i128::from(clocks.there.0);
    clocks.are_worth_a_word().then(|| Record::ClockOff {
        seconds_fast: i64::try_from(fast).unwrap_or(if fast > 0 { i64::MAX } else { i64::MIN }),
        here: clocks.here.0,
        there: clocks.there.0,
        explanation: clock_sentence(&clocks),
    })
}

/// A line for each pool; the ciphersuite is named if there are several.
pub(crate) fn pool_records(pools: &[SuitePool]) -> Vec<Record> {
    pools_of(pools).into_iter().map(Record::Pool).collect()
}

fn pools_of(pools: &[SuitePool]) -> Vec<Pool> {
    let several = pools.len() > 1;
    pools.iter().map(|pool| pool_record(pool, several)).collect()
}

fn pool_record(pool: &SuitePool, several: bool) -> Pool {
    let SuitePool {
        suite,
        stocked,
        target,
        health,
    } = pool;
    let target = *target;
    // One that is not kept full any more wants nothing but to be done.
    let next_action = match *stocked || health.unconfirmed > 0 {
        true => health.next_action,
        false => NextAction::None,
    };
    Pool {
        suite: several.then(|| suite_name(*suite)),
        stocked: *stocked,
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
        lost: health.lost,
        not_yet_valid: health.not_yet_valid,
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
        next_action,
    }
}

pub(crate) fn quarantined_record(quarantined: &Quarantined) -> Record {
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
