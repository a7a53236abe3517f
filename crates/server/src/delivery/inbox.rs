//! What a device gets: the rows of its groups' logs that it is entitled to and has not acknowledged, and its mail.

use std::collections::HashMap;

use axum::body::Bytes;
use larder_lifecycle::UnixSeconds;
use larder_wire::{
    Acknowledgement, Base64Url, Gone, GroupId, InboxKind, InboxRow, Position, Problem, ProblemType,
};

use crate::error::{Fault, ServiceError};
use crate::store::{BodyGone, DeviceRow, Interval, LogKind, LogRange, LogRow, MailKind, Part, Tx};
use crate::wakeups::Place;

/// A page of a request ends with the row that reaches this size, in bytes of bodies.
pub(crate) const PAGE_BYTES: usize = 4 * 1024 * 1024;

/// How far a reader is in groups that it has read further than it has acknowledged.
pub(crate) type Positions = HashMap<GroupId, u64>;

/// How large a page may be.
#[derive(Clone, Copy)]
pub(crate) struct PageLimit {
    pub(crate) rows: u32,
    /// In bytes of bodies, of all groups together. The row that reaches it is the last.
    pub(crate) bytes: usize,
}

/// A page of an inbox, and whose logs it is of.
pub(crate) struct Page {
    pub(crate) rows: Vec<InboxRow>,
    /// The groups that the device gets rows of, by id.
    pub(crate) groups: Vec<GroupId>,
    /// Where it will be in those that it is a member of, once it has read to their ends.
    pub(crate) ends: HashMap<GroupId, Place>,
}

/// A row as an event of a stream (`text/event-stream`).
pub(crate) fn event(row: &InboxRow) -> Bytes {
    let mut event = b"data: ".to_vec();
    // A row can always be written as JSON.
    let _ = serde_json::to_writer(&mut event, row);
    event.extend(b"\n\n");
    event.into()
}

/// Stores what a device says that it has.
///
/// # Errors
/// `other-incarnation` when the numbers are of another one; `position-ahead` when a group does not have what is acknowledged.
pub(crate) fn acknowledge(
    tx: &Tx<'_>,
    caller: &DeviceRow,
    acknowledgement: &Acknowledgement,
) -> Result<(), ServiceError> {
    if tx.incarnation()? != acknowledgement.incarnation {
        return Err(ProblemType::OtherIncarnation.into());
    }
    // In one order for everybody.
    let mut positions: Vec<&Position> = acknowledgement.groups.iter().collect();
    positions.sort_by(|one, other| one.group_id.cmp(&other.group_id));
    let mut ahead = Vec::new();
    for Position { group_id, seq } in positions {
        if let Some(known) = tx.acknowledge(group_id, caller.key, *seq)? {
            ahead.push(Position {
                group_id: group_id.clone(),
                seq: known,
            });
        }
    }
    if !ahead.is_empty() {
        return Err(Problem::position_ahead(ahead).into());
    }
    if let Some(up_to) = acknowledgement.mail {
        tx.acknowledge_mail(caller.key, up_to)?;
    }
    Ok(())
}

