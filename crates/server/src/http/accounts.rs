//! Accounts, sessions, devices.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use larder_wire::{
    AccountRequest, Challenge, ChallengeRequest, DeviceId, Introduction, LinkRequest, Registered,
    RemovalRequest, Session, SessionRequest, UserDevices, UserName,
};

use super::App;
use super::admission::Client;
use super::extract::{Json, Path, Unread};
use super::parts::json_of;
use super::problem::{
    BlockProblems, ChallengeProblems, ChangeProblems, Failure, FindAndChangeProblems, FindProblems,
    LinkProblems, ReadProblems, RegisterProblems, RemovalProblems, SessionProblems,
};
use crate::Caller;

/// Registers a user with a first device. Where registration is `invited`, an invitation code is used up; a refusal leaves
/// it as it is.
#[utoipa::path(
    post, path = "/v1/accounts", tag = "accounts",
    request_body = AccountRequest,
    responses((status = 201, description = "Registered", body = Registered), RegisterProblems),
)]
pub(super) async fn register(
    client: Client,
    State(app): State<App>,
    Json(request): Json<AccountRequest>,
) -> Result<(StatusCode, Json<Registered>), Failure> {
    client.register()?;
    let registered = app.service.register(request).await?;
    Ok((StatusCode::CREATED, Json(registered)))
}

/// Asks for something to sign. An unknown device gets it too.
#[utoipa::path(
    post, path = "/v1/sessions/challenge", tag = "accounts",
    request_body = ChallengeRequest,
    responses((status = 200, description = "To be signed before it expires", body = Challenge), ChallengeProblems),
)]
pub(super) async fn challenge(
    State(app): State<App>,
    Json(request): Json<ChallengeRequest>,
) -> Result<Json<Challenge>, Failure> {
    Ok(Json(app.service.challenge(&request)?))
}

/// Opens a session with a signed challenge. A device that was removed is told so, if it has signed.
#[utoipa::path(
    post, path = "/v1/sessions", tag = "accounts",
    request_body = SessionRequest,
    responses((status = 200, description = "The session is open", body = Session), SessionProblems),
)]
pub(super) async fn open_session(
    State(app): State<App>,
    Json(request): Json<SessionRequest>,
) -> Result<Json<Session>, Failure> {
    Ok(Json(app.service.open_session(request).await?))
}

/// Ends the session that the request names. Its token is good for nothing any more.
#[utoipa::path(
    delete, path = "/v1/sessions", tag = "accounts",
    responses((status = 204, description = "Ended"), ReadProblems),
    security(("session" = [])),
)]
pub(super) async fn end_session(caller: Caller, State(app): State<App>) -> Result<StatusCode, Failure> {
    app.service.end_session(&caller).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Links a further device to the caller's user: one of the user's devices has signed for it. Every device of users who
/// share a group with the user, and the user's own, get a `device-change`. The introduction is kept for the new device for 30
/// days; of its vouchers those for the present epochs of groups that the authorizing device is in.
#[utoipa::path(
    post, path = "/v1/devices", tag = "accounts",
    request_body = LinkRequest,
    responses((status = 201, description = "Linked", body = Registered), LinkProblems),
    security(("session" = [])),
)]
pub(super) async fn link_device(
    caller: Caller,
    State(app): State<App>,
    body: Unread<LinkRequest>,
) -> Result<(StatusCode, Json<Registered>), Failure> {
    let request = body.read(&app, &caller).await?;
    let linked = app.service.link_device(&caller, request).await?;
    Ok((StatusCode::CREATED, Json(linked)))
}

/// What the device that let the caller in has to say to it, until the caller has [forgotten](forget_introduction) it.
#[utoipa::path(
    get, path = "/v1/introduction", tag = "accounts",
    responses((status = 200, description = "The vouchers by group", body = Introduction), FindProblems),
    security(("session" = [])),
)]
pub(super) async fn introduction(caller: Caller, State(app): State<App>) -> Result<Response, Failure> {
    let introduction = app.service.introduction(&caller).await?;
    let infos = introduction.vouchers.iter().map(|voucher| &voucher.group_info);
    let bytes = infos.map(|info| info.0.len()).sum();
    json_of(&app, &caller, introduction, bytes)
}

