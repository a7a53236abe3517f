//! Whether the bytes of files still hold private keys.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::LegacyError;

/// Half of a private key. However SQLite splits one between two pages, one of these is whole in one of them.
const WINDOW_BYTES: usize = 16;
const STEP_BYTES: usize = 4;
/// Fewer different bytes than this in a window are padding, not a key.
const DISTINCT_BYTES_MIN: usize = 6;
const CHUNK_BYTES: usize = 1 << 16;

/// Pieces of the private keys that were in a file.
#[derive(Default)]
pub(super) struct Residue {
    windows: Zeroizing<Vec<[u8; WINDOW_BYTES]>>,
}

impl Residue {
    /// Looks for this key too, in the form in which it is given.
    pub(super) fn add(&mut self, key: &[u8]) {
        // Text begins with names and brackets, which are in other text too.
        let skipped = if key.is_ascii() { WINDOW_BYTES } else { 0 };
        for window in key
            .get(skipped..)
            .unwrap_or_default()
            .windows(WINDOW_BYTES)
            .step_by(STEP_BYTES)
        {
            let mut distinct = Zeroizing::new(window.to_vec());
            distinct.sort_unstable();
            distinct.dedup();
            if let (true, Ok(window)) = (distinct.len() >= DISTINCT_BYTES_MIN, window.try_into()) {
                self.windows.push(window);
            }
        }
    }

    /// Reads the database and its side files whole.
    pub(super) fn verify(&mut self, database: &Path) -> Result<(), LegacyError> {
        self.windows.sort_unstable();
        self.windows.dedup();
        if self.windows.is_empty() {
            return Ok(());
        }
        for side in ["", "-wal", "-shm", "-journal"] {
            let mut name = OsString::from(database);
            name.push(side);
            let path = PathBuf::from(name);
            let file = match File::open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error.into()),
            };
            if self.occurs_in(file)? {
                return Err(LegacyError::Residue(path));
            }
        }
        Ok(())
    }

    fn occurs_in(&self, mut file: impl Read) -> io::Result<bool> {
        // Most positions of a file are dismissed by their first two bytes.
        let mut begins = vec![false; 1 << 16];
        for window in self.windows.iter() {
            begins[first_two(window)] = true;
        }
        let mut buffer = Zeroizing::new(vec![0; CHUNK_BYTES]);
        let mut filled = 0;
        loop {
            let read = match file.read(&mut buffer[filled..]) {
                Ok(0) => return Ok(false),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            filled += read;
            let occurs = buffer[..filled].windows(WINDOW_BYTES).any(|window| {
                begins[first_two(window)]
                    && self
                        .windows
                        .binary_search_by(|piece| piece.as_slice().cmp(window))
                        .is_ok()
            });
            if occurs {
                return Ok(true);
            }
            // What may be the beginning of a window whose end comes next.
            let kept = filled.min(WINDOW_BYTES - 1);
            buffer.copy_within(filled - kept..filled, 0);
            filled = kept;
        }
    }
}

fn first_two(window: &[u8]) -> usize {
    usize::from(window[0]) << 8 | usize::from(window[1])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Vec<u8> {
        (0..32u8).map(|n| n.wrapping_mul(83).wrapping_add(5)).collect()
    }

    fn occurs(key: &[u8], haystack: &[u8]) -> bool {
        let mut residue = Residue::default();
        residue.add(key);
        residue.windows.sort_unstable();
        residue.occurs_in(haystack).unwrap()
    }

    #[test]
    fn a_key_is_found_wherever_it_lies_and_however_it_is_split() {
        let key = key();
        for before in [
            0,
            1,
            CHUNK_BYTES - 17,
            CHUNK_BYTES - 16,
            CHUNK_BYTES - 1,
            CHUNK_BYTES,
        ] {
            let haystack = [vec![0; before], key.clone(), vec![0; 100]].concat();
            assert!(occurs(&key, &haystack), "{before}");
        }
        for split in 0..key.len() {
            let haystack = [&key[..split], &[0; 8], &key[split..]].concat();
            assert!(occurs(&key, &haystack), "{split}");
        }
        let text: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(occurs(text.as_bytes(), format!("x{text}x").as_bytes()));
    }

    #[test]
    fn padding_and_the_names_around_a_key_are_not_taken_for_it() {
        assert!(!occurs(&[0; 32], &[0; 4096]));
        assert!(!occurs(&key(), &[0x5a; 4096]));
        let one = format!("{{\"vec\":{:?}}}", key());
        let other = format!("{{\"vec\":{:?}}}", key().iter().rev().collect::<Vec<_>>());
        assert!(!occurs(one.as_bytes(), other.as_bytes()));
        assert!(!occurs(b"short", b"short"));
    }
}
