use std::io;

use openmls_sqlite_storage::Codec;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Stores OpenMLS's values as CBOR (RFC 8949) with field names.
///
/// Self-describing on purpose: OpenMLS has moved its integer tags before, and positional formats cannot read its group
/// state back at all.
#[derive(Debug, Clone, Copy, Default)]
pub struct CborCodec;

/// A value that CBOR cannot carry, or bytes that are not exactly one value.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// The value cannot be written.
    #[error("cannot be written as CBOR")]
    Encode(#[from] ciborium::ser::Error<io::Error>),
    /// The bytes are not the expected value.
    #[error("not the expected CBOR value")]
    Decode(#[from] ciborium::de::Error<io::Error>),
    /// Bytes are left after the value.
    #[error("{0} bytes left after a CBOR value")]
    Trailing(usize),
}

impl Codec for CborCodec {
    type Error = CodecError;

    fn to_vec<T: Serialize>(value: &T) -> Result<Vec<u8>, CodecError> {
        let mut bytes = Vec::new();
        ciborium::into_writer(value, &mut bytes)?;
        Ok(bytes)
    }

    fn from_slice<T: DeserializeOwned>(mut bytes: &[u8]) -> Result<T, CodecError> {
        let value = ciborium::from_reader(&mut bytes)?;
        match bytes.len() {
            0 => Ok(value),
            left => Err(CodecError::Trailing(left)),
        }
    }
}
