use larder_pool::{Ed25519Signer, Tx};
use larder_wire::{
    Base64Url, LABEL_REGISTER, Proofs, RegisterRequest, credential_identity, registration_content,
    session_content, sign_with_label_content,
};
use openmls::prelude::{BasicCredential, CredentialWithKey, OpenMlsProvider, SignatureScheme};
use openmls_basic_credential::SignatureKeyPair;
use openmls_traits::signatures::{Signer, SignerError};

use crate::core::profile::{Context, Registering};
use crate::error::Error;
use crate::types::Me;

/// Of both keys. Every ciphersuite that this device takes part in signs with it, so that one MLS signature key serves all.
pub(super) const SCHEME: SignatureScheme = SignatureScheme::ED25519;

/// Who we are and the keys that prove it. The private keys are stored in OpenMLS's table and nowhere else.
pub(crate) struct Identity {
    pub(crate) me: Me,
    pub(crate) auth: Ed25519Signer,
    pub(crate) mls: Ed25519Signer,
    pub(crate) credential: CredentialWithKey,
}

impl Identity {
    /// New keys for a new device, stored.
    pub(super) fn generate(tx: &Tx<'_>, registering: &Registering) -> Result<Self, Error> {
        let auth = SignatureKeyPair::new(SCHEME).map_err(Error::mls("making a key"))?;
        let mls = SignatureKeyPair::new(SCHEME).map_err(Error::mls("making a key"))?;
        let provider = tx.provider();
        for keys in [&auth, &mls] {
            keys.store(provider.storage())
                .map_err(Error::mls("storing a key"))?;
        }
        let device_id = uuid::Uuid::new_v4()
            .to_string()
            .parse()
            .map_err(|_| Error::Corrupt("device id"))?;
        Self::new(
            Me {
                user: registering.user.clone(),
                device_id,
                server: registering.server.clone(),
                server_name: registering.server_name.clone(),
            },
            &auth,
            &mls,
        )
    }

    /// The keys stored under these public keys.
    pub(super) fn load(tx: &Tx<'_>, me: Me, auth: &[u8], mls: &[u8]) -> Result<Self, Error> {
        let provider = tx.provider();
        let read = |public: &[u8]| {
            SignatureKeyPair::read(provider.storage(), public, SCHEME)
                .ok_or(Error::Corrupt("a key of the profile is missing"))
        };
        Self::new(me, &read(auth)?, &read(mls)?)
    }

    /// Deletes the keys of a registration that never came about.
    pub(super) fn erase(tx: &Tx<'_>, auth: &[u8], mls: &[u8]) -> Result<(), Error> {
        let provider = tx.provider();
        for public in [auth, mls] {
            SignatureKeyPair::delete(provider.storage(), public, SCHEME)
                .map_err(Error::mls("deleting a key"))?;
        }
        Ok(())
    }

    fn new(me: Me, auth: &SignatureKeyPair, mls: &SignatureKeyPair) -> Result<Self, Error> {
        let credential = CredentialWithKey {
            credential: BasicCredential::new(credential_identity(&me.user, &me.device_id)).into(),
            signature_key: mls.public().into(),
        };
        let expanded = |keys| Ed25519Signer::new(keys).map_err(Error::mls("reading a key"));
        Ok(Self {
            me,
            auth: expanded(auth)?,
            mls: expanded(mls)?,
            credential,
        })
    }
}

/// The request that registers our account, with the proofs that we hold both keys.
pub(crate) fn registration(context: &Context) -> Result<RegisterRequest, Error> {
    let Identity { me, auth, mls, .. } = &context.identity;
    let mut request = RegisterRequest {
        user: me.user.clone(),
        device_id: me.device_id.clone(),
        auth_key: Base64Url(auth.public().to_vec()),
        mls_signature_key: Base64Url(mls.public().to_vec()),
        proofs: Proofs {
            auth: Base64Url::default(),
            mls: Base64Url::default(),
        },
    };
    let content = registration_content(&me.server_name, &request);
    request.proofs.auth = Base64Url(sign(auth, &content)?);
    request.proofs.mls = Base64Url(sign(mls, &sign_with_label_content(LABEL_REGISTER, &content))?);
    Ok(request)
}

/// The signature that opens a session.
pub(crate) fn auth_signature(context: &Context, challenge: &[u8]) -> Result<Vec<u8>, Error> {
    let Identity { me, auth, .. } = &context.identity;
    sign(auth, &session_content(&me.server_name, challenge))
}

pub(super) fn sign(keys: &Ed25519Signer, content: &[u8]) -> Result<Vec<u8>, Error> {
    keys.sign(content)
        .map_err(|error: SignerError| Error::mls("signing")(format!("{error:?}")))
}
