//! Groups: Commits, proposals, messages, and what joining needs.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use larder_wire::{
    Accepted, Base64Url, CommitRequest, CreateGroupRequest, EpochAnswer, GroupCreated, GroupId,
    GroupInfoAnswer, Handshakes, LeaveRequest, Memberships, MessagesRequest, MessagesSent, ProposalRequest,
    RatchetTreeAnswer, Sent,
};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::App;
use super::extract::{AcceptsMls, IdempotencyKey, Json, MESSAGE_MLS, MlsBody, Path, Query, Unread};
use super::openapi::MlsObject;
use super::parts::{bytes_of, json_of};
use super::problem::{
    CommitProblems, CreateGroupProblems, Failure, FindProblems, LeaveProblems, ReadProblems,
    SendMessagesProblems, SendProblems,
};
use crate::Caller;

/// Creates a group at its first epoch.
#[utoipa::path(
    post, path = "/v1/groups", operation_id = "create_group", tag = "groups",
    params((
        "Idempotency-Key" = String, Header, min_length = 1, max_length = 64,
        description = "Chosen by the caller; the same request with the same key gets the same answer",
    )),
    request_body = CreateGroupRequest,
    responses((status = 201, description = "Created", body = GroupCreated), CreateGroupProblems),
    security(("session" = [])),
)]
pub(super) async fn create(
    caller: Caller,
    State(app): State<App>,
    IdempotencyKey(key): IdempotencyKey,
    Json(request): Json<CreateGroupRequest>,
) -> Result<(StatusCode, Json<GroupCreated>), Failure> {
    let created = app.service.create_group(&caller, key, request).await?;
    Ok((StatusCode::CREATED, Json(created)))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct MembershipsQuery {
    /// Of the calling device, or of all devices of its user; of the device unless told.
    #[serde(default)]
    of: MembershipsOf,
}

/// Whose groups are wanted.
#[derive(Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum MembershipsOf {
    #[default]
    Device,
    User,
}

/// The groups that the caller is a member of; with `of=user` those that any device of its user is, which the caller may
/// join by an external Commit.
#[utoipa::path(
    get, path = "/v1/groups", operation_id = "memberships", tag = "groups",
    params(MembershipsQuery),
    responses((status = 200, description = "By id", body = Memberships), ReadProblems),
    security(("session" = [])),
)]
pub(super) async fn memberships(
    caller: Caller,
    State(app): State<App>,
    Query(query): Query<MembershipsQuery>,
) -> Result<Json<Memberships>, Failure> {
    let of_user = match query.of {
        MembershipsOf::Device => false,
        MembershipsOf::User => true,
    };
    Ok(Json(app.service.memberships(&caller, of_user).await?))
}

/// Commits. The KeyPackages that it adds are spent by this, and by nothing else.
#[utoipa::path(
    post, path = "/v1/groups/{gid}/commits", tag = "groups",
    params(("gid" = GroupId, Path, description = "The group")),
    request_body = CommitRequest,
    responses((status = 200, description = "Accepted", body = Accepted), CommitProblems),
    security(("session" = [])),
)]
pub(super) async fn commit(
    caller: Caller,
    State(app): State<App>,
    Path(group): Path<GroupId>,
    body: Unread<CommitRequest>,
) -> Result<Json<Accepted>, Failure> {
    let request = body.read(&app, &caller).await?;
    Ok(Json(app.service.commit(&caller, group, request).await?))
}

/// Sends a standalone proposal.
#[utoipa::path(
    post, path = "/v1/groups/{gid}/proposals", tag = "groups",
    params(("gid" = GroupId, Path, description = "The group")),
    request_body(content((ProposalRequest = "application/json"), (MlsObject = "message/mls"))),
    responses((status = 200, description = "Stored for every other member", body = Sent), SendProblems),
    security(("session" = [])),
)]
pub(super) async fn propose(
    caller: Caller,
    State(app): State<App>,
    Path(group): Path<GroupId>,
    body: MlsBody<ProposalRequest>,
) -> Result<Json<Sent>, Failure> {
    let proposal = match body {
        MlsBody::Json(request) => request.read(&app, &caller).await?.proposal.0,
        MlsBody::Bare(proposal) => proposal,
    };
    Ok(Json(app.service.propose(&caller, group, proposal).await?))
}

/// Sends application messages of the current or the previous epoch.
#[utoipa::path(
    post, path = "/v1/groups/{gid}/messages", tag = "groups",
    params(("gid" = GroupId, Path, description = "The group")),
    request_body(content((MessagesRequest = "application/json"), (MlsObject = "message/mls"))),
    responses(
        (status = 200, description = "One verdict each; what is accepted is stored for every other member", body = MessagesSent),
        SendMessagesProblems,
    ),
    security(("session" = [])),
)]
pub(super) async fn send_messages(
    caller: Caller,
    State(app): State<App>,
    Path(group): Path<GroupId>,
    body: MlsBody<MessagesRequest>,
) -> Result<Json<MessagesSent>, Failure> {
    let messages = match body {
        MlsBody::Json(request) => request.read(&app, &caller).await?.messages,
        MlsBody::Bare(message) => vec![Base64Url(message)],
    };
    Ok(Json(app.service.send_messages(&caller, group, messages).await?))
}

