//! The keychain of the operating system: Keychain Services, Credential Manager, or the Secret Service.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keyring::Entry;
use larder_client::zeroize::Zeroizing;
use larder_client::{RAW_KEY_BYTES, StoreKey};

const SERVICE: &str = "larder";
/// The system may show a window that asks for a password; somebody has this long to answer it.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why the keychain does not give a key, or does not take it.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeychainError {
    /// It has no such entry.
    #[error("the keychain has no key for this profile")]
    Missing,
    /// It has the entry and does not show it.
    #[error("the keychain is locked, or refuses: {0}")]
    Locked(String),
    /// There is none, or it failed.
    #[error("no keychain can be used: {0}")]
    Unavailable(String),
    /// What it has is no key.
    #[error("what the keychain has for this profile is not a key")]
    Malformed,
}

impl KeychainError {
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::Missing => "keychain-entry-missing",
            Self::Locked(_) => "keychain-locked",
            Self::Unavailable(_) => "keychain-unavailable",
            Self::Malformed => "keychain-entry-malformed",
        }
    }
}

/// Of an error's own data only its words are taken: some have the secret among it.
impl From<keyring::Error> for KeychainError {
    fn from(error: keyring::Error) -> Self {
        use keyring::Error as E;
        match error {
            E::NoEntry => Self::Missing,
            E::NoStorageAccess(cause) => Self::Locked(cause.to_string()),
            E::PlatformFailure(cause) => Self::Unavailable(cause.to_string()),
            E::NoDefaultStore => match Entry::store_status() {
                Err(E::PlatformFailure(cause) | E::NoStorageAccess(cause)) => {
                    Self::Unavailable(cause.to_string())
                }
                Err(_) | Ok(()) => Self::Unavailable("there is none".to_owned()),
            },
            E::BadEncoding(_) | E::BadDataFormat(..) => Self::Malformed,
            // The library may add others.
            _ => Self::Unavailable("it failed".to_owned()),
        }
    }
}

type Open = dyn Fn(&str) -> keyring::Result<Entry> + Send + Sync;

pub(super) struct Keychain {
    open: Arc<Open>,
}

impl Keychain {
    pub(super) fn system() -> Self {
        Self {
            open: Arc::new(|entry| Entry::new(SERVICE, entry)),
        }
    }

    /// The key in an entry.
    pub(super) fn load(&self, entry: &str) -> Result<StoreKey, KeychainError> {
        let text = self.with(entry, |entry| Ok(Zeroizing::new(entry.get_password()?)))?;
        let mut key = Zeroizing::new([0; RAW_KEY_BYTES]);
        // The decoder wants room for what it cannot know to be padding.
        let mut bytes = Zeroizing::new([0; RAW_KEY_BYTES + 2]);
        match URL_SAFE_NO_PAD.decode_slice(text.as_bytes(), bytes.as_mut_slice()) {
            Ok(RAW_KEY_BYTES) => {
                key.copy_from_slice(&bytes[..RAW_KEY_BYTES]);
                Ok(StoreKey::raw(key))
            }
            Ok(_) | Err(_) => Err(KeychainError::Malformed),
        }
    }

    /// Makes a new random key and keeps it in this entry.
    pub(super) fn create(&self, entry: &str) -> Result<StoreKey, KeychainError> {
        let mut key = Zeroizing::new([0; RAW_KEY_BYTES]);
        random(key.as_mut_slice())?;
        let text = Zeroizing::new(URL_SAFE_NO_PAD.encode(key.as_slice()));
        self.with(entry, move |entry| entry.set_password(&text))?;
        // What a keychain does not give back would be lost with the profile.
        self.load(entry)
    }

    /// Removes an entry that no profile needs any more.
    pub(super) fn remove(&self, entry: &str) -> Result<(), KeychainError> {
        self.with(entry, |entry| entry.delete_credential())
    }

