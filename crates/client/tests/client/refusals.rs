//! Refused is not unreachable, and unreachable is not refused: each is told by name, and in time.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use crate::support::{self, Client, TestServer, options, user};
use larder_client::{
    Access, Authorities, CertificateFlaw, Error, GroupKey, MlsConnection, NotTheServer, SendStatus,
    Unreachable,
};
use larder_testkit::{
    ANOTHER_AUTHORITY, AUTHORITY, Action, Answer, FakeServer, Proxy, Reply, Seen, ServerCertificate, TlsFront,
};
use larder_wire::ProblemType;

/// Far longer than a request may take, and shorter than three attempts of one that waits for its own end.
const PATIENCE: Duration = Duration::from_secs(55);

/// How far each message of a group got, the oldest first.
async fn statuses(client: &Client, group: &GroupKey) -> Vec<SendStatus> {
    let mut rows = client.history_before(group, None, 50).await.unwrap();
    rows.retain(|message| message.mine && message.text == "hello");
    rows.iter().map(|message| message.status).collect()
}

/// Sends a message that has to wait, and tells the code of the reason.
async fn waits(client: &Client, group: &GroupKey) -> &'static str {
    let sent = client.send(group, "hello").await.unwrap();
    assert_eq!(sent.status, SendStatus::Pending);
    let because = sent.because.expect("a reason");
    because.code()
}

#[tokio::test]
async fn a_removed_device_is_told_so_and_its_messages_fail() {
    let server = TestServer::start().await;
    let alice = server.client("alice").await;
    let group = alice.create_group("lunch").await.unwrap().id;
    alice.post(&group, "hello").await.unwrap();
    alice
        .post_file(&group, "menu", "text/plain", vec![7; 9])
        .await
        .unwrap();
    alice.remove_device(&alice.me().device_id.clone()).await.unwrap();
    for _ in 0..2 {
        let refused = alice.send(&group, "hello").await.unwrap_err();
        assert_eq!(refused.code(), "device-removed");
        assert!(!refused.is_temporary());
    }
    assert_eq!(statuses(&alice, &group).await, [SendStatus::Failed; 3]);
    assert!(
        alice.rows_that_are(SendStatus::Pending).await.is_empty(),
        "nothing claims that it will be sent"
    );
    let refused = alice.attach(&group, "menu", "text/plain", vec![7; 9]).await;
    assert_eq!(refused.unwrap_err().code(), "device-removed");
    assert_eq!(
        alice.rename_group(&group, "dinner").await.unwrap_err().code(),
        "device-removed"
    );
    assert_eq!(alice.sync().await.unwrap_err().code(), "device-removed");
}

#[tokio::test]
async fn a_server_that_lost_the_account_is_told_by_name() {
    let mut server = TestServer::start().await;
    let mut alice = server.client("alice").await;
    let group = alice.create_group("lunch").await.unwrap().id;
    server.replace("localhost").await;
    alice.restart().await;
    assert_eq!(waits(&alice, &group).await, "unknown-account");
    let error = alice.sync().await.unwrap_err();
    assert!(
        matches!(error, Error::UnknownAccount) && !error.is_temporary(),
        "{error:?}"
    );
    assert_eq!(
        alice.rename_group(&group, "dinner").await.unwrap_err().code(),
        "unknown-account"
    );
}

