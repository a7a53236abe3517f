//! Lists of users' devices as a server likes to have them.

use larder_client::GroupKey;
use larder_pool::openmls::prelude::{OpenMlsProvider as _, SignatureScheme};
use larder_pool::{LocalStore, StoreError};
use larder_wire::{
    Authorization, Base64Url, DeviceId, DeviceInfo, Inbox, InboxKind, InboxRow, LABEL_DEVICE_LINK,
    LABEL_DEVICE_REMOVAL, Removal, UserDevices, UserName, link_content, removal_content,
    sign_with_label_content,
};
use openmls_basic_credential::SignatureKeyPair;
use openmls_traits::signatures::Signer as _;

use crate::support::{Action, Client, Proxy, TestServer, catch_up};

/// The name of every server in these tests.
const SERVER_NAME: &str = "localhost";

/// A device that the server makes up, with its keys.
pub(crate) struct MadeUp {
    pub(crate) keys: SignatureKeyPair,
    pub(crate) info: DeviceInfo,
}

impl MadeUp {
    pub(crate) fn new(id: &str) -> Self {
        let keys = SignatureKeyPair::new(SignatureScheme::ED25519).unwrap();
        let info = DeviceInfo {
            device_id: id.parse().unwrap(),
            auth_key: Base64Url(vec![7; 32]),
            mls_signature_key: Base64Url(keys.to_public_vec()),
            authorization: None,
            removed_at: None,
            removal: None,
        };
        Self { keys, info }
    }

    /// Lets a device in.
    pub(crate) fn authorize(&self, user: &UserName, device: &mut DeviceInfo) {
        let content = link_content(
            SERVER_NAME,
            user,
            &device.device_id,
            &device.auth_key.0,
            &device.mls_signature_key.0,
        );
        let labelled = sign_with_label_content(LABEL_DEVICE_LINK, &content);
        device.authorization = Some(Authorization {
            by: self.info.device_id.clone(),
            signature: Base64Url(self.keys.sign(&labelled).unwrap()),
        });
    }
}

/// The server says once, in mail, that a device of a user came or went.
pub(crate) fn mail_of_device_change(user: &UserName) -> impl FnMut(&mut Inbox) + Send + 'static {
    let body = Base64Url(user.as_str().as_bytes().to_vec());
    let mut mail = Some(InboxRow {
        group_id: None,
        seq: 1,
        first: None,
        kind: InboxKind::DeviceChange,
        epoch: None,
        received_at: 1,
        gone: None,
        body,
    });
    move |inbox| inbox.rows.extend(mail.take())
}

/// Lies about lists of devices, and says once that a device of this user came or went.
pub(crate) fn lie_about_devices(
    proxy: &Proxy,
    user: &UserName,
    lie: impl Fn(&mut UserDevices) + Clone + Send + 'static,
) {
    let mut mail = Some(mail_of_device_change(user));
    proxy.rule(move |seen| {
        if seen.is("GET", "/devices") {
            let lie = lie.clone();
            Action::rewrite_json(move |listed: &mut UserDevices| lie(listed))
        } else if seen.is("POST", "/v1/inbox/next")
            && let Some(mut mail) = mail.take()
        {
            Action::rewrite_json(move |inbox: &mut Inbox| mail(inbox))
        } else {
            Action::Forward
        }
    });
}

/// What the person is told of lists of devices that were not believed.
pub(crate) async fn distrust_told(client: &Client) -> Vec<String> {
    let told = client.told().await;
    told.into_iter()
        .filter(|text| text.starts_with("WARNING: the list of"))
        .collect()
}

/// The device's keys, as its profile has them.
pub(crate) fn keys_of(client: &Client) -> SignatureKeyPair {
    let mut store = LocalStore::open(&client.directory.path().join("larder.db")).unwrap();
    let mut keys = None;
    let undone = store.transaction(|tx| {
        let provider = tx.provider();
        let key: Vec<u8> = tx
            .connection()
            .query_row("SELECT mls_public_key FROM profile", [], |row| row.get(0))
            .unwrap();
        keys = SignatureKeyPair::read(provider.storage(), &key, SignatureScheme::ED25519);
        Err::<(), StoreError>(StoreError::Encrypted)
    });
    assert!(undone.is_err());
    keys.unwrap()
}

/// What a device signs to remove one of its user.
pub(crate) fn removal(
    by: &SignatureKeyPair,
    by_id: &DeviceId,
    user: &UserName,
    device: &DeviceInfo,
) -> Removal {
    let content = removal_content(SERVER_NAME, user, &device.device_id, &device.mls_signature_key.0);
    let labelled = sign_with_label_content(LABEL_DEVICE_REMOVAL, &content);
    Removal {
        by: by_id.clone(),
        signature: Base64Url(by.sign(&labelled).unwrap()),
    }
}

/// Alice with two devices and bob, all in one group.
pub(crate) async fn alice_twice_and_bob(server: &TestServer) -> (Client, Client, Client, Proxy, GroupKey) {
    let alice = server.client("alice").await;
    let (bob, proxy) = server.proxied("bob").await;
    let group = alice.group_with(&[&bob]).await;
    let second = alice.link().await;
    catch_up(&[&second, &alice, &bob, &second]).await;
    assert_eq!(bob.users(&group).await, ["alice", "alice", "bob"]);
    (alice, second, bob, proxy, group)
}

/// What the person is told of a device that the server says was removed.
pub(crate) async fn said_removed(client: &Client) -> Vec<String> {
    let told = client.told().await;
    told.into_iter()
        .filter(|text| text.starts_with("the server says that the device"))
        .collect()
}
