//! The asynchronous shell.

mod attachments;
mod audit;
mod backup;
mod blocks;
mod devices;
mod doubts;
mod encryption;
mod events;
mod invitations;
mod leaving;
mod legacy;
mod listed;
mod operations;
mod others_first;
mod pool;
mod probe;
mod rejoin;
mod requests;
mod restore;
mod restored_server;
mod sync;
mod timeline;
mod verification;

pub use devices::Linking;
pub use events::{Heard, Listening};

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::{Duration, Instant};

use larder_pool::{PoolHealth, Quarantined};
use larder_wire::{AccountRequest, INBOX_WAIT_SECONDS_MAX, InviteCode, ProblemType, UserName};
use tokio::sync::Mutex;

use crate::access::Access;
use crate::clocks::{Clocks, ServerClock};
use crate::connection::others_first::OthersFirst;
use crate::core::{self, Core, Handle, Keys, Offered, Suites};
use crate::error::Error;
use crate::transport::{Anonymous, Transport};
use crate::types::{GroupKey, GroupSummary, Me, Member, Options, SuitePool};
use crate::verification::EpochCode;

/// One device of one user on one server.
///
/// Clones share the connection; the profile is released when the last one is dropped. Operations that change groups
/// (create, invite, send, remove, leave, sync) run one after the other; the rest does not wait for them. Every one may
/// be cancelled: what it had begun is in the outbox, and the next [`sync`](Self::sync) goes on with it.
#[derive(Clone)]
pub struct MlsConnection(Arc<Inner>);

struct Inner {
    me: Me,
    core: Arc<Handle>,
    transport: Transport,
    /// Serialises the operations.
    operation: Mutex<()>,
    /// Serialises the refreshes of the pool.
    refreshing: Mutex<()>,
    /// A refresh is wanted: none was made since the start, since the server could not be reached, or since something used
    /// a KeyPackage.
    refresh_due: AtomicBool,
    /// There may be groups of the user's other devices that this one does not know.
    groups_due: AtomicBool,
    /// There may be groups that the server knows this device as a member of, and that it does not know itself.
    own_groups_due: AtomicBool,
    /// When the list of the user's groups was last fetched, and whether it had more that nothing explains than are remembered.
    listed_at: Mutex<Option<Instant>>,
    more_listed: AtomicBool,
    /// When the server was last asked about groups that it says this device is not in.
    denials_asked: Mutex<Option<Instant>>,
    others_first: OthersFirst,
    /// There may be groups of this device that other devices of its user are to be added to.
    own_devices_due: AtomicBool,
    /// The keys of users as this device has shown them to be compared.
    shown: std::sync::Mutex<BTreeMap<UserName, Keys>>,
    /// Other lists of their devices than are believed, as this device has shown them.
    offered: std::sync::Mutex<BTreeMap<UserName, Offered>>,
    /// The server asked for no refresh before this, in Unix seconds.
    refresh_not_before: AtomicU64,
    /// When it said so.
    refresh_asked_at: AtomicU64,
    server_clock: Arc<ServerClock>,
    /// The last mail that has taken effect and the server does not know about; 0 when there is none.
    mail_read: AtomicU64,
    /// The server is to be told once more how far this device is: it may have gone back since it last was.
    tell_everything: AtomicBool,
}

impl fmt::Debug for MlsConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MlsConnection")
            .field("me", &self.0.me)
            .finish_non_exhaustive()
    }
}

impl MlsConnection {
    /// Registers an account at `server` (`http://host:port`) and opens its profile.
    ///
    /// The keys are stored before the request is sent. When the answer is lost, calling this again with the same
    /// arguments goes on with them: a name that is taken by ourselves is recognised by our key. For an account that is
    /// registered already this is the same as [`open`](Self::open).
    ///
    /// # Errors
    /// [`Error::Refused`] with `name-taken`, `invitation-required`, `registration-closed` and others;
    /// [`Error::Unreachable`]; [`Error::NotTheServer`]; [`Error::InsecureHttp`]; [`Error::AlreadyRegistered`]
    /// for a profile with another account; [`Error::ProfileLocked`]; [`Error::Profile`];
    /// [`Error::InvalidServer`]; [`Error::UnsupportedSuites`]; [`Error::ClocksApart`], before anything is
    /// stored.
    pub async fn register(options: Options, server: &str, user: UserName) -> Result<Self, Error> {
        let (connection, anonymous) = Self::begin(options, server, user).await?;
        connection.finish_registration(&anonymous, None).await?;
        Ok(connection)
    }

