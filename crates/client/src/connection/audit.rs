use crate::audited::Audited;
use crate::connection::MlsConnection;
use crate::core::{self, Told};
use crate::error::{Error, NotTheServer};

/// Rows of an audit that are looked at. An honest directory would take decades to write as many.
const ROWS_MAX: usize = 1_000_000;

impl MlsConnection {
    /// Fetches what the directory tells of this device's KeyPackages (who took what, for which group, when) and verifies
    /// it: the chain of hashes from its beginning, or from where old rows were removed; that it is the one that was seen the last
    /// time, and that it does not contradict the pool. What is wrong first is in the answer.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::Refused`]; [`Error::Pool`].
    pub async fn audit(&self) -> Result<Audited, Error> {
        let core = &self.0.core;
        let joined = core.write(core::joined_by_invitation).await?;
        let mut told: Option<Told> = None;
        let mut fetched = 0;
        loop {
            let after = told
                .as_ref()
                .and_then(|told| told.rows.last())
                .map_or(0, |row| row.seq);
            let page = self.0.transport.audit(after).await?;
            let told = told.get_or_insert_with(|| Told {
                incarnation: page.incarnation.clone(),
                head: page.head.clone(),
                checkpoint: None,
                rows: Vec::new(),
            });
            if page.checkpoint.is_some() {
                // The beginning was removed, be it while the rows were fetched.
                told.checkpoint = page.checkpoint;
                told.rows.clear();
            }
            // A page that begins anew or goes back would never end; the chain breaks there all the same.
            let goes_on = page.rows.last().is_some_and(|last| last.seq > after);
            fetched += page.rows.len();
            told.rows.extend(page.rows);
            (told.incarnation, told.head) = (page.incarnation, page.head);
            if !goes_on || told.rows.last().is_none_or(|last| last.seq >= told.head.seq) {
                break;
            }
            if fetched > ROWS_MAX {
                return Err(NotTheServer::NotLarder { status: 200 }.into());
            }
        }
        let Some(told) = told else {
            return Err(NotTheServer::NotLarder { status: 200 }.into());
        };
        core.write(move |tx, context| core::judge_audit(tx, context, told, &joined))
            .await
    }
}
