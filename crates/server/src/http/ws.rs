//! The inbox over a WebSocket.
//!
//! The server sends one row per text frame, in order, and reads acknowledgements between them. It holds no more than
//! one short page of rows per socket: a reader that is too slow is closed, and catches up when it connects again.

use std::ops::ControlFlow;
use std::time::Duration;

use axum::extract::State;
use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use axum::response::Response;
use larder_wire::{Ack, InboxRow};
use serde::Deserialize;
use tokio::sync::watch;
use tokio::time::{Instant, interval_at, timeout};
use utoipa::IntoParams;

use super::App;
use super::extract::{BearerToken, Query, WebSocketUpgrade};
use super::problem::{Failure, WaitProblems};
use crate::{Caller, ServiceError};

/// The server pings this often. A peer that lets a whole interval pass in silence is gone.
const PING_SECONDS: u64 = 30;
/// A message from the client, in bytes: an acknowledgement is far smaller.
const CLIENT_MESSAGE_BYTES_MAX: usize = 1024;
/// Rows read from the store at a time.
const PAGE_ROWS: u32 = 16;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct SocketQuery {
    /// Rows after this one; without it, all that are not acknowledged.
    after: Option<u64>,
}

/// The inbox over a WebSocket: one `InboxRow` as JSON per text frame from the server, `Ack` as JSON per text frame from
/// the client.
#[utoipa::path(
    get, path = "/v1/inbox/ws", operation_id = "inbox_ws", tag = "inbox",
    params(SocketQuery),
    responses((status = 101, description = "Rows as they come", body = InboxRow), WaitProblems),
    security(("session" = [])),
)]
pub(super) async fn connect(
    caller: Caller,
    token: BearerToken,
    State(app): State<App>,
    Query(query): Query<SocketQuery>,
    WebSocketUpgrade(upgrade): WebSocketUpgrade,
) -> Result<Response, Failure> {
    let arrivals = app.service.subscribe(&caller)?;
    Ok(upgrade
        .max_message_size(CLIENT_MESSAGE_BYTES_MAX)
        .max_frame_size(CLIENT_MESSAGE_BYTES_MAX)
        .on_upgrade(move |socket| async move {
            let connection = Connection {
                app,
                caller,
                token,
                socket,
                arrivals,
                sent_up_to: query.after,
                heard: true,
            };
            connection.run().await;
        }))
}

/// Why a connection ends, as the client is told.
enum End {
    /// The peer went away, or is too slow to be told.
    Gone,
    /// The server stops.
    Stopping,
    /// The session has ended.
    SessionEnded,
    /// The client sent what is not an acknowledgement.
    NotAnAck,
    /// The server cannot answer now.
    Unavailable,
}

impl End {
    fn frame(&self) -> Option<CloseFrame> {
        let (code, reason) = match self {
            Self::Gone => return None,
            Self::Stopping => (close_code::AWAY, "stopping"),
            Self::SessionEnded => (close_code::POLICY, "unauthenticated"),
            Self::NotAnAck => (close_code::POLICY, "malformed"),
            Self::Unavailable => (close_code::AGAIN, "unavailable"),
        };
        Some(CloseFrame {
            code,
            reason: reason.into(),
        })
    }
}

impl From<ServiceError> for End {
    fn from(error: ServiceError) -> Self {
        match error {
            ServiceError::Refused(_) => Self::NotAnAck,
            ServiceError::Fault(_) => Self::Unavailable,
        }
    }
}

struct Connection {
    app: App,
    caller: Caller,
    token: BearerToken,
    socket: WebSocket,
    arrivals: watch::Receiver<u64>,
    sent_up_to: Option<u64>,
    /// Whether anything came from the client since the last ping.
    heard: bool,
}

impl Connection {
    async fn run(mut self) {
        let end = self.deliver().await;
        if let Some(frame) = end.frame() {
            // Best effort: the client finds out either way.
            let _ = self.send(Message::Close(Some(frame))).await;
        }
    }

