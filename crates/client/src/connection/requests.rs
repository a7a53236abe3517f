use std::collections::BTreeMap;

use larder_wire::UserName;

use crate::connection::MlsConnection;
use crate::core;
use crate::error::Error;
use crate::types::{Declined, GroupKey, GroupState};

/// Invitations from strangers: see [`Invitations::Ask`](crate::Invitations::Ask).
impl MlsConnection {
    /// Accepts an invitation, or a group that the server offers in the place of one that this device lost track of, where nothing shows
    /// that it is the same: whoever is in it beside those who were named, or is missing, is to be looked at
    /// ([`GroupSummary::held`](crate::GroupSummary::held)). From then on the group is one like any other; what had waited for it, a fresh leaf for example,
    /// is done by the next [`sync`](Self::sync), and by that the user's other devices learn of it. Accepting what is accepted
    /// is no error.
    ///
    /// Returns the group's state. Where this device was removed before the person answered, that is [`GroupState::Left`]: the
    /// group is over, and what came with the invitation is kept as the history of any other group.
    ///
    /// # Errors
    /// [`Error::UnknownGroup`]; [`Error::GroupNotActive`], when it was left, and there is no invitation to be answered.
    pub async fn accept(&self, group: &GroupKey) -> Result<GroupState, Error> {
        let group = group.clone();
        let core = &self.0.core;
        core.write(move |tx, context| core::accept(tx, context, &group))
            .await
    }

    /// Declines an invitation: forgets what came with it and leaves the group, as [`leave`](Self::leave) does. What there was of
    /// the group before that invitation stays, its name and what was read of it included. When the server cannot be reached
    /// the next [`sync`](Self::sync) tells it. Of a group that is over there is nothing to tell.
    ///
    /// # Errors
    /// [`Error::NotARequest`], [`Error::UnknownGroup`].
    pub async fn decline(&self, group: &GroupKey) -> Result<Declined, Error> {
        let _operation = self.0.operation.lock().await;
        let group = group.clone();
        let core::Forgotten { kept, was_over } = self
            .0
            .core
            .write(move |tx, context| core::decline(tx, context, &group))
            .await?;
        let told = was_over || self.tell_of_leaving().await?;
        Ok(Declined { kept, was_over, told })
    }

    /// Says that a user is rightly in the groups, or out of them, that are held for it: see
    /// [`GroupSummary::held`](crate::GroupSummary::held). Once nobody is left to look at, what is said goes there again. Returns
    /// for how many groups it was.
    ///
    /// # Errors
    /// [`Error::Store`] and its like.
    pub async fn trust(&self, user: &UserName) -> Result<u64, Error> {
        let user = user.clone();
        self.0.core.write(move |tx, _| core::trust(tx, &user)).await
    }

    /// The groups with an invitation that was not answered, each with the last row of the history before it. What is after that
    /// row came with the invitation.
    ///
    /// # Errors
    /// [`Error::Store`] and its like.
    pub async fn unanswered(&self) -> Result<BTreeMap<GroupKey, i64>, Error> {
        self.0.core.write(|tx, _| core::unanswered(tx)).await
    }

    /// The invitation that a person means, like [`resolve_group`](Self::resolve_group) among those that are not answered.
    ///
    /// # Errors
    /// [`Error::UnknownGroup`], [`Error::Ambiguous`].
    pub async fn resolve_request(&self, text: &str) -> Result<GroupKey, Error> {
        let text = text.to_owned();
        self.0
            .core
            .write(move |tx, _| core::resolve_request(tx, &text))
            .await
    }
}
