//! Making a store safe that was restored from a backup, before anybody is served from it.
//!
//! Since the backup KeyPackages may have been handed out that it holds as available, and Commits were accepted that it
//! has lost. So nothing that it holds is handed out any more: every KeyPackage that could be is revoked, and its owner
//! is told to publish a new pool. A new incarnation tells clients what happened.

use larder_lifecycle::UnixSeconds;
use larder_wire::GroupId;
use openmls_rust_crypto::RustCrypto;
use uuid::Uuid;

use super::{Admin, fault};
use crate::directory;
use crate::error::Fault;
use crate::random::random_bytes;
use crate::store::DeviceKey;

/// Rows that one transaction removes at most.
const FORGET_ROWS_MAX: u32 = 500;

/// What was done to a restored store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The new incarnation.
    pub incarnation: String,
    /// Devices whose pools were withdrawn and who were told.
    pub devices: u64,
    /// KeyPackages that were revoked, last resorts included.
    pub revoked: u64,
}

impl Admin {
    /// Revokes what a restored store could hand out a second time, ends all sessions, withdraws all invitations, forgets the
    /// answers to retries and the devices' marks (a device is not behind because the server is), tells every owner to
    /// publish a new pool, and gives the store a new incarnation.
    ///
    /// The numbers of the groups' logs go on far behind the last ones. Each device and each group is one transaction. When it is interrupted, run it again: the incarnation comes last.
    ///
    /// # Errors
    /// [`Fault`] when the store cannot be written.
    pub async fn restored(&self, now: UnixSeconds) -> Result<Restored, Fault> {
        while self
            .store
            .write(|tx| Ok(tx.forget_what_may_have_ended(FORGET_ROWS_MAX)?))
            .await
            .map_err(fault)?
            > 0
        {}
        let (mut devices, mut revoked) = (0, 0);
        let mut last: Option<DeviceKey> = None;
        loop {
            let after = last;
            let done = self
                .store
                .write(move |tx| {
                    let Some(device) = tx.present_device_after(after)? else {
                        return Ok(None);
                    };
                    tx.forget_state_mark(device.key)?;
                    tx.lock_devices([device.key])?;
                    let revoked = directory::withdraw_all(tx, &device, None, now)?;
                    directory::tell_owners(tx, &[device.key], now)?;
                    Ok(Some((device.key, revoked)))
                })
                .await
                .map_err(fault)?;
            let Some((device, of_device)) = done else {
                break;
            };
            last = Some(device);
            devices += 1;
            revoked += of_device;
        }
        let mut last: Option<GroupId> = None;
        loop {
            let after = last;
            last = self
                .store
                .write(move |tx| Ok(tx.skip_numbers(after.as_ref())?))
                .await
                .map_err(fault)?;
            if last.is_none() {
                break;
            }
        }
        let incarnation = Uuid::new_v4().to_string();
        let new = incarnation.clone();
        let challenge_key = random_bytes(&RustCrypto::default())?;
        self.store
            .write(move |tx| Ok(tx.set_incarnation(&new, &challenge_key)?))
            .await
            .map_err(fault)?;
        Ok(Restored {
            incarnation,
            devices,
            revoked,
        })
    }
}
