//! Connections: the accept loop, their deadlines, an orderly end, and the sweeper beside them.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tower::ServiceExt as _;

use super::{App, Closing, app_router};
use crate::Service;
use crate::metrics::{self, Connection};

/// The sweeper runs this often.
const SWEEP_SECONDS: u64 = 30;
/// A connection sends a whole request head within this time, the first one and each one after it.
const HEAD_SECONDS_MAX: u64 = 30;
/// Requests under way on one HTTP/2 connection.
const STREAMS_MAX: u32 = 64;
/// HTTP/2 connections are pinged this often.
const HTTP2_PING_SECONDS: u64 = 30;
/// Once told to stop, the server gives requests under way this long.
const DRAIN_SECONDS_MAX: u64 = 10;
/// After `accept` failed for want of a resource, the next attempt waits this long.
const ACCEPT_RETRY_SECONDS: u64 = 1;

/// Serves the API on `listener` until `shutdown` completes, and sweeps every 30 seconds.
///
/// Then it accepts nothing more, ends long polls and WebSockets, and gives other requests under way 10 seconds.
///
/// # Errors
/// None at present: a connection that cannot be accepted is waited out.
pub async fn serve(
    listener: TcpListener,
    service: Service,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let (close, closing) = watch::channel(false);
    let closing = Closing(closing);
    let sweeper = tokio::spawn(sweep(service.clone(), closing.clone()));
    let router = app_router(App {
        service,
        closing: closing.clone(),
    });
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            // Ended ones are reaped as they end, so that the set does not grow.
            Some(_) = connections.join_next() => continue,
            () = &mut shutdown => break,
        };
        match accepted {
            Ok((stream, _)) => {
                connections.spawn(converse(stream, router.clone(), closing.clone()));
            }
            Err(error) if of_the_peer(&error) => {}
            Err(error) => {
                tracing::error!(%error, "cannot accept connections");
                sleep(Duration::from_secs(ACCEPT_RETRY_SECONDS)).await;
            }
        }
    }
    drop((listener, router, closing));
    close.send_replace(true);
    let drained = timeout(Duration::from_secs(DRAIN_SECONDS_MAX), async {
        while connections.join_next().await.is_some() {}
        // WebSockets live in tasks of their own; each holds a receiver until it has said goodbye.
        close.closed().await;
    });
    if drained.await.is_err() {
        tracing::warn!("requests under way were cut off");
        connections.shutdown().await;
    }
    sweeper.abort();
    Ok(())
}

/// Errors of `accept` that concern the one connection that is gone again.
fn of_the_peer(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
    )
}

/// Serves one connection to its end.
async fn converse(stream: TcpStream, router: Router, closing: Closing) {
    let _counted = Connection::open();
    // Answers are small and someone waits for each.
    let _ = stream.set_nodelay(true);
    let asked = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&asked);
    let service = router.map_request(move |request: Request<_>| {
        seen.store(true, Ordering::Relaxed);
        request
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(HEAD_SECONDS_MAX));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .keep_alive_interval(Duration::from_secs(HTTP2_PING_SECONDS));
    let service = TowerToHyperService::new(service);
    let mut connection = pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
    // The deadline for heads starts once the version of HTTP is known; this one covers a peer that says nothing.
    let mut silence = pin!(async {
        sleep(Duration::from_secs(HEAD_SECONDS_MAX)).await;
        if asked.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    });
    // An error is the peer's: a broken connection or not HTTP. It concerns nobody else.
    tokio::select! {
        _ = &mut connection => {}
        () = &mut silence => {}
        () = closing.wait() => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}

/// Sweeps at once and then every [`SWEEP_SECONDS`].
async fn sweep(service: Service, closing: Closing) {
    let mut ticks = interval(Duration::from_secs(SWEEP_SECONDS));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = closing.wait() => return,
        }
        // The next sweep finds what this one left.
        match service.sweep().await {
            Ok(swept) => metrics::swept(&swept),
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "a sweep failed");
            }
        }
    }
}