/// Forgets what the device that let the caller in had to say to it.
#[utoipa::path(
    delete, path = "/v1/introduction", tag = "accounts",
    responses((status = 204, description = "Forgotten, now or earlier"), ChangeProblems),
    security(("session" = [])),
)]
pub(super) async fn forget_introduction(
    caller: Caller,
    State(app): State<App>,
) -> Result<StatusCode, Failure> {
    app.service.forget_introduction(&caller).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Removes a device of the caller's user, the calling one included, by its signature; the last one ends the account. Its
/// KeyPackages are withdrawn, its sessions end, its inbox is dropped, and its messages and Commits are refused from here on. The
/// members of its groups get a `device-change`, find the signature in the list of devices, and remove its leaves.
#[utoipa::path(
    delete, path = "/v1/devices/{device}", tag = "accounts",
    params(("device" = DeviceId, Path, description = "The device")),
    request_body = RemovalRequest,
    responses((status = 204, description = "Removed, now or earlier"), RemovalProblems),
    security(("session" = [])),
)]
pub(super) async fn remove_device(
    caller: Caller,
    State(app): State<App>,
    Path(device_id): Path<DeviceId>,
    Json(request): Json<RemovalRequest>,
) -> Result<StatusCode, Failure> {
    app.service.remove_device(&caller, device_id, request).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Ends the caller's account: removes all of its devices. Its name stays taken. No device signs it, so members are told and
/// take nobody out of a group.
#[utoipa::path(
    delete, path = "/v1/accounts/{user}", tag = "accounts",
    params(("user" = UserName, Path, description = "The caller's own name")),
    responses((status = 204, description = "Ended"), FindAndChangeProblems),
    security(("session" = [])),
)]
pub(super) async fn remove_account(
    caller: Caller,
    State(app): State<App>,
    Path(user): Path<UserName>,
) -> Result<StatusCode, Failure> {
    app.service.remove_account(&caller, user).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The devices of a user, those removed included, with their keys and with who authorized each: what a client pins, and
/// verifies from the first device on.
#[utoipa::path(
    get, path = "/v1/users/{user}/devices", tag = "accounts",
    params(("user" = UserName, Path, description = "The user")),
    responses((status = 200, description = "Oldest first", body = UserDevices), FindProblems),
    security(("session" = [])),
)]
pub(super) async fn user_devices(
    caller: Caller,
    State(app): State<App>,
    Path(user): Path<UserName>,
) -> Result<Json<UserDevices>, Failure> {
    Ok(Json(app.service.user_devices(&caller, user).await?))
}

/// Hides the caller's user and its devices from another user, to whom they are from now on as those of a user who does
/// not exist. Whether that user exists is not told.
#[utoipa::path(
    put, path = "/v1/blocks/{user}", tag = "accounts",
    params(("user" = UserName, Path, description = "Who is not to find the caller")),
    responses((status = 204, description = "Blocked now"), BlockProblems),
    security(("session" = [])),
)]
pub(super) async fn block(
    caller: Caller,
    State(app): State<App>,
    Path(user): Path<UserName>,
) -> Result<StatusCode, Failure> {
    app.service.block(&caller, user).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Undoes a block, if there is one.
#[utoipa::path(
    delete, path = "/v1/blocks/{user}", tag = "accounts",
    params(("user" = UserName, Path, description = "Who may find the caller again")),
    responses((status = 204, description = "Not blocked now"), ChangeProblems),
    security(("session" = [])),
)]
pub(super) async fn unblock(
    caller: Caller,
    State(app): State<App>,
    Path(user): Path<UserName>,
) -> Result<StatusCode, Failure> {
    app.service.unblock(&caller, user).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Takes over the mark of `Larder-State`, whatever the last one was: for a device that was restored from an old copy, and
/// has stopped using what that copy may have used before.
#[utoipa::path(
    put, path = "/v1/state", tag = "accounts",
    params((
        "Larder-State" = String, Header,
        description = "The mark of this request; what is known of earlier ones does not matter",
    )),
    responses((status = 204, description = "Taken over"), ReadProblems),
    security(("session" = [])),
)]
pub(super) async fn take_over_state(caller: Caller, State(app): State<App>) -> Result<StatusCode, Failure> {
    app.service.take_over_state(&caller).await?;
    Ok(StatusCode::NO_CONTENT)
}
