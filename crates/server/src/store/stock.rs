use larder_lifecycle::UnixSeconds;
use larder_wire::AuditHead;

use crate::error::Fault;
use crate::store::audit::audit_head;
use crate::store::key_packages::Serving;
use crate::store::statement::{Param, Row};
use crate::store::tx::{DeviceKey, Tx, UserKey};

/// What a device has for somebody who asks, in one ciphersuite, and what is remembered of those who asked before.
#[derive(Debug, Clone)]
pub(crate) struct Stock {
    pub(crate) suite: u16,
    /// Single-use KeyPackages that could be handed out, counted up to what was asked for.
    pub(crate) available: u32,
    /// Whether there is a last resort that could be.
    pub(crate) last_resort: bool,
    /// When it is forgotten how often this user was handed one.
    pub(crate) pair: Option<UnixSeconds>,
    /// The same of everybody.
    pub(crate) target: Option<UnixSeconds>,
    /// The end of the device's audit chain.
    pub(crate) audit_head: AuditHead,
}

// One statement for all of it: what a reservation costs is its statements.
const STOCK: &str = "SELECT CAST(?2 AS BIGINT),
        (SELECT count(*) FROM (
             SELECT 1 FROM key_packages
             WHERE device_id = d.id AND suite = ?2 AND status = 0 AND not_after > ?3 AND not_before <= ?4 LIMIT ?6
         ) enough),
        (SELECT count(*) FROM last_resorts
         WHERE device_id = d.id AND suite = ?2 AND status = 0 AND not_after > ?3 AND not_before <= ?4),
        (SELECT forgotten_at FROM pair_rates WHERE user_id = ?5 AND device_id = d.id),
        d.asked_until, d.audit_seq, d.audit_hash
    FROM devices d WHERE d.id = ?1";

fn stock(row: &Row<'_>) -> Result<Stock, Fault> {
    Ok(Stock {
        suite: row.get(0)?,
        available: row.get(1)?,
        last_resort: row.get::<u32>(2)? > 0,
        pair: row.optional(3)?,
        target: row.optional(4)?,
        audit_head: audit_head(row, 5)?,
    })
}

impl Tx<'_> {
    /// What each of these devices has for `user`, or for nobody in particular, in each of these ciphersuites. KeyPackages are counted up
    /// to `enough`. The devices are locked.
    pub(crate) fn stocks(
        &self,
        user: Option<UserKey>,
        devices: &[DeviceKey],
        (suites, serving): (&[u16], Serving),
        enough: u32,
    ) -> Result<Vec<Vec<Stock>>, Fault> {
        let user = user.map(|UserKey(user)| user);
        let asked: Vec<[Param<'_>; 6]> = devices
            .iter()
            .flat_map(|device| suites.iter().map(move |suite| (device, suite)))
            .map(|(device, suite)| {
                [
                    Param::from(*device),
                    Param::from(*suite),
                    Param::from(serving.not_after),
                    Param::from(serving.not_before),
                    Param::from(user),
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
