//! The inbox, by request and long poll.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use larder_wire::{AckRequest, INBOX_PAGE_ROWS_MAX, INBOX_WAIT_SECONDS_MAX, Inbox, Problem, ProblemType};
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};
use utoipa::IntoParams;

use super::App;
use super::extract::{Json, Query};
use super::problem::{BodyProblems, Failure, WaitProblems};
use crate::Caller;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct InboxQuery {
    /// Rows after this one; without it, all that are not acknowledged.
    after: Option<u64>,
    /// At most so many rows; 256 unless told, never more, and fewer when they are large.
    #[param(minimum = 1, maximum = 256)]
    limit: Option<u32>,
    /// When there is no row, wait this many seconds for one; 30 at most, 0 unless told.
    #[param(maximum = 30)]
    wait: Option<u64>,
}

/// The rows that the device has not acknowledged, in order.
#[utoipa::path(
    get, path = "/v1/inbox", operation_id = "inbox", tag = "inbox",
    params(InboxQuery),
    responses((status = 200, description = "Without rows when none came in time", body = Inbox), WaitProblems),
    security(("session" = [])),
)]
pub(super) async fn read(
    caller: Caller,
    State(app): State<App>,
    Query(query): Query<InboxQuery>,
) -> Result<Json<Inbox>, Failure> {
    let limit = query
        .limit
        .unwrap_or(INBOX_PAGE_ROWS_MAX)
        .min(INBOX_PAGE_ROWS_MAX);
    if limit == 0 {
        return Err(Problem::new(ProblemType::Malformed)
            .with_detail("a limit is at least 1")
            .into());
    }
    let wait_seconds = query.wait.unwrap_or(0).min(INBOX_WAIT_SECONDS_MAX);
    let deadline = Instant::now() + Duration::from_secs(wait_seconds);
    if wait_seconds == 0 {
        return Ok(Json(app.service.inbox(&caller, query.after, limit).await?));
    }
    // Subscribed before the first read: a row that arrives in between is seen either way.
    let mut arrivals = app.service.subscribe(&caller)?;
    loop {
        arrivals.borrow_and_update();
        let inbox = app.service.inbox(&caller, query.after, limit).await?;
        if !inbox.rows.is_empty() {
            return Ok(Json(inbox));
        }
        let woken = tokio::select! {
            arrived = timeout_at(deadline, arrivals.changed()) => matches!(arrived, Ok(Ok(()))),
            () = app.closing.wait() => false,
        };
        if !woken {
            return Ok(Json(inbox));
        }
    }
}

/// Acknowledges all rows up to one. The server forgets them.
#[utoipa::path(
    post, path = "/v1/inbox/ack", tag = "inbox",
    request_body = AckRequest,
    responses((status = 204, description = "Acknowledged"), BodyProblems),
    security(("session" = [])),
)]
pub(super) async fn acknowledge(
    caller: Caller,
    State(app): State<App>,
    Json(request): Json<AckRequest>,
) -> Result<StatusCode, Failure> {
    app.service.acknowledge(&caller, request.up_to).await?;
    Ok(StatusCode::NO_CONTENT)
}
