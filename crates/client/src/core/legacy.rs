use larder_pool::legacy::{LegacyMigration, LegacyReport};

use crate::core::actor::Handle;
use crate::error::Error;

impl Handle {
    /// What a migration into this profile's pool would do.
    pub(crate) async fn plan_migration(&self, migration: LegacyMigration) -> Result<LegacyReport, Error> {
        self.run(move |core| Ok(migration.plan(&mut core.store)?)).await
    }

    /// Migrates into this profile's pool. Nothing else uses the profile meanwhile.
    pub(crate) async fn migrate(&self, migration: LegacyMigration) -> Result<LegacyReport, Error> {
        self.run(move |core| Ok(migration.apply(&mut core.store)?)).await
    }
}
