//! HTTP: requests, retries, sessions and problems.

mod address;
mod anonymous;
mod commits;
mod deadline;
mod events;
mod http;
mod lists;
mod session;

use std::sync::Arc;
use std::time::Duration;

use larder_pool::Tx;
use larder_wire::{
    Acknowledgement, AuditPage, Base64Url, BlobId, BlobStored, DeviceId, DeviceReservation, GroupId,
    GroupInfoAnswer, Inbox, Inventory, KeyPackageRef, LinkRequest, MessageResult, MessagesRequest,
    MessagesSent, NextRequest, ProblemType, RatchetTreeAnswer, Registered, RemovalRequest, ReserveRequest,
    Reserved, RevokeRequest, Revoked, ServerInfo, StateClaim, StateMark, TREE_BYTES_MAX, UploadRequest,
    Uploaded, UserName,
};
use serde::Deserialize;
use tokio::sync::{Mutex, MutexGuard};

use crate::access::Access;
use crate::clocks::ServerClock;
use crate::core::{self, Context, Handle, QueuedRequest};
use crate::error::{Error, NotTheServer};
use crate::transport::deadline::Deadline;
use crate::transport::http::{Answer, Http, Request};
use crate::transport::session::{Present, Sessions, Token};
use crate::types::Me;

pub(crate) use anonymous::Anonymous;
pub(crate) use events::Events;

/// How long the transfer of a file may take, at least, and how much longer for each of so many bytes.
const TRANSFER_TIME: Duration = Duration::from_secs(30);
const TRANSFER_BYTES_PER_SECOND: u64 = 16 * 1024;

/// How long a request that waits for inbox rows may take beyond the wait.
const WAIT_MARGIN: Duration = Duration::from_secs(10);

/// How long it may take until something comes of a stream.
const STREAM_TIME: Duration = Duration::from_secs(5);

/// How long a session may take to be opened, whatever it is for.
const SESSION_TIME: Duration = Duration::from_secs(20);

/// What a server says of itself, in bytes.
const INFO_BYTES_MAX: usize = 64 * 1024;
/// What an external Commit needs, in bytes: a ratchet tree of twice what a server lets a group come to, in base64, and a GroupInfo.
const GROUP_INFO_ANSWER_BYTES_MAX: usize = 3 * TREE_BYTES_MAX;

/// How much is shown of the name that another server gives itself, in characters.
const FOREIGN_NAME_CHARS_MAX: usize = 64;

const INFO_PATH: &str = "/.well-known/larder";

/// Whether a server may be talked to in this way. Needs no network.
///
/// # Errors
/// [`Error::InsecureHttp`], [`Error::InvalidServer`].
pub(crate) fn require_access(server: &str, access: &Access) -> Result<(), Error> {
    address::require_access(server, access).map(|_| ())
}

/// Proof that the server did what a request of the outbox asked for: made only by decoding its answer.
#[must_use]
pub(crate) struct Accepted {
    /// The number of a message in its group's sequence.
    seq: Option<u64>,
}

impl Accepted {
    /// The number of a message in its group's sequence.
    pub(crate) fn seq(&self) -> Option<u64> {
        self.seq
    }
}

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

/// The server, for an account.
pub(crate) struct Transport {
    http: Http,
    sessions: Sessions,
    /// The name of the server that the account was registered with.
    server_name: String,
    core: Arc<Handle>,
    /// Held by the request that is changing something: such requests go out one at a time, or the server could not tell a
    /// late one from that of an old copy. Inside is the mark of the last one, if it is known to have been carried out.
    changing: Mutex<Option<StateMark>>,
}

/// The right to send one request that changes something, with what it says of our state.
#[must_use]
pub(crate) struct Claim<'t> {
    carried_out: MutexGuard<'t, Option<StateMark>>,
    state: StateClaim,
}

impl Transport {
    pub(crate) fn new(
        me: &Me,
        access: &Access,
        core: Arc<Handle>,
        clock: Arc<ServerClock>,
    ) -> Result<Self, Error> {
        let (http, _) = Http::new(&me.server, access)?;
        Ok(Self {
            http: http.heeded_by(&clock),
            sessions: Sessions::new(me.device_id.clone(), Arc::clone(&core)),
            server_name: me.server_name.clone(),
            core,
            changing: Mutex::new(None),
        })
    }

    /// What the server says of itself.
    pub(crate) async fn info(&self) -> Result<ServerInfo, Error> {
        let request = info_request();
        self.http.call_json(&request, None, request.deadline()).await
    }

