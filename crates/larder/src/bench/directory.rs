//! `bench server`: what reservations, reads, uploads and sessions cost, among so many stored KeyPackages.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::bare::{self, BareServer, GroupCommit, SkipLocked};
use super::device::{Device, Http};
use super::fill::{self, POOL, Stock};
use super::load::{self, Extent, Load, Work};
use super::store::{Place, Store};
use super::{AT_ONCE, progress, rounded};
use crate::record::Measured;

/// What an answer to a reserve request looks like to HTTP.
const ANSWER_BYTES: usize = 700;
/// Rows to be handed out by the bare statement: more than it takes.
const STOCK_ROWS: i64 = 1_000_000;
/// What a group commit writes for each KeyPackage.
const ROW_BYTES: usize = 300;

/// What is measured, and how often.
pub(super) struct Plan {
    /// KeyPackages in the directory.
    pub(super) stored: Vec<u64>,
    pub(super) reservers: u64,
    /// KeyPackages of one device beside them.
    pub(super) hot: u64,
    /// Requests under way at once.
    pub(super) connections: &'static [usize],
    pub(super) rounds: usize,
    /// How long one round takes, ours and each limit.
    pub(super) time: Duration,
    /// Devices that upload and open sessions, and how many batches each uploads: a device has 64 at most.
    pub(super) uploaders: usize,
    pub(super) batches: usize,
}

impl Plan {
    pub(super) fn full(stored: Option<u64>) -> Self {
        Self {
            stored: stored.map_or_else(|| vec![10_000, 100_000, 1_000_000], |stored| vec![stored]),
            reservers: 20_000,
            hot: 60_000,
            connections: &[32, 128],
            rounds: 3,
            time: Duration::from_secs(2),
            uploaders: 128,
            batches: 2,
        }
    }

    pub(super) fn quick(stored: Option<u64>) -> Self {
        Self {
            stored: vec![stored.unwrap_or(640)],
            reservers: 20,
            hot: 200,
            connections: &[4],
            rounds: 1,
            time: Duration::from_millis(200),
            uploaders: 2,
            batches: 1,
        }
    }
}

/// Rounds of one work: ours, and its limits.
struct Rounds {
    ours: Vec<Load>,
    limits: Vec<Vec<f64>>,
    http_p99: Vec<Duration>,
}

/// Whose KeyPackages are reserved.
struct Asked {
    work: &'static str,
    /// How many at most in a round.
    each: usize,
    /// The number of the next request.
    next: usize,
    user: Arc<dyn Fn(u64) -> String + Send + Sync>,
}

/// What a run is measured on.
struct Bench<'a> {
    store: &'a Store,
    address: SocketAddr,
    stock: Stock,
    plan: &'a Plan,
}

/// Measures everything among so many KeyPackages, and prints each figure as soon as it is known.
pub(super) async fn measure(
    store: &Store,
    plan: &Plan,
    stored: u64,
    print: impl Fn(Vec<Measured>) -> Result<()>,
) -> Result<()> {
    let stock = Stock {
        stored,
        reservers: plan.reservers,
        hot: plan.hot,
    };
    // The server makes the schema.
    store.serve().await?.0.end().await?;
    progress(&format!("storing {stored} KeyPackages"));
    fill::fill(&store.place(), stock).await?;
    let (server, url) = store.serve().await?;
    let address = url.strip_prefix("http://").context("an address")?.parse()?;
    let bench = Bench {
        store,
        address,
        stock,
        plan,
    };
    print(bench.reservations().await?)?;
    print(bench.reads().await?)?;
    let http = Http::new(&url)?;
    let devices: Vec<Device> = stream::iter(0..plan.uploaders)
        .map(|number| {
            let http = http.clone();
            async move { Device::register(&http, &format!("uploader{number}"), 0).await }
        })
        .buffered(AT_ONCE)
        .try_collect()
        .await?;
    print(vec![bench.uploads(&devices).await?])?;
    print(vec![bench.sessions(&devices).await?])?;
    server.end().await
}

