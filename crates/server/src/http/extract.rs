//! Reads what requests carry. Every way in which that can fail ends as a [`Failure`].

use std::convert::Infallible;
use std::marker::PhantomData;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use larder_wire::{IDEMPOTENCY_KEY_CHARS_MAX, Problem, ProblemType, STATE_HEADER, StateClaim};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::App;
use super::admission::Client;
use super::bodies::Bounded;
use super::problem::Failure;
use crate::Caller;
use crate::error::ServiceError;
use crate::sessions::SessionKey;

/// The media type of one MLS object (RFC 9420 §17.10).
pub(super) const MESSAGE_MLS: &str = "message/mls";

/// The media type of a blob.
pub(super) const OCTET_STREAM: &str = "application/octet-stream";

/// JSON of this size, in bytes, is read in less time than it takes to change to another thread.
const READ_AT_ONCE_BYTES_MAX: usize = 64 * 1024;

const IDEMPOTENCY_KEY: &str = "idempotency-key";

pub(super) fn malformed(detail: impl Into<String>) -> Problem {
    Problem::new(ProblemType::Malformed).with_detail(detail)
}

/// The bearer token of a request. Nothing prints it.
pub(super) struct BearerToken(pub(super) String);

impl<S: Sync> FromRequestParts<S> for BearerToken {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        let mut values = parts.headers.get_all(header::AUTHORIZATION).iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            return Err(ProblemType::Unauthenticated.into());
        };
        value
            .to_str()
            .ok()
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| Self(token.trim().to_owned()))
            .ok_or_else(|| ProblemType::Unauthenticated.into())
    }
}

/// What the device says of its own state, if it does.
fn state_claim(headers: &HeaderMap) -> Result<Option<StateClaim>, Problem> {
    let mut values = headers.get_all(STATE_HEADER).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value
            .to_str()
            .ok()
            .and_then(|value| value.parse().ok())
            .map(Some)
            .ok_or_else(|| malformed("the Larder-State is not well formed")),
        (Some(_), Some(_)) => Err(malformed("one Larder-State at most")),
    }
}

/// The device whose session the request names. It comes first among a handler's arguments, so that nothing of a
/// stranger's request is read.
impl FromRequestParts<App> for Caller {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Failure> {
        let Ok(client) = Client::from_request_parts(parts, app).await;
        let token = match BearerToken::from_request_parts(parts, app).await {
            Ok(BearerToken(token)) => token,
            Err(failure) => {
                client.ask()?;
                return Err(failure);
            }
        };
        let session = SessionKey::of(&token);
        let asked = client.ask_with(&session)?;
        let caller = match app.service.authenticate_session(session).await {
            Ok(caller) => caller,
            Err(error) => {
                if let ServiceError::Refused(_) = error {
                    client.is_unknown(&asked);
                }
                return Err(error.into());
            }
        };
        client.is_known(&asked);
        Ok(caller.claiming(state_claim(&parts.headers)?))
    }
}

/// The parameters of a path.
pub(super) struct Path<T>(pub(super) T);

impl<T: DeserializeOwned + Send> FromRequestParts<App> for Path<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Failure> {
        axum::extract::Path::from_request_parts(parts, app)
            .await
            .map(|axum::extract::Path(value)| Self(value))
            .map_err(|_| malformed("a part of the path is not well formed").into())
    }
}

/// The parameters of a query.
pub(super) struct Query<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequestParts<App> for Query<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Failure> {
        axum::extract::Query::from_request_parts(parts, app)
            .await
            .map(|axum::extract::Query(value)| Self(value))
            .map_err(|_| malformed("a parameter of the query is not well formed").into())
    }
}

/// The `Idempotency-Key` of a request: 1 to [`IDEMPOTENCY_KEY_CHARS_MAX`] visible ASCII characters.
pub(super) struct IdempotencyKey(pub(super) String);

impl<S: Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        let mut values = parts.headers.get_all(IDEMPOTENCY_KEY).iter();
        let key = match (values.next(), values.next()) {
            (Some(value), None) => value.as_bytes(),
            _ => return Err(malformed("one Idempotency-Key is needed").into()),
        };
        if key.is_empty() || key.len() > IDEMPOTENCY_KEY_CHARS_MAX || !key.iter().all(u8::is_ascii_graphic) {
            return Err(malformed("an Idempotency-Key is 1 to 64 visible ASCII characters").into());
        }
        Ok(Self(String::from_utf8_lossy(key).into_owned()))
    }
}

/// Whether the answer may be a bare MLS object.
pub(super) struct AcceptsMls(pub(super) bool);

impl<S: Sync> FromRequestParts<S> for AcceptsMls {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let accepted = parts.headers.get_all(header::ACCEPT).iter().any(|value| {
            value
                .to_str()
                .is_ok_and(|value| value.split(',').any(|range| essence(range) == MESSAGE_MLS))
        });
        Ok(Self(accepted))
    }
}

