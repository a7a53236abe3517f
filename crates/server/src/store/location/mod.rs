mod tls;

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use tokio_postgres::config::{Host, SslMode};

pub(super) use tls::{Authorities, Encryption};

/// Connections of one process to PostgreSQL, unless another number is said.
const POSTGRES_CONNECTIONS_MAX: u32 = 16;

/// Where the server keeps what it stores.
#[derive(Debug, Clone)]
pub enum StoreLocation {
    /// A SQLite database in this file; created when absent.
    Sqlite(PathBuf),
    /// A PostgreSQL database, which must exist.
    Postgres(PostgresLocation),
}

/// A PostgreSQL database and how to log in. It shows neither user nor password.
#[derive(Clone)]
pub struct PostgresLocation {
    config: Box<tokio_postgres::Config>,
    encryption: Encryption,
    connections_max: u32,
}

/// Why a text names no store. The text is not repeated: it may hold a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StoreLocationError {
    /// The URL cannot be understood.
    #[error("not a URL of PostgreSQL: postgres://USER:PASSWORD@HOST:PORT/DATABASE")]
    PostgresUrl,
    /// The URL has an option that is not known.
    #[error(
        "the URL of PostgreSQL has an option that is not known here; of TLS, sslmode, sslrootcert, sslnegotiation and \
         channel_binding are"
    )]
    Option,
    /// `sslmode` has another value than those that are known.
    #[error("sslmode is one of disable, prefer, require, verify-ca and verify-full")]
    SslMode,
    /// `sslrootcert` and `sslmode` do not go together.
    #[error(
        "sslrootcert=FILE goes with sslmode=require, verify-ca and verify-full, and sslrootcert=system with verify-full \
         alone; verify-ca needs a FILE"
    )]
    RootCertificates,
    /// It is a connection string of libpq, or a URL of another kind: a file of that name would be made.
    #[error(
        "neither a file nor a URL that is known here: sqlite://FILE or postgres://USER:PASSWORD@HOST:PORT/DATABASE"
    )]
    Kind,
    /// No file is named.
    #[error("no file is named")]
    NoFile,
}

/// What a connection string of libpq may begin with; `sqlite://host=a` is a file all the same.
const LIBPQ_KEYWORDS: [&str; 9] = [
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "sslmode",
    "service",
    "application_name",
];

/// Whether a text that names no scheme known here looks like something else than a file.
fn is_no_file(text: &str) -> bool {
    let keyword = text.split_once('=').map(|(keyword, _)| keyword.trim());
    text.contains("://") || keyword.is_some_and(|keyword| LIBPQ_KEYWORDS.contains(&keyword))
}

impl FromStr for StoreLocation {
    type Err = StoreLocationError;

    /// `postgres://…` and `postgresql://…` name a PostgreSQL database, `sqlite://FILE` and `FILE` a SQLite one.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            return Ok(Self::Postgres(PostgresLocation::of_url(text)?));
        }
        let file = match text.strip_prefix("sqlite://") {
            Some(file) => file,
            None if is_no_file(text) => return Err(StoreLocationError::Kind),
            None => text,
        };
        if file.is_empty() {
            return Err(StoreLocationError::NoFile);
        }
        Ok(Self::Sqlite(PathBuf::from(file)))
    }
}

impl StoreLocation {
    /// The same place; where it is PostgreSQL, for so many connections of one process at most, beside the one that listens.
    /// At least 1.
    #[must_use]
    pub fn with_postgres_connections(self, most: u32) -> Self {
        match self {
            Self::Sqlite(file) => Self::Sqlite(file),
            Self::Postgres(location) => Self::Postgres(PostgresLocation {
                connections_max: most.max(1),
                ..location
            }),
        }
    }
}

impl From<PathBuf> for StoreLocation {
    fn from(file: PathBuf) -> Self {
        Self::Sqlite(file)
    }
}

impl fmt::Display for StoreLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(file) => write!(f, "{}", file.display()),
            Self::Postgres(location) => write!(f, "{location}"),
        }
    }
}

impl PostgresLocation {
    fn of_url(url: &str) -> Result<Self, StoreLocationError> {
        let (url, encryption) = tls::take_out(url)?;
        let mut config: tokio_postgres::Config = url.parse().map_err(|_| StoreLocationError::PostgresUrl)?;
        // As libpq has it: there is no TLS on a Unix socket.
        let sockets = !config.get_hosts().is_empty() && config.get_hosts().iter().all(is_socket);
        config.ssl_mode(if sockets {
            SslMode::Disable
        } else {
            encryption.mode()
        });
        Ok(Self {
            config: Box::new(config),
            encryption,
            connections_max: POSTGRES_CONNECTIONS_MAX,
        })
    }

    pub(in crate::store) fn config(&self) -> &tokio_postgres::Config {
        &self.config
    }

    pub(in crate::store) fn connections_max(&self) -> usize {
        usize::try_from(self.connections_max).unwrap_or(usize::MAX)
    }

