//! What a request gets of a device: who asks for too much, or for what is kept for others, gets less.

use larder_lifecycle::{Demand, DrainLimits, Grant, UnixSeconds};

use crate::directory::last_resort;
use crate::error::Fault;
use crate::store::{DeviceKey, DeviceRow, Serving, Tx, UserKey};

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
    /// A single-use KeyPackage of this ciphersuite.
    KeyPackage { suite: u16, charge: Charge },
    /// The last resort.
    LastResort { charge: Charge },
    /// Nothing, because it was asked for too often.
    RateLimited { retry_after_seconds: u64 },
    /// Nothing, because there is nothing.
    Nothing,
}

/// What is to be remembered once it is handed out.
#[derive(Clone, Copy, Default)]
pub(super) struct Charge {
    pair: Option<(UserKey, UnixSeconds)>,
    target: Option<UnixSeconds>,
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
        tx.lock_user(caller.user_key)?;
        let since = now.minus(limits.lapsed_counts_seconds);
        let until = now.plus(RESERVATION_SECONDS_EVER);
        Ok(Self {
            user: Some(caller.user_key),
            held: tx.held_by_user(caller.user_key, (since, until), now)?,
        })
    }

    /// Somebody who has had nothing and shares no group with anybody.
    pub(super) fn stranger() -> Self {
        Self {
            user: None,
            held: Vec::new(),
        }
    }

    /// Whether the reserve floor is not for them.
    pub(super) fn is_acquainted_with(&self, tx: &Tx<'_>, user: UserKey) -> Result<bool, Fault> {
        match self.user {
            Some(own) if own == user => Ok(true),
            Some(own) => tx.are_acquainted(own, user),
            None => Ok(false),
        }
    }

    /// Decides what they get of a device, and counts it as theirs.
    pub(super) fn offer(
        &mut self,
        tx: &Tx<'_>,
        (device, acquainted): (&DeviceRow, bool),
        (suites, serving): (&[u16], Serving),
        limits: &DrainLimits,
        now: UnixSeconds,
    ) -> Result<Offer, Fault> {
        let last_resort = last_resort::can_be_reserved(tx, device, suites, serving)?;
        if self.user == Some(device.user_key) {
            return own(tx, device, (suites, serving), last_resort);
        }
        let memories = tx.rate_memories(self.user, device.key)?;
        let mut offer = Offer::Nothing;
        for &suite in suites {
            let demand = Demand {
                pair: memories.pair,
                target: memories.target,
                live_of_requester: count(self.held.len()),
                live_of_pair: count(self.held.iter().filter(|held| **held == device.key).count()),
                available: tx.count_available(device.key, &[suite], serving)?,
                last_resort,
                acquainted,
            };
            match limits.grant(&demand, now) {
                Grant::KeyPackage { pair, target } => {
                    let charge = self.charge(pair, Some(target));
                    offer = Offer::KeyPackage { suite, charge };
                    break;
                }
                // Perhaps there is a KeyPackage of another ciphersuite.
                Grant::LastResort { pair } if last_resort => {
                    let charge = self.charge(pair, None);
                    offer = Offer::LastResort { charge };
                }
                Grant::LastResort { .. } => {}
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
fn own(
    tx: &Tx<'_>,
    device: &DeviceRow,
    (suites, serving): (&[u16], Serving),
    last_resort: bool,
) -> Result<Offer, Fault> {
    let charge = Charge::default();
    for &suite in suites {
        if tx.count_available(device.key, &[suite], serving)? > 0 {
            return Ok(Offer::KeyPackage { suite, charge });
        }
    }
    Ok(match last_resort {
        true => Offer::LastResort { charge },
        false => Offer::Nothing,
    })
}

impl Offer {
    /// Whether the device can be added.
    pub(super) fn is_something(&self) -> bool {
        match self {
            Self::KeyPackage { .. } | Self::LastResort { .. } => true,
            Self::RateLimited { .. } | Self::Nothing => false,
        }
    }
}

impl Charge {
    /// Remembers that it was handed out.
    pub(super) fn remember(self, tx: &Tx<'_>, device: DeviceKey) -> Result<(), Fault> {
        if let Some((user, forgotten_at)) = self.pair {
            tx.remember_pair(user, device, forgotten_at)?;
        }
        if let Some(forgotten_at) = self.target {
            tx.remember_target(device, forgotten_at)?;
        }
        Ok(())
    }
}

fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}
