//! An encrypted store: what its files show, what opens it, and that it keeps the promises of the plain one.

use std::fs;
use std::path::Path;

use crate::scan::Scanner;
use crate::support::{Device, dump, holds, private_keys, single_use};
use aes::cipher::{BlockDecrypt, KeyInit};
use aes::{Aes256, Block};
use larder_lifecycle::{DirectoryStatus, Kind, LAST_RESORT_RETIRING_SECONDS};
use larder_pool::rusqlite::{Connection, ErrorCode};
use larder_pool::zeroize::Zeroizing;
use larder_pool::{Held, KeyPackageRef, LocalStore, StoreError, StoreKey, Verdict};

const PASSPHRASE: &str = "it's \"correct\"; horse -- battery";
/// Text that an application stores beside the pool.
const CANARY: &str = "the canary sings at midnight";

fn passphrase(text: &str) -> StoreKey {
    StoreKey::passphrase(Zeroizing::new(text.to_owned())).unwrap()
}

fn raw(byte: u8) -> StoreKey {
    StoreKey::raw(Zeroizing::new([byte; 32]))
}

fn write_canary(device: &mut Device) {
    device
        .store
        .connection_mut()
        .execute_batch(&format!(
            "CREATE TABLE canary (text TEXT NOT NULL); INSERT INTO canary VALUES ('{CANARY}')"
        ))
        .unwrap();
}

fn keys_of(device: &mut Device, refs: &[KeyPackageRef]) -> Vec<Vec<u8>> {
    refs.iter()
        .flat_map(|key_package_ref| private_keys(&device.bundle(key_package_ref).unwrap()))
        .collect()
}

/// How many of the private keys of this device, of a group of its own and of its last resort, and how many words of
/// SQLite and of the application, its files show.
fn shown(device: &mut Device) -> (usize, usize, usize) {
    write_canary(device);
    let mut refs = device.mint(8);
    refs.push(device.mint_last_resort());
    let keys = keys_of(device, &refs);
    let scanner = Scanner::new(&keys);
    let mut words = 0;
    // While the log has it all, and again when the database has.
    for _ in 0..2 {
        for file in fs::read_dir(device.directory.path()).unwrap() {
            let bytes = fs::read(file.unwrap().path()).unwrap();
            for word in [
                CANARY,
                "SQLite format 3",
                "CREATE TABLE",
                "openmls_key_packages",
                "alice/phone",
            ] {
                words += usize::from(holds(&bytes, word.as_bytes()));
            }
        }
        assert!(device.store.scrub().unwrap());
    }
    (keys.len(), scanner.keys_in(device.directory.path()), words)
}

#[test]
fn x5_no_file_of_an_encrypted_store_shows_a_private_key_or_a_word() {
    for key in [passphrase(PASSPHRASE), raw(7)] {
        let mut device = Device::encrypted("alice/phone", &key);
        assert_eq!(shown(&mut device), (18, 0, 0));
    }
    let (keys, found, words) = shown(&mut Device::new("alice/phone"));
    assert_eq!(
        (keys, found),
        (18, 18),
        "in a plain store the scan finds them all"
    );
    assert!(words >= 5, "{words}");
}

#[test]
fn only_the_key_that_it_was_made_with_opens_a_store() {
    for (key, others) in [
        (passphrase(PASSPHRASE), [passphrase("it's"), raw(7)]),
        (raw(7), [raw(8), passphrase(PASSPHRASE)]),
    ] {
        let mut device = Device::encrypted("alice/phone", &key);
        device.mint(2);
        let before = device.dump();
        let (_directory, path) = device.close();
        for other in others {
            let refused = LocalStore::open_encrypted(&path, &other).err().unwrap();
            assert!(matches!(refused, StoreError::WrongKey), "{refused:?}");
            assert_silent(&refused);
        }
        let refused = LocalStore::open(&path).err().unwrap();
        assert!(matches!(refused, StoreError::Encrypted), "{refused:?}");
        let mut store = LocalStore::open_encrypted(&path, &key).unwrap();
        assert_eq!(dump(store.connection_mut()), before);
    }
}

