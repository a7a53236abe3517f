use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::bytes::parse;

/// The longest user name or device id, in characters.
const NAME_CHARS_MAX: usize = 64;

/// A name that breaks the rules of [`UserName`] or [`DeviceId`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MalformedName {
    /// Not a user name.
    #[error("a user name is 1 to 64 of a-z 0-9 . _ - and starts with a letter")]
    User,
    /// Not a device id.
    #[error("a device id is 1 to 64 of a-z 0-9 -")]
    Device,
    /// Not `user/device_id`.
    #[error("a credential identity is user/device_id")]
    Identity,
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $error:expr, $valid:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = MalformedName;

            fn from_str(text: &str) -> Result<Self, MalformedName> {
                let valid: fn(&str) -> bool = $valid;
                if text.is_empty() || text.len() > NAME_CHARS_MAX || !valid(text) {
                    return Err($error);
                }
                Ok(Self(text.to_owned()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                parse(deserializer)
            }
        }
    };
}

name! {
    /// The name of a user: 1 to 64 of `a-z 0-9 . _ -`, starting with a letter.
    UserName, MalformedName::User, |text| {
        text.starts_with(|c: char| c.is_ascii_lowercase())
            && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'))
    }
}
name! {
    /// The id of a device, unique on its server: 1 to 64 of `a-z 0-9 -`. Clients use a UUID.
    DeviceId, MalformedName::Device, |text| {
        text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
    }
}

/// The identity of a device's `basic` credential (RFC 9420 §5.3): `user/device_id` in UTF-8.
pub fn credential_identity(user: &UserName, device: &DeviceId) -> Vec<u8> {
    format!("{user}/{device}").into_bytes()
}

/// Reads the identity of a `basic` credential.
///
/// # Errors
/// [`MalformedName`] when it is not `user/device_id`.
pub fn parse_credential_identity(identity: &[u8]) -> Result<(UserName, DeviceId), MalformedName> {
    let text = std::str::from_utf8(identity).map_err(|_| MalformedName::Identity)?;
    let (user, device) = text.split_once('/').ok_or(MalformedName::Identity)?;
    Ok((user.parse()?, device.parse()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_names_are_lower_case_ascii_and_start_with_a_letter() {
        for good in ["a", "alice", "a.b_c-9", &"x".repeat(64)] {
            assert_eq!(good.parse::<UserName>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            "9a",
            ".a",
            "Alice",
            "al ice",
            "al/ice",
            "álice",
            "a\u{202e}b",
            "a\n",
            &"x".repeat(65),
        ] {
            assert_eq!(bad.parse::<UserName>(), Err(MalformedName::User), "{bad:?}");
        }
    }

    #[test]
    fn an_identity_names_one_user_and_one_device() {
        let (user, device) = parse_credential_identity(b"alice/0193-a").unwrap();
        assert_eq!(credential_identity(&user, &device), b"alice/0193-a");
        for bad in [
            &b"alice"[..],
            b"alice/",
            b"/a",
            b"alice/a/b",
            b"ALICE/a",
            b"\xff/a",
        ] {
            assert!(parse_credential_identity(bad).is_err(), "{bad:?}");
        }
    }
}
