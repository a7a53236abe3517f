use larder_wire::{
    Authorization, Base64Url, Challenge, ChallengeRequest, DeviceId, DeviceInfo, GroupId, Introduction,
    Inventory, KeyPackageRef, KeyPackageState, LABEL_DEVICE_LINK, LABEL_DEVICE_REMOVAL, LABEL_REGISTER,
    LinkRequest, Proofs, RegisterRequest, RemovalRequest, ReserveRequest, Reserved, RevokeRequest, Revoked,
    Session, SessionRequest, UploadOutcome, UploadRequest, Uploaded, UserDevices, UserName,
    credential_identity, link_content, registration_content, removal_content, session_content,
    sign_with_label_content,
};
use openmls::prelude::tls_codec::{Deserialize as _, Serialize as _};
use openmls::prelude::{
    BasicCredential, Capabilities, Ciphersuite, CredentialWithKey, Extension, ExtensionType, Extensions,
    KeyPackage, KeyPackageIn, Lifetime, MlsMessageBodyIn, MlsMessageIn, MlsMessageOut, OpenMlsCrypto as _,
    OpenMlsProvider as _, ProtocolVersion, SignatureScheme, UnknownExtension,
};
use openmls_basic_credential::SignatureKeyPair;
use openmls_rust_crypto::OpenMlsRustCrypto;
use openmls_traits::signatures::Signer as _;

use super::server::now;
use super::{Answer, Http, reserved_refs};

pub(crate) const SUITE: Ciphersuite = Ciphersuite::MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519;

const DAY: u64 = 24 * 60 * 60;
/// `MLSMessage` and `KeyPackage` start with two numbers of two bytes each, then comes the init key with its length.
const INIT_KEY: std::ops::Range<usize> = 8..41;
/// Then the leaf begins, with its encryption key.
const ENCRYPTION_KEY: std::ops::Range<usize> = 41..74;
/// The last of those numbers.
const SUITE_NUMBER: std::ops::Range<usize> = 6..8;
/// A `KeyPackage` ends with its Ed25519 signature of 64 bytes and the two bytes of its length.
pub(crate) const SIGNATURE_BYTES: usize = 66;

/// The extensions of a last resort: three bytes of them, of the type 0x000A, without content.
const LAST_RESORT_EXTENSION: [u8; 4] = [3, 0, 10, 0];

/// A KeyPackage to mint; what is not said is as it should be.
#[derive(Default)]
pub(crate) struct KeyPackageSpec {
    /// Seconds from now at which the lifetime starts and ends.
    pub(crate) lifetime: Option<(i64, i64)>,
    pub(crate) identity: Option<Vec<u8>>,
    pub(crate) signer: Option<SignatureKeyPair>,
    pub(crate) suite: Option<Ciphersuite>,
    /// Marked as a last resort (RFC 9420 §16.8).
    pub(crate) last_resort: bool,
    /// The capabilities do not list the extensions that it carries.
    pub(crate) unannounced: bool,
    /// The leaf's capabilities.
    pub(crate) capabilities: Option<Capabilities>,
    /// An extension of the KeyPackage, and one of its leaf, without content.
    pub(crate) extensions: (Option<u16>, Option<u16>),
}

/// A device: its keys, its OpenMLS storage, and its session.
pub(crate) struct Device {
    pub(crate) user: UserName,
    pub(crate) id: DeviceId,
    pub(crate) auth: SignatureKeyPair,
    pub(crate) mls: SignatureKeyPair,
    pub(crate) provider: OpenMlsRustCrypto,
    pub(crate) http: Http,
    /// The incarnation of the server's store, as the session was told.
    pub(crate) incarnation: String,
    /// The private halves of `auth` and `mls`.
    pub(crate) private_keys: [Vec<u8>; 2],
}

/// An MLS message as it travels.
pub(crate) fn message_bytes(message: &MlsMessageOut) -> Vec<u8> {
    message
        .tls_serialize_detached()
        .expect("an MLS message serializes")
}

