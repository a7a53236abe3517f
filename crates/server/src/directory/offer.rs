//! What a request gets of a device: who asks for too much, or for what is kept for others, gets less.

use larder_lifecycle::{Demand, DrainLimits, Grant, Kind, Listed, UnixSeconds};
use larder_wire::{AuditHead, KeyPackageRef};

use crate::directory::reserve::Terms;
use crate::error::Fault;
use crate::store::{DeviceKey, DeviceRow, Serving, Stock, Stored, Tx, UserKey};

/// No reservation is made for so long, in seconds: one day.
const RESERVATION_SECONDS_EVER: u64 = 24 * 60 * 60;

/// Who asks, and what they have had.
pub(super) struct Requester {
    /// Nobody in particular, for a look at what a stranger would get.
    user: Option<UserKey>,
    /// The device of each reservation that counts as live, those of this request included.
    held: Vec<DeviceKey>,
}

/// What a request may have of a device.
pub(super) enum Offer {
    /// This KeyPackage.
    KeyPackage { picked: Picked, charge: Charge },
    /// Nothing, because it was asked for too often.
    RateLimited { retry_after_seconds: u64 },
    /// Nothing, because there is nothing.
    Nothing,
}

/// A KeyPackage that is available. Its device is locked.
pub(super) struct Picked {
    pub(super) key_package_ref: KeyPackageRef,
    pub(super) bytes: Vec<u8>,
    pub(super) listed: Stored,
    /// How many single-use ones there are of its ciphersuite, counted as far as is of interest.
    pub(super) available: u32,
    /// The end of the device's audit chain.
    pub(super) audit_head: AuditHead,
}

impl Picked {
    /// The single-use KeyPackage that is of use for the shortest time.
    fn oldest(mut stock: Stock) -> Option<Self> {
        let picked = stock.oldest.take()?;
        Some(Self::of(stock, picked, Listed::uploaded(Kind::SingleUse)))
    }

    fn last_resort(mut stock: Stock) -> Option<Self> {
        let picked = stock.last_resort.take()?;
        let listed = Listed {
            used: stock.last_resort_is_used,
            ..Listed::uploaded(Kind::LastResort)
        };
        Some(Self::of(stock, picked, listed))
    }

    fn of(stock: Stock, (key_package_ref, bytes): (KeyPackageRef, Vec<u8>), listed: Stored) -> Self {
        Self {
            key_package_ref,
            bytes,
            listed,
            available: stock.available,
            audit_head: stock.audit_head,
        }
    }
}

/// What is to be remembered once it is handed out.
#[derive(Clone, Copy, Default)]
pub(super) struct Charge {
    /// Of the user that it is handed out to.
    pub(super) pair: Option<(UserKey, UnixSeconds)>,
    /// Of the device, whoever asks.
    pub(super) target: Option<UnixSeconds>,
}

impl Requester {
    /// The user of a device. All of the user's devices count together. Until the end of the transaction none of the
    /// others reserves anything.
    pub(super) fn user_of(
        tx: &Tx<'_>,
        caller: &DeviceRow,
        limits: &DrainLimits,
        now: UnixSeconds,
    ) -> Result<Self, Fault> {
        tx.lock_user(caller.user_key())?;
        let held = tx.held_by_user(caller.user_key(), Self::counted(limits, now), now)?;
        Ok(Self {
            user: Some(caller.user_key()),
            held,
        })
    }

    /// Reads ahead what [`user_of`](Self::user_of) asks for.
    pub(super) fn user_ahead(
        tx: &Tx<'_>,
        caller: &DeviceRow,
        limits: &DrainLimits,
        now: UnixSeconds,
    ) -> Result<(), Fault> {
        tx.lock_user(caller.user_key())?;
        tx.held_by_user_ahead(caller.user_key(), Self::counted(limits, now), now);
        Ok(())
    }

    /// Between which deadlines what a user holds counts.
    fn counted(limits: &DrainLimits, now: UnixSeconds) -> (UnixSeconds, UnixSeconds) {
        (
            now.minus(limits.lapsed_counts_seconds),
            now.plus(RESERVATION_SECONDS_EVER),
        )
    }

    /// Somebody who has had nothing and shares no group with anybody.
    pub(super) fn stranger() -> Self {
        Self {
            user: None,
            held: Vec::new(),
        }
    }

    /// What each of these devices has for them. The devices are locked.
    pub(super) fn stocks(
        &self,
        tx: &Tx<'_>,
        devices: &[DeviceKey],
        asked: (&[u16], Serving),
        terms: &Terms<'_>,
    ) -> Result<Vec<Vec<Stock>>, Fault> {
        // One is taken, and what is left is held against these two.
        let enough = terms.limits.floor.max(terms.policy.low_watermark);
        tx.stocks(self.user, devices, asked, enough.saturating_add(1))
    }

    /// Decides what they get of a device that has this stock in each of the ciphersuites, and counts it as theirs.
    pub(super) fn offer(
        &mut self,
        tx: &Tx<'_>,
        (device, stocks): (&DeviceRow, Vec<Stock>),
        limits: &DrainLimits,
        now: UnixSeconds,
    ) -> Result<Offer, Fault> {
        let last_resort = stocks.iter().find(|stock| stock.last_resort.is_some()).cloned();
        if self.user == Some(device.user_key()) {
            return Ok(own(stocks, last_resort));
        }
        let mut offer = Offer::Nothing;
        for stock in stocks {
            let demand = Demand {
                pair: stock.pair,
                target: stock.target,
                live_of_requester: count(self.held.len()),
                live_of_pair: count(self.held.iter().filter(|held| **held == device.key).count()),
                available: stock.available,
                last_resort: last_resort.is_some(),
                acquainted: match self.user {
                    Some(user) if limits.is_below_floor(stock.available, last_resort.is_some()) => {
                        tx.are_acquainted(user, device.user_key())?
                    }
                    Some(_) | None => false,
                },
            };
            match limits.grant(&demand, now) {
                Grant::KeyPackage { pair, target } => {
                    offer = Offer::of(Picked::oldest(stock), self.charge(pair, Some(target)));
                    break;
                }
                // Perhaps there is a KeyPackage of another ciphersuite.
                Grant::LastResort { pair } => {
                    let picked = last_resort.clone().and_then(Picked::last_resort);
                    offer = Offer::of(picked, self.charge(pair, None));
                }
                Grant::Refused { retry_after_seconds } => {
                    offer = Offer::RateLimited { retry_after_seconds };
                    break;
                }
            }
        }
        if offer.is_something() {
            self.held.push(device.key);
        }
        Ok(offer)
    }

    fn charge(&self, pair: UnixSeconds, target: Option<UnixSeconds>) -> Charge {
        Charge {
            pair: self.user.map(|user| (user, pair)),
            target,
        }
    }
}

/// What a user's device gets of another one of the user's. Nobody drains their own pool for the harm of it, so there is
/// no limit.
fn own(stocks: Vec<Stock>, last_resort: Option<Stock>) -> Offer {
    let picked = stocks.into_iter().find_map(Picked::oldest);
    let picked = picked.or_else(|| last_resort.and_then(Picked::last_resort));
    Offer::of(picked, Charge::default())
}

impl Offer {
    fn of(picked: Option<Picked>, charge: Charge) -> Self {
        picked.map_or(Self::Nothing, |picked| Self::KeyPackage { picked, charge })
    }

    /// Whether the device can be added.
    pub(super) fn is_something(&self) -> bool {
        match self {
            Self::KeyPackage { .. } => true,
            Self::RateLimited { .. } | Self::Nothing => false,
        }
    }
}

fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}
