use crate::connection::MlsConnection;
use crate::core::{self, CIPHERSUITE};
use crate::error::Error;
use crate::types::Probe;

impl MlsConnection {
    /// Asks for what somebody who adds this device would get now, checks it as they would, and looks whether its private
    /// key is here. Nothing is reserved.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::Refused`].
    pub async fn probe(&self) -> Result<Probe, Error> {
        let answer = self.0.transport.probe(u16::from(CIPHERSUITE)).await?;
        self.0
            .core
            .write(move |tx, context| core::judge_probe(tx, context, &answer))
            .await
    }
}
