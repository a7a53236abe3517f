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
            true => {
                assert!(MlsConnection::is_profile_key(&sources.profile, &found.unwrap().unwrap()).unwrap())
            }
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
            false => {
                assert!(MlsConnection::is_profile_key(&sources.profile, &found.unwrap().unwrap()).unwrap())
            }
        }
    }
}
