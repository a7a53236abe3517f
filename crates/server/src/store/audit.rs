use larder_lifecycle::UnixSeconds;
use larder_wire::{GroupId, KeyPackageRef};
use sha2::{Digest, Sha256};

use crate::error::Fault;
use crate::store::statement::params;
use crate::store::tx::{DeviceKey, Tx};

/// Separates the chain's hashes from all others.
const AUDIT_DOMAIN: &[u8] = b"larder audit v1\0";

impl Tx<'_> {
    /// Appends a row to the owner's audit chain: what happened to a KeyPackage, by whom (a credential identity; none
    /// for the sweeper) and for which group.
    pub(crate) fn append_audit(
        &self,
        owner: DeviceKey,
        key_package_ref: &KeyPackageRef,
        transition: &str,
        actor: Option<&str>,
        group: Option<&GroupId>,
        now: UnixSeconds,
    ) -> Result<(), Fault> {
        let (last_seq, previous): (u64, Vec<u8>) = self.one_row(
            "SELECT audit_seq, audit_hash FROM devices WHERE id = ?1",
            params![owner],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?;
        let seq = last_seq + 1;
        let hash = audit_hash(
            &previous,
            seq,
            now,
            [
                key_package_ref.as_bytes(),
                transition.as_bytes(),
                actor.unwrap_or_default().as_bytes(),
                group.map(GroupId::as_bytes).unwrap_or_default(),
            ],
        );
        self.execute(
            "INSERT INTO audit (device_id, seq, time, ref, transition, actor, group_id, hash)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            params![
                owner,
                seq,
                now,
                key_package_ref,
                transition,
                actor,
                group,
                &hash[..]
            ],
        )?;
        self.execute(
            "UPDATE devices SET audit_seq = ?2, audit_hash = ?3 WHERE id = ?1",
            params![owner, seq, &hash[..]],
        )?;
        Ok(())
    }
}

/// `SHA-256(domain, previous hash, seq, time, then each field with its length)`, numbers as 64 bits big-endian.
pub(super) fn audit_hash(previous: &[u8], seq: u64, time: UnixSeconds, fields: [&[u8]; 4]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(AUDIT_DOMAIN);
    hash.update(previous);
    hash.update(seq.to_be_bytes());
    hash.update(time.0.to_be_bytes());
    for field in fields {
        hash.update((field.len() as u64).to_be_bytes());
        hash.update(field);
    }
    hash.finalize().into()
}