/// The public keys of a KeyPackage: its init key, and its leaf's encryption key.
pub(crate) fn keys_of(key_package: &[u8]) -> [[u8; 32]; 2] {
    [INIT_KEY, ENCRYPTION_KEY].map(|place| key_package[place][1..].try_into().expect("32 bytes"))
}

/// The same bytes, with another ciphersuite's number in them.
pub(crate) fn of_suite(mut key_package: Vec<u8>, suite: u16) -> Vec<u8> {
    key_package[SUITE_NUMBER].copy_from_slice(&suite.to_be_bytes());
    key_package
}

fn key_pair(private: &[u8], public: &[u8]) -> SignatureKeyPair {
    SignatureKeyPair::from_raw(SignatureScheme::ED25519, private.to_vec(), public.to_vec())
}

impl Device {
    /// A device that the server does not know yet.
    pub(crate) fn new(http: &Http, user: &str) -> Self {
        let provider = OpenMlsRustCrypto::default();
        let generate = || {
            provider
                .crypto()
                .signature_key_gen(SignatureScheme::ED25519)
                .expect("a key pair")
        };
        let ((auth, auth_public), (mls, mls_public)) = (generate(), generate());
        Self {
            user: user.parse().expect("a user name"),
            id: format!("{}-1", user.replace(['.', '_'], "-"))
                .parse()
                .expect("a device id"),
            auth: key_pair(&auth, &auth_public),
            mls: key_pair(&mls, &mls_public),
            provider,
            http: http.clone(),
            incarnation: String::new(),
            private_keys: [auth, mls],
        }
    }

    /// A further device of the same user, which the server does not know yet.
    pub(crate) fn further(&self, number: u32) -> Self {
        let mut device = Self::new(&self.http.with_token("none"), self.user.as_str());
        device.id = format!("{}-{number}", self.id).parse().expect("a device id");
        device
    }

    /// The same device with nothing but its keys: what is left when its MLS state is lost.
    pub(crate) fn without_state(&self) -> Self {
        Self {
            user: self.user.clone(),
            id: self.id.clone(),
            auth: key_pair(&self.private_keys[0], self.auth.public()),
            mls: key_pair(&self.private_keys[1], self.mls.public()),
            provider: OpenMlsRustCrypto::default(),
            http: self.http.clone(),
            incarnation: self.incarnation.clone(),
            private_keys: self.private_keys.clone(),
        }
    }

    // Accounts

    pub(crate) fn register_request(&self) -> RegisterRequest {
        let mut request = RegisterRequest {
            user: self.user.clone(),
            device_id: self.id.clone(),
            auth_key: Base64Url(self.auth.to_public_vec()),
            mls_signature_key: Base64Url(self.mls.to_public_vec()),
            proofs: Proofs {
                auth: Base64Url::default(),
                mls: Base64Url::default(),
            },
        };
        let content = registration_content("localhost", &request);
        let labelled = sign_with_label_content(LABEL_REGISTER, &content);
        request.proofs.auth = Base64Url(self.auth.sign(&content).expect("a signature"));
        request.proofs.mls = Base64Url(self.mls.sign(&labelled).expect("a signature"));
        request
    }

    pub(crate) async fn register(&self) -> Answer {
        self.http.post("/v1/accounts", &self.register_request()).await
    }

    /// The request that links `new`, signed by this device.
    pub(crate) fn link_request(&self, new: &Device) -> LinkRequest {
        let device = new.register_request();
        let content = link_content(
            "localhost",
            &device.user,
            &device.device_id,
            &device.auth_key.0,
            &device.mls_signature_key.0,
        );
        let labelled = sign_with_label_content(LABEL_DEVICE_LINK, &content);
        LinkRequest {
            device,
            authorization: Authorization {
                by: self.id.clone(),
                signature: Base64Url(self.mls.sign(&labelled).expect("a signature")),
            },
            introduction: self.introduction(),
        }
    }

