use std::sync::atomic::Ordering;

use crate::connection::MlsConnection;
use crate::connection::pool::directory_rows;
use crate::core;
use crate::error::{Error, NotTheServer};

impl MlsConnection {
    /// Looks at what a server that was restored from a backup still knows of this device, and follows it. One transaction:
    /// what is interrupted is repeated.
    pub(super) async fn follow_restored_server(&self) -> Result<(), Error> {
        let (core, transport) = (&self.0.core, &self.0.transport);
        if !core.write(|tx, _| core::server_was_restored(tx)).await? {
            return self.settle_branches().await;
        }
        let inventory = transport.inventory(None).await?;
        let inventory = inventory.ok_or(NotTheServer::NotLarder { status: 304 })?;
        let memberships = transport.memberships().await?;
        let directory = directory_rows(inventory.items)?;
        core.write(move |tx, context| {
            core::follow_restored_server(
                tx,
                context,
                &inventory.incarnation,
                &directory,
                &memberships.groups,
            )
        })
        .await?;
        self.0.refresh_due.store(true, Ordering::Relaxed);
        self.settle_branches().await
    }
}
