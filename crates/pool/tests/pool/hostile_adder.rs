//! An adder that builds the Welcome itself.

use crate::support::{self, Device, Invitation, SUITE, join_config, key_package};
use larder_pool::openmls::prelude::tls_codec::{Deserialize as _, Serialize as _, VLBytes};
use larder_pool::openmls::prelude::{
    HpkeCiphertext, MlsMessageBodyIn, MlsMessageIn, OpenMlsCrypto as _, RatchetTreeIn, StagedWelcome,
};
use larder_pool::{JoinError, PoolError, Upload};

/// The head of an `MLSMessage` with a Welcome: version, wire format and ciphersuite (RFC 9420 §6, §12.4.3.1).
const HEAD_BYTES: usize = 6;

/// HPKE's info for the group secrets (RFC 9420 §5.1.3, §12.4.3.1).
fn encrypt_context(encrypted_group_info: &VLBytes) -> Vec<u8> {
    let label = VLBytes::new(b"MLS 1.0 Welcome".to_vec());
    let mut info = label.tls_serialize_detached().unwrap();
    info.extend(encrypted_group_info.tls_serialize_detached().unwrap());
    info
}

/// The same Welcome, addressed to another KeyPackage. Any adder knows the group secrets that it takes; this one gets
/// them from the owner's private key for short.
fn readdress(bob: &mut Device, invitation: &Invitation, from: &Upload, to: &Upload) -> Vec<u8> {
    let crypto = support::crypto();
    let (head, mut rest) = invitation.welcome.split_at(HEAD_BYTES);
    let secrets = VLBytes::tls_deserialize(&mut rest).unwrap();
    let encrypted_group_info = VLBytes::tls_deserialize_exact(rest).unwrap();
    let mut secrets = secrets.as_slice();
    let new_member = VLBytes::tls_deserialize(&mut secrets).unwrap();
    assert_eq!(new_member.as_slice(), from.key_package_ref.as_slice());
    let sealed = HpkeCiphertext::tls_deserialize_exact(secrets).unwrap();

    let info = encrypt_context(&encrypted_group_info);
    let private = bob
        .bundle(&from.key_package_ref)
        .unwrap()
        .init_private_key()
        .to_vec();
    let group_secrets = crypto
        .hpke_open(SUITE.hpke_config(), &sealed, &private, &info, b"")
        .unwrap();
    let target = key_package(to);
    let resealed = crypto
        .hpke_seal(
            SUITE.hpke_config(),
            target.hpke_init_key().as_slice(),
            &info,
            b"",
            &group_secrets,
        )
        .unwrap();

    let mut entry = VLBytes::new(to.key_package_ref.as_slice().to_vec())
        .tls_serialize_detached()
        .unwrap();
    entry.extend(resealed.tls_serialize_detached().unwrap());
    let mut welcome = head.to_vec();
    welcome.extend(VLBytes::new(entry).tls_serialize_detached().unwrap());
    welcome.extend(encrypted_group_info.tls_serialize_detached().unwrap());
    welcome
}

#[test]
fn a_welcome_cannot_spend_a_key_package_that_its_group_does_not_hold() {
    let mut bob = Device::new("bob/phone");
    let uploads = bob.stock(2);
    let invitation = Device::new("mallory/phone").invite(&uploads[0]);
    let welcome = readdress(&mut bob, &invitation, &uploads[0], &uploads[1]);
    let before = bob.dump();

    // OpenMLS compares the signature key only, which all KeyPackages of a device share.
    let accepted = bob.store.transaction(|tx| -> Result<(), PoolError> {
        let MlsMessageBodyIn::Welcome(welcome) =
            MlsMessageIn::tls_deserialize_exact(&welcome).unwrap().extract()
        else {
            panic!("not a Welcome");
        };
        let tree = RatchetTreeIn::tls_deserialize_exact(&invitation.ratchet_tree).unwrap();
        assert!(StagedWelcome::new_from_welcome(&tx.provider(), &join_config(), welcome, Some(tree)).is_ok());
        Err(PoolError::Randomness)
    });
    assert!(accepted.is_err());

    let error = bob
        .join_bytes(&welcome, Some(&invitation.ratchet_tree))
        .unwrap_err();
    assert!(
        matches!(&error, JoinError::NotOurLeaf(key_package_ref) if *key_package_ref == uploads[1].key_package_ref),
        "{error:?}"
    );
    assert_eq!(bob.dump(), before);
    bob.assert_consistent(2);
    bob.join(&invitation).unwrap();
}

#[test]
fn the_owner_can_be_readdressed_to_itself() {
    // The helper makes Welcomes that join, so what the test above sees is not its clumsiness.
    let mut bob = Device::new("bob/phone");
    let upload = bob.stock(1).remove(0);
    let invitation = Device::new("alice/phone").invite(&upload);
    let welcome = readdress(&mut bob, &invitation, &upload, &upload);
    assert_ne!(welcome, invitation.welcome);
    bob.join_bytes(&welcome, Some(&invitation.ratchet_tree)).unwrap();
}
