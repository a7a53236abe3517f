//! A device: its keys, its OpenMLS storage, its session.

use anyhow::{Context as _, Result, anyhow, bail};
use larder_client::UnixSeconds;
use larder_wire::{
    Acknowledgement, Base64Url, Challenge, ChallengeRequest, DeviceId, Inbox, LABEL_REGISTER, NextRequest,
    Position, Problem, Proofs, RegisterRequest, Registered, Session, SessionRequest, UploadOutcome,
    UploadRequest, Uploaded, UserName, credential_identity, registration_content, session_content,
    sign_with_label_content,
};
use openmls::prelude::tls_codec::Serialize as _;
use openmls::prelude::{
    BasicCredential, Ciphersuite, CredentialWithKey, KeyPackage, Lifetime, MlsMessageOut, SignatureScheme,
};
use openmls_basic_credential::SignatureKeyPair;
use openmls_rust_crypto::OpenMlsRustCrypto;
use openmls_traits::signatures::Signer as _;
use reqwest::{Method, Request, RequestBuilder};
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::load;
use crate::clock;

pub(super) const SUITE: Ciphersuite = Ciphersuite::MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519;
/// What `serve` calls itself unless it is told otherwise.
const SERVER_NAME: &str = "localhost";

const HOUR: u64 = 60 * 60;
const DAY: u64 = 24 * HOUR;

/// A plain HTTP client for one server, perhaps with a session.
#[derive(Clone)]
pub(super) struct Http {
    client: reqwest::Client,
    url: String,
    token: Option<String>,
}

impl Http {
    pub(super) fn new(url: &str) -> Result<Self> {
        // reqwest wants a provider of TLS although plain HTTP is spoken. One that is there already does as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        // Probes to thousands of idle connections at once are more than the loopback interface queues; what it drops would
        // end them. A server on this machine does not vanish silently.
        let client = reqwest::Client::builder()
            .no_proxy()
            .tcp_keepalive(None)
            .build()?;
        Ok(Self {
            client,
            url: url.to_owned(),
            token: None,
        })
    }

    /// The same session with the same store, which is served elsewhere now.
    pub(super) fn at(&self, url: &str) -> Self {
        Self {
            url: url.to_owned(),
            ..self.clone()
        }
    }

    pub(super) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.client.request(method, format!("{}{path}", self.url));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// A request with this body and an idempotency key of its own, ready to be sent.
    pub(super) fn prepared(&self, path: &str, body: &impl Serialize) -> Result<Request> {
        let key = Uuid::new_v4().to_string();
        let request = self.request(Method::POST, path).header("Idempotency-Key", key);
        Ok(request.json(body).build()?)
    }

    /// Sends a request, which must be granted.
    pub(super) async fn send<T: DeserializeOwned>(&self, request: Request) -> Result<T> {
        let what = format!("{} {}", request.method(), request.url().path());
        let answer = self.client.execute(request).await?;
        let status = answer.status();
        let body = answer.bytes().await?;
        if status.is_success() {
            return serde_json::from_slice(&body).with_context(|| format!("the answer to {what}"));
        }
        match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) => bail!("{what}: {problem}"),
            Err(_) => bail!("{what}: {status}"),
        }
    }

    pub(super) async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        self.send(self.prepared(path, body)?).await
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.send(self.request(Method::GET, path).build()?).await
    }
}

/// An MLS message as it travels.
pub(super) fn message_bytes(message: &MlsMessageOut) -> Result<Vec<u8>> {
    Ok(message.tls_serialize_detached()?)
}

fn signed(key: &SignatureKeyPair, content: &[u8]) -> Result<Vec<u8>> {
    key.sign(content)
        .map_err(|error| anyhow!("nothing can be signed: {error:?}"))
}

/// The only device of its user.
pub(super) struct Device {
    pub(super) user: UserName,
    id: DeviceId,
    auth: SignatureKeyPair,
    pub(super) mls: SignatureKeyPair,
    pub(super) provider: OpenMlsRustCrypto,
    pub(super) http: Http,
    /// Of the server's store, as the session was told.
    incarnation: String,
}

