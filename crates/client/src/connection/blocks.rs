use larder_wire::UserName;

use crate::connection::MlsConnection;
use crate::connection::sync::Progress;
use crate::core;
use crate::error::Error;
use crate::types::GroupKey;

impl MlsConnection {
    /// Hides this user from another: to them it is from now on as one who does not exist, and they can add none of its
    /// devices to a group. Nothing tells whether there is such a user. Groups that both are in stay as they are, except that
    /// invitations of theirs which were not answered are [declined](Self::decline): returns the groups.
    ///
    /// # Errors
    /// [`Error::Refused`] (it is this user, or too many are blocked already), [`Error::Unreachable`].
    pub async fn block(&self, user: &UserName) -> Result<Vec<GroupKey>, Error> {
        let _operation = self.0.operation.lock().await;
        self.set_block(user, true).await?;
        // What they sent before that is on its way, too.
        let caught_up = self.pump(&mut Progress::default()).await;
        let declined = self.decline_all_of(user).await?;
        caught_up.map(|()| declined)
    }

    /// Undoes [`block`](Self::block), if there was one.
    ///
    /// # Errors
    /// [`Error::Refused`] (it is this user), [`Error::Unreachable`].
    pub async fn unblock(&self, user: &UserName) -> Result<(), Error> {
        let _operation = self.0.operation.lock().await;
        self.set_block(user, false).await
    }

    async fn set_block(&self, user: &UserName, is_blocked: bool) -> Result<(), Error> {
        self.0.transport.set_block(user, is_blocked).await?;
        let user = user.clone();
        self.0
            .core
            .write(move |tx, _| core::note_block(tx, &user, is_blocked))
            .await
    }
}
