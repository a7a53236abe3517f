//! A profile in one piece, and a new profile from it.

use std::path::Path;

use larder_lifecycle::UnixSeconds;
use larder_pool::zeroize::Zeroizing;
use larder_pool::{LocalStore, StoreKey};

use crate::access::Access;
use crate::core::access;
use crate::core::actor::Handle;
use crate::core::encryption::not_opened;
use crate::core::profile::{DATABASE_FILE, lock, stored_account};
use crate::core::schema::migrate;
use crate::core::state::become_copy;
use crate::error::Error;
use crate::transport::require_access;
use crate::types::Me;

impl Handle {
    /// Everything that is in the profile, between two transactions.
    pub(crate) async fn snapshot(&self) -> Result<Zeroizing<Vec<u8>>, Error> {
        self.run(|core| Ok(core.store.snapshot()?)).await
    }
}

/// Creates a profile from such bytes.
pub(crate) fn import(
    profile: &Path,
    key: Option<&StoreKey>,
    image: &[u8],
    access: &Access,
    now: UnixSeconds,
) -> Result<Me, Error> {
    let _lock = lock(profile)?;
    let database = profile.join(DATABASE_FILE);
    let is_there = std::fs::metadata(&database).map_or(0, |metadata| metadata.len()) > 0;
    if is_there {
        return Err(Error::ProfileExists);
    }
    LocalStore::from_snapshot(&database, key, image, |store| {
        migrate(store)?;
        store.transaction(|tx| {
            let account = stored_account(tx.connection())?.filter(|account| account.registered);
            let account = account.ok_or(Error::NotABackup)?;
            require_access(&account.me.server, &access::remember(tx, access)?)?;
            become_copy(tx, now)?;
            Ok(account.me)
        })
    })
    .map_err(|error| match error {
        Error::Store(error) => not_opened(error),
        other => other,
    })
}
