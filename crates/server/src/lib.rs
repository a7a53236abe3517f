//! The Larder server: a directory of single-use KeyPackages and a delivery service for MLS groups (RFC 9750).
//!
//! [`Service`] is everything that a client can ask for, with typed requests and answers; [`router`] puts it behind
//! HTTP and [`serve`] runs it; [`Metrics`] counts what it does, and [`Admin`] is for the operator of its store. Inside,
//! `accounts`, `directory`, `delivery` and `blobs` decide over one `store`, each request in one transaction (a blob comes
//! in parts, each in its own): load, apply the
//! pure transition of `larder-lifecycle`, compare and set, audit, commit. Only then is the caller answered and are
//! receivers woken.
//!
//! # Architecture invariant
//!
//! Absent here: private keys, plaintexts, group names; clocks (a [`Clock`] is passed in) and terminals. No bytes of a
//! KeyPackage leave before its reservation is on disk.

mod accounts;
mod admin;
mod blobs;
mod clock;
mod config;
mod delivery;
mod directory;
mod error;
mod http;
mod metrics;
mod random;
mod service;
mod sessions;
mod store;
mod suites;
mod transfers;
mod wakeups;

pub use admin::{
    Admin, BackupError, Checked, Finding, FindingCode, Invitation, InvitationId, MalformedInvitationId,
    NewInvitation, Restored, backup_sqlite,
};
pub use config::{AddressLimits, BlobLimits, Clock, Config, ServerLimits};
pub use error::{Fault, ServiceError};
pub use http::{MalformedTrustedProxy, TrustedProxy, openapi, router, serve};
pub use metrics::{Metrics, MetricsTaken};
pub use service::{BlobDownload, BlobUpload, Caller, Service, Swept};
pub use store::{PostgresError, PostgresErrorKind, PostgresLocation, StoreLocation, StoreLocationError};
pub use suites::{UnusableSuites, check_group_suites};
