use std::sync::atomic::Ordering;

use crate::connection::MlsConnection;
use crate::connection::pool::directory_rows;
use crate::connection::sync::Progress;
use crate::core::{self, Standing};
use crate::error::{Error, NotTheServer};

impl MlsConnection {
    /// Makes sure that this profile is not an older copy of itself, and brings it up to date if it is.
    ///
    /// The server is told, which accepts requests from here on; the groups are to be rejoined, with new keys; and once the
    /// inbox is read, the pool forgets what was spent meanwhile. A refresh then withdraws what cannot be opened here any more.
    /// Every step may be interrupted, and is repeated then.
    pub(super) async fn restore_if_behind(&self, progress: &mut Progress) -> Result<(), Error> {
        let (core, transport) = (&self.0.core, &self.0.transport);
        // Opening a session tells.
        transport.authenticate().await?;
        self.follow_restored_server().await?;
        if core.write(|tx, _| core::standing(tx)).await? == Standing::Behind {
            // One wrong answer is not to cost the state of all groups: another session tells it again, or does not.
            transport.authenticate_again().await?;
            self.follow_restored_server().await?;
        }
        match core.write(|tx, _| core::standing(tx)).await? {
            Standing::Current => return Ok(()),
            Standing::Behind | Standing::Copy => {
                core.write(core::admit_copy).await?;
                transport.take_over_state().await?;
                let memberships = transport.memberships().await?;
                core.write(move |tx, context| core::start_over(tx, context, &memberships.groups))
                    .await?;
            }
            Standing::Restoring => {}
        }
        self.0.refresh_due.store(true, Ordering::Relaxed);
        self.0.groups_due.store(true, Ordering::Relaxed);
        let inventory = transport.inventory(None).await?;
        let inventory = inventory.ok_or(NotTheServer::NotLarder { status: 304 })?;
        let directory = directory_rows(inventory.items)?;
        if self.drain(progress).await? {
            // What it has still to bring may be opened by keys that the directory counts as spent.
            return Ok(());
        }
        core.write(move |tx, context| core::finish_restoring(tx, context, &directory))
            .await
    }
}