    /// Like [`register`](Self::register), at a server that wants an invitation. What was begun without one, or with one that
    /// was refused, goes on with its keys.
    ///
    /// # Errors
    /// Those of [`register`](Self::register).
    pub async fn register_invited(
        options: Options,
        server: &str,
        user: UserName,
        code: InviteCode,
    ) -> Result<Self, Error> {
        let (connection, anonymous) = Self::begin(options, server, user).await?;
        connection.finish_registration(&anonymous, Some(code)).await?;
        Ok(connection)
    }

    /// Whether there is a server at `server` with which this program can have an account. Needs no profile.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::NotTheServer`], [`Error::InsecureHttp`], [`Error::InvalidServer`],
    /// [`Error::UnsupportedSuites`].
    pub async fn check_server(server: &str, access: &Access) -> Result<(), Error> {
        let (anonymous, _) = Anonymous::new(server, access)?;
        Suites::of_server(&anonymous.info().await?).require_one()
    }

    /// Opens the profile of a registered account. Needs no network.
    ///
    /// # Errors
    /// [`Error::NotRegistered`], [`Error::ProfileLocked`], [`Error::Profile`], [`Error::Store`]; [`Error::ProfileEncrypted`],
    /// [`Error::ProfileNotEncrypted`] and [`Error::WrongPassphrase`] when the key does not fit the profile.
    pub async fn open(options: Options) -> Result<Self, Error> {
        let opening = options.clone();
        let core = Handle::start(move || Core::open(&opening)).await?;
        Self::start(core, options.access).await
    }

    async fn start(core: Handle, decided: Access) -> Result<Self, Error> {
        let (me, server_clock) = core
            .write(|_, context| Ok((context.identity.me.clone(), Arc::clone(&context.server_clock))))
            .await?;
        let core = Arc::new(core);
        let clock = Arc::clone(&server_clock);
        let access = core
            .write(move |tx, _| core::remember_access(tx, &decided))
            .await?;
        let transport = Transport::new(&me, &access, Arc::clone(&core), clock)?;
        Ok(Self(Arc::new(Inner {
            me,
            core,
            transport,
            operation: Mutex::new(()),
            refreshing: Mutex::new(()),
            refresh_due: AtomicBool::new(true),
            groups_due: AtomicBool::new(true),
            own_groups_due: AtomicBool::new(false),
            listed_at: Mutex::default(),
            more_listed: AtomicBool::new(false),
            denials_asked: Mutex::default(),
            others_first: OthersFirst::default(),
            own_devices_due: AtomicBool::new(true),
            shown: std::sync::Mutex::default(),
            offered: std::sync::Mutex::default(),
            refresh_not_before: AtomicU64::new(0),
            refresh_asked_at: AtomicU64::new(0),
            server_clock,
            mail_read: AtomicU64::new(0),
            tell_everything: AtomicBool::new(true),
        })))
    }

    async fn finish_registration(
        &self,
        anonymous: &Anonymous,
        invite_code: Option<InviteCode>,
    ) -> Result<(), Error> {
        let core = &self.0.core;
        if core.write(|tx, _| core::is_registered(tx)).await? {
            return Ok(());
        }
        let device = core.write(|_, context| core::registration(context)).await?;
        let request = AccountRequest { device, invite_code };
        match anonymous.register(&request).await {
            Ok(_) => {}
            Err(Error::Refused(problem))
                if matches!(
                    problem.problem_type,
                    ProblemType::NameTaken
                        | ProblemType::InvitationRequired
                        | ProblemType::RegistrationClosed
                ) =>
            {
                // The name is taken and the code used by ourselves, if our key opens a session: an earlier answer was lost.
                if let Err(error) = self.0.transport.authenticate().await {
                    return Err(match error {
                        Error::Refused(_) | Error::UnknownAccount => Error::Refused(problem),
                        other => other,
                    });
                }
            }
            Err(other) => return Err(other),
        }
        core.write(core::mark_registered).await
    }

