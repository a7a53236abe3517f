use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use larder_lifecycle::{PoolPolicy, UnixSeconds};
use larder_pool::zeroize::Zeroizing;
use larder_pool::{KeyPackagePool, LocalStore, Tx};
use larder_wire::{DeviceId, LINK_SECRET_BYTES, UserName};
use openmls::prelude::{Ciphersuite, OpenMlsProvider, OpenMlsRand as _};
use rusqlite::{Connection, OptionalExtension, named_params};

use crate::clocks::ServerClock;
use crate::core::audit;
use crate::core::clock::stored_offset;
use crate::core::encryption::not_opened;
use crate::core::identity::Identity;
use crate::core::peers::{self, Peer};
use crate::core::schema::migrate;
use crate::core::suites::{Suites, set_suites};
use crate::error::Error;
use crate::types::{Invitations, Me, Options};

pub(super) const DATABASE_FILE: &str = "larder.db";
const LOCK_FILE: &str = "larder.lock";

/// What lives on the thread: the store, what transactions need besides it, and the lock, released last.
pub(crate) struct Core {
    pub(super) store: LocalStore,
    context: Context,
    _lock: File,
}

/// What transactions need besides the database.
pub(crate) struct Context {
    /// For what concerns the KeyPackages of every ciphersuite alike: joining, what the directory tells, what failed. The
    /// pools of the ciphersuites are [`Context::pools`].
    pub(crate) pool: KeyPackagePool,
    /// For all of them together.
    pub(super) policy: PoolPolicy,
    pub(crate) identity: Identity,
    /// What an invitation from somebody who is not known makes of its group.
    pub(super) invitations: Invitations,
    /// Writes a point in time for a person.
    pub(super) dates: fn(UnixSeconds) -> String,
    /// This computer's clock and the server's.
    pub(crate) server_clock: Arc<ServerClock>,
}

impl Context {
    pub(crate) fn now(&self) -> UnixSeconds {
        self.server_clock.here()
    }
}

/// An account to be registered.
#[derive(Debug, Clone)]
pub(crate) struct Registering {
    pub(crate) user: UserName,
    pub(crate) server: String,
    pub(crate) server_name: String,
    pub(crate) suites: Suites,
}

impl Core {
    /// Opens the profile of a registered account.
    pub(crate) fn open(options: &Options) -> Result<Self, Error> {
        if !options.profile.join(DATABASE_FILE).exists() {
            return Err(Error::NotRegistered);
        }
        let (lock, mut store) = open_store(options)?;
        let identity = store.transaction(|tx| match stored_account(tx.connection())? {
            Some(account) if account.registered => account.identity(tx),
            Some(_) | None => Err(Error::NotRegistered),
        })?;
        Self::new(options, lock, store, identity)
    }

    /// Opens the profile of an account that is to be registered, with keys that are stored from here on. A registration
    /// that was begun earlier goes on with its keys: the server may have accepted it.
    pub(crate) fn open_to_register(options: &Options, registering: &Registering) -> Result<Self, Error> {
        let (lock, mut store) = open_store(options)?;
        let identity = store.transaction(|tx| {
            let now = (options.clock)();
            match stored_account(tx.connection())? {
                Some(account) if account.is_for(registering) => {
                    set_suites(tx, &registering.suites, now)?;
                    return account.identity(tx);
                }
                Some(account) if account.registered => {
                    return Err(Error::AlreadyRegistered {
                        user: account.me.user,
                    });
                }
                Some(account) => account.forget(tx)?,
                None => {}
            }
            let identity = Identity::generate(tx, registering)?;
            insert_account(tx.connection(), &identity)?;
            set_suites(tx, &registering.suites, now)?;
            Ok::<_, Error>(identity)
        })?;
        Self::new(options, lock, store, identity)
    }

    fn new(options: &Options, lock: File, mut store: LocalStore, identity: Identity) -> Result<Self, Error> {
        let offset = store.transaction(|tx| stored_offset(tx.connection()))?;
        let server_clock = Arc::new(ServerClock::new(options.clock.clone(), offset));
        Ok(Self {
            store,
            context: Context {
                pool: KeyPackagePool::for_identity(
                    options.policy,
                    Ciphersuite::MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519,
                    &identity.credential,
                ),
                policy: options.policy,
                identity,
                invitations: options.invitations,
                dates: options.dates,
                server_clock,
            },
            _lock: lock,
        })
    }

