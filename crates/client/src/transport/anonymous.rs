use std::sync::Arc;

use larder_wire::{AccountRequest, Registered, ServerInfo};

use crate::access::Access;
use crate::clocks::ServerClock;
use crate::error::Error;
use crate::transport::http::{Http, Request};
use crate::transport::info_request;

/// A server before there is an account: only what anyone may ask.
pub(crate) struct Anonymous {
    http: Http,
}

impl Anonymous {
    /// Parses the server's address; returns it in the form to be stored.
    pub(crate) fn new(server: &str, access: &Access) -> Result<(Self, String), Error> {
        let (http, server) = Http::new(server, access)?;
        Ok((Self { http }, server))
    }

    /// The same; its answers tell this clock the server's time.
    pub(crate) fn heeded_by(mut self, clock: &Arc<ServerClock>) -> Self {
        self.http = self.http.heeded_by(clock);
        self
    }

    pub(crate) async fn info(&self) -> Result<ServerInfo, Error> {
        let request = info_request();
        self.http.call_json(&request, None, request.deadline()).await
    }

    /// Repeating this is safe: a repetition finds the name taken or the invitation used by ourselves, which [`Transport`](super::Transport)
    /// can tell.
    pub(crate) async fn register(&self, request: &AccountRequest) -> Result<Registered, Error> {
        let request = Request::post("/v1/accounts", request)?;
        self.http.call_json(&request, None, request.deadline()).await
    }
}
