use std::path::Path;

use larder_lifecycle::UnixSeconds;
use larder_pool::StoreKey;
use larder_pool::zeroize::Zeroizing;

use crate::access::Access;
use crate::connection::MlsConnection;
use crate::core;
use crate::error::Error;
use crate::types::Me;

impl MlsConnection {
    /// Everything that is in the profile, private keys included, as it is between two transactions. It is not encrypted:
    /// that is for the caller to do before it is written anywhere. This device goes on.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn export(&self) -> Result<Zeroizing<Vec<u8>>, Error> {
        self.0.core.snapshot().await
    }

    /// Makes a profile of what [`export`](Self::export) gave, encrypted with `key` if there is one. Needs no network.
    ///
    /// The new profile counts as an old copy from the beginning, whether the other one has sent anything since or not:
    /// at its first [`sync`](Self::sync) it gives up the state of its groups and rejoins them with new keys, and publishes new
    /// KeyPackages in the place of all that the other one has the private keys of. It takes the other one's place: if
    /// that is still used, it becomes an old copy itself. It remembers how the server may be talked to, as
    /// the other one did, and `access` besides.
    ///
    /// # Errors
    /// [`Error::ProfileExists`], [`Error::NotABackup`], [`Error::ProfileLocked`], [`Error::NoEncryption`],
    /// [`Error::InsecureHttp`], [`Error::Profile`], [`Error::Store`]. There is no profile then.
    pub fn import(
        profile: &Path,
        key: Option<&StoreKey>,
        image: &[u8],
        access: &Access,
        now: UnixSeconds,
    ) -> Result<Me, Error> {
        core::import(profile, key, image, access, now)
    }
}
