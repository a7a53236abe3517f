use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::{Arc, Once};
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use larder_wire::{Problem, ProblemType, STATE_HEADER, StateClaim};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, DATE, HeaderValue, RETRY_AFTER};
use reqwest::{Certificate, Client, Method, Response, StatusCode, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::access::Access;
use crate::clocks::ServerClock;
use crate::error::{CertificateFlaw, Error, NotTheServer, Unreachable};
use crate::transport::address::{Place, require_access, without_slash};
use crate::transport::deadline::Deadline;
use crate::transport::session::Token;

/// Name, connection and TLS, in one attempt.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A whole request, unless it says otherwise.
const REQUEST_TIME: Duration = Duration::from_secs(20);
/// The longest time in which nothing of an answer arrives that has begun.
const STALL_TIME: Duration = Duration::from_secs(20);
/// An answer larger than this is not read, in bytes. The largest is a page of inbox rows.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// A refusal larger than this is not read, in bytes, and counts as none.
const PROBLEM_BYTES_MAX: usize = 1024 * 1024;
const JSON: &str = "application/json";
const OCTET_STREAM: &str = "application/octet-stream";
const RETRY_DELAY_MIN: Duration = Duration::from_millis(50);
const RETRY_DELAY_MAX: Duration = Duration::from_secs(2);
/// A server that asks for more patience than this is reported as unreachable instead.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(5);
const RETRIES: usize = 3;

/// A request. Every one of the API may be repeated: by nature, by its idempotency key, or by the SHA-256 of what it
/// carries.
pub(super) struct Request {
    method: Method,
    path: String,
    query: Vec<(&'static str, String)>,
    body: Option<Vec<u8>>,
    content_type: &'static str,
    /// An answer larger than this is not read.
    answer_bytes_max: usize,
    idempotency_key: Option<String>,
    state: Option<StateClaim>,
    time: Duration,
    retries: usize,
}

impl Request {
    pub(super) fn get(path: &str) -> Self {
        Self {
            method: Method::GET,
            path: path.to_owned(),
            query: Vec::new(),
            body: None,
            content_type: JSON,
            answer_bytes_max: ANSWER_BYTES_MAX,
            idempotency_key: None,
            state: None,
            time: REQUEST_TIME,
            retries: RETRIES,
        }
    }

    pub(super) fn post(path: &str, body: &impl Serialize) -> Result<Self, Error> {
        let body = serde_json::to_vec(body).map_err(Error::mls("encoding a request"))?;
        Ok(Self::post_bytes(path, body))
    }

    /// Posts JSON as it is; none at all when there are no bytes.
    pub(super) fn post_bytes(path: &str, body: Vec<u8>) -> Self {
        Self {
            method: Method::POST,
            body: (!body.is_empty()).then_some(body),
            ..Self::get(path)
        }
    }

    /// Posts bytes that are no JSON.
    pub(super) fn post_blob(path: &str, bytes: Vec<u8>) -> Self {
        Self {
            content_type: OCTET_STREAM,
            ..Self::post_bytes(path, bytes)
        }
    }

    /// Reads more of the answer, or less.
    pub(super) fn with_answer_bytes_max(mut self, most: usize) -> Self {
        self.answer_bytes_max = most;
        self
    }

    pub(super) fn with_query(mut self, query: Vec<(&'static str, String)>) -> Self {
        self.query = query;
        self
    }

    pub(super) fn with_idempotency_key(mut self, key: Option<&str>) -> Self {
        self.idempotency_key = key.map(str::to_owned);
        self
    }

    /// Puts, without a body.
    pub(super) fn put(path: &str) -> Self {
        Self {
            method: Method::PUT,
            ..Self::get(path)
        }
    }

    pub(super) fn delete(path: &str) -> Self {
        Self {
            method: Method::DELETE,
            ..Self::get(path)
        }
    }

    /// Deletes, with the same body.
    pub(super) fn deleting(mut self) -> Self {
        self.method = Method::DELETE;
        self
    }

    /// Says what state we are in, as every request that changes something must.
    pub(super) fn with_state(mut self, state: &StateClaim) -> Self {
        self.state = Some(state.clone());
        self
    }

    /// Takes so much time, all in all.
    pub(super) fn with_time(mut self, time: Duration) -> Self {
        self.time = time;
        self
    }

    /// Begins its time.
    pub(super) fn deadline(&self) -> Deadline {
        Deadline::after(self.time)
    }

    /// Not to be repeated.
    pub(super) fn once(mut self) -> Self {
        self.retries = 0;
        self
    }
}

/// One server.
pub(super) struct Http {
    client: Client,
    base: Url,
    /// Told the time of every answer.
    clock: Option<Arc<ServerClock>>,
}

/// A success.
pub(super) struct Answer {
    status: StatusCode,
    bytes: Vec<u8>,
}

impl Answer {
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// The JSON of it. An empty answer (204, 304) reads as `null`. A success that cannot be read proves nothing.
    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        let json = match self.status {
            StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED => b"null",
            _ => self.bytes.as_slice(),
        };
        serde_json::from_slice(json).map_err(|_| {
            Error::NotTheServer(NotTheServer::NotLarder {
                status: self.status.as_u16(),
            })
        })
    }
}

/// A failed attempt, with what the server says about another one.
struct Attempt {
    error: Error,
    retry_after: Option<Duration>,
}

impl Http {
    /// Parses the address; returns it without a trailing slash too.
    pub(super) fn new(server: &str, access: &Access) -> Result<(Self, String), Error> {
        static PROVIDER: Once = Once::new();
        PROVIDER.call_once(|| {
            // Fails when the application has installed one; then that one is used.
            let _ = rustls::crypto::ring::default_provider().install_default();
        });
        let (base, place) = require_access(server, access)?;
        let stored = without_slash(&base);
        let mut client = Client::builder()
            .http1_only()
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .referer(false);
        client = match (base.scheme() == "https", place) {
            // A proxy would see the tokens of sessions. Nothing is verified, so no certificates are loaded.
            (false, _) => client.no_proxy().tls_certs_only([]),
            (true, Place::Here) => client.https_only(true).no_proxy(),
            (true, Place::Elsewhere) => client.https_only(true),
        };
        if base.host_str() == Some("localhost") {
            // Whatever a name server says.
            let here = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
            client = client.resolve_to_addrs("localhost", &here.map(|address| SocketAddr::new(address, 0)));
        }
        if base.scheme() == "https"
            && let Some(authorities) = &access.authorities
        {
            let certificates: Result<Vec<Certificate>, _> = authorities
                .certificates()
                .iter()
                .map(|der| Certificate::from_der(der))
                .collect();
            client = client.tls_certs_merge(certificates.map_err(Error::Setup)?);
        }
        let client = client.build().map_err(Error::Setup)?;
        let clock = None;
        Ok((Self { client, base, clock }, stored))
    }

    /// Tells this clock the time of every answer.
    pub(super) fn heeded_by(mut self, clock: &Arc<ServerClock>) -> Self {
        self.clock = Some(Arc::clone(clock));
        self
    }

    /// Sends a request and reads the answer, until the deadline.
    pub(super) async fn call_json<T: DeserializeOwned>(
        &self,
        request: &Request,
        token: Option<&Token>,
        deadline: Deadline,
    ) -> Result<T, Error> {
        self.call(request, token, deadline).await?.json()
    }

    /// Sends a request, and takes the answer as it is.
    pub(super) async fn call(
        &self,
        request: &Request,
        token: Option<&Token>,
        deadline: Deadline,
    ) -> Result<Answer, Error> {
        let backoff = ExponentialBuilder::default()
            .with_min_delay(RETRY_DELAY_MIN)
            .with_max_delay(RETRY_DELAY_MAX)
            .with_max_times(request.retries)
            .with_jitter();
        let attempts = (|| self.attempt(request, token))
            .retry(backoff)
            .sleep(tokio::time::sleep)
            .when(|attempt: &Attempt| {
                matches!(attempt.error, Error::Unreachable(_))
                    && attempt.retry_after.is_none_or(|asked| asked <= RETRY_AFTER_MAX)
            })
            .adjust(|attempt, delay| {
                delay.map(|delay| attempt.retry_after.map_or(delay, |asked| asked.max(delay)))
            });
        deadline
            .bound(async { attempts.await.map_err(|attempt| attempt.error) })
            .await
    }

    /// Sends a request, whose answer is a stream of events.
    pub(super) async fn stream(
        &self,
        request: &Request,
        token: &Token,
        deadline: Deadline,
    ) -> Result<Response, Error> {
        let response = deadline
            .bound(async { self.send(request, Some(token)).await.map_err(no_answer) })
            .await?;
        let status = response.status();
        let is_stream = response
            .headers()
            .get(CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
        if status == StatusCode::OK && is_stream {
            return Ok(response);
        }
        let retry_after = retry_after(&response);
        let bytes = deadline.bound(read(response, PROBLEM_BYTES_MAX)).await?;
        Err(refusal(&bytes.unwrap_or_default(), status, retry_after))
    }

    async fn attempt(&self, request: &Request, token: Option<&Token>) -> Result<Answer, Attempt> {
        let plain = |error| Attempt {
            error,
            retry_after: None,
        };
        let response = self
            .send(request, token)
            .await
            .map_err(|error| plain(no_answer(error)))?;
        let status = response.status();
        let retry_after = retry_after(&response);
        let date = date(&response);
        let is_good = status.is_success() || status == StatusCode::NOT_MODIFIED;
        let most = match is_good {
            true => request.answer_bytes_max,
            false => PROBLEM_BYTES_MAX,
        };
        let bytes = read(response, most).await.map_err(plain)?;
        tracing::debug!(method = %request.method, status = status.as_u16(), "answer");
        match (is_good, bytes) {
            (true, Some(bytes)) => {
                if let Some(clock) = &self.clock {
                    clock.heed(date.as_deref());
                }
                Ok(Answer { status, bytes })
            }
            (true, None) => Err(plain(NotTheServer::TooMuch.into())),
            (false, bytes) => Err(Attempt {
                error: refusal(&bytes.unwrap_or_default(), status, retry_after),
                retry_after,
            }),
        }
    }

    async fn send(&self, request: &Request, token: Option<&Token>) -> Result<Response, reqwest::Error> {
        let mut url = self.base.clone();
        url.set_path(&request.path);
        let mut builder = self
            .client
            .request(request.method.clone(), url)
            .query(&request.query);
        if let Some(token) = token
            && let Ok(mut value) = HeaderValue::from_str(&format!("Bearer {}", token.as_str()))
        {
            value.set_sensitive(true);
            builder = builder.header(AUTHORIZATION, value);
        }
        if let Some(key) = &request.idempotency_key {
            builder = builder.header("idempotency-key", key);
        }
        if let Some(state) = &request.state {
            builder = builder.header(STATE_HEADER, state.to_string());
        }
        if let Some(body) = &request.body {
            builder = builder
                .header(CONTENT_TYPE, request.content_type)
                .body(body.clone());
        }
        builder.send().await
    }
}

/// Why a request got no answer.
pub(super) fn no_answer(error: reqwest::Error) -> Error {
    let error = error.without_url();
    match tls_error(&error) {
        Some(rustls::Error::InvalidCertificate(flaw)) => {
            return NotTheServer::Certificate(CertificateFlaw::from(flaw)).into();
        }
        Some(other) => return NotTheServer::Tls(other.clone()).into(),
        None => {}
    }
    Error::Unreachable(if error.is_dns() {
        Unreachable::Resolve(error)
    } else if error.is_connect() {
        Unreachable::Connect(error)
    } else {
        Unreachable::Broken(error)
    })
}

/// The error of TLS among the sources of another.
fn tls_error<'e>(error: &'e (dyn std::error::Error + 'static)) -> Option<&'e rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<rustls::Error>() {
            return Some(found);
        }
        next = match error
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref)
        {
            // What it was made of is not among its sources.
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

fn date(response: &Response) -> Option<String> {
    let date = response.headers().get(DATE)?.to_str().ok()?;
    Some(date.to_owned())
}

fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?;
    seconds.parse().ok().map(Duration::from_secs)
}

/// The whole answer, if it is no larger than this.
async fn read(mut response: Response, most: usize) -> Result<Option<Vec<u8>>, Error> {
    let mut bytes = Vec::new();
    loop {
        let chunk = Deadline::after(STALL_TIME)
            .bound(async { response.chunk().await.map_err(no_answer) })
            .await?;
        match chunk {
            None => return Ok(Some(bytes)),
            Some(chunk) if bytes.len() + chunk.len() > most => return Ok(None),
            Some(chunk) => bytes.extend_from_slice(&chunk),
        }
    }
}

/// Only a problem of ours with a 4xx status says that the request did not happen, and a 413 of whomever: what
/// is too large for something on the way does not get further. What else a proxy or a crashing server answers
/// says nothing.
fn refusal(bytes: &[u8], status: StatusCode, retry_after: Option<Duration>) -> Error {
    let problem = serde_json::from_slice::<Problem>(bytes).map(|problem| Problem {
        retry_after_seconds: retry_after
            .and_then(|asked| NonZeroU32::new(u32::try_from(asked.as_secs()).unwrap_or(u32::MAX))),
        ..problem
    });
    match (problem, status.as_u16()) {
        (Ok(problem), _) if problem.problem_type == ProblemType::Unavailable => {
            Error::Unreachable(Unreachable::Unavailable(problem))
        }
        (Ok(problem), 400..=499) => Error::Refused(problem),
        (Err(_), 413) => Error::Refused(
            Problem::new(ProblemType::TooLarge)
                .with_detail("a proxy in front of the server lets nothing pass that is as large as this"),
        ),
        (_, status @ (408 | 425 | 429 | 500..=599)) => Error::Unreachable(Unreachable::Gateway { status }),
        (_, status) => NotTheServer::NotLarder { status }.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_problem_of_ours_is_a_refusal() {
        let problem = serde_json::to_vec(&Problem::wrong_epoch(3)).unwrap();
        assert!(matches!(
            refusal(&problem, StatusCode::CONFLICT, None),
            Error::Refused(_)
        ));
        let unavailable = serde_json::to_vec(&Problem::new(ProblemType::Unavailable)).unwrap();
        assert!(matches!(
            refusal(&unavailable, StatusCode::SERVICE_UNAVAILABLE, None),
            Error::Unreachable(Unreachable::Unavailable(_))
        ));
        for (status, code) in [
            (302, "not-larder"),
            (403, "not-larder"),
            (404, "not-larder"),
            (408, "unreachable"),
            (413, "too-large"),
            (429, "unreachable"),
            (500, "unreachable"),
            (502, "unreachable"),
            (504, "unreachable"),
        ] {
            let error = refusal(b"<html>", StatusCode::from_u16(status).unwrap(), None);
            assert_eq!(error.code(), code, "{status}");
            assert_eq!(error.is_temporary(), code == "unreachable", "{status}");
        }
    }

    #[test]
    fn a_refusal_tells_how_long_to_wait() {
        for (problem_type, status) in [
            (ProblemType::RateLimited, StatusCode::TOO_MANY_REQUESTS),
            (ProblemType::Unavailable, StatusCode::SERVICE_UNAVAILABLE),
        ] {
            let problem = serde_json::to_vec(&Problem::new(problem_type)).unwrap();
            let asked = Duration::from_secs(90);
            assert_eq!(refusal(&problem, status, Some(asked)).retry_after(), Some(asked));
            assert_eq!(refusal(&problem, status, None).retry_after(), None);
            for endless in [4_000_000_000, u64::MAX] {
                let asked = refusal(&problem, status, Some(Duration::from_secs(endless))).retry_after();
                assert!(
                    asked.is_some_and(|asked| asked <= Duration::from_secs(60 * 60)),
                    "{asked:?}"
                );
            }
        }
    }
}
