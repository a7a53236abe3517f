//! The log of a group: what it accepted, in order, each as one row and one body for all who get it.

use larder_lifecycle::UnixSeconds;
use larder_wire::{GroupId, UserName};

use crate::error::Fault;
use crate::store::statement::{Reading, Row, params, row_params};
use crate::store::tx::{DeviceKey, Tx};

/// Commits and proposals of one group that are kept, in bytes. Beyond that the oldest go.
const HANDSHAKE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// What a row of the log is. The indexes and constraints of the schema name these numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogKind {
    Commit = 0,
    Proposal = 1,
    Message = 2,
    /// Told by the server: a device of a user in the group came or went.
    DeviceChange = 3,
    /// Told by the server: a device has left, by its signed word.
    Departure = 4,
}

impl LogKind {
    pub(super) fn from_sql(number: u8) -> Result<Self, Fault> {
        [
            Self::Commit,
            Self::Proposal,
            Self::Message,
            Self::DeviceChange,
            Self::Departure,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == number)
        .ok_or(Fault::Corrupt("an unknown kind of a row"))
    }
}

/// Why the body of a row is gone. The schema names these numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyGone {
    Quota = 0,
    Age = 1,
    /// Everybody has it.
    Read = 2,
}

impl BodyGone {
    pub(super) fn from_sql(number: u8) -> Result<Self, Fault> {
        [Self::Quota, Self::Age, Self::Read]
            .into_iter()
            .find(|gone| *gone as u8 == number)
            .ok_or(Fault::Corrupt("an unknown reason why a body is gone"))
    }
}

/// What a body is to those who get it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// For everybody.
    Whole = 0,
    /// The Welcome of a Commit.
    Welcome = 1,
    /// The ratchet tree that the Welcome needs, compressed.
    Tree = 2,
}

/// A message or a handshake message to append.
pub(crate) struct NewRow<'a> {
    pub(crate) kind: LogKind,
    /// The epoch that it was made in.
    pub(crate) epoch: u64,
    pub(crate) sender: DeviceKey,
    pub(crate) sha256: &'a [u8; 32],
    /// The confirmed transcript hash after a Commit.
    pub(crate) transcript_hash: Option<&'a [u8]>,
    pub(crate) body: &'a [u8],
}

/// Something that a group accepted earlier.
pub(crate) struct AcceptedRow {
    pub(crate) seq: u64,
    pub(crate) epoch: u64,
    pub(crate) sender: DeviceKey,
    pub(crate) kind: LogKind,
}

/// A Commit or a proposal.
pub(crate) struct HandshakeRow {
    pub(crate) seq: u64,
    pub(crate) epoch: u64,
    pub(crate) is_commit: bool,
    /// Whether it has a Welcome, and the ratchet tree for that is not stored.
    pub(crate) needs_tree: bool,
    pub(crate) body: Option<Vec<u8>>,
}

/// A row as a reader finds it.
pub(crate) struct LogRow {
    pub(crate) seq: u64,
    pub(crate) kind: LogKind,
    pub(crate) epoch: u64,
    pub(crate) sender: Option<DeviceKey>,
    pub(crate) gone: Option<BodyGone>,
    pub(crate) accepted_at: UnixSeconds,
    /// Not of the reader's own rows.
    pub(crate) body: Option<Vec<u8>>,
}

/// Which rows of a group's log are wanted.
#[derive(Clone, Copy)]
pub(crate) struct LogRange {
    pub(crate) after: u64,
    pub(crate) until: u64,
    pub(crate) rows_max: u32,
    /// In bytes of bodies. The row that reaches it is the last.
    pub(crate) bytes_max: usize,
}

/// What appending a row to a group led to.
pub(crate) struct Appended {
    /// The number of the row, or of the first.
    pub(crate) seq: u64,
    /// The epoch that the group is at.
    pub(crate) epoch: u64,
    pub(crate) roster_version: u64,
    /// Bytes of the bodies of messages that wait in the group, the new ones included.
    pub(crate) waiting_bytes: u64,
    /// Bytes of the Commits and proposals that are kept, the new one included.
    pub(crate) handshake_bytes: u64,
}

const NEXT_FOR_MESSAGES: &str =
    "UPDATE groups SET next_seq = next_seq + ?2, waiting_bytes = waiting_bytes + ?3 WHERE id = ?1
     RETURNING next_seq - ?2, epoch, roster_version, waiting_bytes, handshake_bytes";
