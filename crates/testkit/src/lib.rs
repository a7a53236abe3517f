//! What the tests of several crates play the attacker with.
//!
//! * [`Proxy`] stands between a client and a real server. It sees every request, and its rule loses, holds, answers or
//!   rewrites any of them: the server as its operator could have changed it.
//! * [`FakeServer`] has no server behind it. It answers what a closure says, or falls silent, drips and floods.
//!
//! * [`TlsFront`] terminates TLS in front of a server, with a good certificate or one that must not do.
//! * [`PostgresCluster`] is a PostgreSQL server that a test starts when it likes, with TLS or without.
//!
//! An attack is a rule of a few lines:
//!
//! ```no_run
//! # let url = "http://127.0.0.1:4000";
//! # fn answer() {}
//! use larder_testkit::Proxy;
//! use larder_wire::Inbox;
//!
//! let proxy = Proxy::start(url);
//! proxy.lie("POST", "/v1/inbox/next", |inbox: &mut Inbox| {
//!     for row in &mut inbox.rows {
//!         row.seq = u64::MAX >> 1;
//!     }
//! });
//! // … a client whose server is `proxy.url` …
//! proxy.forward();
//! ```
//!
//! **Architecture invariant.** Only tests depend on this crate. It speaks HTTP/1.1 over plain sockets and knows of Larder
//! no more than the types of `larder-wire`, so that it can lie about all of it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "where the kit cannot go on, the test fails"
)]

mod fake_server;
mod http;
mod postgres;
mod proxy;
mod tls_front;

pub use fake_server::{FakeServer, Reply};
pub use http::{Answer, Seen};
pub use postgres::PostgresCluster;
pub use proxy::{Action, Proxy, flip_last, keeps_no_commits, tamper_inbox};
pub use tls_front::{ANOTHER_AUTHORITY, AUTHORITY, ServerCertificate, TlsFront};