/// What an external Commit needs, for a device of a member user.
#[utoipa::path(
    get, path = "/v1/groups/{gid}/info", operation_id = "group_info", tag = "groups",
    params(("gid" = GroupId, Path, description = "The group")),
    responses((status = 200, description = "Of the present epoch", body = GroupInfoAnswer), FindProblems),
    security(("session" = [])),
)]
pub(super) async fn info(
    caller: Caller,
    State(app): State<App>,
    Path(group): Path<GroupId>,
) -> Result<Response, Failure> {
    let info = app.service.group_info(&caller, group).await?;
    let bytes = info.ratchet_tree.0.len() + info.group_info.0.len();
    json_of(&app, &caller, info, bytes)
}

/// Leaves a group, by one's own word. Nothing more of the group is delivered from here on, and the other members get the word.
#[utoipa::path(
    delete, path = "/v1/groups/{gid}/membership", tag = "groups",
    params(("gid" = GroupId, Path, description = "The group")),
    request_body = LeaveRequest,
    responses((status = 204, description = "Left"), LeaveProblems),
    security(("session" = [])),
)]
pub(super) async fn leave(
    caller: Caller,
    State(app): State<App>,
    Path(group): Path<GroupId>,
    Json(request): Json<LeaveRequest>,
) -> Result<StatusCode, Failure> {
    app.service.leave(&caller, group, request).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct HandshakesQuery {
    /// The epoch that the first of them was made in.
    from_epoch: u64,
}

/// The Commits and standalone proposals that led the group on from an epoch, for a device of a member user: for a year, and
/// 64 MiB of them.
#[utoipa::path(
    get, path = "/v1/groups/{gid}/commits", operation_id = "handshakes", tag = "groups",
    params(("gid" = GroupId, Path, description = "The group"), HandshakesQuery),
    responses((status = 200, description = "In the order of the group's sequence", body = Handshakes), FindProblems),
    security(("session" = [])),
)]
pub(super) async fn handshakes(
    caller: Caller,
    State(app): State<App>,
    Path(group): Path<GroupId>,
    Query(query): Query<HandshakesQuery>,
) -> Result<Response, Failure> {
    let found = app.service.handshakes(&caller, group, query.from_epoch).await?;
    let messages = found.handshakes.iter().filter_map(|row| row.message.as_ref());
    let bytes = messages.map(|message| message.0.len()).sum();
    json_of(&app, &caller, found, bytes)
}

/// What an epoch of the group is known by, for a device of a member user.
#[utoipa::path(
    get, path = "/v1/groups/{gid}/epochs/{epoch}", operation_id = "epoch", tag = "groups",
    params(
        ("gid" = GroupId, Path, description = "The group"),
        ("epoch" = u64, Path, description = "The epoch"),
    ),
    responses((status = 200, description = "The epoch", body = EpochAnswer), FindProblems),
    security(("session" = [])),
)]
pub(super) async fn epoch(
    caller: Caller,
    State(app): State<App>,
    Path((group, epoch)): Path<(GroupId, u64)>,
) -> Result<Json<EpochAnswer>, Failure> {
    Ok(Json(app.service.epoch(&caller, group, epoch).await?))
}

/// The ratchet tree to join with, for a device with an unacknowledged Welcome of that epoch, or a voucher for it.
#[utoipa::path(
    get, path = "/v1/groups/{gid}/trees/{epoch}", tag = "groups",
    params(
        ("gid" = GroupId, Path, description = "The group"),
        ("epoch" = u64, Path, description = "The epoch of the Welcome or the voucher"),
    ),
    responses(
        (status = 200, description = "The tree", content(
            (RatchetTreeAnswer = "application/json"),
            (MlsObject = "message/mls"),
        )),
        FindProblems,
    ),
    security(("session" = [])),
)]
pub(super) async fn ratchet_tree(
    caller: Caller,
    State(app): State<App>,
    Path((group, epoch)): Path<(GroupId, u64)>,
    AcceptsMls(bare): AcceptsMls,
) -> Result<Response, Failure> {
    let tree = app.service.ratchet_tree(&caller, group, epoch).await?;
    if bare {
        return bytes_of(&app, &caller, MESSAGE_MLS, tree);
    }
    let bytes = tree.len();
    let answer = RatchetTreeAnswer {
        ratchet_tree: Base64Url(tree),
    };
    json_of(&app, &caller, answer, bytes)
}