const NEXT_FOR_HANDSHAKE: &str =
    "UPDATE groups SET next_seq = next_seq + 1, state_seq = next_seq, epoch = epoch + ?3,
         handshake_bytes = handshake_bytes + ?4
     WHERE id = ?1 AND state_seq = ?2
     RETURNING next_seq - 1, epoch, roster_version, waiting_bytes, handshake_bytes";
const ACCEPTED: &str = "SELECT seq, epoch, sender, kind FROM log WHERE group_id = ?1 AND sha256 = ?2";

impl Tx<'_> {
    /// Takes the numbers for so many messages of so many bytes together, and gives the first of them; `None` when there is no
    /// such group. Until the end of the transaction the group is as it is for everybody else.
    pub(crate) fn next_for_messages(
        &self,
        group: &GroupId,
        (count, size): (usize, usize),
    ) -> Result<Option<Appended>, Fault> {
        self.row(
            NEXT_FOR_MESSAGES,
            params![group, count as u64, size as u64],
            appended,
        )
    }

    /// Takes them ahead.
    pub(crate) fn next_for_messages_ahead(&self, group: &GroupId, (count, size): (usize, usize)) {
        self.read_ahead(NEXT_FOR_MESSAGES, params![group, count as u64, size as u64]);
    }

    /// Takes the number for a Commit, which ends `epoch`, or for a proposal; `None` when the public state is not the one
    /// after `state_seq` any more. Until the end of the transaction the group is as it is for everybody else.
    pub(crate) fn next_for_handshake(
        &self,
        group: &GroupId,
        state_seq: u64,
        (is_commit, size): (bool, usize),
    ) -> Result<Option<Appended>, Fault> {
        self.row(
            NEXT_FOR_HANDSHAKE,
            params![group, state_seq, u8::from(is_commit), size as u64],
            appended,
        )
    }

    /// Takes it ahead.
    pub(crate) fn next_for_handshake_ahead(
        &self,
        group: &GroupId,
        state_seq: u64,
        (is_commit, size): (bool, usize),
    ) {
        self.read_ahead(
            NEXT_FOR_HANDSHAKE,
            params![group, state_seq, u8::from(is_commit), size as u64],
        );
    }

    /// Writes the rows of numbers that were taken, in their order, each of bytes that the group has not accepted before.
    pub(crate) fn insert_rows(
        &self,
        group: &GroupId,
        rows: &[(u64, NewRow<'_>)],
        now: UnixSeconds,
    ) -> Result<(), Fault> {
        let each = rows.iter().map(|(seq, row)| {
            row_params![
                group,
                *seq,
                row.kind as u8,
                row.epoch,
                row.sender,
                row.sha256.as_slice(),
                row.transcript_hash,
                row.body.len() as u64,
                now
            ]
        });
        self.queue_each(
            "INSERT INTO log (group_id, seq, kind, epoch, sender, sha256, transcript_hash, size, accepted_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            &each.collect::<Vec<_>>(),
        )?;
        let bodies = rows.iter().map(|(seq, row)| (*seq, Part::Whole, row.body));
        self.insert_bodies(group, bodies)
    }

    /// Appends what the server tells the members: that a device of this user came or went.
    pub(crate) fn append_device_change(
        &self,
        group: &GroupId,
        user: &UserName,
        now: UnixSeconds,
    ) -> Result<(), Fault> {
        self.append_told(group, LogKind::DeviceChange, user.as_str().as_bytes(), now)
    }

    /// Appends the word of a device that has left.
    pub(crate) fn append_departure(
        &self,
        group: &GroupId,
        departure: &[u8],
        now: UnixSeconds,
    ) -> Result<(), Fault> {
        self.append_told(group, LogKind::Departure, departure, now)
    }

    fn append_told(
        &self,
        group: &GroupId,
        kind: LogKind,
        body: &[u8],
        now: UnixSeconds,
    ) -> Result<(), Fault> {
        let Some((seq, epoch)) = self.row(
            "UPDATE groups SET next_seq = next_seq + 1 WHERE id = ?1 RETURNING next_seq - 1, epoch",
            params![group],
            |row| Ok((row.get::<u64>(0)?, row.get::<u64>(1)?)),
        )?
        else {
            return Ok(());
        };
        self.queue(
            "INSERT INTO log (group_id, seq, kind, epoch, size, accepted_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![group, seq, kind as u8, epoch, body.len() as u64, now],
        )?;
        self.insert_bodies(group, [(seq, Part::Whole, body)])?;
        self.wake_group(group);
        Ok(())
    }

    /// Stores bodies, each of a row and as a part of it.
    pub(crate) fn insert_bodies<'b>(
        &self,
        group: &GroupId,
        bodies: impl IntoIterator<Item = (u64, Part, &'b [u8])>,
    ) -> Result<(), Fault> {
        let each = bodies
            .into_iter()
            .map(|(seq, part, body)| row_params![group, seq, part as u8, body]);
        self.queue_each(
            "INSERT INTO bodies (group_id, seq, part, body) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING",
            &each.collect::<Vec<_>>(),
        )
    }

    /// Stores the ratchet tree for the Welcome of a Commit, while there is the Welcome.
    pub(crate) fn insert_tree(&self, group: &GroupId, seq: u64, tree: &[u8]) -> Result<(), Fault> {
        self.lock_group(group)?;
        self.queue(
            "INSERT INTO bodies (group_id, seq, part, body) SELECT group_id, seq, ?3, ?4 FROM bodies
             WHERE group_id = ?1 AND seq = ?2 AND part = ?5 ON CONFLICT DO NOTHING",
            params![group, seq, Part::Tree as u8, tree, Part::Welcome as u8],
        )
    }

    pub(crate) fn body(&self, group: &GroupId, seq: u64, part: Part) -> Result<Option<Vec<u8>>, Fault> {
        self.row(
            "SELECT body FROM bodies WHERE group_id = ?1 AND seq = ?2 AND part = ?3",
            params![group, seq, part as u8],
            |row| row.get(0),
        )
    }

    /// Reads ahead what the group accepted under each of these hashes.
    pub(crate) fn accepted_ahead<'h>(&self, group: &GroupId, hashes: impl Iterator<Item = &'h [u8; 32]>) {
        for sha256 in hashes {
            self.read_ahead(ACCEPTED, params![group, sha256.as_slice()]);
        }
    }

    /// What the group accepted under each of these hashes.
    pub(crate) fn accepted<'h>(
        &self,
        group: &GroupId,
        hashes: impl Iterator<Item = &'h [u8; 32]>,
    ) -> Result<Vec<Option<AcceptedRow>>, Fault> {
        let each: Vec<_> = hashes
            .map(|sha256| [group.into(), sha256.as_slice().into()])
            .collect();
        self.row_of_each(ACCEPTED, &each, |row| {
            Ok(AcceptedRow {
                seq: row.get(0)?,
                epoch: row.get(1)?,
                sender: row.get(2)?,
                kind: LogKind::from_sql(row.get(3)?)?,
            })
        })
    }

    /// The rows of a range, in order; the bodies of those that `reader` has not sent.
    pub(crate) fn log_rows(
        &self,
        group: &GroupId,
        reader: DeviceKey,
        range: LogRange,
    ) -> Result<Vec<LogRow>, Fault> {
        let (mut found, mut bytes) = (Vec::new(), 0);
        self.read_rows(
            "SELECT l.seq, l.kind, l.epoch, l.sender, l.gone, l.accepted_at, b.body
             FROM log l LEFT JOIN bodies b ON b.group_id = l.group_id AND b.seq = l.seq AND b.part = 0
                 AND (l.sender IS NULL OR l.sender <> ?2)
             WHERE l.group_id = ?1 AND l.seq > ?3 AND l.seq <= ?4 ORDER BY l.seq LIMIT ?5",
            params![group, reader, range.after, range.until, range.rows_max],
            |row| {
                let body: Option<Vec<u8>> = row.optional(6)?;
                bytes += body.as_ref().map_or(0, Vec::len);
                found.push(LogRow {
                    seq: row.get(0)?,
                    kind: LogKind::from_sql(row.get(1)?)?,
                    epoch: row.get(2)?,
                    sender: row.optional(3)?,
                    gone: row.optional(4)?.map(BodyGone::from_sql).transpose()?,
                    accepted_at: row.get(5)?,
                    body,
                });
                Ok(if bytes < range.bytes_max {
                    Reading::GoOn
                } else {
                    Reading::Stop
                })
            },
        )?;
        Ok(found)
    }

    /// The Commits and proposals after a row, in order; at most `rows_max`, and no more once they reach `bytes_max`.
    pub(crate) fn handshakes(
        &self,
        group: &GroupId,
        after: u64,
        (rows_max, bytes_max): (u32, usize),
    ) -> Result<Vec<HandshakeRow>, Fault> {
        let (mut found, mut bytes) = (Vec::new(), 0);
        self.read_rows(
            "SELECT l.seq, l.epoch, l.kind, b.body, w.seq, t.seq FROM log l
             LEFT JOIN bodies b ON b.group_id = l.group_id AND b.seq = l.seq AND b.part = 0
             LEFT JOIN bodies w ON w.group_id = l.group_id AND w.seq = l.seq AND w.part = 1
             LEFT JOIN bodies t ON t.group_id = l.group_id AND t.seq = l.seq AND t.part = 2
             WHERE l.group_id = ?1 AND l.seq > ?2 AND l.kind <= 1 ORDER BY l.seq LIMIT ?3",
            params![group, after, rows_max],
            |row| {
                let body: Option<Vec<u8>> = row.optional(3)?;
                bytes += body.as_ref().map_or(0, Vec::len);
                found.push(HandshakeRow {
                    seq: row.get(0)?,
                    epoch: row.get(1)?,
                    is_commit: row.get::<u8>(2)? == LogKind::Commit as u8,
                    needs_tree: row.optional::<u64>(4)?.is_some() && row.optional::<u64>(5)?.is_none(),
                    body,
                });
                Ok(if bytes < bytes_max {
                    Reading::GoOn
                } else {
                    Reading::Stop
                })
            },
        )?;
        Ok(found)
    }

    /// The Commit that ended an epoch: its number, and the confirmed transcript hash after it.
    pub(crate) fn commit_of(&self, group: &GroupId, epoch: u64) -> Result<Option<(u64, Vec<u8>)>, Fault> {
        self.row(
            "SELECT seq, transcript_hash FROM log WHERE group_id = ?1 AND epoch = ?2 AND kind = 0",
            params![group, epoch],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
    }

    /// Deletes the oldest Commits and proposals of a group of which there are too many bytes, `kept`, except those that the
    /// stored public state needs to lead on to the present one.
    pub(crate) fn trim_handshakes(&self, group: &GroupId, kept: u64) -> Result<(), Fault> {
        let mut over = kept.saturating_sub(HANDSHAKE_BYTES_MAX);
        if over == 0 {
            return Ok(());
        }
        let mut oldest = Vec::new();
        self.read_rows(
            "SELECT seq, size FROM log WHERE group_id = ?1 AND kind <= 1 AND gone IS NULL
                 AND seq <= (SELECT seq FROM group_states WHERE group_id = ?1) ORDER BY seq",
            params![group],
            |row| {
                let size: u64 = row.get(1)?;
                oldest.push((row.get::<u64>(0)?, size));
                over = over.saturating_sub(size);
                Ok(if over > 0 { Reading::GoOn } else { Reading::Stop })
            },
        )?;
        for (seq, size) in oldest {
            self.forget_handshake(group, seq, size, BodyGone::Quota)?;
        }
        Ok(())
    }

    /// Deletes the bodies of Commits and proposals from before `before`, except those that the stored public state needs;
    /// at most `limit`.
    pub(crate) fn sweep_handshakes(&self, before: UnixSeconds, limit: u32) -> Result<u64, Fault> {
        let old: Vec<(GroupId, u64, u64)> = self.rows(
            "SELECT l.group_id, l.seq, l.size FROM log l JOIN group_states s ON s.group_id = l.group_id
             WHERE l.accepted_at < ?1 AND l.kind <= 1 AND l.gone IS NULL AND l.seq <= s.seq LIMIT ?2",
            params![before, limit],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )?;
        for (group, seq, size) in &old {
            self.forget_handshake(group, *seq, *size, BodyGone::Age)?;
        }
        Ok(old.len() as u64)
    }

    fn forget_handshake(&self, group: &GroupId, seq: u64, size: u64, why: BodyGone) -> Result<(), Fault> {
        self.forget_body(group, seq, why)?;
        self.queue(
            "UPDATE groups SET handshake_bytes = handshake_bytes - ?2 WHERE id = ?1",
            params![group, size],
        )
    }

    pub(super) fn forget_body(&self, group: &GroupId, seq: u64, why: BodyGone) -> Result<(), Fault> {
        self.queue(
            "DELETE FROM bodies WHERE group_id = ?1 AND seq = ?2 AND part = 0",
            params![group, seq],
        )?;
        self.queue(
            "UPDATE log SET gone = ?3 WHERE group_id = ?1 AND seq = ?2",
            params![group, seq, why as u8],
        )
    }
}

fn appended(row: &Row<'_>) -> Result<Appended, Fault> {
    Ok(Appended {
        seq: row.get(0)?,
        epoch: row.get(1)?,
        roster_version: row.get(2)?,
        waiting_bytes: row.get(3)?,
        handshake_bytes: row.get(4)?,
    })
}
