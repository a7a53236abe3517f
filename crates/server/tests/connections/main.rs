//! Connections to PostgreSQL: TLS, several hosts, logins, poolers. Each test has a cluster of its own.

#![expect(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

mod pooler;

use std::sync::Arc;

use larder_lifecycle::{ClockReading, UnixSeconds};
use larder_server::{Config, Fault, PostgresErrorKind, Service, StoreLocation};
use larder_testkit::{ANOTHER_AUTHORITY, AUTHORITY, PostgresCluster, ServerCertificate};
use pooler::{Lending, Pooler};

/// Opens a server's store at this URL, as a server that starts does. It would wait for longer than any test.
async fn open(url: &str) -> Result<Service, (PostgresErrorKind, String)> {
    let mut config = Config::new(url.parse::<StoreLocation>().unwrap());
    config.postgres_wait_seconds = 3600;
    let clock = || ClockReading {
        wall: UnixSeconds(1_800_000_000),
        since_boot: 1,
    };
    match Service::open(config, Arc::new(clock)).await {
        Ok(service) => Ok(service),
        Err(Fault::Postgres(error)) => Err((error.kind(), error.to_string())),
        Err(fault) => panic!("{fault}"),
    }
}

/// Fails unless opening comes to what is expected: nothing for success, or the beginning of what is said.
async fn expect(url: &str, expected: Option<(PostgresErrorKind, &str)>) {
    match (open(url).await, expected) {
        (Ok(_), None) => {}
        (Err((kind, message)), Some((expected, beginning)))
            if kind == expected && message.starts_with(beginning) => {}
        (opened, expected) => panic!("{url}: {:?}, not {expected:?}", opened.err()),
    }
}

/// Files of authorities.
struct Authorities {
    directory: tempfile::TempDir,
}

impl Authorities {
    fn write() -> Self {
        let directory = tempfile::tempdir().unwrap();
        for (name, pem) in [
            ("good.pem", AUTHORITY),
            ("other.pem", ANOTHER_AUTHORITY),
            ("empty.pem", ""),
        ] {
            std::fs::write(directory.path().join(name), pem).unwrap();
        }
        Self { directory }
    }

    /// The value of `sslrootcert`.
    fn file(&self, name: &str) -> String {
        let path = self.directory.path().join(name);
        path.to_str().unwrap().replace('/', "%2F")
    }
}

#[tokio::test]
async fn a_certificate_is_verified_as_far_as_is_asked() {
    const UNKNOWN: (PostgresErrorKind, &str) = (
        PostgresErrorKind::Tls,
        "the certificate of PostgreSQL comes from an authority that is not trusted",
    );
    const ELSEWHERE: (PostgresErrorKind, &str) = (
        PostgresErrorKind::Tls,
        "the certificate of PostgreSQL is for another name",
    );
    const NO_FILE: (PostgresErrorKind, &str) = (PostgresErrorKind::Tls, "sslrootcert: ");
    let cluster = PostgresCluster::create(Some(ServerCertificate::Good));
    cluster.start();
    let authorities = Authorities::write();
    let (good, other) = (authorities.file("good.pem"), authorities.file("other.pem"));
    let elsewhere = "&hostaddr=127.0.0.1";
    for (host, query, expected) in [
        ("localhost", "sslmode=disable".to_owned(), None),
        ("localhost", "sslmode=prefer".to_owned(), None),
        ("localhost", "sslmode=require".to_owned(), None),
        ("db.example", format!("sslmode=require{elsewhere}"), None),
        (
            "db.example",
            format!("sslmode=require&sslrootcert={good}{elsewhere}"),
            None,
        ),
        (
            "localhost",
            format!("sslmode=require&sslrootcert={other}"),
            Some(UNKNOWN),
        ),
        (
            "db.example",
            format!("sslmode=verify-ca&sslrootcert={good}{elsewhere}"),
            None,
        ),
        (
            "localhost",
            format!("sslmode=verify-ca&sslrootcert={other}"),
            Some(UNKNOWN),
        ),
        (
            "localhost",
            format!("sslmode=verify-full&sslrootcert={good}"),
            None,
        ),
        (
            "127.0.0.1",
            format!("sslmode=verify-full&sslrootcert={good}"),
            None,
        ),
        ("localhost", format!("sslrootcert={good}"), None),
        (
            "localhost",
            format!("sslmode=verify-full&sslrootcert={other}"),
            Some(UNKNOWN),
        ),
        (
            "db.example",
            format!("sslmode=verify-full&sslrootcert={good}{elsewhere}"),
            Some(ELSEWHERE),
        ),
        (
            "localhost",
            format!(
                "sslmode=verify-full&sslrootcert={}",
                authorities.file("absent.pem")
            ),
            Some(NO_FILE),
        ),
        (
            "localhost",
            format!(
                "sslmode=verify-full&sslrootcert={}",
                authorities.file("empty.pem")
            ),
            Some(NO_FILE),
        ),
    ] {
        let url = format!("postgres://larder@{host}:{}/postgres?{query}", cluster.port());
        expect(&url, expected).await;
    }
}