/// An error says nothing of any key.
fn assert_silent(error: &StoreError) {
    let told = format!("{error:?} {error}");
    for secret in ["correct", "it's", "0707", "PRAGMA key"] {
        assert!(!told.contains(secret), "{told}");
    }
}

#[test]
fn a_plain_store_is_not_opened_with_a_key_and_stays_as_it_is() {
    let mut device = Device::new("alice/phone");
    device.mint(2);
    let before = device.dump();
    let (_directory, path) = device.close();
    let refused = LocalStore::open_encrypted(&path, &raw(7)).err().unwrap();
    assert!(matches!(refused, StoreError::NotEncrypted), "{refused:?}");
    let refused = LocalStore::change_key(&path, &raw(7), &raw(8)).unwrap_err();
    assert!(matches!(refused, StoreError::NotEncrypted), "{refused:?}");
    assert_eq!(dump(LocalStore::open(&path).unwrap().connection_mut()), before);
}

#[test]
fn what_is_no_database_is_told_apart_from_an_error_of_the_disk() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("device.sqlite");
    fs::write(&path, [0x5a; 8192]).unwrap();
    let refused = LocalStore::open(&path).err().unwrap();
    assert!(matches!(refused, StoreError::Encrypted), "{refused:?}");
    let refused = LocalStore::open_encrypted(&path, &raw(7)).err().unwrap();
    assert!(matches!(refused, StoreError::WrongKey), "{refused:?}");
    assert_eq!(fs::read(&path).unwrap(), [0x5a; 8192]);
    for missing in [LocalStore::encrypt, |path: &Path, key: &StoreKey| {
        LocalStore::change_key(path, &raw(7), key)
    }] {
        let path = directory.path().join("missing.sqlite");
        let refused = missing(&path, &raw(8)).unwrap_err();
        assert!(matches!(refused, StoreError::Sqlite(_)), "{refused:?}");
        assert!(!path.exists());
    }
}

#[test]
fn every_page_that_was_tampered_with_is_an_error_and_never_other_contents() {
    let mut device = Device::encrypted("alice/phone", &raw(7));
    device.mint(8);
    let before = device.dump();
    let (_directory, path) = device.close();
    let whole = fs::read(&path).unwrap();
    let pages = whole.len() / 4096;
    assert!(pages > 10, "{pages}");
    for page in 0..pages {
        let mut bytes = whole.clone();
        bytes[page * 4096 + 2000] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let failed = LocalStore::open_encrypted(&path, &raw(7)).and_then(|mut store| {
            store.transaction(|tx| -> Result<(), StoreError> {
                Ok(tx
                    .connection()
                    .query_row("PRAGMA integrity_check", [], |_| Ok(()))?)
            })
        });
        match failed.unwrap_err() {
            StoreError::WrongKey if page == 0 => {}
            StoreError::Migration(error) => assert!(format!("{error:?}").contains("malformed"), "{error:?}"),
            StoreError::Sqlite(error) => {
                let code = error.sqlite_error_code();
                let told = [
                    ErrorCode::NotADatabase,
                    ErrorCode::DatabaseCorrupt,
                    ErrorCode::Unknown,
                ];
                assert!(
                    code.is_some_and(|code| told.contains(&code)),
                    "page {page}: {error:?}"
                );
            }
            other => panic!("page {page}: {other:?}"),
        }
    }
    fs::write(&path, &whole).unwrap();
    let mut store = LocalStore::open_encrypted(&path, &raw(7)).unwrap();
    assert_eq!(dump(store.connection_mut()), before);
}

#[test]
fn an_encrypted_store_grants_what_the_pool_depends_on() {
    let mut device = Device::encrypted("alice/phone", &passphrase(PASSPHRASE));
    let connection = device.store.connection_mut();
    for (pragma, granted) in [
        ("synchronous", 2),
        ("secure_delete", 1),
        ("foreign_keys", 1),
        ("temp_store", 2),
    ] {
        let value: i64 = connection
            .pragma_query_value(None, pragma, |row| row.get(0))
            .unwrap();
        assert_eq!(value, granted, "{pragma}");
    }
    let mode: String = connection
        .pragma_query_value(None, "journal_mode", |row| row.get(0))
        .unwrap();
    assert_eq!(mode, "wal");
    device.mint(4);
    #[cfg(unix)]
    for file in fs::read_dir(device.directory.path()).unwrap() {
        use std::os::unix::fs::PermissionsExt;
        let mode = file.unwrap().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0);
    }
    device.assert_consistent(4);
}

