//! What one address may do: how many connections it has open, and how much it asks for without a session.
//!
//! All of it is in this node's memory and bounded: of the addresses that did something, those that did nothing for longest are
//! forgotten first.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::extract::{FromRequestParts, Request, State};
use axum::http::Extensions;
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use larder_lifecycle::{Rate, UnixSeconds};
use lru::LruCache;

use super::App;
use super::address::{ClientAddress, is_forwarded};
use super::problem::Failure;
use crate::config::AddressLimits;
use crate::error::rate_limited;
use crate::sessions::SessionKey;

/// Addresses that are remembered for each limit.
const ADDRESSES_MAX: usize = 64 * 1024;
/// Sessions that are remembered to have been good.
const SESSIONS_MAX: usize = 64 * 1024;
/// So many seconds' worth of requests without a session may come at once.
const REQUEST_BURST_SECONDS: u32 = 60;
/// What the rate of uploads counts, in bytes: MiB that were begun.
const UPLOAD_UNIT_BYTES: u64 = 1024 * 1024;

/// The limits of all addresses.
pub(super) struct Admission {
    limits: AddressLimits,
    connections: Arc<Mutex<HashMap<ClientAddress, usize>>>,
    requests: Meter,
    registrations: Meter,
    uploads: Meter,
    /// Those who come with one of these are no strangers, whoever else has their address.
    sessions: Mutex<LruCache<SessionKey, ()>>,
    /// Whether it was logged that a proxy may be missing among the trusted ones.
    warned: AtomicBool,
}

/// An open connection of an address, given back when it is dropped.
pub(super) struct ConnectionPlace {
    /// None of a trusted proxy.
    address: Option<ClientAddress>,
    connections: Arc<Mutex<HashMap<ClientAddress, usize>>>,
}

impl ConnectionPlace {
    /// Whether the connection is that of a trusted proxy.
    pub(super) fn is_of_a_proxy(&self) -> bool {
        self.address.is_none()
    }
}

impl Drop for ConnectionPlace {
    fn drop(&mut self) {
        let Some(address) = self.address else {
            return;
        };
        let mut connections = lock(&self.connections);
        if let Some(open) = connections.get_mut(&address) {
            *open -= 1;
            if *open == 0 {
                connections.remove(&address);
            }
        }
    }
}

impl Admission {
    pub(super) fn new(limits: AddressLimits) -> Self {
        let requests = NonZeroU32::new(limits.requests_per_second).map(|per_second| {
            let rate = Rate {
                burst: REQUEST_BURST_SECONDS,
                interval_seconds: 1,
            };
            (rate, per_second.get())
        });
        Self {
            requests: Meter::new(requests),
            registrations: Meter::new(limits.registrations.map(|rate| (rate, 1))),
            uploads: Meter::new(limits.upload_mibs.map(|rate| (rate, 1))),
            limits,
            connections: Arc::default(),
            sessions: Mutex::new(LruCache::unbounded()),
            warned: AtomicBool::new(false),
        }
    }

    /// A place for another connection of a peer; `None` while it has as many as one address may.
    pub(super) fn connect(&self, peer: IpAddr) -> Option<ConnectionPlace> {
        let is_proxy = self
            .limits
            .trusted_proxies
            .iter()
            .any(|proxies| proxies.contains(peer));
        let address = (!is_proxy).then(|| ClientAddress::from(peer));
        if let Some(address) = address {
            let mut connections = lock(&self.connections);
            let open = connections.entry(address).or_default();
            if self
                .limits
                .connections_max
                .is_some_and(|most| *open >= most.get())
            {
                return None;
            }
            *open += 1;
        }
        Some(ConnectionPlace {
            address,
            connections: Arc::clone(&self.connections),
        })
    }

    /// Says once that clients may count as one address because their proxy is not trusted.
    fn warn_of_proxy(&self) {
        if self.limits.trusted_proxies.is_empty() && !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "a request has X-Forwarded-For: if a proxy of yours sent it, name the proxy with --trusted-proxy, or all \
                 who come through it count as one address"
            );
        }
    }
}

/// The peer of a connection.
#[derive(Clone, Copy)]
pub(super) struct Peer(pub(super) IpAddr);

/// Who sends a request, as far as the network tells.
#[derive(Clone)]
struct Known {
    address: ClientAddress,
    admission: Arc<Admission>,
    now: UnixSeconds,
}

