use openmls_rust_crypto::RustCrypto;
use openmls_sqlite_storage::SqliteStorageProvider;
use openmls_traits::OpenMlsProvider;
use openmls_traits::crypto::OpenMlsCrypto as _;
use openmls_traits::types::Ciphersuite;
use rusqlite::Connection;

use crate::codec::CborCodec;

/// The ciphersuite of this number (RFC 9420 §17.1), if this build of OpenMLS and its cryptography have it.
pub fn supported_suite(suite: u16) -> Option<Ciphersuite> {
    let known = Ciphersuite::try_from(suite).ok()?;
    RustCrypto::default().supports(known).ok()?;
    Some(known)
}

/// What OpenMLS works with inside one transaction: RustCrypto, and storage on the transaction's connection.
///
/// OpenMLS opens no transactions of its own, so everything that it writes through this provider commits or rolls back
/// with the [`Tx`](crate::Tx) that it came from.
pub struct Provider<'a> {
    crypto: &'a RustCrypto,
    storage: SqliteStorageProvider<CborCodec, &'a Connection>,
}

impl<'a> Provider<'a> {
    pub(crate) fn new(crypto: &'a RustCrypto, connection: &'a Connection) -> Self {
        Self {
            crypto,
            storage: SqliteStorageProvider::new(connection),
        }
    }
}

impl<'a> OpenMlsProvider for Provider<'a> {
    type CryptoProvider = RustCrypto;
    type RandProvider = RustCrypto;
    type StorageProvider = SqliteStorageProvider<CborCodec, &'a Connection>;

    fn storage(&self) -> &Self::StorageProvider {
        &self.storage
    }

    fn crypto(&self) -> &Self::CryptoProvider {
        self.crypto
    }

    fn rand(&self) -> &Self::RandProvider {
        self.crypto
    }
}
