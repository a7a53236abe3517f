//! A program that was built without SQLCipher writes nothing that was to be encrypted.

use std::fs;

use larder_pool::zeroize::Zeroizing;
use larder_pool::{LocalStore, RAW_KEY_BYTES, StoreError, StoreKey};

#[test]
fn a_key_is_refused_before_anything_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("device.sqlite");
    let key = StoreKey::raw(Zeroizing::new([7; RAW_KEY_BYTES]));
    let refused = LocalStore::open_encrypted(&path, &key).err().unwrap();
    assert!(matches!(refused, StoreError::NoCipher), "{refused:?}");
    assert!(!path.exists());

    drop(LocalStore::open(&path).unwrap());
    let plain = fs::read(&path).unwrap();
    let refused = [
        LocalStore::open_encrypted(&path, &key).map(drop),
        LocalStore::encrypt(&path, &key),
        LocalStore::change_key(&path, &key, &key),
    ];
    for refused in refused {
        assert!(matches!(refused, Err(StoreError::NoCipher)), "{refused:?}");
    }
    assert_eq!(fs::read(&path).unwrap(), plain);
}