/// The same, or nobody: in a router without the accept loop there are no addresses, and no limits for them.
#[derive(Clone)]
pub(super) struct Client(Option<Known>);

impl Client {
    fn of(extensions: &Extensions) -> Self {
        Self(extensions.get::<Known>().cloned())
    }

    /// Counts a request without a session. Refuses with `rate-limited`.
    pub(super) fn ask(&self) -> Result<(), Failure> {
        self.take(|admission| &admission.requests, 1)
    }

    /// Counts a request whose session is to be looked up, unless the session was good lately. It is counted until
    /// [`is_known`](Self::is_known), so that made-up tokens are requests without a session. Refuses with `rate-limited`.
    pub(super) fn ask_with(&self, session: &SessionKey) -> Result<Asked, Failure> {
        let is_known = self
            .0
            .as_ref()
            .is_none_or(|known| lock(&known.admission.sessions).get(session).is_some());
        if !is_known {
            self.ask()?;
        }
        Ok(Asked {
            session: *session,
            is_counted: !is_known,
        })
    }

    /// The session is good: the request does not count as one without a session.
    pub(super) fn is_known(&self, asked: &Asked) {
        let Some(known) = self.0.as_ref().filter(|_| asked.is_counted) else {
            return;
        };
        known.admission.requests.give_back(known.address);
        let mut sessions = lock(&known.admission.sessions);
        sessions.put(asked.session, ());
        if sessions.len() > SESSIONS_MAX {
            sessions.pop_lru();
        }
    }

    /// The session is not, or no longer: who comes with it is a stranger.
    pub(super) fn is_unknown(&self, asked: &Asked) {
        if let Some(known) = &self.0 {
            lock(&known.admission.sessions).pop(&asked.session);
        }
    }

    /// Counts a registration, whatever comes of it. Refuses with `rate-limited`.
    pub(super) fn register(&self) -> Result<(), Failure> {
        self.take(|admission| &admission.registrations, 1)
    }

    /// Counts a blob of so many bytes, in whole MiB. Refuses with `rate-limited`.
    pub(super) fn upload(&self, bytes: u64) -> Result<(), Failure> {
        let units = u32::try_from(bytes.div_ceil(UPLOAD_UNIT_BYTES)).unwrap_or(u32::MAX);
        self.take(|admission| &admission.uploads, units)
    }

    fn take(&self, meter: impl Fn(&Admission) -> &Meter, units: u32) -> Result<(), Failure> {
        let Some(known) = &self.0 else {
            return Ok(());
        };
        let taken = meter(&known.admission).take(known.address, units, known.now);
        taken.map_err(|wait| rate_limited(wait).into())
    }
}

/// A request with a session that is to be looked up.
pub(super) struct Asked {
    session: SessionKey,
    is_counted: bool,
}

impl<S: Sync> FromRequestParts<S> for Client {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::of(&parts.extensions))
    }
}

/// Notes who sends a request, for the limits of addresses.
pub(super) async fn addressed(State(app): State<App>, mut request: Request, next: Next) -> Response {
    if let Some(Peer(peer)) = request.extensions().get().copied() {
        let trusted = &app.admission.limits.trusted_proxies;
        if is_forwarded(request.headers()) {
            app.admission.warn_of_proxy();
        }
        let known = Known {
            address: ClientAddress::of_request(peer, request.headers(), trusted),
            now: app.service.now(),
            admission: app.admission,
        };
        request.extensions_mut().insert(known);
    }
    next.run(request).await
}

/// Counts a request to where no session is needed.
pub(super) async fn stranger(request: Request, next: Next) -> Response {
    match Client::of(request.extensions()).ask() {
        Ok(()) => next.run(request).await,
        Err(failure) => failure.into_response(),
    }
}

/// How often something may happen for each address.
struct Meter {
    /// How often so many of it may happen; `None` for as often as one likes.
    rate: Option<(Rate, u32)>,
    spent: Mutex<LruCache<ClientAddress, Spent>>,
}

/// What an address has used of a rate.
#[derive(Debug, Clone, Copy, Default)]
struct Spent {
    /// The memory of the rate.
    forgotten_at: Option<UnixSeconds>,
    /// What it has taken of the rate and not used.
    left: u32,
}

impl Meter {
    fn new(rate: Option<(Rate, u32)>) -> Self {
        Self {
            rate,
            spent: Mutex::new(LruCache::unbounded()),
        }
    }

