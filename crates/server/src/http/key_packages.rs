//! The KeyPackage directory.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use larder_wire::{
    AUDIT_PAGE_ROWS_MAX, AuditPage, DeviceReservation, Inventory, KeyPackageRef, PoolStatus, Problem,
    ProblemType, ReserveRequest, Reserved, Revocation, RevokeRequest, Revoked, SpendRequest, UploadRequest,
    Uploaded,
};
use serde::Deserialize;
use utoipa::IntoParams;

use super::App;
use super::extract::{IdempotencyKey, Json, Path, Query};
use super::problem::{
    BodyProblems, ChangeProblems, Failure, FindAndChangeProblems, ReadProblems, ReserveProblems,
    SpendProblems,
};
use crate::Caller;

/// Adds KeyPackages to the caller's pool. Each gets its own verdict. One that is marked as a last resort replaces the
/// last resort of its ciphersuite.
#[utoipa::path(
    post, path = "/v1/key-packages", tag = "key packages",
    request_body = UploadRequest,
    responses((status = 200, description = "One verdict each", body = Uploaded), BodyProblems),
    security(("session" = [])),
)]
pub(super) async fn upload(
    caller: Caller,
    State(app): State<App>,
    Json(request): Json<UploadRequest>,
) -> Result<Json<Uploaded>, Failure> {
    Ok(Json(app.service.upload(&caller, request).await?))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct InventoryQuery {
    /// The digest of the inventory that the caller has; answers 304 while nothing changed.
    digest: Option<String>,
}

/// The caller's KeyPackages, tombstones included.
#[utoipa::path(
    get, path = "/v1/key-packages", tag = "key packages",
    params(InventoryQuery),
    responses(
        (status = 200, description = "Oldest first", body = Inventory),
        (status = 304, description = "The inventory still has the digest of the query"),
        ReadProblems,
    ),
    security(("session" = [])),
)]
pub(super) async fn inventory(
    caller: Caller,
    State(app): State<App>,
    Query(query): Query<InventoryQuery>,
) -> Result<Response, Failure> {
    Ok(match app.service.inventory(&caller, query.digest).await? {
        Some(inventory) => Json(inventory).into_response(),
        None => StatusCode::NOT_MODIFIED.into_response(),
    })
}

/// The health of the caller's pool.
#[utoipa::path(
    get, path = "/v1/key-packages/status", tag = "key packages",
    responses((status = 200, description = "Per ciphersuite", body = PoolStatus), ReadProblems),
    security(("session" = [])),
)]
pub(super) async fn status(caller: Caller, State(app): State<App>) -> Result<Json<PoolStatus>, Failure> {
    Ok(Json(app.service.pool_status(&caller).await?))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct AuditQuery {
    /// Rows after this one; from the first, unless told.
    after: Option<u64>,
    /// At most so many rows; 256 unless told, and never more.
    #[param(minimum = 1, maximum = 256)]
    limit: Option<u32>,
}

/// What happened to the caller's KeyPackages, who did it and for which group: a chain of hashes, which the caller can verify.
#[utoipa::path(
    get, path = "/v1/key-packages/audit", tag = "key packages",
    params(AuditQuery),
    responses((status = 200, description = "In order; without rows at the end of the chain", body = AuditPage), ReadProblems),
    security(("session" = [])),
)]
pub(super) async fn audit(
    caller: Caller,
    State(app): State<App>,
    Query(query): Query<AuditQuery>,
) -> Result<Json<AuditPage>, Failure> {
    let limit = query.limit.unwrap_or(AUDIT_PAGE_ROWS_MAX);
    if limit == 0 {
        return Err(Problem::new(ProblemType::Malformed)
            .with_detail("a limit is at least 1")
            .into());
    }
    let after = query.after.unwrap_or(0);
    Ok(Json(app.service.audit(&caller, after, limit).await?))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ProbeQuery {
    /// The ciphersuite that an adder would ask for (RFC 9420 §17.1).
    suite: u16,
}

/// What an adder who asks for the caller's device would get now, for the owner to check. Nothing is reserved.
#[utoipa::path(
    get, path = "/v1/key-packages/probe", tag = "key packages",
    params(ProbeQuery),
    responses((status = 200, description = "As in the answer to a reserve request", body = DeviceReservation), ReadProblems),
    security(("session" = [])),
)]
pub(super) async fn probe(
    caller: Caller,
    State(app): State<App>,
    Query(query): Query<ProbeQuery>,
) -> Result<Json<DeviceReservation>, Failure> {
    Ok(Json(app.service.probe(&caller, vec![query.suite]).await?))
}

