//! A real server on a loopback port, clients with their profiles, and a proxy between them that can lose answers.
#![allow(dead_code, unused_imports, reason = "each test binary uses a part of it")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::UNIX_EPOCH;

use larder_client::{
    Access, ContactRequest, Error, GroupKey, GroupSummary, Invitations, InviteCode, Linking, Message,
    MessageKind, MlsConnection, Options, PoolPolicy, SendStatus, UnixSeconds, UserName,
};
use larder_lifecycle::{ClockReading, DrainLimits, Rate};
use larder_pool::LocalStore;
use larder_server::{AddressLimits, Admin, Config, Service, backup_sqlite, serve};
use larder_wire::Registration;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub(crate) use larder_testkit::{
    Action, Answer, FakeServer, Proxy, Reply, Seen, flip_last, keeps_no_commits, tamper_inbox,
};

pub(crate) fn now() -> UnixSeconds {
    UnixSeconds(UNIX_EPOCH.elapsed().expect("after 1970").as_secs())
}

/// The time by a clock that is so many seconds ahead, or behind.
fn shifted(ahead: i64) -> UnixSeconds {
    UnixSeconds(now().0.saturating_add_signed(ahead))
}

const DATABASE: &str = "server.db";

/// Limits that nobody meets. What they do is tested with the server; many tests here take all that a pool has, from one
/// account and again and again.
fn generous() -> DrainLimits {
    let plenty = Rate {
        burst: 10_000,
        interval_seconds: 1,
    };
    DrainLimits {
        pair: plenty,
        target: plenty,
        live_per_requester: 10_000,
        live_per_pair: 10_000,
        floor: 0,
        ..DrainLimits::default()
    }
}

pub(crate) struct TestServer {
    pub(crate) url: String,
    directory: TempDir,
    running: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
    service: Option<Service>,
    ahead: Arc<AtomicI64>,
}

