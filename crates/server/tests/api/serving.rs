//! The server as a process: readiness, an orderly end, and what it says about itself.

use std::time::{Duration, Instant};

use larder_wire::Inbox;
use reqwest::Method;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::TestServer;

/// Less than a silent connection may take for its request, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(29);

#[tokio::test]
async fn it_is_alive_and_ready() {
    let server = TestServer::start().await;
    for path in ["/healthz", "/readyz"] {
        let answer = server.http.get(path).await;
        assert_eq!(
            (answer.status, answer.body.as_slice()),
            (200, &b"ok\n"[..]),
            "{path}"
        );
    }
}

#[tokio::test]
async fn no_answer_is_stored_by_a_cache_and_refusals_say_how_to_authenticate() {
    let server = TestServer::start().await;
    for path in ["/.well-known/larder", "/v1/groups", "/nowhere"] {
        let response = server.http.request(Method::GET, path).send().await.unwrap();
        assert_eq!(response.headers()["cache-control"], "no-store", "{path}");
        assert_eq!(
            response.headers().contains_key("www-authenticate"),
            path == "/v1/groups"
        );
    }
}

#[tokio::test]
async fn stopping_ends_long_polls_at_once() {
    let mut server = TestServer::start().await;
    let alice = server.device("alice").await;
    let polls: Vec<_> = (0..4)
        .map(|_| {
            let http = alice.http.clone();
            tokio::spawn(async move {
                let wait = serde_json::json!({"wait": 30});
                let request = http.request(Method::POST, "/v1/inbox/next").json(&wait);
                request.send().await?.bytes().await
            })
        })
        .collect();
    // By the time that these are answered, the polls before them are under way.
    for _ in 0..8 {
        alice.inbox().await;
    }
    server.stop().await;
    let mut answered = 0;
    for poll in polls {
        // A connection that was not accepted before the stop may end without an answer.
        if let Ok(body) = poll.await.unwrap() {
            let inbox: Inbox = serde_json::from_slice(&body).unwrap();
            assert!(inbox.rows.is_empty());
            answered += 1;
        }
    }
    // Polls that go on are cut off after a while, without an answer, and their own time is longer than that.
    assert!(answered > 0);
}

#[tokio::test]
async fn stopping_waits_for_no_idle_and_no_silent_connection() {
    let mut server = TestServer::start().await;
    server.http.get("/healthz").await;
    let mut silent = TcpStream::connect(server.address()).await.unwrap();
    let mut halfway = TcpStream::connect(server.address()).await.unwrap();
    halfway.write_all(b"GET /healthz HT").await.unwrap();
    let started = Instant::now();
    server.stop().await;
    let mut rest = Vec::new();
    let _ = silent.read_to_end(&mut rest).await;
    let _ = halfway.read_to_end(&mut rest).await;
    assert!(started.elapsed() < PATIENCE);
}

#[tokio::test]
async fn bytes_that_are_not_http_are_answered_or_closed_and_the_server_goes_on() {
    let server = TestServer::start().await;
    for bytes in [
        &b"\0\0\0\0\r\n\r\n"[..],
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ] {
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
    }
    assert_eq!(server.http.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn both_versions_of_http_are_spoken() {
    let server = TestServer::start().await;
    let client = reqwest::Client::builder()
        .no_proxy()
        .http2_prior_knowledge()
        .build()
        .unwrap();
    let response = client
        .get(format!("http://{}/healthz", server.address()))
        .send()
        .await
        .unwrap();
    assert_eq!(
        (response.status().as_u16(), response.version()),
        (200, reqwest::Version::HTTP_2)
    );
    let response = server.http.request(Method::GET, "/healthz").send().await.unwrap();
    assert_eq!(response.version(), reqwest::Version::HTTP_11);
}
