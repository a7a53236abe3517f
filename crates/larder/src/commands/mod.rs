//! The commands, one module for each subject.

mod account;
mod admin;
mod audit;
mod backup;
mod bench;
mod devices;
mod documents;
mod files;
mod groups;
mod guide;
mod history;
mod legacy;
mod passphrase;
mod pool;
mod receive;
mod requests;
mod send;
mod serve;
mod verification;

pub(crate) use receive::Reading;
pub(crate) use send::{pending_row, sent_record};
pub(crate) use serve::DATABASE;

use std::fs::File;
use std::io::{self, Read as _, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use larder_client::{
    Access, Authorities, Error, GroupKey, GroupSummary, MlsConnection, Options, PoolPolicy, StoreKey,
};

use crate::cli::{BenchCommand, Cli, Command, DeviceCommand, Global, GroupCommand, PoolCommand};
use crate::config::Configuration;
use crate::failure::{Exit, Failure};
use crate::output::Output;
use crate::passphrase::Sources;
use crate::profile::Home;
use crate::tui::Settings;
use crate::{chat, clock, demo};

pub(crate) use groups::{invite, members};
pub(crate) use pool::{pool_records, quarantined_record};
pub(crate) use verification::code_on_light;

/// Does what was asked for. Whatever the exit code, everything that there is to say has been printed.
pub(crate) async fn run(cli: Cli, configuration: Configuration, output: &Output) -> Result<ExitCode> {
    let context = Context {
        home: Home::resolve(cli.global.home.clone())?,
        global: cli.global,
        settings: configuration.chat,
        output,
    };
    let context = &context;
    match cli.command {
        Command::Serve(options) => serve::serve(context, *options).await,
        Command::Admin(command) => admin::run(context, command).await,
        Command::Register { user, invite, new } => account::register(context, user, invite, new).await,
        Command::Link { user, new } => devices::link(context, user, new).await,
        Command::Device(DeviceCommand::Authorize { code, yes }) => {
            devices::authorize(context, &code, yes).await
        }
        Command::Device(DeviceCommand::List) => devices::list(context).await,
        Command::Device(DeviceCommand::Remove { device }) => devices::remove(context, &device).await,
        Command::Passphrase(options) => passphrase::passphrase(context, &options),
        Command::Group(GroupCommand::Create { name }) => groups::create(context, &name).await,
        Command::Group(GroupCommand::Rename { group, name }) => groups::rename(context, &group, &name).await,
        Command::Invite {
            group,
            users,
            all_or_nothing,
        } => groups::invite_command(context, &group, &users, all_or_nothing).await,
        Command::Accept { group } => requests::accept(context, &group).await,
        Command::Decline { group } => requests::decline(context, &group).await,
        Command::Block { user } => account::block(context, &user).await,
        Command::Trust { user } => account::trust(context, &user).await,
        Command::Unblock { user } => account::unblock(context, &user).await,
        Command::Remove { group, user } => groups::remove(context, &group, &user).await,
        Command::Leave { group } => groups::leave(context, &group).await,
        Command::Send(options) => send::send(context, options).await,
        Command::Save { row, to, name } => files::save(context, row, to.as_deref(), name.as_deref()).await,
        Command::Retry { group } => send::retry(context, &group).await,
        Command::Recv(options) => receive::receive(context, options).await,
        Command::History { group, limit, before } => history::history(context, &group, before, limit).await,
        Command::Search { text, group, limit } => {
            history::search(context, &text.join(" "), group.as_deref(), limit).await
        }
        Command::Groups => groups::list(context).await,
        Command::Mute { group } => groups::set_muted(context, &group, true).await,
        Command::Unmute { group } => groups::set_muted(context, &group, false).await,
        Command::Members { group } => groups::members_command(context, &group).await,
        Command::Verify(options) => verification::verify(context, &options).await,
        Command::Pool(PoolCommand::Status) => pool::status(context).await,
        Command::Pool(PoolCommand::Refresh) => pool::refresh(context).await,
        Command::Pool(PoolCommand::Audit) => audit::audit(context).await,
        Command::Pool(PoolCommand::Probe) => pool::probe(context).await,
        Command::Pool(PoolCommand::MigrateLegacy { from, apply }) => {
            legacy::migrate(context, from, apply).await
        }
        Command::Chat { group, plain } => chat::chat(context, group.as_deref(), plain).await,
        Command::Export(options) => backup::export(context, options).await,
        Command::Import(options) => backup::import(context, &options),
        Command::Config { path } => documents::config(context, path),
        Command::Completions { shell } => documents::completions(context, shell),
        Command::Man { command, dir } => documents::man(context, &command, dir.as_deref()),
        Command::Schema => documents::schema(context),
        Command::Bench(BenchCommand::Chat) => bench::chat(output),
        Command::Bench(BenchCommand::Groups(options)) => bench::groups(output, options).await,
        Command::Bench(BenchCommand::Server(options)) => bench::server(output, options).await,
        Command::Demo => demo::demo(output).await,
    }
}

/// More than this is not read of a file of certificates, which then is too large to be used, in bytes.
const CA_BYTES_MAX: u64 = 2 * 1024 * 1024;

/// What every command is given.
pub(crate) struct Context<'a> {
    pub(crate) home: Home,
    pub(crate) global: Global,
    /// How the chat is to be.
    pub(crate) settings: Settings,
    pub(crate) output: &'a Output,
}

