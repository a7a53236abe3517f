use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use tokio_postgres::config::Host;

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
    connections_max: u32,
}

/// Why a text names no store. The text is not repeated: it may hold a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StoreLocationError {
    /// The URL cannot be understood.
    #[error("not a URL of PostgreSQL: postgres://USER:PASSWORD@HOST:PORT/DATABASE")]
    PostgresUrl,
    /// No file is named.
    #[error("no file is named")]
    NoFile,
}

impl FromStr for StoreLocation {
    type Err = StoreLocationError;

    /// `postgres://…` and `postgresql://…` name a PostgreSQL database, `sqlite://FILE` and `FILE` a SQLite one.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            let config = text
                .parse::<tokio_postgres::Config>()
                .map_err(|_| StoreLocationError::PostgresUrl)?;
            return Ok(Self::Postgres(PostgresLocation {
                config: Box::new(config),
                connections_max: POSTGRES_CONNECTIONS_MAX,
            }));
        }
        let file = text.strip_prefix("sqlite://").unwrap_or(text);
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
    pub(in crate::store) fn config(&self) -> &tokio_postgres::Config {
        &self.config
    }

    pub(in crate::store) fn connections_max(&self) -> usize {
        usize::try_from(self.connections_max).unwrap_or(usize::MAX)
    }
}

impl fmt::Display for PostgresLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = match self.config.get_hosts().first() {
            Some(Host::Tcp(host)) => host.clone(),
            #[cfg(unix)]
            Some(Host::Unix(directory)) => directory.display().to_string(),
            None => String::new(),
        };
        write!(f, "postgres://{host}")?;
        if let Some(port) = self.config.get_ports().first() {
            write!(f, ":{port}")?;
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
        assert_eq!(
            "sqlite://".parse::<StoreLocation>().unwrap_err(),
            StoreLocationError::NoFile
        );
    }

    #[test]
    fn a_password_shows_nowhere() {
        let url = format!("postgres://larder:{SECRET}@db:5433/chat");
        let location: StoreLocation = url.parse().unwrap();
        assert_eq!(location.to_string(), "postgres://db:5433/chat");
        assert!(!format!("{location:?}").contains(SECRET));
        let wrong = format!("postgres://larder:{SECRET}@db:port/chat");
        let error = wrong.parse::<StoreLocation>().unwrap_err();
        assert!(!format!("{error} {error:?}").contains(SECRET));
    }
}
