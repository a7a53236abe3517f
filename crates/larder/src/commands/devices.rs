//! `link` and `device`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use larder_client::{Device, Error, MlsConnection, UserName};

use super::pool::clock_record;
use super::{Context, confirmed, guide};
use crate::cli::{DEFAULT_SERVER, NewProfile};
use crate::failure::{Exit, Failure};
use crate::record::Record;

/// How often a new device asks whether it was let in.
const PAUSE: Duration = Duration::from_secs(1);
/// The shortest part of an id that may stand for it, in characters.
const ID_PREFIX_CHARS_MIN: usize = 4;

/// Shows a code and waits. Interrupted and started again, it shows the same one.
pub(super) async fn link(context: &Context<'_>, user: Option<UserName>, new: NewProfile) -> Result<ExitCode> {
    let server = context.global.server.as_deref().unwrap_or(DEFAULT_SERVER);
    guide::require_server(server, &context.access()?).await?;
    let user = guide::user_name(context, user)?;
    guide::before(
        context,
        &format!(
            "the profile {} is to be a device of {user} at {server}; one that {user} has must let it in",
            context.global.profile
        ),
    )?;
    let key = context.sources().of_new(new)?;
    let encrypted = key.is_some();
    let linking = MlsConnection::link(context.options(key)?, server, user).await?;
    context.output.print(&[Record::LinkCode {
        code: linking.code().to_owned(),
        fingerprint: linking.fingerprint().to_owned(),
    }])?;
    guide::before(
        context,
        "waiting for that; the other device must show the same fingerprint. Interrupted, the same command goes on",
    )?;
    let client = loop {
        match linking.finish().await {
            Ok(Some(client)) => break client,
            Ok(None) => {}
            Err(error @ Error::Unreachable(_)) => {
                tracing::info!(code = error.code(), "asking again");
            }
            Err(other) => return Err(other.into()),
        }
        tokio::time::sleep(PAUSE).await;
    };
    client.sync().await?;
    let refreshed = client.refresh_key_packages().await?;
    let me = client.me();
    let mut records = vec![Record::Linked {
        user: me.user.to_string(),
        device_id: me.device_id.to_string(),
        server: me.server.clone(),
        profile: context.global.profile.to_string(),
        groups: client.groups().await?.len(),
        pool_available: refreshed.health.available,
        encrypted,
    }];
    records.extend(clock_record(&client));
    context.output.print(&records)?;
    guide::next(
        context,
        &[
            (
                "groups",
                "lists the groups of your other devices, which this one has joined",
            ),
            ("chat GROUP", "writes to one, and shows what others write"),
        ],
    )?;
    Ok(ExitCode::SUCCESS)
}

/// Lets a new device in, once a person has compared the fingerprints.
pub(super) async fn authorize(context: &Context<'_>, code: &str, compared: bool) -> Result<ExitCode> {
    let client = context.open().await?;
    let device = client.read_link_code(code).await?;
    let (device_id, fingerprint) = (device.device_id().to_string(), device.fingerprint().to_owned());
    let question = format!("Compare: the new device must show the fingerprint\n  {fingerprint}\nDoes it?");
    if !compared && !confirmed(&question)? {
        return Err(Failure::new(
            Exit::Refused,
            "not-confirmed",
            "the device was not let in; say `y` when it shows the same fingerprint",
        )
        .into());
    }
    client.authorize_link(device).await?;
    context.output.print(&[Record::DeviceAuthorized {
        device_id,
        fingerprint,
    }])?;
    // What the groups are told is told here too.
    client.sync().await?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn list(context: &Context<'_>) -> Result<ExitCode> {
    let client = context.open().await?;
    let devices = client.devices().await?;
    let records: Vec<Record> = devices.into_iter().map(record).collect();
    context.output.print(&records)?;
    Ok(ExitCode::SUCCESS)
}

fn record(device: Device) -> Record {
    Record::Device {
        device_id: device.device_id.to_string(),
        fingerprint: device.signature_key_fingerprint,
        authorized_by: device.authorized_by.map(|by| by.to_string()),
        authorized: device.is_authorized,
        removed: device.is_removed,
        me: device.is_me,
    }
}

pub(super) async fn remove(context: &Context<'_>, device: &str) -> Result<ExitCode> {
    let client = context.open().await?;
    let mut fitting: Vec<Device> = client
        .devices()
        .await?
        .into_iter()
        .filter(|known| {
            let id = known.device_id.as_str();
            !known.is_removed
                && (id == device || device.len() >= ID_PREFIX_CHARS_MIN && id.starts_with(device))
        })
        .collect();
    let (Some(found), true) = (fitting.pop(), fitting.is_empty()) else {
        return Err(Failure::new(
            Exit::Unknown,
            "unknown-device",
            format!("not one device of yours is called {device}: see `larder device list`"),
        )
        .into());
    };
    client.remove_device(&found.device_id).await?;
    context.output.print(&[Record::DeviceRemoved {
        device_id: found.device_id.to_string(),
        me: found.is_me,
    }])?;
    if !found.is_me {
        // Its leaves go from the groups.
        client.sync().await?;
    }
    Ok(ExitCode::SUCCESS)
}
