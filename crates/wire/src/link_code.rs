use std::fmt;
use std::str::FromStr;

use crate::accounts::{Proofs, RegisterRequest};
use crate::bytes::Base64Url;

/// What a link code starts with.
const PREFIX: &str = "larder-link:";
/// The first byte inside, so that a later form is told apart.
const VERSION: u8 = 1;
/// The longest code that is looked at, in characters. One of ours has about 400.
const CODE_CHARS_MAX: usize = 2048;

/// What a new device shows, for a person to carry to a device that the user has: all that the latter needs to let it in.
///
/// There is no secret in it. Whoever carries it must make sure that it arrives as it was shown: the device that is let in
/// is the one of the code that arrives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkCode {
    /// The name of the server that the proofs are for.
    pub server_name: String,
    /// The new device.
    pub device: RegisterRequest,
}

/// Not a link code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a link code")]
pub struct MalformedLinkCode;

impl fmt::Display for LinkCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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
        ];
        let mut bytes = vec![VERSION];
        for part in parts {
            let length = u16::try_from(part.len()).unwrap_or(u16::MAX);
            bytes.extend(length.to_be_bytes());
            bytes.extend(part);
        }
        write!(f, "{PREFIX}{}", Base64Url(bytes))
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
        if !rest.is_empty() {
            return Err(MalformedLinkCode);
        }
        Ok(Self { server_name, device })
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
        }
    }

    #[test]
    fn a_code_survives_being_carried_even_in_several_lines() {
        let text = code().to_string();
        assert!(text.len() < 400, "{} characters", text.len());
        assert_eq!(text.parse(), Ok(code()));
        let (first, second) = text.split_at(100);
        assert_eq!(format!(" {first}\n  {second}\n").parse(), Ok(code()));
    }

    #[test]
    fn what_is_cut_short_too_long_or_of_another_version_is_no_code() {
        let text = code().to_string();
        let Base64Url(mut other) = text[PREFIX.len()..].parse().unwrap();
        other[0] = 2;
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
