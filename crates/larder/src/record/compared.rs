//! What two people compare, in lines for people.

use std::fmt::Write;

use super::SafetyDevice;

/// Groups of digits of a safety number on one line.
const GROUPS_PER_LINE: usize = 4;

/// A number, the devices whose keys are in it, and the code to be scanned, if it is drawn.
pub(super) type Compared<'a> = (&'a str, &'a [SafetyDevice], Option<&'a str>);

pub(super) fn safety_number(user: &str, shown: Compared<'_>, verified: &str, other_identity: bool) -> String {
    let mut line = format!("you and {user} see the same number if nobody is between you:\n\n");
    write(&mut line, shown);
    let _ = write!(line, "\n{verified}");
    if other_identity {
        let _ = write!(
            line,
            "\n{}. To compare: larder verify {user} --new-identity",
            other(user)
        );
    }
    line
}

/// The same of devices that the server shows and that are not believed, beside the number of those that are known.
pub(super) fn new_identity(user: &str, known: Option<&str>, shown: Compared<'_>) -> String {
    let mut line = format!("{}.\n\n", other(user));
    if let Some(known) = known {
        line.push_str("The number of those known before was:\n\n");
        write_number(&mut line, known);
        line.push('\n');
    }
    let _ = write!(
        line,
        "{user} sees the number of the others, too, if nobody is between you:\n\n"
    );
    write(&mut line, shown);
    line
}

/// Why there is something to compare that is not believed.
fn other(user: &str) -> String {
    format!(
        "the server shows other devices of {user} than those known before: either {user} registered anew or the server has \
         lost some, or it shows somebody else's"
    )
}

/// Whether a user is verified, in a sentence.
pub(super) fn verified(user: &str, verification: &str) -> String {
    match verification {
        "verified" => format!("{user} is verified"),
        "changed" => format!("WARNING: {user} has other keys than those that you have verified"),
        _ => format!("{user} is not verified"),
    }
}

fn write(line: &mut String, (number, devices, drawn): Compared<'_>) {
    write_number(line, number);
    if let Some(drawn) = drawn {
        let _ = write!(line, "\n{drawn}\n");
    }
    for device in devices {
        let SafetyDevice {
            device_id,
            fingerprint,
            new,
        } = device;
        let new = if *new { "  NEW" } else { "" };
        let _ = write!(line, "\ndevice {device_id}  key {fingerprint}{new}");
    }
}

fn write_number(line: &mut String, number: &str) {
    let groups: Vec<&str> = number.split(' ').collect();
    for groups in groups.chunks(GROUPS_PER_LINE) {
        let _ = writeln!(line, "    {}", groups.join(" "));
    }
}
