use larder_lifecycle::UnixSeconds;
use larder_wire::{AuditHead, KeyPackageRef};

use crate::error::Fault;
use crate::store::audit::audit_head;
use crate::store::key_packages::Serving;
use crate::store::statement::{Param, Row};
use crate::store::tx::{DeviceKey, Tx, UserKey};

/// What a device has for somebody who asks, in one ciphersuite, and what is remembered of those who asked before.
#[derive(Debug, Clone)]
pub(crate) struct Stock {
    /// Single-use KeyPackages that could be handed out, counted up to what was asked for.
    pub(crate) available: u32,
    /// The one of them that is of use for the shortest time.
    pub(crate) oldest: Option<(KeyPackageRef, Vec<u8>)>,
    /// The last resort that could be handed out.
    pub(crate) last_resort: Option<(KeyPackageRef, Vec<u8>)>,
    /// Whether that ever was.
    pub(crate) last_resort_is_used: bool,
    /// When it is forgotten how often this user was handed one.
    pub(crate) pair: Option<UnixSeconds>,
    /// The same of everybody.
    pub(crate) target: Option<UnixSeconds>,
    /// The end of the device's audit chain.
    pub(crate) audit_head: AuditHead,
}

// One statement for all of it: what a reservation costs is its statements. The bytes of the last resort by themselves: joined, those
// of all KeyPackages of the device would be read.
const STOCK: &str = "SELECT (SELECT count(*) FROM (
             SELECT 1 FROM key_packages
             WHERE user_id = ?1 AND device_id = ?2 AND suite = ?3 AND kind = 0 AND status = 0 AND not_after > ?4
               AND not_before <= ?5
             LIMIT ?7
         ) enough),
        b.ref, b.bytes, k.ref,
        (SELECT bytes FROM key_package_bytes WHERE user_id = ?1 AND device_id = ?2 AND ref = k.ref), k.used,
        (SELECT forgotten_at FROM pair_rates WHERE user_id = ?1 AND device_id = ?2 AND asked_by = ?6),
        d.asked_until, d.audit_seq, d.audit_hash
    FROM devices d
    LEFT JOIN key_package_bytes b ON b.user_id = d.user_id AND b.device_id = d.id AND b.ref = (
        SELECT ref FROM key_packages
        WHERE user_id = ?1 AND device_id = ?2 AND suite = ?3 AND kind = 0 AND status = 0 AND not_after > ?4
          AND not_before <= ?5
        ORDER BY not_after LIMIT 1
    )
    LEFT JOIN key_packages k ON k.user_id = d.user_id AND k.device_id = d.id AND k.suite = ?3 AND k.kind = 1
        AND k.status = 0 AND k.not_after > ?4 AND k.not_before <= ?5
    WHERE d.user_id = ?1 AND d.id = ?2";

fn stock(row: &Row<'_>) -> Result<Stock, Fault> {
    let named = |first: usize| -> Result<Option<(KeyPackageRef, Vec<u8>)>, Fault> {
        let known_by = row.optional(first)?;
        known_by
            .map(|known_by| Ok((known_by, row.get(first + 1)?)))
            .transpose()
    };
    let stock = Stock {
        available: row.get(0)?,
        oldest: named(1)?,
        last_resort: named(3)?,
        last_resort_is_used: row.optional(5)?.unwrap_or(false),
        pair: row.optional(6)?,
        target: row.optional(7)?,
        audit_head: audit_head(row, 8)?,
    };
    match stock.available > 0 && stock.oldest.is_none() {
        true => Err(Fault::Corrupt("an available KeyPackage without its bytes")),
        false => Ok(stock),
    }
}

impl Tx<'_> {
    /// What each of these devices has for the user who asks, or for nobody in particular, in each of these ciphersuites. KeyPackages are counted up
    /// to `enough`. The devices are locked.
    pub(crate) fn stocks(
        &self,
        asked_by: Option<UserKey>,
        devices: &[DeviceKey],
        (suites, serving): (&[u16], Serving),
        enough: u32,
    ) -> Result<Vec<Vec<Stock>>, Fault> {
        let asked_by = asked_by.map(|UserKey(user)| user);
        let asked: Vec<[Param<'_>; 7]> = devices
            .iter()
            .flat_map(|device| suites.iter().map(move |suite| (device, suite)))
            .map(|(device, suite)| {
                [
                    Param::from(device.user()),
                    Param::from(*device),
                    Param::from(*suite),
                    Param::from(serving.not_after),
                    Param::from(serving.not_before),
                    Param::from(asked_by),
                    Param::from(enough),
                ]
            })
            .collect();
        let mut found = self.row_of_each(STOCK, &asked, stock)?.into_iter();
        let of_device = |_: &DeviceKey| {
            let stocks = found.by_ref().take(suites.len());
            stocks
                .map(|stock| stock.ok_or(Fault::Corrupt("a device that is locked is not there")))
                .collect()
        };
        devices.iter().map(of_device).collect()
    }
}
