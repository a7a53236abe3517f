//! A program that was built without SQLCipher has no keys to look for.

use std::path::PathBuf;

use anyhow::Result;
use larder_client::zeroize::Zeroizing;
use larder_client::{Error, MlsConnection, ProfileForm, StoreKey};

use crate::cli::{NewProfile, Passphrase};
use crate::failure::{Exit, Failure};

pub(crate) struct Sources<'a> {
    profile: PathBuf,
    _given: (Option<&'a str>, Option<u32>),
}

impl<'a> Sources<'a> {
    pub(crate) fn new(profile: PathBuf, command: Option<&'a str>, fd: Option<u32>) -> Self {
        Self {
            profile,
            _given: (command, fd),
        }
    }

    pub(crate) fn of_existing(&self) -> Result<Option<StoreKey>> {
        match MlsConnection::profile_form(&self.profile)? {
            ProfileForm::Missing | ProfileForm::Plain => Ok(None),
            ProfileForm::Encrypted => Err(Error::NoEncryption.into()),
        }
    }

    pub(crate) fn of_new(&self, new: NewProfile) -> Result<Option<StoreKey>> {
        match self.of_existing()? {
            None if new.no_encryption => Ok(None),
            Some(_) | None => Err(Failure::new(
                Exit::Refused,
                Error::NoEncryption.code(),
                "this program was built without encryption; --no-encryption does without",
            )
            .into()),
        }
    }

    pub(crate) fn change(&self, _: &Passphrase) -> Result<()> {
        Err(Error::NoEncryption.into())
    }
}

/// A passphrase that nobody needs to know; none where nothing is encrypted.
pub(crate) fn random_passphrase() -> Result<Option<Zeroizing<String>>> {
    Ok(None)
}