/// Withdraws one KeyPackage of the caller. One that is terminal, unknown or another's stays as it is.
#[utoipa::path(
    delete, path = "/v1/key-packages/{ref}", tag = "key packages",
    params(("ref" = KeyPackageRef, Path, description = "The KeyPackage")),
    responses((status = 200, description = "What is revoked now", body = Revoked), ChangeProblems),
    security(("session" = [])),
)]
pub(super) async fn revoke_one(
    caller: Caller,
    State(app): State<App>,
    Path(key_package_ref): Path<KeyPackageRef>,
) -> Result<Json<Revoked>, Failure> {
    let request = Revocation::Some(RevokeRequest {
        refs: vec![key_package_ref],
    });
    Ok(Json(app.service.revoke(&caller, request).await?))
}

/// Withdraws KeyPackages of the caller: those that are named, or all of a signature key.
#[utoipa::path(
    post, path = "/v1/key-packages/revoke", tag = "key packages",
    request_body = Revocation,
    responses((status = 200, description = "What is revoked now", body = Revoked), BodyProblems),
    security(("session" = [])),
)]
pub(super) async fn revoke(
    caller: Caller,
    State(app): State<App>,
    Json(request): Json<Revocation>,
) -> Result<Json<Revoked>, Failure> {
    Ok(Json(app.service.revoke(&caller, request).await?))
}

/// Reserves one KeyPackage of every device of some users, to add them to a group. A device that has nothing else left is
/// reserved by its last resort, if it has one.
#[utoipa::path(
    post, path = "/v1/key-packages/reserve", tag = "key packages",
    params((
        "Idempotency-Key" = String, Header, min_length = 1, max_length = 64,
        description = "Chosen by the caller; the same request with the same key gets the same answer",
    )),
    request_body = ReserveRequest,
    responses((status = 200, description = "One outcome per device; nothing left to hand out is one of them", body = Reserved), ReserveProblems),
    security(("session" = [])),
)]
pub(super) async fn reserve(
    caller: Caller,
    State(app): State<App>,
    IdempotencyKey(key): IdempotencyKey,
    Json(request): Json<ReserveRequest>,
) -> Result<Json<Reserved>, Failure> {
    Ok(Json(app.service.reserve(&caller, key, request).await?))
}

/// Gives a reservation up. Its KeyPackages lapse; they are never handed out again. Last resorts stay as they are.
#[utoipa::path(
    post, path = "/v1/reservations/{id}/abandon", tag = "key packages",
    params(("id" = String, Path, description = "The reservation")),
    responses((status = 204, description = "Given up"), FindAndChangeProblems),
    security(("session" = [])),
)]
pub(super) async fn abandon(
    caller: Caller,
    State(app): State<App>,
    Path(reservation_id): Path<String>,
) -> Result<StatusCode, Failure> {
    app.service.abandon(&caller, reservation_id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Spends KeyPackages of a reservation that a Commit added which travelled through another delivery service. Only where the
/// deployment is set up for that; a Commit that comes to this server spends by itself.
#[utoipa::path(
    post, path = "/v1/reservations/{id}/spend", tag = "key packages",
    params(("id" = String, Path, description = "The reservation")),
    request_body = SpendRequest,
    responses((status = 204, description = "Spent, by this request or an earlier one"), SpendProblems),
    security(("session" = [])),
)]
pub(super) async fn spend(
    caller: Caller,
    State(app): State<App>,
    Path(reservation_id): Path<String>,
    Json(request): Json<SpendRequest>,
) -> Result<StatusCode, Failure> {
    app.service.spend(&caller, reservation_id, request).await?;
    Ok(StatusCode::NO_CONTENT)
}
