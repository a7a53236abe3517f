//! Where the key of an encrypted profile comes from: a command, a file descriptor, the keychain of the operating system
//! or a prompt. Never an argument, and never the value of an environment variable: others can read those.

#[cfg(feature = "sqlcipher")]
mod keychain;
#[cfg(feature = "sqlcipher")]
mod line;
#[cfg(feature = "sqlcipher")]
mod note;
#[cfg(feature = "sqlcipher")]
mod prompt;
#[cfg(feature = "sqlcipher")]
mod sources;
#[cfg(not(feature = "sqlcipher"))]
#[path = "without.rs"]
mod sources;

pub(crate) use sources::{Sources, random_passphrase};

/// What `register --no-encryption` says, and what must be said without it.
pub(crate) const NOT_ENCRYPTED: &str =
    "this profile is not encrypted: whoever reads the disk reads its messages and its keys";
