//! A new device of a user: what it shows, and what a device that the user has makes of it.

use larder_pool::Tx;
use larder_wire::{
    Authorization, Base64Url, LABEL_DEVICE_LINK, LABEL_REGISTER, LinkCode, LinkRequest, RegisterRequest,
    link_content, registration_content, sign_with_label_content,
};
use openmls::prelude::{OpenMlsCrypto, OpenMlsProvider};

use crate::core::devices::{Listed, learn_devices};
use crate::core::identity::{SCHEME, registration, sign};
use crate::core::members::fingerprint;
use crate::core::profile::{Context, enter_account, mark_linking};
use crate::error::{Error, NotTheServer};
use crate::types::DeviceToLink;

/// What this device shows to be linked, and the fingerprint of its key.
pub(crate) fn link_code(tx: &Tx<'_>, context: &Context) -> Result<(LinkCode, String), Error> {
    mark_linking(tx)?;
    let code = LinkCode {
        server_name: context.identity.me.server_name.clone(),
        device: registration(context)?,
    };
    Ok((code, fingerprint(context.identity.mls.public())))
}

/// The server takes this device for one of the user's: it is linked. The list that says so leads from the user's first device,
/// which is this one's root from here on, to this one.
///
/// # Errors
/// [`NotTheServer::ForgedDevices`] where it does not.
pub(crate) fn linked(tx: &Tx<'_>, context: &Context, listed: &Listed) -> Result<(), Error> {
    enter_account(tx, context, false)?;
    match learn_devices(tx, context, &context.identity.me.user, listed)? {
        true => Ok(()),
        false => Err(NotTheServer::ForgedDevices.into()),
    }
}

/// Checks what a code says: that the device is to be this user's at this server, and has its keys.
pub(crate) fn read_link_code(tx: &Tx<'_>, context: &Context, code: &str) -> Result<DeviceToLink, Error> {
    let LinkCode { server_name, device } = code.parse().map_err(|_| Error::InvalidLinkCode)?;
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
    })
}

/// Signs that a device is one of this user's.
pub(crate) fn authorize(context: &Context, device: DeviceToLink) -> Result<LinkRequest, Error> {
    let device = device.request;
    let content = link_content(
        &context.identity.me.server_name,
        &device.user,
        &device.device_id,
        &device.auth_key.0,
        &device.mls_signature_key.0,
    );
    let labelled = sign_with_label_content(LABEL_DEVICE_LINK, &content);
    Ok(LinkRequest {
        device,
        authorization: Authorization {
            by: context.identity.me.device_id.clone(),
            signature: Base64Url(sign(&context.identity.mls, &labelled)?),
        },
    })
}
