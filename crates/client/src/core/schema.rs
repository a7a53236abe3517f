use larder_pool::{LocalStore, StoreError};

use crate::error::Error;

mod embedded {
    refinery::embed_migrations!("migrations");
}

/// The history of our migrations, beside those of OpenMLS and of the pool in the same file.
const HISTORY_TABLE: &str = "larder_client_migrations";

/// Brings our tables up to date.
pub(super) fn migrate(store: &mut LocalStore) -> Result<(), Error> {
    embedded::migrations::runner()
        // With its record in one transaction: a profile is never left between two versions.
        .set_grouped(true)
        .set_migration_table_name(HISTORY_TABLE)
        .run(store.connection_mut())
        .map_err(|error| StoreError::Migration(Box::new(error)))?;
    Ok(())
}

/// A column whose value was never written by this program.
pub(super) fn corrupt<T>(value: Option<T>, what: &'static str) -> Result<T, Error> {
    value.ok_or(Error::Corrupt(what))
}