    /// Makes sure that the server takes us for who we are.
    ///
    /// # Errors
    /// [`Error::UnknownAccount`], [`NotTheServer::Foreign`]; [`Error::Refused`] with `device-removed`.
    pub(crate) async fn authenticate(&self) -> Result<(), Error> {
        self.token(Deadline::after(SESSION_TIME)).await.map(|_| ())
    }

    /// The same by another session, whatever became of the present one.
    ///
    /// # Errors
    /// Those of [`authenticate`](Self::authenticate).
    pub(crate) async fn authenticate_again(&self) -> Result<(), Error> {
        self.sessions.forget_present().await;
        self.authenticate().await
    }

    /// The token of the present session. Says why there is none.
    async fn token(&self, whole: Deadline) -> Result<Present, Error> {
        let deadline = whole.or_after(SESSION_TIME);
        let opened = deadline.bound(self.sessions.token(&self.http, deadline)).await;
        let Err(Error::Refused(problem)) = opened else {
            return opened;
        };
        match problem.problem_type {
            ProblemType::Unauthenticated => {
                // Nobody here knows our key. Whose place is this?
                let info: ServerInfo = self.http.call_json(&info_request(), None, whole).await?;
                Err(match info.server_name == self.server_name {
                    true => Error::UnknownAccount,
                    false => NotTheServer::Foreign {
                        expected: self.server_name.clone(),
                        found: info.server_name.chars().take(FOREIGN_NAME_CHARS_MAX).collect(),
                    }
                    .into(),
                })
            }
            ProblemType::DeviceRemoved => {
                self.core.write(|tx, _| core::fail_unsent(tx)).await?;
                Err(Error::Refused(problem))
            }
            _ => Err(Error::Refused(problem)),
        }
    }

    async fn call<T: serde::de::DeserializeOwned>(&self, request: &Request) -> Result<T, Error> {
        self.call_if(request, |_, _| Ok(())).await?.json()
    }

