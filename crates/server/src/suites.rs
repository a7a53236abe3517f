//! Which ciphersuites a deployment can be run with.

use larder_wire::{GROUP_SUITES_MAX, SUITE_X25519_AES128GCM, SUITE_X25519_CHACHA20POLY1305, suite_name};
use openmls::prelude::{Ciphersuite, OpenMlsCrypto as _, SignatureScheme};
use openmls_rust_crypto::RustCrypto;

/// Ciphersuites that are accepted whatever the configuration: a deployment that moves on keeps its groups.
const ALWAYS_ACCEPTED: [u16; 2] = [SUITE_X25519_AES128GCM, SUITE_X25519_CHACHA20POLY1305];

/// Why a server cannot be run with these ciphersuites.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnusableSuites {
    /// None, or more than a pool can be divided between.
    #[error("a deployment has 1 to {GROUP_SUITES_MAX} ciphersuites, not {0}")]
    Count(usize),
    /// One is there twice.
    #[error("the ciphersuite {} is there twice", suite_name(*.0))]
    Twice(u16),
    /// This build does not have it, so the server could validate nothing of it.
    #[error(
        "this build has no ciphersuite {} (the post-quantum ones need the feature `xwing`)",
        suite_name(*.0)
    )]
    Unsupported(u16),
    /// A device has one MLS signature key, an Ed25519 one, for all of its ciphersuites.
    #[error(
        "the ciphersuite {} does not sign with Ed25519, and the signature keys of devices are Ed25519 keys",
        suite_name(*.0)
    )]
    SignatureScheme(u16),
}

/// Whether a server of this build can be run with these ciphersuites.
///
/// # Errors
/// [`UnusableSuites`], the first reason against them.
pub fn check_group_suites(suites: &[u16]) -> Result<(), UnusableSuites> {
    if suites.is_empty() || suites.len() > GROUP_SUITES_MAX {
        return Err(UnusableSuites::Count(suites.len()));
    }
    let crypto = RustCrypto::default();
    for (index, &suite) in suites.iter().enumerate() {
        if suites[..index].contains(&suite) {
            return Err(UnusableSuites::Twice(suite));
        }
        let known = Ciphersuite::try_from(suite).map_err(|_| UnusableSuites::Unsupported(suite))?;
        if known.signature_algorithm() != SignatureScheme::ED25519 {
            return Err(UnusableSuites::SignatureScheme(suite));
        }
        crypto
            .supports(known)
            .map_err(|_| UnusableSuites::Unsupported(suite))?;
    }
    Ok(())
}

/// The ciphersuites that KeyPackages and groups may have, in the order of their numbers.
pub(crate) fn accepted(group_suites: &[u16]) -> Vec<u16> {
    let mut accepted = [&ALWAYS_ACCEPTED[..], group_suites].concat();
    accepted.sort_unstable();
    accepted.dedup();
    accepted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deployment_has_suites_that_this_build_can_validate_and_devices_can_sign_with() {
        assert_eq!(check_group_suites(&[0x0001, 0x0003]), Ok(()));
        assert_eq!(check_group_suites(&[]), Err(UnusableSuites::Count(0)));
        let many: Vec<u16> = (1..10).collect();
        assert_eq!(check_group_suites(&many), Err(UnusableSuites::Count(9)));
        assert_eq!(check_group_suites(&[1, 3, 1]), Err(UnusableSuites::Twice(1)));
        assert_eq!(
            check_group_suites(&[1, 2]),
            Err(UnusableSuites::SignatureScheme(2)),
            "P-256, which this build has"
        );
        assert_eq!(
            check_group_suites(&[0x7777]),
            Err(UnusableSuites::Unsupported(0x7777))
        );
    }

    #[test]
    fn x_wing_is_there_with_its_feature_only() {
        let expected = match cfg!(feature = "xwing") {
            true => Ok(()),
            false => Err(UnusableSuites::Unsupported(0x004F)),
        };
        assert_eq!(check_group_suites(&[0x004F]), expected);
    }

    #[test]
    fn the_suites_of_the_rfc_are_accepted_beside_the_deployments_own() {
        assert_eq!(accepted(&[0x0001]), [0x0001, 0x0003]);
        assert_eq!(accepted(&[0x004F, 0x0003]), [0x0001, 0x0003, 0x004F]);
    }
}
