//! The part of a PostgreSQL URL that says how connections are encrypted. The driver's own parser knows less of it.

use std::borrow::Cow;
use std::path::PathBuf;

use percent_encoding::percent_decode_str;
use tokio_postgres::config::SslMode;

use super::StoreLocationError;

/// The other options, which the driver understands.
const OPTIONS: [&str; 18] = [
    "user",
    "password",
    "dbname",
    "options",
    "application_name",
    "sslnegotiation",
    "host",
    "hostaddr",
    "port",
    "connect_timeout",
    "tcp_user_timeout",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_retries",
    "target_session_attrs",
    "channel_binding",
    "load_balance_hosts",
];

/// How a connection to PostgreSQL is encrypted, and what of the server's certificate is verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store) enum Encryption {
    /// Never encrypted.
    Disabled,
    /// Encrypted if the server has TLS. Nothing is verified.
    Preferred,
    /// Always encrypted. Nothing is verified.
    Required,
    /// Always encrypted; the certificate comes from an authority in this file.
    Authority(PathBuf),
    /// Always encrypted; the certificate comes from one of these authorities and is for the name of the host.
    Name(Authorities),
}

/// Who issues certificates that are believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store) enum Authorities {
    /// Those of the operating system.
    System,
    /// Those in a PEM file.
    File(PathBuf),
}

impl Encryption {
    /// What the driver has to know of it.
    pub(in crate::store) fn mode(&self) -> SslMode {
        match self {
            Self::Disabled => SslMode::Disable,
            Self::Preferred => SslMode::Prefer,
            Self::Required | Self::Authority(_) | Self::Name(_) => SslMode::Require,
        }
    }

    /// From the options of these names, as libpq reads them. Where libpq would not verify anything although it was given
    /// authorities, it is refused here; without a mode, authorities mean that all is verified.
    fn of(sslmode: Option<&str>, sslrootcert: Option<&str>) -> Result<Self, StoreLocationError> {
        let authorities = sslrootcert.map(|text| match text {
            "system" => Authorities::System,
            file => Authorities::File(PathBuf::from(file)),
        });
        Ok(match (sslmode, authorities) {
            (_, Some(Authorities::File(file))) if file.as_os_str().is_empty() => {
                return Err(StoreLocationError::RootCertificates);
            }
            (None | Some("verify-full"), Some(authorities)) => Self::Name(authorities),
            (Some("verify-full"), None) => Self::Name(Authorities::System),
            (Some("verify-ca" | "require"), Some(Authorities::File(file))) => Self::Authority(file),
            // Anybody can have a certificate of an authority that everybody believes.
            (Some("verify-ca"), None | Some(Authorities::System))
            | (Some("require" | "prefer" | "disable"), Some(_)) => {
                return Err(StoreLocationError::RootCertificates);
            }
            (Some("require"), None) => Self::Required,
            (None | Some("prefer"), None) => Self::Preferred,
            (Some("disable"), None) => Self::Disabled,
            (Some(_), _) => return Err(StoreLocationError::SslMode),
        })
    }
}

/// Takes the options of this module out of a URL. Returns the URL without them.
pub(super) fn take_out(url: &str) -> Result<(String, Encryption), StoreLocationError> {
    let Some(start) = query_of(url) else {
        return Ok((url.to_owned(), Encryption::of(None, None)?));
    };
    let (rest, query) = url.split_at(start);
    let (mut sslmode, mut sslrootcert, mut others) = (None, None, Vec::new());
    for option in query[1..].split('&').filter(|option| !option.is_empty()) {
        let (key, value) = option.split_once('=').ok_or(StoreLocationError::PostgresUrl)?;
        match &*decoded(key)? {
            "sslmode" => sslmode = Some(decoded(value)?),
            "sslrootcert" => sslrootcert = Some(decoded(value)?),
            known if OPTIONS.contains(&known) => others.push(option),
            _ => return Err(StoreLocationError::Option),
        }
    }
    let encryption = Encryption::of(sslmode.as_deref(), sslrootcert.as_deref())?;
    let url = match others.is_empty() {
        true => rest.to_owned(),
        false => format!("{rest}?{}", others.join("&")),
    };
    Ok((url, encryption))
}

