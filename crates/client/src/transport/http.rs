use std::num::NonZeroU32;
use std::sync::{Arc, Once};
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use larder_wire::{Problem, ProblemType, STATE_HEADER, StateClaim};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, DATE, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Method, Response, StatusCode, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::clocks::ServerClock;
use crate::error::{Error, Unreachable};
use crate::transport::session::Token;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A whole request, answer included, unless it says otherwise.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// An answer larger than this is not read, in bytes. The largest is a page of inbox rows.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
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
    timeout: Duration,
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
            timeout: REQUEST_TIMEOUT,
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

    /// Says what state we are in, as every request that changes something must.
    pub(super) fn with_state(mut self, state: &StateClaim) -> Self {
        self.state = Some(state.clone());
        self
    }

    pub(super) fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
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
            Error::Unreachable(Unreachable::NotLarder {
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
    pub(super) fn new(server: &str) -> Result<(Self, String), Error> {
        static PROVIDER: Once = Once::new();
        PROVIDER.call_once(|| {
            // Fails when the application has installed one; then that one is used.
            let _ = rustls::crypto::ring::default_provider().install_default();
        });
        let base = Url::parse(server).map_err(|_| Error::InvalidServer)?;
        let plain = base.path() == "/" && base.query().is_none() && base.fragment().is_none();
        let host = base.host_str().ok_or(Error::InvalidServer)?;
        if !matches!(base.scheme(), "http" | "https") || !plain || !base.username().is_empty() {
            return Err(Error::InvalidServer);
        }
        let mut client = Client::builder()
            .http1_only()
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .referer(false);
        if is_loopback(host) {
            client = client.no_proxy();
        }
        let client = client
            .build()
            .map_err(|error| Error::Unreachable(Unreachable::Network(error)))?;
        let stored = base.as_str().trim_end_matches('/').to_owned();
        let clock = None;
        Ok((Self { client, base, clock }, stored))
    }

    /// Tells this clock the time of every answer.
    pub(super) fn heeded_by(mut self, clock: &Arc<ServerClock>) -> Self {
        self.clock = Some(Arc::clone(clock));
        self
    }

    /// Sends a request and reads the answer.
    pub(super) async fn call_json<T: DeserializeOwned>(
        &self,
        request: &Request,
        token: Option<&Token>,
    ) -> Result<T, Error> {
        self.call(request, token).await?.json()
    }

    /// Sends a request, and takes the answer as it is.
    pub(super) async fn call(&self, request: &Request, token: Option<&Token>) -> Result<Answer, Error> {
        let backoff = ExponentialBuilder::default()
            .with_min_delay(RETRY_DELAY_MIN)
            .with_max_delay(RETRY_DELAY_MAX)
            .with_max_times(request.retries)
            .with_jitter();
        (|| self.attempt(request, token))
            .retry(backoff)
            .sleep(tokio::time::sleep)
            .when(|attempt: &Attempt| {
                matches!(
                    attempt.error,
                    Error::Unreachable(Unreachable::Network(_) | Unreachable::Unavailable(_))
                ) && attempt.retry_after.is_none_or(|asked| asked <= RETRY_AFTER_MAX)
            })
            .adjust(|attempt, delay| {
                delay.map(|delay| attempt.retry_after.map_or(delay, |asked| asked.max(delay)))
            })
            .await
            .map_err(|attempt| attempt.error)
    }

    async fn attempt(&self, request: &Request, token: Option<&Token>) -> Result<Answer, Attempt> {
        let plain = |error| Attempt {
            error,
            retry_after: None,
        };
        let response = self
            .send(request, token)
            .await
            .map_err(|error| plain(network(error)))?;
        let status = response.status();
        let retry_after = retry_after(&response);
        let date = date(&response);
        let bytes = read(response, request.answer_bytes_max).await.map_err(plain)?;
        tracing::debug!(method = %request.method, status = status.as_u16(), "answer");
        if status.is_success() || status == StatusCode::NOT_MODIFIED {
            if let Some(clock) = &self.clock {
                clock.heed(date.as_deref());
            }
            return Ok(Answer { status, bytes });
        }
        let error = refusal(&bytes, status, retry_after);
        Err(Attempt { error, retry_after })
    }

    async fn send(&self, request: &Request, token: Option<&Token>) -> Result<Response, reqwest::Error> {
        let mut url = self.base.clone();
        url.set_path(&request.path);
        let mut builder = self
            .client
            .request(request.method.clone(), url)
            .query(&request.query)
            .timeout(request.timeout);
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

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || address
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

fn network(error: reqwest::Error) -> Error {
    Error::Unreachable(Unreachable::Network(error.without_url()))
}

fn date(response: &Response) -> Option<String> {
    let date = response.headers().get(DATE)?.to_str().ok()?;
    Some(date.to_owned())
}

fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?;
    seconds.parse().ok().map(Duration::from_secs)
}

/// The whole answer, but not without end.
async fn read(mut response: Response, most: usize) -> Result<Vec<u8>, Error> {
    let status = response.status().as_u16();
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(network)? {
        if bytes.len() + chunk.len() > most {
            return Err(Error::Unreachable(Unreachable::NotLarder { status }));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// Only a problem of ours with a 4xx status says that the request did not happen. What a proxy or a crashing server
/// answers says nothing.
fn refusal(bytes: &[u8], status: StatusCode, retry_after: Option<Duration>) -> Error {
    let problem = serde_json::from_slice::<Problem>(bytes).map(|problem| Problem {
        retry_after_seconds: retry_after
            .and_then(|asked| NonZeroU32::new(u32::try_from(asked.as_secs()).unwrap_or(u32::MAX))),
        ..problem
    });
    match problem {
        Ok(problem) if problem.problem_type == ProblemType::Unavailable => {
            Error::Unreachable(Unreachable::Unavailable(problem))
        }
        Ok(problem) if status.is_client_error() => Error::Refused(problem),
        Ok(_) | Err(_) => Error::Unreachable(Unreachable::NotLarder {
            status: status.as_u16(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_http_with_a_host_and_nothing_else() {
        let (_, stored) = Http::new("http://127.0.0.1:4000/").unwrap();
        assert_eq!(stored, "http://127.0.0.1:4000");
        for bad in [
            "127.0.0.1:4000",
            "ftp://a",
            "http://a/b",
            "http://u@a",
            "http://a?x=1",
            "",
        ] {
            assert!(matches!(Http::new(bad), Err(Error::InvalidServer)), "{bad:?}");
        }
    }

    #[test]
    fn only_a_problem_of_ours_is_a_refusal() {
        let problem = serde_json::to_vec(&Problem::wrong_epoch(3)).unwrap();
        assert!(matches!(
            refusal(&problem, StatusCode::CONFLICT, None),
            Error::Refused(_)
        ));
        assert!(matches!(
            refusal(b"<html>", StatusCode::NOT_FOUND, None),
            Error::Unreachable(_)
        ));
        let unavailable = serde_json::to_vec(&Problem::new(ProblemType::Unavailable)).unwrap();
        assert!(matches!(
            refusal(&unavailable, StatusCode::SERVICE_UNAVAILABLE, None),
            Error::Unreachable(_)
        ));
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
        }
    }
}
