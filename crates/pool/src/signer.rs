use std::fmt;

use ed25519_dalek::hazmat::{ExpandedSecretKey, raw_sign};
use ed25519_dalek::{PUBLIC_KEY_LENGTH, SECRET_KEY_LENGTH, Sha512, SigningKey, VerifyingKey};
use openmls_basic_credential::SignatureKeyPair;
use openmls_traits::signatures::{Signer, SignerError};
use openmls_traits::types::SignatureScheme;
use tls_codec::{Deserialize as _, SecretVLBytes, Serialize as _, VLBytes};
use zeroize::{ZeroizeOnDrop, Zeroizing};

/// An Ed25519 key that is expanded once instead of at every signature (RFC 8032 §5.1.5, steps 1 to 4).
///
/// [`SignatureKeyPair`] derives the scalar and the public key again each time that it signs, which is two fifths of the
/// work. Minting signs twice for each KeyPackage, so a refresh is faster with this. The signatures are the same.
///
/// The secret is overwritten when this is dropped, and no output of `Debug` shows it.
pub struct Ed25519Signer {
    secret: ExpandedSecretKey,
    public: VerifyingKey,
}

/// Why a key pair does not make an [`Ed25519Signer`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignerKeyError {
    /// It is a key of another signature scheme.
    #[error("not an Ed25519 key")]
    Scheme(SignatureScheme),
    /// Its bytes are not a private key and the public key that belongs to it. Signing with a public key of another
    /// private key would give the private key away.
    #[error("the private and the public key do not belong together")]
    Malformed,
}

impl Ed25519Signer {
    /// The same key, expanded.
    ///
    /// # Errors
    /// [`SignerKeyError`].
    pub fn new(keys: &SignatureKeyPair) -> Result<Self, SignerKeyError> {
        match keys.signature_scheme() {
            SignatureScheme::ED25519 => {}
            other => return Err(SignerKeyError::Scheme(other)),
        }
        // The private key has no accessor; it is the first field of the TLS form.
        let encoded = Zeroizing::new(
            keys.tls_serialize_detached()
                .map_err(|_| SignerKeyError::Malformed)?,
        );
        let mut encoded = encoded.as_slice();
        let private = SecretVLBytes::tls_deserialize(&mut encoded).map_err(|_| SignerKeyError::Malformed)?;
        let public = VLBytes::tls_deserialize(&mut encoded).map_err(|_| SignerKeyError::Malformed)?;
        Self::from_bytes(private.as_slice(), public.as_slice())
    }

    fn from_bytes(private: &[u8], public: &[u8]) -> Result<Self, SignerKeyError> {
        let private: &[u8; SECRET_KEY_LENGTH] = private.try_into().map_err(|_| SignerKeyError::Malformed)?;
        let derived = SigningKey::from_bytes(private).verifying_key();
        if derived.as_bytes().as_slice() != public {
            return Err(SignerKeyError::Malformed);
        }
        Ok(Self {
            secret: ExpandedSecretKey::from(private),
            public: derived,
        })
    }

    /// The public key.
    pub fn public(&self) -> &[u8; PUBLIC_KEY_LENGTH] {
        self.public.as_bytes()
    }
}

impl Signer for Ed25519Signer {
    fn sign(&self, payload: &[u8]) -> Result<Vec<u8>, SignerError> {
        Ok(raw_sign::<Sha512>(&self.secret, payload, &self.public)
            .to_bytes()
            .to_vec())
    }

    fn signature_scheme(&self) -> SignatureScheme {
        SignatureScheme::ED25519
    }
}

impl TryFrom<&SignatureKeyPair> for Ed25519Signer {
    type Error = SignerKeyError;

    fn try_from(keys: &SignatureKeyPair) -> Result<Self, SignerKeyError> {
        Self::new(keys)
    }
}

/// Its only secret overwrites itself.
impl ZeroizeOnDrop for Ed25519Signer {}

const _: () = {
    const fn overwrites_itself<T: ZeroizeOnDrop>() {}
    overwrites_itself::<ExpandedSecretKey>();
};

impl fmt::Debug for Ed25519Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ed25519Signer(..)")
    }
}
