//! What `serve` spends on whom, and how long it keeps what.

use std::num::NonZeroUsize;

use clap::Args;
use clap::builder::RangedU64ValueParser;
use larder_lifecycle::{DrainLimits, Rate};
use larder_server::{AddressLimits, TrustedProxy};

const MINUTE_SECONDS: u64 = 60;

fn between(least: u64, most: u64) -> RangedU64ValueParser<u32> {
    RangedU64ValueParser::new().range(least..=most)
}

/// What one address may do. The defaults are those of [`AddressLimits`].
#[derive(Debug, Args)]
pub(crate) struct AddressOptions {
    /// A proxy, or a network of proxies (10.0.0.0/8), whose X-Forwarded-For says where requests come from; may be repeated.
    /// From anybody else it says nothing, and all who come through a proxy that is not named here count as one address
    #[arg(long = "trusted-proxy", value_name = "CIDR")]
    pub(crate) trusted_proxies: Vec<TrustedProxy>,
    /// How many connections one address may have open, those that say nothing included; 0 for any number
    #[arg(long, value_name = "N", default_value = "1024", value_parser = between(0, 1_048_576))]
    pub(crate) address_connections: u32,
    /// How many times in a second one address may ask for something without a session, those of a minute at once; 0 for any
    /// number
    #[arg(long, value_name = "N", default_value = "10", value_parser = between(0, 1_000_000))]
    pub(crate) address_requests_per_second: u32,
    /// How many times one address may try to register, at once; 0 for any number
    #[arg(long, value_name = "N", default_value = "100", value_parser = between(0, 1_000_000))]
    pub(crate) address_registrations: u32,
    /// How long it takes until an address may try to register once more
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = between(1, 86_400))]
    pub(crate) address_registration_seconds: u32,
    /// How much of files may be stored from one address at once, in MiB, and then one MiB in a second; 0 for any amount
    #[arg(long, value_name = "MIB", default_value = "1024", value_parser = between(0, 1_048_576))]
    pub(crate) address_upload_mib: u32,
}

impl From<AddressOptions> for AddressLimits {
    fn from(options: AddressOptions) -> Self {
        let rate = |burst: u32, interval_seconds: u32| {
            (burst > 0).then_some(Rate {
                burst,
                interval_seconds: interval_seconds.into(),
            })
        };
        Self {
            trusted_proxies: options.trusted_proxies,
            connections_max: usize::try_from(options.address_connections)
                .ok()
                .and_then(NonZeroUsize::new),
            registrations: rate(
                options.address_registrations,
                options.address_registration_seconds,
            ),
            requests_per_second: options.address_requests_per_second,
            upload_mibs: rate(options.address_upload_mib, 1),
        }
    }
}

/// What one user may take of the KeyPackages of another. The defaults are those of [`DrainLimits`].
#[derive(Debug, Args)]
pub(crate) struct DrainOptions {
    /// How many times a user may be handed a KeyPackage of one device, at once
    #[arg(long, value_name = "N", default_value = "6", value_parser = between(1, 100_000))]
    pub(crate) drain_pair_burst: u32,
    /// How long it takes until a user may be handed one of the same device once more
    #[arg(long, value_name = "SECONDS", default_value = "600", value_parser = between(1, 86_400))]
    pub(crate) drain_pair_seconds: u32,
    /// How many single-use KeyPackages of one device all users together may be handed, at once; beyond it there is the last
    /// resort
    #[arg(long, value_name = "N", default_value = "64", value_parser = between(1, 100_000))]
    pub(crate) drain_device_burst: u32,
    /// How long it takes until all users together may be handed one of a device once more
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = between(1, 86_400))]
    pub(crate) drain_device_seconds: u32,
    /// How many reservations a user may hold
    #[arg(long, value_name = "N", default_value = "64", value_parser = between(1, 100_000))]
    pub(crate) drain_user_reservations: u32,
    /// How many reservations a user may hold on one device
    #[arg(long, value_name = "N", default_value = "4", value_parser = between(1, 100_000))]
    pub(crate) drain_pair_reservations: u32,
    /// How long a reservation that came to nothing counts as held after its deadline
    #[arg(long, value_name = "SECONDS", default_value = "86400", value_parser = between(0, 2_592_000))]
    pub(crate) drain_lapsed_seconds: u32,
    /// How many KeyPackages of a device are kept for users who share a group with its owner
    #[arg(long, value_name = "N", default_value = "8", value_parser = between(0, 100_000))]
    pub(crate) drain_floor: u32,
}

impl From<DrainOptions> for DrainLimits {
    fn from(options: DrainOptions) -> Self {
        let rate = |burst, interval_seconds: u32| Rate {
            burst,
            interval_seconds: interval_seconds.into(),
        };
        Self {
            pair: rate(options.drain_pair_burst, options.drain_pair_seconds),
            target: rate(options.drain_device_burst, options.drain_device_seconds),
            live_per_requester: options.drain_user_reservations,
            live_per_pair: options.drain_pair_reservations,
            lapsed_counts_seconds: options.drain_lapsed_seconds.into(),
            floor: options.drain_floor,
        }
    }
}

/// How long things last.
#[derive(Debug, Args)]
pub(crate) struct Durations {
    /// How long a message is kept for members who have not come for it. Not longer than what an invitation was made with can
    /// be used
    #[arg(long, value_name = "DAYS", default_value = "30", value_parser = between(1, 30))]
    pub(crate) message_days: u32,
    /// How long files that members send each other are kept
    #[arg(long, value_name = "DAYS", default_value = "30", value_parser = between(1, 366))]
    pub(crate) attachment_days: u32,
    /// How long a session lasts
    #[arg(long, value_name = "MINUTES", default_value = "60", value_parser = between(2, 1440))]
    pub(crate) session_minutes: u32,
}

impl Durations {
    /// In seconds.
    pub(crate) fn messages(&self) -> u64 {
        days(self.message_days)
    }

    /// In seconds.
    pub(crate) fn attachments(&self) -> u64 {
        days(self.attachment_days)
    }

    /// In seconds.
    pub(crate) fn sessions(&self) -> u64 {
        u64::from(self.session_minutes) * MINUTE_SECONDS
    }
}

fn days(count: u32) -> u64 {
    u64::from(count) * 24 * 60 * MINUTE_SECONDS
}
