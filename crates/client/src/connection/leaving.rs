use crate::connection::MlsConnection;
use crate::connection::doubts::unless_refused;
use crate::connection::operations::unless_later;
use crate::connection::sync::Progress;
use crate::core;
use crate::error::Error;
use crate::types::GroupKey;

impl MlsConnection {
    /// Leaves a group, at once: the history stays, and what waits to be sent there fails. The server delivers nothing more of the
    /// group from when it is told, and a member's device removes this one; the user's other devices leave, too. Leaving twice is no
    /// error. Returns whether the server knows: otherwise the next [`sync`](Self::sync) that reaches it tells it.
    ///
    /// # Errors
    /// [`Error::UnknownGroup`]; [`Error::GroupNotActive`], when the server has not confirmed it.
    pub async fn leave(&self, group: &GroupKey) -> Result<bool, Error> {
        let _operation = self.0.operation.lock().await;
        let group = group.clone();
        // Before the server is asked anything: whatever it answers, the group is left.
        let core = &self.0.core;
        core.write(move |tx, context| core::leave(tx, context, &group))
            .await?;
        self.tell_of_leaving().await
    }

    /// Tells the server of the groups that this device has left, if it can be reached. Whether it knows.
    pub(super) async fn tell_of_leaving(&self) -> Result<bool, Error> {
        let told = self.pump(&mut Progress::default()).await;
        Ok(unless_later(told, "the server is told later that a group was left")?.is_some())
    }

    /// Asks the server for the leaves that this device has in groups which it has left without knowing them, so that it can be told.
    /// Whether there was any.
    pub(super) async fn leave_as_told(&self, progress: &mut Progress) -> Result<bool, Error> {
        let core = &self.0.core;
        let mut any = false;
        for group in core.write(|tx, _| core::leaves_to_ask(tx)).await? {
            // One that says no to whatever it is told is asked again by the next sync.
            if !progress.leaves_asked.insert(group.clone()) {
                continue;
            }
            any = true;
            let answer = unless_refused(self.0.transport.group_info(&group).await)?;
            core.write(move |tx, context| core::leave_as_told(tx, context, &group, answer.as_ref()))
                .await?;
        }
        Ok(any)
    }
}