    /// What this device may have to say to another one, without vouchers. The server cannot verify the proof.
    pub(crate) fn introduction(&self) -> Introduction {
        Introduction {
            by: self.id.clone(),
            by_key: Base64Url(self.mls.public().to_vec()),
            root: self.id.clone(),
            root_key: Base64Url(self.mls.public().to_vec()),
            proof: Base64Url(vec![7; 32]),
            vouchers: Vec::new(),
        }
    }

    /// Links a further device, which opens a session.
    pub(crate) async fn link(&self, number: u32) -> Device {
        let mut new = self.further(number);
        let request = self.link_request(&new);
        self.http
            .post("/v1/devices", &request)
            .await
            .ok::<larder_wire::Registered>();
        new.open_session().await;
        new
    }

    /// What this device signs to remove one of its user.
    pub(crate) fn removal(&self, device_id: &DeviceId, signature_key: &[u8]) -> RemovalRequest {
        let content = removal_content("localhost", &self.user, device_id, signature_key);
        let labelled = sign_with_label_content(LABEL_DEVICE_REMOVAL, &content);
        RemovalRequest {
            signature: Base64Url(self.mls.sign(&labelled).expect("a signature")),
        }
    }

    pub(crate) async fn remove_by(&self, device_id: &DeviceId, removal: &RemovalRequest) -> Answer {
        let path = format!("/v1/devices/{device_id}");
        let request = self.http.request(reqwest::Method::DELETE, &path);
        Answer::to(request.json(removal)).await
    }

    /// Removes a device of this one's user, if it can find it.
    pub(crate) async fn remove_device(&self, device_id: &DeviceId) -> Answer {
        let path = format!("/v1/users/{}/devices", self.user);
        let listed = self.http.get(&path).await;
        if listed.status != 200 {
            return listed;
        }
        let listed = listed.ok::<UserDevices>().devices;
        let device = listed.into_iter().find(|device| device.device_id == *device_id);
        let signature_key = device
            .map(|device| device.mls_signature_key.0)
            .unwrap_or_default();
        self.remove_by(device_id, &self.removal(device_id, &signature_key))
            .await
    }

    pub(crate) async fn devices_of(&self, user: &str) -> Vec<DeviceInfo> {
        let answer = self.http.get(&format!("/v1/users/{user}/devices")).await;
        answer.ok::<UserDevices>().devices
    }

    pub(crate) async fn challenge(&self) -> Challenge {
        let request = ChallengeRequest {
            device_id: self.id.clone(),
        };
        self.http.post("/v1/sessions/challenge", &request).await.ok()
    }

    pub(crate) fn session_request(&self, challenge: &Challenge) -> SessionRequest {
        let content = session_content("localhost", &challenge.challenge.0);
        SessionRequest {
            device_id: self.id.clone(),
            challenge: challenge.challenge.clone(),
            signature: Base64Url(self.auth.sign(&content).expect("a signature")),
        }
    }

    /// Opens a session and uses it from now on.
    pub(crate) async fn open_session(&mut self) -> Session {
        let request = self.session_request(&self.challenge().await);
        let session: Session = self.http.post("/v1/sessions", &request).await.ok();
        self.http = self.http.with_token(&session.token);
        self.incarnation = session.incarnation.clone().expect("an incarnation");
        session
    }

    /// The token of a further session.
    pub(crate) async fn open_session_token(&self) -> String {
        let request = self.session_request(&self.challenge().await);
        let session: Session = self.http.post("/v1/sessions", &request).await.ok();
        session.token
    }

    // KeyPackages

    pub(crate) fn credential(&self) -> CredentialWithKey {
        CredentialWithKey {
            credential: BasicCredential::new(credential_identity(&self.user, &self.id)).into(),
            signature_key: self.mls.to_public_vec().into(),
        }
    }

