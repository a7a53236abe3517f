//! The accept loop, an orderly end, and what is done beside it every now and then.

use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::admission::Admission;
use super::connection::{FULL, OFTEN, Placed, Times, converse, turn_away};
use super::{App, Closing, app_router};
use crate::Service;
use crate::metrics;

/// The sweeper runs this often.
const SWEEP_SECONDS: u64 = 30;
/// The states of groups are stored this often, and when the server starts, after one that was killed.
const STATES_SECONDS: u64 = 60 * 60;
/// Once told to stop, the server gives requests under way this long.
const DRAIN_SECONDS_MAX: u64 = 10;
/// After `accept` failed for want of a resource, the next attempt waits this long.
const ACCEPT_RETRY_SECONDS: u64 = 1;

/// Serves the API on `listener` until `shutdown` completes, and sweeps every 30 seconds. Connections beyond
/// [`ServerLimits::connections_max`](crate::ServerLimits::connections_max), and those of one address beyond
/// [`AddressLimits::connections_max`](crate::AddressLimits::connections_max), are turned away, so that those that are
/// open are served.
///
/// Then it accepts nothing more, ends long polls and streams, gives other requests under way 10 seconds, and stores the states of
/// groups that it holds in memory.
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
    let limits = service.limits();
    let times = Times {
        first_request: Duration::from_secs(limits.first_request_seconds_max),
        idle: Duration::from_secs(limits.idle_seconds),
    };
    let places = Arc::new(Semaphore::new(limits.connections_max));
    let (swept, stored, states) = (service.clone(), service.clone(), service.clone());
    let background = [
        tokio::spawn(every(SWEEP_SECONDS, closing.clone(), move || {
            sweep(swept.clone())
        })),
        tokio::spawn(every(STATES_SECONDS, closing.clone(), move || {
            store_states(stored.clone())
        })),
    ];
    let app = App::new(service, closing.clone());
    let admission = Arc::clone(&app.admission);
    let router = app_router(app);
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
            Ok((stream, peer)) => {
                if let Some(stream) = place(stream, peer.ip(), &admission, &places) {
                    connections.spawn(converse(stream, router.clone(), closing.clone(), times));
                }
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
        // Streams are fed by tasks of their own; each holds a receiver until it has ended.
        close.closed().await;
    });
    if drained.await.is_err() {
        tracing::warn!("requests under way were cut off");
        connections.shutdown().await;
    }
    for task in background {
        task.abort();
        // Aborted or not: the store is let go of when this returns.
        let _ = task.await;
    }
    states.store_states().await;
    Ok(())
}

/// Finds a connection its places; `None` when there are none, and it was turned away.
fn place(stream: TcpStream, peer: IpAddr, admission: &Admission, places: &Arc<Semaphore>) -> Option<Placed> {
    let Some(of_address) = admission.connect(peer) else {
        turn_away(stream, OFTEN);
        return None;
    };
    let Ok(place) = Arc::clone(places).try_acquire_owned() else {
        turn_away(stream, FULL);
        return None;
    };
    Some(Placed::new(stream, peer, (place, of_address)))
}

/// Errors of `accept` that concern the one connection that is gone again.
fn of_the_peer(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
    )
}

/// Does something at once and then every so many seconds.
async fn every<W: Future<Output = ()>>(seconds: u64, closing: Closing, mut work: impl FnMut() -> W) {
    let mut ticks = interval(Duration::from_secs(seconds));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => work().await,
            () = closing.wait() => return,
        }
    }
}

async fn sweep(service: Service) {
    // The next sweep finds what this one left.
    match service.sweep().await {
        Ok(swept) => metrics::swept(&swept),
        Err(error) => tracing::error!(error = &error as &dyn std::error::Error, "a sweep failed"),
    }
}

async fn store_states(service: Service) {
    if let Err(error) = service.store_states_behind().await {
        tracing::error!(
            error = &error as &dyn std::error::Error,
            "states of groups were not stored"
        );
    }
}
