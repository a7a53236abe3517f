use larder_pool::Tx;
use larder_wire::{DeviceOutcome, DeviceReservation};
use openmls::prelude::{Ciphersuite, KeyPackageBundle, OpenMlsProvider};
use openmls_traits::storage::StorageProvider as _;

use crate::core::invitation::check;
use crate::core::profile::Context;
use crate::error::{Error, KeyPackageFlaw};
use crate::types::{NotAdded, Probe};

/// Judges what the directory would hand out of this device, as an adder would, and whether we could open the invitation.
pub(crate) fn judge_probe(
    tx: &Tx<'_>,
    context: &Context,
    suite: Ciphersuite,
    answer: &DeviceReservation,
) -> Result<Probe, Error> {
    let last_resort = match answer.outcome {
        DeviceOutcome::Ok => false,
        DeviceOutcome::LastResort => true,
        DeviceOutcome::Exhausted | DeviceOutcome::Withheld => {
            return Ok(Probe::NotAddable(NotAdded::Exhausted));
        }
        DeviceOutcome::Incompatible => {
            let suite = suite.into();
            return Ok(Probe::NotAddable(NotAdded::Incompatible { suite }));
        }
        DeviceOutcome::RateLimited => {
            let retry_after_seconds = answer.retry_after_seconds;
            return Ok(Probe::NotAddable(NotAdded::RateLimited { retry_after_seconds }));
        }
    };
    let flawed = |flaw| Ok(Probe::NotAddable(NotAdded::InvalidKeyPackage(flaw)));
    let (Some(key_package_ref), Some(bytes)) = (&answer.key_package_ref, &answer.key_package) else {
        return flawed(KeyPackageFlaw::Missing);
    };
    let me = &context.identity.me;
    let asked = (&me.user, &me.device_id);
    let key_package = match check(tx, &bytes.0, key_package_ref, suite, asked, context.server_now()) {
        Ok(key_package) => key_package,
        Err(flaw) => return flawed(flaw),
    };
    if key_package.last_resort() != last_resort {
        return flawed(KeyPackageFlaw::LastResort);
    }
    if key_package.leaf_node().signature_key().as_slice() != context.identity.mls.public() {
        let device = me.device_id.clone();
        return Ok(Probe::NotAddable(NotAdded::KeyChanged { device }));
    }
    let provider = tx.provider();
    let hash_ref = key_package
        .hash_ref(provider.crypto())
        .map_err(Error::mls("hashing a KeyPackage"))?;
    let bundle: Option<KeyPackageBundle> = provider.storage().key_package(&hash_ref)?;
    let key_package_ref = key_package_ref.clone();
    Ok(match bundle {
        Some(_) => Probe::Addable {
            key_package_ref,
            last_resort,
        },
        None => Probe::NoPrivateKey { key_package_ref },
    })
}
