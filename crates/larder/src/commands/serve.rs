//! `serve`.

use std::fs::{File, TryLockError};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use larder_server::{
    BlobLimits, Config, Fault, Metrics, PostgresErrorKind, Service, StoreLocation, check_group_suites,
};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use super::Context;
use crate::cli::{Serve, StoreOption, StoreUrl};
use crate::clock;
use crate::descriptors;
use crate::failure::{Exit, Failure};
use crate::profile;
use crate::record::Record;
use crate::shutdown::Shutdown;

/// The database in the server's directory.
pub(crate) const DATABASE: &str = "server.db";
/// Bytes of a MiB.
const MIB: u64 = 1024 * 1024;
/// Seconds of a day.
const DAY_SECONDS: u64 = 24 * 60 * 60;

pub(super) async fn serve(context: &Context<'_>, options: Serve) -> Result<ExitCode> {
    let (listen, metrics) = (options.listen, options.metrics);
    let config = config(context, options)?;
    let mut shutdown = Shutdown::listen()?;
    let store = config.store.clone();
    let _lock = match &store {
        StoreLocation::Sqlite(file) => Some(prepare(file)?),
        // Any number of servers may use it.
        StoreLocation::Postgres(_) => None,
    };
    // The address first: a server that cannot listen has no business with the database.
    let listener = TcpListener::bind(listen)
        .await
        .map_err(|error| cannot_listen(&error, &listen))?;
    let address = listener.local_addr()?;
    if !address.ip().is_loopback() {
        tracing::warn!(%address, "listening beyond this machine without TLS: put a proxy that terminates it in front");
    }
    descriptors::allow_for(config.limits.connections_max);
    let server_name = config.server_name.clone();
    let opening = Service::open(config, clock::of_the_machine());
    let service = tokio::select! {
        opened = opening => opened.map_err(|fault| cannot_open(&store, fault))?,
        // The database may be waited for.
        () = shutdown.requested() => return Ok(ExitCode::SUCCESS),
    };
    let (stop_metrics, metrics) = serve_metrics(metrics).await?;
    context.output.print(&[Record::Listening {
        url: format!("http://{address}"),
        server_name,
        metrics,
    }])?;
    let (told, tell) = oneshot::channel::<()>();
    let serving = larder_server::serve(listener, service, async {
        // The sender is dropped without a word only with everything else.
        let _ = tell.await;
    });
    let stopping = async {
        shutdown.requested().await;
        tracing::info!("ending: requests under way are answered first");
        // The server may have ended by itself.
        let _ = told.send(());
        // Asked twice, it does not wait for anybody.
        shutdown.requested().await;
    };
    tokio::select! {
        served = serving => served?,
        () = stopping => (),
    }
    drop(stop_metrics);
    Ok(ExitCode::SUCCESS)
}

/// What the options make of a server.
fn config(context: &Context<'_>, options: Serve) -> Result<Config> {
    let store = location(context, options.store)?.with_postgres_connections(options.postgres_connections);
    let mut config = Config::new(store);
    config.server_name = options.server_name;
    config.external_delivery = options.external_delivery;
    config.user_devices_max = options.user_devices;
    config.registration = options.registration.into();
    config.accounts_per_hour = options.accounts_per_hour;
    config.addresses = options.addresses.into();
    config.drain = options.drain.into();
    config.audit_retention_seconds = options.audit_days * DAY_SECONDS;
    config.postgres_wait_seconds = options.postgres_wait_seconds;
    config.session_seconds = options.durations.sessions();
    config.inbox_retention_seconds = options.durations.messages();
    config.blobs.bytes_max = BlobLimits::for_files_of(options.attachment_mib * MIB);
    config.blobs.user_bytes_max = options.user_attachments_mib * MIB;
    config.blobs.store_bytes_max = options.store_attachments_mib * MIB;
    config.blobs.retention_seconds = options.durations.attachments();
    if !options.suites.is_empty() {
        config.group_suites = options.suites;
    }
    check_group_suites(&config.group_suites)
        .map_err(|error| Failure::new(Exit::Usage, "unusable-suites", error.to_string()))?;
    Ok(config)
}

