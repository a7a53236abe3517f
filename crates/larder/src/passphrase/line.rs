//! A passphrase that a command prints, or that comes through a file descriptor.

use std::fs::File;
use std::io::{self, Read};
use std::process::{Command, Stdio};

use anyhow::Result;
#[cfg(feature = "sqlcipher")]
use larder_client::StoreKey;
use larder_client::zeroize::Zeroizing;

use crate::failure::{Exit, Failure};

/// One byte more than a passphrase has, and its line ending.
const LINE_BYTES_MAX: usize = 1024 + 2;

/// The fewest characters of a new passphrase.
pub(super) const CHARS_MIN: usize = 8;

/// What a command may print after the line.
const IGNORED_BYTES_MAX: u64 = 1 << 16;

/// A failure of what should have given the passphrase.
pub(super) fn failed(code: &'static str, message: impl Into<String>) -> anyhow::Error {
    Failure::new(Exit::Locked, code, message).into()
}

/// Makes a key of what was given.
#[cfg(feature = "sqlcipher")]
pub(super) fn key(text: Zeroizing<String>) -> Result<StoreKey> {
    use larder_client::PassphraseError as E;
    StoreKey::passphrase(text).map_err(|error| {
        let code = match error {
            E::Empty => "passphrase-empty",
            E::TooLong | E::Nul | E::RawForm => "passphrase-unusable",
        };
        failed(code, error.to_string())
    })
}

/// Makes a key of a new passphrase.
#[cfg(feature = "sqlcipher")]
pub(super) fn new_key(text: Zeroizing<String>, weak: bool) -> Result<StoreKey> {
    let short = require_strong(&text, weak);
    // What cannot be a passphrase at all is told first.
    let key = key(text)?;
    short.map(|()| key)
}

/// Fails for a new passphrase that is short, unless one insists. Nothing is not for this to refuse.
pub(super) fn require_strong(text: &str, weak: bool) -> Result<()> {
    match is_short(text) && !weak {
        true => Err(failed(
            "passphrase-short",
            format!(
                "a passphrase has at least {CHARS_MIN} characters; --weak-passphrase takes a shorter one"
            ),
        )),
        false => Ok(()),
    }
}

/// Whether a passphrase is one that a machine soon guesses.
pub(super) fn is_short(text: &str) -> bool {
    !text.is_empty() && text.chars().count() < CHARS_MIN
}

/// The first line that a command prints. It reads from the terminal, if it wants to, and complains on stderr.
pub(super) fn from_command(command: &str) -> Result<Zeroizing<String>> {
    let fails = |how: String| failed("passphrase-command", format!("the passphrase command {how}"));
    let mut child = Command::new("sh")
        .args(["-c", command])
        .stdin(Stdio::inherit())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| fails(format!("cannot be run: {error}")))?;
    let line = child
        .stdout
        .take()
        .map_or(Err(io::ErrorKind::BrokenPipe.into()), |mut output| {
            let line = line(&mut output)?;
            // Were the pipe closed at once, a command with more to print would fail.
            io::copy(&mut output.take(IGNORED_BYTES_MAX), &mut io::sink())?;
            Ok::<_, io::Error>(line)
        });
    let status = child
        .wait()
        .map_err(|error| fails(format!("cannot be waited for: {error}")))?;
    if !status.success() {
        return Err(fails(format!("failed ({status})")));
    }
    line.map_err(|error| fails(format!("cannot be read from: {error}")))
}

/// A line of a file descriptor that this process was started with, and nothing of what follows it.
pub(super) fn from_fd(fd: u32) -> Result<Zeroizing<String>> {
    let line = match fd {
        // Through the buffer that the rest of the program reads it with.
        0 => line(&mut io::stdin().lock()),
        _ => open(fd).and_then(|mut file| line(&mut file)),
    };
    line.map_err(|error| {
        failed(
            "passphrase-fd",
            format!("no passphrase can be read from file descriptor {fd}: {error}"),
        )
    })
}

#[cfg(unix)]
fn open(fd: u32) -> io::Result<File> {
    File::open(format!("/dev/fd/{fd}"))
}

#[cfg(not(unix))]
fn open(_: u32) -> io::Result<File> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Up to the end of a line or of the input, byte by byte: what follows is for somebody else.
fn line(input: &mut impl Read) -> io::Result<Zeroizing<String>> {
    // Never grown, so that no copy is left behind.
    let mut line = Zeroizing::new(Vec::with_capacity(LINE_BYTES_MAX));
    let mut byte = Zeroizing::new([0]);
    while line.len() < LINE_BYTES_MAX {
        match input.read(byte.as_mut_slice()) {
            Ok(0) => break,
            Ok(_) if byte[0] == b'\n' => break,
            Ok(_) => line.push(byte[0]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    let text =
        std::str::from_utf8(&line).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "not UTF-8"))?;
    Ok(Zeroizing::new(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_passphrase_has_eight_characters_unless_one_insists() {
        let passes = |text: &str, weak| require_strong(text, weak).is_ok();
        for (text, is_long) in [
            ("sesame", false),
            ("1234567", false),
            ("äöüßéèà", false),
            ("12345678", true),
            ("äöüßéèàç", true),
        ] {
            assert_eq!(
                (passes(text, false), passes(text, true)),
                (is_long, true),
                "{text}"
            );
        }
        // That it is empty is another matter.
        assert!(passes("", false));
    }

    #[test]
    fn a_line_ends_where_it_ends_and_what_follows_is_left() {
        for (input, expected, left) in [
            ("open sesame\nrest", "open sesame", "rest"),
            ("open sesame\r\nrest", "open sesame", "rest"),
            (" blanks stay \n", " blanks stay ", ""),
            ("no end", "no end", ""),
            ("\nrest", "", "rest"),
            ("", "", ""),
        ] {
            let mut bytes = input.as_bytes();
            assert_eq!(line(&mut bytes).unwrap().as_str(), expected);
            assert_eq!(bytes, left.as_bytes());
        }
        let endless = "x".repeat(5000);
        assert_eq!(line(&mut endless.as_bytes()).unwrap().len(), LINE_BYTES_MAX);
        #[cfg(feature = "sqlcipher")]
        assert!(key(line(&mut endless.as_bytes()).unwrap()).is_err());
        assert!(line(&mut &b"\xff\n"[..]).is_err());
    }
}
