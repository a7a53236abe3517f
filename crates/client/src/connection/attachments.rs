use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use larder_wire::ProblemType;

use crate::connection::MlsConnection;
use crate::connection::sync::{Progress, is_final};
use crate::core::{self, Ciphertext, Closed};
use crate::error::{Error, NotTheServer};
use crate::types::{ATTACHMENT_BYTES_MAX, Attachment, GroupKey, SentMessage};

/// Names that are tried for a file: the last one is `name (999)`.
const NAMES_MAX: u32 = 999;

/// Files.
impl MlsConnection {
    /// Encrypts and sends a file, under the last component of this name, without what could be harmful in it. The media
    /// type is a hint.
    ///
    /// The file is stored here, encrypted, before anything is sent; where it came from is not needed any more. When the server
    /// cannot be reached, or asks to wait, the status is [`Pending`](crate::SendStatus::Pending) and the next
    /// [`sync`](Self::sync) goes on. Other messages do not wait for it. Once the server has the file it is erased here.
    ///
    /// # Errors
    /// [`Error::AttachmentTooLarge`], [`Error::NoAttachments`], [`Error::UnknownGroup`], [`Error::GroupNotActive`],
    /// [`Error::NotAccepted`]; [`Error::VerificationChanged`], when a verified member has other keys;
    /// [`Error::Refused`], and the message has [failed](crate::SendStatus::Failed): [`retry`](Self::retry) tries again.
    pub async fn attach(
        &self,
        group: &GroupKey,
        name: &str,
        media_type: &str,
        content: Vec<u8>,
    ) -> Result<SentMessage, Error> {
        let _operation = self.0.operation.lock().await;
        let limit = self.size_limit().await;
        let bytes_max = limit.as_ref().map_or(u64::MAX, |bytes_max| *bytes_max);
        let (mut sent, row) = self
            .keep_file(group, name, media_type, content, bytes_max)
            .await?;
        // Who has just given no answer is not asked for a longer one.
        let uploaded = match limit {
            Ok(_) => self.upload(row).await,
            Err(error) => Err(error),
        };
        match uploaded {
            Ok(Some(queued)) => self.settle_message(sent, queued?).await,
            Ok(None) => Ok(sent),
            Err(error) if was_refused_for_good(&error) || !error.leaves_waiting() => Err(error),
            Err(error) => {
                sent.because = Some(Arc::new(error));
                Ok(sent)
            }
        }
    }

    /// Puts a file into the history, as [`attach`](Self::attach) does, and leaves the sending to the next
    /// [`sync`](Self::sync).
    ///
    /// # Errors
    /// [`Error::AttachmentTooLarge`], [`Error::UnknownGroup`], [`Error::GroupNotActive`].
    pub async fn post_file(
        &self,
        group: &GroupKey,
        name: &str,
        media_type: &str,
        content: Vec<u8>,
    ) -> Result<SentMessage, Error> {
        let kept = self.keep_file(group, name, media_type, content, u64::MAX);
        kept.await.map(|(sent, _)| sent)
    }

    /// Encrypts a file and stores it here, if it is no larger than a server takes. Returns its row, too.
    async fn keep_file(
        &self,
        group: &GroupKey,
        name: &str,
        media_type: &str,
        content: Vec<u8>,
        bytes_max: u64,
    ) -> Result<(SentMessage, i64), Error> {
        check_size(content.len() as u64, bytes_max)?;
        let (group, name, media_type) = (group.clone(), name.to_owned(), media_type.to_owned());
        self.0
            .core
            .write(move |tx, context| core::attach(tx, context, &group, (&name, &media_type), content))
            .await
    }

    /// How large a file may be once it is encrypted, as the server says now, in bytes.
    async fn size_limit(&self) -> Result<u64, Error> {
        Ok(self.0.transport.info().await?.limits.blob_bytes_max)
    }

    /// Stores the file of a row at the server, and puts its message into the outbox. Returns its row there;
    /// `None` when there is nothing to be stored. A message whose file is refused for good has failed;
    /// otherwise it waits.
    async fn upload(&self, row: i64) -> Result<Option<Result<i64, Closed>>, Error> {
        let uploaded = self.try_upload(row).await;
        if let Err(error) = &uploaded
            && was_refused_for_good(error)
        {
            let core = &self.0.core;
            core.write(move |tx, _| core::upload_failed(tx, row)).await?;
        }
        uploaded
    }

    async fn try_upload(&self, row: i64) -> Result<Option<Result<i64, Closed>>, Error> {
        let transport = &self.0.transport;
        let core = &self.0.core;
        if let Some(closed) = core.write(move |tx, _| core::upload_closed(tx, row)).await? {
            return Ok(Some(Err(closed)));
        }
        let claimed = transport.claim(move |tx, _| core::upload(tx, row)).await?;
        let Some((claim, upload)) = claimed else {
            return Ok(None);
        };
        let stored = transport
            .store_blob(claim, &upload.idempotency_key, upload.ciphertext)
            .await?;
        self.0
            .core
            .write(move |tx, context| core::uploaded(tx, context, row, &stored))
            .await
    }

