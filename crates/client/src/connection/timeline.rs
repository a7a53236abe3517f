use crate::connection::MlsConnection;
use crate::core;
use crate::error::Error;
use crate::text::folded;
use crate::types::{GroupKey, Message, SendStatus};

/// Reading the history. Nothing here waits for the server, or marks anything as read that it was not told to.
impl MlsConnection {
    /// What others sent or did and is not marked as read, oldest first.
    ///
    /// # Errors
    /// [`Error::Store`] and its like.
    pub async fn unread(&self) -> Result<Vec<Message>, Error> {
        self.0.core.write(|tx, _| core::unread(tx)).await
    }

    /// Rows up to and including this one are read, of all groups and of what concerns none. Going backwards does nothing.
    ///
    /// # Errors
    /// [`Error::Store`] and its like.
    pub async fn mark_read(&self, up_to: i64) -> Result<(), Error> {
        self.0.core.write(move |tx, _| core::mark_read(tx, up_to)).await
    }

    /// Rows of a group up to and including this one are read. Going backwards does nothing.
    ///
    /// # Errors
    /// [`Error::UnknownGroup`].
    pub async fn mark_group_read(&self, group: &GroupKey, up_to: i64) -> Result<(), Error> {
        let group = group.clone();
        self.0
            .core
            .write(move |tx, _| {
                core::group_state(tx, &group)?;
                core::mark_group_read(tx, &group, up_to)
            })
            .await
    }

    /// Rows that concern no group are read up to and including this one. Going backwards does nothing.
    ///
    /// # Errors
    /// [`Error::Store`] and its like.
    pub async fn mark_notices_read(&self, up_to: i64) -> Result<(), Error> {
        self.0
            .core
            .write(move |tx, _| core::mark_notices_read(tx, up_to))
            .await
    }

    /// The last `limit` rows of a group's history, own ones included, oldest first.
    ///
    /// # Errors
    /// [`Error::UnknownGroup`].
    pub async fn history(&self, group: &GroupKey, limit: u32) -> Result<Vec<Message>, Error> {
        self.history_before(group, None, limit).await
    }

    /// The last `limit` rows of a group's history before this one (or the last ones at all), own ones included, oldest
    /// first.
    ///
    /// # Errors
    /// [`Error::UnknownGroup`].
    pub async fn history_before(
        &self,
        group: &GroupKey,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<Message>, Error> {
        let group = group.clone();
        self.0
            .core
            .write(move |tx, _| {
                core::group_state(tx, &group)?;
                core::history_before(tx, &group, before, limit)
            })
            .await
    }

    /// The first `limit` rows after this one, of all groups and of what concerns none, own ones included, oldest first. Rows
    /// are numbered in the order of arrival, so this is how an interface follows; how far an own message got changes
    /// afterwards, see [`unsent`](Self::unsent).
    ///
    /// # Errors
    /// [`Error::Store`] and its like.
    pub async fn messages_after(&self, row: i64, limit: u32) -> Result<Vec<Message>, Error> {
        self.0
            .core
            .write(move |tx, _| core::messages_after(tx, row, limit))
            .await
    }

    /// One row, as it is now.
    ///
    /// # Errors
    /// [`Error::Store`] and its like.
    pub async fn message(&self, row: i64) -> Result<Option<Message>, Error> {
        self.0.core.write(move |tx, _| core::message(tx, row)).await
    }

    /// The rows of own messages that the server does not have, oldest first, and what became of each: it waits to be sent, was
    /// refused, or is [lost](SendStatus::Lost). [`retry`](Self::retry) sends those of a group again. One that is no longer
    /// among them was sent.
    ///
    /// # Errors
    /// [`Error::Store`] and its like.
    pub async fn unsent(&self) -> Result<Vec<(i64, SendStatus)>, Error> {
        self.0.core.write(|tx, _| core::unsent(tx)).await
    }

    /// Messages of people that contain a text, in whatever case and however accents are stored, newest first: of one group, or of all whose invitation
    /// is accepted. Nothing contains an empty text.
    ///
    /// # Errors
    /// [`Error::UnknownGroup`].
    pub async fn search(
        &self,
        text: &str,
        group: Option<&GroupKey>,
        limit: u32,
    ) -> Result<Vec<Message>, Error> {
        let wanted = folded(text);
        let core = &self.0.core;
        if let Some(group) = group.cloned() {
            core.write(move |tx, _| core::group_state(tx, &group)).await?;
        }
        let mut found = Vec::new();
        let mut before = (!wanted.is_empty() && limit > 0).then_some(i64::MAX);
        while let Some(row) = before {
            let (wanted, group) = (wanted.clone(), group.cloned());
            let left = limit.saturating_sub(u32::try_from(found.len()).unwrap_or(u32::MAX));
            let step = core
                .write(move |tx, _| core::search(tx, &wanted, group.as_ref(), row, left))
                .await?;
            found.extend(step.found);
            before = step.before;
        }
        Ok(found)
    }
}