    pub(in crate::store) fn encryption(&self) -> &Encryption {
        &self.encryption
    }

    /// The names of the hosts that are not this machine, as the driver tells them for TLS: empty for one that has only an
    /// address.
    pub(in crate::store) fn remote_names(&self) -> BTreeSet<String> {
        let (hosts, addresses) = (self.config.get_hosts(), self.config.get_hostaddrs());
        let remote = (0..hosts.len().max(addresses.len())).filter_map(|index| {
            let name = match hosts.get(index) {
                Some(Host::Tcp(name)) => name.as_str(),
                #[cfg(unix)]
                Some(Host::Unix(_)) => return None,
                None => "",
            };
            let local = match addresses.get(index) {
                Some(address) => address.is_loopback(),
                None => is_this_machine(name),
            };
            (!local).then(|| name.to_owned())
        });
        remote.collect()
    }
}

fn is_socket(host: &Host) -> bool {
    match host {
        Host::Tcp(_) => false,
        #[cfg(unix)]
        Host::Unix(_) => true,
    }
}

fn is_this_machine(name: &str) -> bool {
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

impl fmt::Display for PostgresLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("postgres://")?;
        let ports = self.config.get_ports();
        for (index, host) in self.config.get_hosts().iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            match host {
                Host::Tcp(host) if host.contains(':') => write!(f, "[{host}]")?,
                Host::Tcp(host) => f.write_str(host)?,
                #[cfg(unix)]
                Host::Unix(directory) => write!(f, "{}", directory.display())?,
            }
            if let Some(port) = ports.get(index).or(ports.first()) {
                write!(f, ":{port}")?;
            }
        }
        write!(f, "/{}", self.config.get_dbname().unwrap_or_default())
    }
}

impl fmt::Debug for PostgresLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "correct-horse";

    #[test]
    fn a_url_of_postgresql_and_a_file_are_told_apart() {
        for url in [
            "postgres://db/larder",
            "postgresql://db:5433/larder?application_name=x",
        ] {
            assert!(matches!(url.parse(), Ok(StoreLocation::Postgres(_))), "{url}");
        }
        for (text, file) in [
            ("larder.db", "larder.db"),
            ("sqlite:///var/lib/larder.db", "/var/lib/larder.db"),
            ("sqlite://larder.db", "larder.db"),
        ] {
            assert!(
                matches!(text.parse(), Ok(StoreLocation::Sqlite(found)) if found == std::path::Path::new(file))
            );
        }
        for (text, expected) in [
            ("sqlite://", StoreLocationError::NoFile),
            ("host=db dbname=larder", StoreLocationError::Kind),
            (" dbname = larder", StoreLocationError::Kind),
            ("mysql://db/larder", StoreLocationError::Kind),
            ("Postgres://db/larder", StoreLocationError::Kind),
        ] {
            assert_eq!(text.parse::<StoreLocation>().unwrap_err(), expected, "{text}");
        }
        for text in ["sqlite://host=db", "a=b.db"] {
            assert!(matches!(text.parse(), Ok(StoreLocation::Sqlite(_))), "{text}");
        }
    }

    #[test]
    fn a_host_that_is_not_this_machine_is_recognised() {
        for (url, expected) in [
            ("postgres://localhost/x", &[][..]),
            ("postgres://127.0.0.9,[::1]/x", &[]),
            ("postgres://%2Frun%2Fpostgresql/x", &[]),
            ("postgres://localhost,db/x", &["db"]),
            ("postgres://db/x?hostaddr=127.0.0.1", &[]),
            ("postgres://localhost/x?hostaddr=192.0.2.1", &["localhost"]),
            ("postgres:///x?hostaddr=192.0.2.1", &[""]),
            ("postgres://[2001:db8::1]:5/x", &["2001:db8::1"]),
        ] {
            let Ok(StoreLocation::Postgres(location)) = url.parse() else {
                panic!("{url}");
            };
            assert!(location.remote_names().iter().eq(expected), "{url}");
        }
    }

    #[test]
    fn every_host_is_shown() {
        let location: StoreLocation = "postgres://a:1,[::1]:2/chat".parse().unwrap();
        assert_eq!(location.to_string(), "postgres://a:1,[::1]:2/chat");
    }

    #[test]
    fn a_password_shows_nowhere() {
        let url = format!("postgres://larder:{SECRET}@db:5433/chat");
        let location: StoreLocation = url.parse().unwrap();
        assert_eq!(location.to_string(), "postgres://db:5433/chat");
        assert!(!format!("{location:?}").contains(SECRET));
        for wrong in [
            "db:port/chat",
            "db/chat?sslmode=no",
            "db/chat?correct=horse",
            "db?sslrootcert=",
        ] {
            let wrong = format!("postgres://larder:{SECRET}@{wrong}");
            let error = wrong.parse::<StoreLocation>().unwrap_err();
            assert!(!format!("{error} {error:?}").contains(SECRET));
        }
    }
}
