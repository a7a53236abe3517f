//! Files that go with a message. Each is padded and encrypted with a key of its own; the server keeps the ciphertext, and the
//! message tells the members the key.

use larder_lifecycle::UnixSeconds;
use larder_pool::Tx;
use larder_wire::{Base64Url, BlobId, BlobStored};
use openmls::prelude::{OpenMlsCrypto as _, OpenMlsProvider as _, OpenMlsRand as _};
use openmls_traits::types::AeadType;
use rusqlite::{Connection, OptionalExtension, named_params};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::core::file_names::file_name;
use crate::core::gate::{self, Closed};
use crate::core::messages::{self, NewMessage};
use crate::core::padding::padded_bytes;
use crate::core::payload::{Payload, new_id};
use crate::core::profile::Context;
use crate::core::schema::corrupt;
use crate::core::timeline;
use crate::error::Error;
use crate::types::{
    ATTACHMENT_BYTES_MAX, Attachment, GroupKey, GroupState, MessageKind, SendStatus, SentMessage,
};

/// The cipher (RFC 8439). A key encrypts one file, once.
const CIPHER: AeadType = AeadType::ChaCha20Poly1305;
const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 12;
const TAG_BYTES: u64 = 16;
const SHA256_BYTES: usize = 32;
/// The longest media type of a file (RFC 6838 §4.2), in bytes.
const MEDIA_TYPE_BYTES_MAX: usize = 255;
/// What a file is whose media type says nothing.
const ANY_MEDIA_TYPE: &str = "application/octet-stream";

/// What a message says of its file.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Announced {
    name: String,
    media_type: String,
    size: u64,
    /// Of the file.
    sha256: Base64Url,
    key: Base64Url,
    nonce: Base64Url,
    blob: BlobId,
    expires_at: u64,
}

impl Announced {
    /// What is to be shown of it, if it is one that can be opened. The sender may be hostile.
    pub(super) fn checked(mut self) -> Option<Self> {
        let fits = self.size <= ATTACHMENT_BYTES_MAX
            && self.sha256.0.len() == SHA256_BYTES
            && self.key.0.len() == KEY_BYTES
            && self.nonce.0.len() == NONCE_BYTES;
        self.name = file_name(&self.name);
        self.media_type = media_type(&self.media_type);
        fits.then_some(self)
    }

    /// The message in words.
    pub(super) fn text(&self) -> String {
        in_words(&self.name, self.size)
    }
}

fn media_type(claimed: &str) -> String {
    let fits = (1..=MEDIA_TYPE_BYTES_MAX).contains(&claimed.len())
        && claimed.bytes().all(|byte| byte.is_ascii_graphic())
        && claimed.contains('/');
    if fits { claimed } else { ANY_MEDIA_TYPE }.to_owned()
}

fn in_words(name: &str, size: u64) -> String {
    const KIB: u64 = 1024;
    const MIB: u64 = KIB * KIB;
    match size {
        1 => format!("{name}, 1 byte"),
        0..KIB => format!("{name}, {size} bytes"),
        KIB..MIB => format!("{name}, {} KiB", size.div_ceil(KIB)),
        MIB.. => format!("{name}, {} MiB", size.div_ceil(MIB)),
    }
}

/// How large a file of this size is at the server, in bytes.
pub(crate) fn stored_bytes(size: u64) -> u64 {
    padded_bytes(size) + TAG_BYTES
}

/// Encrypts a file and puts it into the history, to be uploaded. Returns its row there.
pub(crate) fn attach(
    tx: &Tx<'_>,
    context: &Context,
    group: &GroupKey,
    (name, claimed_type): (&str, &str),
    mut content: Vec<u8>,
) -> Result<(SentMessage, i64), Error> {
    gate::require_open(tx, group)?;
    let (name, size) = (file_name(name), content.len() as u64);
    let sha256: [u8; SHA256_BYTES] = Sha256::digest(&content).into();
    let provider = tx.provider();
    let random = |_| Error::mls("drawing a key")("no randomness");
    let key: [u8; KEY_BYTES] = provider.rand().random_array().map_err(random)?;
    let nonce: [u8; NONCE_BYTES] = provider.rand().random_array().map_err(random)?;
    let padded = usize::try_from(padded_bytes(size)).unwrap_or(usize::MAX);
    content.resize(padded, 0);
    let ciphertext = provider
        .crypto()
        .aead_encrypt(CIPHER, &key, &content, &nonce, &[])
        .map_err(Error::mls("encrypting a file"))?;
    let id = new_id();
    let (now, me) = (context.now(), &context.identity.me);
    let row = messages::insert(
        tx.connection(),
        &NewMessage {
            group: Some(group),
            sender: Some((&me.user, &me.device_id)),
            id: Some(&id),
            kind: MessageKind::Attachment,
            text: &in_words(&name, size),
            sent_at: now,
            received_at: now,
            mine: true,
            status: SendStatus::Pending,
        },
    )?;
    let row = corrupt(row, "a message with the id of another")?;
    let stored = Stored {
        name,
        media_type: media_type(claimed_type),
        size,
        sha256: sha256.to_vec(),
        key: key.to_vec(),
        nonce: nonce.to_vec(),
        at: None,
    };
    stored.insert(tx.connection(), row)?;
    tx.connection().execute(
        "INSERT INTO uploads (row, idempotency_key, ciphertext) VALUES (?1, ?2, ?3)",
        (row, uuid::Uuid::new_v4().to_string(), ciphertext),
    )?;
    Ok((SentMessage::pending(id), row))
}