    async fn deliver(&mut self) -> End {
        let app = self.app.clone();
        let ping = Duration::from_secs(PING_SECONDS);
        let mut pings = interval_at(Instant::now() + ping, ping);
        loop {
            self.arrivals.borrow_and_update();
            if let ControlFlow::Break(end) = self.send_rows().await {
                return end;
            }
            // Nothing is left to send: wait for what comes first.
            let step = loop {
                tokio::select! {
                    arrived = self.arrivals.changed() => match arrived {
                        Ok(()) => break ControlFlow::Continue(()),
                        Err(_) => return End::Stopping,
                    },
                    message = self.socket.recv() => match self.receive(message).await {
                        ControlFlow::Continue(()) => {}
                        end => break end,
                    },
                    _ = pings.tick() => match self.ping().await {
                        ControlFlow::Continue(()) => {}
                        end => break end,
                    },
                    () = app.closing.wait() => return End::Stopping,
                }
            };
            if let ControlFlow::Break(end) = step {
                return end;
            }
        }
    }

    /// Sends what waits, reading acknowledgements that have come between the pages.
    async fn send_rows(&mut self) -> ControlFlow<End> {
        loop {
            self.check_session().await?;
            let inbox = match self
                .app
                .service
                .inbox(&self.caller, self.sent_up_to, PAGE_ROWS)
                .await
            {
                Ok(inbox) => inbox,
                Err(error) => return ControlFlow::Break(error.into()),
            };
            if inbox.rows.is_empty() {
                return ControlFlow::Continue(());
            }
            for row in inbox.rows {
                let Ok(text) = serde_json::to_string(&row) else {
                    return ControlFlow::Break(End::Unavailable);
                };
                self.send(Message::text(text)).await?;
                self.sent_up_to = Some(row.seq);
            }
            if self.app.closing.now() {
                return ControlFlow::Break(End::Stopping);
            }
            while let Ok(message) = timeout(Duration::ZERO, self.socket.recv()).await {
                self.receive(message).await?;
            }
        }
    }

    async fn send(&mut self, message: Message) -> ControlFlow<End> {
        let most = Duration::from_secs(self.app.service.limits().send_seconds_max);
        match timeout(most, self.socket.send(message)).await {
            Ok(Ok(())) => ControlFlow::Continue(()),
            Ok(Err(_)) | Err(_) => ControlFlow::Break(End::Gone),
        }
    }

    async fn receive(&mut self, message: Option<Result<Message, axum::Error>>) -> ControlFlow<End> {
        self.heard = true;
        match message {
            Some(Ok(Message::Text(text))) => {
                let Ok(Ack { ack }) = serde_json::from_str(&text) else {
                    return ControlFlow::Break(End::NotAnAck);
                };
                match self.app.service.acknowledge(&self.caller, ack).await {
                    Ok(()) => ControlFlow::Continue(()),
                    Err(error) => ControlFlow::Break(error.into()),
                }
            }
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => ControlFlow::Continue(()),
            Some(Ok(Message::Binary(_))) => ControlFlow::Break(End::NotAnAck),
            Some(Ok(Message::Close(_)) | Err(_)) | None => ControlFlow::Break(End::Gone),
        }
    }

    async fn ping(&mut self) -> ControlFlow<End> {
        if !std::mem::take(&mut self.heard) {
            return ControlFlow::Break(End::Gone);
        }
        self.check_session().await?;
        self.send(Message::Ping(Default::default())).await
    }

    /// A socket delivers nothing beyond the session that opened it.
    async fn check_session(&mut self) -> ControlFlow<End> {
        match self.app.service.authenticate(&self.token.0).await {
            Ok(_) => ControlFlow::Continue(()),
            Err(ServiceError::Refused(_)) => ControlFlow::Break(End::SessionEnded),
            Err(ServiceError::Fault(_)) => ControlFlow::Break(End::Unavailable),
        }
    }
}
