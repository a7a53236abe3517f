use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use larder_wire::{DeviceId, DeviceInfo, ProblemType, UserName};

use crate::clocks::ServerClock;
use crate::connection::MlsConnection;
use crate::connection::operations::unless_later;
use crate::connection::sync::Progress;
use crate::core::{self, Core, Extent, Handle, Listed, Registering, Suites};
use crate::error::{Error, NotTheServer};
use crate::transport::Anonymous;
use crate::types::{Device, DeviceToLink, GroupKey, Options};

/// Lists of devices fetched in one sync: who joins a large group looks its members up a part at a time.
const LISTS_PER_SYNC_MAX: u32 = 64;

/// A new device that waits to be linked to its user.
pub struct Linking {
    connection: MlsConnection,
    code: String,
    fingerprint: String,
}

impl fmt::Debug for Linking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Linking")
            .field("connection", &self.connection)
            .finish_non_exhaustive()
    }
}

impl Linking {
    /// What a person carries to a device that the user has, for [`MlsConnection::read_link_code`] there. It is secret until it was
    /// used: whoever has it, and the server, can make this device theirs.
    pub fn code(&self) -> &str {
        &self.code
    }

    /// SHA-256 of this device's signature key, 64 hexadecimal digits: the other device shows it too, to be compared before
    /// it authorizes this one.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The connection, once the device is linked; `None` before. The next [`sync`](MlsConnection::sync) joins the user's
    /// groups.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::Refused`]; [`NotTheServer::ForgedIntroduction`] when nothing shows that whoever let this
    /// device in had its code, and [`NotTheServer::ForgedDevices`] when the server's list of the user's devices does not lead to
    /// it: it can be tried again.
    pub async fn finish(&self) -> Result<Option<MlsConnection>, Error> {
        let inner = &self.connection.0;
        match inner.transport.authenticate().await {
            Ok(()) => {}
            Err(Error::UnknownAccount) => return Ok(None),
            Err(other) => return Err(other),
        }
        if inner.core.write(|tx, _| core::is_registered(tx)).await? {
            return Ok(Some(self.connection.clone()));
        }
        let introduction = match inner.transport.introduction().await {
            Ok(introduction) => introduction,
            Err(Error::Refused(problem)) if problem.problem_type == ProblemType::NotFound => {
                return Err(NotTheServer::ForgedIntroduction.into());
            }
            Err(other) => return Err(other),
        };
        let listed = self.connection.list_devices(&inner.me.user).await?;
        inner
            .core
            .write(move |tx, context| core::linked(tx, context, &introduction, &listed))
            .await?;
        Ok(Some(self.connection.clone()))
    }
}

impl MlsConnection {
    /// Opens a profile for a further device of a user, with keys that are stored from here on. The device is nobody's until
    /// another one of the user has [authorized](Self::authorize_link) it: [`Linking::finish`] tells.
    ///
    /// Calling it again with the same arguments goes on with the same keys.
    ///
    /// # Errors
    /// Those of [`register`](Self::register).
    pub async fn link(options: Options, server: &str, user: UserName) -> Result<Linking, Error> {
        let (connection, _) = Self::begin(options, server, user).await?;
        let (code, fingerprint) = connection.0.core.write(core::link_code).await?;
        Ok(Linking {
            connection,
            code: code.reveal(),
            fingerprint,
        })
    }

    /// Checks the code that a new device shows. Its fingerprint must be the one that the new device shows: whoever could
    /// change the code on its way is let in otherwise.
    ///
    /// # Errors
    /// [`Error::InvalidLinkCode`], [`Error::LinkCodeOfAnother`].
    pub async fn read_link_code(&self, code: &str) -> Result<DeviceToLink, Error> {
        let code = code.to_owned();
        self.0
            .core
            .write(move |tx, context| core::read_link_code(tx, context, &code))
            .await
    }

