use crate::connection::MlsConnection;
use crate::core;
use crate::error::Error;
use crate::types::Probe;

impl MlsConnection {
    /// Asks for what somebody who adds this device to a group of this ciphersuite would get now, checks it as they would,
    /// and looks whether its private key is here. Nothing is reserved. The pool takes over the directory's inventory first,
    /// so that it counts what is there.
    ///
    /// # Errors
    /// [`Error::UnsupportedSuites`], [`Error::Unreachable`], [`Error::Refused`].
    pub async fn probe(&self, suite: u16) -> Result<Probe, Error> {
        let known = core::usable(suite).ok_or_else(|| Error::UnsupportedSuites(vec![suite]))?;
        match self.take_inventory().await {
            // What a stranger would get does not depend on this computer's clock.
            Ok(()) | Err(Error::ClocksApart(_)) => {}
            Err(other) => return Err(other),
        }
        let answer = self.0.transport.probe(suite).await?;
        self.0
            .core
            .write(move |tx, context| core::judge_probe(tx, context, known, &answer))
            .await
    }
}