#[tokio::test]
async fn each_host_is_verified_by_its_own_name() {
    let cluster = PostgresCluster::create(Some(ServerCertificate::Good));
    cluster.start();
    let good = Authorities::write();
    let (port, file) = (cluster.port(), good.file("good.pem"));
    let of_both = |first: &str, second: &str| {
        format!(
            "postgres://larder@{first}:{port},{second}:{port}/postgres?hostaddr=127.0.0.1,127.0.0.1&sslmode=verify-full\
             &sslrootcert={file}&target_session_attrs=read-write"
        )
    };
    expect(&of_both("db.example", "localhost"), None).await;
    expect(&of_both("localhost", "db.example"), None).await;
    let refused = (
        PostgresErrorKind::Tls,
        "the certificate of PostgreSQL is for another name",
    );
    expect(&of_both("db.example", "other.example"), Some(refused)).await;
}

#[tokio::test]
async fn a_login_is_bound_to_its_connection_and_not_waited_for() {
    let cluster = PostgresCluster::create(Some(ServerCertificate::Good));
    cluster.start();
    cluster.execute("CREATE ROLE locked SUPERUSER LOGIN PASSWORD 'correct-horse'");
    let url = |login: &str, rest: &str| format!("postgres://{login}@localhost:{}/{rest}", cluster.port());
    let bound = "postgres?sslmode=require&channel_binding=require";
    expect(&url("locked:correct-horse", bound), None).await;
    for (login, rest, beginning) in [
        ("locked:battery-staple", bound, "password authentication failed"),
        ("larder", "absent", "database \"absent\" does not exist"),
        ("nobody-here", "postgres", "role \"nobody-here\" does not exist"),
    ] {
        let refused = open(&url(login, rest)).await.err().unwrap();
        assert_eq!(refused.0, PostgresErrorKind::Login, "{refused:?}");
        assert!(refused.1.starts_with(beginning), "{refused:?}");
        assert!(!refused.1.contains("battery"), "{refused:?}");
    }
}

#[tokio::test]
async fn a_server_without_tls_will_do_only_where_none_is_asked_for() {
    let cluster = PostgresCluster::create(None);
    cluster.start();
    let url = |query: &str| {
        format!(
            "postgres://larder@localhost:{}/postgres?sslmode={query}",
            cluster.port()
        )
    };
    expect(&url("disable"), None).await;
    expect(&url("prefer"), None).await;
    let refused = (
        PostgresErrorKind::Tls,
        "PostgreSQL offers no TLS, which sslmode asks for",
    );
    expect(&url("require"), Some(refused)).await;
    let authorities = Authorities::write();
    let verified = format!("verify-full&sslrootcert={}", authorities.file("good.pem"));
    expect(&url(&verified), Some(refused)).await;
}

#[tokio::test]
async fn a_pooler_that_shares_sessions_is_refused() {
    let cluster = PostgresCluster::create(None);
    cluster.start();
    for (lending, expected) in [
        (Lending::ForSessions, None),
        (
            Lending::LastUsed,
            Some((PostgresErrorKind::SharedSessions, "there is a pooler in front")),
        ),
        (
            Lending::InTurn,
            Some((PostgresErrorKind::SharedSessions, "there is a pooler in front")),
        ),
    ] {
        let pooler = Pooler::start(cluster.port(), lending);
        expect(
            &format!("postgres://larder@127.0.0.1:{}/postgres", pooler.port),
            expected,
        )
        .await;
    }
}
