//! HTTP: requests, retries, sessions and problems.

mod http;
mod session;

use std::sync::Arc;
use std::time::Duration;

use larder_wire::{
    AckRequest, DeviceId, DeviceReservation, GroupId, GroupInfoAnswer, Inbox, Inventory, KeyPackageRef,
    RatchetTreeAnswer, RegisterRequest, Registered, ReserveRequest, Reserved, RevokeRequest, Revoked,
    ServerInfo, UploadRequest, Uploaded, UserDevices, UserName,
};
use serde::Deserialize;

use crate::core::Handle;
use crate::error::Error;
use crate::transport::http::{Http, Request};
use crate::transport::session::Sessions;
use crate::types::Clock;

/// How long a request that waits for inbox rows may take beyond the wait.
const WAIT_MARGIN: Duration = Duration::from_secs(10);

const INFO_PATH: &str = "/.well-known/larder";

/// Proof that the server did what a request of the outbox asked for: made only by decoding its answer.
#[must_use]
pub(crate) struct Accepted(());

/// What every request of the outbox is answered with, in one form or another.
#[derive(Deserialize)]
#[serde(untagged)]
enum Receipt {
    Epoch {
        #[serde(rename = "epoch")]
        _epoch: u64,
    },
    Seq {
        #[serde(rename = "seq")]
        _seq: u64,
    },
}

/// A server before there is an account: only what anyone may ask.
pub(crate) struct Anonymous {
    http: Http,
}

impl Anonymous {
    /// Parses the server's address; returns it in the form to be stored.
    pub(crate) fn new(server: &str) -> Result<(Self, String), Error> {
        let (http, server) = Http::new(server)?;
        Ok((Self { http }, server))
    }

    pub(crate) async fn info(&self) -> Result<ServerInfo, Error> {
        self.http.call_json(&Request::get(INFO_PATH), None).await
    }

    /// Repeating this is safe: a repetition finds the name taken by ourselves, which [`Transport`] can tell.
    pub(crate) async fn register(&self, request: &RegisterRequest) -> Result<Registered, Error> {
        self.http
            .call_json(&Request::post("/v1/accounts", request)?, None)
            .await
    }
}

/// The server, for an account.
pub(crate) struct Transport {
    http: Http,
    sessions: Sessions,
}

impl Transport {
    pub(crate) fn new(
        server: &str,
        device_id: DeviceId,
        core: Arc<Handle>,
        clock: Clock,
    ) -> Result<Self, Error> {
        let (http, _) = Http::new(server)?;
        Ok(Self {
            http,
            sessions: Sessions::new(device_id, core, clock),
        })
    }

    /// What the server says of itself.
    pub(crate) async fn info(&self) -> Result<ServerInfo, Error> {
        self.http.call_json(&Request::get(INFO_PATH), None).await
    }

    /// Makes sure that the server takes us for who we are.
    pub(crate) async fn authenticate(&self) -> Result<(), Error> {
        self.sessions.token(&self.http).await.map(|_| ())
    }

    async fn call<T: serde::de::DeserializeOwned>(&self, request: &Request) -> Result<T, Error> {
        let token = self.sessions.token(&self.http).await?;
        match self.http.call_json(request, Some(&token)).await {
            Err(Error::Refused(problem)) if session::has_ended(&problem) => {
                self.sessions.forget(&token).await;
                let token = self.sessions.token(&self.http).await?;
                self.http.call_json(request, Some(&token)).await
            }
            answer => answer,
        }
    }

    /// Sends a request of the outbox, with exactly these bytes.
    pub(crate) async fn deliver(
        &self,
        path: &str,
        idempotency_key: Option<&str>,
        body: Vec<u8>,
    ) -> Result<Accepted, Error> {
        let request = Request::post_bytes(path, body).with_idempotency_key(idempotency_key);
        let _: Receipt = self.call(&request).await?;
        Ok(Accepted(()))
    }

    pub(crate) async fn upload(&self, request: &UploadRequest) -> Result<Uploaded, Error> {
        self.call(&Request::post("/v1/key-packages", request)?).await
    }

    /// `None` while the inventory is the one that the digest stands for.
    pub(crate) async fn inventory(&self, digest: Option<String>) -> Result<Option<Inventory>, Error> {
        let query = digest.map(|digest| ("digest", digest)).into_iter().collect();
        self.call(&Request::get("/v1/key-packages").with_query(query))
            .await
    }

    pub(crate) async fn probe(&self, suite: u16) -> Result<DeviceReservation, Error> {
        let query = vec![("suite", suite.to_string())];
        self.call(&Request::get("/v1/key-packages/probe").with_query(query))
            .await
    }

    pub(crate) async fn revoke(&self, refs: Vec<KeyPackageRef>) -> Result<Revoked, Error> {
        self.call(&Request::post(
            "/v1/key-packages/revoke",
            &RevokeRequest { refs },
        )?)
        .await
    }

    pub(crate) async fn reserve(
        &self,
        idempotency_key: &str,
        request: &ReserveRequest,
    ) -> Result<Reserved, Error> {
        let request =
            Request::post("/v1/key-packages/reserve", request)?.with_idempotency_key(Some(idempotency_key));
        self.call(&request).await
    }

    pub(crate) async fn user_devices(&self, user: &UserName) -> Result<UserDevices, Error> {
        self.call(&Request::get(&format!("/v1/users/{user}/devices")))
            .await
    }

    /// Gives a reservation up.
    pub(crate) async fn abandon(&self, reservation_id: &str) -> Result<(), Error> {
        let path = format!("/v1/reservations/{reservation_id}/abandon");
        self.call(&Request::post_bytes(&path, Vec::new())).await
    }

    pub(crate) async fn group_info(&self, group: &GroupId) -> Result<GroupInfoAnswer, Error> {
        self.call(&Request::get(&format!("/v1/groups/{group}/info")))
            .await
    }

    pub(crate) async fn ratchet_tree(&self, group: &GroupId, epoch: u64) -> Result<Vec<u8>, Error> {
        let answer: RatchetTreeAnswer = self
            .call(&Request::get(&format!("/v1/groups/{group}/trees/{epoch}")))
            .await?;
        Ok(answer.ratchet_tree.0)
    }

    /// The inbox rows after `after`; waits up to `wait` for one.
    pub(crate) async fn inbox(&self, after: u64, limit: u32, wait: Duration) -> Result<Inbox, Error> {
        let mut query = vec![("after", after.to_string()), ("limit", limit.to_string())];
        let mut request = Request::get("/v1/inbox");
        if !wait.is_zero() {
            query.push(("wait", wait.as_secs().max(1).to_string()));
            request = request.with_timeout(wait + WAIT_MARGIN);
        }
        self.call(&request.with_query(query)).await
    }

    pub(crate) async fn acknowledge(&self, up_to: u64) -> Result<(), Error> {
        self.call(&Request::post("/v1/inbox/ack", &AckRequest { up_to })?)
            .await
    }
}
