//! The signer that keeps its key expanded.

use crate::support::{self, Device, key_package};
use larder_pool::openmls::prelude::{OpenMlsCrypto as _, SignatureScheme};
use larder_pool::{Ed25519Signer, SignerKeyError};
use openmls_basic_credential::SignatureKeyPair;
use openmls_traits::signatures::Signer as _;

const ED25519: SignatureScheme = SignatureScheme::ED25519;

#[test]
fn it_signs_exactly_as_the_key_pair_does() {
    let keys = SignatureKeyPair::new(ED25519).unwrap();
    let signer = Ed25519Signer::new(&keys).unwrap();
    assert_eq!(signer.signature_scheme(), ED25519);
    assert_eq!(signer.public().as_slice(), keys.public());
    for length in [0, 1, 63, 64, 1000] {
        let payload = vec![length as u8; length];
        let signature = signer.sign(&payload).unwrap();
        assert_eq!(signature, keys.sign(&payload).unwrap());
        let crypto = support::crypto();
        crypto
            .verify_signature(ED25519, &payload, keys.public(), &signature)
            .unwrap();
        let forged = [payload, b"x".to_vec()].concat();
        assert!(
            crypto
                .verify_signature(ED25519, &forged, keys.public(), &signature)
                .is_err()
        );
    }
}

#[test]
fn a_vector_of_rfc_8032_comes_out() {
    // §7.1, test 3.
    let bytes = |hex: &str| -> Vec<u8> {
        (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
            .collect()
    };
    let keys = SignatureKeyPair::from_raw(
        ED25519,
        bytes("c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7"),
        bytes("fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025"),
    );
    let signature = Ed25519Signer::new(&keys).unwrap().sign(&[0xaf, 0x82]).unwrap();
    assert_eq!(
        signature,
        bytes(
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac\
             18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a"
        )
    );
}

#[test]
fn key_packages_minted_with_it_validate_and_join() {
    let mut bob = Device::new("bob/phone");
    let Device {
        store,
        pool,
        signer,
        now,
        ..
    } = &mut bob;
    let signer = Ed25519Signer::new(signer).unwrap();
    store.transaction(|tx| pool.mint(tx, &signer, 3, *now)).unwrap();
    let uploads = bob.begin_upload();
    assert_eq!(uploads.len(), 3);
    for upload in &uploads {
        // Fails unless it validates.
        key_package(upload);
    }
    let invitation = Device::new("alice/phone").invite(&uploads[1]);
    bob.join(&invitation).unwrap();
}

#[test]
fn a_stored_key_pair_is_read_back_and_expanded() {
    let mut device = Device::new("alice/phone");
    let Device { store, signer, .. } = &mut device;
    let read = store
        .transaction(|tx| -> Result<_, larder_pool::StoreError> {
            use larder_pool::openmls::prelude::OpenMlsProvider as _;
            let provider = tx.provider();
            signer.store(provider.storage())?;
            Ok(SignatureKeyPair::read(
                provider.storage(),
                signer.public(),
                ED25519,
            ))
        })
        .unwrap()
        .unwrap();
    let expanded = Ed25519Signer::try_from(&read).unwrap();
    assert_eq!(expanded.sign(b"x").unwrap(), device.signer.sign(b"x").unwrap());
}

#[test]
fn keys_that_do_not_belong_together_and_keys_of_other_schemes_are_refused() {
    let other = SignatureKeyPair::new(SignatureScheme::ECDSA_SECP256R1_SHA256).unwrap();
    assert_eq!(
        Ed25519Signer::new(&other).unwrap_err(),
        SignerKeyError::Scheme(SignatureScheme::ECDSA_SECP256R1_SHA256)
    );
    let public = SignatureKeyPair::new(ED25519).unwrap().to_public_vec();
    for (private, public) in [
        (vec![7; 32], public.clone()),
        (vec![7; 31], public.clone()),
        (vec![7; 64], public),
        (vec![7; 32], Vec::new()),
    ] {
        let keys = SignatureKeyPair::from_raw(ED25519, private, public);
        assert_eq!(Ed25519Signer::new(&keys).unwrap_err(), SignerKeyError::Malformed);
    }
}

#[test]
fn debug_shows_no_key() {
    let keys = SignatureKeyPair::new(ED25519).unwrap();
    let signer = Ed25519Signer::new(&keys).unwrap();
    assert_eq!(format!("{signer:?}"), "Ed25519Signer(..)");
}
