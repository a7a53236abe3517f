//! What one address may do, and that others do not notice.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use larder_lifecycle::Rate;
use larder_server::AddressLimits;
use larder_wire::{BlobStored, Memberships, ProblemType, Registered, ServerInfo};
use reqwest::Method;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::support::{Answer, Device, Http, TestServer};

/// Nothing takes this long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(120);
const HALF_A_HEAD: &[u8] = b"GET /healthz HTTP/1.1\r\nhos";
const HEALTHZ: &[u8] = b"GET /healthz HTTP/1.1\r\nhost: larder\r\n\r\n";

/// A server with these limits, on which no time passes by itself.
async fn with_limits(limit: impl FnOnce(&mut AddressLimits)) -> TestServer {
    let server = TestServer::start_with(|config| limit(&mut config.addresses), true).await;
    server.hold_time();
    server
}

/// Few registrations, and as many of anything else as one likes.
fn few_registrations(limits: &mut AddressLimits) {
    *limits = AddressLimits {
        registrations: Some(Rate {
            burst: 2,
            interval_seconds: 3600,
        }),
        ..AddressLimits::none()
    };
}

/// A client at another of this machine's addresses.
fn at(server: &TestServer, address: [u8; 4]) -> Http {
    Http::at(server.address(), address.into())
}

async fn register(http: &Http, user: &str) -> Answer {
    Device::new(http, user).register().await
}

/// Asserts that a refusal says to come back after so many seconds, less those that have passed in the meantime.
#[track_caller]
fn assert_waits(refused: &Answer, most: u64) {
    let wait = refused.retry_after.expect("it says when to come back");
    assert!((most.saturating_sub(30).max(1)..=most).contains(&wait), "{wait}");
}

/// Registers somebody as if forwarded for these.
async fn register_for(server: &TestServer, user: &str, forwarded_for: &[&str]) -> Answer {
    let http = server.http.with_headers("x-forwarded-for", forwarded_for);
    register(&http, user).await
}

async fn connection(server: &TestServer, address: [u8; 4], bytes: &[u8]) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((address, 0))).unwrap();
    let mut stream = socket.connect(server.address().parse().unwrap()).await.unwrap();
    // The server may have turned it away already.
    let _ = stream.write_all(bytes).await;
    stream
}

/// Everything that the server sends until it closes the connection, which it must.
async fn rest(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    let read = timeout(PATIENCE, stream.read_to_end(&mut bytes)).await;
    let _ = read.expect("the server closes the connection");
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn one_address_registers_so_many_and_another_as_many() {
    let server = with_limits(few_registrations).await;
    for user in ["alice", "bob"] {
        register(&server.http, user).await.ok::<Registered>();
    }
    let refused = register(&server.http, "carol").await;
    refused.refused(ProblemType::RateLimited);
    assert_waits(&refused, 3600);
    let other = at(&server, [127, 0, 0, 2]);
    register(&other, "carol").await.ok::<Registered>();
    // Who is in is served, and an hour later the next one comes in.
    server.pass(3600);
    register(&server.http, "dave").await.ok::<Registered>();
    register(&server.http, "erin")
        .await
        .refused(ProblemType::RateLimited);
}

#[tokio::test]
async fn a_registration_that_is_refused_counts_like_any_other() {
    let server = with_limits(few_registrations).await;
    register(&server.http, "alice").await.ok::<Registered>();
    register(&server.http, "alice")
        .await
        .refused(ProblemType::NameTaken);
    register(&server.http, "bob")
        .await
        .refused(ProblemType::RateLimited);
}

#[tokio::test]
async fn x_forwarded_for_of_a_stranger_changes_nothing() {
    let server = with_limits(few_registrations).await;
    register_for(&server, "u1", &["1.2.3.4"]).await.ok::<Registered>();
    register_for(&server, "u2", &["1.2.3.5, 1.2.3.6"])
        .await
        .ok::<Registered>();
    for line in ["1.2.3.7", "127.0.0.2", "nonsense"] {
        let answer = register_for(&server, "u3", &[line]).await;
        answer.refused(ProblemType::RateLimited);
    }
}

#[tokio::test]
async fn behind_a_trusted_proxy_the_last_address_counts() {
    let server = with_limits(|limits| {
        few_registrations(limits);
        limits.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap(), "10.0.0.1".parse().unwrap()];
    })
    .await;
    for (user, lines) in [
        ("u1", &["1.2.3.4"][..]),
        // What the client has put there itself, and a second proxy.
        ("u2", &["9.9.9.9, 1.2.3.4, 10.0.0.1"]),
    ] {
        register_for(&server, user, lines).await.ok::<Registered>();
    }
    for lines in [
        &["1.2.3.4"][..],
        &["8.8.8.8, 1.2.3.4"],
        &["8.8.8.8", "1.2.3.4", "10.0.0.1"],
    ] {
        let answer = register_for(&server, "u3", lines).await;
        answer.refused(ProblemType::RateLimited);
    }
    // Another one, one of IPv6 with its neighbours, and the proxy itself where nothing can be read.
    register_for(&server, "u3", &["1.2.3.4, 1.2.3.5"])
        .await
        .ok::<Registered>();
    for (user, line) in [("u4", "2001:db8::1"), ("u5", "[2001:db8::2]:443")] {
        register_for(&server, user, &[line]).await.ok::<Registered>();
    }
    let neighbour = register_for(&server, "u6", &["2001:db8::3"]).await;
    neighbour.refused(ProblemType::RateLimited);
    for (user, line) in [("u6", "unknown"), ("u7", "1.2.3.9, ")] {
        register_for(&server, user, &[line]).await.ok::<Registered>();
    }
    register(&server.http, "u8")
        .await
        .refused(ProblemType::RateLimited);
}