    /// Makes a device one of this user's: signs for it and for the groups that it may join, and tells the server on its behalf,
    /// so that nothing has to be carried back. Doing it again is no error.
    ///
    /// # Errors
    /// [`Error::Refused`] with `too-many-devices` and others; [`NotTheServer::ForgedDevices`]; [`Error::Unreachable`], and it may
    /// have happened.
    pub async fn authorize_link(&self, device: DeviceToLink) -> Result<(), Error> {
        let _operation = self.0.operation.lock().await;
        // The server keeps what is said of the present epochs of groups.
        unless_later(
            self.pump(&mut Progress::default()).await,
            "groups are as they were last known",
        )?;
        let listed = self.learn_devices(&self.0.me.user).await?;
        listed.ok_or(NotTheServer::ForgedDevices)?;
        let request = self
            .0
            .core
            .write(move |tx, context| core::authorize(tx, context, device))
            .await?;
        self.0.transport.link_device(&request).await.map(|_| ())
    }

    /// The devices that this user has or had, as the server lists them and this device judges the list.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::Refused`]; [`NotTheServer::ForgedDevices`] when the list is not believed.
    pub async fn devices(&self) -> Result<Vec<Device>, Error> {
        let _operation = self.0.operation.lock().await;
        let listed = self.learn_devices(&self.0.me.user).await?;
        let listed = listed.ok_or(NotTheServer::ForgedDevices)?;
        self.0
            .core
            .write(move |tx, context| core::own_devices(tx, context, &listed))
            .await
    }

    /// Removes a device of this user, this one included, by this one's signature; the last one ends the account. From then on the
    /// server takes nothing from it, and its leaves are removed: by this device at once, where it is in the groups and the server
    /// can be reached, and by whichever member's is first. After its own removal this connection can do nothing any more.
    ///
    /// # Errors
    /// [`Error::Refused`] with `not-found`; [`NotTheServer::ForgedDevices`]; [`Error::Unreachable`], and it may have happened: do
    /// it again.
    pub async fn remove_device(&self, device: &DeviceId) -> Result<(), Error> {
        let _operation = self.0.operation.lock().await;
        let (core, transport) = (&self.0.core, &self.0.transport);
        let listed = self.learn_devices(&self.0.me.user).await?;
        let listed = listed.ok_or(NotTheServer::ForgedDevices)?;
        let removed = device.clone();
        let removal = core
            .write(move |_, context| core::sign_removal(context, &removed, &listed))
            .await?;
        transport.remove_device(device, &removal).await?;
        if *device == self.0.me.device_id {
            return Ok(());
        }
        let removed = device.clone();
        core.write(move |tx, context| core::removed_own(tx, context, &removed))
            .await?;
        self.0.others_first.end();
        match self.pump(&mut Progress::default()).await {
            Err(error) if error.leaves_waiting() => {
                let code = error.code();
                tracing::warn!(code, "the leaves of a removed device are left to the next sync");
                Ok(())
            }
            done => done,
        }
    }

    /// Fetches a user's list of devices and takes it over: `None` when it is not believed, of which the groups are told. A user
    /// whom the server does not know, or not for us, has no devices.
    pub(super) async fn learn_devices(&self, user: &UserName) -> Result<Option<Vec<DeviceInfo>>, Error> {
        let listed = self.list_devices(user).await?;
        let user = user.clone();
        self.0
            .core
            .write(move |tx, context| {
                let is_believed = core::learn_devices(tx, context, &user, &listed)?;
                Ok(is_believed.then(|| listed.into_devices()))
            })
            .await
    }

    pub(super) async fn list_devices(&self, user: &UserName) -> Result<Listed, Error> {
        match self.0.transport.user_devices(user).await {
            Ok(listed) => Ok(Listed::Given(listed.devices)),
            Err(Error::Refused(problem)) if problem.problem_type == ProblemType::NotFound => {
                Ok(Listed::Withheld)
            }
            Err(Error::NotTheServer(NotTheServer::TooMuch)) => Ok(Listed::TooLong),
            Err(other) => Err(other),
        }
    }

    /// Fetches the lists of devices that are to be looked at. One that the server does not give, or that is not believed, is left
    /// to the next sync.
    pub(super) async fn check_devices(&self, progress: &mut Progress) -> Result<(), Error> {
        let due = self.0.core.write(|tx, _| core::device_checks(tx)).await?;
        for user in due {
            if progress.distrusted.contains(&user) {
                continue;
            }
            if progress.lists == LISTS_PER_SYNC_MAX {
                break;
            }
            progress.lists += 1;
            match self.learn_devices(&user).await {
                Ok(Some(_)) => {}
                Ok(None) => progress.distrusted.push(user),
                Err(Error::Refused(problem)) => {
                    tracing::warn!(
                        code = problem.problem_type.code(),
                        "a list of devices is not given"
                    );
                }
                Err(other) => return Err(other),
            }
        }
        Ok(())
    }

