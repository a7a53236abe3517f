//! A member who does with its state what it wants.

use std::path::Path;

use larder_client::GroupKey;
use larder_pool::openmls::prelude::{GroupId, MlsGroup, OpenMlsProvider, SignatureScheme};
use larder_pool::{LocalStore, Provider, StoreError};
use openmls_basic_credential::SignatureKeyPair;

use crate::support::Client;

/// What somebody makes of the state that a client has of a group, with its keys. The state stays as it is.
pub(crate) fn with_state<T>(
    client: &Client,
    group: &GroupKey,
    work: impl FnOnce(&Provider<'_>, &mut MlsGroup, &SignatureKeyPair) -> T,
) -> T {
    with_copied_state(client.directory.path(), group, work)
}

/// The same, of a profile in this directory.
pub(crate) fn with_copied_state<T>(
    profile: &Path,
    group: &GroupKey,
    work: impl FnOnce(&Provider<'_>, &mut MlsGroup, &SignatureKeyPair) -> T,
) -> T {
    let mut store = LocalStore::open(&profile.join("larder.db")).unwrap();
    let mut made = None;
    let undone = store.transaction(|tx| {
        let provider = tx.provider();
        let id = GroupId::from_slice(group.as_bytes());
        let mut state = MlsGroup::load(provider.storage(), &id).unwrap().unwrap();
        let key = state.own_leaf_node().unwrap().signature_key().as_slice().to_vec();
        let keys = SignatureKeyPair::read(provider.storage(), &key, SignatureScheme::ED25519).unwrap();
        made = Some(work(&provider, &mut state, &keys));
        Err::<(), StoreError>(StoreError::Encrypted)
    });
    assert!(undone.is_err());
    made.unwrap()
}
