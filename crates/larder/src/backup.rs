//! Files that hold a backup of a profile, encrypted with age.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;

use age::secrecy::SecretString;
use age::x25519;
use anyhow::{Context as _, Result};
use larder_client::Error;
use larder_client::zeroize::Zeroizing;
use tempfile::NamedTempFile;

use crate::failure::{Exit, Failure};

/// What is encrypted begins with this; the database follows.
const HEADER: &[u8] = b"larder profile 1\n";

/// For whom a backup is encrypted.
pub(crate) enum For {
    /// Whoever knows this.
    Passphrase(Zeroizing<String>),
    /// Whoever has the identity to one of these.
    Recipients(Vec<x25519::Recipient>),
}

/// Writes a backup to a file that does not exist yet. No byte of it is on a disk in the clear, at no time.
///
/// # Errors
/// The file exists, or cannot be written; there is none then.
pub(crate) fn write(file: &Path, image: &[u8], secret_of: For) -> Result<()> {
    let encryptor = match secret_of {
        For::Passphrase(text) => age::Encryptor::with_user_passphrase(secret(&text)),
        For::Recipients(recipients) => {
            let recipients = recipients
                .iter()
                .map(|recipient| recipient as &dyn age::Recipient);
            age::Encryptor::with_recipients(recipients).context("the recipients cannot be used")?
        }
    };
    let directory = match file.parent() {
        Some(parent) if parent != Path::new("") => parent,
        Some(_) | None => Path::new("."),
    };
    let unwritable = || format!("{} cannot be written", file.display());
    // For its owner only, and removed if anything fails.
    let beside = NamedTempFile::new_in(directory).with_context(unwritable)?;
    let encrypted = |output: &File| -> io::Result<()> {
        let mut output = encryptor.wrap_output(output)?;
        output.write_all(HEADER)?;
        output.write_all(image)?;
        output.finish()?.sync_all()
    };
    encrypted(beside.as_file()).with_context(unwritable)?;
    match beside.persist_noclobber(file) {
        Ok(_) => Ok(()),
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Err(refused(
            "file-exists",
            format!("{} exists already", file.display()),
        )),
        Err(error) => Err(error.error).with_context(unwritable),
    }
}

/// A backup that is not decrypted yet.
pub(crate) struct Sealed(age::Decryptor<BufReader<File>>);

impl Sealed {
    pub(crate) fn open(file: &Path) -> Result<Self> {
        let input = File::open(file).with_context(|| format!("{} cannot be read", file.display()))?;
        match age::Decryptor::new_buffered(BufReader::new(input)) {
            Ok(decryptor) => Ok(Self(decryptor)),
            Err(age::DecryptError::Io(error)) if error.kind() != io::ErrorKind::UnexpectedEof => {
                Err(error).with_context(|| format!("{} cannot be read", file.display()))
            }
            Err(_) => Err(Error::NotABackup.into()),
        }
    }

    /// Whether a passphrase opens it, rather than an identity.
    pub(crate) fn takes_passphrase(&self) -> bool {
        self.0.is_scrypt()
    }

    /// What it holds. All of it is authenticated before any of it is used.
    pub(crate) fn with_passphrase(self, passphrase: &str) -> Result<Zeroizing<Vec<u8>>> {
        self.unseal(&[&age::scrypt::Identity::new(secret(passphrase))])
    }

    /// The same, by the identities in a file that `age-keygen` writes.
    pub(crate) fn with_identities(self, file: &Path) -> Result<Zeroizing<Vec<u8>>> {
        let unreadable = || format!("{} cannot be read", file.display());
        let input = File::open(file).with_context(unreadable)?;
        let identities = age::IdentityFile::from_buffer(BufReader::new(input)).with_context(unreadable)?;
        let identities = identities
            .into_identities()
            .map_err(|_| refused("no-identity", format!("{} holds no identity", file.display())))?;
        let identities: Vec<&dyn age::Identity> = identities.iter().map(|identity| &**identity).collect();
        self.unseal(&identities)
    }

    fn unseal(self, identities: &[&dyn age::Identity]) -> Result<Zeroizing<Vec<u8>>> {
        let locked = |code, message: &str| Failure::new(Exit::Locked, code, message);
        let decrypted = match self.0.decrypt(identities.iter().copied()) {
            Ok(decrypted) => decrypted,
            Err(age::DecryptError::DecryptionFailed | age::DecryptError::KeyDecryptionFailed) => {
                return Err(locked("wrong-passphrase", "the passphrase does not open the backup").into());
            }
            Err(age::DecryptError::NoMatchingKeys) => {
                return Err(locked("wrong-identity", "no identity of the file opens the backup").into());
            }
            Err(age::DecryptError::ExcessiveWork { .. }) => {
                let message = "the backup's passphrase would take this machine too long to try";
                return Err(refused("excessive-work", message));
            }
            Err(_) => return Err(Error::NotABackup.into()),
        };
        let mut decrypted = BufReader::new(decrypted);
        let damaged = |_: io::Error| Error::NotABackup;
        let begins = decrypted.fill_buf().map_err(damaged)?.starts_with(HEADER);
        if !begins {
            return Err(Error::NotABackup.into());
        }
        decrypted.consume(HEADER.len());
        let mut image = Zeroizing::new(Vec::new());
        decrypted.read_to_end(&mut image).map_err(damaged)?;
        Ok(image)
    }
}

fn secret(text: &str) -> SecretString {
    SecretString::from(text.to_owned())
}

fn refused(code: &'static str, message: impl Into<String>) -> anyhow::Error {
    Failure::new(Exit::Refused, code, message).into()
}