    pub(super) fn write<T>(
        &mut self,
        work: impl FnOnce(&Tx<'_>, &Context) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let context = &self.context;
        self.store.transaction(|tx| work(tx, context))
    }
}

/// Creates the directory if need be, takes the lock, opens the database and migrates it.
fn open_store(options: &Options) -> Result<(File, LocalStore), Error> {
    let profile = &options.profile;
    let lock = lock(profile)?;
    let database = profile.join(DATABASE_FILE);
    restrict(profile, &database)?;
    let mut store = match &options.key {
        Some(key) => LocalStore::open_encrypted(&database, key),
        None => LocalStore::open(&database),
    }
    .map_err(not_opened)?;
    migrate(&mut store)?;
    Ok((lock, store))
}

/// Creates the directory if need be, and takes the lock, which is released when the file is closed.
pub(super) fn lock(profile: &Path) -> Result<File, Error> {
    let mut directory = DirBuilder::new();
    directory.recursive(true);
    let mut file = OpenOptions::new();
    file.create(true).truncate(false).write(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
        directory.mode(0o700);
        file.mode(0o600);
    }
    directory.create(profile).map_err(Error::Profile)?;
    let lock = file.open(profile.join(LOCK_FILE)).map_err(Error::Profile)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(Error::ProfileLocked),
        Err(TryLockError::Error(error)) => Err(Error::Profile(error)),
    }
}

