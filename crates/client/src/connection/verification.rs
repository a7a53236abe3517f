use std::sync::PoisonError;

use larder_wire::UserName;

use crate::connection::MlsConnection;
use crate::core::{self, Keys, Offered};
use crate::error::Error;
use crate::verification::{NewIdentity, SafetyNumber, Verification};

/// Comparing keys with another person, so that neither has to believe the server.
impl MlsConnection {
    /// What both people see if both have each other's keys, and nobody else's: to be compared by a way that the server has no
    /// part in. It is made of the names and of the keys of all devices of both users, as the server lists them now and this
    /// device judges the lists; if the server cannot be reached, as it knows them.
    ///
    /// # Errors
    /// [`Error::UnknownUser`], [`Error::Oneself`], [`Error::Refused`].
    pub async fn safety_number(&self, user: &UserName) -> Result<SafetyNumber, Error> {
        let user = self.look_up(user).await?;
        let asked = user.clone();
        let (number, keys) = self
            .0
            .core
            .write(move |tx, context| core::safety_number(tx, context, &asked))
            .await?;
        self.shown().insert(user, keys);
        Ok(number)
    }

    /// Whether this is what a device of the user has shown as [`SafetyNumber::qr`]: its owner and this device's see the same.
    /// It does not [mark](Self::set_verified) the user.
    ///
    /// # Errors
    /// Those of [`safety_number`](Self::safety_number).
    pub async fn check_qr(&self, user: &UserName, payload: &[u8]) -> Result<bool, Error> {
        Ok(self.safety_number(user).await?.is_code(payload))
    }

    /// What is to be compared with a user whose list of devices is not believed, because it contradicts what is known of them.
    /// Nothing of it counts before [`take_new_identity`](Self::take_new_identity).
    ///
    /// # Errors
    /// [`Error::NoOtherIdentity`] when the list is believed; [`NotTheServer::ForgedDevices`](crate::NotTheServer::ForgedDevices)
    /// when it is no list of anybody's; [`Error::Oneself`], [`Error::Unreachable`], [`Error::Refused`].
    pub async fn new_identity(&self, user: &UserName) -> Result<NewIdentity, Error> {
        self.require_another(user)?;
        let _operation = self.0.operation.lock().await;
        self.learn_devices_if_reachable(&self.0.me.user).await?;
        let listed = self.list_devices(user).await?;
        let asked = user.clone();
        let (shown, offered) = self
            .0
            .core
            .write(move |tx, context| core::new_identity(tx, context, &asked, listed))
            .await?;
        self.offered().insert(user.clone(), offered);
        Ok(shown)
    }

    /// Forgets all that is known of a user, takes the devices in its place that [`new_identity`](Self::new_identity) has shown
    /// last, or else those that the server lists now, and marks the user as verified by them.
    ///
    /// Devices of the identity that is given up stay in their groups and make the user [`Changed`](Verification::Changed) there,
    /// until the user is removed. To go back to them takes the same.
    ///
    /// # Errors
    /// Those of [`new_identity`](Self::new_identity).
    pub async fn take_new_identity(&self, user: &UserName) -> Result<(), Error> {
        let mut offered = self.offered().remove(user);
        if offered.is_none() {
            self.new_identity(user).await?;
            offered = self.offered().remove(user);
        }
        let offered = offered.ok_or_else(|| Error::NoOtherIdentity { user: user.clone() })?;
        self.shown().remove(user);
        let user = user.clone();
        self.0
            .core
            .write(move |tx, context| core::take_new_identity(tx, context, &user, offered))
            .await
    }

    /// Marks a user as verified, or no longer. What is remembered are the keys that [`safety_number`](Self::safety_number) has
    /// shown last, or else those that are known now: with any other, the user is [`Changed`](Verification::Changed).
    ///
    /// # Errors
    /// [`Error::UnknownUser`], [`Error::Oneself`].
    pub async fn set_verified(&self, user: &UserName, verified: bool) -> Result<(), Error> {
        self.require_another(user)?;
        let shown = self.shown().get(user).cloned();
        let user = user.clone();
        self.0
            .core
            .write(move |tx, context| {
                let keys = match (verified, shown) {
                    (false, _) => None,
                    (true, Some(shown)) => Some(shown),
                    (true, None) => Some(core::known_keys(tx, context, &user)?),
                };
                core::set_verified(tx, context, &user, keys.as_ref())
            })
            .await
    }

    /// Whether a user is verified, from what is known here.
    ///
    /// # Errors
    /// [`Error::Store`] and its like.
    pub async fn verification(&self, user: &UserName) -> Result<Verification, Error> {
        let user = user.clone();
        self.0
            .core
            .write(move |tx, _| core::verification(tx, &user))
            .await
    }

    /// The users whose verification has [changed](Verification::Changed), by name, from what is known here.
    ///
    /// # Errors
    /// [`Error::Store`] and its like.
    pub async fn changed_users(&self) -> Result<Vec<UserName>, Error> {
        self.0.core.write(|tx, _| core::changed_users(tx)).await
    }

    /// Fetches the lists of devices of a user and of this one's own, if the server can be reached.
    async fn look_up(&self, user: &UserName) -> Result<UserName, Error> {
        self.require_another(user)?;
        let _operation = self.0.operation.lock().await;
        for user in [user, &self.0.me.user] {
            self.learn_devices_if_reachable(user).await?;
        }
        Ok(user.clone())
    }

    async fn learn_devices_if_reachable(&self, user: &UserName) -> Result<(), Error> {
        match self.learn_devices(user).await {
            Ok(_) => Ok(()),
            Err(error @ (Error::Unreachable(_) | Error::NotTheServer(_))) => {
                tracing::info!(code = error.code(), "a list of devices is not fetched");
                Ok(())
            }
            Err(other) => Err(other),
        }
    }

    fn offered(&self) -> std::sync::MutexGuard<'_, std::collections::BTreeMap<UserName, Offered>> {
        self.0.offered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn require_another(&self, user: &UserName) -> Result<(), Error> {
        match *user == self.0.me.user {
            true => Err(Error::Oneself),
            false => Ok(()),
        }
    }

    fn shown(&self) -> std::sync::MutexGuard<'_, std::collections::BTreeMap<UserName, Keys>> {
        // Nothing is left half done by who held it.
        self.0.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
