//! Byte strings with their lengths before them (RFC 9420 §2.1.2).

use std::str::FromStr;

use tls_codec::{Serialize as _, VLByteSlice};

/// Bytes that are not what should be there.
pub(crate) struct MalformedPart;

/// Appends a part.
pub(crate) fn push(bytes: &mut Vec<u8>, part: &[u8]) {
    bytes.extend(VLByteSlice(part).tls_serialize_detached().unwrap_or_default());
}

/// A part and what follows it. tls_codec panics in debug builds where less follows than a length promises.
pub(crate) fn take(bytes: &[u8]) -> Result<(Vec<u8>, &[u8]), MalformedPart> {
    let width = match bytes.first().ok_or(MalformedPart)? >> 6 {
        0 => 1,
        1 => 2,
        2 => 4,
        _ => return Err(MalformedPart),
    };
    let (length, rest) = bytes.split_at_checked(width).ok_or(MalformedPart)?;
    let length = length
        .iter()
        .fold(0, |length, byte| (length << 8) | usize::from(*byte));
    // The first two bits told the width.
    let length = length & ((1 << (8 * width - 2)) - 1);
    let (part, rest) = rest.split_at_checked(length).ok_or(MalformedPart)?;
    Ok((part.to_vec(), rest))
}

/// A name, from its bytes.
pub(crate) fn text<T: FromStr>(bytes: Vec<u8>) -> Result<T, MalformedPart> {
    let text = String::from_utf8(bytes).map_err(|_| MalformedPart)?;
    text.parse().map_err(|_| MalformedPart)
}
