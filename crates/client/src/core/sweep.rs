use larder_pool::{Swept, Tx};

use crate::core::profile::Context;
use crate::error::Error;

/// Sweeps every pool.
///
/// # Errors
/// [`Error::ClocksApart`]: nothing is erased for its age then.
pub(crate) fn sweep(tx: &Tx<'_>, context: &Context) -> Result<Swept, Error> {
    context.require_clocks_close()?;
    let mut total = Swept::default();
    for pool in context.pools(tx)?.all().chain([&context.pool]) {
        let Swept {
            expired,
            retired,
            withdrawn,
            forgotten,
            released,
        } = pool.sweep(tx, context.server_now())?;
        total.expired += expired;
        total.retired += retired;
        total.withdrawn += withdrawn;
        total.forgotten += forgotten;
        total.released += released;
    }
    Ok(total)
}

/// Sweeps the pools, unless that would erase private keys that may still have an invitation to open: `None`, and nothing
/// has changed.
pub(crate) fn sweep_if_it_erases_nothing(tx: &Tx<'_>, context: &Context) -> Result<Option<Swept>, Error> {
    let connection = tx.connection();
    connection.execute_batch("SAVEPOINT larder_sweep")?;
    let swept = sweep(tx, context)?;
    let erases = swept.expired + swept.retired > 0;
    if erases {
        connection.execute_batch("ROLLBACK TO larder_sweep")?;
    }
    connection.execute_batch("RELEASE larder_sweep")?;
    Ok((!erases).then_some(swept))
}
