use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use larder_wire::{
    Base64Url, Challenge, ChallengeRequest, DeviceId, Problem, ProblemType, Session, SessionRequest,
};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::core::{self, Handle, auth_signature};
use crate::error::Error;
use crate::transport::deadline::Deadline;
use crate::transport::http::{Http, Request};

/// No session is taken to last longer, in seconds: one year.
const SESSION_SECONDS_MAX: u64 = 365 * 24 * 60 * 60;
/// A session is renewed this long before its end.
const RENEWED_BEFORE: Duration = Duration::from_secs(60);
/// A challenge or a session, in bytes.
const SMALL_BYTES_MAX: usize = 64 * 1024;

/// A bearer token. `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Token(String);

impl Token {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// The present session's token.
pub(super) struct Present {
    pub(super) token: Token,
    /// Whether it was opened just now.
    pub(super) is_new: bool,
}

/// The present session, opened when it is needed.
pub(super) struct Sessions {
    device_id: DeviceId,
    core: Arc<Handle>,
    /// With its end, by the clock that nobody sets.
    present: Mutex<Option<(Token, Instant)>>,
}

/// Whether the server says that the session is no longer good.
pub(super) fn has_ended(problem: &Problem) -> bool {
    problem.problem_type == ProblemType::Unauthenticated
}

impl Sessions {
    pub(super) fn new(device_id: DeviceId, core: Arc<Handle>) -> Self {
        Self {
            device_id,
            core,
            present: Mutex::new(None),
        }
    }

    /// The token of the present session. Opens one if need be; several callers share it.
    pub(super) async fn token(&self, http: &Http, deadline: Deadline) -> Result<Present, Error> {
        let mut present = self.present.lock().await;
        if let Some((token, end)) = &*present
            && Instant::now() + RENEWED_BEFORE < *end
        {
            return Ok(Present {
                token: token.clone(),
                is_new: false,
            });
        }
        let asked_at = Instant::now();
        let Session {
            token,
            expires_in_seconds,
            state,
            incarnation,
        } = self.open(http, deadline).await?;
        if let Some(incarnation) = incarnation {
            self.core
                .write(move |tx, _| core::heed_incarnation(tx, &incarnation))
                .await?;
        }
        if let Some(mark) = state {
            self.core.write(move |tx, _| core::heed_mark(tx, &mark)).await?;
        }
        self.core.write(core::heed_clocks).await?;
        let token = Token(token);
        let end = asked_at + Duration::from_secs(expires_in_seconds.min(SESSION_SECONDS_MAX));
        *present = Some((token.clone(), end));
        Ok(Present { token, is_new: true })
    }

    /// This token is no longer good. Another one that came meanwhile stays.
    pub(super) async fn forget(&self, token: &Token) {
        let mut present = self.present.lock().await;
        if present.as_ref().is_some_and(|(held, _)| held == token) {
            *present = None;
        }
    }

    /// Whatever session there is, it is no longer used.
    pub(super) async fn forget_present(&self) {
        *self.present.lock().await = None;
    }

    /// A challenge is good once. A request that was doubled on its way has used it up before the copy that is
    /// answered, and of one whose answer was lost nobody knows: then a fresh one is tried, once.
    async fn open(&self, http: &Http, deadline: Deadline) -> Result<Session, Error> {
        let challenge = self.challenge(http, deadline).await?;
        match self.answer(http, challenge, deadline).await {
            Err(Error::Refused(problem)) if has_ended(&problem) => {}
            Err(Error::Unreachable(_)) => {}
            opened => return opened,
        }
        let challenge = self.challenge(http, deadline).await?;
        self.answer(http, challenge, deadline).await
    }

    async fn challenge(&self, http: &Http, deadline: Deadline) -> Result<Challenge, Error> {
        let request = ChallengeRequest {
            device_id: self.device_id.clone(),
        };
        let request =
            Request::post("/v1/sessions/challenge", &request)?.with_answer_bytes_max(SMALL_BYTES_MAX);
        http.call_json(&request, None, deadline).await
    }

    async fn answer(&self, http: &Http, challenge: Challenge, deadline: Deadline) -> Result<Session, Error> {
        let bytes = challenge.challenge.0.clone();
        let signature = self
            .core
            .write(move |_, context| auth_signature(context, &bytes))
            .await?;
        let request = SessionRequest {
            device_id: self.device_id.clone(),
            challenge: challenge.challenge,
            signature: Base64Url(signature),
        };
        let request = Request::post("/v1/sessions", &request)?
            .with_answer_bytes_max(SMALL_BYTES_MAX)
            .once();
        http.call_json(&request, None, deadline).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_redacts_itself() {
        assert_eq!(format!("{:?}", Token("secret".into())), "Token(..)");
    }
}
