//! The table `keypackage_pool_generations`: what KeyPackages were minted for.

use std::collections::BTreeSet;

use openmls::prelude::{
    Capabilities, Ciphersuite, Credential, CredentialWithKey, ExtensionType, KeyPackage, SignaturePublicKey,
};
use rusqlite::{Connection, OptionalExtension, params};
use sha2::{Digest as _, Sha256};

use crate::error::{PoolError, StoreError};
use crate::metadata::{self, Metadata};
use crate::store::Tx;

/// The number of a generation in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Generation(pub(crate) i64);

/// What makes a generation: a change of any of it replaces the pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fingerprint {
    suite: u16,
    signature_key_hash: [u8; 32],
    credential_hash: [u8; 32],
    capabilities_hash: [u8; 32],
}

impl Fingerprint {
    /// Of what a pool mints.
    pub(crate) fn new(
        suite: Ciphersuite,
        credential: &CredentialWithKey,
        capabilities: &Capabilities,
    ) -> Self {
        Self::of(
            suite,
            &credential.signature_key,
            &credential.credential,
            capabilities,
        )
    }

    /// Of what was minted.
    pub(crate) fn of_key_package(key_package: &KeyPackage) -> Self {
        let leaf = key_package.leaf_node();
        Self::of(
            key_package.ciphersuite(),
            leaf.signature_key(),
            leaf.credential(),
            leaf.capabilities(),
        )
    }

    fn of(
        suite: Ciphersuite,
        signature_key: &SignaturePublicKey,
        credential: &Credential,
        capabilities: &Capabilities,
    ) -> Self {
        let credential_type = u16::from(credential.credential_type()).to_be_bytes();
        Self {
            suite: suite.into(),
            signature_key_hash: Sha256::digest(signature_key.as_slice()).into(),
            credential_hash: Sha256::new()
                .chain_update(credential_type)
                .chain_update(credential.serialized_content())
                .finalize()
                .into(),
            capabilities_hash: hash_of(capabilities),
        }
    }
}

/// Of what the capabilities mean, not of how they are written: their order, and the random values that exercise
/// extensibility (RFC 9420 §13.5), differ without a difference. A last resort announces its extension in addition and
/// is of the generation of the others.
fn hash_of(capabilities: &Capabilities) -> [u8; 32] {
    let versions = capabilities.versions().iter().map(|version| match version {
        openmls::prelude::ProtocolVersion::Mls10 => 1,
        openmls::prelude::ProtocolVersion::Other(version) => *version,
    });
    let ciphersuites = capabilities.ciphersuites().iter();
    let extensions = capabilities.extensions().iter();
    let proposals = capabilities.proposals().iter();
    let credentials = capabilities.credentials().iter();
    let lists: [Vec<u16>; 5] = [
        versions.collect(),
        ciphersuites
            .filter(|suite| !suite.is_grease())
            .map(|suite| suite.value())
            .collect(),
        extensions
            .filter(|extension| !extension.is_grease() && **extension != ExtensionType::LastResort)
            .map(|&extension| extension.into())
            .collect(),
        proposals
            .filter(|proposal| !proposal.is_grease())
            .map(|&proposal| proposal.into())
            .collect(),
        credentials
            .filter(|credential| !credential.is_grease())
            .map(|&credential| credential.into())
            .collect(),
    ];
    let mut hash = Sha256::new();
    for mut list in lists {
        list.sort_unstable();
        list.dedup();
        hash.update(list.len().to_be_bytes());
        list.into_iter()
            .for_each(|value| hash.update(value.to_be_bytes()));
    }
    hash.finalize().into()
}

/// The generation of this fingerprint, if anything was minted for it.
pub(crate) fn find(
    connection: &Connection,
    fingerprint: &Fingerprint,
) -> Result<Option<Generation>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT generation FROM keypackage_pool_generations
         WHERE suite = ?1 AND signature_key_hash = ?2 AND credential_hash = ?3 AND capabilities_hash = ?4",
    )?;
    let Fingerprint {
        suite,
        signature_key_hash,
        credential_hash,
        capabilities_hash,
    } = fingerprint;
    Ok(statement
        .query_row(
            params![suite, signature_key_hash, credential_hash, capabilities_hash],
            |row| row.get(0),
        )
        .optional()?
        .map(Generation))
}

