//! Names of ciphersuites, for people. On the wire and in databases a ciphersuite is its number (RFC 9420 §17.1), known here
//! or not.

/// MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519 (RFC 9420 §17.1).
pub const SUITE_X25519_AES128GCM: u16 = 0x0001;
/// MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519 (RFC 9420 §17.1).
pub const SUITE_X25519_CHACHA20POLY1305: u16 = 0x0003;
/// MLS_128_MLKEM768X25519_AES128GCM_SHA256_Ed25519, which is X-Wing. A provisional number: draft-ietf-mls-pq-ciphersuites is
/// not final, and other libraries may have another one.
pub const SUITE_XWING_AES128GCM: u16 = 0x004F;

const NAMES: [(u16, &str); 3] = [
    (SUITE_X25519_AES128GCM, "x25519-aes128gcm"),
    (SUITE_X25519_CHACHA20POLY1305, "x25519-chacha20poly1305"),
    (SUITE_XWING_AES128GCM, "xwing-aes128gcm"),
];

/// Not the name or number of a ciphersuite.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a ciphersuite is x25519-aes128gcm, x25519-chacha20poly1305, xwing-aes128gcm or a number like 0x0001"
)]
pub struct MalformedSuite;

/// The ciphersuite's name, or its number in hexadecimal if it has none here.
pub fn suite_name(suite: u16) -> String {
    NAMES
        .iter()
        .find(|(number, _)| *number == suite)
        .map_or_else(|| format!("{suite:#06x}"), |(_, name)| (*name).to_owned())
}

/// The number of a ciphersuite that a person names, by a name or by its number in hexadecimal (`0x…`) or decimal.
///
/// # Errors
/// [`MalformedSuite`] when it is neither.
pub fn parse_suite(text: &str) -> Result<u16, MalformedSuite> {
    if let Some((number, _)) = NAMES.iter().find(|(_, name)| *name == text) {
        return Ok(*number);
    }
    let (digits, radix) = match text.strip_prefix("0x") {
        Some(digits) => (digits, 16),
        None => (text, 10),
    };
    if digits.starts_with('+') {
        return Err(MalformedSuite);
    }
    u16::from_str_radix(digits, radix).map_err(|_| MalformedSuite)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suite_is_read_by_the_name_that_it_is_shown_by() {
        for suite in [0x0001, 0x0003, 0x004F, 0x0002, 0xF042, 0xFFFF] {
            assert_eq!(parse_suite(&suite_name(suite)), Ok(suite));
        }
        assert_eq!(suite_name(0x0001), "x25519-aes128gcm");
        assert_eq!(suite_name(0x0002), "0x0002");
        assert_eq!(parse_suite("79"), Ok(0x004F));
    }

    #[test]
    fn what_names_no_suite_is_refused() {
        for text in [
            "",
            "xwing",
            "0x",
            "0x+1",
            "+1",
            "0x10000",
            "-1",
            "X25519-AES128GCM",
        ] {
            assert_eq!(parse_suite(text), Err(MalformedSuite), "{text:?}");
        }
    }
}