    /// On a thread of its own: the library blocks, and may wait for a window that nobody answers.
    fn with<T: Send + 'static>(
        &self,
        entry: &str,
        work: impl FnOnce(&Entry) -> keyring::Result<T> + Send + 'static,
    ) -> Result<T, KeychainError> {
        let (done, answer) = channel();
        let (open, entry) = (Arc::clone(&self.open), entry.to_owned());
        thread::spawn(move || {
            let _ = done.send(
                open(&entry)
                    .and_then(|entry| work(&entry))
                    .map_err(KeychainError::from),
            );
        });
        match answer.recv_timeout(PATIENCE) {
            Ok(answered) => answered,
            Err(RecvTimeoutError::Timeout) => Err(KeychainError::Locked("nobody unlocked it".to_owned())),
            Err(RecvTimeoutError::Disconnected) => Err(KeychainError::Unavailable("it failed".to_owned())),
        }
    }
}

/// A name for a new entry: 128 random bits.
pub(super) fn new_entry() -> Result<String, KeychainError> {
    let mut name = [0; 16];
    random(&mut name)?;
    Ok(URL_SAFE_NO_PAD.encode(name))
}

fn random(bytes: &mut [u8]) -> Result<(), KeychainError> {
    getrandom::fill(bytes)
        .map_err(|_| KeychainError::Unavailable("the system gives no random bytes".to_owned()))
}

#[cfg(test)]
pub(super) mod tests {
    use keyring_core::mock;

    use super::*;

    /// A keychain in memory. What `fail` returns for an entry is what the keychain does with it.
    pub(crate) fn in_memory(
        fail: impl Fn(&str) -> Option<keyring::Error> + Send + Sync + 'static,
    ) -> (Keychain, Arc<mock::Store>) {
        let store = mock::Store::new().unwrap();
        let entries: Arc<keyring_core::CredentialStore> = store.clone();
        let open = move |name: &str| {
            let inner = keyring_core::Entry::new_in_store(&entries, SERVICE, name)?;
            if let Some(error) = fail(name) {
                inner
                    .as_any()
                    .downcast_ref::<mock::Cred>()
                    .unwrap()
                    .set_error(error);
            }
            Ok(Entry { inner })
        };
        (Keychain { open: Arc::new(open) }, store)
    }

    #[test]
    fn a_key_that_was_created_is_given_back_until_it_is_removed() {
        let (keychain, _) = in_memory(|_| None);
        assert!(matches!(keychain.load("one"), Err(KeychainError::Missing)));
        keychain.create("one").unwrap();
        keychain.load("one").unwrap();
        assert!(matches!(keychain.load("other"), Err(KeychainError::Missing)));
        keychain.remove("one").unwrap();
        assert!(matches!(keychain.load("one"), Err(KeychainError::Missing)));
    }

    #[test]
    fn what_is_not_a_key_is_not_used_and_not_told() {
        let (keychain, _) = in_memory(|_| None);
        for text in ["", "short", "!!!!", &"A".repeat(42), &"A".repeat(44)] {
            let text = text.to_owned();
            keychain
                .with("one", move |entry| entry.set_password(&text))
                .unwrap();
            assert!(matches!(keychain.load("one"), Err(KeychainError::Malformed)));
        }
        let text = "A".repeat(43);
        keychain
            .with("one", move |entry| entry.set_password(&text))
            .unwrap();
        keychain.load("one").unwrap();
        let told = KeychainError::from(keyring::Error::BadEncoding(b"the canary sings".to_vec()));
        assert!(!format!("{told:?} {told}").contains("canary"));
    }

    #[test]
    fn a_keychain_that_is_locked_is_told_apart_from_one_that_is_not_there() {
        let (locked, _) = in_memory(|_| Some(keyring::Error::NoStorageAccess("dismissed".into())));
        assert!(matches!(locked.load("one"), Err(KeychainError::Locked(_))));
        let (absent, _) = in_memory(|_| Some(keyring::Error::PlatformFailure("no bus".into())));
        assert!(matches!(absent.create("one"), Err(KeychainError::Unavailable(_))));
    }
}
