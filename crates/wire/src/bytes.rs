use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::limits::{GROUP_ID_BYTES_MAX, STATE_MARK_BYTES_MAX};

/// The longest KeyPackageRef of any MLS hash function (SHA-512), in bytes.
const KEY_PACKAGE_REF_BYTES_MAX: usize = 64;

/// A string that is not base64url without padding, or that decodes to a forbidden length.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not base64url without padding, or of a length that is not allowed")]
pub struct MalformedBytes;

/// Bytes that travel as base64url without padding (RFC 4648 §5).
///
/// `Debug` prints the length only: what it holds may be a signature or a token.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Base64Url(pub Vec<u8>);

impl Base64Url {
    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Base64Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Base64Url({} bytes)", self.0.len())
    }
}

impl fmt::Display for Base64Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(&self.0))
    }
}

impl FromStr for Base64Url {
    type Err = MalformedBytes;

    fn from_str(text: &str) -> Result<Self, MalformedBytes> {
        URL_SAFE_NO_PAD.decode(text).map(Self).map_err(|_| MalformedBytes)
    }
}

impl From<Vec<u8>> for Base64Url {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl Serialize for Base64Url {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Base64Url {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parse(deserializer)
    }
}

/// Reads a string and parses it with `FromStr`.
pub(crate) fn parse<'de, D: Deserializer<'de>, T: FromStr<Err: fmt::Display>>(
    deserializer: D,
) -> Result<T, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(de::Error::custom)
}

macro_rules! bounded_bytes {
    ($(#[$doc:meta])* $name:ident, $max:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Vec<u8>);

        impl $name {
            /// Takes raw bytes.
            ///
            /// # Errors
            /// [`MalformedBytes`] when there are none, or too many.
            pub fn from_bytes(bytes: &[u8]) -> Result<Self, MalformedBytes> {
                if bytes.is_empty() || bytes.len() > $max {
                    return Err(MalformedBytes);
                }
                Ok(Self(bytes.to_vec()))
            }

            /// The raw bytes.
            pub fn as_bytes(&self) -> &[u8] {
                &self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&URL_SAFE_NO_PAD.encode(&self.0))
            }
        }

        impl FromStr for $name {
            type Err = MalformedBytes;

            fn from_str(text: &str) -> Result<Self, MalformedBytes> {
                Self::from_bytes(&URL_SAFE_NO_PAD.decode(text).map_err(|_| MalformedBytes)?)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                parse(deserializer)
            }
        }
    };
}

bounded_bytes! {
    /// The hash reference of a KeyPackage (RFC 9420 §5.2): the hash alone, without its length prefix;
    /// 1 to 64 bytes.
    KeyPackageRef, KEY_PACKAGE_REF_BYTES_MAX
}
bounded_bytes! {
    /// An MLS group id (RFC 9420 §8.1); 1 to [`GROUP_ID_BYTES_MAX`] bytes.
    GroupId, GROUP_ID_BYTES_MAX
}
bounded_bytes! {
    /// Stands for the state of a device at one of its requests; 1 to [`STATE_MARK_BYTES_MAX`] random bytes.
    StateMark, STATE_MARK_BYTES_MAX
}

#[cfg(feature = "openapi")]
mod openapi {
    use super::{Base64Url, GroupId, KeyPackageRef, StateMark};
    use crate::blobs::BlobId;
    use crate::invite_code::InviteCode;
    use crate::names::{DeviceId, UserName};

    macro_rules! string_schema {
        ($($name:ident: $description:expr, $pattern:expr;)*) => {$(
            impl utoipa::PartialSchema for $name {
                fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                    utoipa::openapi::ObjectBuilder::new()
                        .schema_type(utoipa::openapi::schema::Type::String)
                        .pattern(Some($pattern))
                        .description(Some($description))
                        .into()
                }
            }
            impl utoipa::ToSchema for $name {}
        )*};
    }

    string_schema! {
        Base64Url: "Bytes as base64url without padding (RFC 4648 §5)", "^[A-Za-z0-9_-]*$";
        KeyPackageRef: "KeyPackageRef (RFC 9420 §5.2) as base64url without padding", "^[A-Za-z0-9_-]{1,86}$";
        GroupId: "MLS group id as base64url without padding, 1 to 64 bytes", "^[A-Za-z0-9_-]{1,86}$";
        BlobId: "Names a blob: 32 random bytes as base64url without padding", "^[A-Za-z0-9_-]{43}$";
        StateMark: "Stands for a device's state: 16 random bytes as base64url without padding", "^[A-Za-z0-9_-]{1,22}$";
        InviteCode: "larder-invite: and 28 characters of Crockford's base32 in groups of four; case and hyphens do not matter",
            "^([Ll][Aa][Rr][Dd][Ee][Rr]-?[Ii][Nn][Vv][Ii][Tt][Ee]:)?(-?[0-9A-TV-Za-tv-z]){28}$";
        UserName: "1 to 64 of a-z 0-9 . _ -, starting with a letter", "^[a-z][a-z0-9._-]{0,63}$";
        DeviceId: "1 to 64 of a-z 0-9 -", "^[a-z0-9-]{1,64}$";
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_round_trip_through_json_and_hide_in_debug() {
        let bytes = Base64Url(vec![0xfb, 0xff, 0x00]);
        let json = serde_json::to_string(&bytes).unwrap();
        assert_eq!(json, r#""-_8A""#);
        assert_eq!(serde_json::from_str::<Base64Url>(&json).unwrap(), bytes);
        assert_eq!(format!("{bytes:?}"), "Base64Url(3 bytes)");
    }

    #[test]
    fn padding_the_standard_alphabet_and_stray_bits_are_refused() {
        for text in ["-_8A==", "+/8A", "a", "-_9", "é", " AAAA"] {
            assert_eq!(text.parse::<Base64Url>(), Err(MalformedBytes), "{text}");
        }
    }

    #[test]
    fn references_and_group_ids_are_bounded() {
        assert!(KeyPackageRef::from_bytes(&[]).is_err());
        assert!(KeyPackageRef::from_bytes(&[1; 64]).is_ok());
        assert!(KeyPackageRef::from_bytes(&[1; 65]).is_err());
        assert!(GroupId::from_bytes(&[1; 65]).is_err());
    }
}
