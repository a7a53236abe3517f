//! What the server counts. No label names a user, a device or a group.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::header;
use axum::routing::get;
use larder_wire::{DeviceOutcome, Reserved};
use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;
use tokio::time::{MissedTickBehavior, interval};

use crate::service::Swept;

/// Prometheus's text format.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Histograms are folded together this often, whether anybody asks or not.
const UPKEEP_SECONDS: u64 = 5;
/// Bounds of the latency of requests, in seconds.
const SECONDS: [f64; 13] = [
    0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0,
];
/// Bounds of the size of a commit, in requests.
const REQUESTS: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

const HTTP_REQUESTS: &str = "larder_http_requests_total";
const HTTP_SECONDS: &str = "larder_http_request_seconds";
const CONNECTIONS: &str = "larder_connections";
const COMMIT_REQUESTS: &str = "larder_commit_requests";
const RESERVATIONS: &str = "larder_reserve_outcomes_total";
const INBOX_ROWS: &str = "larder_inbox_rows_total";
const BLOBS: &str = "larder_blobs_total";
const BLOB_BYTES: &str = "larder_blob_bytes_total";
const SWEPT: &str = "larder_swept_total";
const POSTGRES_ROUND_TRIPS: &str = "larder_postgres_round_trips_total";
const UNFOLLOWABLE: &str = "larder_group_states_unfollowable_total";
const CLOCK_SUSPENDED: &str = "larder_clock_suspended";

/// The counts of this process.
#[derive(Clone)]
pub struct Metrics {
    handle: Arc<PrometheusHandle>,
}

/// The counts of this process are taken by somebody else.
#[derive(Debug, thiserror::Error)]
#[error("the metrics of this process are taken already")]
pub struct MetricsTaken;

impl Metrics {
    /// Begins to count, for the whole process. Before that nothing is.
    ///
    /// # Errors
    /// [`MetricsTaken`] when this or another library was asked to before.
    pub fn install() -> Result<Self, MetricsTaken> {
        let handle = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Full(HTTP_SECONDS.to_owned()), &SECONDS)
            .and_then(|builder| {
                builder.set_buckets_for_metric(Matcher::Full(COMMIT_REQUESTS.to_owned()), &REQUESTS)
            })
            .and_then(PrometheusBuilder::install_recorder)
            .map_err(|_| MetricsTaken)?;
        describe_counter!(HTTP_REQUESTS, "Requests answered, by method, route and status");
        describe_histogram!(
            HTTP_SECONDS,
            "Seconds until the answer to a request, by method and route"
        );
        describe_gauge!(CONNECTIONS, "Open connections");
        describe_histogram!(COMMIT_REQUESTS, "Requests whose changes became durable together");
        describe_counter!(
            RESERVATIONS,
            "Devices in answers to reserve requests, by outcome; repeated answers count again"
        );
        describe_counter!(INBOX_ROWS, "Inbox rows given to devices");
        describe_counter!(
            BLOBS,
            "Blobs that were stored or fetched whole, by which of the two"
        );
        describe_counter!(BLOB_BYTES, "Their sizes, in bytes");
        describe_counter!(
            POSTGRES_ROUND_TRIPS,
            "Times that a transaction waited for PostgreSQL"
        );
        describe_counter!(
            UNFOLLOWABLE,
            "Public states of groups that could not be followed from what is stored: the clock may be wrong"
        );
        describe_gauge!(
            CLOCK_SUSPENDED,
            "1 while the clock is not believed, so that nothing ends with age, else 0"
        );
        describe_counter!(SWEPT, "What the sweeper moved or removed, by kind");
        Ok(Self {
            handle: Arc::new(handle),
        })
    }

    /// Serves `GET /metrics` on a listener of its own until `shutdown` completes. It has no authentication: let nobody
    /// but the one who collects reach it.
    ///
    /// # Errors
    /// What the listener fails with.
    pub async fn serve(
        self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<()> {
        let handle = Arc::clone(&self.handle);
        let upkeep = tokio::spawn(async move {
            let mut ticks = interval(Duration::from_secs(UPKEEP_SECONDS));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                handle.run_upkeep();
            }
        });
        let render = move || {
            let text = self.handle.render();
            async move { ([(header::CONTENT_TYPE, TEXT_FORMAT)], text) }
        };
        let router = Router::new().route("/metrics", get(render));
        let served = axum::serve(listener, router)
            .with_graceful_shutdown(shutdown)
            .await;
        upkeep.abort();
        served
    }
}

/// One answered request. `route` is as documented, with its parameters' names.
pub(crate) fn request(method: &'static str, route: &str, status: u16, took: Duration) {
    counter!(HTTP_REQUESTS, "method" => method, "route" => route.to_owned(), "status" => status.to_string())
        .increment(1);
    histogram!(HTTP_SECONDS, "method" => method, "route" => route.to_owned()).record(took);
}

/// Counts a connection for as long as it is there.
pub(crate) struct Connection(());

impl Connection {
    pub(crate) fn open() -> Self {
        gauge!(CONNECTIONS).increment(1);
        Self(())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        gauge!(CONNECTIONS).decrement(1);
    }
}

/// So many requests became durable together.
pub(crate) fn committed(requests: usize) {
    histogram!(COMMIT_REQUESTS).record(requests as f64);
}

/// An answer to a reserve request.
pub(crate) fn reserved(answer: &Reserved) {
    for device in answer.users.iter().flat_map(|user| &user.devices) {
        let outcome = match device.outcome {
            DeviceOutcome::Ok => "ok",
            DeviceOutcome::LastResort => "last_resort",
            DeviceOutcome::Exhausted => "exhausted",
            DeviceOutcome::Incompatible => "incompatible",
            DeviceOutcome::RateLimited => "rate_limited",
            DeviceOutcome::Withheld => "withheld",
        };
        counter!(RESERVATIONS, "outcome" => outcome).increment(1);
    }
}

/// A transaction waits for PostgreSQL.
pub(crate) fn postgres_round_trip() {
    counter!(POSTGRES_ROUND_TRIPS).increment(1);
}

/// A group's public state could not be followed.
pub(crate) fn unfollowable() {
    counter!(UNFOLLOWABLE).increment(1);
}

/// So many inbox rows were given to a device.
pub(crate) fn delivered(rows: usize) {
    if rows > 0 {
        counter!(INBOX_ROWS).increment(rows as u64);
    }
}

/// Which way a blob went.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Transfer {
    Stored,
    Fetched,
}

/// A blob went all the way.
pub(crate) fn transferred(transfer: Transfer, bytes: u64) {
    let transfer = match transfer {
        Transfer::Stored => "stored",
        Transfer::Fetched => "fetched",
    };
    counter!(BLOBS, "transfer" => transfer).increment(1);
    counter!(BLOB_BYTES, "transfer" => transfer).increment(bytes);
}

/// A sweep.
pub(crate) fn swept(swept: &Swept) {
    counter!(SWEPT, "kind" => "key_packages").increment(swept.key_packages);
    counter!(SWEPT, "kind" => "other_rows").increment(swept.other_rows);
}

/// Whether the clock is not believed.
pub(crate) fn clock_suspended(suspended: bool) {
    gauge!(CLOCK_SUSPENDED).set(f64::from(u8::from(suspended)));
}