/// The generation of this fingerprint, new if need be.
pub(crate) fn ensure(connection: &Connection, fingerprint: &Fingerprint) -> Result<Generation, StoreError> {
    if let Some(generation) = find(connection, fingerprint)? {
        return Ok(generation);
    }
    connection
        .prepare_cached(
            "INSERT INTO keypackage_pool_generations
                 (suite, signature_key_hash, credential_hash, capabilities_hash)
             VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(params![
            fingerprint.suite,
            fingerprint.signature_key_hash,
            fingerprint.credential_hash,
            fingerprint.capabilities_hash,
        ])?;
    Ok(Generation(connection.last_insert_rowid()))
}

/// Every generation of this suite.
pub(crate) fn of_suite(connection: &Connection, suite: Ciphersuite) -> Result<Vec<Generation>, StoreError> {
    let mut statement =
        connection.prepare_cached("SELECT generation FROM keypackage_pool_generations WHERE suite = ?1")?;
    let generations = statement.query_map([u16::from(suite)], |row| row.get(0).map(Generation))?;
    Ok(generations.collect::<Result<_, _>>()?)
}

/// The suites of these generations, in the order of their numbers.
pub(crate) fn suites_of(
    connection: &Connection,
    generations: &BTreeSet<Generation>,
) -> Result<Vec<u16>, StoreError> {
    let sql = "SELECT generation, suite FROM keypackage_pool_generations";
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement.query_map([], |row| Ok((Generation(row.get(0)?), row.get(1)?)))?;
    let mut suites = BTreeSet::new();
    for row in rows {
        let (generation, suite) = row?;
        if generations.contains(&generation) {
            suites.insert(suite);
        }
    }
    Ok(suites.into_iter().collect())
}

/// Every generation of the suite that this one is of, itself included.
pub(crate) fn siblings(connection: &Connection, of: Generation) -> Result<Vec<Generation>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT generation FROM keypackage_pool_generations
         WHERE suite = (SELECT suite FROM keypackage_pool_generations WHERE generation = ?1)",
    )?;
    let generations = statement.query_map([of.0], |row| row.get(0).map(Generation))?;
    Ok(generations.collect::<Result<_, _>>()?)
}

/// Counts the tombstones of an older kind of pool as `current`'s: they tell nothing of their keys.
pub(crate) fn adopt(tx: &Tx<'_>, suite: Ciphersuite, current: &Fingerprint) -> Result<(), PoolError> {
    let connection = tx.connection();
    let unknown: Option<i64> = connection
        .prepare_cached(
            "SELECT generation FROM keypackage_pool_generations
             WHERE suite = ?1 AND signature_key_hash IS NULL",
        )?
        .query_row([u16::from(suite)], |row| row.get(0))
        .optional()?;
    let Some(unknown) = unknown.map(Generation) else {
        return Ok(());
    };
    tx.atomically(|| {
        let generation = ensure(connection, current)?;
        for row in metadata::all(connection)? {
            if row.generation != unknown {
                continue;
            }
            let next = Metadata {
                generation,
                ..row.clone()
            };
            metadata::write_state(connection, &row, &next)?;
        }
        connection.execute(
            "DELETE FROM keypackage_pool_generations WHERE generation = ?1",
            [unknown.0],
        )?;
        Ok(())
    })
}

/// Makes an earlier generation of everything that was minted: no pool mints for it any more.
pub(crate) fn supersede_all(connection: &Connection) -> Result<(), StoreError> {
    // Nothing hashes to random bytes.
    connection.execute(
        "UPDATE keypackage_pool_generations
         SET signature_key_hash = randomblob(32), credential_hash = randomblob(32), capabilities_hash = randomblob(32)",
        [],
    )?;
    Ok(())
}

/// Forgets generations that no row is of any more.
pub(crate) fn forget_empty(connection: &Connection) -> Result<(), StoreError> {
    connection.execute(
        "DELETE FROM keypackage_pool_generations
         WHERE generation NOT IN (SELECT generation FROM keypackage_pool_metadata)",
        [],
    )?;
    Ok(())
}
