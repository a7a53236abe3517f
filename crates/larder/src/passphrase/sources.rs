//! Which key, for which profile.

use std::path::PathBuf;

use anyhow::Result;
use larder_client::zeroize::Zeroizing;
use larder_client::{Error, MlsConnection, ProfileForm, StoreKey};

use super::keychain::{Keychain, KeychainError, new_entry};
use super::line::{failed, from_command, from_fd, key, new_key};
use super::note::Note;
use super::prompt;
use crate::cli::{NewProfile, Passphrase};
use crate::failure::{Exit, Failure};
use crate::profile::create_private;

/// What the command line says of the passphrase of a profile.
pub(crate) struct Sources<'a> {
    profile: PathBuf,
    command: Option<&'a str>,
    fd: Option<u32>,
    keychain: Keychain,
    /// Whether somebody can be asked.
    asks: bool,
}

impl<'a> Sources<'a> {
    pub(crate) fn new(profile: PathBuf, command: Option<&'a str>, fd: Option<u32>) -> Self {
        Self {
            profile,
            command,
            fd,
            keychain: Keychain::system(),
            asks: prompt::is_possible(),
        }
    }

    /// The key of a profile that is there; `None` if it is not encrypted, or not there.
    pub(crate) fn of_existing(&self) -> Result<Option<StoreKey>> {
        match MlsConnection::profile_form(&self.profile)? {
            ProfileForm::Missing | ProfileForm::Plain => Ok(None),
            ProfileForm::Encrypted => self.existing().map(Some),
        }
    }

    /// The key of a profile that is to be created, or was: an account may be registered a second time.
    pub(crate) fn of_new(&self, new: NewProfile) -> Result<Option<StoreKey>> {
        match MlsConnection::profile_form(&self.profile)? {
            ProfileForm::Plain => Ok(None),
            ProfileForm::Encrypted => self.existing().map(Some),
            ProfileForm::Missing if new.no_encryption => Ok(None),
            ProfileForm::Missing => self.new_key(new.weak_passphrase).map(Some),
        }
    }

    /// Encrypts the profile with another key, or encrypts it.
    pub(crate) fn change(&self, to: &Passphrase) -> Result<()> {
        let old = match MlsConnection::profile_form(&self.profile)? {
            ProfileForm::Missing => return Err(Error::NotRegistered.into()),
            ProfileForm::Plain => None,
            ProfileForm::Encrypted => Some(self.existing()?),
        };
        let note = Note::of(&self.profile);
        let before = note.entry()?;
        if to.keychain {
            let entry = new_entry().map_err(unusable)?;
            let new = self.keychain.create(&entry).map_err(unusable)?;
            note.propose(&entry)?;
            let (changed, outcome) = self.set(old.as_ref(), &new)?;
            if !changed {
                note.withdraw()?;
                let _ = self.keychain.remove(&entry);
                return outcome;
            }
            note.confirm()?;
            self.forget(before);
            return outcome;
        }
        let new = self.asked_for(to)?;
        if before.is_some() {
            note.doubt()?;
        }
        let (changed, outcome) = self.set(old.as_ref(), &new)?;
        if before.is_some() {
            match changed {
                true => note.withdraw()?,
                false => note.confirm()?,
            }
        }
        if changed {
            self.forget(before);
        }
        outcome
    }

    /// Whether the profile has the new key now, and what else there is to say: an error may come after it got the key.
    fn set(&self, old: Option<&StoreKey>, new: &StoreKey) -> Result<(bool, Result<()>)> {
        let Err(error) = MlsConnection::set_profile_key(&self.profile, old, new) else {
            return Ok((true, Ok(())));
        };
        let changed = match MlsConnection::is_profile_key(&self.profile, new) {
            Err(Error::ProfileNotEncrypted) => false,
            is_key => is_key?,
        };
        Ok((changed, Err(error.into())))
    }

    /// An entry that opens nothing any more.
    fn forget(&self, entry: Option<String>) {
        if let Some(entry) = entry {
            // It is of no use to anybody, and a keychain that keeps it does no harm.
            let _ = self.keychain.remove(&entry);
        }
    }