/// Notes the file of a message that has come.
pub(super) fn arrived(connection: &Connection, row: i64, announced: &Announced) -> Result<(), Error> {
    let stored = Stored {
        name: announced.name.clone(),
        media_type: announced.media_type.clone(),
        size: announced.size,
        sha256: announced.sha256.0.clone(),
        key: announced.key.0.clone(),
        nonce: announced.nonce.0.clone(),
        at: Some((announced.blob.clone(), UnixSeconds(announced.expires_at))),
    };
    stored.insert(connection, row)
}

/// What is known of a file.
struct Stored {
    name: String,
    media_type: String,
    size: u64,
    sha256: Vec<u8>,
    key: Vec<u8>,
    nonce: Vec<u8>,
    /// Where it is, and until when.
    at: Option<(BlobId, UnixSeconds)>,
}

impl Stored {
    fn insert(&self, connection: &Connection, row: i64) -> Result<(), Error> {
        connection.execute(
            "INSERT INTO attachments (row, name, media_type, size, sha256, key, nonce, blob_id, expires_at)
             VALUES (:row, :name, :media_type, :size, :sha256, :key, :nonce, :blob_id, :expires_at)",
            named_params! {
                ":row": row,
                ":name": self.name,
                ":media_type": self.media_type,
                ":size": self.size.cast_signed(),
                ":sha256": self.sha256,
                ":key": self.key,
                ":nonce": self.nonce,
                ":blob_id": self.at.as_ref().map(|(blob, _)| blob.as_bytes()),
                ":expires_at": self.at.as_ref().map(|(_, expires_at)| expires_at.0.cast_signed()),
            },
        )?;
        Ok(())
    }

    fn find(connection: &Connection, row: i64) -> Result<Option<Self>, Error> {
        let found = connection
            .prepare_cached(
                "SELECT name, media_type, size, sha256, key, nonce, blob_id, expires_at FROM attachments WHERE row = ?1",
            )?
            .query_row([row], |row| {
                let blob: Option<Vec<u8>> = row.get(6)?;
                let expires_at: Option<i64> = row.get(7)?;
                let stored = Self {
                    name: row.get(0)?,
                    media_type: row.get(1)?,
                    size: row.get::<_, i64>(2)?.cast_unsigned(),
                    sha256: row.get(3)?,
                    key: row.get(4)?,
                    nonce: row.get(5)?,
                    at: None,
                };
                Ok((stored, blob.zip(expires_at)))
            })
            .optional()?;
        let Some((stored, at)) = found else {
            return Ok(None);
        };
        let at = at
            .map(|(blob, expires_at)| {
                let blob = blob.try_into().ok().map(BlobId::from_bytes);
                Ok::<_, Error>((corrupt(blob, "blob id")?, UnixSeconds(expires_at.cast_unsigned())))
            })
            .transpose()?;
        Ok(Some(Self { at, ..stored }))
    }

    fn announced(self) -> Option<Announced> {
        let (blob, expires_at) = self.at?;
        Some(Announced {
            name: self.name,
            media_type: self.media_type,
            size: self.size,
            sha256: Base64Url(self.sha256),
            key: Base64Url(self.key),
            nonce: Base64Url(self.nonce),
            blob,
            expires_at: expires_at.0,
        })
    }
}

/// The file of a message, if it has one.
pub(crate) fn attachment(tx: &Tx<'_>, context: &Context, row: i64) -> Result<Option<Attachment>, Error> {
    // The end is by the server's clock.
    let now = context.server_now();
    Ok(Stored::find(tx.connection(), row)?.map(|stored| {
        let expires_at = stored.at.map(|(_, expires_at)| expires_at);
        Attachment {
            name: stored.name,
            size: stored.size,
            media_type: stored.media_type,
            expires_at,
            is_expired: expires_at.is_some_and(|expires_at| expires_at <= now),
        }
    }))
}

// To the server

/// A file that is to be stored at the server.
pub(crate) struct Upload {
    pub(crate) idempotency_key: String,
    pub(crate) ciphertext: Vec<u8>,
}

