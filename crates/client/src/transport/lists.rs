//! What the server lists: it is not read beyond what it can have to say.

use larder_wire::{GROUPS_PER_DEVICE_MAX, Memberships, USER_DEVICES_EVER_MAX, UserDevices, UserName};

use crate::error::{Error, NotTheServer};
use crate::transport::Transport;
use crate::transport::http::Request;

/// The list of a user's devices, in bytes: each has names of 64 characters, keys of 32 bytes and signatures of 64.
const USER_DEVICES_BYTES_MAX: usize = 2 * 1024 * (USER_DEVICES_EVER_MAX + 1);

/// The list of a device's groups, in bytes: each has an id of 64 bytes and two numbers.
const MEMBERSHIPS_BYTES_MAX: usize = 256 * (GROUPS_PER_DEVICE_MAX + 1);

impl Transport {
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