/// Where the query begins, as the driver sees it: all before the first `@` is of the login, question marks included.
fn query_of(url: &str) -> Option<usize> {
    let login = url.find('@').unwrap_or(0);
    Some(login + url[login..].find('?')?)
}

fn decoded(text: &str) -> Result<Cow<'_, str>, StoreLocationError> {
    percent_decode_str(text)
        .decode_utf8()
        .map_err(|_| StoreLocationError::PostgresUrl)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encryption(query: &str) -> Result<Encryption, StoreLocationError> {
        take_out(&format!("postgres://db/larder{query}")).map(|(_, encryption)| encryption)
    }

    #[test]
    fn each_mode_verifies_what_it_says() {
        let file = || PathBuf::from("/etc/ca.pem");
        for (query, expected) in [
            ("", Encryption::Preferred),
            ("?sslmode=disable", Encryption::Disabled),
            ("?sslmode=prefer", Encryption::Preferred),
            ("?sslmode=require", Encryption::Required),
            (
                "?sslmode=require&sslrootcert=/etc/ca.pem",
                Encryption::Authority(file()),
            ),
            (
                "?sslrootcert=/etc/ca.pem&sslmode=verify-ca",
                Encryption::Authority(file()),
            ),
            ("?sslmode=verify-full", Encryption::Name(Authorities::System)),
            (
                "?sslmode=verify-full&sslrootcert=system",
                Encryption::Name(Authorities::System),
            ),
            (
                "?sslrootcert=%2Fetc%2Fca.pem",
                Encryption::Name(Authorities::File(file())),
            ),
        ] {
            assert_eq!(encryption(query), Ok(expected), "{query}");
        }
    }

    #[test]
    fn what_would_verify_less_than_it_seems_is_refused() {
        for (query, expected) in [
            ("?sslmode=allow", StoreLocationError::SslMode),
            ("?sslmode=", StoreLocationError::SslMode),
            ("?sslmode=verify_full", StoreLocationError::SslMode),
            (
                "?sslmode=verify-full&sslrootcert=",
                StoreLocationError::RootCertificates,
            ),
            ("?sslmode=verify-ca", StoreLocationError::RootCertificates),
            (
                "?sslmode=verify-ca&sslrootcert=system",
                StoreLocationError::RootCertificates,
            ),
            (
                "?sslmode=require&sslrootcert=system",
                StoreLocationError::RootCertificates,
            ),
            (
                "?sslmode=prefer&sslrootcert=/etc/ca.pem",
                StoreLocationError::RootCertificates,
            ),
            (
                "?sslmode=disable&sslrootcert=/etc/ca.pem",
                StoreLocationError::RootCertificates,
            ),
            ("?sslcert=/etc/me.pem", StoreLocationError::Option),
            ("?sslmode", StoreLocationError::PostgresUrl),
            ("?sslrootcert=%ff", StoreLocationError::PostgresUrl),
        ] {
            assert_eq!(encryption(query), Err(expected), "{query}");
        }
    }

    #[test]
    fn the_rest_of_the_url_stays_as_it_is() {
        for (url, rest) in [
            ("postgres://db/x?ssl%6Dode=require", "postgres://db/x"),
            (
                "postgres://u:a?sslmode=b@h1:1,h2:2/x?application_name=a%26b&sslmode=require&port=3",
                "postgres://u:a?sslmode=b@h1:1,h2:2/x?application_name=a%26b&port=3",
            ),
        ] {
            assert_eq!(
                take_out(url),
                Ok((rest.to_owned(), Encryption::Required)),
                "{url}"
            );
        }
    }
}
