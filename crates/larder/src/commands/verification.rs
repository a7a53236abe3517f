//! `verify`.

use std::process::ExitCode;

use anyhow::Result;
use larder_client::{MlsConnection, SafetyNumber, UserName};
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
    let shown = client.safety_number(user).await?;
    if let Some(read_out) = &options.compare {
        if !shown.is(read_out) && !client.check_qr(user, read_out.trim().as_bytes()).await? {
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
        return mark(context, &client, user, true).await;
    }
    if options.mark {
        return mark(context, &client, user, true).await;
    }
    context.output.print(&[record(user, &shown, !options.no_qr)])?;
    if !context.output.is_interactive() {
        return Ok(ExitCode::SUCCESS);
    }
    match confirmed(&format!("Does {user} see the same number?"))? {
        true => mark(context, &client, user, true).await,
        false => Ok(ExitCode::SUCCESS),
    }
}

async fn mark(
    context: &Context<'_>,
    client: &MlsConnection,
    user: &UserName,
    verified: bool,
) -> Result<ExitCode> {
    client.set_verified(user, verified).await?;
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
        devices: shown
            .devices
            .iter()
            .map(|device| SafetyDevice {
                device_id: device.device_id.to_string(),
                fingerprint: device.signature_key_fingerprint.clone(),
                new: device.is_new,
            })
            .collect(),
        drawn: if draw { code_on_dark(&shown.qr) } else { None },
    }
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
