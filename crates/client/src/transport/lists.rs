//! What the server lists: it is not read beyond what it can have to say.

use larder_wire::{
    BODY_BYTES_MAX, GROUPS_PER_DEVICE_MAX, Introduction, Memberships, USER_DEVICES_EVER_MAX, UserDevices,
    UserName,
};

use crate::error::{Error, NotTheServer};
use crate::transport::Transport;
use crate::transport::http::Request;

/// The list of a user's devices, in bytes: each has names of 64 characters, keys of 32 bytes and signatures of 64.
const USER_DEVICES_BYTES_MAX: usize = 2 * 1024 * (USER_DEVICES_EVER_MAX + 1);

/// The list of a device's groups, in bytes: each has an id of 64 bytes and two numbers.
const MEMBERSHIPS_BYTES_MAX: usize = 256 * (GROUPS_PER_DEVICE_MAX + 1);

/// What the device that let this one in has to say to it, in bytes: as much as a request has room for.
const INTRODUCTION_BYTES_MAX: usize = BODY_BYTES_MAX;

impl Transport {
    /// What the device that let this one in has to say to it.
    pub(crate) async fn introduction(&self) -> Result<Introduction, Error> {
        let request = Request::get("/v1/introduction").with_answer_bytes_max(INTRODUCTION_BYTES_MAX);
        self.call(&request).await
    }

    /// This device has what it needs of that.
    pub(crate) async fn forget_introduction(&self) -> Result<(), Error> {
        let request = Request::delete("/v1/introduction");
        self.change(self.bare_claim().await?, request).await
    }

    /// The devices that a user has or had.
    ///
    /// # Errors
    /// [`NotTheServer::TooMuch`] for more bytes than so many devices take.
    pub(crate) async fn user_devices(&self, user: &UserName) -> Result<UserDevices, Error> {
        let request = Request::get(&format!("/v1/users/{user}/devices"));
        self.call(&request.with_answer_bytes_max(USER_DEVICES_BYTES_MAX))
            .await
    }

    /// The groups that the server knows this device as a member of.
    pub(crate) async fn memberships(&self) -> Result<Memberships, Error> {
        self.list_memberships(Vec::new()).await
    }

    /// The groups that any device of this one's user is a member of.
    pub(crate) async fn memberships_of_user(&self) -> Result<Memberships, Error> {
        self.list_memberships(vec![("of", "user".to_owned())]).await
    }

    /// # Errors
    /// [`NotTheServer::TooMuch`] for more groups than a device can be in.
    async fn list_memberships(&self, query: Vec<(&'static str, String)>) -> Result<Memberships, Error> {
        let request = Request::get("/v1/groups")
            .with_query(query)
            .with_answer_bytes_max(MEMBERSHIPS_BYTES_MAX);
        let listed: Memberships = self.call(&request).await?;
        match listed.groups.len() {
            0..=GROUPS_PER_DEVICE_MAX => Ok(listed),
            _ => Err(NotTheServer::TooMuch.into()),
        }
    }
}
