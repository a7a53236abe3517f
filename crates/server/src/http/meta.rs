//! About the server itself: for anyone, without a session.

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use larder_wire::ServerInfo;

use super::App;
use super::extract::Json;
use super::problem::{AskProblems, Failure, Unready};

/// What a client needs to know before it registers.
#[utoipa::path(
    get, path = "/.well-known/larder", operation_id = "server_info", tag = "server",
    responses((status = 200, description = "What there is to know", body = ServerInfo), AskProblems),
)]
pub(super) async fn server_info(State(app): State<App>) -> Json<ServerInfo> {
    Json(app.service.info())
}

/// This document.
#[utoipa::path(
    get, path = "/openapi.json", operation_id = "openapi", tag = "server",
    responses((status = 200, description = "The OpenAPI 3.1 document of this API", body = Object), AskProblems),
)]
pub(super) async fn openapi_document() -> impl IntoResponse {
    (
        [(header::CONTENT_TYPE, "application/json")],
        super::openapi::document(),
    )
}

/// The process runs.
#[utoipa::path(
    get, path = "/healthz", operation_id = "healthz", tag = "server",
    responses((status = 200, description = "It does", body = String, content_type = "text/plain")),
)]
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// The server can answer requests: its store was touched.
///
/// A second line says why its clock is not believed while it is not, so that nothing is deleted or expires by age. Requests
/// are answered all the same.
#[utoipa::path(
    get, path = "/readyz", operation_id = "readyz", tag = "server",
    responses((status = 200, description = "It can", body = String, content_type = "text/plain"), Unready),
)]
pub(super) async fn readyz(State(app): State<App>) -> Result<String, Failure> {
    app.service.ready().await?;
    Ok(match app.service.clock_suspension() {
        None => "ok\n".to_owned(),
        Some(suspension) => format!(
            "ok\nclock: suspended, {}: {}\n",
            suspension.error,
            suspension.doubt.reason()
        ),
    })
}
