//! Whoever has a group's GroupInfo and ratchet tree, as its server has, and makes external Commits of them that every secret
//! agrees with: in a new leaf, or in the place of somebody's.

use openmls::prelude::tls_codec::Deserialize as _;
use openmls::prelude::{
    BasicCredential, CredentialWithKey, MlsGroup, MlsGroupJoinConfig, MlsMessageBodyIn, MlsMessageIn,
    OpenMlsProvider as _, PURE_PLAINTEXT_WIRE_FORMAT_POLICY, RatchetTreeIn,
};
use openmls_basic_credential::SignatureKeyPair;
use openmls_traits::signatures::{Signer, SignerError};
use openmls_traits::types::SignatureScheme;

use crate::gullible::Gullible;

/// The public half of a group, as the server has it.
#[derive(Clone)]
pub(crate) struct PublicView {
    /// A GroupInfo, as an `MLSMessage`.
    pub(crate) group_info: Vec<u8>,
    pub(crate) ratchet_tree: Vec<u8>,
}

impl PublicView {
    fn tree_hash(&self) -> Vec<u8> {
        let message = MlsMessageIn::tls_deserialize_exact(&self.group_info[..]).unwrap();
        match message.extract() {
            MlsMessageBodyIn::GroupInfo(info) => info.group_context().tree_hash().to_vec(),
            _ => panic!("not a GroupInfo"),
        }
    }
}

/// An external Commit, as an `MLSMessage`, of a leaf with this identity and these keys. With the signature key of a member it
/// takes that member's place, which OpenMLS itself does only for one who has the key.
pub(crate) fn external_commit(
    view: &PublicView,
    (identity, keys): (&[u8], &SignatureKeyPair),
    in_the_place_of: Option<&[u8]>,
    authenticated_data: &[u8],
) -> Vec<u8> {
    let provider = Gullible::default();
    let credential = CredentialWithKey {
        credential: BasicCredential::new(identity.to_vec()).into(),
        signature_key: keys.to_public_vec().into(),
    };
    let Some(victim) = in_the_place_of.filter(|victim| *victim != keys.public()) else {
        return build(&provider, view, credential, keys, authenticated_data).expect("an external Commit");
    };
    // A tree in which the victim's leaf has the forger's key, so that the Commit removes it, and that is signed for the real one.
    let real = view.tree_hash();
    let mut doctored = PublicView {
        group_info: view.group_info.clone(),
        ratchet_tree: replaced(&view.ratchet_tree, victim, keys.public()),
    };
    assert!(build(&provider, &doctored, credential.clone(), keys, authenticated_data).is_none());
    let hashes = provider.crypto().hashes.lock().unwrap().clone();
    hashes
        .into_iter()
        .rev()
        .find_map(|hash| {
            doctored.group_info = replaced(&view.group_info, &real, &hash);
            let signer = ForTheRealTree {
                keys,
                doctored: hash,
                real: real.clone(),
            };
            build(
                &provider,
                &doctored,
                credential.clone(),
                &signer,
                authenticated_data,
            )
        })
        .expect("an external Commit in the place of a member")
}

fn build(
    provider: &Gullible,
    view: &PublicView,
    credential: CredentialWithKey,
    signer: &impl Signer,
    authenticated_data: &[u8],
) -> Option<Vec<u8>> {
    let message = MlsMessageIn::tls_deserialize_exact(&view.group_info[..]).unwrap();
    let MlsMessageBodyIn::GroupInfo(info) = message.extract() else {
        panic!("not a GroupInfo")
    };
    let config = MlsGroupJoinConfig::builder()
        .wire_format_policy(PURE_PLAINTEXT_WIRE_FORMAT_POLICY)
        .build();
    let builder = MlsGroup::external_commit_builder()
        .with_ratchet_tree(RatchetTreeIn::tls_deserialize_exact(&view.ratchet_tree[..]).unwrap())
        .with_config(config)
        .with_aad(authenticated_data.to_vec())
        .skip_lifetime_validation()
        .build_group(provider, info, credential)
        .ok()?;
    let (mut group, bundle) = builder
        .load_psks(provider.storage())
        .unwrap()
        .build(provider.rand(), provider.crypto(), signer, |_| true)
        .unwrap()
        .finalize(provider)
        .unwrap();
    group.delete(provider.storage()).unwrap();
    Some(bundle.into_commit().to_bytes().unwrap())
}

fn replaced(bytes: &[u8], old: &[u8], new: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let at = bytes.windows(old.len()).position(|window| window == old);
    if let Some(at) = at {
        bytes[at..at + old.len()].copy_from_slice(new);
    }
    bytes
}

/// Signs what it is given as if the tree were the real one.
struct ForTheRealTree<'a> {
    keys: &'a SignatureKeyPair,
    doctored: Vec<u8>,
    real: Vec<u8>,
}

impl Signer for ForTheRealTree<'_> {
    fn sign(&self, payload: &[u8]) -> Result<Vec<u8>, SignerError> {
        self.keys.sign(&replaced(payload, &self.doctored, &self.real))
    }

    fn signature_scheme(&self) -> SignatureScheme {
        self.keys.signature_scheme()
    }
}
