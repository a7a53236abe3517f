//! `passphrase`.

use std::process::ExitCode;

use anyhow::Result;

use super::Context;
use crate::cli::Passphrase;
use crate::record::Record;

pub(super) fn passphrase(context: &Context<'_>, options: &Passphrase) -> Result<ExitCode> {
    context.sources().change(options)?;
    context.output.print(&[Record::PassphraseChanged {
        profile: context.global.profile.to_string(),
        keychain: options.keychain,
    }])?;
    Ok(ExitCode::SUCCESS)
}
