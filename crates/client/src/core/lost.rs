//! Messages of this device that the server had accepted and has lost: its store is an earlier one. They are offered to be sent
//! again, and are never sent without the person.

use std::ops::RangeInclusive;

use larder_pool::Tx;
use larder_wire::{BlobId, Gap};

use crate::core::profile::Context;
use crate::core::{attachments, messages, mls, positions, timeline};
use crate::error::Error;
use crate::types::{GroupKey, SendStatus};

/// The gaps of a group that are looked at, the latest ones.
const GAPS_MAX: usize = 64;
/// The messages of a group that one restored server can have lost, the latest ones.
const LOST_MAX: i64 = 256;

/// Notes which messages of a group a restored server has no more: those with numbers that it says it has left out. The person is
/// told once for each time that there are any.
pub(super) fn note(tx: &Tx<'_>, context: &Context, group: &GroupKey, gaps: &[Gap]) -> Result<(), Error> {
    let mut lost = 0;
    for gap in gaps.iter().rev().take(GAPS_MAX) {
        lost += mark(tx, group, gap.first..=gap.last)?;
    }
    tell(tx, context, group, lost)
}

/// Notes that whoever is in the group that the server has cannot read what this device sent in its present epoch there.
pub(super) fn epoch_is_another(tx: &Tx<'_>, context: &Context, group: &GroupKey) -> Result<(), Error> {
    let Some(state) = mls::find(tx, group)? else {
        return Ok(());
    };
    let epoch = state.epoch().as_u64().cast_signed();
    let lost = mark_those(tx, group, "epoch BETWEEN ?2 AND ?3", (epoch, epoch))?;
    tell(tx, context, group, lost)
}

/// Notes that the server does not have the messages of this device any more that had these numbers of a group, whether it says so
/// or not: they are another's. Returns how many there were.
pub(super) fn mark(tx: &Tx<'_>, group: &GroupKey, numbers: RangeInclusive<u64>) -> Result<usize, Error> {
    let range = (
        positions::column(*numbers.start()),
        positions::column(*numbers.end()),
    );
    mark_those(tx, group, "server_seq BETWEEN ?2 AND ?3", range)
}

fn mark_those(tx: &Tx<'_>, group: &GroupKey, which: &str, (first, last): (i64, i64)) -> Result<usize, Error> {
    let marked = tx
        .connection()
        .prepare_cached(&format!(
            "UPDATE messages SET status = ?5 WHERE row IN (
                 SELECT row FROM messages WHERE group_id = ?1 AND status = ?4 AND {which}
                 ORDER BY server_seq DESC LIMIT ?6)"
        ))?
        .execute((
            group.as_bytes(),
            first,
            last,
            SendStatus::Sent.column(),
            SendStatus::Lost.column(),
            LOST_MAX,
        ))?;
    Ok(marked)
}

/// Tells the person that the server has lost so many messages, if there are any.
pub(super) fn tell(tx: &Tx<'_>, context: &Context, group: &GroupKey, lost: usize) -> Result<(), Error> {
    let text = match lost {
        0 => return Ok(()),
        1 => "the server has lost a message that you sent here; it is kept, and `retry` sends it again"
            .to_owned(),
        lost => format!(
            "the server has lost {lost} messages that you sent here; they are kept, and `retry` sends them again"
        ),
    };
    messages::notice(tx.connection(), Some(group), &text, context.now())
}

/// A file of a group whose message the server has lost, perhaps with the file.
pub(crate) struct LostFile {
    pub(crate) row: i64,
    pub(crate) blob: BlobId,
    pub(crate) bytes: u64,
}

/// The files among what is to be sent again.
pub(crate) fn files(tx: &Tx<'_>, group: &GroupKey) -> Result<Vec<LostFile>, Error> {
    let mut files = Vec::new();
    let unsent = timeline::unsent(tx)?.into_iter();
    for (row, _) in unsent.filter(|(_, status)| *status == SendStatus::Lost) {
        let of_group =
            timeline::message(tx, row)?.is_some_and(|message| message.group.as_ref() == Some(group));
        if !of_group {
            continue;
        }
        if let Some((blob, bytes)) = attachments::at_server(tx.connection(), row)? {
            files.push(LostFile { row, blob, bytes });
        }
    }
    Ok(files)
}

/// The server has not got a file any more, and this device neither: its message is not sent again.
pub(crate) fn file_is_gone(tx: &Tx<'_>, context: &Context, row: i64) -> Result<(), Error> {
    let Some(message) = timeline::message(tx, row)? else {
        return Ok(());
    };
    attachments::forget_blob(tx.connection(), row)?;
    let text = format!(
        "{} is not at the server any more, and there is no copy of it here: send the file anew",
        message.text
    );
    messages::notice(tx.connection(), message.group.as_ref(), &text, context.now())
}
