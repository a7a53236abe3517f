//! Which entry of the keychain holds the key of a profile, as a small file in the profile says.
//!
//! The key and the file cannot change in one step. While they change, the name of the entry is in a second file, the
//! proposal; whoever finds one tries its key, and so learns which of the two came before the crash.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

const NOTE: &str = "keychain-entry";
const PROPOSAL: &str = "keychain-entry.proposed";
/// Far more than the name of an entry has.
const BYTES_MAX: u64 = 256;

pub(super) struct Note {
    note: PathBuf,
    proposal: PathBuf,
}

impl Note {
    pub(super) fn of(profile: &Path) -> Self {
        Self {
            note: profile.join(NOTE),
            proposal: profile.join(PROPOSAL),
        }
    }

    /// The entry that holds the key, if the keychain does.
    pub(super) fn entry(&self) -> io::Result<Option<String>> {
        read(&self.note)
    }

    /// The entry that may hold the key, since a change was interrupted.
    pub(super) fn proposed(&self) -> io::Result<Option<String>> {
        read(&self.proposal)
    }

    /// Says durably that this entry may hold the key.
    pub(super) fn propose(&self, entry: &str) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&self.proposal)?;
        file.write_all(entry.as_bytes())?;
        file.sync_all()?;
        self.synchronise()
    }

    /// The entry that was proposed holds the key.
    pub(super) fn confirm(&self) -> io::Result<()> {
        fs::rename(&self.proposal, &self.note)?;
        self.synchronise()
    }

    /// The entry that holds the key may soon not hold it.
    pub(super) fn doubt(&self) -> io::Result<()> {
        fs::rename(&self.note, &self.proposal)?;
        self.synchronise()
    }

    /// The entry that was proposed does not hold the key.
    pub(super) fn withdraw(&self) -> io::Result<()> {
        fs::remove_file(&self.proposal)?;
        self.synchronise()
    }

    fn synchronise(&self) -> io::Result<()> {
        match self.note.parent() {
            Some(directory) if cfg!(unix) => File::open(directory)?.sync_all(),
            Some(_) | None => Ok(()),
        }
    }
}

fn read(path: &Path) -> io::Result<Option<String>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let mut entry = String::new();
    file.take(BYTES_MAX).read_to_string(&mut entry)?;
    Ok(Some(entry))
}
