use larder_wire::{EpochAnswer, GroupId, Handshakes};

use crate::error::Error;
use crate::transport::Transport;
use crate::transport::http::Request;

/// A page of Commits and proposals, in bytes: a server ends one after 4 MiB, with a last Commit of as much, in base64.
const HANDSHAKES_BYTES_MAX: usize = 16 * 1024 * 1024;

impl Transport {
    /// What the server knows an epoch of a group by.
    pub(crate) async fn epoch(&self, group: &GroupId, epoch: u64) -> Result<EpochAnswer, Error> {
        self.call(&Request::get(&format!("/v1/groups/{group}/epochs/{epoch}")))
            .await
    }

    /// A page of the Commits and proposals that led a group on from an epoch.
    pub(crate) async fn handshakes(&self, group: &GroupId, from_epoch: u64) -> Result<Handshakes, Error> {
        let query = vec![("from_epoch", from_epoch.to_string())];
        let request = Request::get(&format!("/v1/groups/{group}/commits"))
            .with_query(query)
            .with_answer_bytes_max(HANDSHAKES_BYTES_MAX);
        self.call(&request).await
    }
}