impl TestServer {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[0x0001]).await
    }

    /// A deployment that is run with these ciphersuites.
    pub(crate) async fn start_with(suites: &[u16]) -> Self {
        let mut server = Self {
            url: "http://127.0.0.1:0".to_owned(),
            directory: tempfile::tempdir().unwrap(),
            running: None,
            service: None,
            ahead: Arc::default(),
        };
        server.restart_with(suites).await;
        server
    }

    async fn stop(&mut self) {
        self.service = None;
        if let Some((stop, running)) = self.running.take() {
            drop(stop);
            running.await.unwrap();
        }
    }

    /// A backup of the database as it is now, made while it is served.
    pub(crate) fn backup(&self) -> TempDir {
        let directory = tempfile::tempdir().unwrap();
        let database = self.directory.path().join(DATABASE);
        backup_sqlite(&database, &directory.path().join(DATABASE)).unwrap();
        directory
    }

    /// Puts a backup in the place of the database, as an operator would.
    pub(crate) async fn restore(&mut self, backup: &TempDir) {
        let database = self.replace_database(backup).await;
        let admin = Admin::open(&database.into()).await.unwrap();
        admin.restored(now()).await.unwrap();
        drop(admin);
        self.restart_with(&[0x0001]).await;
    }

    /// Goes on from a backup without a word, as a standby does that had not received all.
    pub(crate) async fn fail_over(&mut self, backup: &TempDir) {
        self.replace_database(backup).await;
        self.restart_with(&[0x0001]).await;
    }

    async fn replace_database(&mut self, backup: &TempDir) -> PathBuf {
        self.stop().await;
        for file in std::fs::read_dir(self.directory.path()).unwrap() {
            std::fs::remove_file(file.unwrap().path()).unwrap();
        }
        let database = self.directory.path().join(DATABASE);
        std::fs::copy(backup.path().join(DATABASE), &database).unwrap();
        database
    }

    /// The same database and the same address, with these ciphersuites.
    pub(crate) async fn restart_with(&mut self, suites: &[u16]) {
        self.restart(|config| config.group_suites = suites.to_vec()).await;
    }

    /// The same database and the same address, where these may register.
    pub(crate) async fn restart_where_register(&mut self, registration: Registration) {
        self.restart(|config| config.registration = registration).await;
    }

    /// The same database and the same address, where a user may have so many devices.
    pub(crate) async fn restart_where_users_have(&mut self, devices: u32) {
        self.restart(|config| config.user_devices_max = devices).await;
    }

    /// A server of this name at the same address, that knows nobody.
    pub(crate) async fn replace(&mut self, name: &str) {
        self.stop().await;
        self.directory = tempfile::tempdir().unwrap();
        self.restart(|config| config.server_name = name.to_owned()).await;
    }

    async fn restart(&mut self, configure: impl FnOnce(&mut Config)) {
        self.stop().await;
        let mut config = Config::new(self.directory.path().join(DATABASE));
        config.drain = generous();
        // Everybody has one address.
        config.addresses = AddressLimits::none();
        configure(&mut config);
        let ahead = Arc::clone(&self.ahead);
        let clock = Arc::new(move || ClockReading::steady(shifted(ahead.load(Ordering::Relaxed))));
        let service = Service::open(config, clock).await.unwrap();
        let address = self.url.trim_start_matches("http://");
        let listener = TcpListener::bind(address).await.unwrap();
        self.url = format!("http://{}", listener.local_addr().unwrap());
        let (stop, stopped) = oneshot::channel::<()>();
        self.service = Some(service.clone());
        let running = tokio::spawn(async move {
            let until = async {
                let _ = stopped.await;
            };
            serve(listener, service, until).await.unwrap();
        });
        self.running = Some((stop, running));
    }

    /// A code that the operator has made while the server runs.
    pub(crate) async fn invitation(&self) -> InviteCode {
        let database = self.directory.path().join(DATABASE);
        let admin = Admin::open_in_use(&database.into()).await.unwrap();
        let invited = admin.invite(1, now(), now().plus(60)).await.unwrap();
        invited[0].code.clone()
    }

    /// Where the server's database is.
    pub(crate) fn database(&self) -> PathBuf {
        self.directory.path().join(DATABASE)
    }

    /// A change that only somebody with the server's database can make.
    pub(crate) fn tamper(&self, sql: &str, params: impl rusqlite::Params) {
        let database = rusqlite::Connection::open(self.directory.path().join("server.db")).unwrap();
        database.busy_timeout(std::time::Duration::from_secs(10)).unwrap();
        assert_eq!(database.execute(sql, params).unwrap(), 1);
    }

    /// Sweeps as if this many seconds had passed.
    pub(crate) async fn sweep_after(&self, seconds: u64) {
        self.pass(seconds);
        self.sweep().await;
        self.set_clock(0).await;
    }

    /// Sets the server's clock so many seconds ahead, or behind, and accepts it as an operator would.
    pub(crate) async fn set_clock(&self, ahead: i64) {
        self.ahead.store(ahead, Ordering::Relaxed);
        let database = self.directory.path().join(DATABASE);
        let admin = Admin::open_in_use(&database.into()).await.unwrap();
        admin.accept_clock(shifted(ahead)).await.unwrap();
        self.sweep().await;
        assert_eq!(self.service.as_ref().unwrap().clock_suspension(), None);
    }

    /// Puts the server's clock forward.
    pub(crate) fn pass(&self, seconds: u64) {
        self.ahead
            .fetch_add(i64::try_from(seconds).unwrap(), Ordering::Relaxed);
    }

    /// Sweeps by the server's clock.
    pub(crate) async fn sweep(&self) {
        self.service.as_ref().unwrap().sweep().await.unwrap();
    }

    /// The directory loses everything that it had of everybody.
    pub(crate) fn lose_stock(&self) {
        let database = rusqlite::Connection::open(self.directory.path().join(DATABASE)).unwrap();
        database.busy_timeout(std::time::Duration::from_secs(10)).unwrap();
        database
            .execute_batch(
                "PRAGMA foreign_keys = OFF;
                 BEGIN IMMEDIATE;
                 DELETE FROM key_packages;
                 UPDATE devices SET generation = generation + 1;
                 COMMIT;",
            )
            .unwrap();
    }

    /// A registered client with a full pool.
    pub(crate) async fn client(&self, name: &str) -> Client {
        Client::register(&self.url, name).await
    }

    /// The same, of this size.
    pub(crate) async fn client_with_pool_of(&self, name: &str, target: u32) -> Client {
        Client::register_with_pool_of(&self.url, name, target).await
    }

    /// A registered client with a full pool, whose requests go through a proxy.
    pub(crate) async fn proxied(&self, name: &str) -> (Client, Proxy) {
        self.proxied_with_pool_of(name, PoolPolicy::default().target())
            .await
    }

    /// The same, of this size.
    pub(crate) async fn proxied_with_pool_of(&self, name: &str, target: u32) -> (Client, Proxy) {
        let proxy = Proxy::start(&self.url);
        (
            Client::register_with_pool_of(&proxy.url, name, target).await,
            proxy,
        )
    }
}