    /// Mints a KeyPackage and gives it as an `MLSMessage`.
    pub(crate) fn mint(&self, spec: KeyPackageSpec) -> Vec<u8> {
        let (start, end) = spec.lifetime.unwrap_or((-3600, 60 * DAY as i64));
        let moment = |seconds: i64| now().saturating_add_signed(seconds);
        let signer = spec.signer.as_ref().unwrap_or(&self.mls);
        let identity = spec
            .identity
            .unwrap_or_else(|| credential_identity(&self.user, &self.id));
        let credential = CredentialWithKey {
            credential: BasicCredential::new(identity).into(),
            signature_key: signer.to_public_vec().into(),
        };
        let mut builder =
            KeyPackage::builder().key_package_lifetime(Lifetime::init(moment(start), moment(end)));
        if let Some(capabilities) = spec.capabilities {
            builder = builder.leaf_node_capabilities(capabilities);
        }
        let unknown = |number| Extension::Unknown(number, UnknownExtension(Vec::new()));
        if let Some(number) = spec.extensions.0 {
            let extensions = Extensions::single(unknown(number)).expect("an extension of a KeyPackage");
            builder = builder.key_package_extensions(extensions);
        }
        if let Some(number) = spec.extensions.1 {
            let extensions = Extensions::single(unknown(number)).expect("an extension of a leaf");
            builder = builder.leaf_node_extensions(extensions);
        }
        if spec.last_resort {
            builder = builder.mark_as_last_resort();
            if !spec.unannounced {
                let capabilities = Capabilities::builder()
                    .extensions(vec![ExtensionType::LastResort])
                    .build();
                builder = builder.leaf_node_capabilities(capabilities);
            }
        }
        let bundle = builder
            .build(spec.suite.unwrap_or(SUITE), &self.provider, signer, credential)
            .expect("a KeyPackage");
        message_bytes(&MlsMessageOut::from(bundle.into_key_package()))
    }

    /// Mints a last resort as a device should: it lives as long as anything may.
    pub(crate) fn mint_last_resort(&self) -> Vec<u8> {
        self.mint(KeyPackageSpec {
            last_resort: true,
            lifetime: Some((-3600, 84 * DAY as i64)),
            ..Default::default()
        })
    }

    /// Mints and uploads a last resort, which must be accepted.
    pub(crate) async fn stock_last_resort(&self) -> KeyPackageRef {
        let uploaded = self.upload(&[self.mint_last_resort()]).await;
        let result = &uploaded.results[0];
        assert_eq!(result.outcome, UploadOutcome::Accepted, "{:?}", result.problem);
        assert_eq!(result.state, Some(KeyPackageState::Available));
        result
            .key_package_ref
            .clone()
            .expect("an accepted KeyPackage has a reference")
    }

    /// The KeyPackage with the init key of another of this device, properly signed.
    pub(crate) fn with_init_key_of(&self, key_package: &[u8], other: &[u8]) -> Vec<u8> {
        let forged = self.with_keys(key_package, Some(&keys_of(other)[0]), None);
        self.validate(&forged);
        forged
    }

    /// The KeyPackage with other public keys, properly signed by this device: the init key, and the leaf's encryption
    /// key.
    pub(crate) fn with_keys(
        &self,
        key_package: &[u8],
        init_key: Option<&[u8; 32]>,
        encryption_key: Option<&[u8; 32]>,
    ) -> Vec<u8> {
        let mut forged = key_package.to_vec();
        for (place, key) in [(INIT_KEY, init_key), (ENCRYPTION_KEY, encryption_key)] {
            if let Some(key) = key {
                forged[place][1..].copy_from_slice(key);
            }
        }
        // The leaf ends with its signature; then come the extensions, which are the last resort's or none.
        let signed = forged.len() - SIGNATURE_BYTES;
        let extensions = match forged[..signed].ends_with(&LAST_RESORT_EXTENSION) {
            true => LAST_RESORT_EXTENSION.len(),
            false => 1,
        };
        let leaf_end = signed - extensions;
        let leaf_signed = leaf_end - SIGNATURE_BYTES;
        let mut sign = |label, content: std::ops::Range<usize>, end: usize| {
            let content = sign_with_label_content(label, &forged[content]);
            let signature = self.mls.sign(&content).expect("a signature");
            forged[end - signature.len()..end].copy_from_slice(&signature);
        };
        sign("LeafNodeTBS", ENCRYPTION_KEY.start..leaf_signed, leaf_end);
        sign("KeyPackageTBS", 4..signed, signed + SIGNATURE_BYTES);
        forged
    }