    /// Sends a request; again under a new session if the present one has ended. `still_right` is asked whenever a session
    /// was opened meanwhile, because that may tell something.
    async fn call_if(
        &self,
        request: &Request,
        still_right: fn(&Tx<'_>, &Context) -> Result<(), Error>,
    ) -> Result<Answer, Error> {
        let deadline = request.deadline();
        let send = |token: Token| async move { self.http.call(request, Some(&token), deadline).await };
        self.in_session(deadline, still_right, send).await
    }

    /// Sends something as [`call_if`](Self::call_if) does.
    async fn in_session<T, A: Future<Output = Result<T, Error>>>(
        &self,
        deadline: Deadline,
        still_right: fn(&Tx<'_>, &Context) -> Result<(), Error>,
        send: impl Fn(Token) -> A,
    ) -> Result<T, Error> {
        let Present { token, is_new } = self.token(deadline).await?;
        if is_new {
            self.core.write(still_right).await?;
        }
        match send(token.clone()).await {
            Err(Error::Refused(problem)) if session::has_ended(&problem) => {
                self.sessions.forget(&token).await;
                let Present { token, .. } = self.token(deadline).await?;
                self.core.write(still_right).await?;
                send(token).await
            }
            // Another session tells which one it is.
            Err(Error::Refused(problem)) if problem.problem_type == ProblemType::OtherIncarnation => {
                self.sessions.forget(&token).await;
                Err(Error::Refused(problem))
            }
            answer => answer,
        }
    }

    /// Prepares a request that changes something, and notes its mark, in one transaction: it is durable before the request
    /// leaves. `None` when there is nothing to send.
    ///
    /// # Errors
    /// Those of `prepare`; [`Error::Refused`] with `state-behind` while nothing may be sent.
    pub(crate) async fn claim<T: Send + 'static>(
        &self,
        prepare: impl FnOnce(&Tx<'_>, &Context) -> Result<Option<T>, Error> + Send + 'static,
    ) -> Result<Option<(Claim<'_>, T)>, Error> {
        let mut carried_out = self.changing.lock().await;
        let last = carried_out.clone();
        let prepared = self
            .core
            .write(move |tx, context| {
                core::require_not_behind(tx)?;
                let Some(prepared) = prepare(tx, context)? else {
                    return Ok(None);
                };
                Ok(Some((core::claim_state(tx, last.as_ref())?, prepared)))
            })
            .await?;
        Ok(prepared.map(|(state, prepared)| {
            // The fate of the new one is open.
            *carried_out = None;
            (Claim { carried_out, state }, prepared)
        }))
    }

    /// The same for a request that needs no preparation.
    async fn bare_claim(&self) -> Result<Claim<'_>, Error> {
        let claim = self.claim(|_, _| Ok(Some(()))).await?;
        claim.map(|(claim, ())| claim).ok_or(Error::Closed)
    }

    /// Sends a request that changes something.
    async fn change<T: serde::de::DeserializeOwned>(
        &self,
        claim: Claim<'_>,
        request: Request,
    ) -> Result<T, Error> {
        let Claim {
            mut carried_out,
            state,
        } = claim;
        // Opening a session may tell that the server was restored: what was made for the one before is not for this one.
        let still_right = |tx: &Tx<'_>, _: &Context| core::require_not_behind(tx);
        let answer = self
            .call_if(&request.with_state(&state), still_right)
            .await
            .and_then(|answer| answer.json());
        match &answer {
            Ok(_) => *carried_out = Some(state.next),
            Err(Error::Refused(problem)) if problem.problem_type == ProblemType::StateBehind => {
                self.core.write(|tx, _| core::fall_behind(tx)).await?;
            }
            Err(_) => {}
        }
        answer
    }

    /// Tells the server that this state goes on from an old copy.
    pub(crate) async fn take_over_state(&self) -> Result<(), Error> {
        let mut carried_out = self.changing.lock().await;
        let state = self.core.write(|tx, _| core::claim_state(tx, None)).await?;
        self.call::<()>(&Request::put("/v1/state").with_state(&state))
            .await?;
        *carried_out = Some(state.next);
        Ok(())
    }

    /// Sends a request of the outbox, with exactly these bytes.
    pub(crate) async fn deliver(&self, claim: Claim<'_>, request: QueuedRequest) -> Result<Accepted, Error> {
        let QueuedRequest {
            path,
            idempotency_key,
            body,
            departs,
            ..
        } = request;
        let request = Request::post_bytes(&path, body);
        if departs {
            let () = self.change(claim, request.deleting()).await?;
        } else {
            let request = request.with_idempotency_key(idempotency_key.as_deref());
            let _: Receipt = self.change(claim, request).await?;
        }
        Ok(Accepted { seq: None })
    }

    /// Sends messages of the outbox. What became of each.
    ///
    /// # Errors
    /// [`Error::Refused`] with what is wrong with all of them; [`NotTheServer::NotLarder`], when the answer does not say what
    /// became of each.
    pub(crate) async fn deliver_messages(
        &self,
        claim: Claim<'_>,
        path: &str,
        messages: Vec<Vec<u8>>,
    ) -> Result<Vec<Result<Accepted, Error>>, Error> {
        let count = messages.len();
        let request = MessagesRequest {
            messages: messages.into_iter().map(Base64Url).collect(),
        };
        let MessagesSent { results } = self.change(claim, Request::post(path, &request)?).await?;
        if results.len() != count {
            return Err(NotTheServer::NotLarder { status: 200 }.into());
        }
        let results = results.into_iter().map(|result| match result {
            MessageResult::Accepted { seq } => Ok(Accepted { seq: Some(seq) }),
            MessageResult::Refused { problem } => Err(Error::Refused(problem)),
        });
        Ok(results.collect())
    }

    pub(crate) async fn store_blob(
        &self,
        claim: Claim<'_>,
        idempotency_key: &str,
        bytes: Vec<u8>,
    ) -> Result<BlobStored, Error> {
        let time = transfer_time(bytes.len() as u64);
        let request = Request::post_blob("/v1/blobs", bytes)
            .with_idempotency_key(Some(idempotency_key))
            .with_time(time);
        self.change(claim, request).await
    }

    /// A blob of so many bytes. More are not read.
    pub(crate) async fn fetch_blob(&self, blob: &BlobId, bytes: u64) -> Result<Vec<u8>, Error> {
        let request = Request::get(&format!("/v1/blobs/{blob}"))
            .with_time(transfer_time(bytes))
            .with_answer_bytes_max(usize::try_from(bytes).unwrap_or(usize::MAX));
        Ok(self.call_if(&request, |_, _| Ok(())).await?.into_bytes())
    }

    pub(crate) async fn upload(&self, claim: Claim<'_>, request: &UploadRequest) -> Result<Uploaded, Error> {
        self.change(claim, Request::post("/v1/key-packages", request)?)
            .await
    }

    /// `None` while the inventory is the one that the digest stands for.
    pub(crate) async fn inventory(&self, digest: Option<String>) -> Result<Option<Inventory>, Error> {
        let query = digest.map(|digest| ("digest", digest)).into_iter().collect();
        self.call(&Request::get("/v1/key-packages").with_query(query))
            .await
    }

    /// A page of the audit after this row.
    pub(crate) async fn audit(&self, after: u64) -> Result<AuditPage, Error> {
        let query = vec![("after", after.to_string())];
        self.call(&Request::get("/v1/key-packages/audit").with_query(query))
            .await
    }

    pub(crate) async fn probe(&self, suite: u16) -> Result<DeviceReservation, Error> {
        let query = vec![("suite", suite.to_string())];
        self.call(&Request::get("/v1/key-packages/probe").with_query(query))
            .await
    }

    pub(crate) async fn revoke(&self, refs: Vec<KeyPackageRef>) -> Result<Revoked, Error> {
        let request = Request::post("/v1/key-packages/revoke", &RevokeRequest { refs })?;
        self.change(self.bare_claim().await?, request).await
    }

    pub(crate) async fn reserve(
        &self,
        idempotency_key: &str,
        request: &ReserveRequest,
    ) -> Result<Reserved, Error> {
        let request =
            Request::post("/v1/key-packages/reserve", request)?.with_idempotency_key(Some(idempotency_key));
        self.change(self.bare_claim().await?, request).await
    }

    pub(crate) async fn link_device(&self, request: &LinkRequest) -> Result<Registered, Error> {
        let request = Request::post("/v1/devices", request)?;
        self.change(self.bare_claim().await?, request).await
    }

    pub(crate) async fn remove_device(
        &self,
        device: &DeviceId,
        removal: &RemovalRequest,
    ) -> Result<(), Error> {
        let request = Request::post(&format!("/v1/devices/{device}"), removal)?.deleting();
        self.change(self.bare_claim().await?, request).await
    }

    /// Hides this user from another, or no longer.
    pub(crate) async fn set_block(&self, user: &UserName, blocked: bool) -> Result<(), Error> {
        let path = format!("/v1/blocks/{user}");
        let request = match blocked {
            true => Request::put(&path),
            false => Request::delete(&path),
        };
        self.change(self.bare_claim().await?, request).await
    }

    /// Gives a reservation up.
    pub(crate) async fn abandon(&self, reservation_id: &str) -> Result<(), Error> {
        let path = format!("/v1/reservations/{reservation_id}/abandon");
        let request = Request::post_bytes(&path, Vec::new());
        self.change(self.bare_claim().await?, request).await
    }

    pub(crate) async fn group_info(&self, group: &GroupId) -> Result<GroupInfoAnswer, Error> {
        let request = Request::get(&format!("/v1/groups/{group}/info"));
        self.call(&request.with_answer_bytes_max(GROUP_INFO_ANSWER_BYTES_MAX))
            .await
    }

    pub(crate) async fn ratchet_tree(&self, group: &GroupId, epoch: u64) -> Result<Vec<u8>, Error> {
        let answer: RatchetTreeAnswer = self
            .call(&Request::get(&format!("/v1/groups/{group}/trees/{epoch}")))
            .await?;
        Ok(answer.ratchet_tree.0)
    }

    /// Acknowledges rows, and gives those after them.
    pub(crate) async fn acknowledge_and_next(
        &self,
        acknowledgement: Acknowledgement,
        limit: u32,
    ) -> Result<Inbox, Error> {
        let request = NextRequest {
            acknowledge: Some(acknowledgement),
            limit: Some(limit),
            wait: None,
        };
        let request = Request::post("/v1/inbox/next", &request)?;
        self.change(self.bare_claim().await?, request).await
    }

    /// The rows of the inbox as they come, from those on that are not acknowledged.
    pub(crate) async fn events(&self) -> Result<Events, Error> {
        let request = &Request::get("/v1/inbox/events");
        let deadline = Deadline::after(STREAM_TIME);
        let send = |token: Token| async move { self.http.stream(request, &token, deadline).await };
        let answer = self.in_session(deadline, |_, _| Ok(()), send).await?;
        Events::begin(answer, deadline).await
    }

    /// The inbox rows that are not acknowledged; waits up to `wait` for one.
    pub(crate) async fn next(&self, limit: u32, wait: Duration) -> Result<Inbox, Error> {
        let asked = NextRequest {
            acknowledge: None,
            limit: Some(limit),
            wait: (!wait.is_zero()).then(|| wait.as_secs().max(1)),
        };
        let request = Request::post("/v1/inbox/next", &asked)?;
        self.call(&match wait.is_zero() {
            true => request,
            false => request.with_time(wait + WAIT_MARGIN),
        })
        .await
    }
}

fn info_request() -> Request {
    Request::get(INFO_PATH).with_answer_bytes_max(INFO_BYTES_MAX)
}

fn transfer_time(bytes: u64) -> Duration {
    TRANSFER_TIME + Duration::from_secs(bytes / TRANSFER_BYTES_PER_SECOND)
}
