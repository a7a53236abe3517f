//! `verify`.

use std::process::ExitCode;

use anyhow::Result;
use larder_client::{MlsConnection, NewIdentity, SafetyNumber, UserName};
use qrcode::QrCode;
use qrcode::render::unicode::Dense1x2;

use super::{Context, confirmed};
use crate::cli::Verify;
use crate::failure::{Exit, Failure};
use crate::record::{Record, SafetyDevice};

pub(super) async fn verify(context: &Context<'_>, options: &Verify) -> Result<ExitCode> {
    let client = context.open().await?;
    let user = &options.user;
    if options.unmark {
        return mark(context, &client, user, false).await;
    }
    if options.new_identity {
        return new_identity(context, &client, options).await;
    }
    let shown = client.safety_number(user).await?;
    let question = format!("Does {user} see the same number?");
    match is_the_same(
        context,
        options,
        &shown,
        || record(user, &shown, !options.no_qr),
        &question,
    )? {
        true => mark(context, &client, user, true).await,
        false => Ok(ExitCode::SUCCESS),
    }
}

/// The same with the devices that the server shows and this device does not believe.
async fn new_identity(context: &Context<'_>, client: &MlsConnection, options: &Verify) -> Result<ExitCode> {
    let user = &options.user;
    let shown = client.new_identity(user).await?;
    let question = format!("Does {user} see the number of the new identity?");
    let both = || record_of_new_identity(user, &shown, !options.no_qr);
    match is_the_same(context, options, &shown.new, both, &question)? {
        true => {
            client.take_new_identity(user).await?;
            print_verified(context, client, user).await
        }
        false => Ok(ExitCode::SUCCESS),
    }
}

/// Whether the user sees the same number, as the options or the person say; shows it where they do not.
fn is_the_same(
    context: &Context<'_>,
    options: &Verify,
    shown: &SafetyNumber,
    record: impl FnOnce() -> Record,
    question: &str,
) -> Result<bool> {
    let user = &options.user;
    if let Some(read_out) = &options.compare {
        if !shown.is(read_out) && !shown.is_code(read_out.trim().as_bytes()) {
            return Err(Failure::new(
                Exit::Refused,
                "numbers-differ",
                format!(
                    "that is not what {user} should see: one of you has keys that are not the other's, or somebody is \
                     between you"
                ),
            )
            .into());
        }
        return Ok(true);
    }
    if options.mark {
        return Ok(true);
    }
    context.output.print(&[record()])?;
    Ok(context.output.is_interactive() && confirmed(question)?)
}

async fn mark(
    context: &Context<'_>,
    client: &MlsConnection,
    user: &UserName,
    verified: bool,
) -> Result<ExitCode> {
    client.set_verified(user, verified).await?;
    print_verified(context, client, user).await
}

async fn print_verified(context: &Context<'_>, client: &MlsConnection, user: &UserName) -> Result<ExitCode> {
    context.output.print(&[Record::Verified {
        user: user.to_string(),
        verification: client.verification(user).await?.as_str(),
    }])?;
    Ok(ExitCode::SUCCESS)
}

fn record(user: &UserName, shown: &SafetyNumber, draw: bool) -> Record {
    Record::SafetyNumber {
        user: user.to_string(),
        number: shown.number.clone(),
        qr: String::from_utf8_lossy(&shown.qr).into_owned(),
        verification: shown.verification.as_str(),
        devices: devices(shown),
        other_identity: shown.other_identity,
        drawn: if draw { code_on_dark(&shown.qr) } else { None },
    }
}

fn record_of_new_identity(user: &UserName, shown: &NewIdentity, draw: bool) -> Record {
    let NewIdentity { known, new } = shown;
    Record::NewIdentity {
        user: user.to_string(),
        known: known.as_ref().map(|known| known.number.clone()),
        number: new.number.clone(),
        qr: String::from_utf8_lossy(&new.qr).into_owned(),
        devices: devices(new),
        drawn: if draw { code_on_dark(&new.qr) } else { None },
    }
}

fn devices(shown: &SafetyNumber) -> Vec<SafetyDevice> {
    let devices = shown.devices.iter().map(|device| SafetyDevice {
        device_id: device.device_id.to_string(),
        fingerprint: device.signature_key_fingerprint.clone(),
        new: device.is_new,
    });
    devices.collect()
}

/// What the other scans, in half blocks: light ones on a dark ground, as most terminals are.
pub(super) fn code_on_dark(payload: &[u8]) -> Option<String> {
    let code = QrCode::new(payload).ok()?;
    let mut drawing = code.render::<Dense1x2>();
    let reversed = drawing.dark_color(Dense1x2::Light).light_color(Dense1x2::Dark);
    Some(reversed.build())
}

/// What the other scans, in half blocks: dark ones on a light ground, with as little around them as cameras can do with, so
/// that it fits on 24 lines.
pub(crate) fn code_on_light(payload: &[u8]) -> Option<String> {
    let code = QrCode::new(payload).ok()?;
    let drawn = code.render::<Dense1x2>().quiet_zone(false).build();
    let lines: Vec<String> = drawn.lines().map(|line| format!("  {line}  ")).collect();
    let empty = " ".repeat(lines.first()?.chars().count());
    Some(format!("{empty}\n{}\n{empty}", lines.join("\n")))
}