    pub(crate) async fn revoke(&self, refs: &[KeyPackageRef]) -> Revoked {
        let refs = refs.to_vec();
        self.http
            .post("/v1/key-packages/revoke", &RevokeRequest { refs })
            .await
            .ok()
    }

    pub(crate) async fn upload(&self, key_packages: &[Vec<u8>]) -> Uploaded {
        let key_packages = key_packages.iter().cloned().map(Base64Url).collect();
        self.http
            .post("/v1/key-packages", &UploadRequest { key_packages })
            .await
            .ok()
    }

    /// Mints and uploads KeyPackages, all of which must be accepted.
    pub(crate) async fn stock(&self, count: usize) -> Vec<KeyPackageRef> {
        let minted: Vec<_> = (0..count).map(|_| self.mint(KeyPackageSpec::default())).collect();
        let uploaded = self.upload(&minted).await;
        uploaded
            .results
            .into_iter()
            .map(|result| {
                assert_eq!(result.outcome, UploadOutcome::Accepted, "{:?}", result.problem);
                result
                    .key_package_ref
                    .expect("an accepted KeyPackage has a reference")
            })
            .collect()
    }

    pub(crate) async fn inventory(&self) -> Inventory {
        self.http.get("/v1/key-packages").await.ok()
    }

    pub(crate) fn reserve_request(&self, users: &[&Device], group: &GroupId) -> ReserveRequest {
        ReserveRequest {
            users: users.iter().map(|device| device.user.clone()).collect(),
            group_id: group.clone(),
            suites: vec![SUITE.into()],
            all_or_nothing: false,
        }
    }

    /// Reserves one KeyPackage of each, under a fresh idempotency key.
    pub(crate) async fn reserve(&self, users: &[&Device], group: &GroupId) -> Reserved {
        let key = uuid::Uuid::new_v4().to_string();
        let request = self.reserve_request(users, group);
        self.http
            .post_with_key("/v1/key-packages/reserve", &key, &request)
            .await
            .ok()
    }

    /// Reserves and validates one KeyPackage of each, ready to be added.
    pub(crate) async fn take(
        &self,
        users: &[&Device],
        group: &GroupId,
    ) -> (Vec<KeyPackage>, Vec<KeyPackageRef>) {
        let reserved = self.reserve(users, group).await;
        let key_packages: Vec<_> = reserved
            .users
            .iter()
            .flat_map(|user| &user.devices)
            .map(|device| self.validate(&device.key_package.as_ref().expect("a KeyPackage").0))
            .collect();
        assert_eq!(key_packages.len(), users.len());
        (key_packages, reserved_refs(&reserved))
    }

    /// Parses and validates a KeyPackage.
    pub(crate) fn validate(&self, message: &[u8]) -> KeyPackage {
        let message = MlsMessageIn::tls_deserialize_exact(message).expect("an MLS message");
        let MlsMessageBodyIn::KeyPackage(key_package) = message.extract() else {
            panic!("not a KeyPackage");
        };
        let key_package: KeyPackageIn = key_package;
        key_package
            .validate(self.provider.crypto(), ProtocolVersion::Mls10)
            .expect("a valid KeyPackage")
    }
}