#[tokio::test]
async fn a_server_of_another_name_is_told_by_both_names() {
    let mut server = TestServer::start().await;
    let mut alice = server.client("alice").await;
    let group = alice.create_group("lunch").await.unwrap().id;
    server.replace(&"elsewhere.".repeat(20)).await;
    alice.restart().await;
    assert_eq!(waits(&alice, &group).await, "foreign-server");
    match alice.sync().await.unwrap_err() {
        Error::NotTheServer(NotTheServer::Foreign { expected, found }) => {
            assert_eq!(expected, "localhost");
            assert!(found.starts_with("elsewhere.") && found.len() == 64, "{found}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_is_no_larder_server_is_told_by_name() {
    let server = TestServer::start().await;
    let (alice, proxy) = server.proxied("alice").await;
    let group = alice.create_group("lunch").await.unwrap().id;
    let html = |status| Answer::of_type(status, "text/html", "<html>hello</html>");
    for answer in [
        html(200),
        html(403),
        html(404),
        Answer::json(200, &"something"),
        Answer::json(200, &[1, 2]),
        Answer::of_type(200, "application/json", vec![b'['; 100_000]),
        // Nothing is unpacked: this is no JSON.
        Answer::of_type(200, "application/json", [0x1f, 0x8b, 8, 0]).with_header("Content-Encoding", "gzip"),
        html(404).with_header("Retry-After", "4000000000"),
        Answer::of_type(404, "text/html", vec![b' '; 1_000_000]),
    ] {
        proxy.rule(move |_| Action::Answer(answer.clone()));
        assert_eq!(waits(&alice, &group).await, "not-larder");
        assert_eq!(alice.sync().await.unwrap_err().code(), "not-larder");
    }
    proxy.forward();
    alice.sync().await.unwrap();
    assert!(
        statuses(&alice, &group)
            .await
            .iter()
            .all(|status| *status == SendStatus::Sent)
    );
}

#[tokio::test]
async fn a_redirection_is_not_followed_and_no_token_goes_there() {
    let server = TestServer::start().await;
    let (alice, proxy) = server.proxied("alice").await;
    let thief = FakeServer::start(|_| Reply::Answer(Answer::empty(200)));
    let there = format!("{}/v1/inbox", thief.url);
    for status in [301, 302, 303, 307, 308] {
        let there = there.clone();
        proxy.rule(move |_| Action::Answer(Answer::empty(status).with_header("Location", there.clone())));
        assert_eq!(alice.sync().await.unwrap_err().code(), "not-larder");
    }
    assert_eq!(thief.seen(), []);
}

#[tokio::test]
async fn what_a_proxy_finds_too_large_fails_and_blocks_nothing() {
    let server = TestServer::start().await;
    let (alice, proxy) = server.proxied("alice").await;
    let bob = server.client("bob").await;
    let group = alice.create_group("lunch").await.unwrap().id;
    let full = || Answer::of_type(413, "text/html", "<html>413 Request Entity Too Large</html>");
    for path in ["/messages", "/blobs", "/commits"] {
        proxy.rule_for("POST", path, move |_| Action::Answer(full()));
        let refused = match path {
            "/messages" => alice.send(&group, "hello").await.map(drop),
            "/blobs" => alice
                .attach(&group, "a", "text/plain", vec![7; 9])
                .await
                .map(drop),
            _ => alice.invite(&group, &[user("bob")]).await.map(drop),
        };
        let refused = refused.unwrap_err();
        assert_eq!(refused.code(), "too-large", "{path}");
        assert!(refused.to_string().contains("a proxy"), "{refused}");
        assert_eq!(
            alice.rows_that_are(SendStatus::Pending).await,
            Vec::<i64>::new(),
            "{path}"
        );
    }
    assert_eq!(statuses(&alice, &group).await, [SendStatus::Failed]);
    proxy.forward();
    alice.invite(&group, &[user("bob")]).await.unwrap();
    assert_eq!(alice.retry(&group).await.unwrap(), 2);
    bob.sync().await.unwrap();
    assert_eq!(statuses(&alice, &group).await, [SendStatus::Sent]);
}

#[tokio::test]
async fn a_proxy_without_an_answer_is_asked_again() {
    let server = TestServer::start().await;
    let (alice, proxy) = server.proxied("alice").await;
    for status in [408, 429, 500, 502, 503, 504] {
        let mut is_first = true;
        proxy.rule_for("POST", "/v1/inbox/next", move |_| {
            match std::mem::take(&mut is_first) {
                true => Action::Answer(Answer::of_type(status, "text/html", "<html>")),
                false => Action::Forward,
            }
        });
        alice.sync().await.unwrap();
        proxy.rule_for("POST", "/v1/inbox/next", move |_| {
            Action::Answer(Answer::empty(status).with_header("Retry-After", "4000000000"))
        });
        let error = alice.sync().await.unwrap_err();
        assert!(
            matches!(error, Error::Unreachable(Unreachable::Gateway { status: told }) if told == status),
            "{error:?}"
        );
    }
    // A problem of ours is believed, and not for ever.
    proxy.rule(|_| {
        let unavailable = Answer::problem(ProblemType::Unavailable);
        Action::Answer(unavailable.with_header("Retry-After", "4000000000"))
    });
    let error = alice.sync().await.unwrap_err();
    assert!(error.is_temporary() && error.retry_after().unwrap() <= Duration::from_secs(3600));
}

/// Sends what came by once more, as a proxy may, before it is forwarded.
fn double(server: &str, seen: &Seen) {
    let mut connection = TcpStream::connect(server.trim_start_matches("http://")).unwrap();
    let mut head = format!("{} {} HTTP/1.1\r\nconnection: close\r\n", seen.method, seen.path);
    for (name, value) in &seen.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    connection
        .write_all(&[head.as_bytes(), &seen.body].concat())
        .unwrap();
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).unwrap();
    assert!(
        answer.starts_with(b"HTTP/1.1 200"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
}

#[tokio::test]
async fn a_session_request_that_was_doubled_or_lost_is_made_anew() {
    let server = TestServer::start().await;
    let (mut alice, proxy) = server.proxied("alice").await;
    for lost in [false, true] {
        alice.restart().await;
        let url = server.url.clone();
        let mut is_first = true;
        proxy.rule_for("POST", "/v1/sessions", move |seen| {
            match (std::mem::take(&mut is_first), lost) {
                (true, true) => Action::CutAfter,
                (true, false) => {
                    double(&url, seen);
                    Action::Forward
                }
                (false, _) => Action::Forward,
            }
        });
        alice.sync().await.unwrap();
    }
    // Once: who is not known stays so.
    alice.restart().await;
    let before = proxy.seen("POST", "/v1/sessions").len();
    proxy.rule_for("POST", "/v1/sessions", |_| {
        Action::Answer(Answer::problem(ProblemType::Unauthenticated))
    });
    assert_eq!(alice.sync().await.unwrap_err().code(), "unknown-account");
    assert_eq!(proxy.seen("POST", "/v1/sessions").len() - before, 2);
}

/// It takes as long as a request may: 20 seconds.
#[tokio::test]
async fn a_request_ends_at_its_deadline_whatever_is_answered() {
    let second = Duration::from_secs(1);
    let drip = Answer::of_type(200, "application/json", vec![b' '; 1000]);
    let silent = FakeServer::start(|_| Reply::Silence);
    let dripping = FakeServer::start(move |_| Reply::Drip(drip.clone(), second));
    let flood = Answer::of_type(200, "application/json", vec![b' '; 1 << 20]);
    let flooding = FakeServer::start(move |_| Reply::Flood(flood.clone()));
    let headers = FakeServer::start(|_| {
        Reply::Bytes([b"HTTP/1.1 200 OK\r\n".to_vec(), b"x-a: b\r\n".repeat(1_000_000)].concat())
    });
    let check = async |server: &FakeServer| {
        let access = Access::default();
        let checked = tokio::time::timeout(PATIENCE, MlsConnection::check_server(&server.url, &access));
        checked.await.expect("it ended").unwrap_err()
    };
    let (silent, dripping, flooding, headers) = tokio::join!(
        check(&silent),
        check(&dripping),
        check(&flooding),
        check(&headers)
    );
    for error in [silent, dripping] {
        let is_late = matches!(error, Error::Unreachable(Unreachable::TimedOut { seconds: 20 }));
        assert!(is_late, "{error:?}");
    }
    assert_eq!(flooding.code(), "too-much");
    assert_eq!(headers.code(), "unreachable");
}

/// It takes as long as a request may: 20 seconds.
#[tokio::test]
async fn a_silent_server_keeps_a_message_waiting_only_once() {
    let server = TestServer::start().await;
    let (mut alice, proxy) = server.proxied("alice").await;
    let group = alice.create_group("lunch").await.unwrap().id;
    alice.restart().await;
    let silent = FakeServer::start(|_| Reply::Silence);
    let url = silent.url.clone();
    // Held where no answer comes: the request waits there, and so does who made it.
    proxy.rule(move |seen| {
        let mut there = TcpStream::connect(url.trim_start_matches("http://")).unwrap();
        let _ = there.write_all(format!("{} / HTTP/1.1\r\n\r\n", seen.method).as_bytes());
        let _ = there.read(&mut [0]);
        Action::CutBefore
    });
    let sent = tokio::time::timeout(PATIENCE, alice.send(&group, "hello"));
    let sent = sent.await.expect("it ended").unwrap();
    assert_eq!(sent.status, SendStatus::Pending);
    assert_eq!(sent.because.unwrap().code(), "unreachable");
}

#[tokio::test]
async fn where_nobody_listens_and_no_name_leads_is_told() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = format!("http://{}", free.local_addr().unwrap());
    drop(free);
    let access = Access {
        insecure_http: true,
        authorities: None,
    };
    let error = MlsConnection::check_server(&nobody, &access).await.unwrap_err();
    assert!(
        matches!(error, Error::Unreachable(Unreachable::Connect(_))),
        "{error:?}"
    );
    let error = MlsConnection::check_server("http://nowhere.invalid", &access)
        .await
        .unwrap_err();
    // Where nobody resolves names it takes until the connection's time is over.
    let is_told = matches!(
        error,
        Error::Unreachable(Unreachable::Resolve(_) | Unreachable::Connect(_) | Unreachable::TimedOut { .. })
    );
    assert!(is_told, "{error:?}");
}

#[tokio::test]
async fn a_certificate_that_does_not_verify_is_told_with_its_flaw() {
    let server = TestServer::start().await;
    let trusting = |pem: &str| Access {
        insecure_http: false,
        authorities: Some(Authorities::from_pem(pem.as_bytes()).unwrap()),
    };
    for (shown, pem, flaw) in [
        (
            ServerCertificate::Good,
            ANOTHER_AUTHORITY,
            CertificateFlaw::UnknownIssuer,
        ),
        (ServerCertificate::Expired, AUTHORITY, CertificateFlaw::Expired),
        (ServerCertificate::Future, AUTHORITY, CertificateFlaw::NotYetValid),
        (
            ServerCertificate::Elsewhere,
            AUTHORITY,
            CertificateFlaw::WrongName,
        ),
    ] {
        let front = TlsFront::start(&server.url, shown);
        match MlsConnection::check_server(&front.url, &trusting(pem))
            .await
            .unwrap_err()
        {
            Error::NotTheServer(NotTheServer::Certificate(found)) => assert_eq!(found, flaw),
            other => panic!("{shown:?}: {other:?}"),
        }
    }
    // Several may be in one file.
    let both = format!("{ANOTHER_AUTHORITY}{AUTHORITY}");
    let front = TlsFront::start(&server.url, ServerCertificate::Good);
    MlsConnection::check_server(&front.url, &trusting(&both))
        .await
        .unwrap();
    // TLS is asked for where there is none.
    let plain = server.url.replace("http:", "https:");
    let error = MlsConnection::check_server(&plain, &trusting(AUTHORITY))
        .await
        .unwrap_err();
    assert_eq!(error.code(), "tls", "{error:?}");
}

#[tokio::test]
async fn a_profile_remembers_how_its_server_may_be_talked_to() {
    let server = TestServer::start().await;
    let front = TlsFront::start(&server.url, ServerCertificate::Good);
    let directory = tempfile::tempdir().unwrap();
    let mut trusting = options(directory.path());
    trusting.access.authorities = Some(Authorities::from_pem(AUTHORITY.as_bytes()).unwrap());
    drop(
        MlsConnection::register(trusting, &front.url, user("alice"))
            .await
            .unwrap(),
    );
    let alice = MlsConnection::open(options(directory.path())).await.unwrap();
    alice.sync().await.unwrap();
    let image = alice.export().await.unwrap();
    drop(alice);
    let mut distrusting = options(directory.path());
    distrusting.access.authorities = Some(Authorities::from_pem(ANOTHER_AUTHORITY.as_bytes()).unwrap());
    let alice = MlsConnection::open(distrusting).await.unwrap();
    assert_eq!(alice.sync().await.unwrap_err().code(), "certificate");
    drop(alice);
    let copy = tempfile::tempdir().unwrap();
    MlsConnection::import(copy.path(), None, &image, &Access::default(), support::now()).unwrap();
    let alice = MlsConnection::open(options(copy.path())).await.unwrap();
    alice.sync().await.unwrap();
}

/// 0.0.0.0 is an address beyond this machine to who looks at it, and leads to this machine on most systems.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn http_beyond_this_machine_is_refused_until_it_is_allowed() {
    let server = TestServer::start().await;
    let proxy = Proxy::start(&server.url);
    let url = proxy.url.replace("127.0.0.1", "0.0.0.0");
    let directory = tempfile::tempdir().unwrap();
    let open = || MlsConnection::open(options(directory.path()));
    let refused = MlsConnection::register(options(directory.path()), &url, user("alice")).await;
    assert_eq!(refused.unwrap_err().code(), "insecure-http");
    let refused = MlsConnection::link(options(directory.path()), &url, user("alice")).await;
    assert_eq!(refused.unwrap_err().code(), "insecure-http");
    assert_eq!(proxy.seen("GET", "/larder"), [], "nothing was sent");
    let mut allowing = options(directory.path());
    allowing.access.insecure_http = true;
    drop(
        MlsConnection::register(allowing.clone(), &url, user("alice"))
            .await
            .unwrap(),
    );
    let alice = open().await.unwrap();
    alice.sync().await.unwrap();
    let image = alice.export().await.unwrap();
    drop(alice);

    // A profile of a time when nobody had to be asked.
    let forget = |profile: &std::path::Path| {
        let database = rusqlite::Connection::open(profile.join("larder.db")).unwrap();
        database
            .execute("UPDATE profile SET insecure_http = 0", [])
            .unwrap();
    };
    forget(directory.path());
    assert_eq!(open().await.unwrap_err().code(), "insecure-http");
    drop(MlsConnection::open(allowing).await.unwrap());
    open().await.unwrap();

    let copy = tempfile::tempdir().unwrap();
    MlsConnection::import(copy.path(), None, &image, &Access::default(), support::now()).unwrap();
    MlsConnection::open(options(copy.path())).await.unwrap();
    forget(copy.path());
    let alice = MlsConnection::open(options(copy.path())).await;
    assert_eq!(alice.unwrap_err().code(), "insecure-http");
}
