//! What the server spends on those who connect, and that the rest are served all the same.

use std::time::{Duration, Instant};

use larder_server::ServerLimits;
use larder_wire::{Inbox, ProblemType, RevokeRequest};
use reqwest::Method;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::{Answer, Device, TestServer};

/// Nothing takes this long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(120);

async fn with_limits(limit: impl FnOnce(&mut ServerLimits)) -> TestServer {
    TestServer::start_with(|config| limit(&mut config.limits), true).await
}

async fn connection(server: &TestServer, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream
}

/// Everything that the server sends until it closes the connection, which it must.
async fn rest(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    let read = timeout(PATIENCE, stream.read_to_end(&mut bytes)).await;
    let _ = read.expect("the server closes the connection");
    String::from_utf8_lossy(&bytes).into_owned()
}

async fn first_line(stream: &mut TcpStream) -> String {
    let mut bytes = [0; 12];
    let read = timeout(PATIENCE, stream.read_exact(&mut bytes)).await;
    read.expect("the server answers").expect("the server answers");
    String::from_utf8_lossy(&bytes).into_owned()
}

const HEALTHZ: &[u8] = b"GET /healthz HTTP/1.1\r\nhost: larder\r\n\r\n";

#[tokio::test]
async fn connections_beyond_the_limit_are_turned_away_and_those_before_it_are_served() {
    let server = with_limits(|limits| limits.connections_max = 3).await;
    let mut open = Vec::new();
    for _ in 0..3 {
        let mut stream = connection(&server, HEALTHZ).await;
        assert_eq!(first_line(&mut stream).await, "HTTP/1.1 200");
        open.push(stream);
    }
    for _ in 0..5 {
        let told = rest(TcpStream::connect(server.address()).await.unwrap()).await;
        assert!(told.starts_with("HTTP/1.1 503"), "{told:?}");
        assert!(told.contains("retry-after: 1"), "{told:?}");
    }
    let mut rest_of_first = [0; 1024];
    let _ = open[0].read(&mut rest_of_first).await.unwrap();
    open[0].write_all(HEALTHZ).await.unwrap();
    assert_eq!(first_line(&mut open[0]).await, "HTTP/1.1 200", "they go on");
    // A place is free again once one of them ends.
    drop(open.pop());
    has_room(&server).await;
}

#[tokio::test]
async fn a_stream_keeps_its_place_among_the_connections() {
    let server = with_limits(|limits| {
        limits.connections_max = 10;
        limits.waiting_per_device_max = 100;
    })
    .await;
    let bob = server.device("bob").await;
    let mut streams = Vec::new();
    while let Ok(stream) = stream(&server, &bob).await {
        streams.push(stream);
        assert!(streams.len() <= 10, "no limit is met");
    }
    assert!(!streams.is_empty());
}

#[tokio::test]
async fn who_asks_for_nothing_is_closed_and_who_waits_for_an_answer_is_not() {
    let server = with_limits(|limits| limits.idle_seconds = 1).await;
    let bob = server.device("bob").await;
    let waiting = tokio::spawn(async move { bob.wait(4).await.ok::<Inbox>() });
    let silent = connection(&server, b"").await;
    let asked = connection(&server, HEALTHZ).await;
    for (stream, answered) in [(silent, false), (asked, true)] {
        let told = rest(stream).await;
        assert_eq!(told.starts_with("HTTP/1.1 200"), answered, "{told:?}");
    }
    assert!(
        waiting.await.unwrap().rows.is_empty(),
        "the long poll was answered"
    );
}

#[tokio::test]
async fn an_idle_connection_of_http2_makes_room_for_others() {
    let server = with_limits(|limits| {
        limits.connections_max = 1;
        limits.idle_seconds = 1;
    })
    .await;
    let client = reqwest::Client::builder()
        .no_proxy()
        .http2_prior_knowledge()
        .build()
        .unwrap();
    let url = format!("http://{}/healthz", server.address());
    assert_eq!(client.get(&url).send().await.unwrap().status(), 200);
    has_room(&server).await;
}

/// Returns once the server serves one connection more.
async fn has_room(server: &TestServer) {
    let started = Instant::now();
    loop {
        let mut stream = connection(server, HEALTHZ).await;
        let mut line = [0; 12];
        if stream.read_exact(&mut line).await.is_ok() && line == *b"HTTP/1.1 200" {
            return;
        }
        assert!(started.elapsed() < PATIENCE, "no place becomes free");
    }
}

