//! The inbox over a WebSocket.

use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use larder_wire::{Inbox, InboxRow, ProblemType};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::handshake::client::Request;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::support::{Device, TestServer};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Nothing that a test waits for takes this long.
const PATIENCE: Duration = Duration::from_secs(120);

fn handshake(server: &TestServer, device: &Device, query: &str) -> Request {
    let mut request = format!("ws://{}/v1/inbox/ws{query}", server.address())
        .into_client_request()
        .unwrap();
    let token = device.http.token.as_ref().unwrap();
    request
        .headers_mut()
        .insert("Authorization", format!("Bearer {token}").parse().unwrap());
    request
}

async fn connect(server: &TestServer, device: &Device, query: &str) -> Socket {
    connect_async(handshake(server, device, query)).await.unwrap().0
}

async fn next_row(socket: &mut Socket) -> InboxRow {
    loop {
        let message = timeout(PATIENCE, socket.next())
            .await
            .expect("a row in time")
            .unwrap()
            .unwrap();
        if let Message::Text(text) = message {
            return serde_json::from_str(&text).unwrap();
        }
    }
}

/// Reads until the server closes, and returns why.
async fn closed(socket: &mut Socket) -> Option<(CloseCode, String)> {
    loop {
        match timeout(PATIENCE, socket.next()).await.expect("the server closes") {
            Some(Ok(Message::Close(frame))) => {
                return frame.map(|frame| (frame.code, frame.reason.to_string()));
            }
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return None,
        }
    }
}

