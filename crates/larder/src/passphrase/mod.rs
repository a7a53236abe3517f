//! Where the key of an encrypted profile comes from: a command, a file descriptor, the keychain of the operating system
//! or a prompt; and the passphrase of a backup, which no keychain has. Never an argument, and never the value of an environment variable: others can read those.

mod backup;
#[cfg(feature = "sqlcipher")]
mod keychain;
mod line;
#[cfg(feature = "sqlcipher")]
mod note;
mod prompt;
#[cfg(feature = "sqlcipher")]
mod sources;
#[cfg(not(feature = "sqlcipher"))]
#[path = "without.rs"]
mod sources;

pub(crate) use backup::OfBackup;
pub(crate) use sources::{Sources, random_passphrase};

/// What `register --no-encryption` says, and what must be said without it.
pub(crate) const NOT_ENCRYPTED: &str =
    "this profile is not encrypted: whoever reads the disk reads its messages and its keys";