impl Bench<'_> {
    /// Reservations of one KeyPackage each, by many users: of devices that nobody asked before, and all of one device.
    async fn reservations(&self) -> Result<Vec<Measured>> {
        let bare = BareServer::answering("x".repeat(ANSWER_BYTES))?;
        let commit = match self.store.place() {
            Place::Sqlite(_) => {
                let row = vec![0x5a; ROW_BYTES];
                Durable::GroupCommit(GroupCommit::start(self.store.path(), row)?)
            }
            Place::Postgres(url) => {
                let owners = i64::try_from(self.stock.targets())?;
                Durable::SkipLocked(SkipLocked::fill(&url, owners, STOCK_ROWS / owners + 1).await?)
            }
        };
        let limits = (&bare, &commit);
        let (stock, targets) = (self.stock, self.stock.targets());
        let mut rows = Vec::new();
        let mut spread = Asked {
            work: "reserve",
            // A fourth of each pool stays.
            each: usize::try_from(stock.stored * 3 / 4)? / self.rounds(),
            next: 0,
            user: Arc::new(move |number| fill::target(number % targets)),
        };
        for connections in self.plan.connections {
            progress(&format!("reserving over {connections} connections"));
            rows.extend(self.reserve(&mut spread, *connections, limits).await?);
        }
        let mut hot = Asked {
            work: "reserve_hot",
            each: usize::try_from(stock.hot)? / self.rounds(),
            next: 0,
            user: Arc::new(|_| fill::HOT.to_owned()),
        };
        for connections in self.plan.connections {
            progress(&format!("reserving of one device over {connections} connections"));
            rows.extend(self.reserve(&mut hot, *connections, limits).await?);
        }
        Ok(rows)
    }

    fn rounds(&self) -> usize {
        (self.plan.connections.len() * self.plan.rounds).max(1)
    }

    async fn reserve(
        &self,
        asked: &mut Asked,
        connections: usize,
        (bare, commit): (&BareServer, &Durable),
    ) -> Result<Vec<Measured>> {
        let (stock, targets, user) = (self.stock, self.stock.targets(), Arc::clone(&asked.user));
        let work = Work {
            address: self.address,
            request: Arc::new(move |number| {
                let number = number as u64;
                // Nobody asks twice for the same device, which is not allowed more than a few times.
                let reserver = (number * 7 + number / targets) % stock.reservers;
                load::request(
                    "POST",
                    "/v1/key-packages/reserve",
                    Some(&fill::token(reserver)),
                    Some(&reserve_request(&user(number))),
                )
            }),
            good: r#""outcome":"ok""#,
        };
        let http_work = Work {
            address: bare.address,
            good: "",
            ..work.clone()
        };
        let mut measured = Rounds::new(2);
        for _ in 0..self.plan.rounds {
            let range = asked.next..asked.next + asked.each;
            let ours = load::run(&work, self.extent(connections, range)).await?;
            asked.next = ours.next;
            measured.ours.push(ours);
            let http = load::run(&http_work, self.extent(connections, 0..usize::MAX)).await?;
            measured.http_p99.push(http.p99);
            measured.limits[0].push(http.rate);
            measured.limits[1].push(commit.rate(connections, self.plan.time).await?);
        }
        let mut rows = vec![
            self.row(asked.work, connections, &measured, (0, "HTTP alone")),
            self.row(asked.work, connections, &measured, (1, commit.name())),
        ];
        if asked.work == "reserve" {
            let p99 = |times: Vec<Duration>| super::median(times).as_secs_f64() * 1000.0;
            let (larder, limit) = (
                p99(measured.ours.iter().map(|load| load.p99).collect()),
                p99(measured.http_p99),
            );
            rows.push(Measured {
                unit: "ms",
                larder: rounded(larder),
                limit: rounded(limit),
                ratio: rounded(larder / limit),
                ..self.measured("reserve_p99", connections, "HTTP alone")
            });
        }
        Ok(rows)
    }

    /// Reads of one's own pool in numbers.
    async fn reads(&self) -> Result<Vec<Measured>> {
        let reservers = self.stock.reservers;
        let work = Work {
            address: self.address,
            request: Arc::new(move |number| {
                let token = fill::token(number as u64 % reservers);
                load::request("GET", "/v1/key-packages/status", Some(&token), None)
            }),
            good: "suites",
        };
        let health = Work {
            request: Arc::new(|_| load::request("GET", "/healthz", None, None)),
            good: "",
            ..work.clone()
        };
        let mut rows = Vec::new();
        for connections in self.plan.connections {
            progress(&format!("reading over {connections} connections"));
            let mut measured = Rounds::new(1);
            for _ in 0..self.plan.rounds {
                let extent = self.extent(*connections, 0..usize::MAX);
                measured.ours.push(load::run(&work, extent.clone()).await?);
                measured.limits[0].push(load::run(&health, extent).await?.rate);
            }
            rows.push(self.row("read", *connections, &measured, (0, "/healthz")));
        }
        Ok(rows)
    }

    /// Uploads of a pool, minted before.
    async fn uploads(&self, devices: &[Device]) -> Result<Measured> {
        progress("uploading");
        let mut batches = Vec::new();
        for _ in 0..self.plan.batches {
            for device in devices {
                batches.push(device.batch(POOL as usize)?);
            }
        }
        let batches: Arc<[Vec<u8>]> = batches.into();
        let count = batches.len();
        let work = Work {
            address: self.address,
            request: Arc::new(move |number| batches.get(number).cloned().unwrap_or_default()),
            good: r#""outcome":"accepted""#,
        };
        let connections = self.plan.connections.first().copied().unwrap_or(1);
        let mut measured = Rounds::new(1);
        let each = (count / self.plan.rounds).max(1);
        let pool = devices.first().context("nobody uploads")?.pool(POOL as usize)?;
        for round in 0..self.plan.rounds {
            let range = round * each..((round + 1) * each).min(count);
            measured
                .ours
                .push(load::run(&work, self.extent(connections, range)).await?);
            measured.limits[0].push(bare::check_rate(&pool, self.plan.time).await?);
        }
        Ok(self.row(
            "upload",
            connections,
            &measured,
            (0, "the same checked by OpenMLS alone"),
        ))
    }

    /// Sessions: a challenge, and the answer to it.
    async fn sessions(&self, devices: &[Device]) -> Result<Measured> {
        progress("opening sessions");
        let bare = BareServer::answering("x".repeat(ANSWER_BYTES / 2))?;
        let http_work = Work {
            address: bare.address,
            request: Arc::new(|_| load::request("POST", "/", None, Some("{}"))),
            good: "",
        };
        let connections = self.plan.connections.first().copied().unwrap_or(1);
        let mut measured = Rounds::new(1);
        for _ in 0..self.plan.rounds {
            let (started, until) = (Instant::now(), Instant::now() + self.plan.time);
            let opening = devices.iter().take(connections).map(|device| async move {
                let mut times = Vec::new();
                while times.is_empty() || Instant::now() < until {
                    let asked = Instant::now();
                    device.new_session().await?;
                    times.push(asked.elapsed());
                }
                anyhow::Ok(times)
            });
            let times = futures_util::future::try_join_all(opening).await?.concat();
            measured.ours.push(Load {
                rate: times.len() as f64 / started.elapsed().as_secs_f64(),
                p99: times.iter().max().copied().unwrap_or_default(),
                next: 0,
            });
            let http = load::run(&http_work, self.extent(connections, 0..usize::MAX)).await?;
            measured.limits[0].push(http.rate / 2.0);
        }
        Ok(self.row(
            "session",
            connections,
            &measured,
            (0, "two requests of HTTP alone"),
        ))
    }

    fn extent(&self, connections: usize, requests: std::ops::Range<usize>) -> Extent {
        Extent {
            connections,
            requests,
            time: self.plan.time,
        }
    }

    fn measured(&self, work: &'static str, connections: usize, limit_of: &'static str) -> Measured {
        Measured {
            work,
            devices: None,
            connections: Some(connections),
            stored: Some(self.stock.stored),
            engine: self.store.engine(),
            unit: "requests/s",
            larder: 0.0,
            limit: 0.0,
            ratio: 0.0,
            limit_of,
            samples: self.plan.rounds,
        }
    }

    fn row(
        &self,
        work: &'static str,
        connections: usize,
        rounds: &Rounds,
        (limit, limit_of): (usize, &'static str),
    ) -> Measured {
        let larder = middle(rounds.ours.iter().map(|load| load.rate).collect());
        let limit = middle(rounds.limits.get(limit).cloned().unwrap_or_default());
        Measured {
            larder: larder.round(),
            limit: limit.round(),
            ratio: rounded(larder / limit),
            ..self.measured(work, connections, limit_of)
        }
    }
}

