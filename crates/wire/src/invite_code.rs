use std::fmt;
use std::str::FromStr;

use base32::Alphabet;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

use crate::bytes::parse;

/// What a code hides, in bytes: with 128 random bits, guessing needs no limit.
pub const INVITE_SECRET_BYTES: usize = 16;

/// What a code starts with.
const PREFIX: &str = "larder-invite:";
/// The same without what does not matter.
const PREFIX_PLAIN: &str = "LARDERINVITE:";
/// Characters between two hyphens.
const GROUP_CHARS: usize = 4;
/// The longest text that is looked at, in characters. A code of ours has 48.
const CODE_CHARS_MAX: usize = 128;

/// What the operator of a server gives to somebody who is to register there: good once, and for some time.
///
/// It is written in Crockford's base32, in groups of four. Case, hyphens, spaces and the prefix do not matter, nor do `O`
/// for `0` and `I` or `L` for `1`. Its last characters tell most mistakes in the others.
///
/// Whoever has it can use it: `Debug` hides it, and there is no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct InviteCode {
    secret: [u8; INVITE_SECRET_BYTES],
}

/// Not an invitation code. What it was is not repeated: it may be nearly one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an invitation code")]
pub struct MalformedInviteCode;

impl InviteCode {
    /// The code that hides these bytes, which must be random.
    pub fn new(secret: [u8; INVITE_SECRET_BYTES]) -> Self {
        Self { secret }
    }

    /// What it hides.
    pub fn secret(&self) -> &[u8; INVITE_SECRET_BYTES] {
        &self.secret
    }

    /// The code as it is handed over.
    pub fn reveal(&self) -> String {
        let mut text = PREFIX.to_owned();
        for (index, character) in self.encoded().chars().enumerate() {
            if index > 0 && index % GROUP_CHARS == 0 {
                text.push('-');
            }
            text.push(character);
        }
        text
    }

    /// The secret, and a byte of its hash for somebody who mistypes it.
    fn encoded(&self) -> String {
        let [check, ..] = <[u8; 32]>::from(Sha256::digest([PREFIX.as_bytes(), &self.secret].concat()));
        base32::encode(Alphabet::Crockford, &[&self.secret[..], &[check]].concat())
    }
}

impl fmt::Debug for InviteCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InviteCode(..)")
    }
}

impl FromStr for InviteCode {
    type Err = MalformedInviteCode;

    fn from_str(text: &str) -> Result<Self, MalformedInviteCode> {
        if text.len() > CODE_CHARS_MAX {
            return Err(MalformedInviteCode);
        }
        let plain: String = text
            .chars()
            .filter(|character| *character != '-' && !character.is_whitespace())
            .map(|character| character.to_ascii_uppercase())
            .collect();
        let encoded: String = plain
            .strip_prefix(PREFIX_PLAIN)
            .unwrap_or(&plain)
            .chars()
            .map(|character| match character {
                'O' => '0',
                'I' | 'L' => '1',
                other => other,
            })
            .collect();
        let bytes = base32::decode(Alphabet::Crockford, &encoded).ok_or(MalformedInviteCode)?;
        let secret = *bytes.first_chunk().ok_or(MalformedInviteCode)?;
        let code = Self { secret };
        // This holds the check against the secret, too.
        (code.encoded() == encoded)
            .then_some(code)
            .ok_or(MalformedInviteCode)
    }
}

impl Serialize for InviteCode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.reveal())
    }
}

impl<'de> Deserialize<'de> for InviteCode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parse(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "larder-invite:60RK-4CSM-6MV3-EE1S-C5H6-6S35-CTCG";

    fn code() -> InviteCode {
        InviteCode::new(*b"0123456789abcdef")
    }

    #[test]
    fn a_code_can_be_typed_in_many_ways() {
        let text = code().reveal();
        assert_eq!(text, TEXT);
        let bare = text.strip_prefix(PREFIX).unwrap();
        for typed in [
            text.clone(),
            text.to_lowercase(),
            text.to_uppercase(),
            bare.to_owned(),
            bare.replace('-', ""),
            bare.replace('-', " "),
            bare.replace('0', "o").replace('1', "l"),
            bare.replace('0', "O").replace('1', "I"),
            format!("  {text}\n"),
        ] {
            assert_eq!(typed.parse(), Ok(code()), "{typed}");
        }
    }

    #[test]
    fn what_is_cut_short_too_long_or_mistyped_is_no_code_and_is_not_repeated() {
        let text = code().reveal();
        let mut mistyped = text.clone().into_bytes();
        mistyped[20] = if mistyped[20] == b'Z' { b'Y' } else { b'Z' };
        let mistyped = String::from_utf8(mistyped).unwrap();
        for bad in [
            "",
            PREFIX,
            &text[..text.len() - 2],
            &format!("{text}AA"),
            &text.replace(':', ";"),
            // Only in the bits that fill the last character up.
            &text.replace("CTCG", "CTCH"),
            &format!("{text}{}", "-".repeat(CODE_CHARS_MAX)),
            &mistyped,
            "larder-invite:ÄÖÜ€-0000-0000-0000-0000-0000-0000",
        ] {
            let error = bad.parse::<InviteCode>().unwrap_err();
            assert_eq!(
                format!("{error} {error:?}"),
                "not an invitation code MalformedInviteCode"
            );
        }
    }

    #[test]
    fn a_code_redacts_itself() {
        assert_eq!(format!("{:?}", code()), "InviteCode(..)");
    }
}
