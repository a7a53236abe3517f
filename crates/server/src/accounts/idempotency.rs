use larder_lifecycle::UnixSeconds;
use larder_wire::ProblemType;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use crate::error::{Fault, ServiceError};
use crate::store::{DeviceKey, Tx};

/// Does `work` for a new idempotency key and remembers its answer; for a known one gives the remembered answer, if
/// the operation and the request are the same. A refusal is not remembered: it changed nothing.
pub(crate) fn answered_once<R: Serialize, A: Serialize + DeserializeOwned + Clone>(
    tx: &Tx<'_>,
    caller: DeviceKey,
    idempotency_key: &str,
    asked: (&str, &R),
    now: UnixSeconds,
    work: impl FnOnce() -> Result<A, ServiceError>,
) -> Result<A, ServiceError> {
    let (caller, work) = ((caller, idempotency_key), (work, A::clone, Ok));
    answered_once_as(tx, caller, asked, now, work)
}

/// Like [`answered_once`], where only what `kept` makes of an answer is remembered, of which `whole` makes the answer again.
pub(crate) fn answered_once_as<R: Serialize, A: Serialize + DeserializeOwned>(
    tx: &Tx<'_>,
    (caller, idempotency_key): (DeviceKey, &str),
    (operation, request): (&str, &R),
    now: UnixSeconds,
    (work, kept, whole): (
        impl FnOnce() -> Result<A, ServiceError>,
        impl FnOnce(&A) -> A,
        impl FnOnce(A) -> Result<A, ServiceError>,
    ),
) -> Result<A, ServiceError> {
    let request = serde_json::to_vec(&(operation, request)).map_err(|_| Fault::Corrupt("a request"))?;
    let request_hash: [u8; 32] = Sha256::digest(&request).into();
    if let Some(stored) = tx.idempotent_answer(caller, idempotency_key)? {
        if stored.request_hash != request_hash {
            return Err(ProblemType::IdempotencyMismatch.into());
        }
        let stored = serde_json::from_slice(&stored.answer);
        return whole(stored.map_err(|_| Fault::Corrupt("a stored answer"))?);
    }
    let answer = work()?;
    let stored = serde_json::to_vec(&kept(&answer)).map_err(|_| Fault::Corrupt("an answer"))?;
    tx.insert_idempotent_answer(caller, idempotency_key, &request_hash, &stored, now)?;
    Ok(answer)
}