/// The body of a request for one KeyPackage of each device of a user.
fn reserve_request(user: &str) -> String {
    // As ReserveRequest is written.
    format!(r#"{{"users":["{user}"],"group_id":"YmVuY2g","suites":[1],"all_or_nothing":false}}"#)
}

/// What a durable row costs.
enum Durable {
    GroupCommit(GroupCommit),
    SkipLocked(SkipLocked),
}

impl Durable {
    async fn rate(&self, connections: usize, time: Duration) -> Result<f64> {
        match self {
            Self::GroupCommit(commit) => commit.rate(connections, 1, time).await,
            Self::SkipLocked(stock) => stock.rate(connections, time).await,
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::GroupCommit(_) => "a bare group commit",
            Self::SkipLocked(_) => "a bare SKIP LOCKED",
        }
    }
}

impl Rounds {
    fn new(limits: usize) -> Self {
        Self {
            ours: Vec::new(),
            limits: vec![Vec::new(); limits],
            http_p99: Vec::new(),
        }
    }
}

/// The one in the middle.
fn middle(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates.get(rates.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use larder_wire::ReserveRequest;

    use super::*;

    #[test]
    fn a_request_is_one_that_a_server_understands() {
        let request: ReserveRequest = serde_json::from_str(&reserve_request("target7")).unwrap();
        assert_eq!(request.users[0].as_str(), "target7");
        assert_eq!(
            (request.suites.as_slice(), request.all_or_nothing),
            (&[1][..], false)
        );
    }
}