    /// Goes on with files that wait to be uploaded. Whether there is something to be sent now.
    pub(super) async fn upload_due(&self, progress: &mut Progress) -> Result<bool, Error> {
        let mut any = false;
        for row in self.0.core.write(|tx, _| core::due_uploads(tx)).await? {
            let failed = match self.upload(row).await {
                Ok(Some(Ok(_))) => {
                    any = true;
                    continue;
                }
                Ok(None) => continue,
                Ok(Some(Err(closed))) => Error::from(closed),
                Err(error) if was_refused_for_good(&error) => error,
                // The others would have to wait as long.
                Err(error) if error.leaves_waiting() => {
                    tracing::info!(code = error.code(), "files wait to be uploaded");
                    break;
                }
                Err(other) => return Err(other),
            };
            // The history says so.
            tracing::warn!(code = failed.code(), "a file was not sent");
            progress.files_not_sent.push((row, failed));
        }
        Ok(any)
    }

    /// The file of a message; `None` for one that has none.
    ///
    /// # Errors
    /// [`Error::Store`] and its like.
    pub async fn attachment(&self, row: i64) -> Result<Option<Attachment>, Error> {
        self.0
            .core
            .write(move |tx, context| core::attachment(tx, context, row))
            .await
    }

    /// Fetches the file of a message and stores it in this directory, readable to this user alone. Returns where. Its name is
    /// the one given or the sender's: the last component of it, without what could be harmful. A file that is there is not
    /// touched; this one gets a number then. Nothing is written before all of it has come and is what the sender sent.
    ///
    /// # Errors
    /// [`Error::UnknownAttachment`], [`Error::AttachmentGone`], [`Error::AttachmentDamaged`]; [`Error::File`] when it cannot be
    /// written; [`Error::Unreachable`], [`Error::Refused`].
    pub async fn save_attachment(
        &self,
        row: i64,
        directory: &Path,
        name: Option<&str>,
    ) -> Result<PathBuf, Error> {
        let core = &self.0.core;
        let ciphertext = match core.write(move |tx, _| core::ciphertext(tx, row)).await? {
            Ciphertext::Here(ciphertext) => ciphertext,
            Ciphertext::There { blob, bytes } => match self.0.transport.fetch_blob(&blob, bytes).await {
                Ok(ciphertext) => ciphertext,
                Err(Error::Refused(problem)) if problem.problem_type == ProblemType::NotFound => {
                    return Err(Error::AttachmentGone);
                }
                // More than it can be.
                Err(Error::NotTheServer(NotTheServer::TooMuch)) => {
                    return Err(Error::AttachmentDamaged);
                }
                Err(other) => return Err(other),
            },
        };
        let (sent_as, content) = core
            .write(move |tx, _| core::opened(tx, row, &ciphertext))
            .await?;
        let name = core::file_name(name.unwrap_or(&sent_as));
        let directory = directory.to_owned();
        tokio::task::spawn_blocking(move || save(&directory, &name, &content))
            .await
            .map_err(|_| Error::Closed)?
            .map_err(Error::File)
    }
}

/// Whether the server will never take this.
fn was_refused_for_good(error: &Error) -> bool {
    matches!(error, Error::Refused(problem) if is_final(problem.problem_type))
}

/// Fails for a file that is larger than can be held here, or than a server takes that takes so much.
fn check_size(size: u64, bytes_max: u64) -> Result<(), Error> {
    if bytes_max == 0 {
        return Err(Error::NoAttachments);
    }
    if size > ATTACHMENT_BYTES_MAX || core::stored_bytes(size) > bytes_max {
        return Err(Error::AttachmentTooLarge {
            bytes_max: bytes_max.min(ATTACHMENT_BYTES_MAX),
        });
    }
    Ok(())
}

/// Writes a file beside its final name, and gives it that name only if nobody has it.
fn save(directory: &Path, name: &str, content: &[u8]) -> io::Result<PathBuf> {
    let mut file = tempfile::Builder::new()
        .prefix(".larder-")
        .tempfile_in(directory)?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    for number in 1..=NAMES_MAX {
        let path = directory.join(match number {
            1 => name.to_owned(),
            number => core::numbered(name, number),
        });
        match file.persist_noclobber(&path) {
            Ok(_) => return Ok(path),
            Err(taken) if taken.error.kind() == io::ErrorKind::AlreadyExists => file = taken.file,
            Err(failed) => return Err(failed.error),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}