pub(crate) fn options(profile: &Path) -> Options {
    Options {
        profile: profile.to_owned(),
        key: None,
        clock: Arc::new(now),
        policy: PoolPolicy::default(),
        invitations: Invitations::Accept,
        access: Access::default(),
        dates: |at| format!("day {}", at.0 / 86_400),
    }
}

pub(crate) fn user(name: &str) -> UserName {
    name.parse().unwrap()
}

pub(crate) fn invitation_by(name: &str) -> ContactRequest {
    ContactRequest::Invitation { by: user(name) }
}

/// A client that can be restarted, with a clock that can be put forward.
pub(crate) struct Client {
    pub(crate) directory: TempDir,
    options: Options,
    ahead: Arc<AtomicI64>,
    connection: Option<MlsConnection>,
}

impl std::ops::Deref for Client {
    type Target = MlsConnection;

    fn deref(&self) -> &MlsConnection {
        self.connection.as_ref().expect("running")
    }
}

impl Client {
    async fn register(url: &str, name: &str) -> Self {
        Self::register_with_pool_of(url, name, PoolPolicy::default().target()).await
    }

    /// Another device of this one's user: linked, with a full pool, and nothing done yet in any group.
    pub(crate) async fn link(&self) -> Self {
        let me = self.me();
        let (new, linking) = Self::begin_link(&me.server, me.user.as_str()).await;
        assert!(linking.finish().await.unwrap().is_none(), "nobody let it in");
        let device = self.read_link_code(linking.code()).await.unwrap();
        assert_eq!(device.fingerprint(), linking.fingerprint());
        self.authorize_link(device).await.unwrap();
        new.finish_link(linking).await
    }

    /// A device that asks to be linked.
    pub(crate) async fn begin_link(url: &str, name: &str) -> (Self, Linking) {
        let new = Self::unconnected(PoolPolicy::default().target());
        let linking = MlsConnection::link(new.options.clone(), url, user(name))
            .await
            .unwrap();
        (new, linking)
    }

    /// A device that was let in.
    pub(crate) async fn finish_link(mut self, linking: Linking) -> Self {
        let connection = linking.finish().await.unwrap().expect("let in");
        connection.refresh_key_packages().await.unwrap();
        self.connection = Some(connection);
        self
    }

    /// A directory for a profile that is made in some other way; see [`Client::opened`].
    pub(crate) fn unopened(target: u32) -> Self {
        Self::unconnected(target)
    }

    /// Opens the profile that is there now.
    pub(crate) async fn opened(mut self) -> Self {
        self.restart().await;
        self
    }