#[tokio::test]
async fn requests_without_a_session_are_limited_and_sessions_are_not() {
    let server = with_limits(|limits| {
        *limits = AddressLimits {
            requests_per_second: 1,
            ..AddressLimits::none()
        };
    })
    .await;
    let alice = server.device("alice").await;
    let mut answered = 0;
    // Those of a minute, without the three of alice.
    while server.http.get("/.well-known/larder").await.status == 200 {
        answered += 1;
        assert!(answered <= 60);
        alice.http.get("/v1/groups").await.ok::<Memberships>();
    }
    assert!(answered >= 50, "{answered}");
    // Whatever they ask for, and with whatever token.
    for (http, path) in [
        (server.http.clone(), "/v1/groups"),
        (server.http.with_token("made-up"), "/v1/groups"),
        (alice.http.clone(), "/.well-known/larder"),
        (alice.http.clone(), "/readyz"),
        (alice.http.clone(), "/openapi.json"),
    ] {
        let refused = http.get(path).await;
        refused.refused(ProblemType::RateLimited);
        assert_waits(&refused, 1);
    }
    register(&server.http, "bob")
        .await
        .refused(ProblemType::RateLimited);
    alice.http.get("/v1/groups").await.ok::<Memberships>();
    assert_eq!(server.http.get("/healthz").await.status, 200);
    server.pass(1);
    server.http.get("/.well-known/larder").await.ok::<ServerInfo>();
}

#[tokio::test]
async fn a_session_that_has_ended_makes_its_holder_a_stranger() {
    let server = with_limits(|limits| {
        *limits = AddressLimits {
            requests_per_second: 1,
            ..AddressLimits::none()
        };
    })
    .await;
    let alice = server.device("alice").await;
    alice.http.get("/v1/groups").await.ok::<Memberships>();
    Answer::to(alice.http.request(Method::DELETE, "/v1/sessions"))
        .await
        .done();
    let mut answers = Vec::new();
    for _ in 0..70 {
        answers.push(alice.http.get("/v1/groups").await.status);
    }
    assert_eq!((answers[0], answers[69]), (401, 429));
}

