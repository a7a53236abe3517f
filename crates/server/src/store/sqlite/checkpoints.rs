use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use rusqlite::Connection;

use crate::error::Fault;
use crate::store::sqlite::{CacheSize, connect};

/// Rows that change between two checkpoints: some 16 MiB of the log, of which each page goes into the database once.
const CHANGES_APART: u64 = 8192;
/// Frames of the log, pages of 4 KiB, up to which the writer waits for the rest of a checkpoint.
const REST_FRAMES_MAX: i64 = 256;
/// Checkpoints one after the other. The writer goes on meanwhile; what it writes faster than is checkpointed, it has to wait for.
const ATTEMPTS_MAX: u32 = 8;

/// A thread that brings what was committed from SQLite's write-ahead log into the database, so that nobody who writes waits for it:
/// it reads and writes pages all over the database, and has the disk store them.
///
/// The log begins anew only when all of it was brought over and nobody reads it. So the thread goes on until little is left, and
/// the writer brings over that before it goes on. It belongs to the writer.
pub(super) struct Checkpoints {
    wanted: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    /// Little is left.
    almost_done: Arc<AtomicBool>,
    /// How many rows had changed when a checkpoint was asked for last.
    asked_at: u64,
}

impl Checkpoints {
    pub(super) fn start(path: &Path) -> Result<Self, Fault> {
        let connection = connect(path, CacheSize::Reader)?;
        let (wanted, waiting) = mpsc::channel();
        let almost_done = Arc::new(AtomicBool::new(false));
        let is_almost_done = Arc::clone(&almost_done);
        let thread = std::thread::Builder::new()
            .name("larder-checkpoint".to_owned())
            .spawn(move || {
                while waiting.recv().is_ok() {
                    for _ in 0..ATTEMPTS_MAX {
                        if checkpoint(&connection).is_none_or(|rest| rest <= REST_FRAMES_MAX) {
                            break;
                        }
                    }
                    is_almost_done.store(true, Ordering::Release);
                }
            })
            .map_err(|_| Fault::Closed)?;
        Ok(Self {
            wanted: Some(wanted),
            thread: Some(thread),
            almost_done,
            asked_at: 0,
        })
    }

    /// The writer has committed, and nobody waits for it.
    pub(super) fn committed(&mut self, connection: &Connection) {
        if self.almost_done.swap(false, Ordering::Acquire) {
            checkpoint(connection);
        }
        let changes = connection.total_changes();
        if changes.saturating_sub(self.asked_at) >= CHANGES_APART {
            self.asked_at = changes;
            if let Some(wanted) = &self.wanted {
                // Without its thread, the log grows until the database is opened anew.
                let _ = wanted.send(());
            }
        }
    }
}

impl Drop for Checkpoints {
    fn drop(&mut self) {
        drop(self.wanted.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Brings over what can be without waiting for anybody. Returns how many frames are left; `None` when it failed.
fn checkpoint(connection: &Connection) -> Option<i64> {
    let rest = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| {
        Ok(row.get::<_, i64>(1)?.saturating_sub(row.get(2)?))
    });
    rest.inspect_err(|error| tracing::warn!(%error, "a checkpoint failed"))
        .ok()
}