/// Serves counts, if asked to, until the sender that is returned is dropped. Returns where, too.
async fn serve_metrics(address: Option<SocketAddr>) -> Result<(Option<oneshot::Sender<()>>, Option<String>)> {
    let Some(address) = address else {
        return Ok((None, None));
    };
    let listener = TcpListener::bind(address)
        .await
        .map_err(|error| cannot_listen(&error, &address))?;
    let url = format!("http://{}/metrics", listener.local_addr()?);
    let metrics = Metrics::install()?;
    let (stop, stopped) = oneshot::channel::<()>();
    tokio::spawn(async move {
        let until = async {
            let _ = stopped.await;
        };
        if let Err(error) = metrics.serve(listener, until).await {
            tracing::error!(%error, "the metrics are not served any more");
        }
    });
    Ok((Some(stop), Some(url)))
}

/// Where a server keeps everything.
pub(super) fn location(context: &Context<'_>, StoreOption { store }: StoreOption) -> Result<StoreLocation> {
    match store {
        Some(StoreUrl(store)) => store.parse().context("--store"),
        None => Ok(context.home.server().join(DATABASE).into()),
    }
}

/// Why a store cannot be opened, with a code where somebody can do something about it.
pub(super) fn cannot_open(store: &StoreLocation, fault: Fault) -> anyhow::Error {
    let message = format!("the database {store} cannot be opened");
    let Fault::Postgres(error) = &fault else {
        return anyhow::Error::new(fault).context(message);
    };
    let (exit, code) = match error.kind() {
        PostgresErrorKind::Unreachable => (Exit::Unreachable, "database-unreachable"),
        PostgresErrorKind::Tls => (Exit::Refused, "database-tls"),
        PostgresErrorKind::Login => (Exit::Refused, "database-login"),
        PostgresErrorKind::SharedSessions => (Exit::Refused, "database-pooler"),
        PostgresErrorKind::Other => (Exit::Failed, "failed"),
    };
    Failure::new(exit, code, format!("{message}: {error}")).into()
}

fn cannot_listen(error: &io::Error, address: &std::net::SocketAddr) -> Failure {
    if error.kind() == io::ErrorKind::AddrInUse {
        return Failure::new(
            Exit::Refused,
            "address-in-use",
            format!(
                "{address} is in use, perhaps by another `larder serve`; choose another address with --listen"
            ),
        );
    }
    Failure::new(
        Exit::Failed,
        "cannot-listen",
        format!("cannot listen on {address}: {error}"),
    )
}

/// Creates the directory of a SQLite database, and locks the database for this process.
fn prepare(database: &Path) -> Result<File> {
    if let Some(directory) = database
        .parent()
        .filter(|directory| !directory.as_os_str().is_empty())
    {
        profile::create_private(directory)
            .with_context(|| format!("the directory {} cannot be created", directory.display()))?;
    }
    lock(database)
}

/// Makes sure that no other server uses the database: each would wake only its own clients. The lock ends with the
/// process, however it ends.
pub(super) fn lock(database: &Path) -> Result<File> {
    let mut path = database.as_os_str().to_owned();
    path.push(".lock");
    let path = PathBuf::from(path);
    let file = create_private(&path).with_context(|| {
        format!(
            "the file {} cannot be created for its owner alone",
            path.display()
        )
    })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Failure::new(
            Exit::InUse,
            "database-locked",
            format!("another server uses the database {}", database.display()),
        )
        .into()),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("{} cannot be locked", path.display()))
        }
    }
}

/// Creates a file that only its owner may open, or makes one so that is there.
fn create_private(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(path)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        if file.metadata()?.permissions().mode() & 0o077 != 0 {
            file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
        }
    }
    Ok(file)
}
