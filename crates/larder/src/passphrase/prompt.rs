//! A passphrase that a person types.

use std::io::{self, IsTerminal};

use anyhow::Result;
use larder_client::zeroize::Zeroizing;

use super::line::{CHARS_MIN, failed, is_short};
use crate::failure::{Exit, Failure};

/// Whether somebody can be asked. A program that merely has a terminal behind it is not asked.
pub(super) fn is_possible() -> bool {
    io::stdin().is_terminal() || io::stderr().is_terminal()
}

/// Asks for the passphrase of something.
pub(super) fn existing(of: &str) -> Result<Zeroizing<String>> {
    read(&format!("passphrase of {of}: "))
}

/// Asks for a new passphrase, twice, and again while it is short and nobody insists.
pub(super) fn new(of: &str, weak: bool) -> Result<Zeroizing<String>> {
    let question = format!("new passphrase for {of}: ");
    let mut first = read(&question)?;
    while is_short(&first) && !weak {
        first = read(&format!("at least {CHARS_MIN} characters; {question}"))?;
    }
    if first.is_empty() {
        return Ok(first);
    }
    let second = read("the same again: ")?;
    if first != second {
        return Err(failed(
            "passphrase-mismatch",
            "the two passphrases are not the same; nothing was changed",
        ));
    }
    Ok(first)
}

fn read(question: &str) -> Result<Zeroizing<String>> {
    match rpassword::prompt_password(question) {
        Ok(text) => Ok(Zeroizing::new(text)),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => {
            Err(Failure::new(Exit::Failed, "interrupted", "interrupted").into())
        }
        Err(error) => Err(failed(
            "no-terminal",
            format!("no passphrase can be asked for: {error}"),
        )),
    }
}
