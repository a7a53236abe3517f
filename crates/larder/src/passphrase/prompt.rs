//! A passphrase that a person types.

use std::io::{self, IsTerminal};

use anyhow::Result;
use larder_client::StoreKey;
use larder_client::zeroize::Zeroizing;

use super::line::{failed, key};
use crate::failure::{Exit, Failure};

/// Whether somebody can be asked. A program that merely has a terminal behind it is not asked.
pub(super) fn is_possible() -> bool {
    io::stdin().is_terminal() || io::stderr().is_terminal()
}

/// Asks for the passphrase of a profile.
pub(super) fn existing(profile: &str) -> Result<StoreKey> {
    key(read(&format!("passphrase of profile {profile}: "))?)
}

/// Asks for a new passphrase, twice.
pub(super) fn new(profile: &str) -> Result<StoreKey> {
    let first = read(&format!("new passphrase for profile {profile}: "))?;
    if first.is_empty() {
        return key(first);
    }
    let second = read("the same again: ")?;
    if first != second {
        return Err(failed(
            "passphrase-mismatch",
            "the two passphrases are not the same; nothing was changed",
        ));
    }
    key(first)
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