impl Context<'_> {
    /// The profile's directory.
    fn profile(&self) -> PathBuf {
        self.home.profile(&self.global.profile)
    }

    /// Where the passphrase of the profile comes from.
    fn sources(&self) -> Sources<'_> {
        Sources::new(
            self.profile(),
            self.global.passphrase_command.as_deref(),
            self.global.passphrase_fd,
        )
    }

    /// How the server may be talked to, as far as it is said now.
    fn access(&self) -> Result<Access> {
        let authorities = match &self.global.ca {
            None => None,
            Some(file) => {
                let unusable = |code, why: &dyn std::fmt::Display| {
                    let message = format!("{} cannot be used: {why}", file.display());
                    Failure::new(Exit::Usage, code, message)
                };
                let mut pem = Vec::new();
                File::open(file)
                    .and_then(|opened| opened.take(CA_BYTES_MAX).read_to_end(&mut pem))
                    .map_err(|error| unusable("ca-unreadable", &error))?;
                let read = Authorities::from_pem(&pem);
                Some(read.map_err(|error| unusable(error.code(), &error))?)
            }
        };
        Ok(Access {
            insecure_http: self.global.insecure_http,
            authorities,
        })
    }

    /// How a connection keeps its state.
    fn options(&self, key: Option<StoreKey>) -> Result<Options> {
        Ok(Options {
            profile: self.profile(),
            key,
            clock: clock::system(),
            policy: PoolPolicy::default(),
            invitations: self.global.invitations.into(),
            access: self.access()?,
            dates: clock::date,
        })
    }

    /// Opens the profile, which must be registered, and at the server that `--server` names, if it names one.
    pub(crate) async fn open(&self) -> Result<MlsConnection> {
        let key = self.sources().of_existing()?;
        let client = match MlsConnection::open(self.options(key)?).await {
            Err(Error::NotRegistered) => {
                return Err(Failure::new(
                    Exit::Unknown,
                    Error::NotRegistered.code(),
                    format!(
                        "the profile {} has no account; create one with `larder register USER`",
                        self.global.profile
                    ),
                )
                .into());
            }
            opened => opened?,
        };
        let theirs = &client.me().server;
        match &self.global.server {
            Some(wanted) if wanted.trim_end_matches('/') != theirs => Err(Failure::new(
                Exit::Usage,
                "other-server",
                format!("the profile {} is registered at {theirs}", self.global.profile),
            )
            .into()),
            Some(_) | None => Ok(client),
        }
    }

    /// Opens the profile and finds a group in it. A group that is not known yet may be one that this device was invited
    /// to meanwhile, so the server is asked before it is called unknown.
    pub(crate) async fn open_group(&self, group: &str) -> Result<(MlsConnection, GroupKey)> {
        let client = self.open().await?;
        let key = match client.resolve_group(group).await {
            Err(Error::UnknownGroup) => {
                client.sync().await?;
                resolve(&client, group).await?
            }
            found => found?,
        };
        Ok((client, key))
    }

    /// The same for an invitation that waits for an answer.
    async fn open_request(&self, group: &str) -> Result<(MlsConnection, GroupKey)> {
        let client = self.open().await?;
        let key = match client.resolve_request(group).await {
            Err(Error::UnknownGroup) => {
                client.sync().await?;
                client
                    .resolve_request(group)
                    .await
                    .map_err(|error| unknown_group(error, "invitation to a group", group))?
            }
            found => found?,
        };
        Ok((client, key))
    }
}

/// Asks a person, who sees what they type. Nobody there says nothing.
fn answer(question: &str) -> io::Result<String> {
    let mut asked = io::stderr();
    write!(asked, "{question}")?;
    asked.flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(answer)
}

/// Asks a person. Nobody there says no.
fn confirmed(question: &str) -> io::Result<bool> {
    let answer = answer(&format!("{question} [y/N] "))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn unknown_group(error: Error, what: &str, group: &str) -> anyhow::Error {
    match error {
        Error::UnknownGroup => Failure::new(
            Exit::Unknown,
            Error::UnknownGroup.code(),
            format!("no {what} called {group}"),
        )
        .into(),
        other => other.into(),
    }
}

/// Finds a group that is known.
async fn resolve(client: &MlsConnection, group: &str) -> Result<GroupKey> {
    let found = client.resolve_group(group).await;
    found.map_err(|error| unknown_group(error, "group", group))
}

/// What is known of one group.
async fn summary(client: &MlsConnection, key: &GroupKey) -> Result<GroupSummary> {
    let groups = client.groups().await?;
    groups
        .into_iter()
        .find(|group| &group.id == key)
        .ok_or_else(|| Error::UnknownGroup.into())
}

/// How a group is called in what is printed.
pub(crate) async fn group_name(client: &MlsConnection, key: &GroupKey) -> Result<String> {
    let summary = summary(client, key).await?;
    Ok(summary.name.unwrap_or_else(|| key.to_string()))
}