/// The rows after what a device has acknowledged, and after `read` where that is further. Each group has its
/// part of the page, so that none keeps the others' rows from coming.
pub(crate) fn page(
    tx: &Tx<'_>,
    caller: &DeviceRow,
    (read, mail_read): (&Positions, u64),
    limit: PageLimit,
) -> Result<Page, ServiceError> {
    let mut rows: Vec<InboxRow> = tx
        .mail(caller.key)?
        .into_iter()
        .filter(|mail| mail.seq > mail_read)
        .map(|mail| InboxRow {
            kind: match mail.kind {
                MailKind::KeyPackagesLow => InboxKind::KeyPackagesLow,
                MailKind::DeviceChange => InboxKind::DeviceChange,
            },
            body: match mail.kind {
                MailKind::KeyPackagesLow => Base64Url::default(),
                MailKind::DeviceChange => Base64Url(caller.user.as_str().as_bytes().to_vec()),
            },
            ..row(None, (mail.seq, mail.seq), mail.received_at)
        })
        .take(limit.rows as usize)
        .collect();
    let intervals = tx.intervals(caller.key)?;
    let mut groups: Vec<GroupId> = intervals.iter().map(|interval| interval.group.clone()).collect();
    groups.dedup();
    let due: Vec<(u64, &Interval)> = intervals
        .iter()
        .map(|interval| {
            let read = read.get(&interval.group).copied().unwrap_or(0);
            (read.max(interval.acknowledged), interval)
        })
        .filter(|(after, interval)| *after < interval.head)
        .collect();
    let left = PageLimit {
        rows: limit.rows - u32::try_from(rows.len()).unwrap_or(limit.rows),
        ..limit
    };
    rows.extend(of_groups(tx, caller, &due, (limit, left))?);
    in_the_order_of_time(&mut rows);
    let ends = intervals
        .iter()
        .filter(|interval| interval.is_open)
        .map(|interval| {
            let place = Place {
                position: interval.head,
                from_epoch: interval.from_epoch,
                roster_version: interval.roster_version,
            };
            (interval.group.clone(), place)
        });
    Ok(Page {
        rows,
        groups,
        ends: ends.collect(),
    })
}

/// The rows of intervals after these positions, of which there is one at least in each, by group: of each its part of `limit`, and
/// of all together what is `left` of that.
fn of_groups(
    tx: &Tx<'_>,
    caller: &DeviceRow,
    due: &[(u64, &Interval)],
    (limit, mut left): (PageLimit, PageLimit),
) -> Result<Vec<InboxRow>, Fault> {
    let groups = due.chunk_by(|(_, one), (_, next)| one.group == next.group);
    let mut groups: Vec<_> = groups.map(|group| (group, Vec::new())).collect();
    let parts = groups.len().max(1);
    // Where a page has no room for all of them, others come first the next time.
    let first = usize::from(random_u16()) % parts;
    let (before, after) = groups.split_at_mut(first);
    for (group, rows) in after.iter_mut().chain(before) {
        let mut ended = None;
        for (after, interval) in *group {
            // The Commit that removed it and the Welcome that brought it back may be one row: who has acknowledged that has read both.
            let goes_on = ended == Some(interval.from_seq);
            if !goes_on && (left.rows == 0 || left.bytes == 0) {
                break;
            }
            let range = LogRange {
                after: *after,
                until: interval.head,
                rows_max: left
                    .rows
                    .min(limit.rows.div_ceil(u32::try_from(parts).unwrap_or(u32::MAX)))
                    .max(1),
                bytes_max: left.bytes.min(limit.bytes / parts),
            };
            let found = of_interval(tx, caller, interval, range)?;
            left.rows = left
                .rows
                .saturating_sub(u32::try_from(found.len()).unwrap_or(u32::MAX));
            let bytes: usize = found.iter().map(|row| row.body.0.len()).sum();
            left.bytes = left.bytes.saturating_sub(bytes);
            // What it got later comes after what it got before: the Commit that removed it, for example.
            let is_whole = found.last().is_some_and(|last| last.seq >= interval.head);
            rows.extend(found);
            if !interval.is_open && !is_whole {
                break;
            }
            ended = Some(interval.head);
        }
    }
    Ok(groups.into_iter().flat_map(|(_, rows)| rows).collect())
}

/// Puts rows of several groups in the order in which they were stored. Those of a group stay as they are, whatever the clock did
/// meanwhile.
fn in_the_order_of_time(rows: &mut Vec<InboxRow>) {
    let mut latest: HashMap<Option<GroupId>, u64> = HashMap::new();
    let mut timed: Vec<(u64, InboxRow)> = rows
        .drain(..)
        .map(|row| {
            let latest = latest.entry(row.group_id.clone()).or_default();
            *latest = row.received_at.max(*latest);
            (*latest, row)
        })
        .collect();
    timed.sort_by_key(|(time, _)| *time);
    rows.extend(timed.into_iter().map(|(_, row)| row));
}