    /// Lets it happen for an address, so many times or not at all.
    ///
    /// # Errors
    /// How long to wait, in seconds; at least 1.
    fn take(&self, address: ClientAddress, units: u32, now: UnixSeconds) -> Result<(), u64> {
        let Some((rate, at_a_time)) = self.rate else {
            return Ok(());
        };
        let mut addresses = lock(&self.spent);
        let mut spent = addresses.get(&address).copied().unwrap_or_default();
        // More than all that may happen at once could never happen.
        for _ in 0..units.min(rate.burst.saturating_mul(at_a_time)) {
            if spent.left == 0 {
                spent.forgotten_at = Some(rate.take(spent.forgotten_at, now)?);
                spent.left = at_a_time;
            }
            spent.left -= 1;
        }
        addresses.put(address, spent);
        if addresses.len() > ADDRESSES_MAX {
            addresses.pop_lru();
        }
        Ok(())
    }

    /// Undoes one that was let happen.
    fn give_back(&self, address: ClientAddress) {
        if let Some(spent) = lock(&self.spent).get_mut(&address) {
            spent.left = spent.left.saturating_add(1);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;

    const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

    fn address(number: u32) -> ClientAddress {
        IpAddr::from(number.to_be_bytes()).into()
    }

    fn meter(burst: u32, at_a_time: u32) -> Meter {
        let rate = Rate {
            burst,
            interval_seconds: 10,
        };
        Meter::new(Some((rate, at_a_time)))
    }

    #[test]
    fn an_address_uses_its_own_rate_and_no_other() {
        let meter = meter(2, 3);
        for _ in 0..6 {
            assert_eq!(meter.take(address(1), 1, NOW), Ok(()));
        }
        assert_eq!(meter.take(address(1), 1, NOW), Err(10));
        assert_eq!(meter.take(address(2), 1, NOW), Ok(()));
        for _ in 0..3 {
            assert_eq!(meter.take(address(1), 1, NOW.plus(10)), Ok(()));
        }
        assert_eq!(meter.take(address(1), 1, NOW.plus(10)), Err(10));
        meter.give_back(address(1));
        assert_eq!(meter.take(address(1), 1, NOW.plus(10)), Ok(()));
    }

    #[test]
    fn several_units_are_taken_together_or_not_at_all() {
        let meter = meter(4, 1);
        assert_eq!(meter.take(address(1), 3, NOW), Ok(()));
        assert_eq!(meter.take(address(1), 2, NOW), Err(10));
        assert_eq!(meter.take(address(1), 1, NOW), Ok(()), "nothing was taken");
        assert_eq!(meter.take(address(2), 9, NOW), Ok(()), "as much as there ever is");
    }

    #[test]
    fn so_many_addresses_are_remembered_and_those_in_use_stay() {
        let meter = meter(1, 1);
        for number in 0..=u32::try_from(ADDRESSES_MAX).unwrap() * 2 {
            let _ = meter.take(address(number), 1, NOW);
            // Refused as it is, it is one of those in use.
            assert_eq!(meter.take(address(0), 1, NOW), Err(10));
        }
        assert_eq!(lock(&meter.spent).len(), ADDRESSES_MAX);
        assert_eq!(meter.take(address(1), 1, NOW), Ok(()), "long forgotten");
    }

    #[test]
    fn a_connection_keeps_its_place_until_it_is_dropped() {
        let admission = Admission::new(AddressLimits {
            connections_max: NonZeroUsize::new(2),
            trusted_proxies: vec!["10.0.0.1".parse().unwrap()],
            ..AddressLimits::default()
        });
        let (one, other, proxy) = ([10, 0, 0, 9].into(), [10, 0, 0, 8].into(), [10, 0, 0, 1].into());
        let (first, _second) = (admission.connect(one), admission.connect(one));
        assert!(first.is_some() && admission.connect(one).is_none());
        assert!(admission.connect(other).is_some());
        let of_proxy: Vec<_> = (0..9).map(|_| admission.connect(proxy)).collect();
        assert!(of_proxy.iter().all(Option::is_some));
        drop(first);
        let third = admission.connect(one);
        assert!(third.is_some() && admission.connect(one).is_none());
        drop((third, _second));
        assert!(lock(&admission.connections).is_empty());
    }
}
