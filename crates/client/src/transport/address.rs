//! Addresses of servers, and which of them may be talked to without TLS.

use std::net::IpAddr;

use reqwest::Url;

use crate::access::Access;
use crate::error::Error;

/// Where a server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// On this machine.
    Here,
    /// Others may be on the way.
    Elsewhere,
}

/// The address of a server: a scheme, a host, perhaps a port, and nothing else.
fn address(server: &str) -> Result<(Url, Place), Error> {
    let base = Url::parse(server).map_err(|_| Error::InvalidServer)?;
    let is_root = base.path() == "/" && base.query().is_none() && base.fragment().is_none();
    let is_anonymous = base.username().is_empty() && base.password().is_none();
    let host = base.host_str().ok_or(Error::InvalidServer)?;
    if !matches!(base.scheme(), "http" | "https") || !is_root || !is_anonymous {
        return Err(Error::InvalidServer);
    }
    let number = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .parse::<IpAddr>();
    let place = match host == "localhost" || number.is_ok_and(|number| number.is_loopback()) {
        true => Place::Here,
        false => Place::Elsewhere,
    };
    Ok((base, place))
}

/// The address of a server that may be talked to in this way.
pub(super) fn require_access(server: &str, access: &Access) -> Result<(Url, Place), Error> {
    let (base, place) = address(server)?;
    match (base.scheme(), place) {
        ("http", Place::Elsewhere) if !access.insecure_http => Err(Error::InsecureHttp {
            server: without_slash(&base),
        }),
        _ => Ok((base, place)),
    }
}

/// The address as it is stored and shown.
pub(super) fn without_slash(base: &Url) -> String {
    base.as_str().trim_end_matches('/').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(insecure_http: bool) -> Access {
        Access {
            insecure_http,
            authorities: None,
        }
    }

    #[test]
    fn addresses_are_http_with_a_host_and_nothing_else() {
        let (base, _) = require_access("http://127.0.0.1:4000/", &Access::default()).unwrap();
        assert_eq!(without_slash(&base), "http://127.0.0.1:4000");
        for bad in [
            "127.0.0.1:4000",
            "ftp://a",
            "http://a/b",
            "http://u@a",
            "http://:p@a",
            "http://a?x=1",
            "",
        ] {
            assert!(
                matches!(require_access(bad, &allowed(true)), Err(Error::InvalidServer)),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn plain_http_beyond_this_machine_has_to_be_allowed() {
        for here in [
            "http://localhost:4000",
            "http://127.0.0.1",
            "http://127.1.2.3:1",
            "http://127.1",
            "http://[::1]:4000",
            "HTTP://LOCALHOST",
        ] {
            assert!(require_access(here, &allowed(false)).is_ok(), "{here}");
        }
        for elsewhere in [
            "http://vm:5300",
            "http://10.0.0.1",
            "http://0.0.0.0:4000",
            "http://localhost.example",
            "http://127.0.0.1.example",
            "http://[::2]",
            "http://[::ffff:10.0.0.1]",
            "http://[fe80::1]",
        ] {
            let refused = require_access(elsewhere, &allowed(false));
            assert!(matches!(refused, Err(Error::InsecureHttp { .. })), "{elsewhere}");
            assert!(require_access(elsewhere, &allowed(true)).is_ok(), "{elsewhere}");
        }
    }
}