fn random_u16() -> u16 {
    let random = uuid::Uuid::new_v4().into_bytes();
    u16::from_be_bytes([random[0], random[1]])
}

fn row(group: Option<&GroupId>, (first, seq): (u64, u64), received_at: UnixSeconds) -> InboxRow {
    InboxRow {
        group_id: group.cloned(),
        seq,
        first: (first != seq).then_some(first),
        kind: InboxKind::Passed,
        epoch: None,
        received_at: received_at.0,
        gone: None,
        body: Base64Url::default(),
    }
}

fn of_interval(
    tx: &Tx<'_>,
    caller: &DeviceRow,
    interval: &Interval,
    range: LogRange,
) -> Result<Vec<InboxRow>, Fault> {
    let mut rows = Vec::new();
    let mut position = range.after;
    let mut passed: Option<InboxRow> = None;
    for log_row in tx.log_rows(&interval.group, caller.key, range)? {
        let of = (position + 1, log_row.seq);
        position = log_row.seq;
        match delivered(tx, caller, interval, log_row, of)? {
            // One row passes all that follow one another.
            Delivered::Passed(received_at) => {
                let first = passed
                    .take()
                    .map_or(of.0, |before| before.first.unwrap_or(before.seq));
                passed = Some(row(Some(&interval.group), (first, of.1), received_at));
            }
            Delivered::Row(delivered) => {
                rows.extend(passed.take());
                rows.push(*delivered);
            }
        }
    }
    // Numbers at the end that stand for nothing are passed with the next row that there is.
    rows.extend(passed);
    Ok(rows)
}

enum Delivered {
    Row(Box<InboxRow>),
    Passed(UnixSeconds),
}

/// What a row of the log is to a device.
fn delivered(
    tx: &Tx<'_>,
    caller: &DeviceRow,
    interval: &Interval,
    log_row: LogRow,
    of: (u64, u64),
) -> Result<Delivered, Fault> {
    let LogRow {
        seq,
        kind,
        epoch,
        sender,
        gone,
        accepted_at,
        body,
    } = log_row;
    let is_early = match kind {
        LogKind::Commit | LogKind::Proposal | LogKind::Message => epoch < interval.from_epoch,
        LogKind::DeviceChange | LogKind::Departure => false,
    };
    let is_for_others = sender == Some(caller.key) || is_early || gone == Some(BodyGone::Read);
    let is_welcome = interval.by_welcome && seq == interval.from_seq;
    if is_for_others && !is_welcome {
        return Ok(Delivered::Passed(accepted_at));
    }
    let mut row = row(Some(&interval.group), of, accepted_at);
    if is_welcome {
        // Nothing before it is for this device.
        row.first = None;
        row.kind = InboxKind::Welcome;
        row.epoch = Some(epoch + 1);
        row.body = Base64Url(
            tx.body(&interval.group, seq, Part::Welcome)?
                .ok_or(Fault::Corrupt("a Welcome is missing"))?,
        );
        return Ok(Delivered::Row(Box::new(row)));
    }
    (row.kind, row.epoch) = match kind {
        LogKind::Commit => (InboxKind::Commit, Some(epoch + 1)),
        LogKind::Proposal => (InboxKind::Proposal, Some(epoch)),
        LogKind::Message => (InboxKind::Message, Some(epoch)),
        LogKind::DeviceChange => (InboxKind::DeviceChange, None),
        LogKind::Departure => (InboxKind::Departure, None),
    };
    row.gone = match gone {
        Some(BodyGone::Quota) => Some(Gone::Quota),
        Some(BodyGone::Age) => Some(Gone::Age),
        Some(BodyGone::Read) | None => None,
    };
    row.body = match (body, row.gone) {
        (Some(body), None) => Base64Url(body),
        (None, Some(_)) => Base64Url::default(),
        (None, None) | (Some(_), Some(_)) => return Err(Fault::Corrupt("the body of a row")),
    };
    Ok(Delivered::Row(Box::new(row)))
}