    /// Who this is.
    pub fn me(&self) -> &Me {
        &self.0.me
    }

    /// This computer's clock beside the server's, as the server's last answer told it, or the last session before this
    /// connection. What depends on lifetimes goes by the server's while they are a day apart at most, and is not done
    /// otherwise ([`Error::ClocksApart`]).
    pub fn clocks(&self) -> Clocks {
        self.0.server_clock.clocks()
    }

    /// The pool of the ciphersuite that new groups have, from what is known here.
    ///
    /// # Errors
    /// [`Error::Pool`].
    pub async fn pool_health(&self) -> Result<PoolHealth, Error> {
        self.0
            .core
            .write(|tx, context| {
                let pools = context.pools(tx)?;
                let pool = pools.stocked.first().unwrap_or(&context.pool);
                Ok(pool.health(tx, context.server_now())?)
            })
            .await
    }

    /// The pools of all ciphersuites, from what is known here: those that are kept full, in the deployment's order, then those
    /// that only drain.
    ///
    /// # Errors
    /// [`Error::Pool`].
    pub async fn pools(&self) -> Result<Vec<SuitePool>, Error> {
        self.0.core.write(core::suite_pools).await
    }

    /// The Welcomes that could not be joined, the latest failure first.
    ///
    /// # Errors
    /// [`Error::Pool`].
    pub async fn quarantined_welcomes(&self) -> Result<Vec<Quarantined>, Error> {
        self.0
            .core
            .write(|tx, context| Ok(context.pool.quarantined(tx)?))
            .await
    }

    /// Every group that this device knows, the ones it has left included.
    ///
    /// # Errors
    /// [`Error::Store`] and its like.
    pub async fn groups(&self) -> Result<Vec<GroupSummary>, Error> {
        self.0.core.write(|tx, _| core::summaries(tx)).await
    }

    /// The members of a group; none for a group that this device has left.
    ///
    /// # Errors
    /// [`Error::UnknownGroup`].
    pub async fn members(&self, group: &GroupKey) -> Result<Vec<Member>, Error> {
        let group = group.clone();
        self.0
            .core
            .write(move |tx, context| core::members(tx, context, &group))
            .await
    }

    /// What the members of a group can compare to know that they are in the same one; `None` for a group that this device has
    /// left or lost.
    ///
    /// # Errors
    /// [`Error::UnknownGroup`].
    pub async fn epoch_code(&self, group: &GroupKey) -> Result<Option<EpochCode>, Error> {
        let group = group.clone();
        self.0.core.write(move |tx, _| core::epoch_code(tx, &group)).await
    }

    /// The group that a person means: by its name, in whatever case and however its accents are stored
    /// ([`text::folded`](crate::text::folded)), or by its id or a beginning of it of 4 characters and more that fits no other. Groups that this device is a member of go first.
    ///
    /// # Errors
    /// [`Error::UnknownGroup`], [`Error::Ambiguous`].
    pub async fn resolve_group(&self, text: &str) -> Result<GroupKey, Error> {
        let text = text.to_owned();
        self.0.core.write(move |tx, _| core::resolve(tx, &text)).await
    }

    /// Waits until the server has inbox rows for this device, at most `wait` and at most 30 seconds. `true` when there
    /// are some: then call [`sync`](Self::sync). Other operations go on meanwhile.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::Refused`].
    pub async fn wait(&self, wait: Duration) -> Result<bool, Error> {
        let wait = wait.min(Duration::from_secs(INBOX_WAIT_SECONDS_MAX));
        let inbox = self.0.transport.next(1, wait).await;
        Ok(!self.note_outage(inbox)?.rows.is_empty())
    }
}
