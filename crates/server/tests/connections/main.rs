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

/// Fails unless opening comes to what is expected.
async fn expect(url: &str, expected: Expected) {
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

/// What opening a store comes to: nothing for success, or why not and the beginning of what is said.
type Expected = Option<(PostgresErrorKind, &'static str)>;

/// Hosts with the rest of a URL, of a server that shows a certificate for `localhost` and 127.0.0.1.
fn verified(authorities: &Authorities) -> Vec<(&'static str, String, Expected)> {
    let unknown = Some((
        PostgresErrorKind::Tls,
        "the certificate of PostgreSQL comes from an authority that is not trusted",
    ));
    let elsewhere = Some((
        PostgresErrorKind::Tls,
        "the certificate of PostgreSQL is for another name",
    ));
    let no_file = Some((PostgresErrorKind::Tls, "sslrootcert: "));
    let file = |mode: &str, name: &str| format!("sslmode={mode}&sslrootcert={}", authorities.file(name));
    let here = |query: String| format!("{query}&hostaddr=127.0.0.1");
    vec![
        ("localhost", "sslmode=disable".to_owned(), None),
        ("localhost", "sslmode=prefer".to_owned(), None),
        ("localhost", "sslmode=require".to_owned(), None),
        ("db.example", here("sslmode=require".to_owned()), None),
        ("db.example", here(file("require", "good.pem")), None),
        ("localhost", file("require", "other.pem"), unknown),
        ("db.example", here(file("verify-ca", "good.pem")), None),
        ("localhost", file("verify-ca", "other.pem"), unknown),
        ("localhost", file("verify-full", "good.pem"), None),
        ("127.0.0.1", file("verify-full", "good.pem"), None),
        (
            "localhost",
            format!("sslrootcert={}", authorities.file("good.pem")),
            None,
        ),
        ("localhost", file("verify-full", "other.pem"), unknown),
        ("db.example", here(file("verify-full", "good.pem")), elsewhere),
        ("localhost", file("verify-full", "absent.pem"), no_file),
        ("localhost", file("verify-full", "empty.pem"), no_file),
    ]
}

#[tokio::test]
async fn a_certificate_is_verified_as_far_as_is_asked() {
    let cluster = PostgresCluster::create(Some(ServerCertificate::Good));
    cluster.start();
    let authorities = Authorities::write();
    for (host, query, expected) in verified(&authorities) {
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
