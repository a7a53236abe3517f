//! `export` and `import`.

use std::path::PathBuf;

use age::x25519::Recipient;
use clap::Args;

use super::NewProfile;
use crate::passphrase::OfBackup;

/// `larder export`.
#[derive(Debug, Args)]
pub(crate) struct Export {
    /// The file, which must not exist yet
    pub(crate) file: PathBuf,
    /// Encrypt for whoever has the identity to this, as `age-keygen` makes them, and not with a passphrase; may be repeated
    #[arg(
        long = "recipient",
        value_name = "AGE1…",
        value_parser = recipient,
        conflicts_with_all = ["backup_passphrase_command", "backup_passphrase_fd"]
    )]
    pub(crate) recipients: Vec<Recipient>,
    #[command(flatten)]
    pub(crate) passphrase: OfBackup,
    /// Take a passphrase of fewer than 8 characters
    #[arg(long, conflicts_with = "recipients")]
    pub(crate) weak_passphrase: bool,
}

/// `larder import`.
#[derive(Debug, Args)]
pub(crate) struct Import {
    /// The file
    pub(crate) file: PathBuf,
    /// The file with the identity that the backup was made for
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["backup_passphrase_command", "backup_passphrase_fd"]
    )]
    pub(crate) identity: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) passphrase: OfBackup,
    #[command(flatten)]
    pub(crate) new: NewProfile,
}

fn recipient(text: &str) -> Result<Recipient, &'static str> {
    text.parse()
}
