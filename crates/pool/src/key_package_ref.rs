use openmls::prelude::KeyPackageRef;
use tls_codec::{Deserialize as _, Serialize as _, VLByteSlice};

use crate::error::{Corrupt, StoreError};

/// The longest output of a hash function of any MLS ciphersuite (SHA-512), in bytes.
const HASH_BYTES_MAX: usize = 64;

/// The KeyPackageRef (RFC 9420 §5.2) with this hash value: 1 to 64 bytes, without a length in front. `None` otherwise.
///
/// The inverse of [`KeyPackageRef::as_slice`].
pub fn key_package_ref_from_slice(hash: &[u8]) -> Option<KeyPackageRef> {
    if hash.is_empty() || hash.len() > HASH_BYTES_MAX {
        return None;
    }
    let bytes = VLByteSlice(hash).tls_serialize_detached().ok()?;
    KeyPackageRef::tls_deserialize_exact(bytes).ok()
}

pub(crate) fn to_column(key_package_ref: &KeyPackageRef) -> Result<Vec<u8>, StoreError> {
    key_package_ref
        .tls_serialize_detached()
        .map_err(|_| StoreError::Corrupt(Corrupt::KeyPackageRef))
}

pub(crate) fn from_column(bytes: &[u8]) -> Result<KeyPackageRef, StoreError> {
    KeyPackageRef::tls_deserialize_exact(bytes).map_err(|_| StoreError::Corrupt(Corrupt::KeyPackageRef))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_survives_the_column_and_the_raw_hash() {
        for length in [1, 32, 48, 63, 64] {
            let hash = vec![7; length];
            let key_package_ref = key_package_ref_from_slice(&hash).unwrap();
            assert_eq!(key_package_ref.as_slice(), hash);
            let column = to_column(&key_package_ref).unwrap();
            assert_eq!(from_column(&column).unwrap(), key_package_ref);
        }
    }

    #[test]
    fn what_no_hash_function_gives_is_refused() {
        assert!(key_package_ref_from_slice(&[]).is_none());
        assert!(key_package_ref_from_slice(&[0; 65]).is_none());
        for column in [&[][..], &[2, 1], &[1, 1, 1]] {
            assert!(matches!(
                from_column(column),
                Err(StoreError::Corrupt(Corrupt::KeyPackageRef))
            ));
        }
    }
}