#[tokio::test]
async fn one_address_stores_so_much_of_files_whoever_it_registers() {
    let server = with_limits(|limits| {
        *limits = AddressLimits {
            upload_mibs: Some(Rate {
                burst: 3,
                interval_seconds: 60,
            }),
            ..AddressLimits::none()
        };
    })
    .await;
    let (alice, bob) = (server.device("alice").await, server.device("bob").await);
    let store = async |device: &Device, key: &str, bytes: usize| {
        let request = device.http.request(Method::POST, "/v1/blobs");
        let request = request
            .header("Idempotency-Key", key)
            .header("Content-Type", "application/octet-stream");
        Answer::to(request.body(vec![7; bytes])).await
    };
    store(&alice, "a", 2 * 1024 * 1024).await.ok::<BlobStored>();
    store(&bob, "b", 1).await.ok::<BlobStored>();
    let refused = store(&bob, "c", 1).await;
    refused.refused(ProblemType::RateLimited);
    assert_waits(&refused, 60);
    server.pass(60);
    store(&bob, "c", 1).await.ok::<BlobStored>();
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn two_thousand_half_open_requests_keep_nobody_else_out() {
    const FLOOD: usize = 2000;
    let server = TestServer::start_with(
        |config| {
            config.limits.connections_max = 100;
            config.addresses.connections_max = NonZeroUsize::new(50);
        },
        true,
    )
    .await;
    let mut flood = Vec::new();
    for _ in 0..FLOOD {
        flood.push(connection(&server, [127, 0, 0, 2], HALF_A_HEAD).await);
    }
    let started = Instant::now();
    let alice = server.device("alice").await;
    alice.http.get("/v1/groups").await.ok::<Memberships>();
    // Before the server gives up any of those that it waits for.
    assert!(
        started.elapsed() < Duration::from_secs(9),
        "{:?}",
        started.elapsed()
    );
    let told = rest(flood.pop().unwrap()).await;
    assert!(
        told.is_empty() || told.starts_with("HTTP/1.1 429 Too Many Requests\r\nretry-after: 1\r\n"),
        "{told}"
    );
    // They have their own place again once they are gone.
    drop(flood);
    let started = Instant::now();
    loop {
        let mut stream = connection(&server, [127, 0, 0, 2], HEALTHZ).await;
        let mut line = [0; 12];
        if stream.read_exact(&mut line).await.is_ok() && line == *b"HTTP/1.1 200" {
            break;
        }
        assert!(started.elapsed() < PATIENCE, "no place becomes free");
    }
}

#[tokio::test]
async fn a_trusted_proxy_has_as_many_connections_as_there_are() {
    let server = with_limits(|limits| {
        limits.connections_max = NonZeroUsize::new(1);
        limits.trusted_proxies = vec!["127.0.0.1".parse().unwrap()];
    })
    .await;
    let mut open = Vec::new();
    for _ in 0..20 {
        let mut stream = connection(&server, [127, 0, 0, 1], HEALTHZ).await;
        let mut line = [0; 12];
        stream.read_exact(&mut line).await.unwrap();
        assert_eq!(line, *b"HTTP/1.1 200");
        open.push(stream);
    }
}

#[tokio::test]
async fn who_does_not_finish_the_first_request_head_is_closed() {
    let server = TestServer::start_with(|config| config.limits.first_request_seconds_max = 1, true).await;
    let slow = connection(&server, [127, 0, 0, 1], HALF_A_HEAD).await;
    let silent = connection(&server, [127, 0, 0, 1], b"").await;
    let http2 = connection(&server, [127, 0, 0, 1], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    let mut asked = connection(&server, [127, 0, 0, 1], HEALTHZ).await;
    let started = Instant::now();
    for stream in [slow, silent] {
        assert_eq!(rest(stream).await, "");
    }
    // The settings of HTTP/2, and nothing else.
    assert!(!rest(http2).await.contains("200"));
    assert!(
        started.elapsed() < Duration::from_secs(20),
        "{:?}",
        started.elapsed()
    );
    let mut answer = [0; 1024];
    let read = asked.read(&mut answer).await.unwrap();
    assert!(answer[..read].starts_with(b"HTTP/1.1 200"));
    asked.write_all(HEALTHZ).await.unwrap();
    let read = asked.read(&mut answer).await.unwrap();
    assert!(answer[..read].starts_with(b"HTTP/1.1 200"), "it goes on");
}
