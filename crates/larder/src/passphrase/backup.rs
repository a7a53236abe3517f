//! The passphrase of a backup.

use anyhow::Result;
use clap::Args;
use larder_client::zeroize::Zeroizing;

use super::line::{failed, from_command, from_fd, require_strong};
use super::prompt;

/// What the command line says of it.
#[derive(Debug, Args)]
pub(crate) struct OfBackup {
    /// Take the passphrase of the backup from the first line that this command prints; it is run by `sh -c`
    #[arg(long, value_name = "CMD", conflicts_with = "backup_passphrase_fd")]
    backup_passphrase_command: Option<String>,
    /// Take the passphrase of the backup from a line of this file descriptor
    #[arg(long, value_name = "N")]
    backup_passphrase_fd: Option<u32>,
}

impl OfBackup {
    /// The passphrase of a backup that there is.
    pub(crate) fn existing(&self) -> Result<Zeroizing<String>> {
        self.ask(prompt::existing)
    }

    /// The passphrase of one that is made.
    pub(crate) fn new_one(&self, weak: bool) -> Result<Zeroizing<String>> {
        let text = self.ask(|of| prompt::new(of, weak))?;
        require_strong(&text, weak).map(|()| text)
    }

    fn ask(&self, prompt: impl FnOnce(&str) -> Result<Zeroizing<String>>) -> Result<Zeroizing<String>> {
        let given = match (self.backup_passphrase_fd, &self.backup_passphrase_command) {
            (Some(fd), _) => from_fd(fd)?,
            (None, Some(command)) => from_command(command)?,
            (None, None) if prompt::is_possible() => prompt("the backup")?,
            (None, None) => {
                return Err(failed(
                    "no-terminal",
                    "there is no terminal to ask for the passphrase of the backup on; give --backup-passphrase-command or \
                     --backup-passphrase-fd",
                ));
            }
        };
        match given.is_empty() {
            true => Err(failed("passphrase-empty", "the passphrase is empty")),
            false => Ok(given),
        }
    }
}
