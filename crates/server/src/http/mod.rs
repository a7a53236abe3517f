//! The HTTP API on top of [`Service`]: routing, parsing, problems, the OpenAPI document, and nothing of what it serves.
//!
//! Every route is registered together with its documentation (`utoipa_axum`), so a route cannot exist undocumented.
//! What a request carries is parsed by the extractors of this module alone, so that every refusal is the same
//! `application/problem+json`.

mod accounts;
mod address;
mod admission;
mod blobs;
mod bodies;
mod connection;
mod extract;
mod groups;
mod inbox;
mod key_packages;
mod meta;
mod openapi;
mod parts;
mod problem;
mod serve;

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderValue, Method, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use larder_wire::{INBOX_WAIT_SECONDS_MAX, Problem, ProblemType};
use tokio::sync::watch;
use tokio::time::Instant;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub use address::{MalformedTrustedProxy, TrustedProxy};
pub use openapi::openapi;
pub use serve::serve;

use self::admission::Admission;
use crate::Service;

/// A request other than a stream of events or the transfer of a blob is answered within this time, its body included, or given
/// up; one that waits for rows, within this time and that of its wait.
const REQUEST_SECONDS_MAX: u64 = 30;

/// The beginning of the year 9999, in Unix seconds: an HTTP date has four digits for the year.
const HTTP_DATE_SECONDS_MAX: u64 = 253_370_764_800;

/// What every handler gets.
#[derive(Clone)]
struct App {
    service: Service,
    closing: Closing,
    admission: Arc<Admission>,
}

impl App {
    fn new(service: Service, closing: Closing) -> Self {
        let admission = Arc::new(Admission::new(service.address_limits().clone()));
        Self {
            service,
            closing,
            admission,
        }
    }
}

/// Becomes true when the server is about to stop: whoever waits, answers now. Its sender sees when the last holder is
/// gone.
#[derive(Clone)]
struct Closing(watch::Receiver<bool>);

impl Closing {
    /// Whether the server is about to stop.
    fn now(&self) -> bool {
        *self.0.borrow()
    }

    /// Returns when the server is about to stop.
    async fn wait(&self) {
        let ended = self.0.clone().wait_for(|closing| *closing).await.map(drop);
        if ended.is_err() {
            // Nobody is left who could say so: the server runs until its process ends.
            std::future::pending::<()>().await;
        }
    }
}

/// The API as a router, for embedding: no accept loop, no sweeper, no limits for addresses, and nothing ends the long polls
/// and streams before their time. [`serve`] adds these.
pub fn router(service: Service) -> Router {
    let (_, closing) = watch::channel(false);
    app_router(App::new(service, Closing(closing)))
}

fn app_router(app: App) -> Router {
    let (router, _) = documented_routes().split_for_parts();
    router
        .fallback(nowhere)
        .method_not_allowed_fallback(nowhere)
        .layer(middleware::map_response(never_stored))
        .layer(middleware::map_response_with_state(app.clone(), dated))
        .layer(middleware::from_fn_with_state(app.clone(), admission::addressed))
        .layer(middleware::from_fn(measured))
        .layer(CatchPanicLayer::custom(|_| {
            problem::respond(Problem::new(ProblemType::Unavailable))
        }))
        .with_state(app)
}

/// Every route with its documentation.
fn documented_routes() -> OpenApiRouter<App> {
    let anonymous = OpenApiRouter::new()
        .routes(routes!(meta::server_info))
        .routes(routes!(meta::openapi_document))
        .routes(routes!(meta::readyz))
        .routes(routes!(accounts::register))
        .routes(routes!(accounts::challenge))
        .routes(routes!(accounts::open_session))
        .layer(middleware::from_fn(admission::stranger))
        // Whoever watches the process has to get an answer, which costs less than most refusals.
        .routes(routes!(meta::healthz));
    let with_session = OpenApiRouter::new()
        .routes(routes!(accounts::end_session))
        .routes(routes!(accounts::user_devices))
        .routes(routes!(accounts::block, accounts::unblock))
        .routes(routes!(accounts::link_device))
        .routes(routes!(accounts::introduction, accounts::forget_introduction))
        .routes(routes!(accounts::remove_device))
        .routes(routes!(accounts::remove_account))
        .routes(routes!(accounts::take_over_state))
        .routes(routes!(key_packages::upload, key_packages::inventory))
        .routes(routes!(key_packages::status))
        .routes(routes!(key_packages::audit))
        .routes(routes!(key_packages::probe))
        .routes(routes!(key_packages::revoke_one))
        .routes(routes!(key_packages::revoke))
        .routes(routes!(key_packages::reserve))
        .routes(routes!(key_packages::abandon))
        .routes(routes!(key_packages::spend))
        .routes(routes!(groups::create, groups::memberships))
        .routes(routes!(groups::commit))
        .routes(routes!(groups::propose))
        .routes(routes!(groups::send_messages))
        .routes(routes!(groups::info))
        .routes(routes!(groups::ratchet_tree))
        .routes(routes!(groups::leave))
        .routes(routes!(groups::handshakes))
        .routes(routes!(groups::epoch));
    let patient = OpenApiRouter::new()
        .routes(routes!(blobs::store))
        .routes(routes!(blobs::fetch, blobs::remove))
        .routes(routes!(inbox::events));
    let waiting = OpenApiRouter::new()
        .routes(routes!(inbox::next))
        .layer(middleware::from_fn(within_time_and_wait));
    OpenApiRouter::with_openapi(openapi::frame())
        .merge(anonymous)
        .merge(with_session)
        .layer(middleware::from_fn(within_time))
        .merge(waiting)
        .merge(patient)
}

/// No such path, or not with this method: one answer, so that neither tells about the other.
async fn nowhere() -> Problem404 {
    Problem404
}

struct Problem404;

impl IntoResponse for Problem404 {
    fn into_response(self) -> Response {
        problem::respond(Problem::new(ProblemType::NotFound))
    }
}

/// Answers hold tokens, ciphertexts and what a device may know: no cache keeps them.
async fn never_stored(mut response: Response) -> Response {
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Says what time the server goes by, which is not always what its machine says: clients hold their own against it.
async fn dated(State(app): State<App>, mut response: Response) -> Response {
    let now = Duration::from_secs(app.service.now().0.min(HTTP_DATE_SECONDS_MAX));
    let date = httpdate::fmt_http_date(UNIX_EPOCH + now);
    if let Ok(date) = HeaderValue::from_str(&date) {
        response.headers_mut().insert(header::DATE, date);
    }
    response
}

/// Counts a request by its route. What leads nowhere is one route.
async fn measured(request: Request, next: Next) -> Response {
    let started = Instant::now();
    let method = match *request.method() {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        _ => "other",
    };
    let route = request.extensions().get::<MatchedPath>().cloned();
    let response = next.run(request).await;
    let route = route.as_ref().map_or("none", MatchedPath::as_str);
    crate::metrics::request(method, route, response.status().as_u16(), started.elapsed());
    response
}

/// Gives a request up that takes too long, a body that trickles in included.
async fn within_time(request: Request, next: Next) -> Response {
    within(REQUEST_SECONDS_MAX, request, next).await
}

/// The same, of a request that may wait.
async fn within_time_and_wait(request: Request, next: Next) -> Response {
    within(REQUEST_SECONDS_MAX + INBOX_WAIT_SECONDS_MAX, request, next).await
}

async fn within(seconds: u64, request: Request, next: Next) -> Response {
    tokio::time::timeout(Duration::from_secs(seconds), next.run(request))
        .await
        .unwrap_or_else(|_| problem::respond(Problem::new(ProblemType::Unavailable)))
}