    /// Tells the server that it may forget what the device that let this one in had to say to it, once all of it is used.
    pub(super) async fn forget_introduction(&self) -> Result<(), Error> {
        let core = &self.0.core;
        if !core.write(|tx, _| core::vouchers_are_used(tx)).await? {
            return Ok(());
        }
        self.0.transport.forget_introduction().await?;
        core.write(|tx, _| core::introduction_forgotten(tx)).await
    }

    /// The list of this user's devices as the server gives it, for the signatures in it; none where it gives none.
    pub(super) async fn own_device_list(&self) -> Result<Arc<Vec<DeviceInfo>>, Error> {
        Ok(Arc::new(self.list_devices(&self.0.me.user).await?.into_devices()))
    }

    /// Adds those devices of its user to this device's groups that do not come by themselves. What the server refuses is tried
    /// again when there is a reason to. Whether anything was put into the outbox.
    pub(super) async fn add_own_devices(&self) -> Result<bool, Error> {
        let (core, due) = (&self.0.core, &self.0.own_devices_due);
        if !due.load(Ordering::Relaxed) || !core.write(core::has_other_devices).await? {
            return Ok(false);
        }
        let groups = core.write(core::groups_without_own_devices).await?;
        let mut any = false;
        if !groups.is_empty() {
            let Some(listed) = self.learn_devices(&self.0.me.user).await? else {
                return Ok(false);
            };
            let listed = Arc::new(listed);
            for group in groups {
                match self.add_own_devices_to(group, Arc::clone(&listed)).await {
                    Ok(queued) => any |= queued,
                    Err(
                        error @ (Error::Refused(_)
                        | Error::Mls { .. }
                        | Error::VerificationChanged { .. }
                        | Error::TooManyRaces),
                    ) => {
                        let code = error.code();
                        tracing::warn!(code, "the devices of this user were not added to a group");
                    }
                    Err(other) => return Err(other),
                }
            }
        }
        due.store(false, Ordering::Relaxed);
        Ok(any)
    }

    async fn add_own_devices_to(&self, group: GroupKey, listed: Arc<Vec<DeviceInfo>>) -> Result<bool, Error> {
        let core = &self.0.core;
        let key = group.clone();
        let wanted = core
            .write(move |tx, context| core::own_devices_to_add(tx, context, &key, &listed))
            .await?;
        if wanted.is_empty() {
            return Ok(false);
        }
        let us = [self.0.me.user.clone()];
        let reserved = self.reserve(&group, &us, Extent::WhoeverCan).await?;
        core.write(move |tx, context| {
            core::reserve_finished(tx, &group, &us, Extent::WhoeverCan)?;
            let mut checked = core::check_own_devices(tx, context, &group, &reserved, &wanted)?;
            if checked.users().is_empty() {
                return Ok(false);
            }
            let terms = (reserved.reservation_id, Extent::WhoeverCan);
            let staged = core::stage_invite(tx, context, &group, &mut checked, terms)?;
            Ok(staged.is_some())
        })
        .await
    }

    /// Opens a profile for a device that the server does not know yet.
    pub(super) async fn begin(
        options: Options,
        server: &str,
        user: UserName,
    ) -> Result<(Self, Anonymous), Error> {
        let (anonymous, server) = Anonymous::new(server, &options.access)?;
        let clock = Arc::new(ServerClock::new(options.clock.clone(), None));
        let anonymous = anonymous.heeded_by(&clock);
        let info = anonymous.info().await?;
        clock.require_close()?;
        let suites = Suites::of_server(&info);
        suites.require_one()?;
        let registering = Registering {
            user,
            server,
            server_name: info.server_name,
            suites,
        };
        let opening = options.clone();
        let core = Handle::start(move || Core::open_to_register(&opening, &registering)).await?;
        Ok((Self::start(core, options.access).await?, anonymous))
    }
}
