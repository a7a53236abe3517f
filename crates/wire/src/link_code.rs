use std::fmt;
use std::str::FromStr;

use crate::accounts::{Proofs, RegisterRequest};
use crate::bytes::Base64Url;

/// What a link code starts with.
const PREFIX: &str = "larder-link:";
/// The first byte inside, so that a later form is told apart.
const VERSION: u8 = 2;
/// What a code hides, in bytes.
pub const LINK_SECRET_BYTES: usize = 16;
/// The longest code that is looked at, in characters. One of ours has about 420.
const CODE_CHARS_MAX: usize = 2048;

/// What a new device shows, for a person to carry to a device that the user has: all that the latter needs to let it in.
///
/// It is secret until it was used: by what it hides the new device knows that it was let in by whoever had the code, and to whom
/// it belongs. Whoever carries it must also make sure that it arrives as it was shown: the device that is let in is the one of
/// the code that arrives. `Debug` hides the secret, and there is no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct LinkCode {
    /// The name of the server that the proofs are for.
    pub server_name: String,
    /// The new device.
    pub device: RegisterRequest,
    /// Random bytes of the new device's, the key of the [`Introduction`](crate::Introduction)'s proof.
    pub secret: [u8; LINK_SECRET_BYTES],
}

/// Not a link code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a link code")]
pub struct MalformedLinkCode;

impl fmt::Debug for LinkCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkCode")
            .field("server_name", &self.server_name)
            .field("device", &self.device)
            .finish_non_exhaustive()
    }
}

impl LinkCode {
    /// The code as it is carried.
    pub fn reveal(&self) -> String {
        let RegisterRequest {
            user,
            device_id,
            auth_key,
            mls_signature_key,
            proofs,
        } = &self.device;
        let parts = [
            self.server_name.as_bytes(),
            user.as_str().as_bytes(),
            device_id.as_str().as_bytes(),
            &auth_key.0,
            &mls_signature_key.0,
            &proofs.auth.0,
            &proofs.mls.0,
            &self.secret,
        ];
        let mut bytes = vec![VERSION];
        for part in parts {
            let length = u16::try_from(part.len()).unwrap_or(u16::MAX);
            bytes.extend(length.to_be_bytes());
            bytes.extend(part);
        }
        format!("{PREFIX}{}", Base64Url(bytes))
    }
}

impl FromStr for LinkCode {
    type Err = MalformedLinkCode;

    fn from_str(text: &str) -> Result<Self, MalformedLinkCode> {
        // A person may have broken it over lines.
        let text: String = text.split_whitespace().collect();
        let encoded = text
            .strip_prefix(PREFIX)
            .filter(|encoded| encoded.len() <= CODE_CHARS_MAX)
            .ok_or(MalformedLinkCode)?;
        let Base64Url(bytes) = encoded.parse().map_err(|_| MalformedLinkCode)?;
        let Some((&VERSION, mut rest)) = bytes.split_first() else {
            return Err(MalformedLinkCode);
        };
        let mut part = || -> Result<Vec<u8>, MalformedLinkCode> {
            let (length, after) = rest.split_first_chunk().ok_or(MalformedLinkCode)?;
            let length = u16::from_be_bytes(*length).into();
            let (part, after) = after.split_at_checked(length).ok_or(MalformedLinkCode)?;
            rest = after;
            Ok(part.to_vec())
        };
        let text = |part| String::from_utf8(part).map_err(|_| MalformedLinkCode);
        let server_name = text(part()?)?;
        let device = RegisterRequest {
            user: text(part()?)?.parse().map_err(|_| MalformedLinkCode)?,
            device_id: text(part()?)?.parse().map_err(|_| MalformedLinkCode)?,
            auth_key: Base64Url(part()?),
            mls_signature_key: Base64Url(part()?),
            proofs: Proofs {
                auth: Base64Url(part()?),
                mls: Base64Url(part()?),
            },
        };
        let secret = part()?.try_into().map_err(|_| MalformedLinkCode)?;
        if !rest.is_empty() {
            return Err(MalformedLinkCode);
        }
        Ok(Self {
            server_name,
            device,
            secret,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code() -> LinkCode {
        LinkCode {
            server_name: "chat.example".to_owned(),
            device: RegisterRequest {
                user: "alice".parse().unwrap(),
                device_id: "d-2".parse().unwrap(),
                auth_key: Base64Url(vec![1; 32]),
                mls_signature_key: Base64Url(vec![2; 32]),
                proofs: Proofs {
                    auth: Base64Url(vec![3; 64]),
                    mls: Base64Url(vec![4; 64]),
                },
            },
            secret: [5; LINK_SECRET_BYTES],
        }
    }

    #[test]
    fn a_code_survives_being_carried_even_in_several_lines() {
        let text = code().reveal();
        assert!(text.len() < 420, "{} characters", text.len());
        assert_eq!(text.parse(), Ok(code()));
        let (first, second) = text.split_at(100);
        assert_eq!(format!(" {first}\n  {second}\n").parse(), Ok(code()));
    }

    #[test]
    fn debug_hides_what_a_code_hides() {
        let debug = format!("{:?}", code());
        assert!(
            debug.contains("chat.example") && !debug.contains("secret"),
            "{debug}"
        );
    }

    #[test]
    fn what_is_cut_short_too_long_or_of_another_version_is_no_code() {
        let text = code().reveal();
        let Base64Url(mut other) = text[PREFIX.len()..].parse().unwrap();
        other[0] = 1;
        for bad in [
            "",
            PREFIX,
            &text[..text.len() - 4],
            &text[PREFIX.len()..],
            &format!("{text}AAAA"),
            &format!("{PREFIX}{}", Base64Url(other)),
            &format!("{PREFIX}{}", "A".repeat(CODE_CHARS_MAX + 1)),
        ] {
            assert_eq!(bad.parse::<LinkCode>(), Err(MalformedLinkCode), "{bad}");
        }
    }
}
