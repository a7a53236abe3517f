//! Whether a profile is encrypted, and with which key.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use larder_pool::{LocalStore, StoreError, StoreKey};

use crate::core::profile::{DATABASE_FILE, lock};
use crate::error::Error;
use crate::types::ProfileForm;

/// What every database begins with that is not encrypted.
const SQLITE_HEADER: [u8; 16] = *b"SQLite format 3\0";

/// Looks at a profile. Creates nothing, and does not open the database.
pub(crate) fn form(profile: &Path) -> Result<ProfileForm, Error> {
    let database = profile.join(DATABASE_FILE);
    if !database.try_exists().map_err(Error::Profile)? {
        return Ok(ProfileForm::Missing);
    }
    // Nobody has it open now: to close a file that SQLite has open in this process would release its locks.
    let _lock = lock(profile)?;
    let mut header = [0; SQLITE_HEADER.len()];
    let read = File::open(database).and_then(|mut file| file.read_exact(&mut header));
    match read {
        Ok(()) if header == SQLITE_HEADER => Ok(ProfileForm::Plain),
        Ok(()) => Ok(ProfileForm::Encrypted),
        // It was created, and nothing was written.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(ProfileForm::Missing),
        Err(error) => Err(Error::Profile(error)),
    }
}

/// Encrypts a profile, or encrypts it with another key.
pub(crate) fn set_key(profile: &Path, old: Option<&StoreKey>, new: &StoreKey) -> Result<(), Error> {
    let database = profile.join(DATABASE_FILE);
    if !database.try_exists().map_err(Error::Profile)? {
        return Err(Error::NotRegistered);
    }
    let _lock = lock(profile)?;
    match old {
        Some(old) => LocalStore::change_key(&database, old, new),
        None => LocalStore::encrypt(&database, new),
    }
    .map_err(not_opened)
}

/// Whether this key opens a profile that is encrypted.
pub(crate) fn is_key(profile: &Path, key: &StoreKey) -> Result<bool, Error> {
    let _lock = lock(profile)?;
    match LocalStore::open_encrypted(&profile.join(DATABASE_FILE), key) {
        Ok(_) => Ok(true),
        Err(StoreError::WrongKey) => Ok(false),
        Err(error) => Err(not_opened(error)),
    }
}

/// Why a profile's database did not open.
pub(super) fn not_opened(error: StoreError) -> Error {
    match error {
        StoreError::Encrypted => Error::ProfileEncrypted,
        StoreError::NotEncrypted => Error::ProfileNotEncrypted,
        StoreError::WrongKey => Error::WrongPassphrase,
        StoreError::NoCipher => Error::NoEncryption,
        StoreError::InUse => Error::ProfileLocked,
        StoreError::NotASnapshot => Error::NotABackup,
        other => other.into(),
    }
}
