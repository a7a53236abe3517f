use larder_lifecycle::UnixSeconds;
use larder_wire::ProblemType;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use crate::error::{Fault, ServiceError};
use crate::store::{DeviceKey, Tx};

/// Does `work` for a new idempotency key and remembers its answer; for a known one gives the remembered answer, if
/// the operation and the request are the same. A refusal is not remembered: it changed nothing.
pub(crate) fn answered_once<R: Serialize, A: Serialize + DeserializeOwned>(
    tx: &Tx<'_>,
    caller: DeviceKey,
    idempotency_key: &str,
    (operation, request): (&str, &R),
    now: UnixSeconds,
    work: impl FnOnce() -> Result<A, ServiceError>,
) -> Result<A, ServiceError> {
    let request = serde_json::to_vec(&(operation, request)).map_err(|_| Fault::Corrupt("a request"))?;
    let request_hash: [u8; 32] = Sha256::digest(&request).into();
    if let Some(stored) = tx.idempotent_answer(caller, idempotency_key)? {
        if stored.request_hash != request_hash {
            return Err(ProblemType::IdempotencyMismatch.into());
        }
        return serde_json::from_slice(&stored.answer).map_err(|_| Fault::Corrupt("a stored answer").into());
    }
    let answer = work()?;
    let stored = serde_json::to_vec(&answer).map_err(|_| Fault::Corrupt("an answer"))?;
    tx.insert_idempotent_answer(caller, idempotency_key, &request_hash, &stored, now)?;
    Ok(answer)
}
