//! A provider that believes every signature, and may derive a key that nothing can be encrypted to, or one of before.

use std::sync::Mutex;

use openmls::prelude::OpenMlsProvider;
use openmls::prelude::tls_codec::SecretVLBytes;
use openmls_rust_crypto::{OpenMlsRustCrypto, RustCrypto};
use openmls_traits::crypto::OpenMlsCrypto;
use openmls_traits::types::{
    AeadType, Ciphersuite, CryptoError, ExporterSecret, HashType, HpkeCiphertext, HpkeConfig, HpkeKeyPair,
    KemOutput, SignatureScheme,
};

/// Believes every signature, remembers every hash and every key pair, and may derive a useless key or one of before.
#[derive(Default)]
pub(crate) struct Gullible {
    inner: OpenMlsRustCrypto,
    crypto: GullibleCrypto,
}

impl Gullible {
    /// Derives as its `nth` key pair, counted from 0, one that nothing can be encrypted to.
    pub(crate) fn with_a_useless_key(nth: usize) -> Self {
        Self::with(GullibleCrypto {
            useless: Some(nth),
            ..GullibleCrypto::default()
        })
    }

    /// Derives as its `nth` key pair, counted from 0, this one.
    pub(crate) fn with_the_pair(nth: usize, pair: HpkeKeyPair) -> Self {
        Self::with(GullibleCrypto {
            imposed: Some((nth, pair)),
            ..GullibleCrypto::default()
        })
    }

    fn with(crypto: GullibleCrypto) -> Self {
        Self {
            crypto,
            ..Self::default()
        }
    }

    /// The `nth` key pair that was derived, counted from 0.
    pub(crate) fn pair(&self, nth: usize) -> HpkeKeyPair {
        self.crypto.derived.lock().unwrap()[nth].clone()
    }
}

#[derive(Default)]
pub(crate) struct GullibleCrypto {
    inner: RustCrypto,
    pub(crate) hashes: Mutex<Vec<Vec<u8>>>,
    derived: Mutex<Vec<HpkeKeyPair>>,
    useless: Option<usize>,
    imposed: Option<(usize, HpkeKeyPair)>,
}

impl OpenMlsProvider for Gullible {
    type CryptoProvider = GullibleCrypto;
    type RandProvider = <OpenMlsRustCrypto as OpenMlsProvider>::RandProvider;
    type StorageProvider = <OpenMlsRustCrypto as OpenMlsProvider>::StorageProvider;

    fn storage(&self) -> &Self::StorageProvider {
        self.inner.storage()
    }

    fn crypto(&self) -> &Self::CryptoProvider {
        &self.crypto
    }

    fn rand(&self) -> &Self::RandProvider {
        self.inner.rand()
    }
}

macro_rules! as_the_real_one {
    ($(fn $name:ident(&self $(, $arg:ident: $type:ty)*) -> $answer:ty;)*) => {
        $(fn $name(&self $(, $arg: $type)*) -> $answer {
            self.inner.$name($($arg),*)
        })*
    };
}

type Crypto<T> = Result<T, CryptoError>;

impl OpenMlsCrypto for GullibleCrypto {
    fn verify_signature(&self, _: SignatureScheme, _: &[u8], _: &[u8], _: &[u8]) -> Crypto<()> {
        Ok(())
    }

    fn hash(&self, hash_type: HashType, data: &[u8]) -> Crypto<Vec<u8>> {
        let hash = self.inner.hash(hash_type, data)?;
        self.hashes.lock().unwrap().push(hash.clone());
        Ok(hash)
    }

    fn derive_hpke_keypair(&self, config: HpkeConfig, ikm: &[u8]) -> Crypto<HpkeKeyPair> {
        let mut pair = self.inner.derive_hpke_keypair(config, ikm)?;
        let mut derived = self.derived.lock().unwrap();
        if Some(derived.len()) == self.useless {
            pair.public = vec![0; pair.public.len()];
        }
        if let Some((nth, imposed)) = &self.imposed
            && *nth == derived.len()
        {
            pair = imposed.clone();
        }
        derived.push(pair.clone());
        Ok(pair)
    }

    as_the_real_one! {
        fn supports(&self, ciphersuite: Ciphersuite) -> Crypto<()>;
        fn supported_ciphersuites(&self) -> Vec<Ciphersuite>;
        fn hkdf_extract(&self, hash_type: HashType, salt: &[u8], ikm: &[u8]) -> Crypto<SecretVLBytes>;
        fn hmac(&self, hash_type: HashType, key: &[u8], message: &[u8]) -> Crypto<SecretVLBytes>;
        fn hkdf_expand(&self, hash_type: HashType, prk: &[u8], info: &[u8], len: usize) -> Crypto<SecretVLBytes>;
        fn aead_encrypt(&self, alg: AeadType, key: &[u8], data: &[u8], nonce: &[u8], aad: &[u8]) -> Crypto<Vec<u8>>;
        fn aead_decrypt(&self, alg: AeadType, key: &[u8], data: &[u8], nonce: &[u8], aad: &[u8]) -> Crypto<Vec<u8>>;
        fn signature_key_gen(&self, alg: SignatureScheme) -> Crypto<(Vec<u8>, Vec<u8>)>;
        fn sign(&self, alg: SignatureScheme, data: &[u8], key: &[u8]) -> Crypto<Vec<u8>>;
        fn hpke_seal(&self, config: HpkeConfig, key: &[u8], info: &[u8], aad: &[u8], text: &[u8]) -> Crypto<HpkeCiphertext>;
        fn hpke_open(&self, config: HpkeConfig, input: &HpkeCiphertext, key: &[u8], info: &[u8], aad: &[u8]) -> Crypto<Vec<u8>>;
        fn hpke_setup_sender_and_export(&self, config: HpkeConfig, key: &[u8], info: &[u8], context: &[u8], len: usize) -> Crypto<(KemOutput, ExporterSecret)>;
        fn hpke_setup_receiver_and_export(&self, config: HpkeConfig, enc: &[u8], key: &[u8], info: &[u8], context: &[u8], len: usize) -> Crypto<ExporterSecret>;
    }
}