/// Whoever has the key finds no erased private key either: the pages are decrypted for the scan, free space included.
#[test]
fn c5_an_erased_key_is_not_even_behind_the_encryption() {
    let key = [7; 32];
    let mut device = Device::encrypted("alice/phone", &raw(7));
    let refs = device.mint(11);
    device.begin_upload();
    let old = device.stock_last_resort().key_package_ref;
    let (victims, survivors) = refs.split_at(6);
    let mut keys = keys_of(&mut device, victims);
    keys.extend(keys_of(&mut device, &[old]));
    let kept_keys = keys_of(&mut device, survivors);
    let (erased, kept) = (Scanner::new(&keys), Scanner::new(&kept_keys));
    assert_eq!(erased.keys_in(decrypted(&mut device, &key).path()), keys.len());

    for victim in victims {
        device.confirm(victim, Verdict::Held(single_use(DirectoryStatus::Revoked)));
    }
    let new = device.mint_last_resort();
    device.begin_upload();
    device.confirm(&new, Verdict::Held(Held::available(Kind::LastResort)));
    device.now = device.now.plus(LAST_RESORT_RETIRING_SECONDS + 1);
    assert_eq!(device.sweep().retired, 1);
    assert!(!device.store.purge_owed().unwrap());
    let log = fs::metadata(device.directory.path().join("device.sqlite-wal")).unwrap();
    assert!(log.len() <= 32 + 24 + 4096, "the log was emptied, and notes that");
    let plain = decrypted(&mut device, &key);
    assert_eq!(erased.keys_in(plain.path()), 0);
    assert_eq!(kept.keys_in(plain.path()), kept_keys.len());
}

/// The pages of the database as they are behind the encryption: AES-256-CBC, with 16 bytes of IV and 64 of HMAC at the
/// end of each page, and the salt at the beginning of the first.
fn decrypted(device: &mut Device, key: &[u8; 32]) -> tempfile::TempDir {
    assert!(device.store.scrub().unwrap(), "all of it is in the pages");
    let cipher = Aes256::new(key.into());
    let mut plain = Vec::new();
    for (number, page) in fs::read(device.path()).unwrap().chunks(4096).enumerate() {
        let (encrypted, end) = page.split_at(4096 - 80);
        let mut before = &end[..16];
        for block in encrypted[if number == 0 { 16 } else { 0 }..].chunks(16) {
            let mut decrypted = Block::clone_from_slice(block);
            cipher.decrypt_block(&mut decrypted);
            plain.extend(decrypted.iter().zip(before).map(|(byte, mask)| byte ^ mask));
            before = block;
        }
    }
    assert!(holds(&plain, b"CREATE TABLE"), "decrypted");
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("pages"), plain).unwrap();
    directory
}

#[test]
fn an_invitation_joins_across_a_change_of_key() {
    let mut bob = Device::encrypted("bob/phone", &passphrase(PASSPHRASE));
    let upload = bob.stock(3).remove(0);
    let invitation = Device::new("alice/phone").invite(&upload);
    let before = bob.dump();
    bob.reopened(|path| {
        let refused = LocalStore::change_key(path, &raw(7), &raw(8)).unwrap_err();
        assert!(matches!(refused, StoreError::WrongKey), "{refused:?}");
        LocalStore::change_key(path, &passphrase(PASSPHRASE), &raw(8)).unwrap();
        let refused = LocalStore::open_encrypted(path, &passphrase(PASSPHRASE))
            .err()
            .unwrap();
        assert!(matches!(refused, StoreError::WrongKey), "{refused:?}");
        LocalStore::open_encrypted(path, &raw(8)).unwrap()
    });
    assert_eq!(bob.dump(), before);
    bob.join(&invitation).unwrap();
    assert!(bob.has_group(&invitation.group_id));
    bob.assert_consistent(2);
}