#[tokio::test]
async fn a_request_head_beyond_its_bound_is_refused_and_the_server_goes_on() {
    let server = TestServer::start().await;
    let mut head = b"GET /healthz HTTP/1.1\r\nhost: larder\r\nx: ".to_vec();
    head.extend(vec![b'x'; 100_000]);
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    // The server may close before it has read all of it.
    let _ = stream.write_all(&head).await;
    assert!(!rest(stream).await.starts_with("HTTP/1.1 200"));
    assert_eq!(server.http.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn hundreds_of_stalled_connections_hold_up_nobody() {
    const STALLED: usize = 400;
    let server = TestServer::start().await;
    let alice = server.device("alice").await;
    let token = alice.http.token.clone().unwrap();
    let body = format!(
        "POST /v1/key-packages HTTP/1.1\r\nhost: larder\r\nauthorization: Bearer {token}\r\n\
         content-type: application/json\r\ncontent-length: 1000000\r\n\r\n{{\"key_packages\":["
    );
    let starts = [
        &b""[..],
        b"GET /v1/groups HTTP/1.1\r\nhos",
        body.as_bytes(),
        HEALTHZ,
    ];
    let mut stalled = Vec::new();
    for number in 0..STALLED {
        stalled.push(connection(&server, starts[number % starts.len()]).await);
    }
    let bob = server.device_with_key_packages("bob", 1).await;
    let (mut group, _) = alice.create_group().await;
    alice.invite(&mut group, &[&bob]).await;
    bob.join().await;
    assert_eq!(stalled.len(), STALLED);
}

/// A stream of events on a connection of its own; or the status of what was answered instead.
async fn stream(server: &TestServer, device: &Device) -> Result<reqwest::Response, Option<u16>> {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = client
        .get(format!("http://{}/v1/inbox/events", server.address()))
        .bearer_auth(device.http.token.as_ref().unwrap());
    let answer = request.send().await.map_err(|_| None)?;
    match answer.status().as_u16() {
        200 => Ok(answer),
        other => Err(Some(other)),
    }
}

#[tokio::test]
async fn a_device_waits_in_so_many_places_and_no_more() {
    let mut server = with_limits(|limits| limits.waiting_per_device_max = 2).await;
    let (alice, bob) = (server.device("alice").await, server.device("bob").await);
    let first = stream(&server, &bob).await.unwrap();
    let second = stream(&server, &bob).await.unwrap();
    assert_eq!(stream(&server, &bob).await.map(drop), Err(Some(429)));
    let refused = bob
        .http
        .request(Method::POST, "/v1/inbox/next")
        .json(&serde_json::json!({"wait": 30}))
        .send()
        .await
        .unwrap();
    assert_eq!(refused.headers()["retry-after"], "30");
    assert_eq!(refused.status(), 429);
    bob.wait(30).await.refused(ProblemType::RateLimited);
    assert!(bob.inbox().await.is_empty(), "who does not wait is answered");
    let _of_another = stream(&server, &alice).await.unwrap();
    drop(first);
    let started = Instant::now();
    while stream(&server, &bob).await.is_err() {
        assert!(started.elapsed() < PATIENCE, "no place becomes free");
    }
    drop(second);
    server.stop().await;
}

#[tokio::test]
async fn what_the_store_has_no_room_for_is_told_to_come_back() {
    let server = with_limits(|limits| limits.store_requests_max = 0).await;
    let answer = server.http.request(Method::GET, "/readyz").send().await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["retry-after"]),
        (503, &"1".parse().unwrap())
    );
    Answer::to(server.http.request(Method::GET, "/readyz"))
        .await
        .refused(ProblemType::Unavailable);
    assert_eq!(server.http.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn a_revocation_names_so_many_key_packages_and_no_more() {
    let server = TestServer::start().await;
    let bob = server.device("bob").await;
    let refs = bob.stock(1).await;
    let request = |count| RevokeRequest {
        refs: vec![refs[0].clone(); count],
    };
    let post = async |count| bob.http.post("/v1/key-packages/revoke", &request(count)).await;
    post(257).await.refused(ProblemType::TooLarge);
    assert_eq!(
        bob.inventory().await.items[0].state,
        larder_wire::KeyPackageState::Available
    );
    assert_eq!(post(256).await.status, 200);
}