impl Device {
    /// Registers a user with a device, which opens a session and leaves so many KeyPackages with the server.
    pub(super) async fn register(http: &Http, name: &str, key_packages: usize) -> Result<Self> {
        let mut device = Self {
            user: name.parse()?,
            id: format!("{name}-1").parse()?,
            auth: SignatureKeyPair::new(SignatureScheme::ED25519)?,
            mls: SignatureKeyPair::new(SignatureScheme::ED25519)?,
            provider: OpenMlsRustCrypto::default(),
            http: http.clone(),
            incarnation: String::new(),
        };
        device.create_account().await?;
        device.open_session().await?;
        if key_packages > 0 {
            device.stock(key_packages).await?;
        }
        Ok(device)
    }

    async fn create_account(&self) -> Result<()> {
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
        let content = registration_content(SERVER_NAME, &request);
        let labelled = sign_with_label_content(LABEL_REGISTER, &content);
        request.proofs.auth = Base64Url(signed(&self.auth, &content)?);
        request.proofs.mls = Base64Url(signed(&self.mls, &labelled)?);
        self.http.post::<Registered>("/v1/accounts", &request).await?;
        Ok(())
    }

    async fn open_session(&mut self) -> Result<()> {
        let session = self.new_session().await?;
        self.http.token = Some(session.token);
        self.incarnation = session
            .incarnation
            .context("the server does not tell its incarnation")?;
        Ok(())
    }

    /// Opens another session.
    pub(super) async fn new_session(&self) -> Result<Session> {
        let request = ChallengeRequest {
            device_id: self.id.clone(),
        };
        let challenge: Challenge = self.http.post("/v1/sessions/challenge", &request).await?;
        let content = session_content(SERVER_NAME, &challenge.challenge.0);
        let request = SessionRequest {
            device_id: self.id.clone(),
            challenge: challenge.challenge,
            signature: Base64Url(signed(&self.auth, &content)?),
        };
        self.http.post("/v1/sessions", &request).await
    }

    pub(super) fn credential(&self) -> CredentialWithKey {
        CredentialWithKey {
            credential: BasicCredential::new(credential_identity(&self.user, &self.id)).into(),
            signature_key: self.mls.to_public_vec().into(),
        }
    }

    /// Mints and uploads KeyPackages, all of which must be accepted.
    async fn stock(&self, count: usize) -> Result<()> {
        let uploaded: Uploaded = self.http.post("/v1/key-packages", &self.minted(count)?).await?;
        match uploaded
            .results
            .iter()
            .all(|result| result.outcome == UploadOutcome::Accepted)
        {
            true => Ok(()),
            false => bail!("the server does not take the KeyPackages of {}", self.user),
        }
    }

    /// So many KeyPackages, as they travel.
    pub(super) fn pool(&self, count: usize) -> Result<Vec<Vec<u8>>> {
        let minted = self.minted(count)?.key_packages.into_iter();
        Ok(minted.map(|Base64Url(bytes)| bytes).collect())
    }

    /// The bytes of a request that uploads so many.
    pub(super) fn batch(&self, count: usize) -> Result<Vec<u8>> {
        let body = serde_json::to_string(&self.minted(count)?)?;
        let token = self.http.token.as_deref();
        Ok(load::request("POST", "/v1/key-packages", token, Some(&body)))
    }

    fn minted(&self, count: usize) -> Result<UploadRequest> {
        let UnixSeconds(now) = clock::system()();
        let mint = || {
            let bundle = KeyPackage::builder()
                .key_package_lifetime(Lifetime::init(
                    now.saturating_sub(HOUR),
                    now.saturating_add(60 * DAY),
                ))
                .build(SUITE, &self.provider, &self.mls, self.credential())?;
            message_bytes(&MlsMessageOut::from(bundle.into_key_package())).map(Base64Url)
        };
        let key_packages = (0..count).map(|_| mint()).collect::<Result<_>>()?;
        Ok(UploadRequest { key_packages })
    }

    /// Has stored everything up to these positions.
    pub(super) async fn acknowledge(&self, groups: Vec<Position>) -> Result<()> {
        let request = NextRequest {
            acknowledge: Some(Acknowledgement {
                incarnation: self.incarnation.clone(),
                groups,
                mail: Some(u64::MAX),
            }),
            ..NextRequest::default()
        };
        self.http.post::<Inbox>("/v1/inbox/next", &request).await?;
        Ok(())
    }
}