/// The rows of files that are to be uploaded, oldest first.
pub(crate) fn due_uploads(tx: &Tx<'_>) -> Result<Vec<i64>, Error> {
    let mut statement = tx.connection().prepare_cached(
        "SELECT u.row FROM uploads u JOIN messages m ON m.row = u.row WHERE m.status = ?1 ORDER BY u.row",
    )?;
    let rows = statement.query_map([SendStatus::Pending.column()], |row| row.get(0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Why this row's file is not to be uploaded although it waits: it does not leave for a group that its message could not be
/// sent to. The message has failed then.
pub(crate) fn upload_closed(tx: &Tx<'_>, row: i64) -> Result<Option<Closed>, Error> {
    let connection = tx.connection();
    let Some(message) = timeline::message(tx, row)? else {
        return Ok(None);
    };
    let group = corrupt(message.group, "a file for no group")?;
    match gate::clear(tx, &group)? {
        // It can be stored meanwhile. Nobody is told of it before the group is rejoined, and the gate has been asked again.
        Ok(_) | Err(Closed::NotActive(GroupState::NeedsRejoin)) => Ok(None),
        Err(closed) => {
            messages::set_status(connection, row, SendStatus::Failed)?;
            Ok(Some(closed))
        }
    }
}

/// The file of this row, if it is to be uploaded now.
pub(crate) fn upload(tx: &Tx<'_>, row: i64) -> Result<Option<Upload>, Error> {
    match upload_closed(tx, row)? {
        None => waiting(tx.connection(), row),
        Some(_) => Ok(None),
    }
}

fn waiting(connection: &Connection, row: i64) -> Result<Option<Upload>, Error> {
    Ok(connection
        .prepare_cached("SELECT idempotency_key, ciphertext FROM uploads WHERE row = ?1")?
        .query_row([row], |row| {
            Ok(Upload {
                idempotency_key: row.get(0)?,
                ciphertext: row.get(1)?,
            })
        })
        .optional()?)
}

/// The server has the file: its copy here is erased, and the message goes into the outbox. Returns its row there; `None` when
/// there is no such message any more. When the gate is closed the message has failed.
pub(crate) fn uploaded(
    tx: &Tx<'_>,
    context: &Context,
    row: i64,
    stored: &BlobStored,
) -> Result<Option<Result<i64, Closed>>, Error> {
    let connection = tx.connection();
    let Some(message) = timeline::message(tx, row)? else {
        return Ok(None);
    };
    connection.execute(
        "UPDATE attachments SET blob_id = ?2, expires_at = ?3 WHERE row = ?1",
        (row, stored.blob_id.as_bytes(), stored.expires_at.cast_signed()),
    )?;
    tx.note_erasure();
    connection.execute("DELETE FROM uploads WHERE row = ?1", [row])?;
    let group = corrupt(message.group, "a file for no group")?;
    let payload = corrupt(payload(connection, row, message.id)?, "a file that is not there")?;
    let queued = match gate::clear(tx, &group)? {
        Ok(cleared) => Ok(messages::push(tx, context, cleared, &payload, Some(row))?),
        Err(Closed::NotActive(GroupState::NeedsRejoin)) => {
            Ok(messages::push_later(tx, &group, &payload, Some(row))?)
        }
        Err(closed) => {
            messages::set_status(connection, row, SendStatus::Failed)?;
            Err(closed)
        }
    };
    Ok(Some(queued))
}

/// The server does not take the file. It stays, for another attempt.
pub(crate) fn upload_failed(tx: &Tx<'_>, row: i64) -> Result<(), Error> {
    messages::set_status(tx.connection(), row, SendStatus::Failed)
}

/// None of the files that wait can be stored.
pub(super) fn fail_uploads(connection: &Connection) -> Result<(), Error> {
    connection.execute(
        "UPDATE messages SET status = ?1 WHERE row IN (SELECT row FROM uploads)",
        [SendStatus::Failed.column()],
    )?;
    Ok(())
}

/// The message of a file that the server has.
pub(super) fn payload(connection: &Connection, row: i64, id: String) -> Result<Option<Payload>, Error> {
    let announced = Stored::find(connection, row)?.and_then(Stored::announced);
    Ok(announced.map(|announced| Payload::attachment(id, announced)))
}

/// Where a row's file is at the server, and how large it is there; `None` for what is no file, or is not there.
pub(super) fn at_server(connection: &Connection, row: i64) -> Result<Option<(BlobId, u64)>, Error> {
    let stored = Stored::find(connection, row)?;
    Ok(stored.and_then(|stored| stored.at.map(|(blob, _)| (blob, stored_bytes(stored.size)))))
}

/// The server has not got a row's file any more.
pub(super) fn forget_blob(connection: &Connection, row: i64) -> Result<(), Error> {
    connection.execute(
        "UPDATE attachments SET blob_id = NULL, expires_at = NULL WHERE row = ?1",
        [row],
    )?;
    Ok(())
}

/// Whether the file of this row is here, to be uploaded.
pub(super) fn can_be_uploaded(connection: &Connection, row: i64) -> Result<bool, Error> {
    Ok(connection
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM uploads WHERE row = ?1)")?
        .query_row([row], |row| row.get(0))?)
}

/// Nothing of this group can be sent any more: files on their way to it have failed, and are erased.
pub(super) fn drop_all_of(tx: &Tx<'_>, group: &GroupKey) -> Result<(), Error> {
    let rows = "SELECT u.row FROM uploads u JOIN messages m ON m.row = u.row WHERE m.group_id = ?1";
    let failed = tx.connection().execute(
        &format!("UPDATE messages SET status = ?2 WHERE row IN ({rows})"),
        (group.as_bytes(), SendStatus::Failed.column()),
    )?;
    if failed > 0 {
        tx.note_erasure();
        tx.connection().execute(
            &format!("DELETE FROM uploads WHERE row IN ({rows})"),
            [group.as_bytes()],
        )?;
    }
    Ok(())
}

// From the server

/// Where the ciphertext of a file is.
pub(crate) enum Ciphertext {
    /// Still here.
    Here(Vec<u8>),
    /// At the server, with so many bytes.
    There { blob: BlobId, bytes: u64 },
}

/// Where the ciphertext of a row's file is.
pub(crate) fn ciphertext(tx: &Tx<'_>, row: i64) -> Result<Ciphertext, Error> {
    let stored = Stored::find(tx.connection(), row)?.ok_or(Error::UnknownAttachment)?;
    match stored.at {
        Some((blob, _)) => Ok(Ciphertext::There {
            blob,
            bytes: stored_bytes(stored.size),
        }),
        None => match waiting(tx.connection(), row)? {
            Some(upload) => Ok(Ciphertext::Here(upload.ciphertext)),
            None => Err(Error::AttachmentGone),
        },
    }
}

/// Decrypts a row's file. Returns its name, too.
pub(crate) fn opened(tx: &Tx<'_>, row: i64, ciphertext: &[u8]) -> Result<(String, Vec<u8>), Error> {
    let stored = Stored::find(tx.connection(), row)?.ok_or(Error::UnknownAttachment)?;
    let mut content = tx
        .provider()
        .crypto()
        .aead_decrypt(CIPHER, &stored.key, ciphertext, &stored.nonce, &[])
        .map_err(|_| Error::AttachmentDamaged)?;
    let size = usize::try_from(stored.size).unwrap_or(usize::MAX);
    if content.len() as u64 != padded_bytes(stored.size) {
        return Err(Error::AttachmentDamaged);
    }
    content.truncate(size);
    if Sha256::digest(&content).as_slice() != stored.sha256 {
        return Err(Error::AttachmentDamaged);
    }
    Ok((stored.name, content))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn announced() -> Announced {
        Announced {
            name: "../../.ssh/authorized_keys".to_owned(),
            media_type: "text/plain".to_owned(),
            size: 5,
            sha256: Base64Url(vec![1; 32]),
            key: Base64Url(vec![2; 32]),
            nonce: Base64Url(vec![3; 12]),
            blob: BlobId::from_bytes([4; 32]),
            expires_at: 9,
        }
    }

    #[test]
    fn what_cannot_be_opened_is_no_file() {
        let broken: [fn(&mut Announced); 4] = [
            |file| file.size = ATTACHMENT_BYTES_MAX + 1,
            |file| file.sha256.0.truncate(31),
            |file| file.key.0.push(0),
            |file| file.nonce.0.clear(),
        ];
        for spoil in broken {
            let mut file = announced();
            spoil(&mut file);
            assert!(file.checked().is_none());
        }
        let file = announced().checked().unwrap();
        assert_eq!(file.text(), "authorized_keys, 5 bytes");
    }

    #[test]
    fn a_media_type_is_a_hint_and_no_text() {
        for bad in [
            "",
            "text",
            "text/\u{1b}[2J",
            "a/ b",
            &format!("a/{}", "b".repeat(300)),
        ] {
            assert_eq!(media_type(bad), ANY_MEDIA_TYPE, "{bad:?}");
        }
        assert_eq!(media_type("image/svg+xml"), "image/svg+xml");
    }

    #[test]
    fn sizes_are_told_in_words() {
        for (size, words) in [
            (0, "f, 0 bytes"),
            (1, "f, 1 byte"),
            (1023, "f, 1023 bytes"),
            (1025, "f, 2 KiB"),
            (16 << 20, "f, 16 MiB"),
        ] {
            assert_eq!(in_words("f", size), words);
        }
    }
}
