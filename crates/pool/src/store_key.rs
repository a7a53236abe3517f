use std::fmt;

use rusqlite::Connection;
use zeroize::Zeroizing;

use crate::error::StoreError;

/// The longest passphrase, in bytes.
pub const PASSPHRASE_BYTES_MAX: usize = 1024;
/// The length of a key that is used as it is, in bytes.
pub const RAW_KEY_BYTES: usize = 32;

/// The length of what SQLCipher takes for a raw key instead of a passphrase: `x'…'` around 64 hexadecimal digits, or
/// around 96 when a salt follows.
const RAW_FORM_CHARS: [usize; 2] = [3 + 2 * RAW_KEY_BYTES, 3 + 2 * RAW_KEY_BYTES + 32];

/// What opens an encrypted [`LocalStore`](crate::LocalStore): a passphrase, from which SQLCipher derives the key
/// (PBKDF2-HMAC-SHA512, 256,000 rounds), or the key itself.
///
/// It is overwritten when this is dropped, and no output of `Debug` shows it.
#[derive(Clone)]
pub struct StoreKey(Form);

#[derive(Clone)]
enum Form {
    Passphrase(Zeroizing<String>),
    Raw(Zeroizing<[u8; RAW_KEY_BYTES]>),
}

/// Why a text is no passphrase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PassphraseError {
    /// Nothing.
    #[error("the passphrase is empty")]
    Empty,
    /// More than [`PASSPHRASE_BYTES_MAX`].
    #[error("a passphrase is 1,024 bytes at most")]
    TooLong,
    /// It has a NUL, at which SQLCipher would end it.
    #[error("a passphrase has no NUL character")]
    Nul,
    /// It looks like `x'0123…'`, which SQLCipher would use as the key itself.
    #[error("a passphrase is not a key in hexadecimal")]
    RawForm,
}

impl StoreKey {
    /// A key that is derived from a passphrase, each time that the file is opened.
    ///
    /// # Errors
    /// [`PassphraseError`].
    pub fn passphrase(text: Zeroizing<String>) -> Result<Self, PassphraseError> {
        if text.is_empty() {
            return Err(PassphraseError::Empty);
        }
        if text.len() > PASSPHRASE_BYTES_MAX {
            return Err(PassphraseError::TooLong);
        }
        if text.contains('\0') {
            return Err(PassphraseError::Nul);
        }
        if RAW_FORM_CHARS.contains(&text.len()) && text.starts_with(['x', 'X']) && text[1..].starts_with('\'')
        {
            return Err(PassphraseError::RawForm);
        }
        Ok(Self(Form::Passphrase(text)))
    }

    /// A key that is used as it is. It must be random: nothing makes guessing it slow.
    pub fn raw(key: Zeroizing<[u8; RAW_KEY_BYTES]>) -> Self {
        Self(Form::Raw(key))
    }

    /// The key as SQLCipher takes it.
    pub(crate) fn text(&self) -> Zeroizing<String> {
        match &self.0 {
            Form::Passphrase(text) => text.clone(),
            Form::Raw(key) => {
                // Of its final capacity: growing would leave a copy behind.
                let mut text = Zeroizing::new(String::with_capacity(RAW_FORM_CHARS[0]));
                text.push_str("x'");
                for byte in key.iter() {
                    for nibble in [byte >> 4, byte & 0xf] {
                        text.extend(char::from_digit(nibble.into(), 16));
                    }
                }
                text.push('\'');
                text
            }
        }
    }

    /// Gives the key to a connection that has not read anything yet.
    pub(crate) fn give(&self, connection: &Connection) -> Result<(), StoreError> {
        let text = self.text();
        let quotes = text.matches('\'').count();
        let mut sql = Zeroizing::new(String::with_capacity(
            "PRAGMA key = ''".len() + text.len() + quotes,
        ));
        sql.push_str("PRAGMA key = '");
        for character in text.chars() {
            if character == '\'' {
                sql.push('\'');
            }
            sql.push(character);
        }
        sql.push('\'');
        // An error of rusqlite may quote the statement, so it goes no further.
        connection
            .execute_batch(&sql)
            .map_err(|_| StoreError::Pragma("key"))?;
        // SQLCipher would tell of a wrong key on the standard error of whatever program this is.
        connection.pragma_update(None, "cipher_log_level", "NONE")?;
        Ok(())
    }
}

impl fmt::Debug for StoreKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StoreKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passphrase(text: &str) -> Result<StoreKey, PassphraseError> {
        StoreKey::passphrase(Zeroizing::new(text.to_owned()))
    }

    #[test]
    fn what_sqlcipher_would_not_take_as_it_stands_is_no_passphrase() {
        assert_eq!(passphrase("").unwrap_err(), PassphraseError::Empty);
        assert_eq!(passphrase("a\0b").unwrap_err(), PassphraseError::Nul);
        assert_eq!(
            passphrase(&"x".repeat(1025)).unwrap_err(),
            PassphraseError::TooLong
        );
        for digits in [64, 96] {
            for x in ["x", "X"] {
                let raw = format!("{x}'{}'", "0".repeat(digits));
                assert_eq!(passphrase(&raw).unwrap_err(), PassphraseError::RawForm);
            }
        }
        for good in [
            "x",
            " ",
            "it's",
            "x'00'",
            "ключ",
            &"x".repeat(1024),
            &"'".repeat(67),
        ] {
            assert_eq!(passphrase(good).unwrap().text().as_str(), good);
        }
    }

    #[test]
    fn a_raw_key_is_spelled_in_hexadecimal() {
        let key: [u8; RAW_KEY_BYTES] = std::array::from_fn(|at| (at * 8 + 1) as u8);
        assert_eq!(
            StoreKey::raw(Zeroizing::new(key)).text().as_str(),
            "x'0109111921293139414951596169717981899199a1a9b1b9c1c9d1d9e1e9f1f9'"
        );
    }

    #[test]
    fn debug_shows_nothing_of_a_key() {
        assert_eq!(
            format!("{:?}", passphrase("open sesame").unwrap()),
            "StoreKey(..)"
        );
        let raw = StoreKey::raw(Zeroizing::new([7; RAW_KEY_BYTES]));
        assert_eq!(format!("{raw:?}"), "StoreKey(..)");
    }
}
