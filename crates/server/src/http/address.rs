//! Where a request comes from.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use axum::http::{HeaderMap, HeaderName};
use ipnet::IpNet;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Proxies whose `X-Forwarded-For` is believed: an address or a network, like `10.0.0.5`, `10.0.0.0/8` or `fd00::/8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrustedProxy(IpNet);

/// Not a [`TrustedProxy`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an address or a network, like 10.0.0.5 or 10.0.0.0/8")]
pub struct MalformedTrustedProxy;

impl FromStr for TrustedProxy {
    type Err = MalformedTrustedProxy;

    fn from_str(text: &str) -> Result<Self, MalformedTrustedProxy> {
        let address = text.parse::<IpAddr>().map(IpNet::from);
        let network = address.or_else(|_| text.parse::<IpNet>());
        network.map(Self).map_err(|_| MalformedTrustedProxy)
    }
}

impl TrustedProxy {
    /// Whether an address is one of these proxies. An IPv4 address that is mapped into IPv6 counts as IPv4.
    pub(super) fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }
}

/// Whom limits per address count as one: an IPv4 address, or the /64 network of an IPv6 address, of which whoever has one
/// address has all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct ClientAddress(IpAddr);

impl From<IpAddr> for ClientAddress {
    fn from(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(address) => address.into(),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
            }
        })
    }
}

impl ClientAddress {
    /// The client of a request that `peer` sent: the peer, unless it is a trusted proxy. Then it is the last address of
    /// `X-Forwarded-For` that is no trusted proxy: each proxy appends whom it was asked by, so what is before that address is
    /// the client's own invention. The peer itself, where there is no such address or something else in its place.
    pub(super) fn of_request(peer: IpAddr, headers: &HeaderMap, trusted: &[TrustedProxy]) -> Self {
        let is_trusted = |address| trusted.iter().any(|proxies| proxies.contains(address));
        if !is_trusted(peer) {
            return peer.into();
        }
        for line in headers.get_all(FORWARDED_FOR).iter().rev() {
            let Ok(line) = line.to_str() else {
                return peer.into();
            };
            for entry in line.rsplit(',') {
                match address(entry.trim()) {
                    Some(address) if is_trusted(address) => {}
                    Some(address) => return address.into(),
                    None => return peer.into(),
                }
            }
        }
        peer.into()
    }
}

/// Whether a request names whom it was forwarded for.
pub(super) fn is_forwarded(headers: &HeaderMap) -> bool {
    headers.contains_key(FORWARDED_FOR)
}

/// An entry of `X-Forwarded-For`. Some proxies add a port, and then put an IPv6 address into brackets.
fn address(entry: &str) -> Option<IpAddr> {
    let bare = entry.strip_prefix('[').and_then(|entry| entry.strip_suffix(']'));
    bare.unwrap_or(entry)
        .parse()
        .or_else(|_| entry.parse::<SocketAddr>().map(|address| address.ip()))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(peer: &str, lines: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(FORWARDED_FOR, line.parse().unwrap());
        }
        let trusted = ["10.0.0.0/8", "127.0.0.1", "fd00::/16"].map(|proxies| proxies.parse().unwrap());
        ClientAddress::of_request(peer.parse().unwrap(), &headers, &trusted)
            .0
            .to_string()
    }

    #[test]
    fn the_header_of_a_stranger_is_not_looked_at() {
        for lines in [&[][..], &["1.2.3.4"], &["10.0.0.1"], &["nonsense"]] {
            assert_eq!(client("203.0.113.7", lines), "203.0.113.7");
        }
    }

    #[test]
    fn the_last_address_that_is_no_trusted_proxy_counts() {
        for (lines, expected) in [
            (&["1.2.3.4"][..], "1.2.3.4"),
            (&["9.9.9.9, 1.2.3.4"], "1.2.3.4"),
            (&["9.9.9.9,1.2.3.4 , 10.1.2.3,10.0.0.9"], "1.2.3.4"),
            (&["9.9.9.9", "1.2.3.4, 10.0.0.9"], "1.2.3.4"),
            (&["1.2.3.4", "10.0.0.9", "fd00::1"], "1.2.3.4"),
            (&["nonsense, 1.2.3.4"], "1.2.3.4"),
            (&["1.2.3.4:4711"], "1.2.3.4"),
            (&["::ffff:1.2.3.4"], "1.2.3.4"),
            (&["2001:db8:1:2:3:4:5:6"], "2001:db8:1:2::"),
            (&["[2001:db8:1:2:3:4:5:6]"], "2001:db8:1:2::"),
            (&["[2001:db8:1:2:3:4:5:6]:443"], "2001:db8:1:2::"),
        ] {
            assert_eq!(client("10.0.0.1", lines), expected, "{lines:?}");
            assert_eq!(client("::ffff:10.0.0.1", lines), expected, "{lines:?}");
        }
    }

    #[test]
    fn what_is_no_address_leaves_the_proxy_itself() {
        for lines in [
            &[][..],
            &[""],
            &["unknown"],
            &["1.2.3.4, "],
            &["1.2.3.4, unknown, 10.0.0.9"],
            &["1.2.3.4", "\u{e9}"],
            &["1.2.3.4.5"],
            &["[1.2.3.4"],
            &["10.0.0.9, 10.0.0.8"],
        ] {
            assert_eq!(client("10.0.0.1", lines), "10.0.0.1", "{lines:?}");
        }
    }

    #[test]
    fn addresses_of_one_network_of_ipv6_are_one_client() {
        let of = |text: &str| ClientAddress::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }

    #[test]
    fn a_trusted_proxy_is_an_address_or_a_network() {
        for good in ["10.0.0.1", "10.0.0.0/8", "::1", "fd00::/8"] {
            good.parse::<TrustedProxy>().unwrap();
        }
        for bad in [
            "",
            "10.0.0.0/33",
            "10.0.0",
            "proxy",
            "10.0.0.0/8,::1",
            "10.0.0.1:80",
        ] {
            assert_eq!(bad.parse::<TrustedProxy>(), Err(MalformedTrustedProxy), "{bad}");
        }
    }
}
