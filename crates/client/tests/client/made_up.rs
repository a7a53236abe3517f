//! Groups of the server's own making.

use larder_pool::openmls::prelude::tls_codec::{Deserialize as _, Serialize as _};
use larder_pool::openmls::prelude::{
    BasicCredential, Ciphersuite, CredentialWithKey, GroupId, KeyPackage, KeyPackageIn, LeafNodeParameters,
    MlsGroup, MlsGroupCreateConfig, MlsMessageBodyIn, MlsMessageIn, OpenMlsProvider as _,
    PURE_PLAINTEXT_WIRE_FORMAT_POLICY, ProtocolVersion, SignatureScheme,
};
use larder_wire::{Base64Url, GroupInfoAnswer, Session, StateMark};
use openmls_basic_credential::SignatureKeyPair;
use openmls_rust_crypto::OpenMlsRustCrypto;

use crate::support::{Action, Answer, Proxy, Seen, TestServer};
use larder_client::GroupKey;

/// A KeyPackage that the server has of a user.
pub(crate) fn key_package_of(server: &TestServer, name: &str) -> KeyPackage {
    let database = rusqlite::Connection::open(server.database()).unwrap();
    let bytes: Vec<u8> = database
        .query_row(
            "SELECT b.bytes FROM key_package_bytes b JOIN key_packages k ON k.device_id = b.device_id AND k.ref = b.ref
             JOIN devices d ON d.id = k.device_id JOIN users u ON u.id = d.user_id
             WHERE u.name = ?1 AND k.status = 0 AND k.kind = 0 LIMIT 1",
            [name],
            |row| row.get(0),
        )
        .unwrap();
    let MlsMessageBodyIn::KeyPackage(key_package) =
        MlsMessageIn::tls_deserialize_exact(&bytes).unwrap().extract()
    else {
        panic!("not a KeyPackage");
    };
    let key_package: KeyPackageIn = key_package;
    let provider = OpenMlsRustCrypto::default();
    key_package
        .validate(provider.crypto(), ProtocolVersion::Mls10)
        .unwrap()
}

/// What a server tells of a group of its own making that has this id: carol has made it, who does not exist, and the leaves of
/// these KeyPackages are in it. It is at a late epoch.
pub(crate) fn made_up(group: &GroupKey, added: &[KeyPackage]) -> GroupInfoAnswer {
    let provider = OpenMlsRustCrypto::default();
    let keys = SignatureKeyPair::new(SignatureScheme::ED25519).unwrap();
    let config = MlsGroupCreateConfig::builder()
        .ciphersuite(Ciphersuite::MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519)
        .wire_format_policy(PURE_PLAINTEXT_WIRE_FORMAT_POLICY)
        .build();
    let carol = CredentialWithKey {
        credential: BasicCredential::new(b"carol/c-1".to_vec()).into(),
        signature_key: keys.to_public_vec().into(),
    };
    let id = GroupId::from_slice(group.as_bytes());
    let mut made = MlsGroup::new_with_group_id(&provider, &keys, &config, id, carol).unwrap();
    if !added.is_empty() {
        made.add_members(&provider, &keys, added).unwrap();
        made.merge_pending_commit(&provider).unwrap();
    }
    for _ in 0..8 {
        made.self_update(&provider, &keys, LeafNodeParameters::default())
            .unwrap();
        made.merge_pending_commit(&provider).unwrap();
    }
    let info = made.export_group_info(provider.crypto(), &keys, false).unwrap();
    GroupInfoAnswer {
        epoch: made.epoch().as_u64(),
        group_info: Base64Url(info.to_bytes().unwrap()),
        ratchet_tree: Base64Url(made.export_ratchet_tree().tls_serialize_detached().unwrap()),
    }
}

/// A KeyPackage of the server's own making, under this name.
pub(crate) fn key_package_under(name: &str) -> KeyPackage {
    let provider = OpenMlsRustCrypto::default();
    let keys = SignatureKeyPair::new(SignatureScheme::ED25519).unwrap();
    let credential = CredentialWithKey {
        credential: BasicCredential::new(name.as_bytes().to_vec()).into(),
        signature_key: keys.to_public_vec().into(),
    };
    let suite = Ciphersuite::MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519;
    let made = KeyPackage::builder()
        .build(suite, &provider, &keys, credential)
        .unwrap();
    made.key_package().clone()
}

/// Says at the next two sessions that the device has been used since, which makes it give up the state of its groups; what else
/// it answers is up to `lie`.
pub(crate) fn say_that_it_is_a_copy(
    proxy: &Proxy,
    mut lie: impl FnMut(&Seen) -> Option<Action> + Send + 'static,
) {
    let mut said = 0;
    proxy.rule(move |seen| {
        if seen.is("POST", "/v1/sessions") && said < 2 {
            said += 1;
            return Action::rewrite_json::<Session>(|session| {
                session.state = Some(StateMark::from_bytes(&[7; 16]).unwrap());
            });
        }
        lie(seen).unwrap_or(Action::Forward)
    });
}

pub(crate) fn answer(offer: &GroupInfoAnswer) -> Action {
    Action::Answer(Answer::json(200, offer))
}
