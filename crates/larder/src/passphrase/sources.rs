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
mod tests {
    use std::path::Path;
    use std::sync::{Mutex, MutexGuard, PoisonError};

    use keyring::Error as KeyringError;
    use larder_pool::LocalStore;
    use tempfile::TempDir;

    use super::super::keychain::tests::in_memory;
    use super::*;

    const TO_KEYCHAIN: Passphrase = Passphrase {
        keychain: true,
        new_passphrase_command: None,
        new_passphrase_fd: None,
        weak_passphrase: false,
    };

    const PLAIN: NewProfile = NewProfile {
        no_encryption: true,
        weak_passphrase: false,
    };

    fn to_command(command: &str) -> Passphrase {
        Passphrase {
            keychain: false,
            new_passphrase_command: Some(command.to_owned()),
            new_passphrase_fd: None,
            weak_passphrase: false,
        }
    }

    /// A profile, with a keychain in memory and nobody to ask.
    fn sources(directory: &TempDir, keychain: Keychain) -> Sources<'static> {
        Sources {
            profile: directory.path().join("alice"),
            command: None,
            fd: None,
            keychain,
            asks: false,
        }
    }

    /// A process that is started by one test holds, until it runs its program, the lock of a profile that another one has
    /// open. So these tests run one after the other.
    fn alone() -> MutexGuard<'static, ()> {
        static ALONE: Mutex<()> = Mutex::new(());
        ALONE.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sources_in(directory: &TempDir) -> Sources<'static> {
        sources(directory, in_memory(|_| None).0)
    }

    fn create(profile: &Path, key: &StoreKey) {
        create_private(profile).unwrap();
        LocalStore::open_encrypted(&profile.join("larder.db"), key).unwrap();
    }

    fn code<T>(result: Result<T>) -> (String, Exit) {
        let error = result.err().unwrap();
        let failure = Failure::of(&error).into_owned();
        (failure.code.into_owned(), failure.exit)
    }

    #[test]
    fn a_new_profile_has_a_key_in_the_keychain_and_keeps_it() {
        let _alone = alone();
        let directory = tempfile::tempdir().unwrap();
        let sources = sources_in(&directory);
        assert!(sources.of_existing().unwrap().is_none());
        assert!(!sources.profile.exists(), "looking creates nothing");
        assert!(sources.of_new(PLAIN).unwrap().is_none());
        let first = sources.of_new(NewProfile::default()).unwrap().unwrap();
        // The attempt failed before anything was stored; the next one goes on with the same key.
        let second = sources.of_new(NewProfile::default()).unwrap().unwrap();
        create(&sources.profile, &first);
        let third = sources.of_existing().unwrap().unwrap();
        for key in [second, third] {
            assert!(MlsConnection::is_profile_key(&sources.profile, &key).unwrap());
        }
    }

    #[test]
    fn a_keychain_that_fails_says_how_and_the_ways_around_it_come_first() {
        let _alone = alone();
        let directory = tempfile::tempdir().unwrap();
        let (keychain, store) = in_memory(|_| None);
        let mut sources = sources(&directory, keychain);
        let key = sources.of_new(NewProfile::default()).unwrap().unwrap();
        create(&sources.profile, &key);
        for (fail, expected) in [
            (KeyringError::NoEntry, "keychain-entry-missing"),
            (KeyringError::NoStorageAccess("locked".into()), "keychain-locked"),
            (
                KeyringError::PlatformFailure("no bus".into()),
                "keychain-unavailable",
            ),
            (KeyringError::BadEncoding(vec![0xff]), "keychain-entry-malformed"),
        ] {
            let fail = std::sync::Mutex::new(Some(fail));
            sources.keychain = in_memory(move |_| fail.lock().unwrap().take()).0;
            assert_eq!(code(sources.of_existing()), (expected.to_owned(), Exit::Locked));
        }
        sources.command = Some("echo something else");
        let given = sources.of_existing().unwrap().unwrap();
        assert!(!MlsConnection::is_profile_key(&sources.profile, &given).unwrap());
        drop(store);
    }

    #[test]
    fn without_a_keychain_and_a_terminal_nothing_is_created_and_every_way_is_named() {
        let _alone = alone();
        let directory = tempfile::tempdir().unwrap();
        let (keychain, _) = in_memory(|_| Some(KeyringError::PlatformFailure("no bus".into())));
        let sources = sources(&directory, keychain);
        let error = sources.of_new(NewProfile::default()).unwrap_err();
        for named in [
            "no bus",
            "--passphrase-command",
            "--passphrase-fd",
            "terminal",
            "--no-encryption",
        ] {
            assert!(error.to_string().contains(named), "{error}");
        }
        assert_eq!(code::<()>(Err(error)), ("no-terminal".to_owned(), Exit::Locked));
        assert!(!sources.profile.exists());
    }

    #[test]
    fn a_key_moves_into_the_keychain_and_out_of_it_again() {
        let _alone = alone();
        let directory = tempfile::tempdir().unwrap();
        let (keychain, _) = in_memory(|_| None);
        let mut sources = sources(&directory, keychain);
        let note = Note::of(&sources.profile);
        assert_eq!(
            code(sources.change(&TO_KEYCHAIN)),
            ("not-registered".to_owned(), Exit::Unknown)
        );
        create_private(&sources.profile).unwrap();
        LocalStore::open(&sources.profile.join("larder.db")).unwrap();
        assert!(sources.of_existing().unwrap().is_none(), "not encrypted yet");

        sources.change(&TO_KEYCHAIN).unwrap();
        let first = note.entry().unwrap().unwrap();
        let opens = |sources: &Sources<'_>| {
            let key = sources.of_existing().unwrap().unwrap();
            MlsConnection::is_profile_key(&sources.profile, &key).unwrap()
        };
        assert!(opens(&sources));
        sources.change(&TO_KEYCHAIN).unwrap();
        let second = note.entry().unwrap().unwrap();
        assert_ne!(first, second);
        assert!(opens(&sources));
        assert!(
            matches!(sources.keychain.load(&first), Err(KeychainError::Missing)),
            "forgotten"
        );

        sources.change(&to_command("echo open sesame")).unwrap();
        assert!(note.entry().unwrap().is_none() && note.proposed().unwrap().is_none());
        assert!(
            matches!(sources.keychain.load(&second), Err(KeychainError::Missing)),
            "forgotten"
        );
        assert_eq!(code(sources.of_existing()).0, "no-terminal");
        sources.command = Some("echo open sesame");
        assert!(opens(&sources));
    }

    #[test]
    fn a_change_that_fails_leaves_the_keychain_as_it_was() {
        let _alone = alone();
        let directory = tempfile::tempdir().unwrap();
        let mut sources = sources_in(&directory);
        let key = sources.of_new(NewProfile::default()).unwrap().unwrap();
        create(&sources.profile, &key);
        let note = Note::of(&sources.profile);
        let entry = note.entry().unwrap();
        sources.command = Some("echo wrong");
        for to in [TO_KEYCHAIN, to_command("echo quite another")] {
            assert_eq!(
                code(sources.change(&to)),
                ("wrong-passphrase".to_owned(), Exit::Locked)
            );
            assert_eq!(
                (note.entry().unwrap(), note.proposed().unwrap()),
                (entry.clone(), None)
            );
        }
        sources.command = None;
        let key = sources.of_existing().unwrap().unwrap();
        assert!(MlsConnection::is_profile_key(&sources.profile, &key).unwrap());
    }

    #[test]
    fn a_key_that_the_profile_has_is_never_thrown_away_whatever_error_follows() {
        let _alone = alone();
        let directory = tempfile::tempdir().unwrap();
        let sources = sources_in(&directory);
        let [has, other] = ["has", "other"].map(|entry| sources.keychain.create(entry).unwrap());
        create(&sources.profile, &has);
        for (old, new, expected) in [(&other, &has, true), (&other, &other, false)] {
            let (changed, outcome) = sources.set(Some(old), new).unwrap();
            assert_eq!(code(outcome).0, "wrong-passphrase");
            assert_eq!(changed, expected);
        }
        let (changed, outcome) = sources.set(Some(&has), &other).unwrap();
        assert!(changed && outcome.is_ok());
    }

    #[test]
    fn an_interrupted_move_into_the_keychain_or_out_of_it_is_settled_by_trying_the_key() {
        let _alone = alone();
        for happened in [false, true] {
            // Into the keychain: the entry was proposed, and the profile was encrypted with it or was not.
            let directory = tempfile::tempdir().unwrap();
            let mut sources = sources_in(&directory);
            sources.command = Some("echo open sesame");
            let old = sources.of_new(NewProfile::default()).unwrap().unwrap();
            create(&sources.profile, &old);
            let new = sources.keychain.create("entry").unwrap();
            let note = Note::of(&sources.profile);
            note.propose("entry").unwrap();
            if happened {
                MlsConnection::set_profile_key(&sources.profile, Some(&old), &new).unwrap();
            }
            sources.command = None;
            let found = sources.of_existing();
            assert_eq!(note.entry().unwrap().is_some(), happened);
            assert!(note.proposed().unwrap().is_none());
            match happened {
                true => assert!(
                    MlsConnection::is_profile_key(&sources.profile, &found.unwrap().unwrap()).unwrap()
                ),
                false => assert_eq!(code(found).0, "no-terminal", "it still has its passphrase"),
            }

            // Out of it: the note was put in doubt, and the profile was encrypted with a passphrase or was not.
            let directory = tempfile::tempdir().unwrap();
            let mut sources = sources_in(&directory);
            let old = sources.of_new(NewProfile::default()).unwrap().unwrap();
            create(&sources.profile, &old);
            let note = Note::of(&sources.profile);
            note.doubt().unwrap();
            if happened {
                sources.command = Some("echo open sesame");
                let new = key(sources.given().unwrap().unwrap()).unwrap();
                MlsConnection::set_profile_key(&sources.profile, Some(&old), &new).unwrap();
                sources.command = None;
            }
            let found = sources.of_existing();
            assert_eq!(note.entry().unwrap().is_none(), happened);
            assert!(note.proposed().unwrap().is_none());
            match happened {
                true => assert_eq!(code(found).0, "no-terminal", "it has a passphrase now"),
                false => assert!(
                    MlsConnection::is_profile_key(&sources.profile, &found.unwrap().unwrap()).unwrap()
                ),
            }
        }
    }
}
