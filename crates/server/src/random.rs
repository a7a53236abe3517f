use openmls_rust_crypto::RustCrypto;
use openmls_traits::random::OpenMlsRand;

use crate::error::Fault;

/// Bytes that nobody can guess.
pub(crate) fn random_bytes<const N: usize>(crypto: &RustCrypto) -> Result<[u8; N], Fault> {
    crypto.random_array().map_err(|_| Fault::Crypto("no randomness"))
}
