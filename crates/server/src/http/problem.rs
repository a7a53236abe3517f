//! Refusals and faults as `application/problem+json` (RFC 9457). This is the one place where they become responses.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use larder_wire::{Problem, ProblemType};
use utoipa::openapi::{ContentBuilder, Ref, RefOr, ResponseBuilder};

use crate::{Fault, ServiceError};

/// The media type of a problem.
const PROBLEM_JSON: &str = "application/problem+json";

/// Whoever comes while too many others are served asks again after this time.
const BUSY_RETRY_SECONDS: NonZeroU32 = NonZeroU32::MIN;

/// What a handler answers instead of its result.
pub(super) struct Failure(Box<Problem>);

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self(Box::new(problem))
    }
}

impl From<ProblemType> for Failure {
    fn from(problem_type: ProblemType) -> Self {
        Problem::new(problem_type).into()
    }
}

impl From<ServiceError> for Failure {
    fn from(error: ServiceError) -> Self {
        Self(match error {
            ServiceError::Refused(problem) => problem,
            // Nothing is broken, and a line for each would be one burden more.
            ServiceError::Fault(Fault::Busy) => Box::new(Problem {
                retry_after_seconds: Some(BUSY_RETRY_SECONDS),
                ..Problem::new(ProblemType::Unavailable)
            }),
            // What broke is for the operator's log alone.
            ServiceError::Fault(fault) => {
                tracing::error!(error = &fault as &dyn std::error::Error, "a request failed");
                Box::new(Problem::new(ProblemType::Unavailable))
            }
        })
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        respond(*self.0)
    }
}

/// A problem as a response.
pub(super) fn respond(problem: Problem) -> Response {
    let retry_after_seconds = problem.retry_after_seconds.map(NonZeroU32::get);
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    let mut response = (status, axum::Json(&problem)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
    if let Some(seconds) = retry_after_seconds {
        headers.insert(header::RETRY_AFTER, seconds.into());
    }
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// Documents the problems of an endpoint, grouped by status. Where a session is needed, who comes without a good one too often
/// is `rate-limited`.
fn documented(problems: &[ProblemType]) -> BTreeMap<String, RefOr<utoipa::openapi::Response>> {
    let often = problems
        .contains(&ProblemType::Unauthenticated)
        .then_some(ProblemType::RateLimited);
    let mut by_status: BTreeMap<u16, Vec<&str>> = BTreeMap::new();
    for problem in problems.iter().copied().chain(often) {
        let codes = by_status.entry(problem.status()).or_default();
        if !codes.contains(&problem.code()) {
            codes.push(problem.code());
        }
    }
    by_status
        .into_iter()
        .map(|(status, codes)| {
            let schema = ContentBuilder::new()
                .schema(Some(Ref::from_schema_name("Problem")))
                .build();
            let response = ResponseBuilder::new()
                .description(codes.join(" | "))
                .content(PROBLEM_JSON, schema)
                .build();
            (status.to_string(), RefOr::T(response))
        })
        .collect()
}

/// Names a set of problems for `responses(…)` of an endpoint.
macro_rules! problem_sets {
    ($($(#[$doc:meta])* $name:ident: $($problem:ident)|*;)*) => {$(
        $(#[$doc])*
        pub(super) struct $name;

        impl utoipa::IntoResponses for $name {
            fn responses() -> BTreeMap<String, RefOr<utoipa::openapi::Response>> {
                documented(&[$(ProblemType::$problem),*])
            }
        }
    )*};
}

problem_sets! {
    /// Of a request without a body and a session.
    AskProblems: RateLimited;
    /// The same, where the store is touched.
    Unready: RateLimited | Unavailable;
    /// Of a registration.
    RegisterProblems: Malformed | Unauthenticated | InvitationRequired | RegistrationClosed | NameTaken | TooLarge
        | UnsupportedMediaType | Unavailable;
    /// Of the link of a device.
    LinkProblems: Malformed | Unauthenticated | Forbidden | NameTaken | TooManyDevices | StateBehind | TooLarge
        | UnsupportedMediaType | Unavailable;
    /// Of the removal of a device.
    RemovalProblems: Malformed | Unauthenticated | Forbidden | NotFound | StateBehind | TooLarge | UnsupportedMediaType
        | Unavailable;
    /// Of a request for a challenge.
    ChallengeProblems: Malformed | TooLarge | UnsupportedMediaType | RateLimited | Unavailable;
    /// Of a request for a session.
    SessionProblems: Malformed | Unauthenticated | DeviceRemoved | TooLarge | UnsupportedMediaType | Unavailable;
    /// Of reading something of one's own.
    ReadProblems: Malformed | Unauthenticated | Unavailable;
    /// Of waiting for something of one's own.
    WaitProblems: Malformed | Unauthenticated | RateLimited | Unavailable;
    /// Of acknowledging something and waiting for more.
    NextProblems: Malformed | Unauthenticated | StateBehind | PositionAhead | OtherIncarnation | TooLarge | UnsupportedMediaType
        | RateLimited | Unavailable;
    /// Of reading something that may not be there.
    FindProblems: Malformed | Unauthenticated | NotFound | Unavailable;
    /// Of changing something of one's own.
    ChangeProblems: Malformed | Unauthenticated | StateBehind | Unavailable;
    /// Of blocking a user.
    BlockProblems: Malformed | Unauthenticated | StateBehind | TooLarge | Unavailable;
    /// Of changing something that may not be there.
    FindAndChangeProblems: Malformed | Unauthenticated | NotFound | StateBehind | Unavailable;
    /// Of changing something of one's own by a request with a body.
    BodyProblems: Malformed | Unauthenticated | StateBehind | TooLarge | UnsupportedMediaType | Unavailable;
    /// Of a reserve request.
    ReserveProblems: Malformed | Unauthenticated | NotFound | StateBehind | TooLarge | UnsupportedMediaType
        | ReservationLapsed | IdempotencyMismatch | RateLimited | Unavailable;
    /// Of spending what a Commit added elsewhere.
    SpendProblems: Malformed | Unauthenticated | Forbidden | AlreadySpent | StateBehind | ReservationLapsed | TooLarge
        | UnsupportedMediaType | Unavailable;
    /// Of the creation of a group.
    CreateGroupProblems: Malformed | Unauthenticated | GroupExists | StateBehind | TooLarge | UnsupportedMediaType
        | InvalidCommit | IdempotencyMismatch | Unavailable;
    /// Of leaving a group.
    LeaveProblems: Malformed | Unauthenticated | Forbidden | NotFound | StateBehind | TooLarge | UnsupportedMediaType
        | Unavailable;
    /// Of a Commit.
    CommitProblems: Malformed | Forbidden | Unauthenticated | NotFound | WrongEpoch | AlreadySpent | StateBehind
        | ReservationLapsed | TooLarge | UnsupportedMediaType | InvalidCommit | Unavailable;
    /// Of a blob to store.
    StoreBlobProblems: Malformed | Unauthenticated | Forbidden | StateBehind | TooLarge | UnsupportedMediaType
        | IdempotencyMismatch | RateLimited | Unavailable;
    /// Of a blob to fetch.
    FetchBlobProblems: Malformed | Unauthenticated | NotFound | RateLimited | Unavailable;
    /// Of messages.
    SendMessagesProblems: Malformed | Unauthenticated | NotFound | StateBehind | TooLarge | UnsupportedMediaType
        | RateLimited | Unavailable;
    /// Of a proposal.
    SendProblems: Malformed | Unauthenticated | Forbidden | NotFound | WrongEpoch | StateBehind | TooLarge
        | UnsupportedMediaType | InvalidCommit | Unavailable;
}