#[tokio::test]
async fn rows_come_in_order_those_that_wait_first_and_acknowledgements_go_back() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let bob = server.device_with_key_packages("bob", 1).await;
    let (mut alices, _) = alice.create_group().await;
    alice.invite(&mut alices, &[&bob]).await;
    bob.join().await;
    for number in 0..40 {
        alice.send(&mut alices, &format!("{number}")).await;
    }
    let waiting = bob.inbox().await;
    assert_eq!(waiting.len(), 40);

    let mut socket = connect(&server, &bob, "").await;
    for row in &waiting {
        assert_eq!(next_row(&mut socket).await, *row);
    }
    alice.send(&mut alices, "live").await;
    let live = next_row(&mut socket).await;
    assert_eq!(live.seq, waiting[39].seq + 1);

    // Each acknowledgement is read in order: once the last one has been, the inbox is empty.
    socket
        .send(Message::text(format!(r#"{{"ack":{}}}"#, waiting[10].seq)))
        .await
        .unwrap();
    socket
        .send(Message::text(format!(r#"{{"ack":{}}}"#, live.seq)))
        .await
        .unwrap();
    socket.send(Message::text("enough")).await.unwrap();
    assert_eq!(
        closed(&mut socket).await,
        Some((CloseCode::Policy, "malformed".to_owned()))
    );
    assert!(bob.inbox().await.is_empty());
}

#[tokio::test]
async fn a_socket_starts_after_the_row_that_it_is_told() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let bob = server.device_with_key_packages("bob", 1).await;
    let (mut alices, _) = alice.create_group().await;
    alice.invite(&mut alices, &[&bob]).await;
    bob.join().await;
    for number in 0..3 {
        alice.send(&mut alices, &format!("{number}")).await;
    }
    let waiting = bob.inbox().await;
    let mut socket = connect(&server, &bob, &format!("?after={}", waiting[1].seq)).await;
    assert_eq!(next_row(&mut socket).await, waiting[2]);
    assert_eq!(bob.inbox().await, waiting, "reading is not acknowledging");
}

#[tokio::test]
async fn a_frame_that_is_no_acknowledgement_closes_the_socket_and_acknowledges_nothing() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let bob = server.device_with_key_packages("bob", 1).await;
    let (mut alices, _) = alice.create_group().await;
    alice.invite(&mut alices, &[&bob]).await;
    let waiting = bob.inbox().await;
    for frame in [
        Message::text("{}"),
        Message::text(r#"{"ack":-1}"#),
        Message::text(r#"{"ack":"1"}"#),
        Message::text("x".repeat(1000)),
        Message::binary(br#"{"ack":1}"#.to_vec()),
        Message::text("x".repeat(100_000)),
    ] {
        let mut socket = connect(&server, &bob, "").await;
        socket.send(frame).await.unwrap();
        closed(&mut socket).await;
    }
    assert_eq!(bob.inbox().await, waiting);
}

#[tokio::test]
async fn a_socket_needs_a_session_and_a_handshake() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    server
        .http
        .get("/v1/inbox/ws")
        .await
        .refused(ProblemType::Unauthenticated);
    alice
        .http
        .get("/v1/inbox/ws")
        .await
        .refused(ProblemType::Malformed);
    alice
        .http
        .get("/v1/inbox/ws?after=x")
        .await
        .refused(ProblemType::Malformed);
    let anonymous = format!("ws://{}/v1/inbox/ws", server.address());
    assert!(connect_async(anonymous).await.is_err());
}

#[tokio::test]
async fn a_socket_delivers_nothing_beyond_its_session() {
    let server = TestServer::unswept().await;
    let mut alice = server.device("alice").await;
    let bob = server.device_with_key_packages("bob", 1).await;
    let (mut alices, _) = alice.create_group().await;
    alice.invite(&mut alices, &[&bob]).await;
    let mut socket = connect(&server, &bob, "").await;
    next_row(&mut socket).await;
    server.pass(2 * 60 * 60);
    alice.open_session().await;
    alice.send(&mut alices, "too late for this session").await;
    assert_eq!(
        closed(&mut socket).await,
        Some((CloseCode::Policy, "unauthenticated".to_owned()))
    );
}

/// R-S8.
#[tokio::test]
async fn a_reader_that_does_not_read_costs_the_others_nothing() {
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let bob = server.device_with_key_packages("bob", 1).await;
    let carol = server.device_with_key_packages("carol", 1).await;
    let (mut alices, _) = alice.create_group().await;
    alice.invite(&mut alices, &[&bob, &carol]).await;
    bob.join().await;
    carol.join().await;
    let _stalled = connect(&server, &bob, "").await;
    let mut reading = connect(&server, &carol, "").await;
    // More than the socket buffers between them hold.
    let text = "x".repeat(60_000);
    for _ in 0..150 {
        alice.send(&mut alices, &text).await;
        next_row(&mut reading).await;
    }
    // What was not acknowledged waits. It is more than one answer holds.
    let (mut rows, mut pages) = (Vec::<InboxRow>::new(), 0);
    loop {
        let after = rows.last().map_or(0, |row| row.seq);
        let page: Inbox = bob.http.get(&format!("/v1/inbox?after={after}")).await.ok();
        if page.rows.is_empty() {
            break;
        }
        rows.extend(page.rows);
        pages += 1;
    }
    assert_eq!(rows.len(), 150);
    assert!(pages > 1);
    assert!(rows.windows(2).all(|pair| pair[0].seq + 1 == pair[1].seq));
}

#[tokio::test]
async fn a_reader_that_is_too_slow_is_closed_and_catches_up() {
    let limit = |config: &mut larder_server::Config| {
        config.limits.send_seconds_max = 1;
        config.limits.waiting_per_device_max = 1;
    };
    let server = TestServer::start_with(limit, true).await;
    let alice = server.device("alice").await;
    let bob = server.device_with_key_packages("bob", 1).await;
    let (mut alices, _) = alice.create_group().await;
    alice.invite(&mut alices, &[&bob]).await;
    bob.join().await;
    let mut stalled = connect(&server, &bob, "").await;
    // More than the socket buffers between them hold.
    let text = "x".repeat(60_000);
    for _ in 0..150 {
        alice.send(&mut alices, &text).await;
    }
    // There is room for another once the server has given this one up.
    let started = Instant::now();
    let mut again = loop {
        match connect_async(handshake(&server, &bob, "")).await {
            Ok((socket, _)) => break socket,
            Err(_) => assert!(started.elapsed() < PATIENCE, "it is not cut off"),
        }
    };
    let mut rows = 0;
    while let Some(Ok(message)) = stalled.next().await {
        rows += usize::from(matches!(message, Message::Text(_)));
    }
    assert!(rows < 150, "all {rows} rows were sent");
    for _ in 0..150 {
        next_row(&mut again).await;
    }
}
