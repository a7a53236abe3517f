//! Files that are sent and saved.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::Result;
use larder_client::{ATTACHMENT_BYTES_MAX, Error, GroupKey, MlsConnection, SentMessage};

use crate::failure::{Exit, Failure};

/// What is said of every file: what it is, only its receiver can tell.
const MEDIA_TYPE: &str = "application/octet-stream";

/// A file to be sent.
pub(crate) struct Outgoing {
    name: String,
    content: Vec<u8>,
}

impl Outgoing {
    /// Reads a file. No pipe and no device: they may have no end.
    pub(crate) async fn read(path: &Path) -> Result<Self> {
        let path = path.to_owned();
        tokio::task::spawn_blocking(move || read(&path)).await?
    }

    /// Leaves it to the next sync.
    pub(crate) async fn post(self, client: &MlsConnection, group: &GroupKey) -> Result<SentMessage> {
        Ok(client
            .post_file(group, &self.name, MEDIA_TYPE, self.content)
            .await?)
    }

    /// Sends it.
    pub(crate) async fn send(self, client: &MlsConnection, group: &GroupKey) -> Result<SentMessage> {
        Ok(client.attach(group, &self.name, MEDIA_TYPE, self.content).await?)
    }
}

fn read(path: &Path) -> Result<Outgoing> {
    let unreadable = |why: &dyn std::fmt::Display| {
        Failure::new(
            Exit::Usage,
            "unreadable-file",
            format!("{} cannot be read: {why}", path.display()),
        )
    };
    if !path.metadata().map_err(|error| unreadable(&error))?.is_file() {
        return Err(unreadable(&"it is not a file").into());
    }
    let mut content = Vec::new();
    File::open(path)
        .and_then(|file| file.take(ATTACHMENT_BYTES_MAX + 1).read_to_end(&mut content))
        .map_err(|error| unreadable(&error))?;
    if content.len() as u64 > ATTACHMENT_BYTES_MAX {
        let bytes_max = ATTACHMENT_BYTES_MAX;
        return Err(Error::AttachmentTooLarge { bytes_max }.into());
    }
    let name = path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    Ok(Outgoing { name, content })
}

/// Where a file is to be saved: in the directory that was named, or under the name; here, if nothing was.
pub(crate) fn destination(to: Option<&Path>) -> (PathBuf, Option<String>) {
    let here = || PathBuf::from(".");
    match to {
        None => (here(), None),
        Some(to) if to.is_dir() => (to.to_owned(), None),
        Some(to) => {
            let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty());
            let name = to.file_name().map(OsStr::to_string_lossy);
            (
                parent.map_or_else(here, Path::to_owned),
                name.map(|name| name.into_owned()),
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_is_a_directory_or_a_name_in_one() {
        let directory = tempfile::tempdir().unwrap();
        let there = directory.path();
        let name = |name: &str| Some(name.to_owned());
        assert_eq!(destination(None), (".".into(), None));
        assert_eq!(destination(Some(there)), (there.into(), None));
        assert_eq!(destination(Some(&there.join("a.b"))), (there.into(), name("a.b")));
        assert_eq!(destination(Some(Path::new("a.b"))), (".".into(), name("a.b")));
    }
}