    fn unconnected(target: u32) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let ahead = Arc::new(AtomicI64::new(0));
        let by = Arc::clone(&ahead);
        let mut options = options(directory.path());
        options.clock = Arc::new(move || shifted(by.load(Ordering::Relaxed)));
        options.policy = PoolPolicy::new(target, target.div_ceil(4), 64).unwrap();
        Self {
            directory,
            options,
            ahead,
            connection: None,
        }
    }

    async fn register_with_pool_of(url: &str, name: &str, target: u32) -> Self {
        let new = Self::unconnected(target);
        let connection = MlsConnection::register(new.options.clone(), url, user(name))
            .await
            .unwrap();
        connection.refresh_key_packages().await.unwrap();
        Self {
            connection: Some(connection),
            ..new
        }
    }

    /// The same profile again, for a person who wants to be asked about invitations.
    pub(crate) async fn asked(mut self) -> Self {
        self.options.invitations = Invitations::Ask;
        self.restart().await;
        self
    }

    /// Puts this client's clock forward.
    pub(crate) fn pass(&self, seconds: u64) {
        self.ahead
            .fetch_add(i64::try_from(seconds).unwrap(), Ordering::Relaxed);
    }

    /// Sets this client's clock so many seconds ahead, or behind.
    pub(crate) fn set_clock(&self, ahead: i64) {
        self.ahead.store(ahead, Ordering::Relaxed);
    }

    /// Registers with a clock that is so many seconds ahead, or behind, and fills the pool.
    pub(crate) async fn register_with_clock(url: &str, name: &str, ahead: i64) -> Result<Self, Error> {
        let mut new = Self::unconnected(PoolPolicy::default().target());
        new.set_clock(ahead);
        let connection = MlsConnection::register(new.options.clone(), url, user(name)).await?;
        connection.refresh_key_packages().await?;
        new.connection = Some(connection);
        Ok(new)
    }

    /// Drops everything that is in memory and opens the profile again.
    pub(crate) async fn restart(&mut self) {
        drop(self.connection.take());
        let connection = MlsConnection::open(self.options.clone()).await.unwrap();
        self.connection = Some(connection);
    }

    /// Ends, and checks that the bundles of OpenMLS are those of the pool's live rows.
    pub(crate) async fn stop_and_audit(self) {
        self.stop_and_audit_in_place().await;
    }

    /// The same, and leaves the profile.
    pub(crate) async fn stop_and_audit_in_place(mut self) -> TempDir {
        self.stop().await;
        let store = LocalStore::open(&self.directory.path().join("larder.db")).unwrap();
        assert!(store.audit().unwrap().is_consistent(), "C1");
        self.directory
    }

    pub(crate) async fn stop(&mut self) {
        drop(self.connection.take());
    }

    /// Syncs and returns the unread texts, in order, and marks them as read.
    pub(crate) async fn receive(&self) -> Vec<String> {
        self.sync().await.unwrap();
        self.take_unread()
            .await
            .into_iter()
            .filter(|message| message.kind == MessageKind::Text)
            .map(|message| message.text)
            .collect()
    }

    pub(crate) async fn take_unread(&self) -> Vec<Message> {
        let messages = self.unread().await.unwrap();
        if let Some(last) = messages.last() {
            self.mark_read(last.row).await.unwrap();
        }
        messages
    }

    /// The rows of own messages that came to this, oldest first.
    pub(crate) async fn rows_that_are(&self, status: SendStatus) -> Vec<i64> {
        let unsent = self.unsent().await.unwrap();
        let those = unsent.into_iter().filter(|(_, of_it)| *of_it == status);
        those.map(|(row, _)| row).collect()
    }

    /// Accepts all that is asked, and joins it. Returns how many groups were rejoined.
    pub(crate) async fn accept_all(&self) -> u64 {
        for group in self.groups().await.unwrap() {
            if group.request.is_some() {
                self.accept(&group.id).await.unwrap();
            }
        }
        self.sync().await.unwrap().rejoined
    }

    /// Syncs and returns what the person is told beside messages, and marks it as read.
    pub(crate) async fn told(&self) -> Vec<String> {
        self.sync().await.unwrap();
        let messages = self.take_unread().await.into_iter();
        messages
            .filter(|message| message.kind != MessageKind::Text)
            .map(|message| message.text)
            .collect()
    }

    pub(crate) async fn summary(&self, group: &GroupKey) -> GroupSummary {
        let groups = self.groups().await.unwrap();
        groups
            .into_iter()
            .find(|summary| summary.id == *group)
            .expect("known")
    }

    pub(crate) async fn epoch(&self, group: &GroupKey) -> u64 {
        self.summary(group).await.epoch
    }

    /// The users in a group, sorted.
    pub(crate) async fn users(&self, group: &GroupKey) -> Vec<String> {
        let members = self.members(group).await.unwrap();
        let mut users: Vec<_> = members
            .into_iter()
            .map(|member| member.user.to_string())
            .collect();
        users.sort();
        users
    }

    /// Creates a group with these members, who have all joined.
    pub(crate) async fn group_with(&self, others: &[&Client]) -> GroupKey {
        let group = self.create_group("lunch").await.unwrap().id;
        for other in others {
            let invited = self.invite(&group, &[other.me().user.clone()]).await.unwrap();
            assert_eq!(invited.added, vec![other.me().user.clone()]);
        }
        for other in others {
            other.sync().await.unwrap();
            other.take_unread().await;
        }
        self.sync().await.unwrap();
        group
    }
}

/// Everybody syncs until nobody has anything to tell: who has just joined makes one more Commit, which the others take
/// over in the second round.
pub(crate) async fn catch_up(clients: &[&Client]) {
    for _ in 0..2 {
        for client in clients {
            client.sync().await.unwrap();
        }
    }
}

/// Both read what the other writes, and nothing else.
pub(crate) async fn they_talk(one: &Client, other: &Client, group: &GroupKey) {
    catch_up(&[one, other]).await;
    one.take_unread().await;
    other.take_unread().await;
    one.send(group, "there?").await.unwrap();
    assert_eq!(other.receive().await, ["there?"]);
    other.send(group, "here").await.unwrap();
    assert_eq!(one.receive().await, ["here"]);
}

pub(crate) fn assert_unreachable<T: std::fmt::Debug>(result: Result<T, Error>) {
    assert!(matches!(result, Err(Error::Unreachable(_))), "{result:?}");
}

/// The tables of the profile that hold key material must be OpenMLS's own; this counts rows of one.
pub(crate) fn count_rows(profile: &Path, sql: &str) -> i64 {
    let connection = rusqlite::Connection::open(profile.join("larder.db")).unwrap();
    connection.query_row(sql, [], |row| row.get(0)).unwrap()
}