/// A directory or files that were there before may be open to others. The pool creates a new database for its owner
/// only; SQLite gives its side files the mode of the database, so an old one is mended before SQLite creates any.
#[cfg(unix)]
fn restrict(profile: &Path, database: &Path) -> Result<(), Error> {
    use std::fs::{Permissions, set_permissions};
    use std::os::unix::fs::PermissionsExt;
    set_permissions(profile, Permissions::from_mode(0o700)).map_err(Error::Profile)?;
    let beside = ["", "-wal", "-shm", "-journal"].map(|suffix| {
        let mut file = database.as_os_str().to_owned();
        file.push(suffix);
        file.into()
    });
    for file in beside.iter().chain([&profile.join(LOCK_FILE)]) {
        match set_permissions(file, Permissions::from_mode(0o600)) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(Error::Profile(error)),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

#[cfg(not(unix))]
fn restrict(_: &Path, _: &Path) -> Result<(), Error> {
    Ok(())
}

pub(super) struct StoredAccount {
    pub(super) me: Me,
    auth_public_key: Vec<u8>,
    mls_public_key: Vec<u8>,
    pub(super) registered: bool,
}

impl StoredAccount {
    fn is_for(&self, registering: &Registering) -> bool {
        let Me {
            user,
            device_id: _,
            server,
            server_name,
        } = &self.me;
        *user == registering.user && *server == registering.server && *server_name == registering.server_name
    }

    fn identity(self, tx: &Tx<'_>) -> Result<Identity, Error> {
        Identity::load(tx, self.me, &self.auth_public_key, &self.mls_public_key)
    }

    fn forget(&self, tx: &Tx<'_>) -> Result<(), Error> {
        Identity::erase(tx, &self.auth_public_key, &self.mls_public_key)?;
        tx.connection().execute("DELETE FROM profile", [])?;
        Ok(())
    }
}

pub(super) fn stored_account(connection: &Connection) -> Result<Option<StoredAccount>, Error> {
    let row = connection
        .query_row(
            "SELECT user, device_id, server, server_name, auth_public_key, mls_public_key, registered FROM profile",
            [],
            |row| {
                Ok((
                    row.get::<_, String>(0)?,
                    row.get::<_, String>(1)?,
                    row.get(2)?,
                    row.get(3)?,
                    row.get(4)?,
                    row.get(5)?,
                    row.get(6)?,
                ))
            },
        )
        .optional()?;
    let Some((user, device, server, server_name, auth_public_key, mls_public_key, registered)) = row else {
        return Ok(None);
    };
    Ok(Some(StoredAccount {
        me: Me {
            user: user.parse().map_err(|_| Error::Corrupt("user name"))?,
            device_id: device
                .parse::<DeviceId>()
                .map_err(|_| Error::Corrupt("device id"))?,
            server,
            server_name,
        },
        auth_public_key,
        mls_public_key,
        registered,
    }))
}

fn insert_account(connection: &Connection, identity: &Identity) -> Result<(), Error> {
    connection.execute(
        "INSERT INTO profile (id, user, device_id, server, server_name, auth_public_key, mls_public_key, registered)
         VALUES (1, :user, :device_id, :server, :server_name, :auth, :mls, 0)",
        named_params! {
            ":user": identity.me.user.as_str(),
            ":device_id": identity.me.device_id.as_str(),
            ":server": identity.me.server,
            ":server_name": identity.me.server_name,
            ":auth": identity.auth.public(),
            ":mls": identity.mls.public(),
        },
    )?;
    Ok(())
}

/// Whether the server is known to have the account.
pub(crate) fn is_registered(tx: &Tx<'_>) -> Result<bool, Error> {
    Ok(tx
        .connection()
        .query_row("SELECT registered FROM profile", [], |row| row.get(0))?)
}

/// The server has the account, and this device is its first one: it is its own root. One that has shown a link code may be a
/// further device, and learns its root from the list of devices.
pub(crate) fn mark_registered(tx: &Tx<'_>, context: &Context) -> Result<(), Error> {
    let linking = tx
        .connection()
        .query_row("SELECT linking FROM profile", [], |row| row.get(0))?;
    match linking {
        true => enter_account(tx, context, false),
        false => enter_account(tx, context, true),
    }
}

/// This device shows a link code: another one of its user may let it in. What the code hides; it stays the same until then.
pub(super) fn mark_linking(tx: &Tx<'_>) -> Result<Zeroizing<[u8; LINK_SECRET_BYTES]>, Error> {
    if let Some(secret) = link_secret(tx)? {
        return Ok(secret);
    }
    let provider = tx.provider();
    let secret = provider.rand().random_array();
    let secret = Zeroizing::new(secret.map_err(|error| Error::mls("making a link code")(error.to_string()))?);
    tx.connection().execute(
        "UPDATE profile SET linking = 1, link_secret = ?1",
        [secret.as_slice()],
    )?;
    Ok(secret)
}

/// What the link code hides that this device shows.
pub(super) fn link_secret(tx: &Tx<'_>) -> Result<Option<Zeroizing<[u8; LINK_SECRET_BYTES]>>, Error> {
    let secret: Option<[u8; LINK_SECRET_BYTES]> =
        tx.connection()
            .query_row("SELECT link_secret FROM profile", [], |row| row.get(0))?;
    Ok(secret.map(Zeroizing::new))
}

/// This device was let in: what its link code hid is used up.
pub(super) fn mark_linked(tx: &Tx<'_>) -> Result<(), Error> {
    tx.note_erasure();
    tx.connection()
        .execute("UPDATE profile SET link_secret = NULL, introduced = 1", [])?;
    Ok(())
}

/// The server has the account, and this device is one of its user's.
pub(super) fn enter_account(tx: &Tx<'_>, context: &Context, is_root: bool) -> Result<(), Error> {
    let connection = tx.connection();
    let Identity { me, mls, .. } = &context.identity;
    let own = Peer::present(me.device_id.clone(), mls.public().to_vec(), is_root);
    peers::set(connection, &me.user, &own, context.now())?;
    if !is_root {
        peers::check_later(connection, &me.user)?;
    }
    connection.execute("UPDATE profile SET registered = 1 WHERE registered = 0", [])?;
    audit::begin(tx, context)
}

/// The digest of the inventory that the pool was last reconciled with.
pub(crate) fn inventory_digest(tx: &Tx<'_>) -> Result<Option<String>, Error> {
    Ok(tx
        .connection()
        .query_row("SELECT inventory_digest FROM profile", [], |row| row.get(0))?)
}

/// The next refresh fetches the whole inventory.
pub(super) fn forget_inventory_digest(tx: &Tx<'_>) -> Result<(), Error> {
    tx.connection()
        .execute("UPDATE profile SET inventory_digest = NULL", [])?;
    Ok(())
}

/// Remembers the inventory that the pool was reconciled with.
pub(crate) fn set_inventory_digest(tx: &Tx<'_>, digest: &str) -> Result<(), Error> {
    tx.connection().execute(
        "UPDATE profile SET inventory_digest = ?1 WHERE inventory_digest IS NOT ?1",
        [digest],
    )?;
    Ok(())
}
