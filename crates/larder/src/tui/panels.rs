//! What panels show of members and of their keys.

use anyhow::Result;
use larder_client::{DeviceId, GroupKey, MlsConnection, SafetyNumber, UserName, Verification};

use super::app::{Look, Panel, PanelLine};
use crate::commands::code_on_light;

pub(super) async fn members(client: &MlsConnection, group: &GroupKey) -> Result<Panel> {
    let mut lines = Vec::new();
    let mut user = None;
    for member in client.members(group).await? {
        if user.as_ref() != Some(&member.user) {
            lines.push(PanelLine::new(member.user.to_string(), Look::Strong));
            user = Some(member.user.clone());
        }
        let mark = match (member.is_me, member.verification) {
            (true, _) => "  (this device)",
            (false, Verification::Unverified) => "",
            (false, Verification::Verified) => "  verified",
            (false, Verification::Changed) => "  CHANGED",
        };
        let device = device_line(&member.device_id, &member.signature_key_fingerprint);
        lines.push(PanelLine::new(format!("  {device}{mark}"), Look::Plain));
    }
    if let Some(shown) = client.epoch_code(group).await? {
        let code = format!("epoch {}: {}", shown.epoch, shown.code);
        lines.push(PanelLine::new(code, Look::Strong));
        let meaning = "  what everybody in it sees, unless the group was split";
        lines.push(PanelLine::new(meaning, Look::Plain));
    }
    Ok(Panel::new("members", lines))
}

/// What two people compare, and how it is marked that they have.
pub(super) async fn verify(client: &MlsConnection, user: &UserName) -> Result<Panel> {
    let shown = client.safety_number(user).await?;
    let mut lines = number(&shown);
    let code = code_on_light(&shown.qr).unwrap_or_default();
    lines.extend(code.lines().map(|line| PanelLine::new(line, Look::Code)));
    lines.push(match shown.verification {
        Verification::Verified => PanelLine::new("verified", Look::Plain),
        Verification::Unverified => PanelLine::new("not verified", Look::Plain),
        Verification::Changed => PanelLine::new("verified once, and the keys are others now", Look::Alarm),
    });
    lines.push(PanelLine::new(
        format!("Ask {user} in person or by phone. The same? /verify {user} yes"),
        Look::Plain,
    ));
    lines.extend(devices(&shown));
    if shown.other_identity {
        lines.push(PanelLine::new(
            format!("the server shows others: /verify {user} new"),
            Look::Alarm,
        ));
    }
    Ok(Panel::new(format!("you and {user}"), lines))
}

/// The same of devices that the server shows and that are not believed.
pub(super) async fn new_identity(client: &MlsConnection, user: &UserName) -> Result<Panel> {
    let shown = client.new_identity(user).await?;
    let mut lines = vec![
        PanelLine::new(
            format!("the server shows others than before: {user} registered"),
            Look::Alarm,
        ),
        PanelLine::new("anew or it lost some, or they are somebody else's", Look::Alarm),
    ];
    if let Some(known) = &shown.known {
        lines.push(PanelLine::new("before:", Look::Plain));
        lines.extend(number(known));
    }
    lines.push(PanelLine::new("now:", Look::Plain));
    lines.extend(number(&shown.new));
    lines.push(PanelLine::new(
        format!("Ask {user} in person or by phone. Is this now theirs?"),
        Look::Plain,
    ));
    lines.push(PanelLine::new(format!("/verify {user} new yes"), Look::Plain));
    lines.extend(devices(&shown.new));
    Ok(Panel::new(format!("you and {user}"), lines))
}

fn number(shown: &SafetyNumber) -> Vec<PanelLine> {
    let groups: Vec<&str> = shown.number.split(' ').collect();
    let lines = groups.chunks(6);
    lines
        .map(|groups| PanelLine::new(groups.join(" "), Look::Strong))
        .collect()
}

fn devices(shown: &SafetyNumber) -> impl Iterator<Item = PanelLine> {
    shown.devices.iter().map(|device| {
        let line = device_line(&device.device_id, &device.signature_key_fingerprint);
        match device.is_new {
            true => PanelLine::new(format!("{line}  new"), Look::Alarm),
            false => PanelLine::new(line, Look::Plain),
        }
    })
}

fn device_line(device: &DeviceId, fingerprint: &str) -> String {
    format!("{device}  {}…", fingerprint.chars().take(16).collect::<String>())
}
