//! The deployment's ciphersuites, and a pool for each.

use larder_lifecycle::UnixSeconds;
use larder_pool::{KeyPackagePool, Tx, supported_suite};
use larder_wire::{GROUP_SUITES_MAX, ServerInfo};
use openmls::prelude::Ciphersuite;
use rusqlite::Connection;

use crate::core::identity::SCHEME;
use crate::core::profile::Context;
use crate::error::Error;
use crate::types::SuitePool;

/// The server is asked for its ciphersuites again after this long, in seconds.
const SUITES_CHECK_SECONDS: u64 = 60 * 60;

/// What a server says of its ciphersuites.
#[derive(Debug, Clone)]
pub(crate) struct Suites {
    /// The deployment's own, in its order. This program may not support all of them.
    stocked: Vec<u16>,
    /// Those that this program supports and the server accepts besides.
    accepted: Vec<u16>,
}

impl Suites {
    /// Nothing in it is trusted to be of any size. A server that does not name its deployment's ciphersuites is taken to be
    /// run with the first that it accepts.
    pub(crate) fn of_server(info: &ServerInfo) -> Self {
        let named = match info.group_suites.is_empty() {
            true => info.suites.get(..1).unwrap_or_default(),
            false => &info.group_suites,
        };
        let mut stocked: Vec<u16> = Vec::new();
        for &suite in named {
            if !stocked.contains(&suite) && stocked.len() < GROUP_SUITES_MAX {
                stocked.push(suite);
            }
        }
        let mut accepted = info.suites.clone();
        accepted.retain(|suite| !stocked.contains(suite) && usable(*suite).is_some());
        accepted.sort_unstable();
        accepted.dedup();
        Self { stocked, accepted }
    }

    /// Fails when this program supports none of the deployment's ciphersuites.
    pub(crate) fn require_one(&self) -> Result<(), Error> {
        first_usable(&self.stocked).map(|_| ())
    }
}

/// The pools of this device: one for each ciphersuite.
pub(crate) struct Pools {
    /// Those that are kept full, in the deployment's order: a new group has the first.
    pub(crate) stocked: Vec<KeyPackagePool>,
    /// Those of ciphersuites that the deployment is not run with any more. Nothing is minted for them; what is there is
    /// used, or ends. A last resort of theirs is replaced when it was used, so that groups of such a ciphersuite can go on
    /// inviting.
    pub(crate) draining: Vec<KeyPackagePool>,
}

impl Pools {
    /// All of them, the stocked ones first.
    pub(crate) fn all(&self) -> impl Iterator<Item = &KeyPackagePool> {
        self.stocked.iter().chain(&self.draining)
    }
}

impl Context {
    /// The pools that there are now.
    pub(crate) fn pools(&self, tx: &Tx<'_>) -> Result<Pools, Error> {
        let suites = stored(tx.connection())?;
        let stocked: Vec<Ciphersuite> = suites.stocked.iter().filter_map(|suite| usable(*suite)).collect();
        let policy = self
            .policy
            .shared_between(u32::try_from(stocked.len()).unwrap_or(u32::MAX));
        let pool = |suite| KeyPackagePool::for_identity(policy, suite, &self.identity.credential);
        let draining = KeyPackagePool::live_suites(tx)?
            .into_iter()
            .filter_map(usable)
            .filter(|suite| !stocked.contains(suite));
        Ok(Pools {
            draining: draining.map(pool).collect(),
            stocked: stocked.into_iter().map(pool).collect(),
        })
    }

    /// Whether a pool's last resort is to be replaced.
    pub(crate) fn last_resort_due(&self, tx: &Tx<'_>, pool: &KeyPackagePool) -> Result<bool, Error> {
        let now = self.server_now();
        if !pool.last_resort_due(tx, now)? {
            return Ok(false);
        }
        let suite = u16::from(pool.ciphersuite());
        let suites = stored(tx.connection())?;
        if suites.stocked.contains(&suite) {
            return Ok(true);
        }
        let used = pool
            .health(tx, now)?
            .last_resort
            .is_some_and(|last_resort| last_resort.used);
        Ok(used && suites.accepted.contains(&suite))
    }

    /// The ciphersuite of a group that is created now.
    pub(super) fn group_suite(&self, tx: &Tx<'_>) -> Result<Ciphersuite, Error> {
        first_usable(&stored(tx.connection())?.stocked)
    }
}

/// The ciphersuite of this number, if this program has it and our signature key is for it.
pub(crate) fn usable(suite: u16) -> Option<Ciphersuite> {
    supported_suite(suite).filter(|suite| suite.signature_algorithm() == SCHEME)
}

fn first_usable(suites: &[u16]) -> Result<Ciphersuite, Error> {
    suites
        .iter()
        .find_map(|suite| usable(*suite))
        .ok_or_else(|| Error::UnsupportedSuites(suites.to_vec()))
}

fn stored(connection: &Connection) -> Result<Suites, Error> {
    let mut statement =
        connection.prepare_cached("SELECT suite, rank IS NOT NULL FROM suites ORDER BY rank, suite")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let mut suites = Suites {
        stocked: Vec::new(),
        accepted: Vec::new(),
    };
    for row in rows {
        match row? {
            (suite, true) => suites.stocked.push(suite),
            (suite, false) => suites.accepted.push(suite),
        }
    }
    Ok(suites)
}

/// Every pool in numbers.
pub(crate) fn suite_pools(tx: &Tx<'_>, context: &Context) -> Result<Vec<SuitePool>, Error> {
    let Pools { stocked, draining } = context.pools(tx)?;
    let in_numbers = |pool: &KeyPackagePool, stocked| {
        Ok(SuitePool {
            suite: pool.ciphersuite().into(),
            stocked,
            target: if stocked { pool.policy().target() } else { 0 },
            health: pool.health(tx, context.server_now())?,
        })
    };
    let stocked = stocked.iter().map(|pool| in_numbers(pool, true));
    let draining = draining.iter().map(|pool| in_numbers(pool, false));
    stocked.chain(draining).collect()
}

/// Whether the server is to be asked for its ciphersuites.
pub(crate) fn suites_are_due(tx: &Tx<'_>, context: &Context) -> Result<bool, Error> {
    let checked_at: i64 = tx
        .connection()
        .query_row("SELECT suites_checked_at FROM profile", [], |row| row.get(0))?;
    let (now, checked_at) = (context.now(), UnixSeconds(checked_at.cast_unsigned()));
    // One that is still to come was noted by a clock that was ahead.
    Ok(now < checked_at || now.since(checked_at) >= SUITES_CHECK_SECONDS)
}

/// Takes over what the server says of its ciphersuites.
pub(crate) fn set_suites(tx: &Tx<'_>, suites: &Suites, now: UnixSeconds) -> Result<(), Error> {
    let connection = tx.connection();
    connection.execute("DELETE FROM suites", [])?;
    let ranked = suites
        .stocked
        .iter()
        .zip(0_u32..)
        .map(|(suite, rank)| (suite, Some(rank)));
    let others = suites.accepted.iter().map(|suite| (suite, None));
    for row in ranked.chain(others) {
        connection
            .prepare_cached("INSERT INTO suites (suite, rank) VALUES (?1, ?2)")?
            .execute(row)?;
    }
    connection.execute("UPDATE profile SET suites_checked_at = ?1", [now.0.cast_signed()])?;
    if suites.require_one().is_err() {
        tracing::warn!("this program supports none of the ciphersuites that the server is run with");
    }
    Ok(())
}