#[test]
fn encrypting_in_place_keeps_every_row_and_guard_and_leaves_nothing_in_the_clear() {
    let mut device = Device::new("alice/phone");
    let refs = device.mint(5);
    write_canary(&mut device);
    device
        .store
        .connection_mut()
        .execute_batch("PRAGMA user_version = 41; PRAGMA application_id = 42")
        .unwrap();
    let keys = keys_of(&mut device, &refs);
    let scanner = Scanner::new(&keys);
    assert_eq!(scanner.keys_in(device.directory.path()), keys.len());
    let before = device.dump();
    let schema = |device: &mut Device| -> Vec<Option<String>> {
        let connection = device.store.connection_mut();
        let mut sql = connection
            .prepare("SELECT sql FROM sqlite_schema ORDER BY type, name")
            .unwrap();
        sql.query_map([], |row| row.get(0))
            .unwrap()
            .map(Result::unwrap)
            .collect()
    };
    let objects = schema(&mut device);
    assert!(
        objects
            .iter()
            .flatten()
            .any(|sql| sql.starts_with("CREATE TRIGGER"))
    );

    // Under a second name, the old file can be looked at after it was replaced.
    let witness = tempfile::tempdir_in(device.directory.path().parent().unwrap()).unwrap();
    let old = witness.path().join("old");
    device.reopened(|path| {
        fs::hard_link(path, &old).unwrap();
        LocalStore::encrypt(path, &passphrase(PASSPHRASE)).unwrap();
        LocalStore::open_encrypted(path, &passphrase(PASSPHRASE)).unwrap()
    });
    assert!(
        fs::read(&old).unwrap().iter().all(|&byte| byte == 0),
        "overwritten"
    );
    assert_eq!(scanner.keys_in(device.directory.path()), 0);
    let names: Vec<_> = fs::read_dir(device.directory.path())
        .unwrap()
        .map(|file| file.unwrap().file_name())
        .filter(|name| name != "device.sqlite-wal" && name != "device.sqlite-shm")
        .collect();
    assert_eq!(names, ["device.sqlite"], "nothing stays beside it");

    assert_eq!(device.dump(), before);
    assert_eq!(schema(&mut device), objects);
    let connection = device.store.connection_mut();
    for (pragma, expected) in [("user_version", 41), ("application_id", 42)] {
        let value: i64 = connection
            .pragma_query_value(None, pragma, |row| row.get(0))
            .unwrap();
        assert_eq!(value, expected, "{pragma}");
    }
    let refused = connection.execute("DELETE FROM keypackage_pool_metadata", []);
    assert!(
        refused.unwrap_err().to_string().contains("would be orphaned"),
        "the triggers are there"
    );
    device.assert_consistent(5);
    let (_directory, path) = device.close();
    let again = LocalStore::encrypt(&path, &raw(9)).unwrap_err();
    assert!(matches!(again, StoreError::Encrypted), "{again:?}");
}

#[test]
fn a_store_in_use_is_not_rewritten() {
    let mut device = Device::new("alice/phone");
    device.mint(1);
    let before = device.dump();
    let refused = LocalStore::encrypt(&device.path(), &raw(7)).unwrap_err();
    assert!(matches!(refused, StoreError::InUse), "{refused:?}");
    device.mint(1);
    device.assert_consistent(2);
    let (_directory, path) = device.close();
    let reader = Connection::open(&path).unwrap();
    reader
        .execute_batch("BEGIN; SELECT count(*) FROM sqlite_schema")
        .unwrap();
    let refused = LocalStore::encrypt(&path, &raw(7)).unwrap_err();
    assert!(matches!(refused, StoreError::InUse), "{refused:?}");
    drop(reader);
    LocalStore::encrypt(&path, &raw(7)).unwrap();
    let after = dump(
        LocalStore::open_encrypted(&path, &raw(7))
            .unwrap()
            .connection_mut(),
    );
    assert_ne!(after, before, "what was minted meanwhile is there");
}
