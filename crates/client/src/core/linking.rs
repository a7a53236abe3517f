//! A new device of a user: what it shows, and what a device that the user has makes of it.

use larder_pool::Tx;
use larder_pool::zeroize::Zeroizing;
use larder_wire::{
    Authorization, Base64Url, Introduction, LABEL_DEVICE_LINK, LABEL_REGISTER, LINK_SECRET_BYTES, LinkCode,
    LinkRequest, RegisterRequest, introduction_content, link_content, registration_content,
    sign_with_label_content,
};
use openmls::prelude::{HashType, OpenMlsCrypto, OpenMlsProvider};

use crate::core::devices::{Listed, learn_devices};
use crate::core::identity::{SCHEME, registration, sign};
use crate::core::members::fingerprint;
use crate::core::peers::{self, Peer};
use crate::core::profile::{Context, enter_account, link_secret, mark_linked, mark_linking};
use crate::core::vouchers;
use crate::error::{Error, NotTheServer};
use crate::types::DeviceToLink;

/// An Ed25519 public key, in bytes.
const KEY_BYTES: usize = 32;

/// What this device shows to be linked, and the fingerprint of its key.
pub(crate) fn link_code(tx: &Tx<'_>, context: &Context) -> Result<(LinkCode, String), Error> {
    let code = LinkCode {
        server_name: context.identity.me.server_name.clone(),
        device: registration(context)?,
        secret: *mark_linking(tx)?,
    };
    Ok((code, fingerprint(context.identity.mls.public())))
}

/// The server takes this device for one of the user's: it is linked. What the device that let it in has to say to it is proven by
/// the secret of the link code, which the server does not know: the user's first device, which is this one's root from here on,
/// and the one that let it in. The list of the user's devices leads from the root to both.
///
/// # Errors
/// [`NotTheServer::ForgedIntroduction`] and [`NotTheServer::ForgedDevices`] where it is not so: nothing is remembered of it.
pub(crate) fn linked(
    tx: &Tx<'_>,
    context: &Context,
    introduction: &Introduction,
    listed: &Listed,
) -> Result<(), Error> {
    let secret = link_secret(tx)?.ok_or(NotTheServer::ForgedIntroduction)?;
    let me = &context.identity.me;
    require_proof(tx, context, introduction, &secret)?;
    enter_account(tx, context, false)?;
    for (device_id, key, root) in [
        (&introduction.root, &introduction.root_key, true),
        (&introduction.by, &introduction.by_key, false),
    ] {
        let peer = Peer::present(device_id.clone(), key.0.clone(), root);
        peers::set(tx.connection(), &me.user, &peer, context.now())?;
    }
    if !learn_devices(tx, context, &me.user, listed)? {
        return Err(NotTheServer::ForgedDevices.into());
    }
    vouchers::take_over(tx, context, introduction)?;
    mark_linked(tx)
}

/// Fails unless whoever had the link code has said so.
fn require_proof(
    tx: &Tx<'_>,
    context: &Context,
    introduction: &Introduction,
    secret: &[u8; LINK_SECRET_BYTES],
) -> Result<(), Error> {
    let provider = tx.provider();
    let mac = |message: &[u8]| {
        provider
            .crypto()
            .hmac(HashType::Sha2_256, secret, message)
            .map_err(Error::mls("checking who let this device in"))
    };
    let me = &context.identity.me;
    let own = (&me.device_id, context.identity.mls.public().as_slice());
    let content = introduction_content(&me.server_name, &me.user, own, introduction);
    // Of another length, one key could end where the other begins.
    let are_keys = [&introduction.by_key, &introduction.root_key]
        .iter()
        .all(|key| key.0.len() == KEY_BYTES);
    let expected = mac(&content)?;
    // MACs of both, so that how long it takes to compare them tells nothing.
    let is_proven = mac(expected.as_slice())?.as_slice() == mac(&introduction.proof.0)?.as_slice();
    match are_keys && is_proven {
        true => Ok(()),
        false => Err(NotTheServer::ForgedIntroduction.into()),
    }
}

/// Checks what a code says: that the device is to be this user's at this server, and has its keys.
pub(crate) fn read_link_code(tx: &Tx<'_>, context: &Context, code: &str) -> Result<DeviceToLink, Error> {
    let LinkCode {
        server_name,
        device,
        secret,
    } = code.parse().map_err(|_| Error::InvalidLinkCode)?;
    let secret = Zeroizing::new(secret);
    let me = &context.identity.me;
    if server_name != me.server_name || device.user != me.user {
        return Err(Error::LinkCodeOfAnother {
            user: device.user,
            server_name,
        });
    }
    let provider = tx.provider();
    let content = registration_content(&server_name, &device);
    let labelled = sign_with_label_content(LABEL_REGISTER, &content);
    let verifies = |content: &[u8], key: &Base64Url, signature: &Base64Url| {
        provider
            .crypto()
            .verify_signature(SCHEME, content, &key.0, &signature.0)
            .is_ok()
    };
    let RegisterRequest {
        auth_key,
        mls_signature_key,
        proofs,
        ..
    } = &device;
    if !verifies(&content, auth_key, &proofs.auth) || !verifies(&labelled, mls_signature_key, &proofs.mls) {
        return Err(Error::InvalidLinkCode);
    }
    Ok(DeviceToLink {
        fingerprint: fingerprint(&mls_signature_key.0),
        request: device,
        secret,
    })
}

/// Signs that a device is one of this user's, and says to it, by the secret of its link code, to whom it belongs and which groups
/// are its user's.
pub(crate) fn authorize(tx: &Tx<'_>, context: &Context, device: DeviceToLink) -> Result<LinkRequest, Error> {
    let DeviceToLink {
        request: device,
        secret,
        ..
    } = device;
    let (me, mls) = (&context.identity.me, &context.identity.mls);
    let new = (&device.device_id, device.mls_signature_key.0.as_slice());
    let content = link_content(&me.server_name, &device.user, new.0, &device.auth_key.0, new.1);
    let labelled = sign_with_label_content(LABEL_DEVICE_LINK, &content);
    let known = peers::of_user(tx.connection(), &me.user)?;
    let root = known.into_iter().find(|peer| peer.root);
    let root = root.ok_or(NotTheServer::ForgedDevices)?;
    let mut introduction = Introduction {
        by: me.device_id.clone(),
        by_key: Base64Url(mls.public().to_vec()),
        root: root.device_id,
        root_key: Base64Url(root.signature_key),
        proof: Base64Url::default(),
        vouchers: vouchers::write(tx, context, new)?,
    };
    let content = introduction_content(&me.server_name, &device.user, new, &introduction);
    let provider = tx.provider();
    let proof = provider
        .crypto()
        .hmac(HashType::Sha2_256, secret.as_slice(), &content)
        .map_err(Error::mls("saying to a device whose it is"))?;
    introduction.proof = Base64Url(proof.as_slice().to_vec());
    Ok(LinkRequest {
        authorization: Authorization {
            by: me.device_id.clone(),
            signature: Base64Url(sign(mls, &labelled)?),
        },
        device,
        introduction,
    })
}
