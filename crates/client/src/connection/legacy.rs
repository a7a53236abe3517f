use std::path::PathBuf;

use larder_pool::legacy::{LegacyMigration, LegacyReport};

use crate::connection::MlsConnection;
use crate::error::Error;

impl MlsConnection {
    /// What [`migrate_legacy_pool`](Self::migrate_legacy_pool) would do. Changes nothing, and needs no network.
    ///
    /// # Errors
    /// [`Error::Legacy`].
    pub async fn plan_legacy_migration(&self, from: PathBuf) -> Result<LegacyReport, Error> {
        self.0.core.plan_migration(LegacyMigration::new(from)).await
    }

    /// Takes over the states of an older pool's table `keypackages` into this profile's pool, and erases the private keys
    /// from that file. May be repeated; what was interrupted is completed. Needs no network.
    ///
    /// # Errors
    /// [`Error::Legacy`]. Nothing is lost, and the next attempt completes what is missing.
    pub async fn migrate_legacy_pool(&self, from: PathBuf) -> Result<LegacyReport, Error> {
        self.0.core.migrate(LegacyMigration::new(from)).await
    }
}
