//! One connection: what it may cost, and when it is over.

use std::io::{self, IoSlice, Write as _};
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::http::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tower::{ServiceExt as _, service_fn};

use super::Closing;
use super::admission::{ConnectionPlace, Peer};
use crate::metrics::Connection;

/// A connection sends a whole request head within this time after the first one.
const HEAD_SECONDS_MAX: u64 = 30;
/// What is read of a connection and not yet looked at, its request head above all, in bytes.
const READ_AHEAD_BYTES_MAX: usize = 64 * 1024;
/// The fields of a request head over HTTP/2, in bytes.
const HTTP2_FIELDS_BYTES_MAX: u32 = 16 * 1024;
/// Requests under way on one HTTP/2 connection.
const STREAMS_MAX: u32 = 64;
/// What a client may send ahead in one request over HTTP/2, in bytes.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
/// What it may send ahead in all of them together, in bytes.
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// What waits to be sent in one answer over HTTP/2, in bytes.
const SEND_AHEAD_BYTES_MAX: usize = 256 * 1024;
/// HTTP/2 connections are pinged this often.
const HTTP2_PING_SECONDS: u64 = 30;
/// A connection that is told to end has this long to read what it asked for.
const LINGER_SECONDS_MAX: u64 = 60;

/// What a connection over HTTP/2 begins with (RFC 9113 §3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a connection beyond the last one is told.
pub(super) const FULL: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// What a connection is told whose address has too many.
pub(super) const OFTEN: &[u8] =
    b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// A connection with its places among the open ones, and among those of its address, which it keeps for as long as it is
/// open.
pub(super) struct Placed {
    stream: TcpStream,
    peer: IpAddr,
    places: (OwnedSemaphorePermit, ConnectionPlace),
}

/// How long a connection may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    /// For its first request, unless it is a trusted proxy's.
    pub(super) first_request: Duration,
    /// Without a request.
    pub(super) idle: Duration,
}

impl Placed {
    pub(super) fn new(
        stream: TcpStream,
        peer: IpAddr,
        places: (OwnedSemaphorePermit, ConnectionPlace),
    ) -> Self {
        // Answers are small and someone waits for each.
        let _ = stream.set_nodelay(true);
        Self { stream, peer, places }
    }
}

/// What a connection speaks, by its first bytes.
enum Version {
    Http1,
    Http2,
    /// They may become the beginning of either.
    Undecided,
}

impl Placed {
    /// Looks at the first bytes and leaves them where they are: read ahead, they would make the buffer of every connection
    /// twice as large. `None` when there are none.
    async fn version(&self) -> io::Result<Option<Version>> {
        let mut first = [0; HTTP2_PREFACE.len()];
        let read = self.stream.peek(&mut first).await?;
        Ok(match first.get(..read) {
            None | Some([]) => None,
            Some(HTTP2_PREFACE) => Some(Version::Http2),
            Some(first) if HTTP2_PREFACE.starts_with(first) => Some(Version::Undecided),
            Some(_) => Some(Version::Http1),
        })
    }
}

/// Ends a connection for which there is no place, with this answer. It costs no task and waits for nothing.
pub(super) fn turn_away(stream: TcpStream, answer: &[u8]) {
    // A new socket's buffer has room for it; a peer that is gone already need not be told.
    let _ = stream.into_std().and_then(|mut stream| stream.write(answer));
}

/// Serves one connection to its end: the peer's, the server's, no first request in time, or none for too long.
pub(super) async fn converse(stream: Placed, router: Router, closing: Closing, times: Times) {
    let _counted = Connection::open();
    let Times { idle, .. } = times;
    // Proxies open connections ahead of what they are for.
    let first_request = match stream.places.1.is_of_a_proxy() {
        true => idle.max(times.first_request),
        false => times.first_request,
    };
    let opened = Instant::now();
    let peer = Peer(stream.peer);
    let version = tokio::select! {
        version = timeout(idle.min(first_request), stream.version()) => version,
        () = closing.wait() => return,
    };
    let Ok(Ok(Some(version))) = version else {
        return;
    };
    let activity = Arc::new(Activity::default());
    let seen = Arc::clone(&activity);
    let service = service_fn(move |mut request: Request<Incoming>| {
        let under_way = Arc::new(seen.begin());
        // For an answer that goes on after its head.
        request.extensions_mut().insert(Arc::clone(&under_way));
        request.extensions_mut().insert(peer);
        let answer = router.clone().oneshot(request);
        async move {
            let answer = answer.await;
            drop(under_way);
            answer
        }
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    let mut builder = match version {
        Version::Http1 => builder.http1_only(),
        Version::Http2 => builder.http2_only(),
        Version::Undecided => builder,
    };
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(HEAD_SECONDS_MAX))
        .max_buf_size(READ_AHEAD_BYTES_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(HTTP2_FIELDS_BYTES_MAX)
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(SEND_AHEAD_BYTES_MAX)
        .keep_alive_interval(Duration::from_secs(HTTP2_PING_SECONDS));
    let service = TowerToHyperService::new(service);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    // An error is the peer's: a broken connection or not HTTP. It concerns nobody else.
    tokio::select! {
        _ = &mut connection => return,
        // Nobody waits for an answer.
        () = activity.has_none_until(opened + first_request) => return,
        () = activity.ceases(idle) => {}
        () = closing.wait() => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(Duration::from_secs(LINGER_SECONDS_MAX), connection).await;
}

/// The requests of a connection.
#[derive(Default)]
struct Activity {
    begun: AtomicU64,
    under_way: AtomicUsize,
}

/// A request that is not answered yet, or given up by its client.
pub(super) struct UnderWay(Arc<Activity>);

impl Activity {
    fn begin(self: &Arc<Self>) -> UnderWay {
        self.begun.fetch_add(1, Ordering::Relaxed);
        self.under_way.fetch_add(1, Ordering::Relaxed);
        UnderWay(Arc::clone(self))
    }

    /// Returns at this time if no request has come by then; not at all otherwise.
    async fn has_none_until(&self, end: Instant) {
        sleep_until(end).await;
        if self.begun.load(Ordering::Relaxed) > 0 {
            std::future::pending::<()>().await;
        }
    }

    /// Returns when no request came or was under way for `idle`, give or take another `idle`.
    async fn ceases(&self, idle: Duration) {
        let mut seen = 0;
        loop {
            sleep(idle).await;
            let begun = self.begun.load(Ordering::Relaxed);
            if begun == seen && self.under_way.load(Ordering::Relaxed) == 0 {
                return;
            }
            seen = begun;
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

impl AsyncRead for Placed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Placed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
