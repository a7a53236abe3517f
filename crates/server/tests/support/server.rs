use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::SystemTime;

use larder_lifecycle::{ClockReading, DrainLimits, Rate, UnixSeconds};
use larder_server::{Config, Service, router, serve};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::{Device, Http};
use crate::database::Database;

/// The real time, in Unix seconds. OpenMLS reads the real clock, so the tests' time starts there.
#[expect(
    clippy::disallowed_methods,
    reason = "a test server stands in for the binary, which reads the clock"
)]
pub(crate) fn now() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .expect("the clock is past 1970")
        .as_secs()
}

/// A server of its own for each test.
pub(crate) struct TestServer {
    pub(crate) service: Service,
    pub(crate) http: Http,
    pub(crate) database: Arc<Database>,
    address: String,
    ahead_seconds: Arc<AtomicU64>,
    set_by_seconds: Arc<AtomicI64>,
    /// Where the time stands still; 0 while it goes.
    held_at: Arc<AtomicU64>,
    stop: Option<oneshot::Sender<()>>,
    running: JoinHandle<()>,
}

fn unless_held(held_at: &AtomicU64) -> u64 {
    match held_at.load(Ordering::SeqCst) {
        0 => now(),
        held_at => held_at,
    }
}

/// Limits that nobody meets.
pub(crate) fn generous() -> DrainLimits {
    let plenty = Rate {
        burst: 1000,
        interval_seconds: 1,
    };
    DrainLimits {
        pair: plenty,
        target: plenty,
        live_per_requester: 1000,
        live_per_pair: 1000,
        floor: 0,
        ..DrainLimits::default()
    }
}

impl TestServer {
    /// The server as it is deployed, with its sweeper.
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}, true).await
    }

    /// The server without its sweeper, for tests that move the clock and sweep themselves.
    pub(crate) async fn unswept() -> Self {
        Self::start_with(|_| {}, false).await
    }

    /// The server with limits that nobody meets, for tests that take from a pool what is there.
    pub(crate) async fn generous() -> Self {
        Self::start_with(|config| config.drain = generous(), true).await
    }

    pub(crate) async fn start_with(configure: impl FnOnce(&mut Config), sweeper: bool) -> Self {
        Self::start_on(Arc::new(Database::create().await), configure, sweeper).await
    }

    /// The server on a database that may have others.
    pub(crate) async fn start_on(
        database: Arc<Database>,
        configure: impl FnOnce(&mut Config),
        sweeper: bool,
    ) -> Self {
        Self::start_with_clock(database, configure, sweeper, 0).await
    }

    /// The server on a database, on a machine whose clock is wrong by `set_by` seconds.
    pub(crate) async fn start_with_clock(
        database: Arc<Database>,
        configure: impl FnOnce(&mut Config),
        sweeper: bool,
        set_by: i64,
    ) -> Self {
        let mut config = Config::new(database.location());
        configure(&mut config);
        let ahead_seconds = Arc::new(AtomicU64::new(0));
        let offset = Arc::clone(&ahead_seconds);
        let set_by_seconds = Arc::new(AtomicI64::new(set_by));
        let set_by = Arc::clone(&set_by_seconds);
        let held_at = Arc::new(AtomicU64::new(0));
        let held = Arc::clone(&held_at);
        let clock = Arc::new(move || {
            let passed = unless_held(&held) + offset.load(Ordering::SeqCst);
            ClockReading {
                wall: UnixSeconds(passed.saturating_add_signed(set_by.load(Ordering::SeqCst))),
                since_boot: passed,
            }
        });
        let service = Service::open(config, clock).await.expect("the service opens");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address").to_string();
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async {
            let _ = stopped.await;
        };
        let served = service.clone();
        let running = tokio::spawn(async move {
            if sweeper {
                serve(listener, served, shutdown).await
            } else {
                axum::serve(listener, router(served))
                    .with_graceful_shutdown(shutdown)
                    .await
            }
            .expect("the server runs");
        });
        let http = Http::new(&address);
        Self {
            service,
            http,
            database,
            address,
            ahead_seconds,
            set_by_seconds,
            held_at,
            stop: Some(stop),
            running,
        }
    }

    /// `host:port`.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Sets the clock of the server's machine to another time than has passed, by so many seconds; 0 sets it right.
    pub(crate) fn set_clock(&self, by_seconds: i64) {
        self.set_by_seconds.store(by_seconds, Ordering::SeqCst);
    }

    /// Lets time pass on the server's machine, its clock included.
    pub(crate) fn pass(&self, seconds: u64) {
        self.ahead_seconds.fetch_add(seconds, Ordering::SeqCst);
    }

    /// Time stands still on the server's machine from here on, but for what [`pass`](Self::pass) lets pass: for limits that a second
    /// changes.
    pub(crate) fn hold_time(&self) {
        self.held_at.store(now(), Ordering::SeqCst);
    }

    /// The server's present time, in Unix seconds.
    pub(crate) fn time(&self) -> u64 {
        unless_held(&self.held_at) + self.ahead_seconds.load(Ordering::SeqCst)
    }

    pub(crate) async fn sweep(&self) {
        self.service.sweep().await.expect("the sweep succeeds");
    }

    /// A registered device with a session.
    pub(crate) async fn device(&self, user: &str) -> Device {
        let mut device = Device::new(&self.http, user);
        device.register().await.ok::<larder_wire::Registered>();
        device.open_session().await;
        device
    }

    /// A registered device with a session and `count` KeyPackages.
    pub(crate) async fn device_with_key_packages(&self, user: &str, count: usize) -> Device {
        let device = self.device(user).await;
        device.stock(count).await;
        device
    }

    /// Tells the server to stop and waits until it has.
    pub(crate) async fn stop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        (&mut self.running).await.expect("the server ends in order");
    }
}
