//! Large answers, which are sent in parts: each takes memory, and its client may take its time.

use std::io;
use std::pin::pin;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::stream::{Stream, StreamExt as _, unfold};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::App;
use super::extract::Json;
use super::problem::Failure;
use crate::Caller;
use crate::error::{Fault, ServiceError};
use crate::store::BLOB_PART_BYTES;
use crate::transfers::TransferPlace;

/// An answer with more bytes than this needs one of the places of those who fetch something large.
pub(super) const LARGE_BYTES: usize = 256 * 1024;

/// A body of these parts, each of which the client takes within `patience`. It ends before its announced length, which the client
/// notices, when it does not, or when a part is not there.
pub(super) fn in_parts(
    parts: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    patience: Duration,
) -> Body {
    let (sender, taken) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut parts = pin!(parts);
        while let Some(part) = parts.next().await {
            let is_last = part.is_err();
            match timeout(patience, sender.send(part)).await {
                Ok(Ok(())) if !is_last => {}
                Ok(_) | Err(_) => return,
            }
        }
    });
    Body::from_stream(unfold(taken, |mut taken: mpsc::Receiver<_>| async move {
        let part = taken.recv().await?;
        Some((part, taken))
    }))
}

/// The place that an answer with so many bytes needs, if it is large. Fails with [`Fault::Busy`] while there is none, or the
/// caller's user fetches as much as one may.
pub(super) fn place_for(
    app: &App,
    caller: &Caller,
    bytes: usize,
) -> Result<Option<TransferPlace>, ServiceError> {
    match bytes <= LARGE_BYTES {
        true => Ok(None),
        false => app.service.place_to_fetch(caller).map(Some),
    }
}

/// JSON that carries so many bytes as base64. Fails with [`Fault::Busy`] like [`place_for`].
pub(super) fn json_of<T: Serialize>(
    app: &App,
    caller: &Caller,
    value: T,
    bytes: usize,
) -> Result<Response, Failure> {
    let place = place_for(app, caller, bytes)?;
    json_in(app, place, value, bytes)
}

/// The same in a place that was taken.
pub(super) fn json_in<T: Serialize>(
    app: &App,
    place: Option<TransferPlace>,
    value: T,
    bytes: usize,
) -> Result<Response, Failure> {
    let Some(place) = place else {
        return Ok(Json(value).into_response());
    };
    // Grown step by step, it would take twice as much.
    let mut json = Vec::with_capacity(bytes.div_ceil(3) * 4 + LARGE_BYTES);
    let written = serde_json::to_writer(&mut json, &value);
    written.map_err(|_| ServiceError::Fault(Fault::Corrupt("an answer")))?;
    drop(value);
    Ok(in_its_place(app, "application/json", json, place))
}

/// The same for bytes as they are.
pub(super) fn bytes_of(
    app: &App,
    caller: &Caller,
    media_type: &'static str,
    bytes: Vec<u8>,
) -> Result<Response, Failure> {
    if bytes.len() <= LARGE_BYTES {
        return Ok(([(header::CONTENT_TYPE, media_type)], bytes).into_response());
    }
    let place = app.service.place_to_fetch(caller)?;
    Ok(in_its_place(app, media_type, bytes, place))
}

/// An answer that keeps its place until it is sent.
fn in_its_place(app: &App, media_type: &str, bytes: Vec<u8>, place: TransferPlace) -> Response {
    let headers = [
        (header::CONTENT_TYPE, media_type.to_owned()),
        (header::CONTENT_LENGTH, bytes.len().to_string()),
    ];
    let parts = unfold((Bytes::from(bytes), place), |(mut rest, place)| async move {
        let part = rest.split_to(rest.len().min(BLOB_PART_BYTES));
        (!part.is_empty()).then_some((Ok(part), (rest, place)))
    });
    let patience = Duration::from_secs(app.service.limits().transfer_part_seconds_max);
    (headers, in_parts(parts, patience)).into_response()
}