/// JSON, in and out.
pub(super) struct Json<T>(pub(super) T);

impl<T: DeserializeOwned + Bounded> FromRequest<App> for Json<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, app: &App) -> Result<Self, Failure> {
        let unread = Unread::<T>::from_request(request, app).await?;
        Ok(Self(parse_json(&unread.body)?))
    }
}

/// JSON that may be so large that reading it takes time.
pub(super) struct Unread<T> {
    body: Bytes,
    of: PhantomData<T>,
}

impl<T: DeserializeOwned + Bounded> FromRequest<App> for Unread<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, app: &App) -> Result<Self, Failure> {
        if content_type(request.headers()).as_deref() != Some("application/json") {
            return Err(ProblemType::UnsupportedMediaType.into());
        }
        Ok(Self {
            body: read_body(request, app, T::BODY_BYTES_MAX).await?,
            of: PhantomData,
        })
    }
}

impl<T: DeserializeOwned + Send + 'static> Unread<T> {
    /// Reads it; what is large where nobody else waits for it.
    pub(super) async fn read(self, app: &App, caller: &Caller) -> Result<T, Failure> {
        if self.body.len() <= READ_AT_ONCE_BYTES_MAX {
            return Ok(parse_json(&self.body)?);
        }
        let read = app.service.judge(caller, move || parse_json(&self.body));
        Ok(read.await.map_err(ServiceError::from)??)
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        axum::Json(self.0).into_response()
    }
}

/// One MLS object: inside the JSON request `T`, or the bare body of a `message/mls` request.
pub(super) enum MlsBody<T> {
    Json(Unread<T>),
    Bare(Vec<u8>),
}

impl<T: DeserializeOwned + Bounded> FromRequest<App> for MlsBody<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, app: &App) -> Result<Self, Failure> {
        match content_type(request.headers()).as_deref() {
            Some("application/json") => Ok(Self::Json(Unread::from_request(request, app).await?)),
            Some(MESSAGE_MLS) => Ok(Self::Bare(
                read_body(request, app, T::BODY_BYTES_MAX).await?.into(),
            )),
            _ => Err(ProblemType::UnsupportedMediaType.into()),
        }
    }
}

async fn read_body(mut request: Request, app: &App, bytes_max: usize) -> Result<Bytes, Failure> {
    DefaultBodyLimit::max(bytes_max).apply(&mut request);
    Bytes::from_request(request, app)
        .await
        .map_err(|rejection| match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => ProblemType::TooLarge.into(),
            _ => malformed("the body could not be read").into(),
        })
}

fn parse_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    // serde takes an array for an object whose members are all optional.
    if body.trim_ascii_start().first() == Some(&b'[') {
        return Err(malformed("expected an object"));
    }
    serde_json::from_slice(body).map_err(|error| {
        let message = error.to_string();
        // What serde found may be a secret, and of any length; what it expected is ours.
        malformed(match message.rsplit_once(", expected ") {
            Some((_, expected)) => format!("expected {expected}"),
            None => message,
        })
    })
}

/// The media type of the body, in lower case and without parameters.
pub(super) fn content_type(headers: &HeaderMap) -> Option<String> {
    headers.get(header::CONTENT_TYPE)?.to_str().ok().map(essence)
}

fn essence(media_type: &str) -> String {
    let essence = media_type
        .split_once(';')
        .map_or(media_type, |(essence, _)| essence);
    essence.trim().to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detail(json: &str) -> String {
        let problem = parse_json::<larder_wire::SessionRequest>(json.as_bytes()).unwrap_err();
        problem.detail.unwrap()
    }

    #[test]
    fn the_detail_of_a_malformed_body_says_what_is_expected_and_echoes_nothing() {
        let wrong_type = detail(r#"{"device_id": "d", "challenge": 4711, "signature": "AA"}"#);
        assert!(wrong_type.starts_with("expected a string"), "{wrong_type}");
        let wrong_object = detail(r#""hunter2, expected nothing""#);
        assert!(wrong_object.starts_with("expected struct"), "{wrong_object}");
        for text in [wrong_type, wrong_object, detail(r#"{"device_id": "UPPER CASE"}"#)] {
            assert!(
                !["4711", "hunter2", "UPPER"]
                    .iter()
                    .any(|input| text.contains(input)),
                "{text}"
            );
        }
        assert!(detail("{}").contains("missing field `device_id`"));
    }

    #[test]
    fn a_media_type_is_compared_without_case_and_parameters() {
        assert_eq!(essence(" Application/JSON; charset=utf-8"), "application/json");
        assert_eq!(essence("message/mls"), MESSAGE_MLS);
        assert_ne!(essence("application/jsonp"), "application/json");
    }
}