    /// The new passphrase.
    fn asked_for(&self, to: &Passphrase) -> Result<StoreKey> {
        let weak = to.weak_passphrase;
        match (&to.new_passphrase_command, to.new_passphrase_fd) {
            (_, Some(fd)) => new_key(from_fd(fd)?, weak),
            (Some(command), None) => new_key(from_command(command)?, weak),
            (None, None) if self.asks => prompt::new(&self.called(), weak).and_then(key),
            (None, None) => Err(failed(
                "no-terminal",
                "there is no terminal to ask for the new passphrase on; give --new-passphrase-command, \
                 --new-passphrase-fd or --keychain",
            )),
        }
    }

    /// The key of an encrypted profile.
    fn existing(&self) -> Result<StoreKey> {
        if let Some(given) = self.given()? {
            return key(given);
        }
        self.settle()?;
        if let Some(entry) = Note::of(&self.profile).entry()? {
            return self.keychain.load(&entry).map_err(|error| {
                failed(
                    error.code(),
                    format!("{error}; if it was given a passphrase, {WAYS}"),
                )
            });
        }
        match self.asks {
            true => prompt::existing(&self.called()).and_then(key),
            false => Err(failed(
                "no-terminal",
                format!(
                    "this profile is encrypted, and there is no terminal to ask for its passphrase on; {WAYS}"
                ),
            )),
        }
    }

    fn new_key(&self, weak: bool) -> Result<StoreKey> {
        if let Some(given) = self.given()? {
            return new_key(given, weak);
        }
        match self.in_keychain() {
            Ok(key) => Ok(key),
            Err(_) if self.asks => prompt::new(&self.called(), weak).and_then(key),
            Err(error) => Err(failed(
                "no-terminal",
                format!(
                    "nothing to encrypt the profile with: {error}, and there is no terminal to ask for a passphrase on; \
                     {WAYS}, or do without by --no-encryption"
                ),
            )),
        }
    }

    /// What a command or a file descriptor gives, if there is one.
    fn given(&self) -> Result<Option<Zeroizing<String>>> {
        match (self.fd, self.command) {
            (Some(fd), _) => from_fd(fd).map(Some),
            (None, Some(command)) => from_command(command).map(Some),
            (None, None) => Ok(None),
        }
    }

    /// A key for a new profile, in the keychain: the one of an earlier attempt, or else a random one.
    fn in_keychain(&self) -> Result<StoreKey> {
        let note = Note::of(&self.profile);
        if let Some(entry) = note.entry()? {
            return match self.keychain.load(&entry) {
                Err(KeychainError::Missing) => Ok(self.keychain.create(&entry)?),
                loaded => Ok(loaded?),
            };
        }
        let entry = new_entry()?;
        let key = self.keychain.create(&entry)?;
        create_private(&self.profile)?;
        note.propose(&entry)?;
        note.confirm()?;
        Ok(key)
    }

    /// Finds out what an interrupted change has come to.
    fn settle(&self) -> Result<()> {
        let note = Note::of(&self.profile);
        let Some(entry) = note.proposed()? else {
            return Ok(());
        };
        let holds = match self.keychain.load(&entry) {
            Ok(key) => MlsConnection::is_profile_key(&self.profile, &key)?,
            Err(KeychainError::Missing) => false,
            Err(error) => return Err(unusable(error)),
        };
        match holds {
            true => note.confirm()?,
            false => {
                note.withdraw()?;
                let _ = self.keychain.remove(&entry);
            }
        }
        Ok(())
    }

    /// How the profile is called in a question.
    fn called(&self) -> String {
        let name = self.profile.file_name().unwrap_or_default();
        format!("profile {}", name.to_string_lossy())
    }
}

/// A passphrase that nobody needs to know.
pub(crate) fn random_passphrase() -> Result<Option<Zeroizing<String>>> {
    Ok(Some(Zeroizing::new(new_entry()?)))
}

/// What can be done where nobody can be asked.
const WAYS: &str = "give --passphrase-command or --passphrase-fd, or set LARDER_PASSPHRASE_COMMAND";

fn unusable(error: KeychainError) -> anyhow::Error {
    Failure::new(Exit::Locked, error.code(), error.to_string()).into()
}

#[cfg(test)]
mod tests;
