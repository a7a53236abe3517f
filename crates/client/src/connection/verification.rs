use std::sync::PoisonError;

use larder_wire::UserName;

use crate::connection::MlsConnection;
use crate::core::{self, Keys};
use crate::error::Error;
use crate::verification::{SafetyNumber, Verification};

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
        self.safety_number(user).await?;
        let (user, payload) = (user.clone(), payload.to_owned());
        self.0
            .core
            .write(move |tx, context| core::is_code_of(tx, context, &user, &payload))
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
            match self.learn_devices(user).await {
                Ok(_) => {}
                Err(error @ (Error::Unreachable(_) | Error::NotTheServer(_))) => {
                    tracing::info!(code = error.code(), "a list of devices is not fetched");
                }
                Err(other) => return Err(other),
            }
        }
        Ok(user.clone())
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
